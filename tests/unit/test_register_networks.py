"""The registration networks and their losses: sizes, published counts, what each of them promises."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cohortex.models import registry
from cohortex.models.regseg import losses
from cohortex.models.regseg.grid import Grid
from cohortex.models.regseg.similarity import Similarity
from cohortex.models.regseg.warp import compose, identity_points, integrate, invert, warp
from cohortex.training.objectives.registering import unlike
from cohortex.training.regseg_data import Case, Material
from cohortex.training.regseg_losses import Nets, Run, registration_loss

SMALL: dict[str, dict[str, Any]] = {
    "voxelmorph": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "voxelmorph_small": {"encoder": [4, 4, 4], "decoder": [4, 4, 4]},
    "voxelmorph_diffeomorphic": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "voxelmorph_labels": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "displacement_regression": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "displacement_simulated": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "faim": {"width": 8, "sizes": [2, 3]},
    "icnet": {"width": 2},
    "affine_voxelmorph": {"affine": [4, 8], "encoder": [4, 4], "decoder": [4, 4], "final": [4]},
    "transmorph": {"features": 8, "depths": [1, 2], "heads": [2, 2], "window": 3, "final": 4},
    "transmorph_small": {"features": 8, "depths": [2, 1], "heads": [2, 2], "window": 3},
}
NAMES = [entry.name for entry in registry.entries("regseg")]


def small(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return registry.build("regseg", name, **SMALL[name])


def shaken(network: Any) -> Any:
    """Give the flow layers weights with which something moves."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("flow.weight"):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_takes_images_of_any_size_and_begins_by_leaving_everything_where_it_is(name):
    network, pair = small(name).eval(), torch.rand(1, 2, 17, 24, 10)
    with torch.no_grad():
        flow = network(pair)
        assert flow.shape == (1, 3, 17, 24, 10)
        assert float(flow.abs().max()) < 0.01
        moved = shaken(network)(pair)
    assert 0.01 < float(moved.abs().max()) < 100


def test_the_transformer_at_its_own_size_has_as_many_parameters_as_the_page_of_models_says():
    with torch.device("meta"):
        network = registry.build("regseg", "transmorph")
    # of this implementation, whose windows are cubic; it could not be held against the paper's table
    assert registry.count_parameters(network) == 46_840_435


def test_the_page_of_the_models_says_what_each_of_them_counts_and_is_trained_by():
    page = Path(__file__).parents[2] / "docs" / "models.md"
    section = page.read_text().split("## Networks that register")[1].split("\n## ")[0]
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| `")}
    assert list(rows) == NAMES
    for entry in registry.entries("regseg"):
        with torch.device("meta"):
            count = registry.count_parameters(registry.build("regseg", entry.name))
        assert rows[entry.name][3:5] == [f"{count:,}", f"`{entry.training['objective']['name']}`"]


def test_faim_has_fewer_weights_than_voxelmorph():
    with torch.device("meta"):
        ours, theirs = (registry.count_parameters(registry.build("regseg", name)) for name in ("faim", "voxelmorph"))
    assert ours < 0.8 * theirs


def test_icnet_reaches_no_further_than_it_says():
    network = shaken(small("icnet"))
    with torch.no_grad():
        network.flow.weight.mul_(1e4)
        flow = network(torch.rand(1, 2, 16, 16, 16))
    assert float(flow.abs().max()) == pytest.approx(7.0)


def test_an_integrated_velocity_does_not_fold_where_the_flow_itself_would():
    rng = torch.Generator().manual_seed(4)
    velocity = torch.nn.functional.interpolate(
        4 * torch.randn(1, 3, 6, 6, 6, generator=rng), size=(20, 20, 20), mode="trilinear", align_corners=True
    )
    assert float(losses.folding_loss(velocity, 0.0)) > 0
    assert float(losses.folding_loss(integrate(velocity, 7), 0.0)) < 0.1 * float(losses.folding_loss(velocity, 0.0))


def test_an_affine_network_says_where_a_map_of_twelve_numbers_leads_and_the_way_behind_it():
    network = shaken(small("affine_voxelmorph"))
    with torch.no_grad():
        network.affine.dense.bias.copy_(torch.tensor([0.1, 0.02, 0.0, 0.25, 0.0, -0.05, 0.0, 0.0, 0.03, 0.0, 0.0, -0.1]))
        pair = torch.rand(1, 2, 16, 20, 12)
        affine, deformation, whole = network.stages(pair)
    # the longest axis has 20 voxels, so 0.25 are 2.5 voxels; the middle of the grid is moved by the shift alone
    middle = affine[0, :, 7:9, 9:11, 5:7].mean((1, 2, 3))
    assert torch.allclose(middle, torch.tensor([2.5, 0.0, -1.0]), atol=1e-5)
    assert torch.allclose(affine[0, 0, 8] - affine[0, 0, 7], torch.tensor(0.1), atol=1e-4)
    # linear interpolation of an affine displacement is exact, so composing the two is the same inside
    inside = (slice(None), slice(None), *(slice(4, -4) for _ in range(3)))
    assert float(deformation.abs().max()) > 0.01
    assert torch.allclose(compose(deformation, affine)[inside], whole[inside], atol=1e-4)
    assert torch.equal(network(pair), whole)


def test_the_gradients_of_composition_and_integration_are_right():
    torch.manual_seed(2)
    # away from whole voxels, where linear interpolation has a kink
    first, second = (0.3 + 0.1 * torch.rand(1, 3, 4, 4, 4, dtype=torch.float64) for _ in range(2))
    inside = (slice(None), slice(None), slice(3), slice(3), slice(3))
    assert torch.autograd.gradcheck(lambda a, b: compose(a, b)[inside], (first.requires_grad_(), second.requires_grad_()), atol=1e-5)
    velocity = (0.25 + 0.05 * torch.rand(1, 3, 4, 4, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: integrate(v, 2)[inside], (velocity,), atol=1e-5)


def wavy(size: int = 20, amplitude: float = 1.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    corners = amplitude * torch.randn(1, 3, 4, 4, 4, generator=rng)
    return torch.nn.functional.interpolate(corners, size=(size,) * 3, mode="trilinear", align_corners=True)


@pytest.mark.parametrize("similarity", ["correlation", "squared_error", "mind"])
def test_likeness_is_best_where_images_are_the_same_and_gets_worse_with_their_distance(similarity):
    image = torch.rand(1, 1, 22, 22, 22, generator=torch.Generator().manual_seed(5))
    image = torch.nn.functional.avg_pool3d(image, 3, stride=1)
    image = (image - image.min()) / (image.max() - image.min())
    near, far = (warp(image, wavy(amplitude=a)) for a in (0.3, 1.5))
    same, one, two = (float(unlike(image, other, similarity, 5)) for other in (image, near, far))
    assert same < 0.02
    assert same < one < two


def test_correlation_does_not_mind_another_contrast_but_noise():
    rng = torch.Generator().manual_seed(6)
    image = torch.rand(1, 1, 14, 14, 14, generator=rng)
    assert float(losses.correlation_loss(image, 0.9 - 0.5 * image, 5)) < 1e-3
    assert float(losses.correlation_loss(image, torch.rand(1, 1, 14, 14, 14, generator=rng), 9)) > 0.98
    assert float(losses.correlation_loss(image, image[:, :, :, :, :], 99)) < 1e-3
    flat = torch.full_like(image, 0.5).requires_grad_()
    losses.correlation_loss(image, flat, 5).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_only_an_inverse_has_no_inverse_loss():
    there = wavy()
    back = invert(there)
    assert float(losses.inverse_loss(there, back)) < 0.05 * float(losses.inverse_loss(there, -there))
    shift = torch.full((1, 3, 6, 6, 6), 1.5)
    assert float(losses.inverse_loss(shift, -shift)) == 0
    assert float(losses.inverse_loss(shift, shift)) == pytest.approx(2 * 9.0)


def test_points_that_change_their_order_along_an_axis_cost_the_cube_of_by_how_much():
    points = identity_points((6, 7, 8))[None]
    assert float(losses.axis_folding_loss(torch.zeros(1, 3, 6, 7, 8))) == 0
    assert float(losses.axis_folding_loss(-0.9 * points)) == 0
    # a mirror has the gradient -2 of one component along one axis: 1 to the power of 3, one of nine
    mirror = torch.cat([-2 * points[:, :1], 0 * points[:, 1:]], 1)
    assert float(losses.axis_folding_loss(mirror)) == pytest.approx(1 / 9)
    assert float(losses.folding_loss(mirror, 0.0)) == pytest.approx(1.0)


def test_the_endpoint_error_is_the_mean_distance_in_voxels_and_its_gradient_is_finite_where_there_is_none():
    true = torch.zeros(1, 3, 4, 4, 4)
    found = true.clone()
    found[:, 0], found[:, 1] = 3.0, 4.0
    assert float(losses.endpoint_error(found, true)) == pytest.approx(5.0)
    mask = torch.zeros(1, 1, 4, 4, 4)
    mask[:, :, :2] = 1
    found[:, :, 2:] = 100
    assert float(losses.endpoint_error(found, true, mask)) == pytest.approx(5.0)
    same = true.clone().requires_grad_()
    losses.endpoint_error(same, true).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_network_learns_in_the_joint_training(name):
    rng = np.random.default_rng(0)
    grid = Grid((16, 24, 8), np.diag([6.0, 6.0, 6.0, 1.0]))
    image = rng.random(grid.shape).astype(np.float16)
    case = Case("1", "train", grid, grid, image, image[::-1].copy(), np.ones(grid.shape, bool), image, image, None, None)
    network = shaken(small(name)).train()
    run = Run(
        Material(("T1w", "T1w"), "head", [case], [], 2),
        Nets(network, {}),
        {"smooth": 1.0, "dice": 1.0, "consistency": 1.0},
        Similarity("mind_ssc", [(1, 1)]),
        16,
        12,
        1,
        1e-3,
        "cpu",
        rng,
        SimpleNamespace(),  # type: ignore[arg-type]
    )
    registration_loss(run, case, pretraining=True).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) > 0 for gradient in gradients if gradient is not None) > len(gradients) / 2
