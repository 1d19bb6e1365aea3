"""Labels of 100 classes from a network's logits onto the grid of the scan, saved: part of `python -m benchmarks.inference`.

The scores are made of the real labels of a T1 brain (46 FreeSurfer labels, each cut in pieces until there are 100 classes): every class
scores minus its clipped distance to the voxel plus smooth noise, on a grid of 1.9 mm as a network would give them; the labels are wanted
at 1 mm and saved as .nii.gz. Compared is what nnU-Net's export does: every class by skimage's resize of order 1 in double precision, the
largest of all, and SimpleITK's writer (Isensee et al., Nature Methods 18, 2021). It is given one float32 array to write to, where nnU-Net
stacks double ones. Each side runs in a child process of one thread; CPU seconds are of the work after imports and loading, kernels
compiled before; memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import Table, child, peak_mb

CLASSES = 100
FACTOR = 1.9
BRAIN = Path(__file__).resolve().parents[2] / "shared" / "data" / "brain-t1-labels" / "subject_a.npz"


def make(folder: Path) -> tuple[int, int, int]:
    """Write `scores.npy` (K, x, y, z) float32 and return the shape wanted."""
    from scipy import ndimage

    if BRAIN.is_file():
        labels = np.load(BRAIN)["seg"].astype(np.int32)
    else:
        print("The labelled brain is not here; balls stand in for it.")
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in (160, 192, 224)], indexing="ij"), -1)
        centres = np.random.default_rng(1).uniform(20, 140, (45, 3))
        distances = np.stack([np.linalg.norm(grid - centre, axis=-1).astype(np.float32) for centre in centres])
        labels = np.where(distances.min(0) < 25, 1 + distances.argmin(0), 0)
    coarse = tuple(round(n / FACTOR) for n in labels.shape)
    index = np.ix_(*[np.minimum((np.arange(c) + 0.5) * n / c, n - 1).astype(int) for c, n in zip(coarse, labels.shape, strict=True)])
    small = np.unique(labels[index], return_inverse=True)[1].reshape(coarse)
    generator = np.random.default_rng(0)
    # the largest structures are cut in halves along their longest axis until there are enough classes
    while (count := int(small.max()) + 1) < CLASSES:
        sizes = np.bincount(small.reshape(-1))
        sizes[0] = 0
        places = np.argwhere(small == sizes.argmax())
        axis = int(np.ptp(places, axis=0).argmax())
        far = places[places[:, axis] > np.median(places[:, axis])]
        if not len(far):
            far = places[len(places) // 2 :]
        small[tuple(far.T)] = count
    scores = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float32, (CLASSES, *coarse))
    for k in range(CLASSES):
        outside, within = (np.asarray(ndimage.distance_transform_edt(mask)) for mask in (small != k, small == k))
        noise = ndimage.gaussian_filter(generator.standard_normal(coarse, dtype=np.float32), 1.5)
        scores[k] = -np.clip(outside - within, -6, 15) + 2 * noise
    scores.flush()
    return labels.shape


def ours(folder: Path, shape: tuple[int, int, int], lazy: bool) -> float:
    """Resample, save and return the CPU seconds."""
    from cohortex.filters.scores import labels_from_scores
    from cohortex.io.nifti import write_nifti
    from cohortex.volume import Volume

    labels_from_scores(np.zeros((2, 3, 3, 3), np.float32), np.eye(4), (2, 2, 2))
    write_nifti(folder / "warm.nii.gz", Volume(np.zeros((8, 8, 8), np.uint8), np.eye(4), kind="labels"))
    scores = FromDisk(folder / "scores.npy") if lazy else np.load(folder / "scores.npy")
    start = time.process_time()
    matrix = np.eye(4)
    for axis in range(3):
        step = scores.shape[1 + axis] / shape[axis]
        matrix[axis, axis], matrix[axis, 3] = step, 0.5 * step - 0.5
    labels = labels_from_scores(scores, matrix, shape)
    write_nifti(folder / "ours.nii.gz", Volume(labels, np.eye(4), kind="labels"))
    return time.process_time() - start


def theirs(folder: Path, shape: tuple[int, int, int]) -> float:
    """Do the same class by class."""
    import SimpleITK
    from skimage.transform import resize

    resize(np.zeros((3, 3, 3)), (2, 2, 2), 1)
    scores = np.load(folder / "scores.npy")
    start = time.process_time()
    scores = scores.astype(float)
    resampled = np.empty((len(scores), *shape), np.float32)
    for k in range(len(scores)):
        resampled[k] = resize(scores[k], shape, 1, mode="edge", anti_aliasing=False)
    labels = resampled.argmax(0).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels.transpose()), str(folder / "theirs.nii.gz"))
    return time.process_time() - start


class FromDisk:
    """Scores in a file of which no more than what is asked for is ever in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = np.load(path, mmap_mode="r").shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        classes, x, y, z = (range(*part.indices(n)) for part, n in zip(key, self.shape, strict=True))
        _, planes, rows, row = self.shape
        out = np.empty((len(classes), len(x), len(y), len(z)), np.float32)
        lines = np.empty((len(y), row), np.float32)
        with self.path.open("rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
            for k in classes:
                for i in x:
                    file.seek(begin + 4 * row * (rows * (planes * k + i) + y.start))
                    file.readinto(lines.data.cast("B"))
                    out[k - classes.start, i - x.start] = lines[:, z.start : z.stop]
        return out


def compared() -> tuple[dict[str, Table], dict[str, float]]:
    """Make the scores, run all sides, print the table and return the figures."""
    import nibabel

    from cohortex.io.nifti import read_nifti

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = make(folder)
        scores = np.load(folder / "scores.npy", mmap_mode="r")
        print(f"{CLASSES} classes on {scores.shape[1:]} ({scores.nbytes / 2**20:.0f} MB) to labels on {shape}, saved as .nii.gz")
        table = Table({"way": "", "CPU s": ".2f", "peak MB": ".0f", "times faster": ".1f", "times less memory": ".1f", ".nii.gz kB": ".0f"})
        sides = {
            "theirs": "every class by skimage's `resize` (order 1), then the largest, as nnU-Net's export",
            "ours": "Cohortex, logits in memory",
            "lazy": "Cohortex, logits read in slabs from the disk",
        }
        found: dict[str, tuple[float, float]] = {}
        for side, words in sides.items():
            told = child("benchmarks.export100", side, folder, *shape)
            found[side] = told["seconds"], told["peak_mb"]
            kilobytes = (folder / told["file"]).stat().st_size / 1e3
            times, less = (theirs / own for theirs, own in zip(found["theirs"], found[side], strict=True))
            table.add(words, *found[side], times, less, kilobytes)
            reference = np.asarray(nibabel.load(folder / "theirs.nii.gz").dataobj)  # type: ignore[attr-defined]
            equal = float(np.mean(read_nifti(folder / told["file"]).array() == reference))
            if equal < 0.999:
                raise SystemExit(f"only {equal:.4%} of the labels are equal")
    return {"export100": table}, {"export100_time": times, "export100_memory": less}


def main() -> None:
    """Run one side in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "lazy", "theirs"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("shape", type=int, nargs=3)
    options = parser.parse_args()
    from cohortex.threads import set_threads

    set_threads(1)
    shape = tuple(options.shape)
    seconds = theirs(options.folder, shape) if options.side == "theirs" else ours(options.folder, shape, options.side == "lazy")
    file = "theirs.nii.gz" if options.side == "theirs" else "ours.nii.gz"
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "file": file}))


if __name__ == "__main__":
    main()
