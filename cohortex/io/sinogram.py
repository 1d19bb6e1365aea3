"""Parallel-beam projections in the Data Exchange layout (HDF5), reconstructed by filtered backprojection a few slices at a time.

De Carlo et al., Scientific data exchange: a schema for HDF5-based storage of raw and analyzed data, J Synchrotron Rad 21 (2014) 1224-1230.
A detector row sees one slice, so slices need nothing of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import COPIES, plan
from cohortex.errors import BadInput
from cohortex.io.geometry import FINEST_MICROSCOPY_MM, centred_affine, check_affine
from cohortex.io.hdf5 import attribute, member, opened
from cohortex.io.series import Note, read_step
from cohortex.io.slices import Slices
from cohortex.volume import Volume

METHOD = "filtered backprojection, ramp filter"
EVEN = 0.05
"""Share of a step by which views may be off an even spread."""
LEAST = 1e-6
"""Of the beam: what is darker is noise of the detector."""


@dataclass(frozen=True)
class Projections:
    """What is known of the projections of a file before they are read.

    Attributes
    ----------
    shape : (views, rows, columns)
        Views that are used.
    angles : (views,) array
        Radians, evenly spread over one or two half turns.
    dark, beam : (rows, columns) float32 arrays
        Counts without a beam, and those of the beam alone above them; 0 where the detector is dead.
    axis : float
        The column onto which the axis of rotation falls, a multiple of 1/2.
    pixel_mm : float
    """

    path: Path
    name: str
    shape: tuple[int, int, int]
    angles: np.ndarray
    dark: np.ndarray
    beam: np.ndarray
    axis: float
    pixel_mm: float

    @property
    def width(self) -> int:
        """Voxels along either side of a slice: the circle that every view sees."""
        return 2 * math.floor(min(self.axis, self.shape[2] - 1 - self.axis)) + 1

    def read(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield slices (x, y), attenuation in 1/mm."""
        from cohortex.physics.ct import fbp

        views, _, columns = self.shape
        # many files keep a projection in one piece, so that one row costs as much as several
        most = max(1, plan().memory_mb * 2**20 // COPIES // (4 * views * columns))
        before = math.ceil(2 * max(self.axis, columns - 1 - self.axis)) - (columns - 1)
        left, right = (before, 0) if self.axis < (columns - 1) / 2 else (0, before)
        for rows in _runs(wanted, most):
            with opened(self.path, self.name) as file:
                counts = file["exchange/data"][:views, rows.start : rows.stop, :]
            integrals = _integrals(counts, self.dark[rows.start : rows.stop], self.beam[rows.start : rows.stop], self.name)
            # the axis in the middle; nothing attenuates beside the detector
            rays = np.pad(integrals.transpose(0, 2, 1), ((0, 0), (left, right), (0, 0)))
            made = fbp(rays, self.angles, self.pixel_mm, (self.width, self.width))
            yield from (made[:, :, k] for k in range(len(rows)))


def read_projections(path: Path, group: Any, name: str, spacing_mm: Sequence[float] | None) -> list[Volume]:
    """Reconstruct the group ``exchange`` of a file, a few slices at a time when they are indexed.

    ``data`` has axes (view, row, column), ``data_white`` and ``data_dark`` are taken without the sample and without the beam, ``theta`` are
    the angles in degrees, or radians where its units say so, evenly spread over half a turn or a whole one. The axis of rotation is where
    the first view and its opposite mirror each other best.

    Returns
    -------
    list of Volume
        One image, float32, attenuation in 1/mm, axes (x, y, row); where the file lies in the body is not known, so it is axial and centred.

    Raises
    ------
    BadInput
        ``bad-shape``, ``bad-header``, ``no-spacing``, ``limited-angle``, those of `cohortex.io.hdf5` and `check_affine`; while slices are
        reconstructed ``non-finite``, ``corrupt``.
    """
    data, theta, white, dark = (member(group, key, name) for key in ("data", "theta", "data_white", "data_dark"))
    if data is None or len(getattr(data, "shape", ())) != 3 or data.dtype.kind not in "uif" or min(data.shape) < 1 or data.shape[2] < 3:
        raise BadInput("bad-shape", f"{name} has no projections with axes (view, row, column) in exchange/data: write it again.")
    if theta is None or white is None:
        lacking = "angles (exchange/theta)" if theta is None else "picture of the beam alone (exchange/data_white)"
        raise BadInput("bad-header", f"{name} has no {lacking}: write it along.")
    if spacing_mm is None or not math.isclose(spacing_mm[0], spacing_mm[1]):
        raise BadInput(
            "no-spacing",
            f"{name} holds projections, whose pixels must be known and square: set `acquire: spacing_mm` to [x, x, row] in mm.",
        )
    angles = _angles(theta, int(data.shape[0]), name)
    blank = _mean(white, data, name)
    offset = np.zeros_like(blank) if dark is None else _mean(dark, data, name)
    beam = np.maximum(blank - offset, 0)
    dead = int(np.count_nonzero(beam == 0))
    if dead == beam.size:
        raise BadInput("bad-header", f"{name} has a beam (exchange/data_white) that is not brighter than none: write it again.")
    # half a turn after the first view, or what comes closest
    opposite = int(np.abs(angles - angles[0] - np.sign(angles[-1] - angles[0]) * math.pi).argmin())
    first, last = (_integrals(data[i : i + 1], offset, beam, name)[0] for i in (0, opposite))
    axis = _axis(first, last)
    shape = (len(angles), int(data.shape[1]), int(data.shape[2]))
    found = Projections(path, name, shape, angles, offset, beam, axis, float(spacing_mm[0]))
    notes: list[Note] = [
        ("orientation-assumed", f"{name} does not say how it lies in the body; its slices were taken as axial, the first row lowest.")
    ]
    if dead:
        notes.append(("dead-pixels", f"{name} has {dead} of {beam.size} detector pixels that see no beam; they count as unattenuated."))
    grid = (found.width, found.width, shape[1])
    affine = check_affine(centred_affine(grid, (found.pixel_mm, found.pixel_mm, float(spacing_mm[2]))), name, FINEST_MICROSCOPY_MM)
    step = read_step(
        "projections", notes, reconstruction=METHOD, unit="1/mm", views=len(angles), axis_column=axis, position="unknown, centred"
    )
    return [Volume(Slices(grid, np.float32, found.read), affine, history=(step,))]


def _runs(wanted: Sequence[int], most: int) -> Iterator[range]:
    """Yield neighbouring numbers together, at most so many."""
    start = 0
    for i in range(1, len(wanted) + 1):
        if i == len(wanted) or wanted[i] != wanted[i - 1] + 1 or i - start == most:
            yield range(wanted[start], wanted[i - 1] + 1)
            start = i


def _angles(theta: Any, views: int, name: str) -> np.ndarray:
    """Return the angles in radians of the views that are used: without a last one that repeats the first."""
    if len(theta.shape) != 1 or theta.shape[0] != views or theta.dtype.kind not in "uif":
        raise BadInput("bad-header", f"{name} has {views} projections but other angles (exchange/theta): write it again.")
    angles = np.asarray(theta[:], dtype=np.float64)
    units = attribute(theta, "units", name) or "degrees"
    if not str(units.decode() if isinstance(units, bytes) else units).lower().startswith("rad"):
        angles = np.radians(angles)
    if views < 2 or not np.isfinite(angles).all():
        raise BadInput("bad-header", f"{name} has angles (exchange/theta) that are no numbers, or a single one: write it again.")
    step = (angles[-1] - angles[0]) / (views - 1)
    if step == 0 or np.abs(np.diff(angles) - step).max() > EVEN * abs(step) + 1e-9:
        raise BadInput("bad-header", f"{name} has views that are not evenly spread (exchange/theta): reconstruct it before.")
    for turns in (1, 2):
        for used in (views, views - 1):
            if abs(abs(step) * used - turns * math.pi) < 0.5 * abs(step):
                return angles[:used]
    seen = math.degrees(abs(step) * views)
    raise BadInput(
        "limited-angle", f"{name} was seen over {seen:.4g} degrees where half a turn or a whole one is needed: reconstruct it before."
    )


def _mean(stack: Any, data: Any, name: str) -> np.ndarray:
    """Return the mean of pictures (picture, row, column), one after the other; (rows, columns) float32."""
    if len(stack.shape) != 3 or stack.shape[1:] != data.shape[1:] or stack.shape[0] < 1 or stack.dtype.kind not in "uif":
        by = "x".join(str(n) for n in stack.shape)
        raise BadInput("bad-shape", f"{name} has pictures of {by} beside projections of {'x'.join(map(str, data.shape))}: write it again.")
    total = np.zeros(stack.shape[1:])
    for picture in range(stack.shape[0]):
        total += stack[picture]
    if not np.isfinite(total).all():
        raise BadInput("non-finite", f"{name} has NaN or infinite values in its pictures without the sample: make it again.")
    return (total / stack.shape[0]).astype(np.float32)


def _integrals(counts: np.ndarray, dark: np.ndarray, beam: np.ndarray, name: str) -> np.ndarray:
    """Return line integrals of views (view, row, column), float32."""
    values = counts.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput("non-finite", f"{name} has NaN or infinite projections: make it again.")
    dead = beam == 0
    values -= dark
    values /= np.where(dead, np.float32(1), beam)
    values[:, dead] = 1
    return -np.log(np.maximum(values, np.float32(LEAST)))


def _axis(first: np.ndarray, opposite: np.ndarray) -> float:
    """Return the column about which two opposite views (row, column) mirror each other best, a multiple of 1/2."""
    columns = first.shape[1]
    spectra = [np.fft.rfft(view - view.mean(axis=1, keepdims=True), 2 * columns, axis=1) for view in (first, opposite[:, ::-1])]
    match = np.fft.irfft(spectra[0] * spectra[1].conj(), axis=1).sum(axis=0)
    shift = int(match.argmax())
    shift = shift - 2 * columns if shift > columns else shift
    # not beyond the outer columns, where there would be no slice
    return min(max((columns - 1 + shift) / 2, 1.0), columns - 2.0)
