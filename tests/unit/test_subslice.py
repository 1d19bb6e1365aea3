"""SubSlice finds in every slice what the spline lacks, for any factor, and nothing that the slices contradict."""

import numpy as np
import pytest
import torch

from cohortex.models import registry
from cohortex.models.superresolve import throughplane as through
from cohortex.models.superresolve.apply import run_fine
from cohortex.models.superresolve.fitted import fitted
from cohortex.models.superresolve.subslice import FLOOR, cosine_matrix


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    made = registry.build("superresolve", "subslice", channels=6, blocks=2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made.eval()


def slices(shape=(20, 18, 9), seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def ran(network, array, factor):
    with torch.no_grad():
        return network(torch.from_numpy(array)[None, None], factor)[0, 0].numpy()


def test_the_parameters_are_those_of_its_layers():
    enter, told = 27 * 32 + 32, 2 * 32 + 32
    block = 2 * (9 * 32 * 32 + 32) + told
    leave = 27 * 32 * 5 + 5
    assert registry.count_parameters(registry.build("superresolve", "subslice")) == enter + 5 * block + leave


@pytest.mark.parametrize("factor", [2, 3, 5, 6])
def test_the_cosines_have_no_mean_in_a_slice_and_show_all_that_a_whole_factor_can(factor):
    matrix = cosine_matrix(4, 4 * factor, 5)
    assert np.abs(matrix.reshape(4, factor, 20).mean(1)).max() < 1e-6
    one = matrix[:factor, :5]
    assert np.linalg.matrix_rank(one) == factor - 1


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_the_slice_means_of_the_result_are_the_slices(network, factor):
    array = slices()
    made = ran(network, array, factor)
    assert np.abs(made - through.agreeing_spline(array, 9 * factor, 2)).max() > 0.01
    np.testing.assert_allclose(through.average(made, 9, 2), array, atol=2e-5)


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.78, 4.5, 6.0])
def test_one_network_gives_the_grid_of_any_factor(network, factor):
    assert ran(network, slices(), factor).shape == (20, 18, through.fine_count(9, factor))


def test_an_image_in_other_units_has_the_same_detail(network):
    """The floor of the contrast is small beside the contrast of this image."""
    array = slices()
    once, twice = ran(network, array, 3.0), ran(network, 2 * array + 0.3, 3.0)
    assert array.std() > 10 * FLOOR
    np.testing.assert_allclose(twice, 2 * once + 0.3, atol=0.01)


def test_a_constant_image_stays_constant_up_to_what_the_floor_allows(network):
    made = ran(network, np.full((12, 12, 6), 0.4, np.float32), 3.0)
    assert np.abs(made - 0.4).max() < 5 * FLOOR


@pytest.mark.parametrize("count", [18, 25])
def test_columns_with_their_halo_give_what_the_whole_gives(network, count, monkeypatch):
    from cohortex.models.superresolve import apply

    monkeypatch.setattr(apply, "EDGES", (8,))
    fed = fitted("subslice", {"channels": 6, "blocks": 2}, network)
    array = slices((30, 21, 9))
    start = np.empty((30, 21, count), np.float32)
    made, _ = run_fine(network, fed, array, start, {})
    padded = np.pad(array, [(fed.halo[0],) * 2, (fed.halo[1],) * 2, (0, 0)], mode="reflect")
    whole = ran(network, padded, count / 9)[fed.halo[0] : -fed.halo[0], fed.halo[1] : -fed.halo[1]]
    np.testing.assert_allclose(made, whole, atol=2e-5)
