"""Anisotropic diffusion: of intensities (Perona and Malik) and of level sets (modified curvature diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cohortex import threads
from cohortex.filters.arrays import aligned, checked, relative_spacing
from cohortex.filters.diffusion_kernels import diffuse, pitch, squared_across, squared_gradients, workplace_rows
from cohortex.filters.steps import Resolved, Step, Triple, row_order, slabs, turned, turned_back

Conductance = Literal["exp", "rational"]
Equation = Literal["gradient", "curvature"]


def anisotropic_diffusion(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    iterations: int = 3,
    kappa: float | None = None,
    contrast: float = 1.0,
    conductance: Conductance = "exp",
    time_step: float | None = None,
    equation: Equation = "gradient",
) -> np.ndarray:
    """Return the image after some time of diffusion that stops at edges.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
        Lengths are counted in the smallest spacing, so that less flows across thick slices.
    iterations : int
    kappa : float, optional
        Gradient, in intensity over the smallest spacing, from which on diffusion stops. Where it is not given it follows the image in every
        iteration: `contrast` times the square root of twice the mean squared gradient.
    contrast : float
        See `kappa`.
    conductance : {"exp", "rational"}
        exp(-(g / kappa)^2) or 1 / (1 + (g / kappa)^2) of the magnitude g of the whole gradient between two voxels.
    time_step : float, optional
        In units of the smallest spacing squared. By default 9 tenths of the largest stable one, 1 / (2 sum of 1 / h_i^2).
    equation : {"gradient", "curvature"}
        "gradient": intensities flow (Perona and Malik). "curvature": level sets move by their curvature, weighted by the conductance,
        along the gradient; it keeps the contrast of fine lines better and is less sensitive to kappa.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, a time step that is not stable, or another parameter out of its range.

    Notes
    -----
    Edge rule: nothing flows through the border of the image. With "gradient" its mean is kept and no new extremes arise. On voxels of
    1 mm and with "exp" these are ITK's GradientAnisotropicDiffusion and CurvatureAnisotropicDiffusion with the conductance parameter
    `contrast`, to 1e-6 and 5e-6 of the range of the image; on others they differ: ITK divides a flow by the spacing once, not twice.

    References
    ----------
    Perona and Malik, IEEE Trans. Pattern Analysis and Machine Intelligence 12 (1990) 629-639; Whitaker and Xue, Variable-conductance,
    level-set curvature for image denoising, ICIP 2001, 142-145.
    """
    values = checked(array, spacing_mm)
    if kappa is not None:
        resolved = _resolve(values, spacing_mm, iterations, kappa, contrast, conductance, time_step, equation)
    else:
        resolved = _geometry(values.shape, spacing_mm, iterations, contrast, conductance, time_step, equation) | {"squared_kappas": None}
    return _iterated(values, resolved, threads.count())[0]


def largest_stable_step(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the largest time step, in squares of the smallest spacing, for which no voxel overshoots its neighbours."""
    relative = relative_spacing(shape, spacing_mm)
    pull = sum(1 / step**2 for step, size in zip(relative, shape, strict=True) if size > 1)
    return float(1 / (2 * pull)) if pull else 1.0


def _geometry(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    iterations: int,
    contrast: float,
    conductance: str,
    time_step: float | None,
    equation: str,
) -> dict[str, Any]:
    """Return what does not depend on the values."""
    relative = relative_spacing(shape, spacing_mm)
    inverse = np.where(np.asarray(shape) > 1, 1 / relative, 0.0).astype(np.float32)
    largest = largest_stable_step(shape, spacing_mm)
    step = 0.9 * largest if time_step is None else float(time_step)
    if not 0 < step <= largest * (1 + 1e-6):
        raise ValueError(f"a time step above 0 and up to {largest:.4g} is stable on this grid, {time_step} is not")
    if iterations < 0:
        raise ValueError(f"the number of iterations is not below 0, this one is {iterations}")
    if conductance not in ("exp", "rational"):
        raise ValueError(f"the conductance is exp or rational, not {conductance!r}")
    if equation not in ("gradient", "curvature"):
        raise ValueError(f"the equation is gradient or curvature, not {equation!r}")
    if not contrast > 0:
        raise ValueError(f"kappa and contrast are above 0, contrast is {contrast}")
    return {
        "inverse": inverse,
        "time_step": step,
        "iterations": int(iterations),
        "contrast": float(contrast),
        "rational": True if conductance == "rational" else None,
        "curvature": True if equation == "curvature" else None,
        # a short last axis changes places with the one before; planes along x stay what they are
        "order": (0, 1, 2) if row_order(shape) == (0, 1, 2) else (0, 2, 1),
        "size": int(np.prod(shape)),
    }


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    iterations: int = 3,
    kappa: float | None = None,
    contrast: float = 1.0,
    conductance: Conductance = "exp",
    time_step: float | None = None,
    equation: Equation = "gradient",
) -> dict[str, Any]:
    """Return the geometry and the square of kappa in every iteration.

    Where kappa follows the image, the mean of an iteration needs the iterations before: an image in memory is filtered for it once, a lazy
    one in slabs, as often as there are iterations.
    """
    resolved = _geometry(array.shape, spacing_mm, iterations, contrast, conductance, time_step, equation)
    if kappa is not None:
        if not kappa > 0:
            raise ValueError(f"kappa and contrast are above 0, kappa is {kappa}")
        return resolved | {"squared_kappas": [float(kappa) ** 2] * iterations}
    if isinstance(array, np.ndarray):
        values = np.ascontiguousarray(array, dtype=np.float32)
        return resolved | {"squared_kappas": _iterated(values, resolved | {"squared_kappas": None}, threads.count())[1]}
    found: list[float] = []
    for done in range(iterations):
        sums = []
        for start, stop in slabs(array):
            first, last = max(0, start - done - 1), min(array.shape[0], stop + done + 1)
            part = np.ascontiguousarray(array[first:last], dtype=np.float32)
            moved = _iterated(part, resolved | {"squared_kappas": found}, 1)[0]
            sums.append(_sums(moved, resolved)[start - first : stop - first])
        found.append(_squared_kappa(np.concatenate(sums), resolved))
    return resolved | {"squared_kappas": found}


def _sums(values: np.ndarray, resolved: Resolved) -> np.ndarray:
    """Return the sums over the planes along x of four times the squared gradient."""
    order = resolved["order"]
    image = turned(values, order)
    lines = _lines(image.shape)
    inverse = np.ascontiguousarray(resolved["inverse"][list(order)])
    squared_gradients(image.reshape(-1), image.shape, 0, len(image), inverse, lines.reshape(-1), _workplace(image.shape))
    return _plane_sums(lines, image.shape[2])


def _lines(shape: Sequence[int]) -> np.ndarray:
    """Return zeros, a line for every plane along x."""
    return aligned((shape[0], pitch(shape[2])))


def _plane_sums(lines: np.ndarray, length: int) -> np.ndarray:
    """Return the sums of the lines."""
    return lines[:, :length].sum(axis=1, dtype=np.float64)


def _workplace(shape: Sequence[int]) -> np.ndarray:
    """Return room for the rows that the kernels have at hand."""
    return aligned((workplace_rows(shape[1]) * pitch(shape[2]),))


def _squared_kappa(sums: np.ndarray, resolved: Resolved) -> float:
    """Return the square of kappa from the sums over all planes."""
    return 0.5 * resolved["contrast"] ** 2 * float(np.sum(sums)) / resolved["size"]


def _iterated(values: np.ndarray, resolved: Resolved, most: int) -> tuple[np.ndarray, list[float]]:
    """Return the image after the iterations, with the given squares of kappa or those of the image, and these."""
    order = list(resolved["order"])
    image = turned(values, order)
    shape, size = image.shape, len(image)
    known, used = resolved["squared_kappas"], []
    count = max(1, min(most, size // 8))
    pieces = [(size * i // count, size * (i + 1) // count) for i in range(count)]
    work = _Work(
        target=np.empty_like(image),
        inverse=np.ascontiguousarray(resolved["inverse"][order]),
        lines=_lines(shape),
        rows=[_workplace(shape) for _ in pieces],
    )
    source, rounds = image, resolved["iterations"] if known is None else len(known)
    with ThreadPoolExecutor(count) as pool:
        run = map if count == 1 else pool.map
        summed = False
        for i in range(rounds):
            if known is None and not summed:
                work.gradients(source, pieces, run)
            squared = known[i] if known is not None else _squared_kappa(_plane_sums(work.lines, shape[2]), resolved)
            used.append(squared)
            if not np.float32(squared) > np.finfo(np.float32).tiny:
                summed = known is None  # nothing moves, and nothing will
                continue
            # the gradients of the new image are summed while its rows are at hand
            summed = known is None and i + 1 < rounds
            kind = np.float32(squared), np.float32(resolved["time_step"]), resolved["rational"], resolved["curvature"]
            work.step(source, pieces, run, kind, summed)
            source = work.target
    if source is image:
        work.target[...] = image
    return turned_back(work.target, order), used


@dataclass(frozen=True)
class _Work:
    """What the iterations over one image share.

    Attributes
    ----------
    target : array
        The image after the first iteration; later ones change it in place.
    inverse : (3,) float32 array
        One over the spacings in the order of the axes.
    lines : array
        See `_lines`.
    rows : list of arrays
        A workplace a piece.
    """

    target: np.ndarray
    inverse: np.ndarray
    lines: np.ndarray
    rows: list[np.ndarray]

    def gradients(self, source: np.ndarray, pieces: list[tuple[int, int]], run: Any) -> None:
        """Sum the squared gradients of an image in the lines."""
        self.lines[...] = 0
        flat, lines, shape = source.reshape(-1), self.lines.reshape(-1), source.shape

        def added(piece: tuple[int, int], rows: np.ndarray) -> None:
            squared_gradients(flat, shape, *piece, self.inverse, lines, rows)

        list(run(added, pieces, self.rows))

    def step(self, source: np.ndarray, pieces: list[tuple[int, int]], run: Any, kind: tuple[Any, Any, Any, Any], summed: bool) -> None:
        """Do one iteration; if `summed`, sum the squared gradients of the new image in the lines."""
        flat, target, lines, shape = source.reshape(-1), self.target.reshape(-1), self.lines.reshape(-1), source.shape
        # The planes beside a piece are changed while it is at work.
        beside = [(source[max(a - 1, 0)].flatten(), source[min(b, len(source) - 1)].flatten()) for a, b in pieces]
        if summed:
            self.lines[...] = 0

        def moved(piece: tuple[int, int], planes: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> None:
            diffuse(flat, target, *planes, shape, *piece, self.inverse, *kind, lines, summed, rows)

        list(run(moved, pieces, beside, self.rows))
        for a, b in pieces if summed else []:
            for plane in sorted({a, b - 1}):
                squared_across(target, shape, plane, self.inverse[0], lines, self.rows[0])


def _halo(resolved: Resolved) -> Triple:
    """Return one voxel an iteration, along the axes with more than one voxel."""
    x, y, z = (resolved["iterations"] if step > 0 else 0 for step in resolved["inverse"])
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    return _iterated(values, resolved, 1)[0]


STEP = Step(_resolve, _halo, _block)
