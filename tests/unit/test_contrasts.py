"""Images of any contrast from label maps: the same for the same seed, labels that the map has, and what a scanner does to them."""

import numpy as np
import pytest

from cohortex.demo.tissues import AIR, CSF, FAT, GREY, SOFT, WHITE
from cohortex.models.folder import load_network, read_card, read_model
from cohortex.training import any_contrast
from cohortex.training.contrasts import (
    BRAIN,
    CLASS_OF,
    CLASSES,
    CLUSTERS,
    DEEP,
    STRUCTURES,
    VENTRICLE,
    painted,
    random_contrast,
    random_map,
    sample_pair,
    stripped,
    thick_slices,
    two_scans,
)


@pytest.fixture(scope="module")
def ball():
    """A head of shells: skin, fat, fluid, grey and white matter, ventricles and a deep nucleus."""
    axes = np.ogrid[tuple(slice(-40, 40) for _ in range(3))]
    radius = np.sqrt(sum(a**2 for a in axes))
    found = np.full(radius.shape, AIR, np.uint8)
    for reach, what in ((38, SOFT), (35, FAT), (32, CSF), (29, GREY), (24, WHITE), (8, VENTRICLE)):
        found[radius < reach] = what
    found[np.sqrt((axes[0] - 14) ** 2 + axes[1] ** 2 + axes[2] ** 2) < 4] = DEEP
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_sample_is_the_same_for_the_same_seed_and_another_for_another(ball, seed):
    image, classes = sample_pair([ball], 24, 1.5, np.random.default_rng(seed))
    again, known = sample_pair([ball], 24, 1.5, np.random.default_rng(seed))
    assert np.array_equal(image, again)
    assert np.array_equal(classes, known)
    assert not np.array_equal(image, sample_pair([ball], 24, 1.5, np.random.default_rng(seed + 100))[0])
    assert image.shape == classes.shape == (24, 24, 24)
    assert (image.dtype, classes.dtype) == (np.float32, np.uint8)
    assert np.isfinite(image).all()
    assert 0 <= image.min() <= image.max() <= 1


def test_labels_of_a_sample_are_those_of_the_map(ball):
    there = set(CLASS_OF[np.unique(ball)])
    seen: set[int] = set()
    for seed in range(12):
        seen |= set(np.unique(sample_pair([ball], 24, 2.5, np.random.default_rng(seed))[1]).tolist())
    assert seen == there
    assert len(CLASS_OF) == STRUCTURES
    assert CLASS_OF.max() == len(CLASSES) - 1


def test_without_freedom_a_cube_is_the_map_itself(ball):
    rng = np.random.default_rng(0)
    where = random_map(40, 1.0, np.full(3, 39.5), rng, bend_mm=0.0, freedom=0.0)
    contrast = random_contrast(rng)
    _, found = painted(ball, where, 40, contrast, rng)
    # Every voxel is looked at in eight points around its middle, all of them in one voxel of the map.
    assert np.array_equal(found, ball[20:60, 20:60, 20:60])


@pytest.mark.parametrize("seed", range(6))
def test_painted_values_follow_the_contrast(ball, seed):
    rng = np.random.default_rng(seed)
    contrast = random_contrast(rng)
    values, found = painted(ball, random_map(40, 1.5, np.full(3, 39.5), rng, 1.0), 40, contrast, rng)
    inner = found == WHITE
    level = contrast.level[WHITE]
    assert level.min() - 0.1 * np.ptp(contrast.level) <= np.median(values[inner]) <= level.max() + 0.1 * np.ptp(contrast.level)
    assert contrast.level.shape == (STRUCTURES, CLUSTERS)


def test_realistic_contrasts_have_their_order():
    for seed in range(60):
        contrast = random_contrast(np.random.default_rng(seed), ordered=1.0)
        csf, grey, white = (contrast.level[s].mean() for s in (CSF, GREY, WHITE))
        order = {"T1w": csf < grey < white, "T2w": white < grey < csf, "FLAIR": csf < white, "CT": csf < white < grey}
        assert order[contrast.kind], (seed, contrast.kind, csf, grey, white)


def test_an_extracted_brain_keeps_the_brain_and_has_air_around_it(ball):
    rng = np.random.default_rng(3)
    values, found = painted(ball, random_map(40, 2.0, np.full(3, 39.5), rng, 1.0), 40, random_contrast(rng), rng)
    inside, labels = stripped(values, found, -5.0, rng)
    assert np.array_equal(BRAIN[labels], BRAIN[found])
    assert np.array_equal(inside[BRAIN[found]], values[BRAIN[found]])
    gone = labels != found
    assert not (labels[gone] != AIR).any()
    assert (inside[gone] == -5).all()
    assert not (labels == FAT).any()


def test_thick_slices_are_smooth_across_and_untouched_along():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((24, 25, 26)).astype(np.float32)
    for axis in range(3):
        made = thick_slices(noise, axis, 4.0)
        assert made.shape == noise.shape
        assert np.diff(made, axis=axis).std() < 0.3 * np.diff(made, axis=(axis + 1) % 3).std()
    ramp = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], (24, 4, 5))
    assert np.allclose(thick_slices(ramp, 1, 3.0), ramp, atol=1e-4)
    assert np.allclose(thick_slices(ramp, 0, 3.0)[6:-6], ramp[6:-6], atol=0.05)


def test_two_scans_show_one_anatomy_in_two_shapes_and_contrasts(ball):
    images, found = two_scans([ball], 24, 3.0, np.random.default_rng(1))
    assert images.shape == found.shape == (2, 24, 24, 24)
    assert not np.array_equal(found[0], found[1])
    both = BRAIN[found]
    assert 2 * (both[0] & both[1]).sum() / both.sum() > 0.7
    again, _ = two_scans([ball], 24, 3.0, np.random.default_rng(1))
    assert np.array_equal(images, again)


def test_a_training_that_was_stopped_ends_with_the_same_folder(ball, tmp_path, monkeypatch):
    small = {"features": [4, 6], "blocks": 1, "norm": "none", "deep_supervision": False}
    monkeypatch.setitem(any_contrast.SEGMENT, "options", small)
    monkeypatch.setitem(any_contrast.SEGMENT, "edge", 16)
    monkeypatch.setitem(any_contrast.REGISTER, "options", {"encoder": [4, 4], "decoder": [4, 4], "integration_steps": 1})
    monkeypatch.setitem(any_contrast.REGISTER, "edge", 16)
    monkeypatch.setattr(any_contrast, "head_maps", lambda *_: [ball])

    def called(folder, *more):
        monkeypatch.setattr("sys.argv", ["any_contrast", "--folder", str(folder), "--segment-steps", "3", "--register-steps", "2", *more])
        any_contrast.main()

    called(tmp_path / "whole")
    stops = 0
    while not (tmp_path / "cut" / "card.yaml").is_file():
        try:
            called(tmp_path / "cut", "--attempt-minutes", "0")
        except SystemExit as end:
            assert end.code == 75
            stops += 1
            assert stops < 9
    assert stops >= 3
    whole, cut = read_card(tmp_path / "whole"), read_card(tmp_path / "cut")
    assert whole["sha256"] == cut["sha256"]
    assert whole["classes"][7] == "ventricles"
    assert (whole["extra"]["fixed"], whole["modality"]) == ("any", ["any"])
    assert not (tmp_path / "whole.checkpoint").exists()
    assert load_network(tmp_path / "cut", part="segment.any").classes == len(CLASSES)
    assert load_network(tmp_path / "cut", part="register") is not None
    before = read_model(tmp_path / "cut")[1]
    monkeypatch.setattr("sys.argv", ["any_contrast", "--folder", str(tmp_path / "cut"), "--register-steps", "4", "--only", "register"])
    any_contrast.main()
    card, after = read_model(tmp_path / "cut")
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"register"}
    assert (card["recipe"]["register"]["steps"], card["recipe"]["segment"]["steps"]) == (4, 3)
