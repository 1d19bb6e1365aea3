"""MIND-SSC and its loss at several scales."""

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from cohortex.models.regseg.mind import mind_ssc, multiscale_mind_loss


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    texture = ndi.gaussian_filter(rng.standard_normal((28, 28, 28)), 2)
    texture = (texture - texture.min()) / np.ptp(texture)
    fixed = torch.from_numpy(texture.astype(np.float32))[None, None]
    return fixed, torch.roll(fixed, 3, dims=2)


def slow_mind(image: np.ndarray, radius: int, dilation: int, at: tuple[int, int, int]) -> np.ndarray:
    """Distances between the patches of neighbours, by their definition, sorted."""
    axes = [np.eye(3, dtype=int)[i] * s * dilation for i in range(3) for s in (-1, 1)]
    found = []
    for i, a in enumerate(axes):
        for b in axes[i + 1 :]:
            if a @ b == 0:
                cuts = [tuple(slice(c + o - radius, c + o + radius + 1) for c, o in zip(at, n, strict=True)) for n in (a, b)]
                found.append(np.mean((image[cuts[0]] - image[cuts[1]]) ** 2))
    return np.sort(np.array(found) - min(found))


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (1, 2), (2, 2)])
def test_there_are_twelve_channels_and_they_are_the_definition(images, radius, dilation):
    fixed, _ = images
    found = mind_ssc(fixed, radius, dilation)
    assert found.shape == (1, 12, 28, 28, 28)
    expected = slow_mind(fixed[0, 0].numpy(), radius, dilation, (12, 14, 16))
    # exp(-d / v) with one v for all channels: the logarithms are proportional to the distances.
    logs = np.sort(-np.log(found[0, :, 12, 14, 16].numpy()))
    assert len(expected) == 12
    assert np.allclose(logs / logs.sum(), expected / expected.sum(), atol=1e-3)


MAPS = {
    "gamma": lambda x: x**0.8,
    "inverted": lambda x: 1 - x,
    "inverted gamma": lambda x: 5 * (1 - x) ** 1.2 - 2,
    "sine": lambda x: torch.sin(1.4 * x),
}


@pytest.mark.parametrize("name", MAPS)
def test_the_loss_is_the_same_under_monotone_and_inverted_contrast(images, name):
    fixed, moving = images
    plain = float(multiscale_mind_loss(fixed, moving))
    mapped = float(multiscale_mind_loss(fixed, MAPS[name](moving)))
    assert abs(mapped - plain) / plain < 0.05


def test_the_loss_is_least_where_the_images_fit(images):
    fixed, _ = images
    other = 1 - fixed
    losses = [float(multiscale_mind_loss(fixed, torch.roll(other, s, dims=3))) for s in (0, 1, 2, 3)]
    assert losses[0] < 1e-4
    assert losses == sorted(losses)
