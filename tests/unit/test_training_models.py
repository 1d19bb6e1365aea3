"""Trainings write folders that load, learn something, repeat, and never look at other splits."""

import numpy as np
import pytest
import yaml

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.stages import denoise as denoise_stage
from cohortex.stages import superresolve as superresolve_stage
from cohortex.training.denoise import train_denoise, with_noise
from cohortex.training.superresolve import train_superresolve
from cohortex.volume import Volume


def image(subject, split, spacing=(1.0, 1.0, 2.0), seed=0, modality="T1w"):
    """Return an image of random smooth blobs with noise."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=(30, 28, 14)), 2)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in blobs.shape), indexing="ij")
    data = np.where(sum(a**2 for a in axes) < 0.9, 300 + 100 * np.sign(blobs), 0)
    data = np.abs(data + rng.normal(0, 15, data.shape)).astype(np.float32)
    volume = Volume(data, np.diag([*spacing, 1]), modality=modality, body_part="head")
    row = {"split": split, "site": "demo-simulator"}
    name = f"{subject}_{modality}"
    return Image(id=name, subject=subject, session="", modality=modality, kind="image", body_part="head", row=row, opener=lambda: volume)


def cohort():
    return [
        image("001", "train", seed=1),
        image("002", "train", seed=2),
        image("003", "validation", seed=3),
        image("004", "validation", seed=4),
    ]


SUPERRESOLVE = {"default": {"training": {"steps": 3, "batch": 1, "patch": 8}}}
DENOISE = {"default": {"training": {"steps": 4, "batch": 2, "patch": 28, "filters": 4, "rate": 3e-3}}}


@pytest.mark.parametrize(
    ("train", "section", "stage", "method"),
    [(train_superresolve, SUPERRESOLVE, superresolve_stage, "srcnn3d"), (train_denoise, DENOISE, denoise_stage, "redcnn")],
    ids=["superresolve", "denoise"],
)
def test_a_training_writes_a_folder_that_its_stage_runs_and_repeats_byte_for_byte(tmp_path, train, section, stage, method):
    for name in ("a", "b"):
        train(cohort(), section, 3, "cpu", tmp_path / name / "model")
        assert [p.name for p in (tmp_path / name).iterdir()] == ["model"]
    for file in ("card.yaml", "model.safetensors"):
        assert (tmp_path / "a" / "model" / file).read_bytes() == (tmp_path / "b" / "model" / file).read_bytes()
    card = folders.read_card(tmp_path / "a" / "model")
    assert card["subjects"] == {"train": ["001", "002"], "validation": ["003", "004"]}
    assert card["simulated"]
    assert card["metrics"]
    assert all(m["n"] == 2 for m in card["metrics"])
    settings = {"method": method, "weights": "train"}
    models = stage.load({"default": settings}, {"train": tmp_path / "a" / "model"}, "cpu")
    made = getattr(stage, train.__name__.removeprefix("train_"))(image("005", "test"), settings, models, 0)
    assert made.measures["method"] == method
    assert np.isfinite(made.content.data).all()


def test_denoising_learns(tmp_path):
    section = {"default": {"training": {"steps": 150, "batch": 2, "patch": 28, "filters": 12, "rate": 4e-3}}}
    train_denoise(cohort(), section, 3, "cpu", tmp_path / "m")
    card = folders.read_card(tmp_path / "m")
    assert card["recipe"]["loss"][-1] < 0.85 * card["recipe"]["loss"][0]


def test_super_resolution_learns(tmp_path):
    section = {"default": {"training": {"steps": 60, "batch": 2, "patch": 8, "rate": 1e-3, "factors": [2, 2]}}}
    train_superresolve(cohort(), section, 3, "cpu", tmp_path / "m")
    loss = folders.read_card(tmp_path / "m")["recipe"]["loss"]
    assert loss[-1] < loss[0]


@pytest.mark.parametrize(("train", "section"), [(train_superresolve, SUPERRESOLVE), (train_denoise, DENOISE)])
def test_without_training_subjects_a_training_is_refused(tmp_path, train, section):
    with pytest.raises(Refused, match="training subjects"):
        train([image("001", "validation"), image("002", "test")], section, 3, "cpu", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_synthetic_rician_noise_has_its_bias_and_gaussian_noise_none():
    rng = np.random.default_rng(0)
    dark = np.zeros((50, 50, 20), np.float32)
    assert with_noise(dark, 10, True, rng).mean() == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.02)
    assert abs(with_noise(dark, 10, False, rng).mean()) < 0.2


def test_a_trained_card_is_for_the_modality_and_the_spacings_that_it_saw(tmp_path):
    train_superresolve(cohort(), SUPERRESOLVE, 3, "cpu", tmp_path / "m")
    card = yaml.safe_load((tmp_path / "m" / "card.yaml").read_text())
    assert (card["modality"], card["body_part"], card["dimensions"]) == (["T1w"], ["head"], [3])
    assert card["spacing_mm"] == {"min": 0.8, "max": 3.75}
    assert card["extra"]["factors"] == [1.25, 3.0]


def test_the_faster_way_through_the_first_layer_computes_the_same():
    import torch

    from cohortex.models import registry

    network = registry.build("superresolve", "srcnn3d", residual=True)
    x = torch.rand(2, 1, 15, 14, 17)
    with torch.no_grad():
        assert torch.allclose(network.train()(x), network.eval()(x), atol=1e-5)
