"""Boxes that a user gives beside an image, as a table: read, checked, and brought to the axes of the acquired image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cohortex.cohort.table import read_table, some
from cohortex.errors import BadInput, Refused
from cohortex.io.geometry import to_ras
from cohortex.io.paths import check_file, shown_file, shown_word

AXES = "xyz"
CORNERS = tuple(f"{axis}_{end}" for end in ("low", "high") for axis in AXES)
"""Columns in voxels of the image, with half-open edges: a box over voxels 3 to 5 is from 3 to 6."""
CORNERS_MM = tuple(f"{name}_mm" for name in CORNERS)
"""Columns of an acquired table: the corners in the world (RAS, mm), where they stay when the image is put on another grid."""
BEYOND = 1.0
"""A box may reach so many voxels beyond its image, and is cut there."""


def read_boxes(path: Path, shape: Sequence[int], affine: np.ndarray, name: str) -> dict[str, list[str] | list[float]]:
    """Read the boxes of an image.

    Parameters
    ----------
    path : Path
        A table with tabs: ``label`` and `CORNERS`; of a picture (one slice) ``z_low`` and ``z_high`` may be left out. Other columns, as
        those of the tables that the stage `recognize` writes, are not looked at. A table without rows says that there is nothing.
    shape, affine : three ints, (4, 4) array
        Of the image as its file has it.
    name : str
        What messages call the table.

    Returns
    -------
    dict
        ``label``, `CORNERS` in voxels of the image on canonical axes (`cohortex.io.geometry.to_ras`), `CORNERS_MM`.

    Raises
    ------
    BadInput
        Those of `cohortex.io.paths.check_file`; ``bad-boxes``: a box without a label, that is no number, ends before it begins or lies
        outside the image. One bad box sets the whole table aside: an image with a thing that is not told of would teach that there is none.
    """
    check_file(path, name)
    flat = shape[2] == 1
    try:
        _, rows = read_table(path, ("label", *(column for column in CORNERS if not (flat and column[0] == "z"))))
    except Refused as refused:
        raise BadInput("bad-boxes", str(refused).replace(shown_file(path), name, 1)) from None
    found, wrong = [], []
    for line, row in rows:
        corners, why = _checked({"z_low": "0", "z_high": "1", **row} if flat else row, shape)
        if why:
            wrong.append(f"line {line}: {why}")
        found.append(corners)
    if wrong:
        raise BadInput("bad-boxes", f"{name}: {some(wrong)}; correct it, for an image of which a box is left out is not learned from.")
    corners = np.array(found).reshape(-1, 6)
    turned, corners_mm = _turned(corners, shape, affine)
    table: dict[str, list[str] | list[float]] = {"label": [row["label"] for _, row in rows]}
    table |= {column: turned[:, k].tolist() for k, column in enumerate(CORNERS)}
    return table | {column: corners_mm[:, k].tolist() for k, column in enumerate(CORNERS_MM)}


def _checked(row: Mapping[str, str], shape: Sequence[int]) -> tuple[list[float], str]:
    """Return the corners of a row, cut at the edges of the image, and what is wrong with them."""
    if not row["label"]:
        return [0.0] * 6, "it has no label"
    values = []
    for column in CORNERS:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            return [0.0] * 6, f"{column} is {shown_word(row[column])}, which is no number"
        values.append(value)
    for axis, letter in enumerate(AXES):
        low, high, length = values[axis], values[3 + axis], shape[axis]
        if low >= high:
            return values, f"{letter}_high is {high:g}, not above {letter}_low, which is {low:g}"
        if low < -BEYOND or high > length + BEYOND or low >= length or high <= 0:
            return values, f"{letter} is from {low:g} to {high:g}, outside the image, which has {length} voxels there"
        values[axis], values[3 + axis] = max(low, 0.0), min(high, float(length))
    return values, ""


def _turned(corners: np.ndarray, shape: Sequence[int], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (n, 6) on canonical axes, and their two corners in the world, (n, 6) in mm."""
    _, canonical = to_ras(np.broadcast_to(np.int8(0), tuple(shape)), affine)
    world = [to_world(corners[:, k : k + 3], affine) for k in (0, 3)]
    ends = [to_voxels(each, canonical) for each in world]
    turned = np.round(np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1), 6) + 0.0
    return turned, np.concatenate([to_world(turned[:, k : k + 3], canonical) for k in (0, 3)], axis=1)


def to_world(edges: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return places (n, 3) in the world, in mm, of edges of voxels; the middle of the first voxel is at half a voxel."""
    return (edges - 0.5) @ affine[:3, :3].T + affine[:3, 3]


def to_voxels(places: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return edges of voxels (n, 3) of places in the world, the reverse of `to_world`."""
    return (places - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T + 0.5
