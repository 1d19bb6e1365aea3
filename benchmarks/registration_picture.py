"""The picture of docs/registration.md: a simulated CT brought to a deformed T1w of the same head.

python -m benchmarks.registration_picture docs/images/registration.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.registration_data import pairs
from cohortex.registration.fields import warped
from cohortex.registration.gauss_newton import register

SEED, CROP, TILE = 6, 128, 16


def checkered(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return two images (X, Y) in turns, tile by tile."""
    i, j = np.indices(one.shape) // TILE
    return np.where((i + j) % 2 == 0, one, two)


def main() -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    pair = next(pairs(Path("no such folder"), CROP, 1, 1, ("multi",), SEED))
    found = register(pair.fixed, pair.moving).displacement
    k = CROP // 2
    moved = warped(pair.moving, found)[:, :, k]
    fixed, moving = pair.fixed[:, :, k], pair.moving[:, :, k]
    lengths = [np.where(pair.head, np.linalg.norm(u - pair.truth, axis=0), np.nan)[:, :, k] for u in (np.zeros_like(found), found)]
    figure, axes = plt.subplots(2, 3, figsize=(10, 7), layout="constrained")
    grey = {"cmap": "gray", "origin": "lower", "vmin": 0, "vmax": 1}
    shown = (("T1w, deformed (fixed)", fixed), ("CT (moving)", moving), ("CT, moved", moved))
    for axis, (title, image) in zip(axes[0], shown, strict=True):
        axis.imshow(image.T, **grey)
        axis.set_title(title)
    # Lines of the CT's grid, every 8 mm, where they lie now.
    for places in np.indices(fixed.shape) + found[:2, :, :, k]:
        axes[0, 2].contour(places.T, np.arange(0, CROP, 8), colors="c", linewidths=0.4)
    axes[1, 0].imshow(checkered(fixed, moved).T, **grey)
    axes[1, 0].set_title("T1w and moved CT in turns")
    for axis, error, title in zip(axes[1, 1:], lengths, ("before", "after"), strict=True):
        drawn = axis.imshow(error.T, cmap="viridis", origin="lower", vmin=0, vmax=6)
        axis.set_title(f"error {title}: {np.nanmean(error):.2f} mm")
    figure.colorbar(drawn, ax=axes[1, 1:], label="mm", shrink=0.8)
    for axis in axes.flat:
        axis.set_axis_off()
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=70)


if __name__ == "__main__":
    main()
