"""Speed of the files, beside nibabel, scipy and themselves: `python -m benchmarks.files`.

The scan is the MNI152 T1 that nilearn ships, with 3 % Rician noise (197 x 233 x 189 voxels of 1 mm); rows of a real T2w come along where
it is at hand. CPU seconds of one thread, the least of several runs, compiled code loaded before; arrays lie as nibabel has them, the first
axis fastest, unless said otherwise. Every result is compared before its time counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import nilearn
import numpy as np

from benchmarks.record import Run, Table, add_save, measured
from cohortex.filters.median import median
from cohortex.io.nifti import read_nifti, write_nifti
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.threads import set_threads
from cohortex.volume import Volume

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = SHARED / "brain-ms-longitudinal" / "patient01" / "raw" / "study1_T2W.nii.gz"
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
MEDIAN_MM = 1.0
BLOCKS = 12


def scan() -> np.ndarray:
    """Return the MNI152 T1 with noise, float32, 0 to about 4000."""
    path = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    values = np.asarray(image.dataobj, dtype=np.float32)
    values /= values.max()
    generator = np.random.default_rng(0)
    real, imaginary = (0.03 * generator.standard_normal(values.shape, dtype=np.float32) for _ in range(2))
    return np.asfortranarray(4000 * np.hypot(values + real, imaginary))


def nib_save(array: np.ndarray, path: Path) -> None:
    """Write as users of nibabel do."""
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)  # type: ignore[attr-defined]


def nib_load(path: Path) -> np.ndarray:
    """Read as users of nibabel do, but without its double precision."""
    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    return image.get_fdata(dtype=np.float32)


def write(array: np.ndarray, folder: Path, label: str, table: Table) -> float:
    """Print and return how many times faster than nibabel an array is written, at no larger size."""
    theirs, ours = folder / "theirs.nii.gz", folder / "ours.nii.gz"
    volume = Volume(array, AFFINE)
    slow, fast = measured(lambda: nib_save(array, theirs), 2)[0], measured(lambda: write_nifti(ours, volume), 5)[0]
    if not np.array_equal(np.asarray(nibabel.load(ours).dataobj), array):  # type: ignore[attr-defined]
        raise SystemExit("nibabel reads other values than were written")
    size = ours.stat().st_size / theirs.stat().st_size
    table.add(f"write .nii.gz, {label}", "nibabel", slow, fast, slow / fast, size)
    return slow / fast


def step(array: np.ndarray, folder: Path, table: Table) -> float:
    """Read, median of 3^3, write: against nibabel and scipy."""
    from scipy import ndimage

    source, theirs, ours = folder / "scan.nii.gz", folder / "theirs.nii.gz", folder / "ours.nii.gz"
    nib_save(array, source)

    def slow() -> None:
        nib_save(ndimage.median_filter(nib_load(source), size=3, mode="reflect"), theirs)

    def fast() -> None:
        volume = read_nifti(source)
        # a box is the same from every side, so the axes are turned and no voxel is moved
        turned = np.asarray(volume.data).transpose().astype(np.float32)
        write_nifti(ours, volume.with_data(median(turned, volume.spacing[::-1], MEDIAN_MM).transpose()))

    fast()
    a, b = measured(slow, 1)[0], measured(fast, 3)[0]
    if not np.array_equal(nib_load(theirs), nib_load(ours)):
        raise SystemExit("the medians differ")
    table.add(".nii.gz int16, median 3^3, .nii.gz float32", "nibabel + scipy", a, b, a / b, None)
    read = measured(lambda: read_nifti(source), 3)[0]
    values = read_nifti(source).array(np.float32)
    filtered = measured(lambda: median(values, (1.0, 1.0, 1.0), MEDIAN_MM), 2)[0]
    table.add("of this, reading", "", None, read, None, None)
    table.add("of this, the median", "", None, filtered, None, None)
    return a / b


def block(array: np.ndarray, folder: Path, table: Table) -> float:
    """A random block of 64^3 voxels out of .ozx and out of .nii.gz (nibabel's slicing, which reads up to the block)."""
    nib_save(array, folder / "scan.nii.gz")
    write_ozx(folder / "scan.ozx", Volume(array, AFFINE))
    generator = np.random.default_rng(1)
    corners = [tuple(int(generator.integers(0, n - 64)) for n in array.shape) for _ in range(BLOCKS)]
    boxes = [tuple(slice(a, a + 64) for a in corner) for corner in corners]

    def from_nifti() -> list[np.ndarray]:
        return [np.asarray(nibabel.load(folder / "scan.nii.gz").dataobj[box]) for box in boxes]  # type: ignore[attr-defined]

    def from_ozx() -> list[np.ndarray]:
        return [np.asarray(read_ozx(folder / "scan.ozx").data[box]) for box in boxes]

    for a, b, box in zip(from_nifti(), from_ozx(), boxes, strict=True):
        if not (np.array_equal(a, b) and np.array_equal(b, array[box])):
            raise SystemExit("the blocks differ")
    slow, fast = measured(from_nifti, 1)[0] / BLOCKS, measured(from_ozx, 3)[0] / BLOCKS
    table.add("random block of 64^3, .ozx against .nii.gz, file opened every time", "nibabel", slow, fast, slow / fast, None)
    return slow / fast


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_save(parser)
    options = parser.parse_args()
    set_threads(1)
    run = Run("files", ["numpy", "nibabel", "scipy", "isal"])
    columns = {"what": "", "library": "", "library's CPU s": ".4f", "CPU s": ".4f", "times faster": ".1f"}
    table, figures = Table(columns | {"size, of nibabel's": ".3f"}), {}
    values = scan()
    whole = values.astype(np.int16)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        write_nifti(folder / "warm.nii.gz", Volume(np.zeros((4, 4, 4), np.int16), AFFINE))
        median(np.zeros((8, 8, 8), np.float32), (1.0, 1.0, 1.0), MEDIAN_MM)
        figures["write_int16_vs_nibabel"] = write(whole, folder, "int16", table)
        figures["write_float32_vs_nibabel"] = write(values, folder, "float32", table)
        write(np.ascontiguousarray(whole), folder, "int16, last axis fastest", table)
        if REAL.is_file():
            real: Any = nibabel.load(REAL)  # type: ignore[attr-defined]
            found = np.asfortranarray(np.asarray(real.dataobj).astype(np.int16))
            write(found, folder, "int16, a real T2w (406 x 448 x 36)", table)
            write(found.astype(np.float32), folder, "float32 of whole numbers, the same", table)
        figures["step_vs_nibabel"] = step(whole, folder, table)
        figures["block_vs_nifti"] = block(whole, folder, table)
    run.end({"files": table}, figures, options.save)


if __name__ == "__main__":
    main()
