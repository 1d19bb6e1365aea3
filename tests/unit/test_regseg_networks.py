"""Networks, spatial transformer and losses of the joint registration and segmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.models import registry
from cohortex.models.regseg.losses import bending, consistency_loss, dice_loss, diffusion, folding_loss, foreground_kept
from cohortex.models.regseg.warp import identity_points, integrate, invert, warp


def test_fresh_voxelmorph_leaves_everything_where_it_is():
    torch.manual_seed(0)
    for name, size in (("voxelmorph", 16), ("voxelmorph_small", 16)):
        network = registry.build("regseg", name).eval()
        with torch.no_grad():
            flow = network(torch.rand(1, 2, size, size, size))
        assert flow.shape == (1, 3, size, size, size)
        assert float(flow.abs().max()) < 1e-2


def test_what_looks_at_self_similarities_does_not_see_the_contrast():
    torch.manual_seed(2)
    for mind, least in (([[1, 2]], 0.99), ([], None)):
        network = registry.build("regseg", "voxelmorph_small", mind=mind).eval()
        torch.nn.init.normal_(network.flow.weight, 0, 0.1)
        smooth = torch.nn.functional.avg_pool3d(torch.rand(1, 2, 32, 32, 32), 5, 1)
        inverted = torch.cat([smooth[:, :1], 1 - 0.5 * smooth[:, 1:]], dim=1)
        with torch.no_grad():
            flows = torch.stack([network(pair).flatten() for pair in (smooth, inverted)])
        alike = float(torch.corrcoef(flows)[0, 1])
        assert alike > least if least is not None else alike < 0.9


def test_a_volume_in_blocks_gets_the_labels_of_the_whole():
    torch.manual_seed(0)
    network = registry.build("segment", "unet3d_small", features=[4, 8]).eval()
    x = torch.rand(1, 1, 64, 16, 16)
    with torch.no_grad():
        whole, part = network(x), network(x[:, :, 16:])
    assert torch.allclose(whole[:, :, 32:], part[:, :, 16:], atol=1e-5)


def test_the_identity_returns_the_very_volume():
    torch.manual_seed(1)
    x = torch.rand(1, 2, 13, 17, 10)
    assert torch.equal(warp(x, torch.zeros(1, 3, 13, 17, 10)), x)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(-4, 4)] * 3), st.tuples(*[st.integers(6, 19)] * 3))
def test_a_whole_shift_moves_voxels_exactly(shift, shape):
    x = torch.from_numpy(np.random.default_rng(0).random(shape, dtype=np.float32))[None, None]
    moved = warp(x, torch.tensor(shift, dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand(1, 3, *shape), outside="zeros")
    padded = np.pad(x[0, 0].numpy(), 4)
    expected = padded[tuple(slice(4 + s, 4 + s + n) for s, n in zip(shift, shape, strict=True))]
    assert np.array_equal(moved[0, 0].numpy(), expected)


def test_the_gradients_of_the_transformer_are_right():
    torch.manual_seed(2)
    x = torch.rand(1, 1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    # Away from whole voxels and borders, where linear interpolation has a kink.
    flow = (0.3 + 0.2 * torch.rand(1, 3, 4, 5, 4, dtype=torch.float64)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: warp(a, b)[:, :, :3, :4, :3], (x, flow), atol=1e-5)


def smooth_field(amplitude: float, size: int = 24) -> torch.Tensor:
    torch.manual_seed(3)
    corners = amplitude * torch.randn(1, 3, 4, 4, 4)
    return torch.nn.functional.interpolate(corners, size=(size,) * 3, mode="trilinear", align_corners=True)


def test_the_inverse_leads_back():
    flow = smooth_field(1.0)
    back = invert(flow)
    round_trip = back + warp(flow, back)
    assert float(round_trip[:, :, 4:-4, 4:-4, 4:-4].abs().max()) < 0.02


def test_scaling_and_squaring_of_a_constant_velocity_is_that_shift():
    velocity = torch.full((1, 3, 8, 8, 8), 1.25)
    assert torch.allclose(integrate(velocity, 5), velocity, atol=1e-5)


def test_an_affine_map_bends_nothing_and_a_mirror_folds():
    points = identity_points((6, 7, 8))[None]
    assert float(bending(0.1 * points)) < 1e-9
    assert float(diffusion(torch.ones(1, 3, 5, 5, 5))) == 0
    assert float(folding_loss(torch.zeros(1, 3, 5, 5, 5))) == 0
    assert float(folding_loss(torch.cat([-2 * points[:, :1], 0 * points[:, 1:]], 1))) > 1


def masks(radius: float, classes: int = 3) -> torch.Tensor:
    points = identity_points((16, 16, 16)) - 7.5
    distance = points.square().sum(0).sqrt()
    labels = (distance < radius).long() + (distance < radius / 2).long()
    return torch.nn.functional.one_hot(labels, classes).permute(3, 0, 1, 2)[None].float()


def test_true_labels_cost_nothing_and_wrong_ones_do():
    assert float(dice_loss(masks(6), masks(6))) < 1e-4
    assert float(dice_loss(masks(3), masks(6))) > 0.2


def test_an_empty_mask_never_pays():
    full, empty = masks(6), torch.zeros(1, 3, 16, 16, 16)
    empty[:, 0] = 1
    partial = masks(5)
    assert float(consistency_loss(partial, full)) < float(consistency_loss(empty, full))
    assert float(foreground_kept(empty, full[:, 1:].sum((1, 2, 3, 4)))) == pytest.approx(1)
    assert float(foreground_kept(partial, full[:, 1:].sum((1, 2, 3, 4)))) == 0


def test_two_segmentations_that_agree_cost_less_than_two_that_do_not():
    assert float(consistency_loss(masks(6), masks(6))) < 1e-3 < float(consistency_loss(masks(6), masks(4)))
