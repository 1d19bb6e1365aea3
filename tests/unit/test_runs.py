"""The record of runs: what it says of a run that ended well or badly, that goes on, or that was killed."""

import json
import subprocess
import sys

import psutil
import pytest

from cohortex.config import check_config
from cohortex.publish import write_json
from cohortex.runs import COUNTS, begin_run, complete_run, how_it_ended, read_runs, status_words, user
from cohortex.status import status


@pytest.fixture
def config(tmp_path):
    """A configuration whose cohort is cut into three batches, of which two are run."""
    index = {"batches": {"b00001": [1, 2, 4], "b00002": [1, 1, 2], "b00003": [1, 1, 1]}, "only": ["b00001", "b00003"]}
    write_json(tmp_path / "work" / "cohort" / "index.json", index)
    return check_config({"work": str(tmp_path / "work"), "output": str(tmp_path / "results")})


def test_a_run_is_written_down_when_it_begins_and_completed_when_it_ends(config, tmp_path):
    file = begin_run(config)
    begun = json.loads(file.read_text())
    assert (begun["ended"], begun["exit"], begun["user"]) == (None, None, user())
    assert (begun["batches"], begun["cohort_batches"], begun["batch_images"]) == (2, 3, 5)
    assert how_it_ended(begun) == "goes on"
    write_json(tmp_path / "results" / COUNTS, {"ok": 4, "quarantined": 1})
    complete_run(config, success=False)
    (ended,) = read_runs(tmp_path / "work")
    assert ended["exit"] == "failure" and ended["seconds"] >= 0 and ended["images"] == {"ok": 4, "quarantined": 1}
    assert {name for name in begun if begun[name] != ended[name]} == {"ended", "exit", "seconds", "images"}
    assert how_it_ended(ended) == "ended with an error"
    complete_run(config, success=True)
    assert read_runs(tmp_path / "work") == [ended], "what has ended is not written again"
    assert next(status(tmp_path / "work")).endswith("2 of 3 batches; ended with an error after 0 s: 4 ok, 1 quarantined")


def test_a_killed_run_is_seen_as_unfinished_and_the_next_leaves_its_record_alone(config, tmp_path):
    code = "import json, sys; from cohortex.runs import begin_run; begin_run(json.loads(sys.argv[1])); import os; os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, json.dumps(config)], check=False)
    begin_run({**config, "user": "second"})
    complete_run(config, success=True)
    second, first = read_runs(tmp_path / "work")
    assert (second["user"], how_it_ended(second)) == ("second", "went through")
    assert first["ended"] is None and how_it_ended(first) == "was killed, or its machine went down"


def test_a_run_of_another_machine_and_a_damaged_record(config, tmp_path):
    elsewhere = {"process": {"host": "node17", "pid": 1, "started": psutil.boot_time()}, "ended": None}
    assert how_it_ended(elsewhere) == "goes on, or was killed (it was begun on node17)"
    (tmp_path / "work" / "runs").mkdir()
    (tmp_path / "work" / "runs" / "20260101T000000Z-abcdef.json").write_text('{"started": "2026')
    assert read_runs(tmp_path / "work") == []
    assert status_words({"warned": 1, "ok": 3}) == "3 ok, 1 warned"
