"""Where the slices of a DICOM series lie, and every way in which they may not make a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import lps_to_ras
from cohortex.io.series import Note

FEWEST_SLICES = 3
REGULAR = 1e-2
TOLERATED = 0.1
MAX_TILT_DEGREES = 0.5


@dataclass
class Slice:
    """One frame with what geometry needs (LPS, mm).

    Attributes
    ----------
    file : str
        How messages call its file.
    frame : int
        Index inside the file.
    order : tuple
        What tells frames at one position apart (time, echo), then its number.
    """

    file: str
    frame: int
    data: Any
    rows: int
    columns: int
    position: np.ndarray
    orientation: np.ndarray
    pixel: tuple[float, float]
    order: tuple[float, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def by_orientation(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Split slices into groups of one orientation (within 0.5 degrees), the largest first."""
    groups: list[list[Slice]] = []
    for item in slices:
        for group in groups:
            if np.abs(group[0].orientation - item.orientation).max() < np.radians(MAX_TILT_DEGREES):
                group.append(item)
                break
        else:
            groups.append([item])
    return sorted(groups, key=len, reverse=True)


def arrange(slices: Sequence[Slice], name: str, notes: list[Note]) -> tuple[list[list[Slice]], np.ndarray]:
    """Put the slices of one orientation in order.

    Returns
    -------
    volumes : list of list of Slice
        One list a volume (time point, echo), each from the first to the last slice along the normal.
    affine : (4, 4) array
        From indices (column, row, slice) to RAS mm.

    Raises
    ------
    BadInput
        ``mixed-geometry``, ``too-few-slices``, ``duplicate-slices``, ``missing-slices``, ``varying-spacing``, ``gantry-tilt``.
    """
    first = slices[0]
    _check_alike(slices, name)
    along = np.array([item.position @ first.normal for item in slices])
    places = _places(slices, along)
    volumes = _volumes(places, name, notes)
    line = volumes[0]
    if len(line) < FEWEST_SLICES:
        raise BadInput(
            "too-few-slices", f"{name} has {len(line)} slices where a volume needs {FEWEST_SLICES}: take the series out of the table."
        )
    _check_spacing(line, first.normal, name, notes)
    step = (line[-1].position - line[0].position) / (len(line) - 1)
    _check_line(line, step, first.normal, name)
    row_mm, column_mm = first.pixel
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * column_mm
    affine[:3, 1] = first.orientation[3:] * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = line[0].position
    return volumes, lps_to_ras(affine)


def _check_alike(slices: Sequence[Slice], name: str) -> None:
    first = slices[0]
    for item in slices:
        if (item.rows, item.columns) != (first.rows, first.columns):
            found = f"{first.columns}x{first.rows} ({first.file}) and {item.columns}x{item.rows} ({item.file})"
            raise BadInput("mixed-geometry", f"{name} has slices of different sizes, {found}: keep the slices of one series.")
        if np.abs(np.subtract(item.pixel, first.pixel)).max() > 1e-3 * min(first.pixel):
            raise BadInput(
                "mixed-geometry", f"{name} has slices of different pixel sizes ({first.file}, {item.file}): keep the slices of one series."
            )


def _places(slices: Sequence[Slice], along: np.ndarray) -> list[list[Slice]]:
    """Group slices that lie at one position, in order along the normal."""
    order = np.argsort(along, kind="stable")
    places: list[list[Slice]] = []
    last = -np.inf
    for i in order:
        if along[i] - last > 1e-2:
            places.append([])
            last = along[i]
        places[-1].append(slices[i])
    return places


def _volumes(places: list[list[Slice]], name: str, notes: list[Note]) -> list[list[Slice]]:
    counts = {len(place) for place in places}
    if counts == {1}:
        return [[place[0] for place in places]]
    if len(counts) == 1:
        orders = [[item.order for item in sorted(place, key=lambda item: item.order)] for place in places]
        if all(len(set(order)) == len(order) for order in orders):
            return [[sorted(place, key=lambda item: item.order)[k] for place in places] for k in range(counts.pop())]
    # copies of a slice under another name are harmless, anything else at one place is not
    dropped = 0
    for place in places:
        for other in place[1:]:
            if not np.array_equal(other.extra["pixels"](), place[0].extra["pixels"]()):
                raise BadInput(
                    "duplicate-slices",
                    f"{name} has different slices at the same position ({place[0].file}, {other.file}): keep one series, or one volume.",
                )
            dropped += 1
    notes.append(("duplicate-slices", f"{name} holds {dropped} identical copies of slices; they were left out."))
    return [[place[0] for place in places]]


def _check_spacing(line: Sequence[Slice], normal: np.ndarray, name: str, notes: list[Note]) -> None:
    along = np.array([item.position @ normal for item in line])
    steps = np.diff(along)
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    off = abs(float(steps[worst]) - usual)
    if off <= max(REGULAR * usual, 5e-3):
        return
    between = f"between {line[worst].file} and {line[worst + 1].file} they are {steps[worst]:.4g} mm apart, elsewhere {usual:.4g} mm"
    missing = steps[worst] / usual - 1
    if missing > 0.5 and abs(missing - round(missing)) < TOLERATED:
        total = int(np.round(steps / usual - 1).clip(0).sum())
        raise BadInput("missing-slices", f"{name} lacks {total} of {len(line) + total} slices: {between}; copy the missing files.")
    if off > max(TOLERATED * usual, 5e-3):
        raise BadInput("varying-spacing", f"{name} has slices at uneven distances: {between}; resample or split the series.")
    notes.append(("uneven-spacing", f"{name} has slightly uneven slices: {between}; an even grid was assumed."))


def _check_line(line: Sequence[Slice], step: np.ndarray, normal: np.ndarray, name: str) -> None:
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > MAX_TILT_DEGREES:
        raise BadInput(
            "gantry-tilt", f"{name} has slices that are stacked at {tilt:.1f} degrees to their normal (a tilted gantry): resample it first."
        )
    positions = np.array([item.position for item in line])
    drift = positions - positions[0] - np.arange(len(line))[:, None] * step
    across = np.linalg.norm(drift - (drift @ normal)[:, None] * normal, axis=1)
    if across.max() > 0.5 * min(line[0].pixel):
        worst = line[int(across.argmax())].file
        raise BadInput(
            "mixed-geometry", f"{name} has slices that do not lie on one line ({worst} is {across.max():.3g} mm beside it): split it."
        )
