"""Stage `deface`: the face goes, the brain and everything else stays, and what cannot be defaced is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex import faces
from cohortex.config import settings_for
from cohortex.errors import BadInput, Skip
from cohortex.items import Made
from cohortex.models.regseg.grid import Grid
from cohortex.report.faces import is_defaced, may_show_face
from cohortex.stages import deface_place
from cohortex.stages.deface import air_of, deface, load
from cohortex.stages.deface_place import BRAIN, solid_brain
from cohortex.volume import Volume
from tests.faces import SETTINGS, head, image

TRUE_BRAIN = (2, 3, 6)


@pytest.fixture(scope="module")
def model(root):
    return load({"default": SETTINGS}, {SETTINGS["weights"]: Path(root, SETTINGS["weights"])}, "cpu")


@pytest.fixture(scope="module")
def defaced(model):
    volume, labels, pose = head()
    return volume, labels, pose, deface(image(volume), SETTINGS, model, 3)


def array_of(made: Made) -> np.ndarray:
    """Return the voxels of what the stage made."""
    assert isinstance(made.content, Volume)
    return made.content.array()


# --- the region ------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(margin=st.floats(0, 30), ears=st.booleans(), seed=st.integers(0, 2**16))
def test_no_point_within_the_margin_of_the_brain_is_removed(margin, ears, seed):
    deep = faces.region(margin, ears)
    points = np.random.default_rng(seed).uniform((-90, -130, -90), (90, 130, 100), (2000, 3))
    near = faces.depth_at(faces.brain_distance_mm(), points) < margin
    assert not (faces.depth_at(deep, points)[near] > 0).any()


def test_eyes_nose_and_chin_are_removed_and_the_brow_the_vertex_and_the_neck_are_not():
    deep = faces.region(8.0)
    face = [(32, 66, -39), (-32, 66, -39), (0, 100, -60), (0, 75, -110), (40, 70, -70)]
    kept = [(0, 80, 20), (0, -20, 85), (0, -60, -110), (0, 30, -10), (78, -26, -42)]
    assert (faces.depth_at(deep, np.array(face)) > 0).all() and (faces.depth_at(deep, np.array(kept)) <= 0).all()


def test_ears_are_removed_where_it_is_asked_for():
    ear = np.array([(84, -26, -42), (-84, -26, -42)])
    assert (faces.depth_at(faces.region(8.0, True), ear) > 0).all() and (faces.depth_at(faces.region(8.0), ear) <= 0).all()


@settings(max_examples=5, deadline=None)
@given(order=st.permutations([0, 1, 2]), flips=st.tuples(*[st.booleans()] * 3))
def test_a_head_stored_in_another_orientation_loses_the_same_points(order, flips):
    volume, _, pose = head()
    deep = faces.region(8.0)
    there = np.asarray(faces.region_on(Grid(volume.shape, volume.affine), deep, pose)[...]) > 0
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        turn[source, axis] = -1 if flip else 1
        turn[source, 3] = volume.shape[source] - 1 if flip else 0
    shape = tuple(volume.shape[source] for source in order)
    again = np.asarray(faces.region_on(Grid(shape, volume.affine @ turn), deep, pose)[...]) > 0
    back = np.transpose(there, order)[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    assert (back != again).mean() < 1e-5


def test_rays_meet_a_face_and_meet_it_no_more():
    volume, _, pose = head()
    nothing, deep = np.full(faces.canvas().shape, -1, np.float32), faces.region(8.0)
    untouched = faces.seen_from_in_front(volume.data, volume.affine, -300.0, nothing, pose)
    assert untouched.rays > 1500 and untouched.left_percent == 100
    assert faces.seen_from_in_front(volume.data, volume.affine, -300.0, deep, pose).left_percent < 10


def test_an_image_without_a_face_has_none_left():
    volume, _, pose = head()
    seen = faces.seen_from_in_front(np.full_like(volume.data, -1000), volume.affine, -300.0, faces.region(8.0), pose)
    assert (seen.rays, seen.left_percent) == (0, 0.0)


# --- the stage -------------------------------------------------------------------------------------------------


def test_the_face_goes_and_the_true_brain_stays(defaced):
    volume, labels, pose, made = defaced
    before, after = volume.array(), array_of(made)
    brain = np.isin(labels, TRUE_BRAIN)
    assert np.array_equal(before[brain], after[brain])
    nothing = np.full(faces.canvas().shape, -1, np.float32)
    one, other = (faces.seen_from_in_front(a, volume.affine, -300.0, nothing, pose) for a in (before, after))
    assert faces.Seen(one.before, other.before, one.face).left_percent < 15


def test_what_is_changed_is_air_and_the_rest_is_the_same_bit_by_bit(defaced):
    volume, _, _, made = defaced
    before, after = volume.array(), array_of(made)
    changed = before != after
    assert 0.02 < changed.mean() < 0.4
    assert set(np.unique(after[changed])) == {np.float32(max(-1024.0, before.min()))}
    assert after.dtype == before.dtype and np.array_equal(made.content.affine, volume.affine)


def test_zeros_do_not_draw_the_face_into_the_air_around_it(defaced):
    volume, _, _, _ = defaced
    noisy = volume.array() + np.random.default_rng(1).normal(0, 5, volume.shape).astype(np.float32)
    matrix = np.array(defaced[3].content.history[-1]["template_to_image"])
    where = np.asarray(faces.region_on(Grid(volume.shape, volume.affine), faces.region(8.0), matrix)[...]) > 0
    air = noisy < -900
    assert (where & air).any(), "the region ends at the skin"


def test_the_history_and_the_measures_say_what_was_done(defaced):
    volume, _, _, made = defaced
    step = made.content.history[-1]
    assert step["step"] == "deface" and step["Defaced"] is True
    assert is_defaced(made.content.history) and not is_defaced(volume.history)
    assert may_show_face(made.content) and not may_show_face(volume) and may_show_face(volume, {"faces": "show"})
    assert made.measures["defaced"] is True and made.measures["brain_from"] == "network"
    assert made.measures["removed_brain_percent"] < 5 and made.measures["face_left_percent"] < 15
    assert made.measures["template_agreement"] > 0.8
    assert made.measures["removed_percent"] == pytest.approx(100 * (np.asarray(_region_of(volume, step)) > 0).mean(), abs=0.01)


def _region_of(volume, step):
    matrix = np.array(step["template_to_image"])
    return faces.region_on(Grid(volume.shape, volume.affine), faces.region(step["margin_mm"], step["ears"]), matrix)[...]


@pytest.mark.parametrize(("back_mm", "most", "code"), [(45, 5, "brain-removed"), (45, 50, "brain-near"), (0, 5, "")])
def test_more_brain_than_is_allowed_sets_the_image_aside(back_mm, most, code, monkeypatch):
    # a head whose place was found wrongly, its brain seen rightly
    volume, labels, pose = head()
    astray = pose.copy()
    astray[:3, 3] -= pose[:3, :3] @ (0, back_mm, 0)
    points = np.argwhere(np.isin(labels, TRUE_BRAIN)) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    inverse = np.linalg.inv(astray)
    place = deface_place.Place(astray, points @ inverse[:3, :3].T + inverse[:3, 3], "network", 0.8)
    monkeypatch.setattr(deface_place, "placed", lambda *_: place)
    changed = SETTINGS | {"most_brain_percent": most}
    if code == "brain-removed":
        with pytest.raises(BadInput, match="of its brain, more than deface: most_brain_percent") as told:
            deface(image(volume), changed, None, 3)
        assert told.value.code == code
        return
    made = deface(image(volume), changed, None, 3)
    brain = np.isin(labels, TRUE_BRAIN)
    true = 100 * (array_of(made) != volume.array())[brain].mean()
    assert (made.code, made.measures["removed_brain_percent"]) == (code, pytest.approx(true, abs=1.0))


def test_without_a_network_the_template_alone_finds_the_head_and_a_warning_says_so():
    volume, labels, _ = head()
    made = deface(image(volume), SETTINGS | {"weights": None}, None, 3)
    assert (made.status, made.measures["brain_from"]) == ("warned", "template")
    assert "no segmentation checks" in made.reason
    brain = np.isin(labels, TRUE_BRAIN)
    assert (array_of(made)[brain] != volume.array()[brain]).mean() < 0.005


def test_a_head_that_ends_at_the_eyes_keeps_its_brain(model):
    volume, labels, _ = head()
    start = 30
    affine = volume.affine.copy()
    affine[2, 3] += start * 3.0
    cut = Volume(volume.array()[:, :, start:], affine, "CT", body_part="head")
    made = deface(image(cut), SETTINGS, model, 3)
    brain = np.isin(labels[:, :, start:], TRUE_BRAIN)
    assert (array_of(made) != cut.array())[brain].mean() < 0.001
    assert made.measures.get("face_left_percent", 0.0) < 25


@pytest.mark.parametrize(("weights", "shape"), [(None, (24, 24, 20)), ("zoo/regseg/any_contrast", (24, 24, 20)), (None, (6, 6, 4))])
def test_what_is_no_head_is_set_aside_with_what_to_do(weights, shape, model):
    noise = np.random.default_rng(1).normal(100, 20, shape).astype(np.float32)
    with pytest.raises(BadInput, match=r"1_x.*(body_part|by hand)") as told:
        deface(image(Volume(noise, np.diag([3.0, 3, 3, 1]), "T1w")), SETTINGS | {"weights": weights}, model, 3)
    assert told.value.code == "head-not-found"


def test_other_body_parts_pictures_and_modalities_are_skipped():
    volume = Volume(np.ones((8, 8, 8), np.float32), np.eye(4), "T1w")
    for code, thing, part, changed in (
        ("not-a-head", volume, "chest", {}),
        ("not-a-head", volume, "", {"assume_body_part": None}),
        ("picture", replace(volume, data=volume.array()[:, :, :1]), "head", {}),
        ("no-fit", replace(volume, modality="US"), "head", {}),
    ):
        with pytest.raises(Skip) as told:
            deface(image(thing, body_part=part), SETTINGS | changed, None, 0)
        assert told.value.code == code


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not-finite"), (0.0, "constant")])
def test_an_image_that_holds_nothing_is_set_aside(value, code):
    with pytest.raises(BadInput) as told:
        deface(image(Volume(np.full((8, 8, 8), value, np.float32), np.eye(4), "T1w")), SETTINGS, None, 0)
    assert told.value.code == code


def test_air_is_as_dark_as_air_is_in_the_image():
    assert [air_of("CT", low) for low in (-3024.0, -1000.0)] == [-1024.0, -1000.0]
    assert [air_of("T1w", low) for low in (0.0, 12.0, -2.5)] == [0.0, 0.0, -2.5]


def test_pieces_that_hang_on_the_brain_by_a_bridge_are_no_brain():
    labels = np.zeros((60, 60, 40), np.uint8)
    x, y, z = np.ogrid[:60, :60, :40]
    labels[(x - 22) ** 2 + (y - 30) ** 2 + (z - 20) ** 2 < 15**2] = 2
    labels[(x - 50) ** 2 + (y - 30) ** 2 + (z - 20) ** 2 < 7**2] = 2
    labels[30:50, 28:32, 18:22] = 2
    brain = solid_brain(labels, ["background", "csf", *BRAIN], 2.0)
    assert brain[22, 30, 20] and not brain[50, 30, 20]
    assert not solid_brain(np.zeros((8, 8, 8), np.uint8), ["background", "csf", *BRAIN], 2.0).any()


def test_the_settings_here_are_those_of_the_configuration(root):
    import yaml

    config = yaml.safe_load((root / "config.yaml").read_text())
    assert settings_for(config["deface"], "T1w") == SETTINGS
