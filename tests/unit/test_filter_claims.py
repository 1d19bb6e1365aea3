"""What is claimed of the filters beyond what `test_filters.py` shows: to the last digit, on anatomy that nothing was tuned on."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from cohortex.demo.anatomy import make_head, paint
from cohortex.demo.tissues import mr_contrast
from cohortex.filters.gaussian import gaussian
from cohortex.filters.total_variation import total_variation
from cohortex.filters.wavelet import wavelet
from cohortex.filters.wavelet_transform import decompose, recompose
from cohortex.measures.image_quality import psnr

ISO = (1.0, 1.0, 1.0)
WIDTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3)


def slices_of(seed: int) -> np.ndarray:
    """Return three axial slices of a simulated T1w head, 1.5 mm, the range of the brain about 0 to 1."""
    rng = np.random.default_rng(seed)
    head = make_head({"diagnosis": "control", "age": 40 + seed % 30}, rng)
    affine = np.diag([1.5, 1.5, 12.0, 1.0])
    affine[:3, 3] = [-95.0, -125.0, 0.0]
    values, _ = paint(head, affine, (128, 152, 3), mr_contrast(rng), np.eye(4), parts=(2, 2, 1))
    return values / np.float32(np.percentile(values, 99))


@pytest.fixture(scope="module")
def anatomy() -> tuple[np.ndarray, np.ndarray]:
    """Slices of one head to tune on, and of two others."""
    return slices_of(1), np.concatenate([slices_of(2), slices_of(3)], axis=2)


def with_noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    return (image + sigma * np.random.default_rng(seed).standard_normal(image.shape)).astype(np.float32)


def by_slice(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.array([psnr(truth[..., z], found[..., z], 1.0) for z in range(truth.shape[2])])


def test_the_mtf_of_gaussian_is_right_to_2_percent_of_itself_and_not_only_of_1() -> None:
    """Along each axis, at every frequency at which a twentieth or more is left; below 1.2 voxels a sampled Gaussian folds there."""
    for axis, sigma in ((0, 1.2), (1, 1.5), (2, 2.0)):
        point = np.zeros((61, 61, 61), np.float32)
        point[30, 30, 30] = 1
        spread = gaussian(point, ISO, sigma).sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        mtf = np.abs(np.fft.rfft(spread))
        wanted = np.exp(-2 * np.pi**2 * sigma**2 * np.fft.rfftfreq(61) ** 2)
        seen = wanted > 0.05
        assert seen.sum() > 5
        assert np.abs(mtf[seen] / wanted[seen] - 1).max() < 0.02


@pytest.mark.parametrize("basis", ["haar", "db2", "db4", "sym4", "coif1"])
def test_the_wavelet_transform_reconstructs_perfectly(basis: str) -> None:
    """In double precision, for even and odd lengths."""
    image = np.random.default_rng(0).standard_normal((17, 24, 13))
    bands = decompose(image, (0, 1, 2), basis, 2)
    wanted = pywt.dwtn(image, basis, mode="symmetric")["aaa"]
    assert np.abs(decompose(image, (0, 1, 2), basis, 1)[0] - wanted).max() < 1e-12
    assert np.abs(recompose(bands, (0, 1, 2), basis, image.shape) - image).max() < 1e-10


@pytest.mark.parametrize("sigma", [0.04, 0.08])
def test_bayes_shrinkage_beats_gaussian_on_every_held_out_slice(anatomy: tuple[np.ndarray, np.ndarray], sigma: float) -> None:
    """The width of the Gaussian is the best one of another head; even the best width of the slice itself does not reach it."""
    tuning, held_out = anatomy
    noisy = with_noise(tuning, sigma, 0)
    chosen = max(WIDTHS, key=lambda width: by_slice(tuning, gaussian(noisy, ISO, (width, width, 0.0))).mean())
    noisy = with_noise(held_out, sigma, 1)
    shrunk = np.stack([wavelet(noisy[..., z : z + 1], ISO)[..., 0] for z in range(noisy.shape[2])], axis=-1)
    gain = by_slice(held_out, shrunk) - by_slice(held_out, gaussian(noisy, ISO, (chosen, chosen, 0.0)))
    assert gain.min() > 0.5
    best = np.max([by_slice(held_out, gaussian(noisy, ISO, (width, width, 0.0))) for width in WIDTHS], axis=0)
    assert (by_slice(held_out, shrunk) > best).all()


def energy(image: np.ndarray, noisy: np.ndarray, weight: float) -> float:
    """The objective of Rudin, Osher and Fatemi, in double precision."""
    u, f = image.astype(np.float64), noisy.astype(np.float64)
    steps = [np.diff(u, axis=axis, append=np.take(u, [-1], axis)) for axis in range(3)]
    return float(0.5 * np.sum((u - f) ** 2) + weight * np.sum(np.sqrt(sum(step**2 for step in steps))))


def test_the_objective_of_total_variation_falls_with_every_iteration(anatomy: tuple[np.ndarray, np.ndarray]) -> None:
    """The projected steps on the dual: that objective and the primal one fall steadily, the accelerated ones end lower."""
    noisy = with_noise(anatomy[1], 0.08, 3)[20:84, 30:94, :3]
    found = [energy(total_variation(noisy, ISO, 0.08, None, n, "chambolle"), noisy, 0.08) for n in range(1, 40)]
    values = np.array([energy(noisy, noisy, 0.08), *found])
    assert (np.diff(values) <= 1e-6 * values[:-1]).all()
    assert values[-1] < 0.9 * values[0]
    fast = energy(total_variation(noisy, ISO, 0.08, None, 40), noisy, 0.08)
    assert fast <= values[-1] * (1 + 1e-6)


def test_total_variation_beats_gaussian_on_every_held_out_slice(anatomy: tuple[np.ndarray, np.ndarray]) -> None:
    truth = anatomy[1]
    noisy = with_noise(truth, 0.08, 4)
    made = np.stack([total_variation(noisy[..., z : z + 1], ISO)[..., 0] for z in range(noisy.shape[2])], axis=-1)
    best = np.max([by_slice(truth, gaussian(noisy, ISO, (width, width, 0.0))) for width in WIDTHS], axis=0)
    assert (by_slice(truth, made) > best).all()
