"""Which GPU a job has: no two jobs of one machine the same."""

import os
import subprocess
import sys
import time

import pytest

from cohortex import device
from cohortex.errors import Refused

HOLDER = """
import sys, time
from pathlib import Path
from cohortex.device import take
print(",".join(take(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1]))), flush=True)
time.sleep(60)
"""


def holder(folder, names, count=1):
    """Start a process that takes GPUs and keeps them; return it and what it got."""
    words = [sys.executable, "-c", HOLDER, str(folder), ",".join(names), str(count)]
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE)
    return process, process.stdout.readline().strip()


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(device, "_held", {})


def test_two_jobs_never_get_the_same_gpu_and_a_third_gets_none(tmp_path):
    jobs = [holder(tmp_path, ["GPU-a", "GPU-b"]) for _ in range(3)]
    try:
        assert [got for _, got in jobs] == ["GPU-a", "GPU-b", ""]
    finally:
        for process, _ in jobs:
            process.kill()
            process.wait()


def test_a_job_that_is_killed_gives_its_gpu_back(tmp_path):
    process, got = holder(tmp_path, ["GPU-a"])
    assert got == "GPU-a" and device.take(["GPU-a"], folder=tmp_path) == []
    process.kill()
    process.wait()
    assert device.take(["GPU-a"], folder=tmp_path) == ["GPU-a"]


def test_of_several_gpus_a_job_gets_all_or_none(tmp_path):
    process, _ = holder(tmp_path, ["GPU-b"])
    try:
        assert device.take(["GPU-a", "GPU-b"], 2, tmp_path) == []
        assert device.take(["GPU-a"], 1, tmp_path) == ["GPU-a"], "what did not suffice was given back"
    finally:
        process.kill()
        process.wait()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "cohortex-gpu-GPU-a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        device.take(["GPU-a"], folder=tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("said", "files", "names"),
    [
        (None, [], []),
        (None, ["nvidia0", "nvidia1", "nvidiactl", "nvidia10"], ["0", "1", "10"]),
        ("", ["nvidia0"], []),
        ("-1", ["nvidia0"], []),
        ("1", ["nvidia0", "nvidia1"], ["1"]),
        ("GPU-x, MIG-y", [], ["GPU-x", "MIG-y"]),
    ],
)
def test_a_job_sees_what_cuda_visible_devices_says_or_else_all(tmp_path, monkeypatch, said, files, names):
    monkeypatch.setattr(device, "_uuids", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert device.visible(tmp_path) == names
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert device.visible(tmp_path) == ([] if said is None else names), "a job of Slurm that was given none has none"


def test_numbers_become_the_names_of_gpus_where_the_driver_tells_them(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-0a-1b)'\necho '  MIG 1g.10gb Device 0: (UUID: MIG-77)'\n"
        "echo 'GPU 1: NVIDIA H100 (UUID: GPU-2c)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device.visible() == ["GPU-2c"]


def test_cuda_waits_for_a_gpu_that_is_held_and_then_says_what_to_change(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process, _ = holder(tmp_path, ["GPU-a"])
    try:
        started = time.monotonic()
        with pytest.raises(Refused, match="--resources gpu=N"):
            device.choose_device("cuda", wait_s=0.3)
        assert time.monotonic() - started >= 0.3
        assert device.choose_device("auto") == "cpu"
    finally:
        process.kill()
        process.wait()
    with pytest.raises(Refused, match="this job sees no CUDA device"):
        device.choose_device("cuda", wait_s=0.3)  # the lock is had now, but there is no such device here


def test_the_gpu_of_a_process_is_the_only_one_that_torch_sees(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process, _ = holder(tmp_path, ["GPU-a"])
    try:
        device.choose_device("auto")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
        device.choose_device("auto")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b", "it keeps the one it has"
    finally:
        process.kill()
        process.wait()
