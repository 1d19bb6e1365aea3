"""What a machine and its file systems must be able to do before any job: memory, GPUs, folders, files."""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cohortex import machine
from cohortex.cohort import batch_sizes, make_cohort
from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.machine import check_gpus, check_memory, check_written, no_space
from cohortex.run import preflight, sentence_of
from tests.workflow import write_cohort


@pytest.fixture
def config(tmp_path, root):
    """The configuration of a cohort of two subjects whose tables are made."""
    whole = yaml.safe_load((root / "config.yaml").read_text())
    whole |= {"input": str(write_cohort(tmp_path / "data", ["1", "2"])), "output": str(tmp_path / "results")}
    whole = check_config(whole | {"work": str(tmp_path / "work"), "batch_size": 1})
    make_cohort(whole)
    return whole


@contextmanager
def mounted(folder, options):
    """Mount a small file system in memory, where that is allowed."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- memory ----------------------------------------------------------------------------------------------------


def test_memory_beyond_the_machine_is_refused_naming_stage_image_and_what_to_change(config, tmp_path):
    large = tmp_path / "data" / "scans" / "2_T1w.nii.gz"
    with large.open("r+b") as file:
        file.truncate(3 * 10**9)  # a file with a hole
    make_cohort(config)
    sizes = batch_sizes(config["work"])
    check_memory(config, sizes, 10**7)
    with pytest.raises(Refused) as caught:
        check_memory({**config, "stages": ["acquire", "export"], "blocks": {**config["blocks"], "memory_mb": 2**17}}, sizes, 8000)
    for word in (
        "acquire needs about",
        "2_T1w (12000 MB",
        "batch b00002",
        "8000 MB",
        "blocks.memory_mb (it is 131072)",
        "select",
        "--set-resources acquire:mem_mb=8000",
    ):
        assert word in str(caught.value)
    assert "1_T1w" not in str(caught.value)


def test_a_stage_that_streams_says_which_key_lowers_its_memory_and_is_not_judged_once_the_user_gave_a_number(config):
    narrow = {**config, "stages": ["denoise"], "blocks": {**config["blocks"], "memory_mb": 4096}}
    with pytest.raises(Refused, match=r"lower blocks\.memory_mb \(it is 4096\)"):
        check_memory(narrow, batch_sizes(config["work"]), 10)
    check_memory(narrow, batch_sizes(config["work"]), 10, told=["denoise"])


def test_the_limits_of_control_groups_of_both_versions_count(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/job/step\n1:cpu:/job\n0::/slice/run\n")
    for path, text in (
        ("memory/job/memory.limit_in_bytes", "7000000000"),
        ("memory/memory.limit_in_bytes", "9000000000"),
        ("slice/memory.max", "5000000000"),
        ("slice/run/memory.max", "max"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    assert sorted(machine._limits(tmp_path, own)) == [5000000000, 7000000000, 9000000000]
    assert list(machine._limits(tmp_path, tmp_path / "none")) == []
    assert 0 < machine.memory_for_jobs_mb() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


# --- GPUs ------------------------------------------------------------------------------------------------------


def test_cuda_without_a_gpu_or_a_slot_is_refused_naming_the_key(config):
    with pytest.raises(
        Refused, match=r"device is cuda, but this machine has no GPU that denoise, superresolve, regseg, classify could use"
    ):
        check_gpus({**config, "device": "cuda"}, 1, [])
    with pytest.raises(Refused, match="gpu=0 leaves no slot"):
        check_gpus({**config, "device": "cuda"}, 0, ["GPU-a"])
    check_gpus({**config, "device": "cuda"}, 2, ["GPU-a"])
    check_gpus({**config, "device": "cuda", "stages": ["acquire", "export"]}, None, [])
    check_gpus({**config, "device": "auto"}, 1, [])


# --- folders and disks -----------------------------------------------------------------------------------------


def test_a_read_only_folder_is_refused_naming_the_key(tmp_path):
    said = r"output: nothing can be written in .*/disk \(its file system is mounted read-only\)"
    with mounted(tmp_path / "disk", "ro,size=1m") as folder, pytest.raises(Refused, match=said):
        check_written({"output": str(folder / "results" / "deep")})
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"work: .*/file is a file where a folder is wanted"):
        check_written({"work": str(tmp_path / "file" / "work")})
    check_written({"work": str(tmp_path / "new" / "work")})


def test_a_disk_without_inodes_is_refused_before_any_job(config, tmp_path):
    with mounted(tmp_path / "disk", "size=64m,nr_inodes=40") as folder:
        here = {**config, "work": str(folder / "work")}
        make_cohort(here)
        with pytest.raises(Refused, match=r"has \d+ files free, one batch needs about 40 files"):
            preflight(here, str(Path(__file__).parents[2]))


def test_a_full_disk_a_quota_and_inodes_have_sentences_of_their_own(tmp_path):
    with mounted(tmp_path / "disk", "size=1m,nr_inodes=3") as folder:
        (folder / "a").touch()
        with pytest.raises(OSError) as caught:
            for name in "bcd":
                (folder / name).touch()
        assert "has no room for another file (inodes)" in no_space(folder, caught.value)
    with mounted(tmp_path / "other", "size=64k") as folder:
        with pytest.raises(OSError) as caught:
            (folder / "a").write_bytes(bytes(10**6))
        assert sentence_of(caught.value, str(folder)).startswith(f"the disk of {folder} is full; free some of it")
    assert "quota" in no_space(tmp_path, OSError(errno.EDQUOT, "")) and "read-only" in no_space(tmp_path, OSError(errno.EROFS, ""))
    assert "is full" in no_space(tmp_path / "gone", OSError(errno.ENOSPC, ""))


FILL = """
import sys
from pathlib import Path
import numpy as np
from cohortex.items import Image, Made
from cohortex.job import Job
from cohortex.stage import run_stage
from cohortex.volume import Volume
import cohortex.stage

work = Path(sys.argv[1])
job = Job("acquire", "b00001", work / "cohort/batches/b00001.tsv", None, None, work / "acquire/b00001", work / "records/acquire/b00001",
          work / ".running/acquire/b00001", work / "logs/acquire.log", {"default": {}}, {}, 1, "cpu", 1)
cohortex.stage.job_from = lambda snakemake: job

def fills(image, settings, model, seed):
    return Made(Volume(np.random.default_rng(1).normal(size=(100, 100, 100)).astype(np.float32), np.eye(4), "T1w"))

run_stage(None, fills)
"""


def test_a_disk_that_is_full_in_the_middle_of_a_job_ends_it_with_a_sentence_and_sets_no_image_aside(config, tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as folder:
        make_cohort({**config, "work": str(folder / "work")})
        done = subprocess.run([sys.executable, "-c", FILL, str(folder / "work")], capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert "the disk of" in last and "is full; free some of it" in last and "what is finished is kept" in last
        assert not (folder / "work" / "records" / "acquire").exists()
        assert not list((folder / "work").rglob("*.tmp")) and not list((folder / "work").rglob("*.done.json"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        again = subprocess.run([sys.executable, "-c", FILL, str(folder / "work")], capture_output=True, text=True)
        assert again.returncode == 0, again.stderr[-2000:]
        assert (folder / "work" / "records" / "acquire" / "b00001" / "manifest.tsv").is_file()
