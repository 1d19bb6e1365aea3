"""Radiomic features agree with the reference values of the Image Biomarker Standardisation Initiative."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.models.classify import first_order, neighbourhood, shape, texture
from cohortex.models.classify.radiomics import FAMILIES, TEXTURE_FAMILIES, discretise, radiomics, textures

# The digital phantom of the initiative: 5 x 4 x 4 voxels of 2 mm, slice by slice, rows along y; 0 is outside the region.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    dtype=np.float32,
).transpose(2, 1, 0)

REFERENCE = {
    "shape_volume_mesh": (556, 4),
    "shape_volume_voxels": (592, 4),
    "shape_surface": (388, 3),
    "shape_surface_to_volume": (0.698, 0.004),
    "shape_compactness1": (0.0411, 0.0003),
    "shape_compactness2": (0.599, 0.004),
    "shape_spherical_disproportion": (1.19, 0.01),
    "shape_sphericity": (0.843, 0.005),
    "shape_asphericity": (0.186, 0.001),
    "shape_maximum_diameter": (13.1, 0.1),
    "shape_major_axis": (11.4, 0.1),
    "shape_minor_axis": (9.31, 0.06),
    "shape_least_axis": (8.54, 0.05),
    "shape_elongation": (0.816, 0.005),
    "shape_flatness": (0.749, 0.005),
}
EXACT = {  # to the three digits that are published
    "firstorder_mean": 2.15,
    "firstorder_variance": 3.05,
    "firstorder_skewness": 1.08,
    "firstorder_kurtosis": -0.355,
    "firstorder_median": 1,
    "firstorder_minimum": 1,
    "firstorder_p10": 1,
    "firstorder_p90": 4,
    "firstorder_maximum": 6,
    "firstorder_iqr": 3,
    "firstorder_range": 5,
    "firstorder_mad": 1.55,
    "firstorder_robust_mad": 1.11,
    "firstorder_median_ad": 1.15,
    "firstorder_cov": 0.812,
    "firstorder_qcod": 0.6,
    "firstorder_energy": 567,
    "firstorder_rms": 2.77,
    "histogram_entropy": 1.27,
    "histogram_uniformity": 0.512,
    "glcm_joint_maximum": 0.509,
    "glcm_joint_average": 2.15,
    "glcm_joint_variance": 3.13,
    "glcm_joint_entropy": 2.57,
    "glcm_difference_average": 1.38,
    "glcm_difference_variance": 3.21,
    "glcm_difference_entropy": 1.64,
    "glcm_sum_average": 4.3,
    "glcm_sum_variance": 7.41,
    "glcm_sum_entropy": 2.11,
    "glcm_angular_second_moment": 0.291,
    "glcm_contrast": 5.12,
    "glcm_dissimilarity": 1.38,
    "glcm_inverse_difference": 0.688,
    "glcm_inverse_difference_normalised": 0.856,
    "glcm_inverse_difference_moment": 0.631,
    "glcm_inverse_difference_moment_normalised": 0.902,
    "glcm_inverse_variance": 0.0574,
    "glcm_correlation": 0.183,
    "glcm_autocorrelation": 5.19,
    "glcm_cluster_tendency": 7.41,
    "glcm_cluster_shade": 17.4,
    "glcm_cluster_prominence": 147,
    "glcm_information_correlation1": -0.0288,
    "glcm_information_correlation2": 0.269,
    "glrlm_short": 0.729,
    "glrlm_long": 2.76,
    "glrlm_low": 0.607,
    "glrlm_high": 9.64,
    "glrlm_short_low": 0.372,
    "glrlm_short_high": 8.67,
    "glrlm_long_low": 2.16,
    "glrlm_long_high": 15.6,
    "glrlm_level_nonuniformity": 281,
    "glrlm_level_nonuniformity_normalised": 0.43,
    "glrlm_length_nonuniformity": 328,
    "glrlm_length_nonuniformity_normalised": 0.501,
    "glrlm_percentage": 0.68,
    "glrlm_level_variance": 3.48,
    "glrlm_length_variance": 0.598,
    "glrlm_entropy": 2.62,
    "glszm_short": 0.255,
    "glszm_long": 550,
    "glszm_low": 0.253,
    "glszm_high": 15.6,
    "glszm_short_low": 0.0256,
    "glszm_short_high": 2.76,
    "glszm_long_low": 503,
    "glszm_long_high": 1495,
    "glszm_level_nonuniformity": 1.4,
    "glszm_level_nonuniformity_normalised": 0.28,
    "glszm_length_nonuniformity": 1,
    "glszm_length_nonuniformity_normalised": 0.2,
    "glszm_percentage": 0.0676,
    "glszm_level_variance": 2.64,
    "glszm_length_variance": 331,
    "glszm_entropy": 2.32,
    "gldzm_short": 1,
    "gldzm_long": 1,
    "gldzm_low": 0.253,
    "gldzm_high": 15.6,
    "gldzm_short_low": 0.253,
    "gldzm_short_high": 15.6,
    "gldzm_long_low": 0.253,
    "gldzm_long_high": 15.6,
    "gldzm_level_nonuniformity": 1.4,
    "gldzm_level_nonuniformity_normalised": 0.28,
    "gldzm_length_nonuniformity": 5,
    "gldzm_length_nonuniformity_normalised": 1,
    "gldzm_percentage": 0.0676,
    "gldzm_level_variance": 2.64,
    "gldzm_length_variance": 0,
    "gldzm_entropy": 1.92,
    "ngtdm_coarseness": 0.0296,
    "ngtdm_contrast": 0.584,
    "ngtdm_busyness": 6.54,
    "ngtdm_complexity": 13.5,
    "ngtdm_strength": 0.763,
    "ngldm_short": 0.045,
    "ngldm_long": 109,
    "ngldm_low": 0.693,
    "ngldm_high": 7.66,
    "ngldm_short_low": 0.00963,
    "ngldm_short_high": 0.736,
    "ngldm_long_low": 102,
    "ngldm_long_high": 235,
    "ngldm_level_nonuniformity": 37.9,
    "ngldm_level_nonuniformity_normalised": 0.512,
    "ngldm_length_nonuniformity": 4.86,
    "ngldm_length_nonuniformity_normalised": 0.0657,
    "ngldm_percentage": 1,
    "ngldm_level_variance": 3.05,
    "ngldm_length_variance": 22.1,
    "ngldm_entropy": 4.4,
    "ngldm_energy": 0.0533,
}
PLANAR = {  # the mean over the four slices, each taken as a picture of its own; directions merged within a slice
    "glrlm_low": 0.609,
    "glrlm_high": 9.74,
    "glrlm_short_low": 0.311,
    "glrlm_short_high": 8.67,
    "glrlm_long_low": 2.92,
    "glrlm_long_high": 16.1,
    "glrlm_level_nonuniformity": 20.5,
    "gldzm_short": 0.946,
    "gldzm_long": 1.21,
    "gldzm_low": 0.371,
    "gldzm_high": 16.4,
    "gldzm_short_low": 0.367,
    "gldzm_short_high": 15.2,
    "gldzm_long_low": 0.386,
    "gldzm_long_high": 21.3,
    "gldzm_level_nonuniformity": 1.41,
    "gldzm_level_nonuniformity_normalised": 0.323,
    "gldzm_length_nonuniformity": 3.79,
    "gldzm_length_nonuniformity_normalised": 0.898,
    "gldzm_percentage": 0.24,
    "gldzm_level_variance": 3.97,
    "gldzm_length_variance": 0.051,
    "gldzm_entropy": 1.73,
    "ngtdm_coarseness": 0.121,
    "ngtdm_contrast": 0.925,
    "ngtdm_busyness": 2.99,
    "ngtdm_complexity": 10.4,
    "ngtdm_strength": 2.88,
    "ngldm_short": 0.158,
    "ngldm_long": 19.2,
    "ngldm_low": 0.702,
    "ngldm_high": 7.49,
    "ngldm_short_low": 0.0473,
    "ngldm_short_high": 3.06,
    "ngldm_long_low": 17.6,
    "ngldm_long_high": 49.5,
    "ngldm_level_nonuniformity": 10.2,
    "ngldm_level_nonuniformity_normalised": 0.562,
    "ngldm_length_nonuniformity": 3.96,
    "ngldm_length_nonuniformity_normalised": 0.212,
    "ngldm_percentage": 1,
    "ngldm_level_variance": 2.7,
    "ngldm_length_variance": 2.73,
    "ngldm_entropy": 2.71,
    "ngldm_energy": 0.17,
}


@pytest.fixture(scope="module")
def phantom() -> dict[str, float]:
    return radiomics(PHANTOM, PHANTOM > 0, (2, 2, 2), bins=None, width=1.0)


@pytest.mark.parametrize("name", REFERENCE)
def test_shape_of_the_phantom_is_within_the_published_tolerance(phantom, name):
    value, tolerance = REFERENCE[name]
    assert phantom[name] == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("name", EXACT)
def test_feature_of_the_phantom_has_the_published_value(phantom, name):
    assert phantom[name] == pytest.approx(EXACT[name], rel=5e-3, abs=1e-9)


@pytest.fixture(scope="module")
def slices() -> list[dict[str, float]]:
    each = [PHANTOM[:, :, k : k + 1].astype(np.uint16) for k in range(PHANTOM.shape[2])]
    return [textures(levels, levels > 0, 6, TEXTURE_FAMILIES, planar=True) for levels in each]


@pytest.mark.parametrize("name", PLANAR)
def test_feature_of_the_slices_of_the_phantom_has_the_published_value(slices, name):
    assert np.mean([each[name] for each in slices]) == pytest.approx(PLANAR[name], rel=5e-3)


def test_the_worked_example_of_the_manual_has_its_grey_tone_differences_and_dependences():
    # the middle of this picture, whose neighbours all lie in it: level 2 twice, 3 and 4 once
    picture = np.array([[1, 2, 2, 3], [1, 2, 3, 3], [4, 2, 4, 1], [4, 1, 2, 3]], np.uint16).T[:, :, None]
    padded = np.pad(picture, 1)
    middle = [2, 3]
    means = {(x, y): (padded[x - 1 : x + 2, y - 1 : y + 2, 1].sum() - padded[x, y, 1]) / 8 for x in middle for y in middle}
    assert sum(abs(2 - means[each]) for each in [(2, 2), (2, 3)]) == 1.0
    number, difference = neighbourhood._differences(padded, neighbourhood.AROUND, 4)
    assert number.tolist() == [0, 4, 5, 4, 3]
    by_hand = sum(
        abs(4 - (block.sum() - 4) / (np.count_nonzero(block) - 1))
        for x, y in zip(*np.nonzero(picture[:, :, 0] == 4), strict=True)
        for block in [padded[x : x + 3, y : y + 3, 1].astype(float)]
    )
    assert difference[4] == pytest.approx(by_hand)
    table = neighbourhood._dependences(padded, neighbourhood.AROUND, 4)
    assert table.sum() == 16
    assert table[4].nonzero()[0].tolist() == [1, 2]


def test_distance_to_the_edge_is_counted_in_steps_and_a_zone_has_its_smallest():
    levels = np.ones((7, 7, 7), np.uint16)
    levels[3, 3, 3] = 2
    found = neighbourhood.gldzm(levels, levels > 0)
    assert found["long"] == (1 + 16) / 2
    flat = neighbourhood.gldzm(levels[:, :, 3:4], levels[:, :, 3:4] > 0, planar=True)
    assert flat["long"] == (1 + 16) / 2
    assert neighbourhood.gldzm(levels[:, :, 3:4], levels[:, :, 3:4] > 0)["long"] == 1


def test_a_region_of_one_level_is_as_coarse_as_can_be():
    levels = np.ones((4, 4, 4), np.uint16)
    assert neighbourhood.ngtdm(levels) == {"coarseness": 1e6, "contrast": 0, "busyness": 0, "complexity": 0, "strength": 0}
    alone = np.zeros((3, 3, 3), np.uint16)
    alone[1, 1, 1] = 1
    assert all(np.isnan(value) for value in neighbourhood.ngtdm(alone).values())
    assert neighbourhood.ngldm(alone)["short"] == 1


def test_binary_patterns_know_neither_turns_nor_gains():
    rng = np.random.default_rng(3)
    picture = rng.random((24, 20))
    mask = np.ones(picture.shape, bool)
    mask[:4, :5] = False
    found = neighbourhood.lbp(picture, mask)
    assert sum(found.values()) == pytest.approx(1)
    assert neighbourhood.lbp(np.rot90(picture), np.rot90(mask)) == pytest.approx(found)
    assert neighbourhood.lbp(3 * picture + 7, mask) == pytest.approx(found)
    assert neighbourhood.lbp(np.ones((5, 5)), np.ones((5, 5), bool))["uniform8"] == 1
    spot = np.zeros((3, 3))
    spot[1, 1] = 1
    assert neighbourhood.lbp(spot, np.ones((3, 3), bool))["uniform0"] == 1
    assert all(np.isnan(value) for value in neighbourhood.lbp(spot, np.zeros((3, 3), bool)).values())


def test_every_feature_of_every_family_is_checked_against_the_phantom(phantom):
    assert set(phantom) == set(REFERENCE) | set(EXACT)


def test_an_empty_region_has_no_feature_at_all():
    found = radiomics(PHANTOM, np.zeros(PHANTOM.shape, bool), (1, 1, 1))
    full = radiomics(PHANTOM, PHANTOM > 0, (1, 1, 1))
    assert set(found) == set(full)
    assert all(np.isnan(value) for value in found.values())


def test_a_region_without_a_finite_value_has_a_shape_but_no_texture():
    found = radiomics(np.full_like(PHANTOM, np.nan), PHANTOM > 0, (1, 1, 1))
    assert all(np.isnan(value) == (not name.startswith("shape")) for name, value in found.items())


def test_a_single_voxel_gives_no_pair_and_no_error():
    mask = np.zeros(PHANTOM.shape, bool)
    mask[2, 2, 1] = True
    found = radiomics(PHANTOM, mask, (1, 1, 1))
    assert np.isnan(found["glcm_contrast"])
    assert found["glrlm_short"] == 1
    assert found["shape_volume_voxels"] == 1
    assert np.isnan(found["shape_elongation"])


def test_a_constant_region_has_finite_texture_everywhere():
    found = radiomics(np.ones((4, 4, 4), np.float32), np.ones((4, 4, 4), bool), (1, 1, 1))
    assert all(np.isfinite(value) for value in found.values())
    assert found["glcm_correlation"] == 1
    assert found["histogram_entropy"] == 0


def test_a_ball_on_an_anisotropic_grid_is_a_ball_in_millimetres():
    spacing = np.array([0.5, 1.0, 2.0])
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in (50, 25, 13)], indexing="ij"), axis=-1) * spacing
    ball = np.linalg.norm(grid, axis=-1) <= 20
    found = shape.shape(ball, tuple(spacing))
    assert found["volume_voxels"] == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.01)
    assert found["volume_mesh"] == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.02)
    assert found["maximum_diameter"] == pytest.approx(40, abs=2.1)
    assert found["elongation"] == pytest.approx(1, abs=0.01)
    assert found["flatness"] == pytest.approx(1, abs=0.02)
    assert 0.8 < found["sphericity"] < 1


def test_levels_of_a_fixed_number_and_of_a_fixed_width_follow_their_definitions():
    values = np.array([0.0, 0.24, 0.25, 0.5, 1.0])
    assert discretise(values, bins=4).tolist() == [1, 1, 2, 3, 4]
    assert discretise(np.array([-3.0, 0.0, 24.9, 25.0]), width=25.0, start=0.0).tolist() == [1, 1, 1, 2]
    assert discretise(np.full(3, 7.0), bins=8).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="either"):
        discretise(values)


def test_the_two_voxel_image_has_the_hand_worked_texture():
    # levels 1 and 3 beside each other: one pair, so p(1,3) = p(3,1) = 1/2
    levels = np.zeros((2, 1, 1), np.uint16)
    levels[:, 0, 0] = 1, 3
    found = texture.glcm(levels, 3)
    assert found["contrast"] == 4
    assert found["joint_average"] == 2
    assert found["joint_entropy"] == 1
    assert found["correlation"] == -1
    assert texture.glrlm(levels, 3)["percentage"] == 1
    assert texture.glszm(levels)["short"] == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations([0, 1, 2]), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_turning_or_mirroring_a_region_changes_no_feature(seed, order, flips):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 9, (5, 6, 4)).astype(np.float32)
    mask = rng.random(image.shape) < 0.8
    spacing = (1.0, 2.0, 3.0)
    turned = tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)
    families = [f for f in FAMILIES if f != "shape"]  # the mesh of a jagged mask may split its cubes otherwise
    one = radiomics(image, mask, spacing, families=families)
    two = radiomics(image[turned].transpose(order), mask[turned].transpose(order), tuple(spacing[i] for i in order), families=families)
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50), st.floats(-100, 100))
def test_texture_of_a_fixed_number_of_levels_does_not_know_gain_or_offset(seed, gain, offset):
    image = np.random.default_rng(seed).integers(0, 64, (5, 5, 5)).astype(np.float64)
    mask = np.ones(image.shape, bool)
    one = radiomics(image, mask, (1, 1, 1), bins=8, families=("glcm", "glszm"))
    two = radiomics(np.round(image) * 2.0**3, mask, (1, 1, 1), bins=8, families=("glcm", "glszm"))
    assert one == two
    moved = first_order.first_order((image * gain + offset).ravel())
    still = first_order.first_order(image.ravel())
    assert moved["skewness"] == pytest.approx(still["skewness"], abs=1e-6)
    assert moved["iqr"] == pytest.approx(still["iqr"] * gain, rel=1e-6)


def test_shapes_that_do_not_match_and_unknown_families_are_named():
    with pytest.raises(ValueError, match="mask has shape"):
        radiomics(PHANTOM, np.ones((2, 2, 2), bool), (1, 1, 1))
    with pytest.raises(ValueError, match="no family 'gldm'"):
        radiomics(PHANTOM, PHANTOM > 0, (1, 1, 1), families=("gldm",))
