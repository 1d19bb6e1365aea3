"""The fully connected field behind DeepLab: mean field against loops over all pairs, windows against all, and what it is for."""

import itertools
import math

import pytest
import torch

from cohortex.measures.segmentation import dice
from cohortex.models.segment.crf import Field, Kernels, free_energy, mean_field

FIELD = Field(bilateral=1.5, smooth=0.7, near=4.0, alike=0.2, close=1.5)


def case(*shape, classes=3, channels=1):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, classes, *shape, generator=generator, dtype=torch.float64)
    return logits, torch.rand(1, channels, *shape, generator=generator, dtype=torch.float64)


def by_hand(logits, image, spacing, iterations):
    """Return the mean field by plain loops over all pairs of voxels."""
    shape, classes = logits.shape[2:], logits.shape[1]
    voxels = list(itertools.product(*map(range, shape)))
    q = {v: torch.softmax(logits[(0, slice(None), *v)], 0).tolist() for v in voxels}

    def kernel(a, b):
        apart = sum(((i - j) * s) ** 2 for i, j, s in zip(a, b, spacing, strict=True))
        unlike = sum((float(image[(0, c, *a)]) - float(image[(0, c, *b)])) ** 2 for c in range(image.shape[1]))
        return FIELD.bilateral * math.exp(-apart / 2 / FIELD.near**2 - unlike / 2 / FIELD.alike**2) + FIELD.smooth * math.exp(
            -apart / 2 / FIELD.close**2
        )

    for _ in range(iterations):
        new = {}
        for v in voxels:
            energy = [float(logits[(0, k, *v)]) + sum(kernel(v, w) * q[w][k] for w in voxels if w != v) for k in range(classes)]
            top = max(energy)
            parts = [math.exp(e - top) for e in energy]
            new[v] = [p / sum(parts) for p in parts]
        q = new
    return torch.tensor([q[v] for v in voxels], dtype=torch.float64).T.reshape(1, classes, *shape)


@pytest.mark.parametrize(("shape", "channels"), [((4, 3), 2), ((3, 2, 2), 1)])
def test_mean_field_is_what_loops_over_all_pairs_of_voxels_give(shape, channels):
    logits, image = case(*shape, channels=channels)
    spacing = [0.8, 1.5, 2.0][: len(shape)]
    wanted = by_hand(logits, image, spacing, 2)
    for radius in (None, 8):
        torch.testing.assert_close(mean_field(logits, image, FIELD, spacing, 2, radius), wanted, atol=1e-7, rtol=0)


def test_a_window_that_is_wider_than_the_kernels_is_as_good_as_all_voxels():
    logits, image = case(10, 9)
    narrow = Field(bilateral=1.0, smooth=1.0, near=1.2, alike=0.2, close=1.0)
    whole = mean_field(logits, image, narrow, radius=None)
    torch.testing.assert_close(mean_field(logits, image, narrow, radius=6), whole, atol=1e-3, rtol=0)
    assert (mean_field(logits, image, narrow, radius=1) - whole).abs().max() > 0.01


def test_the_free_energy_falls_with_every_iteration():
    logits, image = case(12, 11)
    kernels = Kernels(image, FIELD, radius=3)
    energies = [
        float(free_energy(mean_field(logits, image, FIELD, iterations=i, radius=3, damping=0.5), logits, kernels)) for i in range(8)
    ]
    assert all(b < a + 1e-9 for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 1


def test_probabilities_stay_probabilities_and_without_kernels_they_are_the_networks():
    logits, image = case(6, 5)
    q = mean_field(logits, image, FIELD)
    torch.testing.assert_close(q.sum(1), torch.ones(1, 6, 5, dtype=torch.float64))
    torch.testing.assert_close(mean_field(logits, image, Field(bilateral=0, smooth=0)), torch.softmax(logits, 1))


def test_a_coarse_segmentation_gets_the_edges_of_the_image():
    axes = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    truth = (axes[0] - 20).square() + (axes[1] - 18).square() < 120
    generator = torch.Generator().manual_seed(0)
    image = (truth.float() + 0.08 * torch.randn(40, 40, generator=generator))[None, None]
    # what a network that sees an eighth of the resolution says
    coarse = torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(truth.float()[None, None], 8), size=(40, 40), mode="bilinear", align_corners=False
    )
    logits = 3 * torch.cat([0.5 - coarse, coarse - 0.5], 1)
    before = dice(truth.numpy().astype("uint8"), logits.argmax(1)[0].numpy().astype("uint8"))[1]
    after = dice(
        truth.numpy().astype("uint8"), mean_field(logits, image, Field(0.3, 0.05, 6.0, 0.2, 1.0)).argmax(1)[0].numpy().astype("uint8")
    )[1]
    assert after > before + 0.02


def test_an_image_too_large_for_all_pairs_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="set radius"):
        mean_field(torch.zeros(1, 2, 80, 80), torch.zeros(1, 1, 80, 80), radius=None)
