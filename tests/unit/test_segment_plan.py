"""The plan that a cohort's own numbers lead to: spacing, patch, poolings, and the network that it builds."""

from math import prod

import numpy as np
import pytest
import torch

from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.models.segment.plan import Fingerprint, expected_bytes, fingerprint, plan, target_spacing, topology


def cohort(shape, spacing, modality="T1w", subjects=20, channels=1):
    return Fingerprint([shape] * subjects, [spacing] * subjects, modality, channels, 3, (-50.0, 120.0), 30.0, 20.0)


COHORTS = {
    "heads": cohort((180, 220, 180), (1.0, 1.0, 1.0)),
    "abdomen CT": cohort((512, 512, 120), (0.8, 0.8, 5.0), "CT"),
    "prostate": cohort((320, 320, 20), (0.6, 0.6, 3.6), "T2w", channels=2),
    "hippocampus": cohort((36, 50, 35), (1.0, 1.0, 1.0), subjects=260),
    "heart": cohort((250, 220, 9), (1.4, 1.4, 10.0)),
    "few thick slices": cohort((250, 220, 6), (1.4, 1.4, 10.0)),
    "pictures": cohort((1024, 900, 1), (0.2, 0.2, 1.0)),
}

each = pytest.mark.parametrize("found", COHORTS.values(), ids=COHORTS)


@each
def test_a_plan_fits_memory_and_its_patch_the_poolings(found):
    made = plan(found)
    together = np.prod(np.array(made.strides), axis=0)
    assert all(n % t == 0 for n, t in zip(made.patch, together, strict=True))
    assert min(n // t for n, t in zip(made.patch, together, strict=True)) >= 4 or min(made.patch) < 8
    assert made.bytes <= 8 * 2**30
    assert made.batch >= 2
    # no axis is longer than the images, but for what makes it a multiple
    own = [n for axis, n in enumerate(made.shape) if axis != made.across]
    assert all(p < n + t for p, n, t in zip(made.patch, own, together, strict=True))
    assert len(made.features) == len(made.kernels) == len(made.strides)


@each
def test_the_network_of_a_plan_is_built_and_labels_a_patch(found):
    made = plan(found)
    with torch.device("meta"):
        network = registry.build("segment", "planned_unet", **made.options).eval()
        logits = network(torch.zeros(1, found.channels, *made.patch))
    assert logits.shape == (1, 3, *made.patch)


def test_an_even_cohort_is_cut_into_even_patches_and_a_smaller_memory_into_smaller_ones():
    large, small = plan(COHORTS["heads"]), plan(COHORTS["heads"], memory_gb=2)
    assert max(large.patch) <= 1.5 * min(large.patch)
    assert prod(small.patch) < prod(large.patch)
    assert small.bytes <= 2 * 2**30
    assert all(kernel == [3, 3, 3] for kernel in large.kernels)


def test_thick_slices_are_pooled_in_their_plane_first():
    made = plan(COHORTS["prostate"])
    assert made.strides[1] == made.strides[2] == [2, 2, 1]
    assert made.kernels[0] == [3, 3, 1]
    assert made.kernels[-1] == [3, 3, 3]
    assert made.patch[2] < made.patch[0] / 4


def test_few_slices_far_apart_and_pictures_are_planned_in_two_dimensions():
    for name in ("few thick slices", "pictures"):
        made = plan(COHORTS[name])
        assert (made.dimensions, made.across, len(made.patch)) == (2, 2, 2)
    assert plan(COHORTS["heart"]).dimensions == 3


def test_a_small_image_is_one_patch_and_many_of_them_are_a_larger_batch():
    made = plan(COHORTS["hippocampus"])
    assert made.patch == (40, 56, 40)
    assert made.batch > plan(cohort((36, 50, 35), (1.0, 1.0, 1.0), subjects=20)).batch


def test_of_uneven_slices_a_low_percentile_decides_but_never_below_the_other_axes():
    thick = [3.0, 4.0, 5.0, 6.0, 10.0]
    mixed = Fingerprint([(200, 200, 20)] * 5, [(0.7, 0.7, t) for t in thick], "T1w", 1, 2)
    assert target_spacing(mixed)[2] == pytest.approx(np.percentile(thick, 10))
    fine = Fingerprint([(200, 200, 20)] * 5, [(0.7, 0.7, t) for t in (0.2, 4.0, 5.0, 6.0, 10.0)], "T1w", 1, 2)
    assert target_spacing(fine)[2] >= 0.7
    even = Fingerprint([(200, 200, 200)] * 3, [(0.7, 0.8, t) for t in (1.0, 1.2, 1.4)], "T1w", 1, 2)
    assert target_spacing(even) == pytest.approx((0.7, 0.8, 1.2))


def test_values_with_a_meaning_share_a_window_and_others_have_each_their_own():
    assert plan(COHORTS["abdomen CT"]).normalise == "window"
    assert plan(COHORTS["abdomen CT"]).window == (-50.0, 120.0)
    assert plan(COHORTS["heads"]).normalise == "each"


def test_poolings_end_where_four_voxels_are_left():
    strides, kernels, multiple = topology([1.0, 1.0, 1.0], [32, 16, 8])
    assert strides == [[1, 1, 1], [2, 2, 2], [2, 2, 1], [2, 1, 1]]
    assert multiple == [8, 4, 2]
    assert len(kernels) == len(strides)


def test_a_larger_patch_is_expected_to_take_more():
    strides = [[1, 1, 1], [2, 2, 2]]
    small, large = (expected_bytes([n, n, n], strides, [32, 64], 1, 2) for n in (32, 64))
    assert large == pytest.approx(8 * small)


def test_a_fingerprint_is_that_of_the_foreground():
    labels = np.zeros((12, 10, 8), int)
    labels[3:6, 3:6, 3:6] = 1
    image = np.zeros((12, 10, 8), np.float32)
    image[2:10, 1:9, 2:7] = 5
    image[labels > 0] = 100
    found = fingerprint([(image, labels, (1, 1, 2)), (image, labels, (1, 1, 3))], "T1w", 2)
    assert found.shapes == [(8, 8, 5)] * 2
    assert found.mean == 100
    assert found.percentiles == (100, 100)
    with pytest.raises(Refused, match="give labels"):
        fingerprint([(image, np.zeros_like(labels), (1, 1, 1))], "T1w", 2)
