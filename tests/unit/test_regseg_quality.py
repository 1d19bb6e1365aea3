"""The Dice to be expected of labels: calibrated where the truth is known, absent where there is no calibration; uncertainty by hand."""

import numpy as np
import pytest
import torch

from cohortex.models.regseg.quality import features, predicted_dice
from cohortex.models.regseg.uncertainty import changed, entropy, entropy_map, mirrors, spread_mm, tally
from cohortex.models.segment.crf import Field, along_edges, mean_field
from cohortex.training.quality import SEVERITIES, Judged, by_image, calibrated, degraded, observations, rank_correlation, volumes_of

NAMES = ["background", "shell", "core"]
LEVELS = np.array([0.0, 0.45, 0.9], np.float32)


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball with a core, noise-free, and its labels."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij")) - 11.5 - rng.uniform(-1, 1, (3, 1, 1, 1))
    away = np.sqrt((at**2).sum(0))
    labels = (away < rng.uniform(8.5, 9.5)).astype(np.uint8) + (away < rng.uniform(4.5, 5.5))
    return LEVELS[labels], labels


def by_intensity(image) -> np.ndarray:
    """Class probabilities by intensity alone: what is noisy is labelled badly, and is less sure."""
    logits = -12 * np.abs(np.asarray(image[...])[None] - LEVELS[:, None, None, None])
    soft = np.exp(logits - logits.max(0))
    return (soft / soft.sum(0)).astype(np.float32)


def judged(seeds) -> list[Judged]:
    return [Judged(f"s{seed}", *ball(seed)) for seed in seeds]


@pytest.fixture(scope="module")
def calibration():
    volumes = volumes_of([ball(seed)[1] for seed in range(8)], 3, 0.001)
    return calibrated(judged(range(20, 25)), by_intensity, NAMES, 0.001, volumes, 3)


def test_what_is_expected_of_subjects_never_seen_follows_the_truth(calibration):
    seen = observations(judged(range(40, 44)), by_intensity, NAMES, 0.001, calibration["volumes"], 9)
    rows, labels, true, images = seen.rows, seen.labels, seen.true, seen.images
    expected = [predicted_dice({**calibration, "volumes": {}}, {k: row})[k] for k, row in zip(labels, rows, strict=True)]
    assert rank_correlation(by_image(images, expected), by_image(images, true)) > 0.8
    assert np.abs(np.array(expected) - true).mean() < 0.08
    assert np.ptp(true) > 0.2
    assert calibration["checked"]["subjects"] == 5


def test_the_calibration_repeats_and_holds_to_one_subject_as_too_few(calibration):
    volumes = volumes_of([ball(seed)[1] for seed in range(8)], 3, 0.001)
    assert calibrated(judged(range(20, 25)), by_intensity, NAMES, 0.001, volumes, 3) == calibration
    assert calibrated(judged([20]), by_intensity, NAMES, 0.001, volumes, 3) is None


def test_a_network_whose_quality_cannot_be_seen_gets_no_calibration():
    def deaf(image):
        return by_intensity(ball(0)[0])

    cases = [Judged(case.subject, case.values, np.roll(case.known, 7 * (i % 2), 0)) for i, case in enumerate(judged(range(6)))]
    assert calibrated(cases, deaf, NAMES, 0.001, {}, 1) is None


def test_a_label_that_every_training_image_has_and_this_one_has_not_is_expected_to_overlap_by_nothing(calibration):
    image, labels = ball(50)
    soft = by_intensity(np.where(labels == 2, LEVELS[1], image))
    seen = features(tally(soft), soft.argmax(0).astype(np.uint8), 0.001, calibration["volumes"])
    expected = predicted_dice(calibration, seen)
    assert expected[2] == 0.0
    assert expected[1] > 0.5


def test_volume_and_pieces_are_seen():
    image, labels = ball(1)
    volumes = volumes_of([ball(seed)[1] for seed in range(8)], 3, 0.001)
    usual = features(tally(by_intensity(image)), labels, 0.001, volumes)
    stray = labels.copy()
    stray[0, 0, :4] = 2
    other = LEVELS[stray]
    assert features(tally(by_intensity(other)), stray, 0.001, volumes)[2]["split"] > usual[2]["split"]
    assert features(tally(by_intensity(image)), labels, 0.008, volumes)[2]["volume"] > usual[2]["volume"] + 2


@pytest.mark.parametrize("severity", SEVERITIES)
def test_images_are_made_worse_by_as_much_as_is_asked_for(severity):
    image, _ = ball(2)
    worse = [np.abs(degraded(image, severity, np.random.default_rng(k)) - image).mean() for k in range(6)]
    assert bool(np.mean(worse) == 0) is (severity == 0)
    assert np.mean(worse) >= np.mean([np.abs(degraded(image, severity / 2, np.random.default_rng(k)) - image).mean() for k in range(6)])


def test_entropy_is_nothing_where_a_class_is_sure_and_one_where_all_are_alike():
    soft = np.array([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]], np.float32).reshape(4, 2, 1, 1)
    assert np.allclose(entropy(soft).ravel(), [0, 1], atol=1e-5)
    assert np.allclose(entropy_map(soft)[...].ravel(), [0, 1], atol=1e-5)


def test_a_changed_image_is_brought_back_to_its_place():
    image = np.pad(ball(4)[0], 4)
    labels = by_intensity(image).argmax(0)
    for seed in range(6):
        moved, back = changed(image, np.random.default_rng(seed), 0)
        assert not np.array_equal(moved, image)
        assert (back(by_intensity(moved)).argmax(0) == labels).all()


def test_labels_with_sides_are_not_mirrored():
    assert mirrors(["background", "csf", "lesion", "left_out_is_no_side"[5:]])
    assert not mirrors(["background", "left_thalamus"])
    assert not mirrors(["background", "hippocampus_R"])


def test_variance_and_agreement_are_those_of_the_definition():
    soft, other = by_intensity(ball(5)[0]), by_intensity(degraded(ball(5)[0], 1.0, np.random.default_rng(1)))
    counted = tally(soft, [other])
    mask = soft.argmax(0) > 0
    assert np.isclose(counted.mean(counted.variance), np.var([soft, other], axis=0).mean(0)[mask].mean(), rtol=1e-4)
    a, b = soft.argmax(0) == 2, other.argmax(0) == 2
    assert np.isclose(counted.agreement(2), 2 * (a & b).sum() / (a.sum() + b.sum()))
    assert np.isclose(counted.mean(counted.entropy, 1), entropy(soft)[soft.argmax(0) == 1].mean(), rtol=1e-4)


def test_the_spread_of_registrations_is_a_distance_in_mm():
    from cohortex.models.regseg.grid import Grid

    grid, body = Grid((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0])), np.ones((4, 4, 4), bool)
    apart = np.eye(4)
    apart[0, 3] = 6.0
    assert spread_mm(grid, body, [(np.eye(4), None), (apart, None)]) == (3.0, 3.0)
    assert spread_mm(grid, body, [(apart, None)]) == (0.0, 0.0)


def test_the_field_in_blocks_is_that_of_the_whole():
    image, _ = ball(6)
    noisy = degraded(image, 0.8, np.random.default_rng(2))
    soft = by_intensity(noisy)
    field = Field(near=3.0, alike=0.2, close=2.0)
    blocks = along_edges(soft, noisy, (1.0, 1.0, 1.0), field, iterations=2, radius=2, edge=10)
    logits = torch.from_numpy(soft)[None].clamp_min(1e-6).log()
    whole = mean_field(logits, torch.from_numpy(noisy)[None, None], field, (1.0, 1.0, 1.0), 2, 2)[0].numpy()
    assert np.allclose(blocks[...], whole, atol=1e-5)
