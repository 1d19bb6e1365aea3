"""Affine transforms as ITK writes them: text, points in LPS millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cohortex.errors import BadInput
from cohortex.publish import write_text

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Between RAS and LPS, in either direction."""


def write_affine(path: Path, affine: np.ndarray) -> None:
    """Write a transform from the world of the fixed to that of the moving image, atomically.

    Parameters
    ----------
    path : Path
    affine : (4, 4) array
        RAS mm to RAS mm; ITK, too, maps points of the fixed image into the moving one, so nothing is inverted.

    Raises
    ------
    ValueError
        When it is no affine.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], [0, 0, 0, 1]):
        raise ValueError("an affine transform is a finite 4 x 4 matrix with the last row 0 0 0 1")
    lps = FLIP @ affine @ FLIP
    numbers = " ".join(f"{value:.17g}" for value in [*lps[:3, :3].reshape(-1), *lps[:3, 3]])
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
    )


def read_affine(path: Path) -> np.ndarray:
    """Read what `write_affine` wrote: (4, 4) float64, RAS mm.

    Raises
    ------
    BadInput
        ``not-a-transform``.
    """
    words = dict(line.split(": ", 1) for line in path.read_text(encoding="utf-8").splitlines() if ": " in line)
    try:
        numbers = [float(word) for word in words["Parameters"].split()]
        centre = np.array([float(word) for word in words["FixedParameters"].split()])
        matrix = np.array(numbers[:9]).reshape(3, 3)
        lps = np.eye(4)
        lps[:3, :3] = matrix
        lps[:3, 3] = np.array(numbers[9:12]) + centre - matrix @ centre
    except (KeyError, ValueError):
        raise BadInput("not-a-transform", f"{path.name} is no ITK affine transform: write it with three-dimensional parameters.") from None
    return FLIP @ lps @ FLIP
