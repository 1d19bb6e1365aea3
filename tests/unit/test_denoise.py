"""Denoising removes noise, keeps the grid, and leaves alone what is not for it."""

import numpy as np
import pytest

from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.stages import denoise as stage
from cohortex.volume import Volume


def phantom(shape=(40, 36, 12)):
    """Return a bright ellipsoid with a darker one inside."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    return np.where(radius < 0.85, 400.0, 0.0) + np.where(radius < 0.4, -150.0, 0.0)


def image(data, modality="T1w", body_part="head", spacing=(1.0, 1.0, 1.0)):
    volume = Volume(np.asarray(data, np.float32), np.diag([*spacing, 1]), modality=modality, body_part=body_part)
    return Image(id="001_T1w", subject="001", session="", modality=modality, kind="image", body_part=body_part, opener=lambda: volume)


def magnitude(truth, sigma, seed=0):
    rng = np.random.default_rng(seed)
    return np.hypot(truth + rng.normal(0, sigma, truth.shape), rng.normal(0, sigma, truth.shape))


@pytest.mark.parametrize("shape", [(40, 36, 12), (64, 60, 1), (60, 50, 8)])
@pytest.mark.parametrize("modality", ["T1w", "CT"])
def test_the_default_comes_nearer_to_the_truth_and_keeps_the_grid(shape, modality):
    truth = phantom(shape)
    noisy = magnitude(truth, 20) if modality == "T1w" else truth - 1000 + np.random.default_rng(0).normal(0, 20, shape)
    truth = truth if modality == "T1w" else truth - 1000
    made = stage.denoise(image(noisy, modality), {}, None, 0)
    assert np.mean((made.content.data - truth) ** 2) < 0.5 * np.mean((noisy - truth) ** 2)
    assert made.content.shape == shape
    assert made.content.array().dtype == np.float32
    assert made.measures["noise_sigma_after"] < 0.5 * made.measures["noise_sigma_before"]
    assert made.measures["noise_sigma_before"] == pytest.approx(20, rel=0.35)
    assert 5 < made.measures["residual_std"] < 40
    assert made.content.history[-1]["step"] == "denoise"


def test_a_magnitude_is_told_from_its_modality_and_its_values():
    assert stage.is_rician(1.0, "T2w", "auto")
    assert not stage.is_rician(-1.0, "T2w", "auto")
    assert not stage.is_rician(1.0, "CT", "auto")
    assert stage.is_rician(1.0, "CT", True)
    assert not stage.is_rician(1.0, "T2w", False)


def test_an_image_without_noise_comes_back_as_it_is():
    flat = np.full((12, 12, 12), 7.0)
    made = stage.denoise(image(flat), {}, None, 0)
    np.testing.assert_array_equal(made.content.data, flat)
    assert made.measures["residual_std"] == 0


def test_the_method_none_skips():
    with pytest.raises(Skip) as caught:
        stage.denoise(image(phantom()), {"method": "none"}, None, 0)
    assert caught.value.code == "off"


def test_an_image_with_infinite_values_is_bad_input():
    data = phantom()
    data[0, 0, 0] = np.inf
    with pytest.raises(BadInput):
        stage.denoise(image(data), {}, None, 0)


def card(**changes):
    return {
        "name": "cleaner", "task": "denoise", "network": "redcnn", "options": {"filters": 2}, "modality": ["CT"],
        "body_part": ["head"], "dimensions": [2, 3], "spacing_mm": {"min": 0.5, "max": 5}, "data": "none", "recipe": {}, "seed": 0,
        "values": {"kind": "window", "low": -1000, "high": 1000},
        "metrics": [], "intended_use": "tests", "limits": "all", **changes,
    }  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Return a folder whose network adds 0.05 of the range to what is not negative."""
    import torch

    network = registry.build("denoise", "redcnn", filters=2)
    with torch.no_grad():
        network.decoder[4].weight.zero_()
        network.decoder[4].bias.fill_(0.05)
    folders.write_model(tmp_path / "m", card(), network.state_dict())
    return tmp_path / "m"


REDCNN = {"method": "redcnn", "weights": "m"}


@pytest.mark.parametrize("shape", [(30, 26, 3), (300, 40, 1), (7, 5, 2)])
def test_the_network_works_in_the_cards_window_and_leaves_the_rest(model, shape):
    models = stage.load({"default": REDCNN}, {"m": model}, "cpu")
    data = np.random.default_rng(0).uniform(-900, 900, shape)
    data[0, 0, 0], data[1, 1, 0] = 3000, -2000
    made = stage.denoise(image(data, "CT"), REDCNN, models, 0)
    change = made.content.data - data
    assert change[0, 0, 0] == change[1, 1, 0] == 0
    inside = np.abs(data) < 1000
    np.testing.assert_allclose(change[inside], 0.05 * 2000, atol=0.05)
    assert made.measures["model"] == "cleaner"
    assert made.content.history[-1]["model_sha256"] == folders.model_sha256(model)


def test_an_image_in_other_units_than_the_models_window_is_left_alone(model):
    models = stage.load({"default": REDCNN}, {"m": model}, "cpu")
    with pytest.raises(Skip, match=r"between 0 and 1, but .* -1000 to 1000; check the units") as caught:
        stage.denoise(image(np.random.default_rng(0).integers(0, 2, (9, 8, 3)), "CT"), REDCNN, models, 0)
    assert caught.value.code == "no-fit"


def test_a_model_that_does_not_fit_skips_with_the_reason(model):
    models = stage.load({"default": REDCNN}, {"m": model}, "cpu")
    with pytest.raises(Skip, match="cleaner is for CT, not for T1w") as caught:
        stage.denoise(image(phantom(), "T1w"), REDCNN, models, 0)
    assert caught.value.code == "no-fit"


def test_a_network_without_weights_is_refused():
    with pytest.raises(Refused, match=r"denoise\.CT"):
        stage.load({"default": {}, "CT": {"method": "redcnn"}}, {}, "cpu")
