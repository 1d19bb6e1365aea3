"""What the head process does: one run a folder, enough disk before any job, a report of what there is at the end."""

import json
import multiprocessing
import os
import socket
import time

import psutil
import pytest
from snakemake.settings.types import ExecutionSettings

from cohortex import run
from cohortex.cohort import make_cohort
from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.owner import take
from cohortex.records import write_manifest
from tests.workflow import write_cohort


@pytest.fixture
def config(tmp_path):
    """The configuration of a cohort of four subjects, two a batch, whose tables are made."""
    table = write_cohort(tmp_path / "data", ["1", "2", "3", "4"])
    made = {"input": str(table), "output": str(tmp_path / "results"), "work": str(tmp_path / "work"), "batch_size": 2}
    made = check_config({**made, "stages": ["acquire", "export"]})
    make_cohort(made)
    return made


def somebody(pid=None, host=None, started=None):
    process = psutil.Process(pid or os.getpid())
    return {"host": host or socket.gethostname(), "pid": process.pid, "started": process.create_time() if started is None else started}


def gone():
    """Return an owner that has ended."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": 1.0}


# --- one run a folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["output", "work"])
def test_a_folder_of_a_run_that_lives_is_refused_naming_its_owner_and_nothing_is_claimed(config, key):
    parent = somebody(os.getppid())
    file = run.owner_files(config)[key]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(parent))
    with pytest.raises(Refused, match=rf"the {key} folder .* belongs to another run \(process {os.getppid()} on "):
        run.claim(config)
    assert [name for name, each in run.owner_files(config).items() if each.exists()] == [key]
    run.release(config)
    assert json.loads(file.read_text()) == parent, "the folder of another is not given back"


def test_a_run_of_another_machine_is_not_guessed_to_be_gone(config):
    file = run.owner_files(config)["work"]
    file.write_text(json.dumps(somebody(host="elsewhere")))
    with pytest.raises(Refused, match=r"on elsewhere.*if it is gone, delete owner\.json in it"):
        run.claim(config)


def test_the_folders_of_a_run_that_died_are_taken_over_and_given_back(config):
    for file in run.owner_files(config).values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(gone()))
    run.claim(config)
    assert all(json.loads(file.read_text())["pid"] == os.getpid() for file in run.owner_files(config).values())
    run.release(config)
    assert not any(file.exists() for file in run.owner_files(config).values())


def claimer(file, start, results):
    start.wait()
    results.put(take(file) is None)
    start.wait()  # lives until all have tried


@pytest.mark.parametrize("left", [None, "gone"])
def test_of_several_runs_that_begin_at_once_one_owns_the_folder(tmp_path, left):
    context = multiprocessing.get_context("fork")
    for attempt in range(8):
        file = tmp_path / str(attempt) / "owner.json"
        if left:
            file.parent.mkdir()
            file.write_text(json.dumps(gone()))
        start, results = context.Barrier(6), context.Queue()
        claimers = [context.Process(target=claimer, args=(file, start, results)) for _ in range(6)]
        for process in claimers:
            process.start()
        owners = sum(results.get(timeout=60) for _ in claimers)
        for process in claimers:
            process.join(60)
        assert owners == 1
        assert [path.name for path in file.parent.iterdir()] == ["owner.json"]


# --- what the report is asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"batch": "scaner"}, r"report.harmonise.batch names the column scaner, .*did you mean scanner\?"),
        ({"batch": "scanner", "covariates": ["weight"]}, r"report.harmonise.covariates names the column weight, .*known here: .*scanner"),
    ],
)
def test_a_column_that_is_not_there_to_harmonise_by_is_refused_before_any_job(config, asked, sentence):
    with pytest.raises(Refused, match=sentence):
        run.preflight({**config, "report": {**config["report"], "harmonise": asked}}, ".")
    run.preflight({**config, "report": {**config["report"], "harmonise": {"batch": "scanner", "covariates": ["site"]}}}, ".")


# --- the disk -----------------------------------------------------------------------------------------------------


def disk(free_mb, free_files, files=10**6):
    return os.statvfs_result((4096, 4096, 10**9, free_mb * 10**6 // 4096, free_mb * 10**6 // 4096, files, free_files, free_files, 0, 255))


@pytest.mark.parametrize(
    ("jobs", "of", "sentence"),
    [
        (1, disk(0, 10**6), r"0 MB free, one batch needs about \d+ MB"),
        (2, disk(10**6, 100), "100 files free, the 2 batches that run at once need about 160 files"),
        (9, disk(10**6, 159), "159 files free, the 2 batches that run at once need about 160 files"),
    ],
)
def test_a_disk_that_the_batches_in_flight_would_fill_is_refused_before_any_job(config, monkeypatch, jobs, of, sentence):
    monkeypatch.setattr(os, "statvfs", lambda path: of)
    with pytest.raises(Refused, match=sentence):
        run.preflight(config, ".", jobs)


def test_space_is_asked_for_batches_that_are_not_exported_and_inodes_only_where_there_are_some(config, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: disk(10**6, 0, files=0))
    run.preflight(config, ".", 2)
    monkeypatch.setattr(os, "statvfs", lambda path: disk(0, 0))
    for batch in ("b00001", "b00002"):
        (tmp_path / "work" / "records" / "export" / batch).mkdir(parents=True)
    run.preflight(config, ".", 2)


# --- what cannot work ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"denoise": {"default": {"method": "redcnn"}}}, "denoise.default: the method redcnn needs weights"),
        ({"denoise": {"default": {}, "CT": {"method": "redcnn"}}}, "denoise.CT: the method redcnn needs weights"),
        (
            {"denoise": {"default": {"method": "redcnn", "weights": "zoo/superresolve/srcnn3d"}}},
            "is a model for superresolve, but denoise has it under weights",
        ),
        ({"classify": {"default": {"weights": "zoo/denoise/low_dose"}}}, "is a model for denoise, but classify has it under weights"),
        ({"regseg": {"default": {"weights": "not/there"}}}, "not/there/card.yaml is not there"),
        (
            {"classify": {"default": {"weights": "train", "target": "group", "network": {"name": "resnet81"}}}},
            "The task classify has no network 'resnet81'. Did you mean resnet18?",
        ),
        ({"classify": {"default": {"weights": "train", "target": "group"}}}, "have 0 values of it where two or more are wanted"),
    ],
)
def test_models_and_trainings_that_cannot_work_are_refused_before_any_job(config, root, section, sentence):
    stages = ["acquire", *section, "export"]
    with pytest.raises(Refused) as caught:
        run.preflight({**config, **section, "stages": stages}, str(root))
    assert sentence in str(caught.value)


def test_a_training_without_training_subjects_is_refused_before_any_job(config, root):
    table = run.Path(config["work"]) / "cohort" / "cohort.tsv"
    table.write_text(table.read_text().replace("\ttrain\t", "\ttest\t"))
    section = {"denoise": {"default": {"method": "redcnn", "weights": "train"}}}
    with pytest.raises(Refused, match="denoise: weights: train needs training subjects"):
        run.preflight({**config, **section, "stages": ["acquire", "denoise", "export"]}, str(root))


# --- the end ------------------------------------------------------------------------------------------------------


def record(config, stage, batch, rows=()):
    folder = run.Path(config["work"]) / "records" / stage / batch
    folder.mkdir(parents=True)
    write_manifest(folder / "manifest.tsv", rows)
    return folder / "manifest.tsv"


def test_a_report_is_old_when_a_record_is_missing_or_younger(config, tmp_path):
    page = tmp_path / "results" / "report" / "index.html"
    page.parent.mkdir(parents=True)
    stages = config["stages"]
    manifests = [record(config, stage, batch) for stage in stages for batch in ("b00001", "b00002")]
    work = run.Path(config["work"])
    assert not run.tells_all(page, work, stages)
    page.write_text("x")
    assert run.tells_all(page, work, stages)
    os.utime(manifests[1], (time.time() + 60, time.time() + 60))
    assert not run.tells_all(page, work, stages)
    manifests[1].unlink()
    assert not run.tells_all(page, work, stages)


def test_a_failed_run_leaves_a_report_of_what_there_is_in_place_of_an_old_one(config, tmp_path, capsys):
    page = tmp_path / "results" / "report" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("of an earlier run")
    run.say_what_went_wrong(config, ".")
    assert "of an earlier run" not in page.read_text()
    assert "1_T1w" in page.read_text()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("cohortex: Too much was set aside: 4 of 4 images")


# --- what would take half a result for done ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ({"keep_incomplete": True}, "--keep-incomplete would let what a failed job left count as done; leave it out"),
        ({"ignore_incomplete": True}, "--ignore-incomplete would take what a killed job left for done"),
        ({"lock": False}, "--nolock would let two runs write at once"),
    ],
)
def test_flags_with_which_half_a_result_counts_as_done_are_refused(flag, words):
    run.check_flags(ExecutionSettings())
    with pytest.raises(Refused, match=words):
        run.check_flags(ExecutionSettings(**flag))


def test_a_run_that_goes_on_is_told_of_before_snakemake_says_that_its_folder_is_locked(config):
    file = run.owner_files(config)["work"]
    assert not run.in_use(config)
    file.write_text(json.dumps(somebody(os.getppid())))
    assert f"process {os.getppid()} on {socket.gethostname()}" in run.in_use(config)
    file.write_text(json.dumps(gone()))
    assert not run.in_use(config)
