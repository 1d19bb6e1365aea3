"""Boxes, anchors, losses and regions of networks that recognise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.models.recognize.anchors import BACKGROUND, IGNORED, adaptive, anchors_of, by_overlap, stretched
from cohortex.models.recognize.blobs import blobs
from cohortex.models.recognize.boxes import (
    best,
    clipped,
    decode,
    encode,
    from_centres,
    generalised_overlaps,
    none_of,
    overlaps,
    suppressed,
    volumes,
)
from cohortex.models.recognize.focal import class_loss, focal_loss, hardest
from cohortex.models.recognize.regions import roi_align, roi_pool

SEEDS = st.integers(0, 2**31 - 1)


def random_boxes(seed: int, count: int, dimensions: int, whole: bool = False) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    low = torch.rand(count, dimensions, generator=rng) * 12
    size = torch.rand(count, dimensions, generator=rng) * 7 + 1
    corners = torch.cat([low, low + size], 1)
    return corners.round() if whole else corners


def painted(box: torch.Tensor, edge: int = 24) -> np.ndarray:
    d = len(box) // 2
    made = np.zeros((edge,) * d, bool)
    made[tuple(slice(int(box[a]), int(box[a + d])) for a in range(d))] = True
    return made


@pytest.mark.parametrize("dimensions", [2, 3])
def test_overlap_is_that_of_painted_voxels(dimensions):
    a, b = (random_boxes(seed, 6, dimensions, whole=True) for seed in (1, 2))
    expected = [[(painted(x) & painted(y)).sum() / (painted(x) | painted(y)).sum() for y in b] for x in a]
    np.testing.assert_allclose(overlaps(a, b), expected, atol=1e-6)
    assert volumes(a).tolist() == [painted(x).sum() for x in a]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, dimensions=st.sampled_from([2, 3]), move=st.floats(-50, 50), grow=st.floats(0.25, 4))
def test_overlap_stays_the_same_when_both_boxes_move_grow_or_are_swapped(seed, dimensions, move, grow):
    a, b = random_boxes(seed, 5, dimensions), random_boxes(seed + 1, 4, dimensions)
    before = overlaps(a, b)
    torch.testing.assert_close(overlaps((a + move) * grow, (b + move) * grow), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(overlaps(b, a).T, before)
    torch.testing.assert_close(overlaps(a, a).diagonal(), torch.ones(5))
    pairs = generalised_overlaps(a[:4], b)
    assert ((pairs <= before[:4].diagonal() + 1e-5) & (pairs >= -1)).all()


def test_boxes_without_a_voxel_overlap_nothing():
    empty = torch.tensor([[3.0, 3.0, 3.0, 9.0]])
    assert overlaps(empty, empty).item() == 0


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, dimensions=st.sampled_from([2, 3]), overlap=st.sampled_from([0.1, 0.3, 0.6]))
def test_suppression_is_the_greedy_rule_box_by_box(seed, dimensions, overlap):
    # more boxes than are compared at once
    corners = random_boxes(seed, 150, dimensions)
    rng = torch.Generator().manual_seed(seed)
    scores, labels = torch.rand(150, generator=rng), torch.randint(0, 2, (150,), generator=rng)
    close, kept = (overlaps(corners, corners) > overlap).numpy() & (labels[:, None] == labels).numpy(), []
    for number in scores.argsort(descending=True).tolist():
        if not close[kept, number].any():
            kept.append(number)
    assert suppressed(corners, scores, labels, overlap).tolist() == kept
    assert suppressed(corners, scores, labels, overlap, most=5).tolist() == kept[:5]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, dimensions=st.sampled_from([2, 3]))
def test_suppression_does_not_depend_on_the_order_and_settles(seed, dimensions):
    corners = random_boxes(seed, 40, dimensions)
    rng = torch.Generator().manual_seed(seed)
    scores, order = torch.rand(40, generator=rng), torch.randperm(40, generator=rng)
    kept = suppressed(corners, scores)
    assert order[suppressed(corners[order], scores[order])].tolist() == kept.tolist()
    assert suppressed(corners[kept], scores[kept]).tolist() == list(range(len(kept)))


def test_nothing_to_suppress_is_nothing():
    assert len(suppressed(torch.zeros(0, 4), torch.zeros(0))) == 0
    assert len(best(torch.zeros(0, 6), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (9, 9, 9))) == 0
    assert none_of(3).corners.shape == (0, 6)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, dimensions=st.sampled_from([2, 3]), shift=st.sampled_from([1.0, 10.0]), size=st.sampled_from([1.0, 5.0]))
def test_decoding_is_the_inverse_of_encoding(seed, dimensions, shift, size):
    corners, anchors = random_boxes(seed, 20, dimensions), random_boxes(seed + 1, 20, dimensions)
    offsets = encode(corners, anchors, (shift, size))
    torch.testing.assert_close(decode(offsets, anchors, (shift, size)), corners, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encode(anchors, anchors), torch.zeros_like(anchors))


def test_the_best_boxes_are_cut_to_the_image_and_those_outside_are_left_out():
    corners = torch.tensor([[-5.0, 2, 4, 30], [20, 20, 25, 25], [6, 6, 8, 8], [6, 6, 8, 8]])
    found = best(corners, torch.tensor([0.5, 0.9, 0.2, 0.01]), torch.zeros(4, dtype=torch.int64), (10, 12))
    assert found.corners.tolist() == [[0, 2, 4, 12], [6, 6, 8, 8]] == clipped(corners, (10, 12))[[0, 2]].tolist()
    np.testing.assert_allclose(found.scores, [0.5, 0.2])


# --- anchors -----------------------------------------------------------------------------------------------------


def test_anchors_lie_around_the_middles_of_cells_and_have_one_volume():
    extents = 8 * stretched(3, [1, 2])
    anchors = anchors_of((2, 3, 4), 4, extents)
    assert anchors.shape == (2 * 3 * 4 * 4, 6)
    assert anchors[0].tolist() == [-2, -2, -2, 6, 6, 6]
    np.testing.assert_allclose(volumes(anchors), 512, rtol=1e-5)
    # the last axis runs fastest, anchors of a position lie together
    np.testing.assert_allclose(anchors[4:8] - anchors[:4], np.tile([0, 0, 4.0], (4, 2)), atol=1e-5)
    ratio = extents[1] / extents[1].min()
    np.testing.assert_allclose(ratio, [2, 1, 1], rtol=1e-6)


def test_anchors_between_the_thresholds_are_ignored_and_every_box_gets_one():
    box = torch.tensor([[0.0, 0, 10, 10], [50, 50, 52, 52]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 30, 30], [48, 48, 56, 56], [90, 90, 95, 95]])
    assert by_overlap(box, anchors).tolist() == [0, IGNORED, BACKGROUND, 1, BACKGROUND]
    assert by_overlap(box, anchors, rescue=False).tolist() == [0, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]
    assert by_overlap(box[:0], anchors).tolist() == [BACKGROUND] * 5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_adaptive_matching_takes_anchors_within_boxes_and_leaves_none_without(dimensions):
    levels = [anchors_of((32 // s,) * dimensions, s, torch.full((1, dimensions), 3.0 * s)) for s in (4, 8)]
    boxes = torch.stack([torch.tensor([1.0] * dimensions + [13.0] * dimensions), torch.tensor([24.5] * dimensions + [25.5] * dimensions)])
    answer = adaptive(boxes, levels)
    anchors = torch.cat(levels)
    for number, box in enumerate(boxes):
        middles = anchors[answer == number].unflatten(1, (2, dimensions)).mean(1)
        assert len(middles)
        if number == 0:
            assert ((middles > box[:dimensions]) & (middles < box[dimensions:])).all()
    # the large box is as large as the anchors of the finest level
    assert (answer[: len(levels[0])] == 0).sum() > (answer[len(levels[0]) :] == 0).sum()
    assert (adaptive(boxes[:0], levels) == BACKGROUND).all()


# --- losses ------------------------------------------------------------------------------------------------------


def test_focal_loss_without_focus_is_cross_entropy():
    torch.manual_seed(0)
    logits, truth = 4 * torch.randn(50), (torch.rand(50) > 0.5).float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    torch.testing.assert_close(focal_loss(logits, truth, 0.0, None), entropy)
    torch.testing.assert_close(class_loss("cross_entropy", logits, truth), entropy)


def test_focal_loss_is_the_papers_formula():
    p = torch.tensor([0.9, 0.6, 0.1])
    loss = focal_loss(torch.logit(p), torch.tensor([1.0, 0.0, 0.0]))
    expected = [-0.25 * 0.1**2 * np.log(0.9), -0.75 * 0.6**2 * np.log(0.4), -0.75 * 0.1**2 * np.log(0.9)]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_the_hardest_negatives_are_those_with_the_largest_losses():
    losses, negative = torch.tensor([5.0, 1, 4, 2, 3]), torch.tensor([False, True, True, True, True])
    assert hardest(losses, negative, 2).tolist() == [False, False, True, False, True]
    assert hardest(losses, negative, 9).tolist() == negative.tolist()


# --- regions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_roi_align_of_a_ramp_is_the_ramp_at_the_middles_of_cells(dimensions, samples):
    shape, stride, size = (9, 11, 10)[:dimensions], 2.0, 4
    slopes = [1.0, -0.5, 2.0][:dimensions]
    axes = [(torch.arange(n) + 0.5) * stride for n in shape]
    ramp = sum(slope * axis for slope, axis in zip(slopes, torch.meshgrid(*axes, indexing="ij"), strict=True))
    low = torch.tensor([[2.3, 3.1, 4.7][:dimensions], [1.5, 6.0, 2.0][:dimensions]])
    corners = torch.cat([low, low + torch.tensor([9.1, 5.3, 7.9][:dimensions])], 1)
    made = roi_align(ramp[None].float(), corners, size, stride, samples)
    assert made.shape == (2, 1, *[size] * dimensions)
    for values, box in zip(made, corners, strict=True):
        inner = [box[a] + (torch.arange(size) + 0.5) / size * (box[a + dimensions] - box[a]) for a in range(dimensions)]
        expected = sum(slope * axis for slope, axis in zip(slopes, torch.meshgrid(*inner, indexing="ij"), strict=True))
        torch.testing.assert_close(values[0], expected, atol=1e-4, rtol=1e-4)
    assert roi_align(ramp[None].float(), corners[:0], size).shape == (0, 1, *[size] * dimensions)


def test_roi_align_of_whole_voxels_cuts_them_out_and_pooling_takes_their_maxima():
    image = torch.arange(48.0).view(1, 6, 8)
    box = torch.tensor([[1.0, 2, 5, 6]])
    assert torch.equal(roi_align(image, box, 4, samples=1)[0], image[:, 1:5, 2:6])
    assert roi_pool(image, box, 2)[0, 0].tolist() == [[19, 21], [35, 37]]
    # rounding moves a box; interpolation does not
    moved = box + 0.4
    assert torch.equal(roi_pool(image, moved, 2), roi_pool(image, box, 2))
    torch.testing.assert_close(roi_align(image, moved, 2), roi_align(image, box, 2) + 0.4 * 9)


# --- blobs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_balls_are_found_with_their_sizes_without_training(dimensions):
    places = np.indices((40,) * dimensions).reshape(dimensions, -1).T
    image = 0.05 * np.random.default_rng(0).standard_normal(len(places))
    truth = []
    for middle, radius in ((10, 3), (27, 6)):
        image[np.linalg.norm(places - middle, axis=1) <= radius] += 1
        truth.append([middle - radius] * dimensions + [middle + radius + 1] * dimensions)
    image = image.reshape((40,) * dimensions)
    found = blobs(image, [4, 7, 13, 20], most=2)
    shared = overlaps(from_centres(*_middles(truth)), found.corners)
    assert (shared.max(1).values > 0.5).all()
    dark = blobs(-image, [4, 7, 13, 20], bright=False, most=2)
    assert torch.equal(dark.corners, found.corners)
    assert len(blobs(np.zeros((8,) * dimensions), [4])) == 0


def _middles(corners):
    low, high = torch.tensor(corners, dtype=torch.float32).chunk(2, 1)
    return (low + high) / 2, high - low
