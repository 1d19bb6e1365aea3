"""The key of pseudonyms, tokens and shifted days, and the settings that need it."""

import json
import os
import stat

import pytest

from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.privacy.conceal import told_command, told_config
from cohortex.privacy.keys import SHIFT_DAYS, check_of, derived, pseudonyms, read_key, shift_days, word

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SECRET = "ZZPHI9"


def test_the_same_key_and_id_give_the_same_pseudonym_in_whatever_cohort_and_another_key_another():
    few, many = pseudonyms(KEY, ["001", "1"]), pseudonyms(KEY, [*map(str, range(500)), "001"])
    assert few["001"] == many["001"]
    assert few["1"] == many["1"] != few["001"]
    assert pseudonyms(OTHER, ["001"])["001"] != few["001"]
    assert all(len(name) == 11 and name.isalnum() and name == name.lower() for name in many.values())
    assert len(set(many.values())) == 501


def test_two_subjects_with_one_pseudonym_are_refused_naming_neither():
    with pytest.raises(Refused) as caught:
        pseudonyms(KEY, [f"{SECRET}{i}" for i in range(40)], letters=1)
    assert "privacy.key" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_each_use_has_a_key_of_its_own():
    assert len({derived(KEY, use) for use in ("ids", "names", "dates", "check", "words a", "words r")}) == 6
    assert word(KEY, "a", "fast") != "r" + word(KEY, "r", "fast")[1:]
    assert word(KEY, "a", "") == ""
    assert KEY.hex() not in check_of(KEY)


def test_a_key_that_is_not_there_is_made_for_the_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        key = read_key(tmp_path / "new" / "key", made_before=False)
    finally:
        os.umask(old)
    assert len(key) == 32
    assert stat.S_IMODE((tmp_path / "new" / "key").stat().st_mode) == 0o600
    assert read_key(tmp_path / "new" / "key", made_before=True) == key
    assert read_key(tmp_path / "other", made_before=False) != key


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.write_text("ab" * 31), "64 hexadecimal digits"),
        (lambda path: path.write_text("zz" * 32), "64 hexadecimal digits"),
        (lambda path: path.write_text(""), "64 hexadecimal digits"),
        (lambda path: path.write_bytes(bytes(range(128, 160))), "64 hexadecimal digits"),
        (lambda path: path.unlink(), "put it back"),
        (lambda path: (path.unlink(), path.mkdir()), "no plain file"),
        (lambda path: (path.rename(path.with_name("there")), path.symlink_to("there")), "no plain file"),
    ],
)
def test_a_wrong_key_is_refused_naming_the_key_and_what_to_do(tmp_path, spoil, words):
    path = tmp_path / SECRET
    path.touch(0o600)
    path.write_text("ab" * 32)
    assert read_key(path, True)
    spoil(path)
    with pytest.raises(Refused) as caught:
        read_key(path, made_before=True)
    assert "privacy.key" in str(caught.value)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "abab" not in str(caught.value)


def test_shifts_are_of_one_to_365_days_each_as_likely_back_and_forth():
    found = [shift_days(KEY, str(i)) for i in range(20000)]
    assert 0 not in found
    assert (min(found), max(found)) == (-SHIFT_DAYS, SHIFT_DAYS)
    assert len(set(found)) == 2 * SHIFT_DAYS
    assert abs(sum(found)) / len(found) < 6
    assert shift_days(KEY, "1") == found[1] != shift_days(OTHER, "1")


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ids": "pseudonyms"}, "privacy.key is null"),
        ({"file_names": "hide"}, "privacy.key is null"),
        ({"dates": "shifted"}, "privacy.key is null"),
        ({"ids": "pseudonyms", "key": "~/key"}, "begins with ~"),
        ({"ids": "pseudonyms", "key": "work/key"}, "inside work"),
        ({"ids": "pseudonyms", "key": "output/key"}, "inside output"),
        ({"ids": "pseudonyms", "key": "input/a/key"}, "inside input"),
        ({"ids": "pseudonym"}, "privacy.ids"),
        ({"names": "hide"}, "privacy.names"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(tmp_path, settings, words):
    for name in ("work", "output", "input"):
        (tmp_path / name).mkdir()
    if "/" in str(settings.get("key", "")) and "~" not in settings["key"]:
        settings = {**settings, "key": str(tmp_path / settings["key"])}
    with pytest.raises(Refused) as caught:
        check_config({**{name: str(tmp_path / name) for name in ("work", "output", "input")}, "privacy": settings})
    assert words in str(caught.value)


@pytest.mark.parametrize("privacy", [{"ids": "pseudonyms"}, {"file_names": "hide"}])
def test_identifiers_of_the_source_do_not_go_with_what_is_hidden(tmp_path, privacy):
    given = {"input": "a", "privacy": {**privacy, "key": str(tmp_path / "key")}, "export": {"CT": {"dicom_uids": "source"}}}
    with pytest.raises(Refused, match="dicom_uids is source"):
        check_config(given)
    assert check_config({**given, "export": {"CT": {"dicom_uids": "derived"}}})


def test_the_demo_has_no_patients(tmp_path):
    with pytest.raises(Refused, match="demo has none"):
        check_config({"input": "demo", "privacy": {"ids": "pseudonyms", "key": str(tmp_path / "key")}})
    assert check_config({"input": "demo", "privacy": {"dates": "given"}})["privacy"]["key"] is None


def test_what_is_written_of_a_configuration_and_a_command_names_no_input(tmp_path):
    given = {"input": f"/data/{SECRET}/a.tsv", "labels": f"/{SECRET}.tsv", "only": {"subject": [SECRET]}, "select": {"acq": [SECRET]}}
    config = check_config({**given, "privacy": {"ids": "pseudonyms", "key": f"/nowhere/{SECRET}"}})
    told = told_config(config)
    assert SECRET not in json.dumps(told)
    assert check_config(told)["stages"] == config["stages"]
    command = ["snakemake", "--profile", "local", f"--configfile={SECRET}.yaml", "--config", f"input={SECRET}"]
    assert told_command(command, config) == ["snakemake", "--profile", "--configfile", "--config"]
    open_config = check_config(given)
    assert told_config(open_config) == open_config
    assert told_command(command, open_config) == command
