"""Pseudonyms, tokens and shifted days: what follows from the key, what is refused, what the tables of a cohort hold."""

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cohortex.cohort import batch_sizes
from cohortex.errors import BadInput, Refused
from cohortex.io.paths import hide_names, shown_file, shown_inside, shown_name, token
from cohortex.items import Image
from cohortex.job import Job
from cohortex.privacy.conceal import true_rows
from cohortex.privacy.days import day_of, told_day
from cohortex.privacy.keys import read_key
from cohortex.privacy.lookup import look_up
from cohortex.run import sentence_of
from cohortex.stage import known_of
from cohortex.tables import natural, read_table
from tests.cohorts import HEADER, bids, table, touch

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SECRET = "ZZPHI9"


@pytest.fixture(autouse=True)
def _shown_again():
    yield
    hide_names(None)


@pytest.fixture
def hidden(make, tmp_path):
    """Make a cohort under pseudonyms and give its rows, by image."""

    def run(source, ids="pseudonyms", key="key", only=None, select=None, **privacy):
        further = {"only": only or {}, "select": {"suffix": ["T1w", "FLAIR"], **(select or {})}, "batch_size": 2}
        return make(source, privacy={"ids": ids, "key": str(tmp_path / "keys" / key), **privacy}, **further)

    return run


# --- the cohort ----------------------------------------------------------------------------------------------------


def everything(folder: Path, *without: str) -> str:
    files = [path for path in folder.rglob("*") if path.is_file() and not set(path.relative_to(folder).parts) & set(without)]
    return "\n".join(f"{path} {path.read_text()}" for path in files)


def test_a_cohort_under_pseudonyms_holds_no_given_id_or_path_outside_the_private_folder(hidden, tmp_path, capsys):
    data = bids(tmp_path / SECRET, [f"{SECRET}a", f"{SECRET}b", f"{SECRET}c"])
    touch(data / f"sub-{SECRET}a/ses-{SECRET}/anat/sub-{SECRET}a_ses-{SECRET}_acq-{SECRET}_run-{SECRET}_T1w.nii.gz")
    touch(data / f"sub-{SECRET}a/anat/sub-{SECRET}a_{SECRET}.nii.gz")
    rows = hidden(data)
    assert SECRET not in everything(tmp_path / "work", "private").replace(str(tmp_path), "")
    assert SECRET not in capsys.readouterr().err
    assert len(rows) == 4
    row = next(row for row in rows.values() if row["session"])
    assert (row["session"], row["acq"][0], row["run"][0], row["root"]) == ("01", "a", "r", "")
    assert row["image"] == f"{row['subject']}_01_{row['acq']}_{row['run']}_T1w"
    found = {row["image"]: row for row in true_rows(tmp_path / "work", row["batch"], [row])}[row["image"]]
    assert found["path"].startswith(str(data))
    assert found["shown"] == row["path"]


def test_without_privacy_nothing_private_is_left_and_the_tables_are_as_they_were(make, tmp_path):
    make(bids(tmp_path / "data", ["1"]))
    assert not (tmp_path / "work" / "private").exists()
    assert not (tmp_path / "results").exists()
    assert "privacy" not in json.loads((tmp_path / "work" / "cohort" / "index.json").read_text())
    assert list(read_table(tmp_path / "work" / "cohort" / "cohort.tsv")[0])[-1] == "root"


def test_pseudonyms_stay_when_the_cohort_grows_and_batches_tell_nothing_of_the_order_of_ids(hidden, tmp_path):
    data = bids(tmp_path / "data", ["05", "06", "07"])
    before = hidden(data)
    after = hidden(bids(data, ["01", "99"]))
    assert set(before) < set(after)
    assert all(after[name] == row for name, row in before.items())
    new = {row["batch"] for name, row in after.items() if name not in before}
    assert not new & {row["batch"] for row in before.values()}
    names = [row["subject"] for row in before.values()]
    assert names == sorted(names)


def test_sessions_are_numbered_in_their_natural_order_and_keep_their_numbers(hidden, tmp_path):
    data = tmp_path / "data"
    for session in ("10", "2"):
        touch(data / f"sub-1/ses-{session}/anat/sub-1_ses-{session}_T1w.nii.gz")

    def numbers() -> dict[str, str]:
        return {row["given"]: row["told"] for row in read_table(tmp_path / "work/private/ids.tsv") if row["kind"] == "session"}

    hidden(data)
    assert numbers() == {"2": "01", "10": "02"}
    touch(data / "sub-1/ses-3/anat/sub-1_ses-3_T1w.nii.gz")
    hidden(data)
    assert numbers() == {"2": "01", "10": "02", "3": "03"}
    assert sorted(["m12", "m3", "10", "2"], key=natural) == ["2", "10", "m3", "m12"]


def test_select_and_only_take_given_ids_and_pseudonyms(hidden, tmp_path, capsys):
    data = bids(tmp_path / "data", ["01", "02", "03", "04"])
    names = {row["given"]: row["told"] for row in (hidden(data), read_table(tmp_path / "work/private/ids.tsv"))[1]}
    index = tmp_path / "work" / "cohort" / "index.json"
    for called in ("02", names["02"]):
        hidden(data, only={"subject": [called]})
        batch = next(row["batch"] for row in read_table(index.with_name("cohort.tsv")) if row["subject"] == names["02"])
        assert json.loads(index.read_text())["only"] == [batch]
        assert {row["subject"] for row in hidden(data, select={"subject": [called, "03"]}).values()} == {names["02"], names["03"]}
    for wrong in ({"only": {"subject": [SECRET]}}, {"select": {"subject": [SECRET]}}):
        with pytest.raises(Refused) as caught:
            hidden(data, **wrong)
        assert SECRET not in str(caught.value)
    assert SECRET not in capsys.readouterr().err


def test_another_key_other_settings_or_a_lost_key_are_refused_in_a_folder_that_was_used(hidden, tmp_path):
    data = bids(tmp_path / "data", ["01"])
    hidden(data)
    read_key(tmp_path / "keys" / "another", made_before=False)
    with pytest.raises(Refused, match="not the key of the runs before on this work folder"):
        hidden(data, key="another")
    with pytest.raises(Refused, match="ids: pseudonyms and file_names: hide"):
        hidden(data, ids="given")
    (tmp_path / "keys" / "key").unlink()
    with pytest.raises(Refused, match="put it back"):
        hidden(data)


def test_pseudonyms_do_not_begin_beside_what_was_made_under_given_ids(make, hidden, tmp_path):
    data = bids(tmp_path / "data", ["01"])
    make(data)
    with pytest.raises(Refused, match="ids: given and file_names: show"):
        hidden(data)
    assert not (tmp_path / "keys").exists()
    touch(tmp_path / "results" / ".cohortex" / "subjects" / "01.json", b"{}")
    for path in (tmp_path / "work" / "cohort").glob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Refused, match="this output folder were with ids: given"):
        hidden(data)


def test_another_work_folder_with_the_same_output_needs_the_same_key(hidden, make, tmp_path):
    data = bids(tmp_path / "data", ["01"])
    hidden(data)
    read_key(tmp_path / "keys" / "another", made_before=False)
    with pytest.raises(Refused, match="this output folder"):
        make(data, work=str(tmp_path / "other"), privacy={"ids": "pseudonyms", "key": str(tmp_path / "keys" / "another")})


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}{SECRET} Jane\tT1w\ta.nii\n",
        f"{HEADER}01\t{SECRET}\ta.nii\n",
        f"{HEADER}{SECRET}\tT1w\ta.nii\n{SECRET}\tT1w\tb.nii\n",
        f"{HEADER}{SECRET}\tT1w\n",
        f"subject\tmodality\tpath\trole\n{SECRET}\tT1w\ta\t{SECRET}\n",
        f"subject\tmodality\tpath\t{SECRET}\t{SECRET}\n",
        f"subject\tmodality\tpath\tsplit\n{SECRET}\tT1w\ta\ttrain\n{SECRET}\tFLAIR\tb\ttest\n",
        f"{HEADER}a{SECRET}\tT1w\ta.nii\nA{SECRET}\tT1w\tb.nii\n",
        f"{HEADER}",
        f"subject\tpath\n{SECRET}\ta\n",
    ],
)
def test_a_wrong_table_is_refused_without_a_word_of_it(hidden, tmp_path, text, capsys):
    with pytest.raises(Refused) as caught:
        hidden(table(tmp_path, text, f"{SECRET}.tsv"))
    assert SECRET not in str(caught.value)
    assert SECRET not in capsys.readouterr().err
    assert "file-" in str(caught.value) or "ubject" in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        [f"sub-{SECRET} Jane/anat/sub-1_T1w.nii"],
        [f"sub-{SECRET}/anat/sub-{SECRET}x_T1w.nii"],
        [f"sub-{SECRET}/anat/sub-{SECRET}_T1w.nii", f"sub-{SECRET}/anat/sub-{SECRET}_T1w.nii.gz"],
        [f"{SECRET} Jane/CT/1.dcm", f"{SECRET}Jane/CT/1.dcm"],
        [f"{SECRET}/scan.nii"],
        [f"sub-1/anat/sub-1_{SECRET}.nii"],
    ],
)
def test_a_wrong_folder_is_refused_without_a_name(hidden, tmp_path, names):
    for name in names:
        touch(tmp_path / SECRET / name)
    with pytest.raises(Refused) as caught:
        hidden(tmp_path / SECRET)
    assert SECRET not in str(caught.value)


def test_a_dicom_tree_becomes_pseudonyms_and_its_folders_words(hidden, tmp_path):
    for folder in (f"{SECRET} John/{SECRET} head/CT", f"{SECRET} John/{SECRET} chest/CT", f"{SECRET}Jane/{SECRET}"):
        touch(tmp_path / SECRET / folder / f"{SECRET}.dcm")
    rows = hidden(tmp_path / SECRET)
    assert len({row["subject"] for row in rows.values()}) == 2
    assert len({row["acq"] for row in rows.values()}) == 3
    assert SECRET not in everything(tmp_path / "work", "private").replace(str(tmp_path), "")


def test_names_alone_may_be_hidden_and_ids_stay(hidden, tmp_path):
    row = hidden(bids(tmp_path / "data", ["01"]), ids="given", file_names="hide")["01_T1w"]
    assert row["subject"] == "01"
    assert row["path"].startswith("file-")
    assert not (tmp_path / "work" / "private" / "ids.tsv").exists()
    known = dict(look_up(tmp_path / "work"))
    assert known == {row["path"]: str(tmp_path / "data/sub-01/anat/sub-01_T1w.nii.gz")}


def test_columns_that_no_setting_names_stay_behind(hidden, tmp_path):
    text = "subject\tmodality\tpath\tdiagnosis\tname\tage\n01\tT1w\ta\twell\tJane\t40\n"
    hidden(table(tmp_path, text), columns=["age"])
    (person,) = read_table(tmp_path / "work" / "cohort" / "participants.tsv")
    assert (set(person), person["age"]) == ({"subject", "age"}, "40")


def test_a_private_table_that_is_gone_ends_the_job_and_sets_no_image_aside(hidden, tmp_path):
    row = hidden(bids(tmp_path / "data", ["01"]))
    (row,) = row.values()
    (tmp_path / "work" / "private" / "batches" / f"{row['batch']}.tsv").unlink()
    with pytest.raises(Refused, match="start the run again"):
        true_rows(tmp_path / "work", row["batch"], [row])
    # the next run makes it again, and everything else is as it was
    assert hidden(tmp_path / "data") == {row["image"]: row}
    assert true_rows(tmp_path / "work", row["batch"], [row])[0]["root"] == str(tmp_path / "data")


def test_the_largest_image_of_a_batch_is_found_although_its_path_is_hidden(hidden, tmp_path):
    from cohortex.machine import _largest
    from cohortex.resources import load_of_tables

    data = bids(tmp_path / "data", ["01", "02"])
    large = data / "sub-02/anat/sub-02_T1w.nii.gz"
    large.write_bytes(b"x" * 2_000_000)
    rows = hidden(data)
    name = next(row["told"] for row in read_table(tmp_path / "work/private/ids.tsv") if row["given"] == "02")
    assert len(rows) == 2
    sizes = batch_sizes(tmp_path / "work")
    told = _largest({"work": str(tmp_path / "work")}, "b00001", load_of_tables([sizes["b00001"]]))
    assert told.startswith(f"{name}_T1w (8 MB")


# --- names ---------------------------------------------------------------------------------------------------------


def test_a_token_keeps_a_known_ending_and_follows_the_place_in_the_dataset():
    one = token(KEY, "/a/b/Jane.nii.gz", "/a")
    assert one == token(KEY, "/moved/b/Jane.nii.gz", "/moved")
    assert one != token(KEY, "/a/c/Jane.nii.gz", "/a") != token(OTHER, "/a/b/Jane.nii.gz", "/a")
    assert one.startswith("file-")
    assert one.endswith(".nii.gz")
    assert "." not in token(KEY, "/a/scan.Jane", "/a")


def test_messages_name_files_by_tokens_while_names_are_hidden():
    path, folder = Path("/data/Jane/a.dcm"), Path("/data/Jane")
    assert (shown_name(path, Path("/data")), shown_inside(path, folder), shown_file(path)) == ("Jane/a.dcm", "a.dcm", "a.dcm")
    hide_names(KEY, "/data")
    shown = {shown_name(path), shown_name(path, Path("/data")), shown_inside(path, folder), shown_file(path)}
    assert shown == {token(KEY, "/data/Jane/a.dcm", "/data")}


def test_what_the_system_refuses_in_a_dataset_is_named_by_a_token_and_elsewhere_as_it_is():
    def sentence(path: str) -> str:
        return sentence_of(PermissionError(13, "Permission denied", path), "/work")

    assert sentence(f"/data/{SECRET}").startswith(f"/data/{SECRET} cannot be used (Permission denied)")
    hide_names(KEY, "/data")
    for path in (f"/data/{SECRET}", "/data"):
        assert sentence(path).startswith("file-")
    assert sentence("/database/a").startswith("/database/a cannot be used")


def test_the_key_of_a_result_does_not_rest_on_a_path_that_could_be_guessed(hidden, tmp_path):
    (row,) = hidden(bids(tmp_path / "data", [SECRET])).values()
    (true,) = true_rows(tmp_path / "work", row["batch"], [row])
    image = Image(row["image"], row["subject"], "", "T1w", "image", row=true)
    known = known_of(cast("Job", SimpleNamespace(before=None)), image)
    assert known["path"] == row["path"]
    assert SECRET not in json.dumps(known)


def test_boxes_that_are_wrong_are_refused_without_a_word_of_them(tmp_path):
    import numpy as np

    from cohortex.io.boxes import read_boxes

    hide_names(KEY, tmp_path)
    columns = "label\tx_low\ty_low\tz_low\tx_high\ty_high\tz_high"
    for text in (f"{columns}\na\t{SECRET}\t1\t1\t2\t2\t2\n", f"{columns}\n{SECRET}\n", f"label\t{SECRET}\n"):
        path = table(tmp_path, text, f"{SECRET}.tsv")
        with pytest.raises(BadInput) as caught:
            read_boxes(path, (9, 9, 9), np.eye(4), shown_name(path))
        assert SECRET not in caught.value.sentence
        assert "file-" in caught.value.sentence


def test_a_detached_file_is_named_by_its_own_token(tmp_path):
    from cohortex.io.metaimage import read_metaimage

    header = "NDims = 3\nBinaryData = True\nDimSize = 9 9 9\nElementType = MET_SHORT\nElementSpacing = 1 1 1\nOffset = 0 0 0\n"
    path = tmp_path / f"{SECRET}.mhd"
    path.write_text(f"{header}TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = {SECRET}.raw\n")
    hide_names(KEY, tmp_path)
    with pytest.raises(BadInput) as caught:
        read_metaimage(path)
    assert caught.value.sentence.startswith(token(KEY, str(path.with_suffix(".raw")), str(tmp_path)))


# --- days ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20240229", date(2024, 2, 29)),
        ("2024-02-29", date(2024, 2, 29)),
        ("2024-02-29T10:11:12.5", date(2024, 2, 29)),
        ("1900-01-01", date(1900, 1, 1)),
        *(
            (text, None)
            for text in ("", "n/a", "20230229", "2024-0229", "1899-12-31", "00000000", "99991231", "1066-10-14", "2024", "٢٠٢٤٠٢٢٩")
        ),
        *((text, None) for text in ("2024.03.01", "01/03/2024", "2024-03-01x", SECRET, "20240301, 20240302")),
    ],
)
def test_a_day_is_read_or_is_none(text, day):
    assert day_of(text) == day
    assert told_day(text, 0) == (day.isoformat() if day else "")
    assert SECRET not in told_day(text, 3)


def test_days_of_tables_are_shifted_by_subject_and_intervals_stay(hidden, make, tmp_path):
    text = "subject\tsession\tmodality\tpath\tdate\n01\ta\tT1w\ta\t2024-02-20\n01\tb\tT1w\tb\t20240310\n02\t\tT1w\tc\t2024-02-20\n"
    rows = [*hidden(table(tmp_path, text), dates="shifted").values()]
    days = sorted(date.fromisoformat(row["date"]) for row in rows if row["session"])
    assert (days[1] - days[0]).days == 19
    (other,) = (date.fromisoformat(row["date"]) for row in rows if not row["session"])
    assert other != days[0]
    assert date(2024, 2, 20) not in (*days, other)
    assert "2024-02-20" not in everything(tmp_path / "work")
    assert "date" not in read_table(tmp_path / "work" / "cohort" / "participants.tsv")[0]


def test_days_of_a_bids_dataset_come_from_scans_tsv_and_a_wrong_one_is_empty(make, tmp_path):
    data = bids(tmp_path / "data", ["01", "02", "03"])
    touch(data / "sub-01/sub-01_scans.tsv", b"filename\tacq_time\nanat/sub-01_T1w.nii.gz\t2024-03-01T10:00:00\n")
    touch(data / "sub-02/sub-02_scans.tsv", b"filename\tacq_time\nanat/sub-02_T1w.nii.gz\tyesterday\n")
    touch(data / "sub-03/sub-03_scans.tsv", b"\xff\xfe no table")
    rows = make(data, privacy={"dates": "given"})
    assert [rows[f"0{i}_T1w"]["date"] for i in (1, 2, 3)] == ["2024-03-01", "", ""]
    assert "date" not in make(data)["01_T1w"]


def test_days_that_no_scans_tsv_says_come_from_the_sessions_tsv_of_the_subject(make, tmp_path):
    data = tmp_path / "data"
    touch(data / "dataset_description.json", b"{}")
    for session in ("a", "b", "c"):
        touch(data / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_T1w.nii.gz", b"x")
    touch(data / "sub-01/sub-01_sessions.tsv", b"session_id\tacq_time\nses-a\t2024-03-01T10:00:00\nses-b\t2024-04-01\nses-c\tn/a\n")
    scans = b"filename\tacq_time\nanat/sub-01_ses-b_T1w.nii.gz\t2024-04-02\n"
    touch(data / "sub-01/ses-b/sub-01_ses-b_scans.tsv", scans)
    rows = make(data, privacy={"dates": "given"})
    assert [rows[f"01_{name}_T1w"]["date"] for name in "abc"] == ["2024-03-01", "2024-04-02", ""]


def test_without_days_a_column_date_is_what_it_was(make, tmp_path):
    make(table(tmp_path, "subject\tmodality\tpath\tdate\n01\tT1w\ta\t2024-02-20\n"))
    assert read_table(tmp_path / "work" / "cohort" / "participants.tsv")[0]["date"] == "2024-02-20"


def test_words_of_a_files_own_header_are_not_told_while_names_are_hidden(tmp_path):
    from cohortex.io import read

    path = tmp_path / "a.ome.zarr"
    axes = [{"name": name, "type": "space", "unit": SECRET} for name in "zyx"]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": SECRET, "coordinateTransformations": scale}]}
    touch(path / ".zattrs", json.dumps({"multiscales": [image]}).encode())
    touch(path / ".zgroup", b'{"zarr_format": 2}')
    array = {"zarr_format": 2, "shape": [8, 8, 8], "chunks": [8, 8, 8], "dtype": "<u2", "order": "C", "fill_value": 0, "filters": None}
    touch(path / SECRET / ".zarray", json.dumps({**array, "compressor": {"id": SECRET}}).encode())

    def sentence() -> str:
        with pytest.raises(BadInput) as caught:
            read(path)[0].array()
        return caught.value.sentence

    assert SECRET in sentence()
    hide_names(KEY, tmp_path)
    said = [sentence()]
    touch(path / SECRET / ".zarray", json.dumps({**array, "compressor": None}).encode())
    said.append(sentence())
    for axis in axes:
        axis["unit"] = "micrometer"
    touch(path / ".zattrs", json.dumps({"multiscales": [image]}).encode())
    said.append(sentence())
    assert [SECRET in each for each in said] == [False] * 3
    assert ["codec" in said[0], "unit of length" in said[1], "chunk" in said[2]] == [True] * 3, said
