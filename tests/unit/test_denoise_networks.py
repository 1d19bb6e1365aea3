"""The networks that remove noise: as large as their papers say, as far-sighted as they say, and the same in blocks as in one piece."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cohortex.inference import channels_last, run_network, way_of
from cohortex.models import registry
from cohortex.models.denoise.critics import ConvCritic, PatchCritic
from cohortex.models.denoise.layers import ConvStack, ResidualStack, in_pieces, pooled_halo
from cohortex.models.denoise.projection import scanner
from cohortex.training.noise import dose_noise

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

SMALL = {
    "redcnn": {"filters": 4},
    "cnn_dae": {"filters": 4},
    "wavelet_cnn": {"filters": 4, "modules": 1, "directions": [2]},
    "wgan_vgg": {"filters": 4},
    "smgan": {"filters": 3},
    "noise_gan": {"filters": 4, "blocks": 1},
    "sinogram_attention": {"filters": 8, "growth": 4, "blocks": 2, "layers": 2},
    "dp_resnet": {"filters": 4, "blocks": 1},
    "unet": {"features": [4, 6, 8]},
    "blind_spot": {"filters": 4, "depth": 2},
    "half_grid_unet": {"features": [4, 6], "adjacent": 0, "scale": 1.0},
}
"""Options that make a network small enough for a test."""

VARIANTS: list[tuple[str, dict]] = [
    *SMALL.items(),
    ("cnn_dae", {"filters": 4, "output": "linear"}),
    ("wavelet_cnn", {"filters": 4, "modules": 2, "directions": [4, 2], "bypass": "all"}),
    ("smgan", {"filters": 4, "dimensions": 2}),
    ("noise_gan", {"filters": 4, "blocks": 1, "predicts": "image"}),
    ("dp_resnet", {"filters": 4, "blocks": 1, "domains": "projection"}),
    ("dp_resnet", {"filters": 4, "blocks": 1, "domains": "image"}),
    ("unet", {"dimensions": 3, "features": [3, 4]}),
    ("unet", {"features": [4, 6], "adjacent": 1}),
    ("blind_spot", {"dimensions": 3, "filters": 3, "depth": 1}),
    ("blind_spot", {"filters": 4, "depth": 2, "hole": 1}),
    ("frame_unet_2d", {"fine": 3, "coarse": 4, "blocks": 1}),
    ("half_grid_unet", {"features": [4, 6, 8], "adjacent": 2}),
]


def each(networks):
    return pytest.mark.parametrize(("name", "options"), networks, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))


every_network = each(VARIANTS)
every_kind = each([*SMALL.items(), ("unet", {"dimensions": 3, "features": [3, 4]}), ("blind_spot", {"filters": 4, "depth": 1, "hole": 1})])


def built(name, options, seed=0):
    torch.manual_seed(seed)
    return registry.build("denoise", name, **options)


def expected(name, options):
    return registry.expected(registry.entry("denoise", name), options)


def stirred(network):
    """Give norms and biases values of a trained network, and the output layer weights that can be told from nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif "last" in name:
                value.mul_(100)
    return network.eval()


def awake(network):
    """Make every filter a mean, so that no ReLU is silent and every path from an input to an output counts."""
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.abs_().div_(value.sum(tuple(range(1, value.ndim)), keepdim=True))
    return network


def halo_of(network, dimensions):
    return network.halo if isinstance(network.halo, tuple) else (network.halo,) * dimensions


def test_the_small_options_here_cover_the_registry():
    """All but those with tests of their own, `test_frame_unet.py` and `test_frame_unet_2d.py`."""
    assert set(SMALL) == {entry.name for entry in registry.entries("denoise")} - {"frame_unet", "frame_unet_2d"}


def convolution(inward, outward, size=9):
    return inward * outward * size + outward


BY_HAND = {
    # four layers of 64 filters and the one that makes the image, Gondara's figure
    "cnn_dae": convolution(1, 64) + 3 * convolution(64, 64) + convolution(64, 1),
    # the authors' published code: 3, 6 x 3 and 3 convolutions, norms behind 23 of them
    "wavelet_cnn": convolution(15, 128) + 21 * convolution(128, 128) + convolution(896, 128) + convolution(128, 15) + 23 * 2 * 128,
    "wgan_vgg": convolution(1, 32) + 6 * convolution(32, 32) + convolution(32, 1),
    "smgan": convolution(1, 32, 27) + 6 * convolution(32, 32, 27) + convolution(32, 1, 27),
    # eight blocks of two convolutions with norms
    "noise_gan": convolution(1, 64) + 16 * (convolution(64, 64) + 128) + convolution(64, 1),
    # four dense blocks of four layers, each with its fusion and attention (4 is 32 / 8)
    "sinogram_attention": convolution(1, 32)
    + 2 * convolution(32, 32)
    + convolution(32, 1)
    + convolution(4 * 32, 32, 1)
    + 4
    * (
        sum(convolution(32 + 16 * k, 16) for k in range(4))
        + convolution(32 + 4 * 16, 32, 1)
        + convolution(32, 4, 1)
        + convolution(4, 32, 1)
        + convolution(2, 1, 49)
    ),
    # a network in each domain
    "dp_resnet": 2 * (convolution(1, 32, 27) + 4 * (convolution(32, 32, 27) + 64) + convolution(32, 1, 27)),
    "unet": sum(convolution(a, b) for a, b in [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)])
    + sum(convolution(a, b) for a, b in [(192, 64), (64, 64), (96, 32), (32, 32)])
    + convolution(32, 1, 1),
    # five slices in cells of four pixels and the level; two residual blocks a level; what joins levels
    "half_grid_unet": convolution(21, 64)
    + sum(4 * convolution(width, width) for width in (64, 96, 96))
    + sum(convolution(a, b, 4) + convolution(b, a, 4) for a, b in [(64, 96), (96, 96)])
    + convolution(64, 4),
    # a branch: the convolution with a hole, four dilated ones each with a pointwise one, a pointwise one
    "blind_spot": sum(
        convolution(1, 32, k * k) + 4 * (convolution(32, 32) + convolution(32, 32, 1)) + convolution(32, 32, 1) for k in (3, 5)
    )
    + convolution(64, 32, 1)
    + convolution(32, 32, 1)
    + convolution(32, 1, 1),
    # the frame and its inverse, the U-Net, what it says of the coefficients and its correction
    "frame_unet_2d": 2 * 64 * 4 * 16
    + convolution(2 * 64, 32, 1)
    + 2 * 64 * 32
    + 3 * convolution(32, 32)
    + convolution(32, 64, 4)
    + 4 * convolution(64, 64)
    + convolution(64, 32, 4)
    + convolution(32, 64, 1)
    + 64
    + convolution(32, 4, 1),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_network_has_the_parameters_of_its_layer_list(name):
    assert registry.count_parameters(registry.build("denoise", name)) == BY_HAND[name]


@every_network
def test_the_output_is_an_image_of_the_inputs_size(name, options):
    takes = expected(name, options)
    network = stirred(built(name, options))
    shape = (21, 26) if takes.dimensions == 2 else (22, 17, 5)
    x = torch.rand(2, takes.channels, *shape)
    with torch.no_grad():
        assert network(x).shape == (2, 1, *shape)


@every_network
def test_every_parameter_gets_a_gradient(name, options):
    takes = expected(name, options)
    network = built(name, options).train()
    x = torch.rand(2, takes.channels, *((24, 24) if takes.dimensions == 2 else (16, 16, 6)))
    ((network(x) - torch.rand_like(x[:, :1])) ** 2).mean().backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []


@every_kind
def test_a_network_sees_as_far_as_it_says_and_no_farther(name, options):
    takes = expected(name, options)
    network = awake(stirred(built(name, options)).double())
    halo, multiple = halo_of(network, takes.dimensions), getattr(network, "multiple", 1)
    whole = takes.whole_slices
    shape = [16, 16, 2 * halo[-1] + 5][: takes.dimensions] if whole else [2 * h + 3 + 2 * multiple for h in halo]
    middle = [n // 2 // multiple * multiple for n in shape]
    farthest = np.zeros(takes.dimensions, int)
    for phase in range(multiple):
        place = [m + phase * (not whole) for m in middle]
        for seed in range(2):
            x = torch.rand(1, takes.channels, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            (gradient,) = torch.autograd.grad(network(x)[(0, 0, *place)], x)
            seen = np.abs(np.argwhere(gradient[0].abs().amax(0).numpy() > 0) - place)
            farthest = np.maximum(farthest, seen.max(0))
    for axis, (seen, said) in enumerate(zip(farthest, halo, strict=True)):
        if not (whole and axis < 2):
            assert said - multiple < seen <= said


@every_kind
def test_a_volume_in_blocks_is_the_volume_in_one_piece(name, options):
    takes = expected(name, options)
    network = channels_last(stirred(built(name, options)))
    halo = halo_of(network, takes.dimensions)
    shape = (14, 14, 9) if takes.whole_slices else (29, 18, 2) if takes.dimensions == 2 else (21, 14, 9)
    array = np.random.default_rng(5).random(shape, dtype=np.float32)
    slicewise = takes.dimensions == 2
    around = (*halo, 0) if slicewise else halo
    block = (*(shape[:2] if takes.whole_slices else (12, 16)), 1 if slicewise else 4)
    one = run_network(network, array, around, shape, slicewise=slicewise)[0]
    many = run_network(network, array, around, block, slicewise=slicewise)[0]
    np.testing.assert_allclose(many, one, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize(
    "options", [SMALL["blind_spot"], {"filters": 4, "depth": 3, "hole": 2}, {"filters": 3, "depth": 2, "dimensions": 3}]
)
def test_the_output_of_the_blind_spot_network_does_not_depend_on_its_own_pixel(options):
    dimensions, hole = options.get("dimensions", 2), options.get("hole", 0)
    network = stirred(built("blind_spot", options)).double()
    x = torch.rand(1, 1, *[15] * dimensions, dtype=torch.float64)
    middle = (0, 0, *[7] * dimensions)
    near = (0, 0, *[slice(7 - hole, 8 + hole)] * dimensions)
    beside = (0, 0, *[7] * (dimensions - 1), 8 + hole)
    with torch.no_grad():
        before = network(x)[middle]
        changed = x.clone()
        changed[near] += 5 * torch.rand_like(x[near])
        assert network(changed)[middle] == before
        changed[beside] += 1
        assert network(changed)[middle] != before


@pytest.mark.parametrize("name", ["wgan_vgg", "smgan"])
def test_a_stack_of_convolutions_begins_near_the_identity(name):
    x = torch.rand(1, 1, *[20] * expected(name, {}).dimensions)
    network = built(name, {"filters": 16})
    with torch.no_grad():
        assert ((network(x) - x) ** 2).mean() < 0.1 * x.var()


def test_a_stack_that_sees_adjacent_slices_begins_with_the_middle_one():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        made = ConvStack(2, 16, 4, channels=3)(x)
    assert ((made - x[:, 1:2]) ** 2).mean() < 0.1 * x.var()


def test_the_autoencoder_does_not_dim_what_is_brighter_than_its_range():
    network = stirred(built("cnn_dae", SMALL["cnn_dae"]))
    x = torch.rand(1, 1, 16, 16)
    x[0, 0, 4:7, 4:7], x[0, 0, 10, 10] = 2.0, 2.0
    with torch.no_grad():
        made = network(x)
    assert made[0, 0, 5, 5] == x[0, 0, 5, 5]
    assert made[0, 0, 10, 10] < 1.5, "a single pixel is noise"
    x[0, 0, 4:7, 4:7] = 1.2
    with torch.no_grad():
        assert (network(x) < 1.5).all()


def test_the_wavelet_network_makes_bands_and_the_image_is_their_inverse_transform():
    network = stirred(built("wavelet_cnn", SMALL["wavelet_cnn"]))
    x = torch.rand(1, 1, 24, 24)
    with torch.no_grad():
        bands = network.coefficients(x)
        assert bands.shape == (1, 3, 24, 24)
        with torch.no_grad():
            for value in network.last.parameters():
                value.zero_()
        # nothing is added to the low-pass band, and the other bands are empty
        left = network.coefficients(x)
        torch.testing.assert_close(left[:, :1], network.coefficients_of(x)[:, :1])
        assert not left[:, 1:].any()
        network.bypass = "all"
        torch.testing.assert_close(network(x), x, atol=1e-5, rtol=0)


def test_the_sum_over_the_modules_is_a_convolution_of_all_their_features_joined():
    network = stirred(built("wavelet_cnn", {"filters": 4, "modules": 3, "directions": [2]}))
    x = torch.rand(1, 1, 18, 18)
    with torch.no_grad():
        bands = network.coefficients_of(x)
        found = [network.first(bands)]
        for step in network.steps:
            found.append(torch.relu(step(found[-1]) + found[-1]))
        wanted = network.last(network.joined(torch.cat(found, 1)))
        wanted[:, :1] += bands[:, :1]
        made = network.coefficients(x)
    torch.testing.assert_close(made, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_projections_come_back_as_the_image_and_white_noise_with_its_standard_deviation(shape):
    way = scanner(shape)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    image = torch.from_numpy(np.exp(-4 * (rows**2 + columns**2)).astype(np.float32))[None, None]
    back = way.reconstruct(way.project(image))
    assert (back - image)[..., 8:-8, 8:-8].abs().max() < 0.02
    noise = torch.randn(way.project(image).shape, generator=torch.Generator().manual_seed(1))
    assert 0.5 < float(way.reconstruct(noise).std()) < 2


def test_stacks_are_projected_slice_by_slice():
    x = torch.rand(2, 1, 12, 15, 3)
    way = scanner((12, 15), 7)
    whole = way.project(x)
    assert whole.shape[:3] == (2, 1, 7)
    for z in range(3):
        torch.testing.assert_close(whole[..., z], way.project(x[..., z]))
    torch.testing.assert_close(way.reconstruct(whole)[..., 1], way.reconstruct(whole[..., 1]))


def test_noise_of_a_scan_comes_back_from_its_projections():
    """Else a network that finds it there could not take it away."""
    rng = np.random.default_rng(4)
    noise = dose_noise(np.zeros((48, 48, 2), np.float32), 2.0, 50.0, rng)[8:40, 8:40]
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(noise, 2, 0)))[:, None]
    way = scanner((32, 32))
    left = (way.reconstruct(way.project(x)) - x)[:, :, 6:-6, 6:-6]
    assert left.std() < 0.33 * x[:, :, 6:-6, 6:-6].std()


@pytest.mark.parametrize("name", ["sinogram_attention", "dp_resnet"])
def test_what_a_network_takes_from_a_sinogram_is_what_is_taken_from_the_image(name):
    network = stirred(built(name, SMALL[name] | ({"domains": "projection"} if name == "dp_resnet" else {})))
    x = torch.rand(1, 1, *((20, 20) if name == "sinogram_attention" else (20, 20, 3)))
    way = scanner((20, 20))
    with torch.no_grad():
        sinogram = way.project(x)
        # the image of the cleaned sinogram, without what projection and backprojection themselves change
        wanted = way.reconstruct(network.clean(sinogram)) + x - way.reconstruct(sinogram)
        torch.testing.assert_close(network(x), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("domains", "phases"), [("both", ("sinogram", "image")), ("projection", ("sinogram",)), ("image", ("image",))])
def test_the_phases_of_dp_resnet_are_the_parts_that_it_has(domains, phases):
    network = built("dp_resnet", SMALL["dp_resnet"] | {"domains": domains})
    assert network.phases == phases
    assert {key.split(".")[0] for key in network.state_dict()} == set(phases)


@pytest.mark.parametrize("learning", ["sinogram", "image"])
def test_a_part_of_dp_resnet_that_is_not_trained_stays_as_it_is(learning):
    network = built("dp_resnet", SMALL["dp_resnet"])
    for key, value in network.named_parameters():
        value.requires_grad_(key.startswith(learning))
    network.train()
    norms = {key: value.clone() for key, value in network.named_buffers()}
    network(torch.rand(1, 1, 12, 12, 4)).square().mean().backward()
    assert {key.split(".")[0] for key, value in network.named_parameters() if value.grad is not None} == {learning}
    assert {key.split(".")[0] for key, value in network.named_buffers() if not torch.equal(value, norms[key])} == {learning}


def test_pieces_of_a_stack_give_what_the_whole_gives():
    torch.manual_seed(0)
    network, x = stirred(ResidualStack(3, 3, 1)), torch.rand(1, 1, 30, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(network, x, network.halo, 8), network(x))


@each([(name, options) for name, options in SMALL.items() if name != "redcnn"])
def test_a_few_steps_bring_a_network_nearer_to_the_clean_image(name, options):
    takes = expected(name, options)
    network = built(name, {**options, "filters": 8} if "filters" in options else options).train()
    rows, columns = np.meshgrid(np.linspace(0, 3, 24), np.linspace(0, 4, 24), indexing="ij")
    clean = torch.from_numpy(0.5 + 0.3 * np.sin(rows * columns)).float()[None, None]
    clean = clean if takes.dimensions == 2 else clean[..., None].expand(1, 1, 24, 24, 4)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = ((network(noisy) - clean) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_the_page_on_models_tells_of_every_network_with_its_parameters():
    section = PAGE.read_text(encoding="utf-8").partition("## Networks that remove noise\n")[2].partition("\n## ")[0]
    rows = {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}
    for found in registry.entries("denoise"):
        network = registry.build("denoise", found.name)
        assert f"| {registry.count_parameters(network):,} |" in rows[found.name]
        assert f"`{found.training['objective']}`" in rows[found.name]
        assert found.expects.whole_slices or f"| {network.halo} |" in rows[found.name]
        link = found.paper.rpartition("doi:")[2] if "doi:" in found.paper else found.paper.rpartition(", ")[2]
        assert link in rows[found.name]


@pytest.mark.parametrize(
    ("name", "options"),
    [("cnn_dae", {"output": "tanh"}), ("noise_gan", {"predicts": "x"}), ("dp_resnet", {"domains": "k"}), ("wavelet_cnn", {"bypass": "no"})],
)
def test_a_choice_that_is_none_of_a_networks_own_is_refused(name, options):
    with pytest.raises(ValueError, match="not"):
        registry.build("denoise", name, **options)


def test_the_critic_of_the_wasserstein_networks_has_the_papers_layers():
    with torch.device("meta"):
        flat, deep = ConvCritic((64, 64)), ConvCritic((80, 80, 11))
    widths = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    assert registry.count_parameters(flat) == sum(convolution(a, b) for a, b in widths) + 8 * 8 * 256 * 1024 + 1024 + 1024 + 1
    wanted = sum(convolution(a, b, 27) for a, b in widths) + 10 * 10 * 2 * 256 * 1024 + 1024 + 1024 + 1
    assert registry.count_parameters(deep) == wanted


@pytest.mark.parametrize("edges", [(16, 18), (12, 9, 5)])
def test_critics_judge_patches_and_their_gradients_can_be_differentiated(edges):
    torch.manual_seed(0)
    x = torch.rand(2, 1, *edges, requires_grad=True)
    for critic, judged in ((ConvCritic(edges, filters=2, dense=4), (2, 1)), (PatchCritic(len(edges), filters=2, layers=2), None)):
        answer = critic(x)
        assert answer.shape == judged or answer.shape[:2] == (2, 1)
        # the gradient penalty of WGAN-GP
        (gradient,) = torch.autograd.grad(answer.sum(), x, create_graph=True)
        ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
        weights = [value.grad for key, value in critic.named_parameters() if key.endswith("weight")]
        assert all(value is not None and value.abs().max() > 0 for value in weights)


def test_one_examples_answer_of_a_critic_does_not_depend_on_the_others():
    torch.manual_seed(0)
    critic, x = ConvCritic((16, 16), filters=2, dense=4), torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(critic(x)[1:2], critic(x[1:2]))


@pytest.mark.parametrize(("levels", "convolutions", "halo"), [(1, 3, 3), (2, 1, 6), (3, 1, 16), (3, 2, 24)])
def test_the_halo_of_pooled_networks(levels, convolutions, halo):
    assert pooled_halo(levels, convolutions) == halo


@pytest.mark.parametrize("shape", [(50, 37, 4), (8, 90, 3)])
def test_a_network_that_pads_by_itself_sees_slices_as_they_end_and_is_the_same_in_blocks(shape):
    options = {"features": [4, 6], "adjacent": 1, "scale": 1.0}
    network = channels_last(stirred(built("half_grid_unet", options)))
    array = np.random.default_rng(5).random(shape, dtype=np.float32)
    way = way_of(network, expected("half_grid_unet", options), shape)
    assert way.own
    one = run_network(network, array, way.halo, way.block, way=way)[0]
    with torch.no_grad():
        beside = torch.from_numpy(np.pad(array, ((0, 0), (0, 0), (1, 1)), mode="reflect")).unfold(2, 3, 1).permute(2, 3, 0, 1)
        wanted = network(beside)[:, 0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(one, wanted, atol=2e-5 * np.abs(wanted).max())
    many = run_network(network, array, way.halo, (12, 16, 1), way=replace(way, block=(12, 16, 1)))[0]
    np.testing.assert_allclose(many, one, atol=2e-5 * np.abs(one).max())


def test_networks_whose_entry_says_units_of_the_noise_say_so_to_their_objectives_too():
    for found in registry.entries("denoise"):
        network = registry.build("denoise", found.name)
        assert getattr(network, "in_noise_units", False) == (found.expects.values == registry.NOISE_UNITS), found.name
