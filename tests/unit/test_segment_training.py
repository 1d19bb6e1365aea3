"""The training of networks that segment: from labelled images to a folder that loads, alike for all networks."""

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.folder import load_network, read_card
from cohortex.models.segment.plan import Plan
from cohortex.survey import survey
from cohortex.training import segment as training
from cohortex.training.segment import cut_of, labels_of, train_segment
from cohortex.training.segment_data import classes_of, draw_patch, labelled_pairs, plan_of, prepared
from cohortex.volume import Volume


def subject(name, split, seed, spacing=(1.0, 1.0, 2.0), shape=(26, 24, 14)):
    """Return an image of two balls in noise, and their labels."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    labels = np.zeros(shape, np.uint8)
    for label, middle in ((1, (9, 8, 12)), (2, (18, 16, 16))):
        away = sum((a - m - rng.uniform(-2, 2)) ** 2 for a, m in zip(axes, middle, strict=True))
        labels[away < 30] = label
    data = (100 + 150 * labels.astype(np.float32) + rng.normal(0, 20, shape)).astype(np.float32)
    affine = np.diag([*spacing, 1.0])
    row = {"split": split, "site": "demo-simulator"}
    image = Volume(data, affine, modality="T1w", body_part="head")
    known = Volume(labels, affine, kind="labels", modality="T1w", body_part="head")
    common = {"subject": name, "session": "", "modality": "T1w", "body_part": "head", "row": row}
    return [
        Image(id=f"{name}_T1w", kind="image", opener=lambda: image, **common),
        Image(id=f"{name}_T1w+labels", kind="labels", role="labels", opener=lambda: known, **common),
    ]


def cohort():
    return [i for k, split in enumerate(["train", "train", "train", "validation"]) for i in subject(f"00{k}", split, k)]


def section(**more):
    return {
        "default": {
            "network": "planned_unet",
            "labels": {"1": "small"},
            "training": {"steps": 2, "batch": 2, "patch": [16, 16, 8], "options": {"features": [4, 6], "kernels": [], "strides": []}},
            **more,
        }
    }


def test_a_training_writes_a_folder_that_loads_and_repeats_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        train_segment(cohort(), section(), 3, "cpu", tmp_path / name)
    for file in ("card.yaml", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    card = read_card(tmp_path / "a")
    assert card["classes"] == ["background", "small", "label2"]
    assert card["subjects"] == {"train": ["000", "001", "002"], "validation": ["003"]}
    assert [m["name"] for m in card["metrics"]] == ["Dice", "IoU", "Dice of small", "Dice of label2"]
    assert card["extra"]["plan"]["spacing"] == [1.0, 1.0, 2.0]
    network = load_network(tmp_path / "a")
    how = Plan(**card["extra"]["plan"])
    item = prepared(labelled_pairs(cohort(), "validation")[0], how, np.random.default_rng(0))
    assert labels_of(network, item.values, how, None, [16, 16, 8]).shape == item.known.shape


@pytest.mark.parametrize("name", ["segnet", "pspnet"])
def test_a_network_of_two_dimensions_learns_slices_and_labels_volumes(tmp_path, name):
    small = {"segnet": {"features": [4, 6]}, "pspnet": {"depth": [1, 1, 1, 1], "width": 2}}[name]
    budget = {"steps": 2, "batch": 2, "patch": [16, 16], "options": small}
    train_segment(cohort(), section(network=name, training=budget), 3, "cpu", tmp_path / "m")
    card = read_card(tmp_path / "m")
    assert card["options"]["classes"] == 3
    assert card["extra"]["across"] == 2
    assert {m["name"] for m in card["metrics"]} >= {"Dice", "IoU"}


def test_two_balls_are_learnt(tmp_path):
    budget = {"steps": 40, "batch": 2, "patch": [16, 16, 8], "rate": 1e-2, "options": {"features": [6, 8], "kernels": [], "strides": []}}
    train_segment(cohort(), section(training=budget), 1, "cpu", tmp_path / "m")
    found = {m["name"]: m["value"] for m in read_card(tmp_path / "m")["metrics"]}
    assert found["Dice"] > 0.8


def test_patches_hold_the_labels_of_their_image_and_are_found_by_label():
    pairs = labelled_pairs(cohort(), "train")
    how = plan_of(pairs, classes_of(pairs), 1.0)
    item = prepared(pairs[0], how, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    drawn = [draw_patch(item, (12, 12, 8), None, rng) for _ in range(24)]
    assert all(image.shape == labels.shape == (1, 12, 12, 8) for image, labels in drawn)
    assert np.mean([labels.any() for _, labels in drawn]) > 0.7
    # a label's voxels are brighter: image and labels were moved alike
    image, labels = (np.concatenate([each[k].ravel() for each in drawn]) for k in (0, 1))
    assert image[labels == 2].mean() > image[labels == 1].mean() > image[labels == 0].mean()
    larger, _ = draw_patch(item, (40, 40, 24), None, rng)
    assert larger.shape == (1, 40, 40, 24)
    flat, known = draw_patch(item, (20, 22), 2, rng)
    assert flat.shape == known.shape == (1, 20, 22)


def test_a_label_map_goes_to_the_plans_spacing_and_back():
    pair = labelled_pairs(subject("000", "train", 0, spacing=(1.5, 1.5, 2.0)), "train")
    how = plan_of(pair, 3, 1.0)
    finer = Plan(**{**how.told(), "spacing": (0.75, 0.75, 2.0)})
    item = prepared(pair[0], finer, np.random.default_rng(0))
    assert item.known.shape == (52, 48, 14)

    assert np.array_equal(np.asarray(item.known[...])[::2, ::2], pair[0][1].volume.data)
    inside = survey(pair[0][0].volume).inside[...]
    values = np.asarray(prepared(pair[0], how, np.random.default_rng(0)).values[...])[inside]
    assert abs(values.mean()) < 1e-3
    assert values.std() == pytest.approx(1, abs=1e-3)


def test_what_does_not_fit_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(Refused, match="role labels"):
        train_segment([i for i in cohort() if i.kind == "image"], section(), 1, "cpu", tmp_path / "m")
    pairs = labelled_pairs(cohort(), "train")
    how = plan_of(pairs, 3, 1.0)
    with pytest.raises(Refused, match="one length for each"):
        cut_of(how, 3, [16, 16])
    with pytest.raises(Refused, match="no option 'filters'"):
        training.options_of("unet", how, {"filters": 3})
    flat = Plan(**{**how.told(), "dimensions": 2, "across": 2, "patch": (16, 16)})
    with pytest.raises(Refused, match="dimensions: 2"):
        cut_of(flat, 3, None)
