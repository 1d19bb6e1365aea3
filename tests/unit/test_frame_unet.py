"""The MR denoiser: its network, how the stage applies it, and what it learns from."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from cohortex.errors import Refused, Skip
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.models.denoise.frame_unet import FrameUnet, Residual, from_half_grid, to_half_grid
from cohortex.models.intensity import unit_range
from cohortex.stages import denoise as stage
from cohortex.stages import denoise_units
from cohortex.training import mr_patches, zoo_mr
from cohortex.training.checkpoint import Journal
from cohortex.training.limit import Interrupted, Limit
from cohortex.training.settings import denoise_training
from cohortex.training.team import team, use_team
from cohortex.volume import Volume

SMALL = {"fine": 4, "coarse": 8, "blocks": 1}


def small(seed=0):
    torch.manual_seed(seed)
    network = registry.build("denoise", "frame_unet", **SMALL)
    with torch.no_grad():
        # The U-Net has a say from the start here.
        for parameter in (network.noise.weight, network.correction.weight):
            parameter.normal_(0, 0.3)
    return network.eval()


def phantom(shape):
    """Return ellipsoids of brightness 0, 0.6 and 1 in air."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    return (np.where(radius < 0.9, 1.0, 0.0) - np.where(radius < 0.5, 0.4, 0.0)).astype(np.float32)


def with_noise(truth, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, (2, *truth.shape))
    return np.hypot(truth + noise[0], noise[1]).astype(np.float32)


def image(data, modality="T1w"):
    volume = Volume(np.asarray(data, np.float32), np.eye(4), modality=modality, body_part="head")
    return Image(id="001_T1w", subject="001", session="", modality=modality, kind="image", body_part="head", opener=lambda: volume)


def test_the_parameters_are_those_of_its_layers():
    fine = 3 * (48 * 48 * 9 + 48)
    coarse = 3 * (96 * 96 * 9 + 96)
    ends = 2 * 64 * 8 * 8 + (64 * 48 + 48) + 64 * 48 + (48 * 64 + 64) + 64 + (48 * 8 + 8)
    between = (48 * 96 * 8 + 96) + (96 * 48 * 8 + 48)
    assert registry.count_parameters(registry.build("denoise", "frame_unet")) == 2 * fine + 2 * coarse + ends + between


def test_the_half_grid_is_undone():
    x = torch.randn(2, 1, 6, 4, 8)
    assert to_half_grid(x).shape == (2, 8, 3, 2, 4)
    assert torch.equal(from_half_grid(to_half_grid(x)), x)


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 18, 23), (5, 30, 1)])
def test_windows_cover_every_voxel(shape):
    """Where all coefficients are noise nothing is left, at the border too."""
    network = FrameUnet(**SMALL)
    with torch.no_grad():
        network.noise.bias.fill_(80.0)
        network.significance.zero_()
        made = network(torch.randn(1, 1, *shape))
    assert made.shape == (1, 1, *shape)
    assert float(made.abs().max()) < 1e-4


def test_it_begins_as_a_threshold():
    torch.manual_seed(0)
    network = registry.build("denoise", "frame_unet").eval()
    truth = phantom((40, 40, 40))
    noisy = truth + 0.05 * np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    with torch.no_grad():
        made = network(torch.from_numpy(noisy / 0.05)[None, None])[0, 0].numpy() * 0.05
    assert np.mean((made - truth) ** 2) < 0.35 * np.mean((noisy - truth) ** 2)


def test_every_parameter_gets_a_gradient_and_steps_of_planes_change_nothing(monkeypatch):
    network, x = small(), 5 * torch.randn(1, 1, 22, 26, 30)
    whole = network(x)
    whole.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())
    with torch.no_grad():
        assert torch.allclose(network(x), whole, atol=1e-4)
        monkeypatch.setattr("cohortex.models.denoise.frame_unet.PLANES", 600)
        monkeypatch.setattr("cohortex.models.denoise.frame_unet.SLAB", 600)
        assert torch.allclose(network(x), whole, atol=1e-4)


@pytest.mark.parametrize("planes", [1, 2, 5, 20])
def test_a_residual_block_is_the_same_some_planes_at_a_time(planes, monkeypatch):
    torch.manual_seed(0)
    block, x = Residual(8), torch.randn(2, 8, 11, 7, 6)
    whole = block(x)
    monkeypatch.setattr("cohortex.models.denoise.frame_unet.SLAB", planes * 7 * 6)
    before = x.clone()
    with torch.no_grad():
        assert torch.allclose(block.by_planes(x, torch.empty_like(x), torch.empty_like(x)), whole, atol=1e-5)
    assert torch.equal(x, before)


def test_a_voxel_depends_on_no_voxel_beyond_the_halo():
    network, size = small(), 100
    x = torch.randn(1, 1, size, 8, 8, requires_grad=True)
    for at in (48, 49, 50, 51):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, at].sum(), x)
        reached = torch.nonzero(gradient.abs().sum((0, 1, 3, 4))).flatten()
        assert at - network.halo <= int(reached.min())
        assert int(reached.max()) <= at + network.halo


def card(**changes):
    return {
        "name": "frame", "task": "denoise", "network": "frame_unet", "options": SMALL, "modality": ["T1w"], "body_part": ["any"],
        "dimensions": [3], "spacing_mm": {"min": 0.5, "max": 5}, "data": "none", "recipe": {}, "seed": 0,
        "values": {"kind": "noise", "low": 0, "high": 1}, "metrics": [], "intended_use": "tests", "limits": "all", **changes,
    }  # fmt: skip


SETTINGS = {"method": "frame_unet", "weights": "m"}


@pytest.fixture
def models(tmp_path):
    folders.write_model(tmp_path / "m", card(), small().state_dict())
    return stage.load({"default": SETTINGS}, {"m": tmp_path / "m"}, "cpu")


def test_blocks_give_what_the_whole_gives(models, monkeypatch):
    noisy = with_noise(phantom((101, 30, 26)), 0.05)
    whole = stage.denoise(image(noisy), SETTINGS, models, 0).content.array()
    monkeypatch.setattr(denoise_units, "BLOCK", (48, 16, 256))
    parts = stage.denoise(image(noisy), SETTINGS, models, 0).content.array()
    np.testing.assert_allclose(parts, whole, atol=1e-4 * np.ptp(whole))


def test_the_unit_of_an_image_does_not_matter(models):
    noisy = with_noise(phantom((30, 28, 26)), 0.05)
    one, other = (stage.denoise(image(noisy * factor), SETTINGS, models, 0) for factor in (1, 500))
    np.testing.assert_allclose(other.content.array(), 500 * one.content.array(), atol=0.05)
    assert one.measures["model"] == "frame"


def test_the_range_is_the_noise():
    noisy = with_noise(phantom((50, 50, 50)), 0.04)
    low, high = unit_range(noisy, {"kind": "noise", "low": 0, "high": 2})
    assert low == 0
    assert high == pytest.approx(0.08, rel=0.25)


def test_an_image_without_noise_comes_back_as_it_is(models):
    clean = np.zeros((24, 24, 24), np.float32)
    clean[8:] = 7
    np.testing.assert_array_equal(stage.denoise(image(clean), SETTINGS, models, 0).content.data, clean)


def test_it_is_not_trained_by_the_stage_which_says_what_to_do_instead():
    with pytest.raises(Refused, match="zoo/denoise/frame_unet, under weights"):
        denoise_training({"default": {"method": "frame_unet", "weights": "train"}})


def test_an_image_around_zero_is_not_for_it(models):
    noisy = with_noise(phantom((30, 28, 26)), 0.05) - 0.5
    with pytest.raises(Skip, match="for magnitudes") as caught:
        stage.denoise(image(noisy), SETTINGS, models, 0)
    assert caught.value.code == "no-fit"


def test_a_unit_of_no_noise_at_all_is_refused(tmp_path):
    with pytest.raises(Refused, match="high not above 0"):
        folders.write_model(tmp_path / "m", card(values={"kind": "noise", "low": -5, "high": 0}), small().state_dict())


def clean(edge=40):
    rng = np.random.default_rng(0)
    return mr_patches.clean("phantom", 100 * phantom((edge, edge, edge)), 0.0, 1.0, rng)


def test_patches_have_noise_of_about_one_and_depend_on_the_seed_only():
    images = [clean()]
    drawn = [mr_patches.draw(images, 24, np.random.default_rng([3, number])) for number in range(40)]
    again = mr_patches.draw(images, 24, np.random.default_rng([3, 7]))
    assert all(np.array_equal(a, b) for a, b in zip(drawn[7], again, strict=True))
    bright = [(noisy - signal)[signal > 5] for noisy, signal in drawn]
    spread = np.array([values.std() for values in bright if len(values) > 500])
    assert len(spread) > 15
    assert np.median(spread) == pytest.approx(1, abs=0.06)
    brightest = np.array([signal.max() for _, signal in drawn])
    assert brightest.min() < 15
    assert brightest.max() > 50


def test_a_patch_of_a_thin_image_is_continued():
    images = [mr_patches.clean("thin", 100 * phantom((40, 40, 9)), 0.0, 1.0, np.random.default_rng(0))]
    assert mr_patches.draw(images, 32, np.random.default_rng(1))[0].shape == (32, 32, 32)


def test_the_noise_of_a_target_is_kept_below_that_which_is_added():
    own = mr_patches.Clean("noisy", clean().data, 0.05, clean().places, 1.0)
    levels = [1 / mr_patches.draw([own], 24, np.random.default_rng(number))[1].max() for number in range(30)]
    assert min(levels) > 0.05


def test_correlated_noise_keeps_its_variance():
    noise = np.random.default_rng(0).standard_normal((2, 40, 40, 40), dtype=np.float32)
    assert mr_patches.correlated(noise, np.random.default_rng(2)).std() == pytest.approx(1, abs=0.02)


def test_pairs_are_averaged_along_the_axes_that_are_asked_for():
    array = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    half = mr_patches.halved(array, [True, False, True])
    assert half.shape == (2, 4, 1)
    assert half[1, 2, 0] == array[2:4, 2, :2].mean()


def test_a_changed_contrast_is_smooth_and_never_negative():
    patch = np.linspace(0, 1.25, 200, dtype=np.float32)
    for seed in range(20):
        curve = mr_patches.recoloured(patch, np.random.default_rng(seed))
        assert curve.min() >= 0
        assert max(abs(b - a) for a, b in pairwise(curve)) < 2.6 * (patch[1] - patch[0])


def test_the_shipped_weights_remove_noise_of_every_level_and_are_small():
    where = folders.SCHEMA.parents[1] / "zoo" / "denoise" / "frame_unet"
    card = folders.read_card(where)
    assert card["values"]["kind"] == "noise"
    assert (where / folders.WEIGHTS).stat().st_size < 3_000_000
    network = folders.load_network(where)
    truth = phantom((44, 40, 36))
    for level in (0.02, 0.05, 0.1, 0.15):
        for signal in (truth, 1.2 - truth):
            noisy = with_noise(signal, level)
            with torch.no_grad():
                made = network(torch.from_numpy(noisy / np.float32(level))[None, None])[0, 0].numpy() * level
            assert np.mean((made - signal) ** 2) < 0.35 * np.mean((noisy - signal) ** 2)


def test_a_training_that_goes_on_at_its_checkpoint_ends_with_the_same_weights(tmp_path):
    training = {**zoo_mr.TRAINING, "steps": 5, "batch": 2, "patch": 14}
    whole, curves = zoo_mr.trained([clean()], training, 5, Journal(tmp_path / "a"))
    assert curves.steps == 5
    assert np.isfinite(curves.loss).all()
    before = use_team(dataclasses.replace(team(), limit=Limit(until=0)))
    try:
        with pytest.raises(Interrupted, match="step 1 of 5"):
            zoo_mr.trained([clean()], training, 5, Journal(tmp_path / "b"))
    finally:
        use_team(before)
    resumed, _ = zoo_mr.trained([clean()], training, 5, Journal(tmp_path / "b"))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_bfloat16_is_taken_where_it_differs_by_little_of_the_noise(models, monkeypatch):
    noisy, auto = with_noise(phantom((40, 36, 30)), 0.05), {**SETTINGS, "precision": "auto"}
    monkeypatch.setattr("cohortex.inference.computes_bfloat16", lambda device: True)
    full = stage.denoise(image(noisy), SETTINGS, models, 0).content.array()
    half = stage.denoise(image(noisy), auto, models, 0).content.array()
    difference = np.sqrt(np.mean((half - full) ** 2)) / 0.05
    assert 0 < difference < 1.3 * denoise_units.SAME
    monkeypatch.setattr(denoise_units, "SAME", difference / 4)
    np.testing.assert_array_equal(stage.denoise(image(noisy), auto, models, 0).content.array(), full)
