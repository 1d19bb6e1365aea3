"""Clocks that do not agree: this host and the file system, and inputs of a job from the future."""

import os
import socket
import time
from pathlib import Path

import pytest
import yaml

from cohortex import clocks
from cohortex.cohort import make_cohort
from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.run import preflight
from tests.workflow import write_cohort

HOST = socket.gethostname()


@pytest.fixture
def config(tmp_path, root):
    """The configuration of a cohort of two subjects whose tables are made."""
    whole = yaml.safe_load((root / "config.yaml").read_text())
    whole |= {"input": str(write_cohort(tmp_path / "data", ["1", "2"])), "output": str(tmp_path / "results")}
    whole = check_config(whole | {"work": str(tmp_path / "work"), "batch_size": 1})
    make_cohort(whole)
    return whole


def shifted(monkeypatch, seconds):
    """Let the clock of this process be so many seconds ahead; that of the file system is the kernel's."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


def stamped(path, ahead):
    path.write_text("")
    os.utime(path, (time.time() + ahead,) * 2)
    return path


# --- before a run -----------------------------------------------------------------------------------------------


def test_a_time_stamp_in_the_future_is_refused_naming_the_file_and_what_to_do(config, root):
    table = Path(config["work"]) / "cohort" / "batches" / "b00002.tsv"
    os.utime(table, (time.time() + 7300, time.time() + 7300))
    with pytest.raises(Refused) as caught:
        preflight(config, str(root))
    for word in ("b00002.tsv", "in the future", "2 hours ahead", "touch the file", "clocks"):
        assert word in str(caught.value)
    os.utime(table)
    preflight(config, str(root))


def test_what_a_run_before_left_in_the_future_is_found_too_and_rounding_is_not(config, tmp_path):
    stamp = Path(config["work"]) / "denoise" / "b00001" / ".snakemake_timestamp"
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    os.utime(stamp, (time.time() + 10**6, time.time() + 10**6))
    files = list(clocks.read_by_jobs(config, ["zoo/denoise/low_dose"], ["b00001"]))
    assert Path("zoo/denoise/low_dose") in files
    with pytest.raises(Refused, match=r"denoise/b00001/.snakemake_timestamp has .* 12 days ahead"):
        clocks.check_stamps(files, tmp_path)
    os.utime(stamp, (time.time() + 0.5, time.time() + 0.5))
    clocks.check_stamps(files, tmp_path)


def test_the_host_is_blamed_and_not_the_files_when_its_own_clock_is_behind(config, root, monkeypatch, capsys):
    shifted(monkeypatch, -40)
    preflight(config, str(root))
    said = capsys.readouterr().err
    assert f"the clock of host {HOST} is 40 seconds behind that of the file system of the work folder: set its clock right" in said
    assert "chronyc tracking" in said and "in the future" not in said


@pytest.mark.parametrize(("seconds", "way"), [(700, "12 minutes ahead of"), (-3700, "62 minutes behind")])
def test_a_host_that_is_minutes_off_is_refused(config, root, monkeypatch, seconds, way):
    shifted(monkeypatch, seconds)
    with pytest.raises(Refused, match=rf"the clock of host {HOST} is {way} that of the file system.*more than 5 minutes are not borne"):
        preflight(config, str(root))


# --- before a job -----------------------------------------------------------------------------------------------


def test_clocks_that_agree_cost_no_word_and_leave_nothing(tmp_path):
    said = []
    assert abs(clocks.ahead_of_files(tmp_path)) < 1
    clocks.heed_clocks([stamped(tmp_path / "input", -5), tmp_path / "gone"], tmp_path, said.append)
    assert said == [] and [path.name for path in tmp_path.iterdir()] == ["input"]


def test_an_input_that_is_seconds_ahead_is_waited_for(tmp_path):
    said, file = [], stamped(tmp_path / "input", 3)
    clocks.heed_clocks([stamped(tmp_path / "other", -5), file], tmp_path, said.append)
    assert clocks.file_clock(tmp_path) > file.stat().st_mtime - 0.1
    (line,) = said
    assert line.startswith(f"{file} was written 3 seconds ahead of the clock of host {HOST}, waits so long: set the clocks")


def test_an_input_that_is_minutes_ahead_is_refused_naming_who_wrote_it_and_what_to_touch(tmp_path):
    folder, record = tmp_path / "acquire", tmp_path / "record"
    for each in (folder, record):
        each.mkdir()
    stamp = stamped(folder / ".snakemake_timestamp", 200)
    (record / "timing.tsv").write_text("item\thost\n1_T1w\tn016\n2_T1w\tn017\n")
    with pytest.raises(SystemExit) as caught:
        clocks.heed_clocks([folder], tmp_path, print, record)
    said = str(caught.value)
    assert f"{folder} was written by host n017 3 minutes ahead of the clock of host {HOST}" in said
    assert f"set the clocks of {HOST} and n017 and of the file server right" in said
    assert f"then touch {stamp} and start the same line again" in said
