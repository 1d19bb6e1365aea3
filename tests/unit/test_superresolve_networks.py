"""Networks of the super-resolution systems: their layers, what they look at, and that they learn."""

import math

import numpy as np
import pytest
import torch

from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.models.superresolve import between, layers
from cohortex.models.superresolve import throughplane as through
from cohortex.models.superresolve.progressive_sr import critic
from cohortex.models.superresolve.saint import PRESETS

SMALL = {
    "saint": {"preset": "tiny"},
    "cardiac_sr": {"width": 4, "factor": 3},
    "context_sr": {"width": 4, "context_width": 2, "blocks": 1},
    "hybrid_sr": {"width": 4, "growth": 2, "blocks": 2, "branches": 2},
    "csn": {"width": 8, "blocks": 1, "units": 2, "factor": 3},
    "bayesian_espcn": {"factor": 3},
    "mglrl": {"width": 2, "blocks": 1},
    "progressive_sr": {"width": 4, "blocks": 1},
    "slab_sr": {"width": 4, "layers": 1, "slab": 5},
}
"""Options with which a network is small enough to look at every voxel."""

CASES = [
    *SMALL.items(),
    ("cardiac_sr", {"width": 4, "factor": 2, "inputs": ["image", "view"]}),
    ("cardiac_sr", {"width": 4, "factor": 7}),
    ("context_sr", {"width": 4, "context": False}),
    ("hybrid_sr", {"width": 4, "growth": 2, "blocks": 9, "branches": 1}),
    ("csn", {"width": 8, "blocks": 2, "units": 1, "split": False}),
    ("csn", {"width": 8, "blocks": 2, "units": 2, "planes": True}),
    ("bayesian_espcn", {"in_plane": 2, "residual": False, "channels": 2}),
    ("mglrl", {"width": 2, "global_residual": False}),
    ("progressive_sr", {"width": 4, "depth": 1, "inputs": ["image"]}),
    ("slab_sr", {"width": 4, "layers": 1, "slab": 7, "fusion": False}),
]
"""Every branch of every network's layout."""

NAMES = [f"{name}-{'-'.join(str(v) for v in options.values())}" for name, options in CASES]
TINY = ((4, 2, 2, 2), (4, 1, 2, 2))
"""A preset of SAINT that is not for use: small enough to look at every voxel."""

each_layout = pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)


def built(name, options, seed=0):
    torch.manual_seed(seed)
    return registry.build("superresolve", name, **options).eval()


def reach(network):
    return (network.halo,) * 3 if isinstance(network.halo, int) else network.halo


def scales(name, options):
    """Return how many fine voxels a voxel of the input becomes along each axis."""
    chosen = {**registry.entry("superresolve", name).options, **options}
    if registry.entry("superresolve", name).expects.grid == "fine":
        return 1, 1, 1
    return chosen.get("in_plane", 1), chosen.get("in_plane", 1), chosen.get("factor", 3)


def run(name, network, x):
    return network(x, 3.0) if name == "saint" else network(x)


def weights(*kernels):
    """Return the parameters of convolutions given as (in, out, taps), with biases."""
    return sum(inward * outward * taps + outward for inward, outward, taps in kernels)


def dense_block(width, blocks, count, growth):
    """Return the parameters of the residual dense blocks of SAINT's trunks."""
    inside = [(width + i * growth, growth, 9) for i in range(count)] + [(width + count * growth, width, 1)]
    return blocks * weights(*inside)


def trunk(channels, width, blocks, count, growth):
    return weights((channels, width, 9), (width, width, 9), (blocks * width, width, 1), (width, width, 9)) + dense_block(
        width, blocks, count, growth
    )


META = weights((3, 32, 9), (32, 64, 9), (64, 64, 9), (64, 64, 9))
HYBRID_PATHS = sum(weights(*[(32 + 16 * i, 16, 27) for i in range(n)], (32 + 16 * n, 32, 1)) for n in (1, 2, 3))
SPLIT_UNIT = weights((24, 24, 27), (24, 24, 27), (24, 12, 27), (36, 12, 27), (48, 24, 1))
SCALES = sum(weights((24, 8, edge**2)) for edge in (3, 5, 7))
BRANCH = weights((1, 24, 27), *[(24, 24, 9)] * 4)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        # Tanno et al.: 3^3 (50), 1^3 (100), 3^3 (6 r^3) with r = 2 on the six components of a tensor
        ("bayesian_espcn", {"channels": 6, "in_plane": 2, "variance": False, "dropout": False, "residual": False}, 142_898),
        ("bayesian_espcn", {}, 2 * weights((1, 50, 27), (50, 100, 1), (100, 2, 27)) + 50 + 100 + 2),
        ("saint", {}, trunk(3, 32, 3, 3, 16) + META + weights((64, 32, 9)) + trunk(2, 16, 1, 2, 8) + weights((16, 1, 9))),
        (
            "saint",
            {"preset": "paper"},
            trunk(3, 64, 6, 8, 32) + META + weights((64, 64, 9)) + trunk(2, 64, 4, 6, 12) + weights((64, 1, 9)),
        ),
        ("cardiac_sr", {}, weights((1, 32, 5 * 27), (32, 32, 27), (32, 32, 27), (32, 32, 27), (32, 16, 27), (16, 1, 27))),
        (
            "context_sr",
            {},
            weights((1, 24, 27), *[(24, 24, 27)] * 6, (24, 1, 27)) + weights((1, 8, 27), *[(8, 8, 27)] * 3, (8, 48, 1)),
        ),
        ("hybrid_sr", {}, weights((1, 32, 27), (96, 32, 1), (32, 2, 27)) + 3 * (HYBRID_PATHS + 3)),
        ("csn", {}, weights((1, 48, 27), (144, 48, 1), (48, 2, 27)) + 6 * SPLIT_UNIT),
        (
            "mglrl",
            {},
            sum(weights((1, 8, e**2)) for e in (3, 5, 7)) + weights((24, 24, 1), (24, 1, 27)) + 2 * (2 * SCALES + weights((24, 24, 1))),
        ),
        ("progressive_sr", {}, 2 * (2 * BRANCH + weights((48, 24, 1), (24, 24, 9), (24, 24, 9), (24, 1, 27)))),
        ("progressive_sr", {"inputs": ["image"]}, 2 * (BRANCH + weights((24, 24, 1), (24, 24, 9), (24, 24, 9), (24, 1, 27)))),
        ("slab_sr", {}, weights((1, 24, 9), *[(24, 24, 9)] * 3, *[(24, 24, 3)] * 4, (24, 1, 9))),
    ],
)
def test_a_network_has_the_parameters_of_its_layer_list(name, options, count):
    assert registry.count_parameters(registry.build("superresolve", name, **options)) == count


def test_the_compact_saint_is_small_enough_to_be_shipped():
    assert 4 * registry.count_parameters(registry.build("superresolve", "saint")) < 2_000_000


@pytest.mark.parametrize("planes", [False, True])
def test_the_single_branch_twin_of_the_splitting_network_has_as_many_parameters(planes):
    one, other = (registry.count_parameters(registry.build("superresolve", "csn", split=split, planes=planes)) for split in (True, False))
    assert abs(one - other) < 0.005 * one


def test_the_slice_wise_twin_has_as_many_parameters_and_never_looks_at_another_slice():
    one, other = (registry.build("superresolve", "slab_sr", fusion=fusion) for fusion in (True, False))
    assert registry.count_parameters(one) == registry.count_parameters(other)
    x = torch.rand(1, 1, 12, 12, 9)
    changed = x.clone()
    changed[..., 4] += 1
    difference = (other(changed) - other(x)).abs().amax((0, 1, 2, 3))
    assert difference[4] > 0.5
    assert not difference[[0, 1, 2, 3, 5, 6, 7, 8]].any()


@each_layout
def test_a_network_gives_the_fine_grid_of_its_input(name, options):
    network, chosen = built(name, options), registry.entry("superresolve", name)
    expects = registry.expected(chosen, options)
    assert (network.grid, network.channels) == (expects.grid, options.get("channels", expects.channels))
    with torch.no_grad():
        made = run(name, network, torch.rand(2, network.channels, 9, 8, 7))
    a, b, c = scales(name, options)
    assert made.shape == (2, options.get("channels", 1), 9 * a, 8 * b, 7 * c)
    assert made.isfinite().all()


def open_all(network):
    """Give a network weights with which nothing cancels and no ReLU is shut, so that what it looks at can be seen."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(1.0 if name.endswith("bias") else 1 / math.sqrt(parameter[0].numel()))
    return network.double()


@each_layout
def test_a_fine_voxel_depends_on_the_input_up_to_the_halo_and_no_farther(name, options):
    network = open_all(built(name, options))
    halo = reach(network)
    size = [2 * h + 3 for h in halo]
    x = torch.rand(1, network.channels, *size, dtype=torch.float64, requires_grad=True)
    made = run(name, network, x)
    # All fine voxels of the voxel in the middle.
    region = [slice((h + 1) * s, (h + 2) * s) for h, s in zip(halo, scales(name, options), strict=True)]
    made[:, 0, region[0], region[1], region[2]].sum().backward()
    seen = x.grad.abs().amax((0, 1)) > 0
    for axis in range(3):
        where = torch.nonzero(seen.movedim(axis, 0).flatten(1).any(1))
        assert (int(where.min()), int(where.max())) == (1, size[axis] - 2), f"axis {axis}: halo {halo[axis]}"


@each_layout
def test_a_block_with_its_halo_gives_what_the_whole_gives(name, options):
    network = built(name, options, seed=3)
    halo, scale = reach(network), scales(name, options)
    whole = torch.rand(1, network.channels, *(2 * h + 4 for h in halo))
    block = whole[:, :, 1:-1, 1:-1, 1:-1]
    with torch.no_grad():
        want, made = run(name, network, whole), run(name, network, block)
    inner = tuple(slice(h * s, (h + 2) * s) for h, s in zip(halo, scale, strict=True))
    there = tuple(slice((h + 1) * s, (h + 3) * s) for h, s in zip(halo, scale, strict=True))
    torch.testing.assert_close(made[(..., *inner)], want[(..., *there)], atol=2e-5, rtol=1e-4)


@each_layout
def test_gradients_reach_every_parameter(name, options):
    network = built(name, options).train()
    run(name, network, torch.rand(2, network.channels, 8, 8, 8)).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("name", "options"), SMALL.items(), ids=SMALL)
def test_a_network_learns(name, options):
    network = built(name, options).train()
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.random((2, network.channels, 8, 8, 6), np.float32))
    a, b, c = scales(name, options)
    # Not what it begins with: the negative.
    target = 1 - torch.nn.functional.interpolate(x[:, : options.get("channels", 1)], scale_factor=(a, b, c), mode="nearest")
    # White noise is all detail: networks with many layers in a row take smaller steps, as does bayesian_espcn, which is as large as ever.
    optimiser = torch.optim.Adam(network.parameters(), 3e-3 if name in ("bayesian_espcn", "progressive_sr") else 1e-2)
    errors = []
    for _ in range(30):
        made = run(name, network, x)
        error = (made[:, : target.shape[1]] - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("name", [n for n, _ in SMALL.items()])
def test_an_untrained_network_begins_near_the_interpolation(name):
    network = built(name, {}, seed=1)
    x = torch.from_numpy(np.random.default_rng(0).random((1, network.channels, 10, 10, 8), np.float32))
    with torch.no_grad():
        made = run(name, network, x)
    fine = x[:, :1] if made.shape[-1] == 8 else between.spline(x[:, :1], between.fine_positions(8, made.shape[-1]))
    assert float((made - fine).square().mean().sqrt()) < 0.35


@pytest.mark.parametrize("name", SMALL)
def test_what_an_untrained_network_adds_does_not_depend_on_the_brightness(name):
    network = built(name, {}, seed=1)
    x = torch.rand(1, network.channels, 8, 8, 7)
    with torch.no_grad():
        torch.testing.assert_close(run(name, network, x + 0.5), run(name, network, x) + 0.5, atol=1e-4, rtol=1e-4)


def test_the_interpolation_agrees_with_the_slices_as_the_stage_makes_it():
    slices = np.random.default_rng(2).normal(size=(3, 4, 30)).astype(np.float32)
    for factor in (2, 3.3, 6):
        count = through.fine_count(30, factor)
        fine = between.spline(torch.from_numpy(slices), between.fine_positions(30, count)).numpy()
        want, middle = through.agreeing_spline(slices, count, 2), slice(count // 3, -count // 3)
        np.testing.assert_allclose(through.agree(fine, slices, 2)[..., middle], want[..., middle], atol=1e-4)


@pytest.mark.parametrize("slices", [2, 3, 5, 40])
def test_the_interpolation_meets_linear_functions_up_to_the_faces(slices):
    line = torch.arange(float(slices))[None]
    positions = between.fine_positions(slices, 4 * slices)
    np.testing.assert_allclose(between.spline(line, positions)[0], positions, atol=1e-5)


@pytest.mark.parametrize("factors", [(1, 1, 4), (2, 2, 2), (3, 1, 2)])
def test_the_shuffle_and_its_inverse_lose_nothing(factors):
    x = torch.randn(2, 2 * math.prod(factors), 3, 4, 5)
    fine = layers.to_voxels(x, factors)
    assert fine.shape == (2, 2, *(n * f for n, f in zip((3, 4, 5), factors, strict=True)))
    assert torch.equal(layers.to_channels(fine, factors), x)
    assert torch.equal(layers.to_voxels(layers.to_channels(fine, factors), factors), fine)


def test_the_shuffle_in_a_plane_is_the_usual_pixel_shuffle():
    x = torch.randn(1, 8, 5, 6, 1)
    assert torch.equal(layers.to_voxels(x, (2, 2, 1))[..., 0], torch.pixel_shuffle(x[..., 0], 2))


def test_the_shuffle_says_which_sizes_it_takes():
    with pytest.raises(ValueError, match="5 channels"):
        layers.to_voxels(torch.zeros(1, 5, 2, 2, 2), (1, 1, 2))
    with pytest.raises(ValueError, match="no multiple of 1 x 1 x 2"):
        layers.to_channels(torch.zeros(1, 1, 2, 2, 3), (1, 1, 2))


@pytest.mark.parametrize("factor", [2, 2.5, 3.3, 4, 6])
def test_one_saint_serves_every_factor(factor):
    network = built("saint", {})
    x = torch.rand(1, 1, 8, 8, 11)
    with torch.no_grad():
        assert network(x, factor).shape == (1, 1, 8, 8, through.fine_count(11, factor))


@pytest.mark.parametrize("factor", [3.0, 2.7])
def test_saint_makes_a_part_of_the_fine_voxels_as_it_makes_them_all(factor):
    network = built("saint", {})
    x = torch.rand(1, 1, 6, 7, 10)
    positions = between.fine_positions(10, through.fine_count(10, factor))
    with torch.no_grad():
        torch.testing.assert_close(network(x, factor, positions[4:11]), network(x, factor)[..., 4:11], atol=1e-5, rtol=1e-5)


def test_the_weights_of_saint_change_with_the_position_and_the_factor():
    network = built("saint", {})
    one, far = (network.meta.kernels(torch.tensor([-0.25, 0.25]), factor) for factor in (2.0, 4.0))
    size = one.abs().mean()
    assert (one[0] - one[1]).abs().mean() > 0.1 * size
    assert (one - far).abs().mean() > 0.1 * size


def test_the_views_of_saint_are_each_others_mirror_and_both_are_taught():
    network = built("saint", {})
    x = torch.rand(1, 1, 9, 9, 6)
    with torch.no_grad():
        fused, sagittal, coronal = network.estimates(x, 2.0)
        _, turned, _ = network.estimates(x.transpose(2, 3), 2.0)
        taught = network.train()(x, 2.0)
    torch.testing.assert_close(turned.transpose(2, 3), coronal, atol=1e-5, rtol=1e-5)
    assert (sagittal - coronal).abs().max() > 1e-3
    torch.testing.assert_close(taught, torch.cat([fused, sagittal, coronal], 1), atol=1e-5, rtol=1e-5)


def test_saint_gives_the_same_with_planes_in_groups(monkeypatch):
    network = built("saint", {})
    x = torch.rand(1, 1, 12, 10, 6)
    with torch.no_grad():
        want = network(x, 3.0)
        monkeypatch.setattr("cohortex.models.superresolve.saint.AT_ONCE", 32 * 12 * 6 * 5)
        torch.testing.assert_close(network(x, 3.0), want, atol=1e-5, rtol=1e-5)


def test_an_unknown_preset_is_refused():
    with pytest.raises(Refused, match="compact"):
        registry.build("superresolve", "saint", preset="large")


def test_samples_of_a_variational_layer_have_the_mean_and_the_variance_of_its_weights():
    layer = built("bayesian_espcn", {}).noisy_layers()[0]
    x = torch.rand(1, 1, 5, 5, 5)
    with torch.no_grad():
        layer.log_rate.fill_(math.log(0.2))
        mean = layer(x)
        layer.noisy, layer.generator = True, torch.Generator().manual_seed(0)
        samples = layer(x.expand(4000, -1, -1, -1, -1))[:, None]
        # Each weight by itself: the variance of a sum of independent weights.
        around = torch.nn.functional.pad(x**2, [1] * 6, mode="replicate")
        want = torch.nn.functional.conv3d(around, 0.2 * layer.weight**2)
    assert float(((samples.mean(0) - mean) / want.sqrt()).abs().max()) < 6 / math.sqrt(4000)
    assert float((samples.var(0) / want - 1).abs().max()) < 0.2


def test_the_predicted_variance_has_two_parts_and_follows_from_the_seed():
    network = built("bayesian_espcn", {})
    x = torch.rand(1, 1, 6, 6, 6)
    mean, intrinsic, by_weights = network.predict(x, 8, seed=1)
    again = network.predict(x, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip((mean, intrinsic, by_weights), again, strict=True))
    assert not torch.equal(mean, network.predict(x, 8, seed=2)[0])
    assert mean.shape == intrinsic.shape == by_weights.shape == (1, 1, 6, 6, 12)
    assert (intrinsic > 0).all()
    assert (by_weights > 0).any()
    certain = built("bayesian_espcn", {"dropout": False, "variance": False})
    mean, intrinsic, by_weights = certain.predict(x, 4)
    assert torch.allclose(mean, certain(x), atol=1e-6)
    assert not intrinsic.any()
    assert not by_weights.any()


def test_a_training_step_of_the_bayesian_network_depends_on_its_batch_only():
    network = built("bayesian_espcn", {}).train()
    x = torch.rand(2, 1, 6, 6, 6)
    first = network(x)
    torch.rand(5)
    assert torch.equal(network(x), first)
    assert not torch.equal(network(x + 0.1)[:, :1] - 0.1, first[:, :1])
    assert first.shape == (2, 2, 6, 6, 12)


def test_weights_that_are_surer_diverge_more_from_their_prior():
    network = built("bayesian_espcn", {})
    divergences = []
    for rate in (-6.0, -3.0, -1.0):
        for layer in network.noisy_layers():
            torch.nn.init.constant_(layer.log_rate, rate)
        divergences.append(float(network.divergence().detach()))
    assert divergences == sorted(divergences, reverse=True)


def test_further_inputs_reach_the_output():
    for name, options in (
        ("cardiac_sr", {"factor": 3, "inputs": ["image", "view"]}),
        ("context_sr", {"inputs": ["image", "organ"]}),
        ("progressive_sr", {}),
    ):
        network = built(name, options)
        x = torch.rand(1, network.channels, 8, 8, 6)
        changed = x.clone()
        # not its brightness, which none of them looks at
        changed[:, -1] = 1 - changed[:, -1]
        with torch.no_grad():
            assert (run(name, network, changed) - run(name, network, x)).abs().max() > 1e-3, name


def test_views_of_the_cardiac_network_share_their_branch():
    one, two = (registry.build("superresolve", "cardiac_sr", inputs=inputs) for inputs in (["image"], ["image", "view"]))
    assert registry.count_parameters(two) - registry.count_parameters(one) == 32 * 32 * 27 + 32 * 28


def test_the_upsampling_of_the_cardiac_network_tells_places_in_a_slice_apart():
    """Each fine voxel has filters of its own on the 3 x 3 x 3 slices' voxels around it."""
    for factor in (2, 5):
        network = registry.build("superresolve", "cardiac_sr", factor=factor, width=4)
        point = torch.zeros(1, 1, 5, 5, 6)
        point[0, 0, 2, 2, 3] = 1
        with torch.no_grad():
            seen = network.upsampling(torch.nn.functional.pad(point, (1,) * 6))[0]
            flat = network.upsampling(torch.ones(1, 1, 7, 7, 8))[0]
        assert seen.shape == (4, 5, 5, 6 * factor)
        places = seen[:, 2, 2].reshape(4, 6, factor)
        assert float(places[:, [0, 1, 5]].abs().max()) == 0
        assert all(float((places[:, 3, 0] - places[:, 3, k]).abs().max()) > 0.1 for k in range(1, factor))
        assert float(flat.abs().max()) < 1e-5


def test_levels_follow_each_other_and_the_last_is_the_result():
    network = built("progressive_sr", SMALL["progressive_sr"])
    x = torch.rand(1, 2, 8, 8, 8)
    with torch.no_grad():
        levels = network.levels(x)
        assert torch.equal(levels[-1], network(x))
        torch.testing.assert_close(network.stages[1](levels[0], x[:, 1:]), levels[1])
    assert len(levels) == 2


def test_the_critic_scores_patches_of_any_size():
    judge = critic()
    for edge in (8, 17):
        assert judge(torch.rand(3, 1, edge, edge, edge)).shape == (3,)
    judge(torch.rand(1, 1, 9, 9, 9)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in judge.parameters())


def test_a_registry_entry_says_which_inputs_with_which_options():
    cardiac, multi = registry.entry("superresolve", "cardiac_sr"), registry.entry("superresolve", "progressive_sr")
    assert registry.expected(cardiac, {}).channels == 1
    assert registry.expected(cardiac, {"factor": 4, "inputs": ["image", "view", "view"]}).channels == 9
    assert registry.expected(multi, {}).inputs == ("image", "reference")
    assert registry.expected(multi, {"inputs": ["image"]}).channels == 1
