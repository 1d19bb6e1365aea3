"""A disk that is full in the middle of writing is an error that blames no image, leaves nothing half-written and spares what was there."""

import errno
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.io.nifti import write_nifti
from cohortex.io.ozx import write_ozx
from cohortex.io.sharded import Sharded, publish_sharded
from cohortex.items import Image
from cohortex.publish import NO_SPACE
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume
from cohortex.worker import Item, Task, attempt
from tests.unit.test_acquire_lazy import nifti

NOISE = np.random.default_rng(0).normal(0, 99, (130, 80, 70)).astype(np.float32)
"""2.8 MB that no codec makes much smaller."""
VOLUME = Volume(NOISE, np.eye(4), "T1w")


@pytest.fixture(params=["disk", "limit"])
def full(request: Any, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Give what makes the folder `tmp_path / "out"` too small for the volume: a disk of 1 MB, or a limit of the size of a file."""
    out = tmp_path / "out"
    out.mkdir()
    if request.param == "limit":

        @contextmanager
        def limit() -> Iterator[None]:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        yield limit
        return
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if (
        not mount
        or not umount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)], capture_output=True).returncode
    ):
        pytest.skip("no small disk can be mounted here (that takes root)")

    @contextmanager
    def disk() -> Iterator[None]:
        yield

    yield disk
    subprocess.run([umount, str(out)], check=True)


def scratch_of_slices(folder: Path, source: Path) -> None:
    with planned(Plan(memory_mb=0, scratch=folder)):
        acquire(Image("1_T1w", "1", "", "T1w", "image", row={"path": str(source / "a.nii")}), {}, None, 0)


def scratch_of_gzip(folder: Path, source: Path) -> None:
    with planned(Plan(memory_mb=0, scratch=folder)):
        acquire(Image("1_T1w", "1", "", "T1w", "image", row={"path": str(source / "a.nii.gz")}), {}, None, 0)


def sharded(folder: Path, source: Path) -> None:
    array = Sharded.create(folder, VOLUME.shape)
    try:
        array[:, :, :] = NOISE
        publish_sharded(folder / "old", VOLUME.with_data(array))
    finally:
        # as the sweep of a running folder does
        shutil.rmtree(array.path)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "scratch of slices": scratch_of_slices,
    "scratch of gzip": scratch_of_gzip,
    "ozx": lambda folder, source: write_ozx(folder / "old", VOLUME, threads=2),
    "nii.gz": lambda folder, source: write_nifti(folder / "old", VOLUME, threads=2),
    "nii": lambda folder, source: write_nifti(folder / "old", VOLUME, compress=False),
    "sharded": sharded,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_blames_no_image_and_leaves_nothing_behind(tmp_path: Path, full: Callable[[], Any], writer: str) -> None:
    nifti(tmp_path / "a.nii", NOISE, np.eye(4))
    nifti(tmp_path / "a.nii.gz", NOISE, np.eye(4))
    out = tmp_path / "out"
    (out / "old").write_bytes(b"old")

    def write() -> None:
        with full():
            WRITERS[writer](out, tmp_path)

    image = Image("1_T1w", "1", "", "T1w", "image")
    task = Task("acquire", "image", acquire, None, {}, {}, {}, "cpu", 1, tmp_path, print)
    number = 0
    try:
        # an error of an image would come back as a row of the manifest
        attempt(task, Item("1_T1w", (image,), "", 0), write)
    except OSError as error:
        number = error.errno or 0
        del error
    assert number in NO_SPACE
    assert number in (errno.ENOSPC, errno.EFBIG)
    assert [path.name for path in out.iterdir()] == ["old"]
    assert (out / "old").read_bytes() == b"old"


def test_nothing_is_written_any_more_once_the_error_is_told(tmp_path: Path) -> None:
    # shards are written by several threads: a folder to which one still writes cannot be removed
    noise = np.tile(NOISE, (2, 2, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for _ in range(5):
        array = Sharded.create(tmp_path, noise.shape)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, hard))
            with pytest.raises(OSError, match="File too large"):
                array[:, :, :] = noise
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        shutil.rmtree(array.path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    # the second half of the file is lost while it is read
    path = nifti(tmp_path / "a.nii", NOISE, np.eye(4))
    image = Image("1_T1w", "1", "", "T1w", "image", row={"path": str(path)})
    from cohortex.io import read

    volume = read(path)[0]
    with path.open("r+b") as file:
        file.truncate(NOISE.nbytes // 2)
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        with pytest.raises(BadInput, match=r"a\.nii ends inside its voxels"):
            volume.array()
        with pytest.raises(BadInput, match="declares 130x80x70 voxels"):
            acquire(image, {}, None, 0)
