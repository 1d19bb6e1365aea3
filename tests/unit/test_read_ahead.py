"""On a GPU the next image is read and the last one written while the network runs; results and blame stay the same."""

import os
import signal
import time

import pytest

from cohortex import worker
from cohortex.stage import run_job
from tests.unit.test_stage import add, elsewhere, job, manifest, relative  # noqa: F401


@pytest.fixture
def gpu(monkeypatch):
    """Have the worker believe that it has a GPU."""
    monkeypatch.setattr("cohortex.device.choose_device", lambda wanted: "cuda")
    return lambda section, folders, device: device


def wait_for(path, word):
    for _ in range(400):
        if path.exists() and word in path.read_text().splitlines():
            return
        time.sleep(0.05)
    raise TimeoutError(word)


def test_the_next_image_is_read_and_the_last_one_written_while_the_network_runs(job, tmp_path, monkeypatch, gpu):  # noqa: F811
    told = tmp_path / "told"
    read, write = worker.read_ahead, worker.finish

    def tell(word):
        with told.open("a") as file:
            file.write(word + "\n")

    def reads(item):
        read(item)
        tell(f"read {item.name}")

    def writes(task, item, outcome):
        if item.name == "001_T1w":
            wait_for(told, "computes 001_T2w")
        write(task, item, outcome)
        tell(f"wrote {item.name}")

    def computes(image, settings, model, seed):
        tell(f"computes {image.id}")
        if image.id == "001_T1w":
            wait_for(told, "read 001_T2w")
        if image.id == "001_T2w":
            wait_for(told, "wrote 001_T1w")
        return add(image, settings, model, seed)

    alone = elsewhere(job, tmp_path / "alone")
    run_job(alone, add)
    monkeypatch.setattr(worker, "read_ahead", reads)
    monkeypatch.setattr(worker, "finish", writes)
    run_job(job, computes, gpu)
    assert relative(job).keys() == relative(alone).keys()
    assert all(relative(job)[name] == relative(alone)[name] for name in relative(job) if name.endswith(".ozx"))


def test_the_guilty_item_is_found_among_two_in_flight(job, gpu):  # noqa: F811
    def dies(image, settings, model, seed):
        if image.id == "001_T2w":
            os.kill(os.getpid(), signal.SIGKILL)
        return add(image, settings, model, seed)

    run_job(job, dies, gpu)
    rows = manifest(job)
    assert (rows["001_T2w"]["status"], rows["001_T2w"]["code"]) == ("crashed", "process-died")
    assert [rows[name]["status"] for name in ("001_T1w", "1_T1w", "3_CT")] == ["ok"] * 3


def test_a_damaged_image_is_quarantined_in_its_turn(job, gpu):  # noqa: F811
    path = job.before / "001_T2w.ozx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    run_job(job, add, gpu)
    rows = manifest(job)
    assert rows["001_T2w"]["status"] == "quarantined"
    assert [rows[name]["status"] for name in ("001_T1w", "1_T1w", "3_CT")] == ["ok"] * 3
