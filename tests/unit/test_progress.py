"""How far a run is and how long it may take: read from what jobs write, whoever runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cohortex.cli import main
from cohortex.progress import left_s, progress
from cohortex.publish import write_json
from cohortex.records import TIMING_COLUMNS, write_manifest
from cohortex.status import picture
from cohortex.tables import write_table


def record(work: Path, stage: str, batch: str, seconds: dict[str, float], status: str = "ok") -> None:
    rows = [
        {"subject": name[:2], "image": name, "kind": "image", "status": status, "code": "x", "reason": "[red]odd[/]."} for name in seconds
    ]
    write_manifest(work / "records" / stage / batch / "manifest.tsv", rows)
    timing = [{"item": name, "seconds": value} for name, value in seconds.items()]
    write_table(work / "records" / stage / batch / "timing.tsv", TIMING_COLUMNS, timing)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Of three batches one is acquired, one runs; the chain has four stages."""
    work = tmp_path / "work"
    write_json(work / "cohort" / "index.json", {"batches": {"b00001": [1, 2, 2], "b00002": [1, 2, 2], "b00003": [1, 1, 1]}})
    subjects = [{"subject": s, "batch": b} for s, b in (("01", "b00001"), ("02", "b00002"), ("03", "b00003"))]
    write_table(work / "cohort" / "batches.tsv", ["subject", "batch"], subjects)
    write_json(
        work / "runs" / "a.json", {"started": "2026-11-01T10:00:00", "ended": None, "config": {"stages": ["acquire", "regseg", "export"]}}
    )
    record(work, "acquire", "b00001", {"01_T1w": 2.0, "01_CT": 4.0})
    place = work / ".running" / "acquire" / "b00002"
    place.mkdir(parents=True)
    (place / "02_T1w.done.json").write_text(json.dumps({"timing": {"seconds": 3.0}}))
    return work


def test_items_are_counted_as_each_stage_counts_them(work: Path) -> None:
    acquire, regseg, export = progress(work)
    assert (acquire.items, acquire.done, acquire.ended, acquire.batches, acquire.running) == (5, 3, 1, 3, {"b00002": 1})
    assert acquire.item_s == 3.0
    # of subjects, not of images
    assert (regseg.items, regseg.done) == (3, 0)
    assert export.item_s is None


def test_the_time_left_is_that_of_the_jobs_that_run_and_names_what_is_not_known(work: Path) -> None:
    stages = progress(work)
    assert left_s(stages) == (2 * 3.0, ["regseg", "export"])
    (work / ".running" / "acquire" / "b00003").mkdir()
    assert left_s(progress(work))[0] == 3.0
    record(work, "regseg", "b00001", {"01": 30.0})
    record(work, "export", "b00001", {"01": 1.0})
    assert left_s(progress(work)) == ((2 * 3.0 + 2 * 30.0 + 2 * 1.0) / 2, [])


def test_a_batch_that_runs_tells_how_long_items_take_before_any_has_ended(work: Path) -> None:
    place = work / ".running" / "regseg" / "b00001"
    place.mkdir(parents=True)
    (place / "01.done.json").write_text(json.dumps({"timing": {"seconds": 40.0}}))
    (place / "02.done.json").write_text("{")
    assert progress(work)[1].item_s == 40.0


def test_a_record_that_is_written_anew_is_read_anew(work: Path) -> None:
    assert progress(work)[0].counts == {"ok": 2}
    record(work, "acquire", "b00001", {"01_T1w": 2.0, "01_CT": 4.0}, "quarantined")
    acquire = progress(work)[0]
    assert acquire.counts == {"quarantined": 2}
    assert acquire.aside == ["acquire b00001 01_CT quarantined x: [red]odd[/].", "acquire b00001 01_T1w quarantined x: [red]odd[/]."]


def test_what_is_watched_shows_stages_the_time_left_and_reasons_as_text(work: Path) -> None:
    record(work, "acquire", "b00001", {"01_T1w": 2.0, "01_CT": 4.0}, "quarantined")
    console = Console(width=140, record=True, file=(work / "drawn").open("w"))
    console.print(picture(work))
    drawn = console.export_text()
    assert re.search(r"acquire .* 1/3 +1 +3/5 +3\.0 +2 quarantined", drawn)
    assert "time left: about 6 s with 1 job at once, and what regseg, export will take" in drawn
    assert "[red]odd[/]." in drawn


def test_status_follows_a_run_until_it_has_ended(work: Path) -> None:
    words = [sys.executable, "-m", "cohortex.cli", "status", str(work), "--follow", "0.1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        write_json(
            work / "runs" / "a.json", {"started": "2026-11-01T10:00:00", "ended": "2026-11-01T10:05:00", "exit": "success", "seconds": 300}
        )
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "went through after 300 s" in said


def test_following_needs_a_cohort_and_a_time(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path), "--follow"]) == 2
    assert "holds no cohort" in capsys.readouterr().err
    assert main(["status", str(work), "--follow", "0"]) == 2
    assert "--follow 0" in capsys.readouterr().err
