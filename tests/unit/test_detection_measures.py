"""Measures of detectors have their hand-worked values and equal MONAI's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.measures import detection
from cohortex.measures.detection import Marks


def marks(rows, scores=None, labels=None):
    corners = np.array(rows, dtype=float).reshape(len(rows), -1) if len(rows) else np.zeros((0, 4))
    labels = np.zeros(len(rows), int) if labels is None else np.array(labels)
    return Marks(corners, labels, None if scores is None else np.array(scores, dtype=float))


def images(seed, count=6, dims=2, classes=2):
    """Objects, most of which are found at about the right place, and false positives."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(count):
        n = int(rng.integers(0, 5))
        low = rng.integers(0, 40, (n, dims)).astype(float)
        size = rng.integers(4, 12, (n, dims))
        there = np.concatenate([low, low + size], axis=1)
        labels = rng.integers(0, classes, n)
        near = there + rng.normal(0, 1.0, there.shape)
        near[:, dims:] = np.maximum(near[:, dims:], near[:, :dims] + 1)
        kept = rng.random(n) < 0.8
        extra = int(rng.integers(0, 4))
        lone = rng.integers(0, 40, (extra, dims)).astype(float)
        lone = np.concatenate([lone, lone + rng.integers(4, 12, (extra, dims))], axis=1)
        corners = np.concatenate([near[kept], near[kept][:1] + 0.3, lone])
        named = np.concatenate([labels[kept], labels[kept][:1], rng.integers(0, classes, extra)])
        found.append(Marks(corners, named, rng.random(len(corners))))
        truth.append(Marks(there, labels))
    return found, truth


# --- hand-worked -----------------------------------------------------------------------------------------------------


def test_overlap_of_boxes_is_shared_over_joint_volume():
    # 10 x 10 shifted by half along one axis: 50 shared of 150
    assert detection.box_overlap(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10], [20, 20, 30, 30]])) == pytest.approx(
        np.array([[1 / 3, 0]])
    )
    # two cubes of 2, shifted by 1 along each axis: 1 shared of 15
    assert detection.box_overlap(np.array([[0, 0, 0, 2, 2, 2]]), np.array([[1, 1, 1, 3, 3, 3]]))[0, 0] == pytest.approx(1 / 15)
    # edges are half open: boxes that touch share nothing
    assert detection.box_overlap(np.array([[0, 0, 3, 3]]), np.array([[3, 0, 6, 3]]))[0, 0] == 0
    assert detection.box_overlap(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0


def test_average_precision_has_the_hand_worked_value():
    # three objects; by falling score: hit, false, hit, repeat, and one object is never found
    truth = [marks([[0, 0, 10, 10], [20, 0, 30, 10]]), marks([[0, 0, 10, 10]])]
    found = [marks([[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 10, 9]], [0.9, 0.8, 0.5]), marks([[0, 0, 10, 10]], [0.7])]
    matched = detection.match(found, truth)
    assert matched.hit.tolist() == [True, False, True, False]
    recall, precision, _ = detection.precision_recall(matched)
    assert recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert precision == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert detection.average_precision(found, truth) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # recalls 0 to .33 (34 of them) have precision 1, .34 to .66 (33) two thirds
    assert detection.average_precision(found, truth, points="coco") == pytest.approx((34 + 33 * 2 / 3) / 101)
    # at an overlap of .95 nothing changes, as the hits fit exactly; of the mean over classes the absent one is no part
    assert detection.mean_average_precision(found, truth, 2, 0.95) == pytest.approx(5 / 9)


def test_a_detection_takes_the_best_object_that_is_free():
    truth = [marks([[0, 0, 10, 10], [2, 0, 12, 10]])]
    found = [marks([[1, 0, 11, 10], [2, 0, 12, 10]], [0.6, 0.9])]
    # the surer one takes the right one of the two, so the other is left for its neighbour
    assert detection.match(found, truth, 0.5).hit.tolist() == [True, True]
    assert detection.average_precision(found, truth) == 1


def test_froc_has_the_hand_worked_value():
    # four images, four lesions; falling: hit, false, hit, (repeat), false, hit
    truth = [marks([[0, 0, 10, 10]]), marks([[0, 0, 10, 10], [20, 20, 30, 30]]), marks([[0, 0, 10, 10]]), marks([])]
    found = [
        marks([[1, 1, 9, 9], [2, 2, 8, 8]], [0.9, 0.6]),
        marks([[4, 4, 6, 6]], [0.7]),
        marks([[0, 0, 10, 11]], [0.4]),
        marks([[0, 0, 4, 4], [9, 9, 12, 12]], [0.8, 0.5]),
    ]
    curve = detection.froc(found, truth)
    assert curve.false_positives == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5])
    assert curve.sensitivity == pytest.approx([0, 0.25, 0.25, 0.5, 0.5, 0.75])
    assert curve.at([0.125, 0.25, 0.375, 0.5, 8]) == pytest.approx([0.375, 0.5, 0.625, 0.75, 0.75])
    assert detection.cpm(found, truth) == pytest.approx((0.375 + 0.5 + 5 * 0.75) / 7)
    # by overlap the small boxes are no hits
    assert detection.froc(found, truth, 0.5).sensitivity[-1] == pytest.approx(2 / 4)


def test_a_centre_on_the_far_edge_is_outside():
    found = [marks([[9, 4, 11, 6]], [0.5])]
    assert detection.froc(found, [marks([[0, 0, 10, 10]])]).sensitivity[-1] == 0
    assert detection.froc(found, [marks([[0, 0, 10.1, 10]])]).sensitivity[-1] == 1


# --- MONAI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_monais_coco_metric(seed, dims):
    from monai.apps.detection.metrics.coco import COCOMetric
    from monai.apps.detection.metrics.matching import matching_batch

    found, truth = images(seed, 12, dims)
    metric = COCOMetric(["a", "b"], iou_list=[0.3, 0.5], iou_range=(0.5, 0.95, 0.05), max_detection=[100], verbose=False)
    matching = matching_batch(
        detection.box_overlap,
        metric.iou_thresholds,  # type: ignore[arg-type]
        [f.corners for f in found],
        [f.labels for f in found],
        [f.scores for f in found],
        [t.corners for t in truth],
        [t.labels for t in truth],
    )
    told, _ = metric(matching)
    for overlap in (0.3, 0.5):
        assert detection.mean_average_precision(found, truth, 2, overlap, "coco") == pytest.approx(
            told[f"AP_IoU_{overlap:.2f}_MaxDet_100"], abs=1e-6
        )
    whole = detection.mean_average_precision(found, truth, 2, detection.COCO_OVERLAPS, "coco")
    assert whole == pytest.approx(told["mAP_IoU_0.50_0.95_0.05_MaxDet_100"], abs=1e-6)


def test_overlap_is_monais():
    from monai.data.box_utils import box_iou

    found, truth = images(3, 4, 3)
    for one, other in zip(found, truth, strict=True):
        if len(one.corners) and len(other.corners):
            assert detection.box_overlap(one.corners, other.corners) == pytest.approx(box_iou(one.corners, other.corners), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_froc_is_monais(seed):
    from monai.metrics.froc import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score

    rng = np.random.default_rng(seed)
    found, truth, false, hits, targets = [], [], [], [], 0
    for _ in range(8):
        mask = np.zeros((60, 60), int)
        rows = [[6 + 20 * k, 10, 14 + 20 * k, 22] for k in range(int(rng.integers(1, 4)))]
        for number, (x, y, to_x, to_y) in enumerate(rows):
            mask[x:to_x, y:to_y] = number + 1
        points = rng.integers(1, 59, (14, 2))
        points[:2] = [[int(rng.integers(7, 13)), 15], [8, 16]]
        scores = rng.permutation(np.linspace(0.05, 0.95, 14)).astype(np.float32)
        found.append(marks(np.concatenate([points - 1, points + 1], axis=1), scores))
        truth.append(marks(rows))
        fp, tp, number = compute_fp_tp_probs(scores, points[:, 0], points[:, 1], mask)
        false, hits, targets = [*false, *np.asarray(fp)], [*hits, *np.asarray(tp)], targets + number
    assert 0 in hits, "MONAI leaves the lowest threshold out, which is the 0 of a lesion that was missed"
    at, sensitivity = compute_froc_curve_data(np.array(false), np.array(hits), targets, 8)
    assert detection.froc(found, truth).at() == pytest.approx(np.interp(detection.CPM_RATES, at[::-1], sensitivity[::-1]))
    assert detection.cpm(found, truth) == pytest.approx(compute_froc_score(at, sensitivity, detection.CPM_RATES))


# --- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]))
def test_order_of_images_and_boxes_changes_nothing(seed, dims):
    found, truth = images(seed, 5, dims)
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    shuffled = []
    for k in order:
        turn = rng.permutation(len(found[k].corners))
        shuffled.append(Marks(found[k].corners[turn], found[k].labels[turn], found[k].scores[turn]))
    again = [truth[k] for k in order]
    for measure in (detection.average_precision, detection.cpm):
        assert measure(shuffled, again) == pytest.approx(measure(found, truth), nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_further_false_positive_never_helps_and_a_perfect_detector_has_one(seed):
    found, truth = images(seed)
    if not sum(len(t.corners) for t in truth):
        return
    first = found[0]
    worse = [
        Marks(np.concatenate([first.corners, [[90, 90, 95, 95]]]), np.append(first.labels, 0), np.append(first.scores, 0.99)),
        *found[1:],
    ]
    assert detection.average_precision(worse, truth) <= detection.average_precision(found, truth) + 1e-12
    assert detection.cpm(worse, truth) <= detection.cpm(found, truth) + 1e-12
    perfect = [Marks(t.corners, t.labels, np.ones(len(t.corners))) for t in truth]
    assert detection.mean_average_precision(perfect, truth, 2) == 1
    assert detection.cpm(perfect, truth) == 1
    curve = detection.froc(found, truth)
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert (np.diff(curve.false_positives) >= 0).all()


def test_equal_scores_are_one_threshold():
    truth = [marks([[0, 0, 10, 10]])]
    one = [marks([[0, 0, 10, 10], [20, 20, 30, 30]], [0.5, 0.5])]
    other = [marks([[20, 20, 30, 30], [0, 0, 10, 10]], [0.5, 0.5])]
    assert detection.average_precision(one, truth) == detection.average_precision(other, truth) == 0.5


def test_the_interval_draws_images_as_often_as_they_come():
    found, truth = images(5, 10)
    told = detection.detection_summary(found, truth, 2, resamples=60)
    assert told["map"][0] == pytest.approx(detection.mean_average_precision(found, truth, 2))
    assert told["cpm"][0] == pytest.approx(detection.cpm(found, truth))
    for value, low, high in told.values():
        assert low <= value <= high
        assert low < high
    # weights do what drawing does
    rows = np.array([0, 0, 3, 7, 7, 7, 9, 2, 1, 5])
    matched = detection.match(found, truth)
    drawn = detection.average_precision([found[i] for i in rows], [truth[i] for i in rows])
    assert detection._area(matched, np.bincount(rows, minlength=10).astype(float), "all") == pytest.approx(drawn)
    # two subjects with five images each vary more than ten images that are taken for independent
    few = detection.detection_summary(found, truth, 2, groups=np.arange(10) // 5, resamples=60)
    assert few["map"][0] == told["map"][0]
    assert few["map"] != told["map"]


def test_nothing_there_is_not_known_and_nothing_found_is_none():
    none = Marks(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    some = marks([[0, 0, 4, 4]])
    assert np.isnan(detection.average_precision([none], [none]))
    assert np.isnan(detection.cpm([marks([[0, 0, 4, 4]], [0.3])], [none]))
    assert np.isnan(detection.mean_average_precision([], [], 2))
    assert detection.average_precision([none], [some]) == 0
    assert detection.average_precision([none], [some], points="coco") == 0
    assert detection.cpm([none], [some]) == 0


def test_detections_of_tensors_are_read():
    import torch

    truth, found = marks([[0, 0, 4, 4]]), marks([[0, 0, 4, 5]], [0.3])
    tensors = Marks(torch.from_numpy(found.corners), torch.from_numpy(found.labels), torch.from_numpy(found.scores))  # type: ignore[arg-type]
    assert detection.average_precision([tensors], [truth]) == 1


def test_what_cannot_be_matched_is_refused():
    good, found = marks([[0, 0, 4, 4]]), marks([[0, 0, 4, 4]], [0.5])
    with pytest.raises(ValueError, match="2 images and objects of 1"):
        detection.match([found, found], [good])
    with pytest.raises(ValueError, match="need scores"):
        detection.match([good], [good])
    with pytest.raises(ValueError, match="finite scores"):
        detection.match([marks([[0, 0, 4, 4]], [np.nan])], [good])
    with pytest.raises(ValueError, match="above 0"):
        detection.match([found], [good], 0.0)
    with pytest.raises(ValueError, match="dimensions"):
        detection.match([found], [marks([[0, 0, 0, 4, 4, 4]])])
    with pytest.raises(ValueError, match="not finite"):
        detection.box_overlap(np.array([[0, 0, np.inf, 4]]), good.corners)
