"""Total variation denoising (Rudin, Osher and Fatemi), solved on its dual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortex.filters.arrays import checked, relative_spacing
from cohortex.filters.variation_kernels import ascend, gap_of, primal_of
from cohortex.measures.image_quality import noise_sigma


def total_variation(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    weight: float | None = None,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> np.ndarray:
    """Return the minimiser u of 1/2 |u - array|^2 + weight * TV(u).

    TV is the sum of the lengths of the forward gradient, in which lengths are counted in the smallest spacing.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
    weight : float, optional
        In units of the image. By default the standard deviation of the noise times 0.6 for volumes, 1 for pictures.
    tolerance : float
        Stop when the duality gap is at most this share of the objective: the objective is then no farther from its minimum.
    iterations : int
        Stop after these in any case.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: the gradient through the border of the image is zero.

    References
    ----------
    Chambolle, J. Mathematical Imaging and Vision 20 (2004) 89-97 (dual projection); Beck and Teboulle, IEEE Trans. Image
    Processing 18 (2009) 2419-2434 (its acceleration).
    """
    return solve(array, spacing_mm, weight, tolerance, iterations)[0]


def solve(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    weight: float | None = None,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> tuple[np.ndarray, list[float], list[float]]:
    """Return the solution, the dual objective after every iteration (never rising) and the gaps over the objective where measured.

    The dual objective is 1/2 |u|^2 with u = array + weight * div p; the momentum is dropped whenever it would rise.
    """
    values = checked(array, spacing_mm)
    if weight is None:
        weight = noise_sigma(values) * (0.6 if sum(size > 1 for size in values.shape) == 3 else 1.0)
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight of the total variation is a number not below 0, this one is {weight}")
    if not tolerance > 0 or iterations < 1:
        raise ValueError(f"tolerance is above 0 and iterations at least 1, they are {tolerance} and {iterations}")
    inverse = np.where(np.asarray(values.shape) > 1, 1 / relative_spacing(values.shape, spacing_mm), 0.0).astype(np.float32)
    if weight == 0 or not inverse.any():
        return values.copy(), [], []
    # Shifted by the mean, which the filter keeps, and scaled: the sums of squares then keep their digits.
    mean = np.float32(values.mean(dtype=np.float64))
    noisy = (values - mean) / np.float32(weight)
    step = np.float32(1 / (4 * float(np.sum(inverse.astype(np.float64) ** 2))))

    dual = np.zeros((3, *values.shape), dtype=np.float32)
    ahead, newer = dual.copy(), np.empty_like(dual)
    image = np.empty_like(values)
    momentum = 1.0
    energies, gaps = [float("inf")], []
    primal_of(noisy, ahead, inverse, image)
    for count in range(1, iterations + 1):
        ascend(image, ahead, inverse, step, newer)
        energy = primal_of(noisy, newer, inverse, image)
        if energy > energies[-1]:
            # From where it stood, without momentum, one step cannot go up.
            primal_of(noisy, dual, inverse, image)
            ascend(image, dual, inverse, step, newer)
            energy = min(primal_of(noisy, newer, inverse, image), energies[-1])
            momentum = 1.0
        energies.append(energy)
        if count % 5 == 0 or count == iterations:
            gap, objective = gap_of(noisy, image, newer, inverse)
            gaps.append(gap / max(objective, 1e-30))
            if gaps[-1] <= tolerance or count == iterations:
                break
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = newer + np.float32((momentum - 1) / following) * (newer - dual)
        momentum = following
        dual, newer = newer, dual
        primal_of(noisy, ahead, inverse, image)
    return image * np.float32(weight) + mean, [value * weight**2 for value in energies[1:]], gaps
