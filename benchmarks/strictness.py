"""What a close look at files costs: CPU seconds of plain and of strict reading of one scan as NIfTI, DICOM and zarr.

    python -m benchmarks.strictness

One process of `benchmarks.robustness --only overhead`, which runs several. Last line: JSON, seconds of both by format.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import measured

TURNS, LONG_S = 15, 3.0
"""So many turns at least, and so many seconds of them, for every format."""


def compared(folder: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds of plain and of strict reading by format."""
    import nibabel
    import pydicom
    import zarr

    from benchmarks.files import scan
    from cohortex.io import read
    from tests.battery import dicom, zarr_folders

    values = np.asarray(scan()).astype(np.int16)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1, 1, 1]))  # type: ignore[attr-defined]
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, folder / name)  # type: ignore[attr-defined]
    (folder / "slices").mkdir()
    for z in range(values.shape[2]):
        pixels = values[:, :, z].T.astype(np.uint16)
        made = dicom.dataset(pixels, (0, 0, z), Modality="MR", RescaleIntercept=0, InstanceNumber=z + 1)
        made.save_as(folder / "slices" / f"{z:03d}.dcm", enforce_file_format=True)
    zarr_folders.saved(folder / "a.zarr", np.ascontiguousarray(values.T).astype(np.uint16), chunks=(64, 64, 64))

    def by_nibabel(name: str) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(nibabel.load(folder / name).dataobj, dtype=np.float32)  # type: ignore[attr-defined]

    def by_pydicom() -> np.ndarray:
        slices = sorted((pydicom.dcmread(path) for path in (folder / "slices").iterdir()), key=lambda each: each.ImagePositionPatient[2])
        return np.stack([each.pixel_array.astype(np.float32) * float(each.RescaleSlope) + float(each.RescaleIntercept) for each in slices])

    def by_zarr() -> np.ndarray:
        return np.asarray(zarr.open_group(folder / "a.zarr", mode="r")["0"][...], dtype=np.float32)  # type: ignore[index]

    plain = {"a.nii": by_nibabel("a.nii"), "a.nii.gz": by_nibabel("a.nii.gz"), "slices": by_pydicom, "a.zarr": by_zarr}
    found = {}
    for name, function in plain.items():

        def strict(name: str = name) -> np.ndarray:
            return np.asarray(read(folder / name)[0].data, dtype=np.float32)

        first, second = function(), strict()
        assert first.dtype == second.dtype and np.array_equal(first.T if name == "a.zarr" else first, seen(second, name)), name
        del first, second
        found[name] = in_turns(function, strict)
    found["all"] = (sum(each[0] for each in found.values()), sum(each[1] for each in found.values()))
    return found


def seen(values: np.ndarray, name: str) -> np.ndarray:
    """Return what was read strictly as the plain reading has it: pydicom's slices lie first, their rows before their columns."""
    return values.transpose(2, 1, 0) if name == "slices" else values


def in_turns(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Return the median CPU seconds of two functions that take turns, so that what else the machine does meets both."""
    pairs, start = [], time.monotonic()
    while len(pairs) < TURNS or time.monotonic() - start < LONG_S:
        pairs.append((measured(first, 1)[0], measured(second, 1)[0]))
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def main() -> None:
    """Measure, and say what was found."""
    with tempfile.TemporaryDirectory() as temporary:
        sys.stdout.write(json.dumps(compared(Path(temporary))) + "\n")


if __name__ == "__main__":
    main()
