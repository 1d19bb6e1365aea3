"""Super-resolution keeps the world, agrees with the slices that were measured, and says what it did not do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.models.superresolve import throughplane as through
from cohortex.stages import superresolve as stage
from cohortex.volume import Volume

SPLINE = {"method": "spline"}


def rotation(angles):
    """Return a rotation matrix."""
    a, b = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, a[0], -b[0]], [0, b[0], a[0]]])
    y = np.array([[a[1], 0, b[1]], [0, 1, 0], [-b[1], 0, a[1]]])
    z = np.array([[a[2], -b[2], 0], [b[2], a[2], 0], [0, 0, 1]])
    return x @ y @ z


def image(data, spacing=(1.0, 1.0, 3.0), turn=(0.0, 0.0, 0.0), modality="T1w", body_part="head"):
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.asarray(turn)) * np.asarray(spacing)
    affine[:3, 3] = (-30, 12, 5)
    volume = Volume(np.asarray(data, np.float32), affine, modality=modality, body_part=body_part)
    return Image(id="001_T1w", subject="001", session="", modality=modality, kind="image", body_part=body_part, opener=lambda: volume)


def noise(shape=(12, 10, 8), seed=0):
    return np.random.default_rng(seed).normal(100, 20, shape)


def world(volume):
    """Return the world coordinates of every voxel centre."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(2, 9)] * 3),
    st.permutations([1.0, 1.2, 4.0]),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.integers(2, 5),
)
def test_a_linear_function_of_the_world_stays_what_it_is(shape, spacing, turn, factor):
    grid = image(np.zeros(shape), spacing, turn)
    function = world(grid.volume) @ np.array([0.3, -0.5, 0.7]) + 100
    made = stage.superresolve(image(function, spacing, turn), {**SPLINE, "factor": factor, "consistency": True}, None, 0).content
    np.testing.assert_allclose(made.data, world(made) @ np.array([0.3, -0.5, 0.7]) + 100, atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(1.1, 5), st.integers(0, 2), st.tuples(*[st.floats(-3, 3)] * 3))
def test_the_outer_faces_of_the_field_of_view_stay_where_they_are(slices, factor, axis, turn):
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.asarray(turn)) * np.array([1, 2, 3])
    affine[:3, 3] = (4, 5, 6)
    count = through.fine_count(slices, factor)
    fine = through.fine_affine(affine, slices, count, axis)
    for before, after in ((-0.5, -0.5), (slices - 0.5, count - 0.5)):
        old, new = np.zeros(4), np.zeros(4)
        old[3] = new[3] = 1
        old[axis], new[axis] = before, after
        np.testing.assert_allclose(affine @ old, fine @ new, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.floats(1.3, 4.5), st.integers(0, 2), st.sampled_from(["box", "gaussian"]), st.integers(0, 99))
def test_averaging_the_result_over_the_slice_gives_the_slices_back(slices, factor, axis, profile, seed):
    shape = [4, 5, 6]
    shape[axis] = slices
    measured = noise(shape, seed).astype(np.float32)
    fine_shape = list(shape)
    fine_shape[axis] = through.fine_count(slices, factor)
    anything = noise(fine_shape, seed + 1).astype(np.float32)
    fine = through.agree(anything, measured, axis, profile)
    np.testing.assert_allclose(through.average(fine, slices, axis, profile), measured, atol=1e-2)


def test_a_box_profile_is_the_mean_over_the_slice():
    fine = noise((3, 4, 12))
    np.testing.assert_allclose(through.average(fine, 4, 2), fine.reshape(3, 4, 4, 3).mean(-1), rtol=1e-5)


def test_a_gaussian_profile_has_half_its_height_half_a_slice_from_its_centre():
    row = through.profile_matrix(9, 9 * 101, "gaussian")[4]
    centre = 4 * 101 + 50
    assert row.argmax() == centre
    assert row[centre + 50] / row[centre] == pytest.approx(0.5, abs=0.02)


def test_the_spline_meets_the_slices_where_a_fine_voxel_lies_on_a_slice():
    slices = noise((2, 3, 7))
    np.testing.assert_allclose(through.upsample(slices, 21, 2)[:, :, 1::3], slices, rtol=1e-5)


def test_the_spline_is_scipys_far_from_the_ends():
    from scipy import ndimage

    line = noise((1, 1, 60))
    position = (np.arange(120) + 0.5) / 2 - 0.5
    wanted = ndimage.map_coordinates(line[0, 0], position[None], order=3, mode="mirror")
    np.testing.assert_allclose(through.upsample(line, 120, 2)[0, 0, 30:-30], wanted[30:-30], rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_auto_makes_cubes_along_whichever_axis_is_thick(axis):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 2.5
    made = stage.superresolve(image(noise(), spacing), {"factor": "auto"}, None, 0)
    assert made.content.spacing == pytest.approx((1, 1, 1))
    assert made.measures["factor"] == 2.5
    assert made.content.array().dtype == np.float32
    assert made.content.history[-1]["axis"] == "xyz"[axis]


def test_auto_stops_at_the_largest_factor():
    made = stage.superresolve(image(noise(), (1, 1, 9)), {"factor": "auto", "max_factor": 3}, None, 0)
    assert made.content.spacing == pytest.approx((1, 1, 3))


@pytest.mark.parametrize(("spacing", "code"), [((1, 1, 1), "isotropic"), ((1, 1, 1.5000001), "isotropic")])
def test_an_image_without_thick_slices_is_left_as_it_is(spacing, code):
    made = stage.superresolve(image(noise(), spacing), {}, None, 0)
    assert (made.content, made.status, made.code) == (None, "skipped", code)


def test_a_picture_is_left_as_it_is():
    made = stage.superresolve(image(noise((9, 9, 1)), (1, 1, 5)), {}, None, 0)
    assert (made.content, made.status, made.code) == (None, "skipped", "picture")


def test_the_method_none_skips():
    with pytest.raises(Skip):
        stage.superresolve(image(noise()), {"method": "none"}, None, 0)


def test_an_image_with_nan_is_bad_input():
    data = noise()
    data[3, 3, 3] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        stage.superresolve(image(data), {}, None, 0)


def card(**changes):
    return {
        "name": "detail", "task": "superresolve", "network": "srcnn3d", "options": {"residual": True}, "modality": ["T1w"],
        "body_part": ["head"], "dimensions": [3], "spacing_mm": {"min": 0.5, "max": 5}, "data": "none", "recipe": {}, "seed": 0,
        "metrics": [], "intended_use": "tests", "limits": "all", "extra": {"factors": [2, 3]}, **changes,
    }  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """Return a folder whose network adds 0.1 of the range everywhere."""
    import torch

    network = registry.build("superresolve", "srcnn3d", residual=True)
    with torch.no_grad():
        network.reconstruction.weight.zero_()
        network.reconstruction.bias.fill_(0.1)
    folders.write_model(tmp_path / "m", card(), network.state_dict())
    return tmp_path / "m"


NETWORK = {"method": "srcnn3d", "weights": "m", "consistency": False}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_network_works_in_the_images_own_units(model, axis):
    from cohortex.models.intensity import PERCENTILES, unit_range

    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 2.0
    models = stage.load({"default": NETWORK}, {"m": model}, "cpu")
    one = image(noise() * 1000, spacing)
    made = stage.superresolve(one, NETWORK, models, 0)
    low, high = unit_range(one.volume.array(), PERCENTILES)
    plain = through.agreeing_spline(one.volume.array(), one.volume.shape[axis] * 2, axis)
    np.testing.assert_allclose(made.content.data - plain, 0.1 * (high - low), rtol=1e-2)
    assert made.measures["model"] == "detail"
    assert made.content.history[-1]["model_sha256"] == folders.model_sha256(model)


@pytest.mark.parametrize(("modality", "air", "bone"), [("T1w", 0.0, 900.0), ("CT", -1000.0, 1500.0)])
def test_nothing_swings_below_what_can_be_beside_a_steep_edge(modality, air, bone):
    data = np.full((6, 6, 8), air, np.float32)
    data[:, :, 3] = bone
    data[2:, :, 4:] = (air + bone) / 2
    made = stage.superresolve(image(data, modality=modality), {**SPLINE, "factor": 4}, None, 0).content.array()
    free = through.agreeing_spline(data, 32, 2)
    lowest = {"T1w": 0.0, "CT": -1024.0}[modality]
    assert free.min() < lowest - 0.05 * (bone - air)
    assert made.min() >= lowest
    assert np.abs(through.average(made, 8, 2) - data).max() < 1e-3 * (bone - air)


def test_an_image_with_values_of_both_signs_has_no_floor():
    scored = noise() - 100
    made = stage.superresolve(image(scored), {**SPLINE, "factor": 3}, None, 0).content.array()
    assert made.min() < scored.min()
    np.testing.assert_allclose(through.average(made, 8, 2), scored, atol=1e-3)


def test_the_network_with_consistency_agrees_with_the_slices(model):
    models = stage.load({"default": NETWORK}, {"m": model}, "cpu")
    one = image(noise() + 100)
    made = stage.superresolve(one, {**NETWORK, "consistency": True}, models, 0)
    np.testing.assert_allclose(through.average(made.content.array(), 8, 2), one.volume.data, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"modality": "CT"}, {"body_part": "knee"}, {"spacing": (1, 1, 4)}, {"spacing": (1, 1, 5.5)}])
def test_where_the_model_does_not_fit_the_spline_is_used_and_said_so(model, changes):
    models = stage.load({"default": NETWORK}, {"m": model}, "cpu")
    one = image(noise(), **changes)
    made = stage.superresolve(one, NETWORK, models, 0)
    assert (made.status, made.code, made.measures["method"]) == ("warned", "no-fit", "spline")
    assert "detail" in made.reason
    plain = stage.superresolve(one, {**NETWORK, "method": "spline"}, None, 0)
    np.testing.assert_array_equal(made.content.data, plain.content.data)


def test_a_network_without_weights_is_refused():
    with pytest.raises(Refused, match=r"superresolve\.CT"):
        stage.load({"default": {}, "CT": {"method": "srcnn3d"}}, {}, "cpu")


def test_a_model_for_another_task_is_refused(tmp_path):
    network = registry.build("denoise", "redcnn", filters=2)
    folders.write_model(tmp_path / "m", card(task="denoise", network="redcnn", options={"filters": 2}), network.state_dict())
    with pytest.raises(Refused, match="model for denoise"):
        stage.load({"default": NETWORK}, {"m": tmp_path / "m"}, "cpu")


def test_weights_that_no_setting_uses_are_not_read(tmp_path):
    assert stage.load({"default": {"method": "spline", "weights": "m"}}, {"m": tmp_path / "absent"}, "cpu") == {}


def test_a_network_that_gives_no_numbers_is_set_aside(model):
    models = stage.load({"default": NETWORK}, {"m": model}, "cpu")
    with torch.no_grad():
        next(models["m"].network.parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="The network of the model detail gives values that are not finite") as caught:
        stage.superresolve(image(noise()), NETWORK, models, 0)
    assert caught.value.code == "network-failed"
