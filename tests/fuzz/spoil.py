"""Small good files of every format, ways to spoil them by a seed, and what a reader makes of the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import yaml
from PIL import Image as Picture

from cohortex.cohort.table import read_cohort_table
from cohortex.config import check_config, check_files
from cohortex.errors import BadInput, Refused, Skip
from cohortex.io.ozx import write_ozx
from cohortex.items import Image
from cohortex.models.folder import read_model, write_model
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume
from tests.battery import dicom, kspace, models, zarr_folders
from tests.battery.nifti import AFFINE, nifti
from tests.unit.test_acquire_lazy import through_itk

RNG = np.random.default_rng(3)
SMALL = RNG.integers(1, 900, (9, 10, 8)).astype(np.int16)
MOST_S = 20.0
"""A file of some kilobytes that takes longer hangs."""
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
EXTREMES = (0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63))


def good_dicom(folder: Path) -> Path:
    return dicom.enhanced(range(4), folder)


def good_raw(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["kspace"] = kspace.coils()[:2, :2]
        file["ismrmrd_header"] = kspace.header()
    return folder / "a.h5"


def good_ozx(folder: Path) -> Path:
    write_ozx(folder / "a.ozx", Volume(SMALL.astype(np.float32), AFFINE, "T1w"))
    return folder / "a.ozx"


def good_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", SMALL.astype(np.uint16), photometric="minisblack", compression="zlib")
    return folder / "a.tif"


def picture(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Picture.fromarray(RNG.integers(0, 255, (24, 30), np.uint8)).save(folder / name)
        return folder / name

    return make


def good_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", kspace.coils()[0])
    return folder / "a.npy"


def good_table(folder: Path) -> Path:
    (folder / "a.tsv").write_text(
        "subject\tsession\tmodality\tpath\tage\n" + "".join(f"{i:03d}\t1\tT1w\ta{i}.nii\t{i}.5\n" for i in range(6))
    )
    return folder / "a.tsv"


def good_config(folder: Path) -> Path:
    text = "input: demo\nwork: w\noutput: r\nbatch_size: 4\nselect:\n  suffix: [T1w, CT]\ndenoise:\n  CT: {method: transform}\nseed: 3\n"
    (folder / "a.yaml").write_text(text)
    return folder / "a.yaml"


def good_model(folder: Path) -> Path:
    write_model(folder / "m", models.CARD, {"a": np.ones((3, 3), np.float32), "b": np.zeros(2, np.int64)})
    return folder / "m"


GOOD: dict[str, Callable[[Path], Path]] = {
    "nifti": lambda folder: nifti(folder / "a.nii", SMALL),
    "nifti gzip": lambda folder: nifti(folder / "a.nii.gz", SMALL),
    "dicom": good_dicom,
    "hdf5": good_raw,
    "zarr": lambda folder: zarr_folders.saved(folder / "a.zarr", SMALL.astype(np.uint16)),
    "zarr 2": lambda folder: zarr_folders.saved(folder / "a.zarr", SMALL.astype(np.uint16), form=2),
    "ozx": good_ozx,
    "tiff": good_tiff,
    "nrrd": lambda folder: through_itk(folder / "a.nrrd", SMALL, AFFINE, True),
    "metaimage": lambda folder: through_itk(folder / "a.mha", SMALL, AFFINE, True),
    "npy": good_npy,
    "png": picture("a.png"),
    "jpeg": picture("a.jpg"),
    "table": good_table,
    "config": good_config,
    "model": good_model,
}
"""What makes a good file, or folder, by its format."""


def spoiled(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes after one to four changes: bits, bytes, numbers, cuts, insertions, copies."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        size = max(len(data), 1)
        # headers are where it hurts, so half of the changes fall into the first 600 bytes
        at = int(rng.integers(min(size, 600))) if rng.random() < 0.5 else int(rng.integers(size))
        length = int(2 ** rng.uniform(0, 8))
        kind = rng.integers(7)
        if not data:
            return bytes(data)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = INTERESTING[rng.integers(len(INTERESTING))]
        elif kind == 2:
            width = (1, 2, 4, 8)[rng.integers(4)]
            number = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, ("little", "big")[rng.integers(2)])
        elif kind == 3:
            del data[at : size if rng.random() < 0.3 else at + length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
        else:
            digits = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
            if digits:
                data[digits[rng.integers(len(digits))]] = 48 + int(rng.integers(10))
    return bytes(data)


def spoil(good: Path, bad: Path, rng: np.random.Generator) -> None:
    """Copy a good file or folder and spoil it; of a folder one file."""
    if not good.is_dir():
        bad.write_bytes(spoiled(good.read_bytes(), rng))
        return
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    files = sorted(path for path in bad.rglob("*") if path.is_file())
    chosen = files[rng.integers(len(files))]
    chosen.write_bytes(spoiled(chosen.read_bytes(), rng))


def read_spoiled(form: str, path: Path) -> str:
    """Return what came of a file: ``taken``, ``skipped``, a code, or ``refused``; anything else is raised.

    Raises
    ------
    Exception
        What no reader may raise.
    TimeoutError
        It took longer than `MOST_S`.
    """
    start = time.monotonic()
    try:
        use(form, path)
        found = "taken"
    except BadInput as bad:
        found = bad.code
        assert bad.sentence, "a code without a sentence"
        assert len(bad.sentence) < 600, "a sentence of more than 600 letters"
    except Skip:
        found = "skipped"
    except Refused as error:
        found = "refused"
        assert str(error), "refused without a sentence"
    if time.monotonic() - start > MOST_S:
        raise TimeoutError(form)
    return found


def use(form: str, path: Path) -> Any:
    """Give a file to whom it is for."""
    if form == "table":
        return read_cohort_table(path, ["T1w", "CT"])
    if form == "config":
        check_files([path])
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return check_config(content) if isinstance(content, dict) else None
    if form == "model":
        return read_model(path)
    modality = "CT" if form == "dicom" else "T1w"
    image = Image("1_x", "1", "", modality, "image", "image", row={"path": str(path), "root": str(path.parent)})
    made = acquire(image, {"volume": "each", "spacing_mm": (1.0, 1.0, 1.0)}, None, 0)
    return [np.asarray(each.content.data[...]) for each in (made if isinstance(made, list) else [made]) if isinstance(each.content, Volume)]
