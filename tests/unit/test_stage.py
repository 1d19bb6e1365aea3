"""The runner: resume, quarantine, publication, on toy stages that run in the real worker process."""

import errno
import json
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import Image, Made
from cohortex.job import Job
from cohortex.machine import too_few
from cohortex.records import COLUMNS, write_manifest
from cohortex.stage import cut_items, read_images, run_job
from cohortex.tables import read_table, write_table
from cohortex.volume import Volume
from cohortex.worker import Task, compute, finish

COHORT = (
    "image",
    "subject",
    "session",
    "modality",
    "path",
    "run",
    "acq",
    "body_part",
    "role",
    "site",
    "scanner",
    "pair",
    "split",
    "batch",
    "fingerprint",
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job of `preprocess` on a batch of four 8 x 9 x 10 images of three subjects, one with labels."""
    from cohortex.io.ozx import write_ozx

    work = tmp_path / "work"
    before, record = work / "acquire" / "b00001", work / "records" / "acquire" / "b00001"
    before.mkdir(parents=True)
    record.mkdir(parents=True)
    rows, table = [], []
    for subject, suffix in (("001", "T1w"), ("001", "T2w"), ("1", "T1w"), ("3", "CT")):
        name = f"{subject}_{suffix}"
        rng = np.random.default_rng(len(rows))
        volume = Volume(rng.normal(100, 10, (8, 9, 10)).astype(np.float32), np.diag([1.0, 1, 2, 1]), suffix)
        write_ozx(before / f"{name}.ozx", volume)
        rows.append(
            {"subject": subject, "image": name, "kind": "image", "role": "image", "modality": suffix, "status": "ok", "path": f"{name}.ozx"}
        )
        rows[-1] |= {"sha256": volume.sha256(), "shape": "8x9x10", "spacing_mm": "1x1x2"}
        table.append(
            {"image": name, "subject": subject, "modality": suffix, "role": "image", "path": "/x", "batch": "b00001", "fingerprint": "f"}
        )
    labels = Volume(np.ones((8, 9, 10), np.uint8), np.eye(4), "T1w", "labels")
    write_ozx(before / "001_T1w+labels.ozx", labels)
    rows.append(
        {**rows[0], "image": "001_T1w+labels", "kind": "labels", "role": "labels", "path": "001_T1w+labels.ozx", "sha256": labels.sha256()}
    )
    write_manifest(record / "manifest.tsv", rows)
    write_table(work / "cohort" / "batches" / "b00001.tsv", COHORT, table)
    return Job(
        stage="preprocess",
        batch="b00001",
        table=work / "cohort" / "batches" / "b00001.tsv",
        before=before,
        before_record=record,
        images=work / "preprocess" / "b00001",
        record=work / "records" / "preprocess" / "b00001",
        running=work / ".running" / "preprocess" / "b00001",
        log=work / "logs" / "preprocess" / "b00001.log",
        section={"default": {"add": 1.0}, "CT": {"add": 5.0}},
        models={},
        seed=1,
        device="cpu",
        threads=1,
    )


def add(image: Image, settings: dict, model: object, seed: int) -> Made:
    """Add a constant and a little noise from the item's seed."""
    noise = np.random.default_rng(seed).normal(0, 0.1, image.volume.shape)
    array = (image.volume.array() + settings["add"] + noise).astype(np.float32)
    return Made(image.volume.with_data(array, step={"add": settings["add"]}), measures={"mean": float(array.mean())})


def manifest(job: Job) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in read_table(job.record / "manifest.tsv")}


def everything(job: Job) -> dict[str, bytes]:
    """Return the bytes of all that a job published, less the timings."""
    files = [path for folder in (job.images, job.record) for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(job.running.parents[2])): path.read_bytes() for path in files if path.name != "timing.tsv"}


def elsewhere(job: Job, folder: Path) -> Job:
    """Return the same job with its outputs and running folder in another place."""
    base = folder / "work"
    return replace(
        job, images=base / "preprocess/b00001", record=base / "records/preprocess/b00001", running=base / ".running/preprocess/b00001"
    )


def relative(job: Job) -> dict[str, bytes]:
    return {key.split("preprocess", 1)[1]: value for key, value in everything(job).items()}


def test_a_stage_turns_a_folder_of_volumes_into_a_folder_of_volumes(job):
    run_job(job, add)
    rows = manifest(job)
    assert sorted(rows) == ["001_T1w", "001_T1w+labels", "001_T2w", "1_T1w", "3_CT"]
    assert all(row["status"] == "ok" for row in rows.values())
    assert {path.name for path in job.images.iterdir()} == {row["path"] for row in rows.values()}
    assert abs(float(rows["3_CT"]["mean"]) - 105) < 2 and abs(float(rows["1_T1w"]["mean"]) - 101) < 2


def test_what_a_stage_leaves_untouched_is_hard_linked_forward(job):
    run_job(job, add)
    source, target = job.before / "001_T1w+labels.ozx", job.images / "001_T1w+labels.ozx"
    assert source.stat().st_ino == target.stat().st_ino
    assert manifest(job)["001_T1w+labels"]["mean"] == ""


def test_the_manifest_names_the_sha256_of_data_and_geometry(job):
    from cohortex.io.ozx import read_ozx

    run_job(job, add)
    for row in manifest(job).values():
        assert read_ozx(job.images / row["path"]).sha256() == row["sha256"]


def test_one_bad_scan_neither_stops_nor_alters_the_others(job, tmp_path):
    def picky(image, settings, model, seed):
        if image.id == "001_T2w":
            raise BadInput("too-odd", "001_T2w is odd: scan it again")
        if image.id == "1_T1w":
            raise ZeroDivisionError("DOE^JANE")
        return add(image, settings, model, seed)

    good = elsewhere(job, tmp_path / "good")
    run_job(good, add)
    run_job(job, picky)
    rows, others = manifest(job), manifest(good)
    assert (rows["001_T2w"]["status"], rows["001_T2w"]["code"]) == ("quarantined", "too-odd")
    assert (rows["1_T1w"]["status"], rows["1_T1w"]["code"]) == ("crashed", "ZeroDivisionError")
    assert rows["001_T2w"]["path"] == "" and not (job.images / "001_T2w.ozx").exists()
    for name in ("001_T1w", "3_CT"):
        assert rows[name] == others[name]
        assert (job.images / rows[name]["path"]).read_bytes() == (good.images / rows[name]["path"]).read_bytes()
    text = (job.record / "manifest.tsv").read_text() + job.log.read_text()
    assert "DOE" not in text, "the text of an unexpected error may hold a patient's data"


def test_a_skipped_image_goes_on_as_it_came(job):
    def not_for_ct(image, settings, model, seed):
        if image.modality == "CT":
            raise Skip("not-for-ct", "CT is left as it is")
        return add(image, settings, model, seed)

    run_job(job, not_for_ct)
    row = manifest(job)["3_CT"]
    assert (row["status"], row["code"], row["path"]) == ("skipped", "not-for-ct", "3_CT.ozx")
    assert (job.images / "3_CT.ozx").read_bytes() == (job.before / "3_CT.ozx").read_bytes()


def test_a_worker_that_dies_is_started_again_and_the_result_is_the_same(job, tmp_path):
    flag = tmp_path / "died"

    def dies_once(image, settings, model, seed):
        if image.id == "001_T2w" and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return add(image, settings, model, seed)

    undisturbed = elsewhere(job, tmp_path / "undisturbed")
    run_job(undisturbed, add)
    run_job(job, dies_once)
    assert flag.exists()
    assert relative(job) == relative(undisturbed)


def test_the_item_on_which_the_worker_dies_twice_is_crashed_and_the_rest_goes_on(job):
    def dies(image, settings, model, seed):
        if image.id == "001_T2w":
            os.kill(os.getpid(), signal.SIGKILL)
        return add(image, settings, model, seed)

    run_job(job, dies)
    rows = manifest(job)
    assert (rows["001_T2w"]["status"], rows["001_T2w"]["code"]) == ("crashed", "process-died")
    assert [rows[name]["status"] for name in ("001_T1w", "1_T1w", "3_CT")] == ["ok"] * 3


def test_a_killed_job_resumes_at_the_next_image(job, tmp_path):
    calls = tmp_path / "calls"

    def counted(image, settings, model, seed):
        with calls.open("a") as file:
            file.write(image.id + "\n")
        if image.id == "1_T1w" and calls.read_text().split().count("1_T1w") == 1:
            time.sleep(60)
        return add(image, settings, model, seed)

    child = os.fork()
    if child == 0:
        try:
            run_job(job, counted)
        finally:
            os._exit(0)
    while not calls.exists() or "1_T1w" not in calls.read_text().split():
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not job.images.exists() and not job.record.exists(), "nothing readable is half-written"
    run_job(job, counted)
    assert calls.read_text().split() == ["001_T1w", "001_T2w", "1_T1w", "1_T1w", "3_CT"]
    undisturbed = elsewhere(job, tmp_path / "undisturbed")
    run_job(undisturbed, add)
    assert relative(job) == relative(undisturbed)


def test_a_parameter_changed_between_kill_and_rerun_gives_the_new_result(job, tmp_path):
    run_job(job, add)
    changed = replace(job, section={"default": {"add": 2.0}, "CT": {"add": 5.0}})
    undisturbed = elsewhere(changed, tmp_path / "undisturbed")
    run_job(undisturbed, add)
    run_job(changed, add)
    assert relative(changed) == relative(undisturbed)


def test_the_result_of_an_image_does_not_depend_on_its_batch(job, tmp_path):
    run_job(job, add)
    alone = elsewhere(job, tmp_path / "alone")
    record = tmp_path / "record"
    record.mkdir()
    write_manifest(record / "manifest.tsv", [row for row in read_table(job.before_record / "manifest.tsv") if row["image"] == "1_T1w"])
    run_job(replace(alone, before_record=record), add)
    assert (alone.images / "1_T1w.ozx").read_bytes() == (job.images / "1_T1w.ozx").read_bytes()


def orphan(job: Job, function) -> int:
    """Start a process that works on a job, wait until the running folder is its own, and return its id."""
    child = os.fork()
    if child == 0:
        run_job(job, function)
        os._exit(0)
    owner = job.running / "owner.json"
    while not owner.exists() or json.loads(owner.read_text())["pid"] != child:
        time.sleep(0.02)
    return child


def test_an_orphan_that_works_on_something_else_or_takes_too_long_is_ended_before_the_folder_is_used(job):
    for other in (replace(job, section={"default": {"add": 7.0}}), replace(job, deadline_s=1.0)):
        child = orphan(other, lambda *_: time.sleep(60))
        run_job(replace(job, deadline_s=1.0), add)
        assert not psutil.pid_exists(child)
        assert all(row["status"] == "ok" for row in manifest(job).values())
        shutil.rmtree(job.running)


def test_an_orphan_that_works_on_the_same_finishes_and_nothing_is_computed_twice(job, tmp_path):
    def slow(image, settings, model, seed):
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{image.id}\n")
        time.sleep(0.3)
        return add(image, settings, model, seed)

    child = orphan(job, slow)
    run_job(job, slow)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it was not killed"
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == len(set(calls)) == 4
    assert all(row["status"] == "ok" for row in manifest(job).values())


def test_what_a_killed_writer_left_half_published_is_removed(job):
    for folder in (job.images.parent, job.record.parent):
        left = folder / f".{job.batch}.0123456789abcdef.tmp"
        left.mkdir(parents=True)
        (left / "1_T1w.ozx").write_bytes(b"half")
        (folder / ".b00002.0123456789abcdef.tmp").mkdir()
    run_job(job, add)
    for folder in (job.images.parent, job.record.parent):
        assert sorted(path.name for path in folder.iterdir()) == [".b00002.0123456789abcdef.tmp", "b00001"], (
            "another job may write the other"
        )


def test_a_model_that_cannot_be_loaded_ends_the_job_with_one_sentence(job):
    def load(section, folders, device):
        raise Refused("the model zoo/x is broken: get it again")

    with pytest.raises(SystemExit, match="the model zoo/x is broken"):
        run_job(job, add, load)
    assert not job.record.exists()


def test_a_batch_with_most_items_set_aside_is_called_systemic(job, monkeypatch):
    monkeypatch.setattr("cohortex.stage.SYSTEMIC", 4)

    def bad(image, settings, model, seed):
        if image.id != "3_CT":
            raise BadInput("bad", "bad")
        return add(image, settings, model, seed)

    run_job(job, bad)
    assert json.loads((job.record / "numbers.json").read_text())["systemic"] is True


def test_the_last_attempt_writes_what_it_could_not_finish_as_failed(job):
    run_job(replace(job, last_attempt=True, deadline_s=-1.0), add)
    rows = manifest(job)
    assert {rows[name]["status"] for name in ("001_T1w", "001_T2w", "1_T1w", "3_CT")} == {"failed"}


@pytest.mark.parametrize("how", ["slow", "stopped"])
def test_the_last_attempt_ends_in_time_although_an_item_does_not_and_leaves_its_record(job, how):
    def slow(image, settings, model, seed):
        if image.id == "001_T2w" and how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif image.id == "001_T2w":
            time.sleep(60)
        return add(image, settings, model, seed)

    began = time.monotonic()
    run_job(replace(job, last_attempt=True, deadline_s=3.0), slow)
    rows = manifest(job)
    assert time.monotonic() - began < 30, "the item takes a minute"
    assert rows["001_T1w"]["status"] == "ok"
    assert {rows[name]["code"] for name in ("001_T2w", "1_T1w", "3_CT")} == {"time-limit"}


def test_what_an_attempt_had_no_time_for_is_done_by_the_next_one(job, tmp_path):
    run_job(replace(job, last_attempt=True, deadline_s=-1.0), add)
    run_job(job, add)
    undisturbed = elsewhere(job, tmp_path / "undisturbed")
    run_job(undisturbed, add)
    assert relative(job) == relative(undisturbed)


def test_the_same_voxels_with_another_history_are_another_input(job, tmp_path):
    """What the stage before did is in the file that it left and ends in the sidecar, whether or not it changed a voxel."""
    from cohortex.io.ozx import read_ozx, write_ozx

    def untouched(image, settings, model, seed):
        return Made(image.volume.with_data(image.volume.array(), step={"done": True}))

    run_job(job, untouched)
    rows = read_table(job.before_record / "manifest.tsv")
    for row in rows:
        volume = read_ozx(job.before / row["path"])
        write_ozx(job.before / row["path"], replace(volume, data=volume.array(), history=({"normalise": "none"},)))
        row["key"] = "ab" * 32
    write_manifest(job.before_record / "manifest.tsv", rows)
    run_job(job, untouched)
    undisturbed = elsewhere(job, tmp_path / "undisturbed")
    run_job(undisturbed, untouched)
    assert read_ozx(job.images / "1_T1w.ozx").history[0] == {"normalise": "none"}
    assert relative(job) == relative(undisturbed)


def test_what_is_passed_on_keeps_the_key_of_the_stage_that_made_it(job):
    rows = read_table(job.before_record / "manifest.tsv")
    write_manifest(job.before_record / "manifest.tsv", [row | {"key": f"{number:064x}"} for number, row in enumerate(rows)])
    given = {row["image"]: row["key"] for row in read_table(job.before_record / "manifest.tsv")}
    run_job(job, add)
    assert manifest(job)["001_T1w+labels"]["key"] == given["001_T1w+labels"]
    assert manifest(job)["001_T1w"]["key"] not in given.values()


def test_another_file_of_the_same_size_and_time_is_another_input(job):
    def items(path, root):
        row = {"image": "1_T1w", "subject": "1", "modality": "T1w", "role": "image", "path": path, "root": root, "fingerprint": "1-9"}
        write_table(job.table, (*COHORT, "root"), [row])
        first = replace(job, stage="acquire", before=None, before_record=None)
        return cut_items(first, read_images(first))[0].key

    assert items("/data/a.nii", "/data") != items("/data/b.nii", "/data")
    assert items("/data/a.nii", "/data") == items("/moved/a.nii", "/moved"), "a dataset may be moved"


def test_a_subject_stage_sees_all_of_a_subject_and_derives_ids(job):
    def join(images, section, model, seed):
        first = next(image for image in images if image.kind == "image")
        affine = np.eye(4)
        volume = first.volume.with_data(np.ones(first.volume.shape, np.uint8), kind="labels")
        return [
            Made(of=first.id, measures={"images": len(images)}),
            Made(volume, of=first.id, tag="seg", entities={"desc": "test"}),
            Made(affine, of=first.id, tag="affine"),
            Made({"class": ["a", "b"], "probability": [0.25, 0.75]}, of=first.id, tag="class"),
        ]

    run_job(replace(job, stage="regseg", running=job.running.parents[1] / "regseg" / "b00001"), join)
    rows = manifest(job)
    assert rows["001_T1w"]["images"] == "3" and rows["001_T1w"]["path"] == "001_T1w.ozx"
    assert (rows["001_T1w+seg"]["kind"], rows["001_T1w+seg"]["role"], rows["001_T1w+seg"]["entities"]) == ("labels", "labels", "desc=test")
    assert rows["001_T1w+affine"]["kind"] == "transform" and rows["1_T1w+class"]["kind"] == "table"
    assert set(COLUMNS) <= set(rows["001_T1w"])


def test_labels_that_are_skipped_when_read_have_a_row(job):
    def series(image, settings, model, seed):
        raise Skip("four-d", "it is a series")

    rows = [{"image": "001_T1w+labels", "subject": "001", "modality": "T1w", "role": "labels", "path": "/x"}]
    write_table(job.table, COHORT, rows)
    run_job(replace(job, stage="acquire", before=None, before_record=None), series)
    assert manifest(job)["001_T1w+labels"]["code"] == "four-d"


def test_an_environment_without_a_library_leaves_its_record(job, monkeypatch):
    from importlib import metadata

    def version(name):
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    run_job(job, add)
    software = json.loads((job.record / "numbers.json").read_text())["software"]
    assert "torch" not in software and software["numpy"] == "1.0"


def test_the_history_names_the_model_of_the_modality_and_no_path_of_the_machine(job):
    from cohortex.io.ozx import read_ozx

    weights = {"/home/jane/models/best": "ab" * 32, "zoo/other": "cd" * 32}
    models = {name: {"folder": "/none", "sha256": sha256} for name, sha256 in weights.items()}
    section = {"default": {"add": 1.0, "weights": "/home/jane/models/best"}, "CT": {"weights": "zoo/other"}}
    task = Task("denoise", "image", add, None, section, {}, weights, "cpu", 1, job.running, lambda _: None)
    job.running.mkdir(parents=True)
    for item in cut_items(replace(job, models=models), read_images(job)):
        finish(task, item, compute(task, item, None))
    histories = {name: read_ozx(job.running / f"{name}.ozx").history[-1] for name in ("001_T1w", "3_CT")}
    assert histories["001_T1w"]["models"] == {"best": "ab" * 32}
    assert histories["3_CT"]["models"] == {"zoo/other": "cd" * 32}


def test_the_volumes_of_a_series_go_on_and_the_series_has_a_word(job):
    from cohortex.report.records import read_records

    def apart(image, settings, model, seed):
        volume = Volume(np.arange(720, dtype=np.float32).reshape(8, 9, 10), np.eye(4), "bold")
        return [Made(of=image.id), *(Made(volume, of=image.id, tag=tag) for tag in ("t000", "t001"))]

    work = job.running.parents[2]
    rows = [{"image": "1_bold", "subject": "1", "modality": "bold", "role": "image", "path": "/x", "batch": "b00001"}]
    write_table(job.table, COHORT, rows)
    write_table(work / "cohort" / "cohort.tsv", COHORT, rows)
    first = replace(job, stage="acquire", before=None, before_record=None, record=work / "records" / "acquire" / "b00001")
    run_job(replace(first, images=work / "read" / "b00001", running=work / ".running" / "acquire" / "b00001"), apart)
    run_job(replace(job, before=work / "read" / "b00001", before_record=first.record), add)
    assert sorted(path.name for path in job.images.iterdir()) == ["1_bold+t000.ozx", "1_bold+t001.ozx"]
    records = read_records(work, ["acquire", "preprocess"])
    assert records.last["1_bold"].status == "ok"
    assert records.set_aside() == []


def test_want_of_open_files_ends_the_job_with_a_sentence_and_sets_no_image_aside(job):
    def opens_all(image, settings, model, seed):
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return [Path("/dev/null").open() for _ in range(50)]

    with pytest.raises(SystemExit, match=r"this process may open no more files \(ulimit -n is 40\); raise the limit"):
        run_job(job, opens_all)
    assert not job.record.exists() and not list(job.running.glob("*.done.json"))
    assert "(ulimit -u" in too_few(BlockingIOError(errno.EAGAIN, "x"))
