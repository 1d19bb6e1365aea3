"""Every system that adds resolution is trained by the same training and run by the same stage, with all the inputs that it has."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cohortex.errors import BadInput, Refused
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.stages import superresolve as stage
from cohortex.training import superresolve_pairs as pairs
from cohortex.training.superresolve import train_superresolve
from cohortex.volume import Volume

SYSTEMS = [entry.name for entry in registry.entries("superresolve")]


def image(subject, split, seed=0, modality="T1w", spacing=(1.0, 1.0, 2.0), turned=False):
    """Return an image of smooth blobs; T2w shows the same blobs in another contrast."""
    from scipy import ndimage

    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(26, 24, 20)), 1.5)
    data = 200 + 400 * blobs / np.abs(blobs).max()
    if modality == "T2w":
        data = 700 - data
    if turned:
        data = data.transpose(0, 2, 1)
    affine = np.diag([*spacing, 1.0])
    volume = Volume(data.astype(np.float32), affine, modality=modality, body_part="head")
    name = f"{subject}_{modality}{'_b' if turned else ''}"
    return Image(name, subject, "", modality, "image", body_part="head", row={"split": split}, opener=lambda: volume)


def cohort(*modalities):
    splits = {"001": "train", "002": "train", "003": "validation"}
    return [
        image(subject, split, seed, modality, (1.0, 1.0, 2.0 if modality == "T1w" else 1.0))
        for seed, (subject, split) in enumerate(splits.items())
        for modality in modalities
    ]


def section_of(name, **training):
    entry = registry.entry("superresolve", name)
    few = {"steps": 2, "batch": 1, "patch": 8, "slices": 4, "around": 2, **training}
    if "factors" in entry.training and entry.expects.any_factor:
        few["factors"] = [2, 2]
    options = {"factor": 2} if "factor" in entry.options else {}
    needs = {"reference": "T2w"} if "reference" in entry.expects.inputs else {}
    return {"default": {"method": name, "weights": "m", "factor": 2, **needs, "training": {**few, "options": options}}}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_trained_on_a_cohort_and_makes_its_images_finer(tmp_path, name):
    section = section_of(name)
    others = ("T2w",) if section["default"].get("reference") else ()
    train_superresolve(cohort("T1w", *others), section, 3, "cpu", tmp_path / "m")
    card = folders.read_card(tmp_path / "m")
    assert (card["network"], card["recipe"]["steps_done"]) == (name, 2)
    assert card["metrics"]
    assert card["recipe"]["objective"]["name"] == registry.entry("superresolve", name).training.get("objective", "squared_error")
    settings = section["default"]
    models = stage.load(section, {"m": tmp_path / "m"}, "cpu")
    one = replace(image("005", "test", 5), siblings=tuple(image("005", "test", 5, m, (1.0, 1.0, 1.0)) for m in others))
    made = stage.superresolve(one, settings, models, 0)
    assert (made.status, made.measures["method"]) == ("ok", name), made.reason
    assert made.content.shape == (26, 24, 40)
    assert made.content.spacing == pytest.approx((1, 1, 1))
    assert np.isfinite(made.content.array()).all()


def test_the_same_seed_trains_the_same_bytes(tmp_path):
    for place in ("a", "b"):
        train_superresolve(cohort("T1w"), section_of("subslice", steps=3), 5, "cpu", tmp_path / place)
    assert folders.model_sha256(tmp_path / "a") == folders.model_sha256(tmp_path / "b")


def test_training_learns_what_the_spline_lacks(tmp_path):
    section = section_of("subslice", steps=60, even=True, rate=3e-3)
    section["default"]["training"]["options"] = {"channels": 6, "blocks": 2}
    train_superresolve(cohort("T1w"), section, 3, "cpu", tmp_path / "m")
    loss = folders.read_card(tmp_path / "m")["recipe"]["loss"]
    assert loss[-1] < 0.9 * loss[0]


@pytest.mark.parametrize("degradation", ["profile", "truncate", "kernel"])
def test_slices_have_the_mean_and_the_number_that_they_should(degradation):
    array = image("1", "train").volume.array()
    manner = pairs.Manner(degradation=degradation)
    made = pairs.slices_of(array, 8, 1, manner, np.random.default_rng(0))
    assert made.shape == (26, 8, 20)
    assert made.mean() == pytest.approx(array.mean(), rel=0.02)


def test_degradations_differ_from_one_another():
    array = image("1", "train").volume.array()
    kinds = ("profile", "truncate", "kernel")
    box, cut, blur = (pairs.slices_of(array, 8, 1, pairs.Manner(degradation=kind), np.random.default_rng(0)) for kind in kinds)
    assert min(np.abs(box - cut).mean(), np.abs(box - blur).mean(), np.abs(cut - blur).mean()) > 0.5


def test_patches_that_are_read_when_they_are_drawn_are_those_of_the_whole_image():
    one = image("1", "train", spacing=(1.0, 1.0, 2.0))
    held, read = (make(one, np.random.default_rng(0)) for make in (pairs.prepared, pairs.read_when_drawn))
    assert held.array.shape == read.array.shape == (26, 24, 40)
    # their ranges are percentiles of the cubic and of the measured voxels
    a = held.array[3:20, 5:16, 7:31]
    b = read.array[3:20, 5:16, 7:31]
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9999
    assert read.places.max(0)[2] < 40


def test_a_patch_shows_the_slices_of_its_target():
    one = pairs.prepared(image("1", "train"), np.random.default_rng(0))
    shape = pairs.Shape(8, (0, 0, 0), 4)
    source, target = pairs.draw_slices(one, shape, 3.0, pairs.Manner(), np.random.default_rng(1))
    assert (source.shape, target.shape) == ((1, 8, 8, 4), (1, 8, 8, 12))
    np.testing.assert_allclose(target.reshape(8, 8, 4, 3).mean(-1), source[0], atol=1e-5)


def test_evened_patches_leave_the_spline_alike_errors():
    one = pairs.prepared(image("1", "train"), np.random.default_rng(0))
    bright = replace(one, array=np.asarray(one.array) * 2)
    shape, manner = pairs.Shape(8, (0, 0, 0), 4), pairs.Manner(even=True)
    both = [pairs.draw_slices(scan, shape, 3.0, manner, np.random.default_rng(1))[1] for scan in (one, bright)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-4, atol=1e-4)


# --- further inputs ----------------------------------------------------------------------------------------------


def test_the_second_view_is_an_image_of_the_same_contrast_across_the_slices():
    one, across = image("1", "train"), image("1", "train", spacing=(1.0, 2.0, 1.0), turned=True)
    parallel, other = image("1", "train", spacing=(1.0, 1.0, 3.0)), image("1", "train", modality="T2w", spacing=(1.0, 2.0, 1.0))
    parallel = replace(parallel, id="1_T1w_c")
    given = [one, parallel, other, across]
    assert stage.further_images(one, given, {"second_view": True}, ("image", "view")) == {"view": across}
    assert stage.further_images(one, given[:3], {"second_view": True}, ("image", "view")) == {}
    assert stage.further_images(one, given, {}, ("image", "view")) == {}


def test_the_reference_is_finer_along_the_slice_axis_and_of_the_named_contrast():
    one, thick = image("1", "train"), image("1", "train", modality="T2w", spacing=(1.0, 1.0, 2.0))
    fine, someone = (
        image("1", "train", modality="T2w", spacing=(1.0, 1.0, 1.0)),
        image("2", "train", modality="T2w", spacing=(1.0, 1.0, 1.0)),
    )
    wanted = {"reference": "T2w"}
    assert stage.further_images(one, [thick, someone], wanted, ("image", "reference")) == {}
    assert stage.further_images(one, [fine, someone], wanted, ("image", "reference")) == {"reference": fine}


# --- networks that fail ------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Return a function that gives a model whose network adds a value everywhere."""

    def make(value):
        network = registry.build("superresolve", "srcnn3d", residual=True)
        with torch.no_grad():
            network.reconstruction.weight.zero_()
            network.reconstruction.bias.fill_(0.0)
        card = {
            "name": "broken", "task": "superresolve", "network": "srcnn3d", "options": {"residual": True}, "modality": ["any"],
            "body_part": ["any"], "dimensions": [3], "spacing_mm": {"min": 0.1, "max": 9}, "data": "none", "recipe": {}, "seed": 0,
            "metrics": [], "intended_use": "tests", "limits": "all",
        }  # fmt: skip
        folders.write_model(tmp_path / "m", card, network.state_dict())
        models = stage.load({"default": {"method": "srcnn3d", "weights": "m"}}, {"m": tmp_path / "m"}, "cpu")
        models["m"].network.reconstruction.bias.data.fill_(value)
        return models

    return make


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e4])
def test_what_a_failing_network_gives_is_never_passed_on(broken, value):
    with pytest.raises(BadInput, match="broken"):
        stage.superresolve(image("1", "test"), {"method": "srcnn3d", "weights": "m"}, broken(value), 0)


def test_a_constant_image_passes_through_a_network(broken):
    volume = Volume(np.full((8, 8, 8), 7.0, np.float32), np.diag([1.0, 1.0, 2.0, 1.0]), modality="T1w", body_part="head")
    one = replace(image("1", "test"), opener=lambda: volume)
    made = stage.superresolve(one, {"method": "srcnn3d", "weights": "m"}, broken(0.0), 0)
    np.testing.assert_allclose(made.content.array(), 7.0, atol=1e-4)


def test_a_training_without_the_reference_that_its_network_needs_is_refused(tmp_path):
    with_reference = [name for name in SYSTEMS if "reference" in registry.entry("superresolve", name).expects.inputs]
    for name in with_reference:
        with pytest.raises(Refused, match="reference"):
            train_superresolve(cohort("T1w"), section_of(name), 3, "cpu", tmp_path / "m")


def test_the_schema_names_every_network_of_the_registry(root):
    import json

    schema = json.loads((root / "schemas" / "stages" / "superresolve.json").read_text())
    assert set(schema["properties"]["method"]["enum"]) == {*SYSTEMS, "spline", "none"}
