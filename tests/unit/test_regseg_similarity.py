"""Similarities that a registration network may learn from."""

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from cohortex.errors import Refused
from cohortex.measures.registration import mutual_information as by_counting
from cohortex.models.regseg.mind import mind, multiscale_mind_loss
from cohortex.models.regseg.similarity import NAMES, Similarity, local_ncc, mutual_information, similarity_of


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    texture = ndi.gaussian_filter(np.random.default_rng(0).standard_normal((22, 22, 22)), 1.5)
    return torch.from_numpy(((texture - texture.min()) / np.ptp(texture)).astype(np.float32))[None, None]


def ones(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_least_where_the_images_fit_and_says_which_way(image, name):
    similarity = Similarity(name, [(1, 1), (1, 2)])
    # A linear relation, which all of them know.
    other = 1 - 0.8 * image
    losses = [float(similarity(image, torch.roll(other, s, dims=3), None, ones(image))) for s in (0, 1, 2)]
    assert losses == sorted(losses)
    moved = torch.roll(other, 1, dims=3)
    flow = torch.zeros(1, 3, 22, 22, 22, requires_grad=True)
    loss = similarity(image, moved, flow, ones(image))
    loss.backward()
    # The moved image shows one voxel further along y what the image shows here.
    assert flow.grad is not None
    along = -flow.grad[0, :, 3:-3, 3:-3, 3:-3].mean((1, 2, 3))
    assert float(along[1]) > 5 * float(along[[0, 2]].abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_only_ncc_minds_a_relation_that_is_no_line(image, name):
    similarity = Similarity(name, [(1, 1)])
    folded = (2 * image - 1).abs()
    wins = float(similarity(image, folded, None, ones(image))) < float(similarity(image, torch.roll(folded, 3, dims=2), None, ones(image)))
    assert wins
    share = float(local_ncc(image, folded, ones(image)))
    assert share < 0.7 < float(local_ncc(image, 1 - image, ones(image)))


def test_an_unknown_name_is_refused():
    with pytest.raises(Refused, match="mutual_information"):
        Similarity("ssd")


def test_settings_give_name_weight_and_scales_of_their_own():
    plain = similarity_of({"name": "mind_ssc", "scales": None, "weight": 1}, [[1, 1], [1, 2]])
    assert plain == Similarity("mind_ssc", [(1, 1), (1, 2)], 1.0)
    assert similarity_of({"name": "mind", "scales": [[2, 2]], "weight": 0.5}, [[1, 1]]) == Similarity("mind", [(2, 2)], 0.5)


def test_the_weight_multiplies(image):
    moved = torch.roll(image, 2, dims=2)
    once, twice = (float(Similarity("ncc", weight=w)(image, moved, None, ones(image))) for w in (1.0, 2.0))
    assert twice == pytest.approx(2 * once)


def slow_mind(image: np.ndarray, at: tuple[int, int, int], radius: int, dilation: int) -> np.ndarray:
    """Distances between the patch of a voxel and those of its neighbours, by their definition."""

    def patch(middle):
        return image[tuple(slice(m - radius, m + radius + 1) for m in middle)]

    shifts = [tuple(s * dilation if a == axis else 0 for a in range(3)) for axis in range(3) for s in (-1, 1)]
    return np.array([np.mean((patch(at) - patch(np.add(at, shift))) ** 2) for shift in shifts])


@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (1, 2), (2, 3)])
def test_mind_has_six_channels_and_they_are_the_definition(image, radius, dilation):
    found = mind(image, radius, dilation)
    assert found.shape == (1, 6, 22, 22, 22)
    distances = slow_mind(image[0, 0].numpy(), (10, 11, 12), radius, dilation)
    logs = -np.log(found[0, :, 10, 11, 12].numpy())
    expected = distances - distances.min()
    assert np.allclose(logs / logs.sum(), expected / expected.sum(), atol=1e-3)


@pytest.mark.parametrize("kind", ["mind", "mind_ssc"])
@pytest.mark.parametrize("contrast", [lambda x: x**0.8, lambda x: 1 - x, lambda x: 5 * (1 - x) ** 1.2 - 2, lambda x: torch.sin(1.4 * x)])
def test_the_structural_loss_changes_by_less_than_a_twentieth_under_monotone_and_inverted_maps(image, kind, contrast):
    moving = torch.roll(image, 3, dims=2)
    plain = float(multiscale_mind_loss(image, moving, kind=kind))
    assert float(multiscale_mind_loss(image, contrast(moving), kind=kind)) == pytest.approx(plain, rel=0.05)


def test_mutual_information_is_near_that_of_counting_and_its_gradient_is_right(image):
    rng = np.random.default_rng(1)
    noisy = (1 - image + 0.1 * torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))).clamp(0, 1)
    smooth, counted = float(mutual_information(image, noisy, ones(image))), by_counting(image.numpy(), noisy.numpy(), 24)
    # Windows blur the histogram, which takes some of the information away.
    assert 0.6 * counted < smooth < counted
    assert float(mutual_information(image, torch.rand(image.shape, generator=torch.Generator().manual_seed(0)), ones(image))) < 0.1
    # Away from the ends of the range, where values are clamped.
    a, b = (0.1 + 0.8 * x[:, :, :3, :4, :3].double() for x in (image, noisy))
    b.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: mutual_information(a, x, torch.ones_like(a), bins=8), (b,), atol=1e-6)


def test_local_correlation_is_one_for_a_linear_relation_in_every_window_and_counts_only_the_mask(image):
    bias = torch.linspace(0.5, 1.5, 22).reshape(1, 1, 22, 1, 1)
    assert float(local_ncc(image, 0.3 + 0.5 * image, ones(image))) > 0.99
    assert float(local_ncc(image, image * bias, ones(image))) > 0.8
    spoilt = image.clone()
    spoilt[:, :, 11:] = torch.rand((1, 1, 11, 22, 22), generator=torch.Generator().manual_seed(0))
    half = ones(image)
    half[:, :, 8:] = 0
    assert float(local_ncc(image, spoilt, half)) > 0.99 > float(local_ncc(image, spoilt, ones(image)))
