"""Measures of detectors: overlap of boxes, average precision, FROC and the competition performance metric, with intervals.

A box is ``[low..., high...]`` along the axes of its image in voxels, its edges half open: over voxels 3 to 5 it is ``[3, 6)``. Of every
image there is one item for what was found and one for what is there, anything with ``corners`` (n, 2 * dims), ``labels`` (n,) and, where
found, ``scores`` (n,): `Marks` here, or the boxes of a detector (tensors are read too). A measure that the data do not define (no object
at all) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cohortex.measures.classification import NAN, grouped_bootstrap

CPM_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which the competition performance metric takes the sensitivity."""
COCO_OVERLAPS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""Overlaps over which the COCO challenge averages."""
FALSE, HIT, REPEATED = 0, 1, 2

Rule = float | Literal["centre"]
"""When a detection is a hit: its overlap (intersection over union) is at least this, or its centre lies in the box."""
Points = Literal["all", "coco"]
"""The area under the precision envelope, or its mean at the 101 recalls 0, .01, ..., 1."""


@dataclass(frozen=True)
class Marks:
    """Boxes of one image.

    Attributes
    ----------
    corners : (n, 2 * dims) array
        Low corner, then high corner, in voxels.
    labels : (n,) integer array
        Classes from 0 on.
    scores : (n,) float array, optional
        Of detections, higher for surer.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Matched:
    """Detections of all images, the surest first, and which of them are hits.

    Attributes
    ----------
    scores : (n,) float64 array
        Falling.
    hit : (n,) bool array
    image : (n,) int64 array
        Number of the image.
    objects : (images,) int64 array
        How many objects each image has.
    """

    scores: np.ndarray
    hit: np.ndarray
    image: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class Froc:
    """A free-response ROC curve: one point a threshold, from none found on.

    Attributes
    ----------
    false_positives : (k,) float64 array
        Mean of an image, rising.
    sensitivity : (k,) float64 array
        Share of objects that were found.
    threshold : (k,) float64 array
        Detections with at least this score count.
    """

    false_positives: np.ndarray
    sensitivity: np.ndarray
    threshold: np.ndarray

    def at(self, rates: Sequence[float] = CPM_RATES) -> np.ndarray:
        """Return the sensitivity at numbers of false positives an image, linear between points, level after the last."""
        if np.isnan(self.sensitivity).any():
            return np.full(len(rates), NAN)
        # Of the points with as many false positives the last is the best one.
        last = np.append(self.false_positives[1:] > self.false_positives[:-1], True)
        return np.interp(rates, self.false_positives[last], self.sensitivity[last])


# --- boxes ---------------------------------------------------------------------------------------------------------


def box_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union of every box of `a` with every box of `b`.

    Parameters
    ----------
    a : (n, 2 * dims) array
    b : (m, 2 * dims) array
        Low corner, then high corner; a box without volume overlaps nothing.

    Returns
    -------
    (n, m) float64 array
        From 0 to 1.

    Raises
    ------
    ValueError
        For corners that are not (n, 2 * dims), of two numbers of dimensions, or not finite.
    """
    a, b = _corners(a), _corners(b)
    if a.shape[1] != b.shape[1] and len(a) and len(b):
        raise ValueError(f"boxes of {a.shape[1] // 2} and of {b.shape[1] // 2} dimensions cannot overlap")
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)))
    dims = a.shape[1] // 2
    low = np.maximum(a[:, None, :dims], b[None, :, :dims])
    high = np.minimum(a[:, None, dims:], b[None, :, dims:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    union = _volume(a)[:, None] + _volume(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(
    found: Sequence[Any], truth: Sequence[Any], rule: Rule = 0.5, label: int | None = None, repeats: Literal["false", "ignored"] = "false"
) -> Matched:
    """Match detections to objects image by image: the surest detection first takes the object that it fits best.

    Parameters
    ----------
    found, truth : sequences of items with corners, labels (and scores)
        One an image.
    rule : float or "centre"
        The least overlap, or that the detection's centre lies inside the object's box (of several the nearest centre).
    label : int, optional
        Only boxes of this class; all without regard to their class otherwise.
    repeats : "false" or "ignored"
        Whether a further detection of an object that was found already is a false positive (as in VOC and COCO), or
        does not count at all (as in LUNA16 and CAMELYON16).

    Raises
    ------
    ValueError
        For lists of different lengths, a rule that is none, scores that are missing or not finite.
    """
    if len(found) != len(truth):
        raise ValueError(f"there are detections of {len(found)} images and objects of {len(truth)}: give one item an image for both")
    if rule != "centre" and not (isinstance(rule, int | float) and 0 < rule <= 1):
        raise ValueError(f"a hit is an overlap above 0 and up to 1, or 'centre'; here is {rule!r}")
    scores: list[np.ndarray] = []
    hits: list[np.ndarray] = []
    objects = np.zeros(len(truth), dtype=np.int64)
    for place, (one, other) in enumerate(zip(found, truth, strict=True)):
        corners, score = _of_label(one, label, scored=True)
        there, _ = _of_label(other, label, scored=False)
        order = np.argsort(-score, kind="stable")
        state = _match_one(corners[order], there, rule)
        counted = state != REPEATED if repeats == "ignored" else np.ones(len(state), dtype=bool)
        scores.append(score[order][counted])
        hits.append(state[counted] == HIT)
        objects[place] = len(there)
    every = np.concatenate(scores) if scores else np.zeros(0)
    image = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    order = np.argsort(-every, kind="stable")
    hit = np.concatenate(hits) if hits else np.zeros(0, dtype=bool)
    return Matched(every[order], hit[order], image[order], objects)


def _match_one(corners: np.ndarray, there: np.ndarray, rule: Rule) -> np.ndarray:
    """Return FALSE, HIT or REPEATED for the detections of an image, which come with the surest first."""
    state = np.full(len(corners), FALSE)
    if not len(corners) or not len(there):
        return state
    if rule == "centre":
        dims = there.shape[1] // 2
        centre = (corners[:, :dims] + corners[:, dims:]) / 2
        inside = np.all((centre[:, None] >= there[None, :, :dims]) & (centre[:, None] < there[None, :, dims:]), axis=2)
        fit = -np.linalg.norm(centre[:, None] - (there[:, :dims] + there[:, dims:])[None] / 2, axis=2)
    else:
        fit = box_overlap(corners, there)
        inside = np.asarray(fit >= min(rule, 1 - 1e-10))
    free = np.ones(len(there), dtype=bool)
    for row in range(len(corners)):
        choice = inside[row] & free
        if choice.any():
            free[np.argmax(np.where(choice, fit[row], -np.inf))] = False
            state[row] = HIT
        elif inside[row].any():
            state[row] = REPEATED
    return state


# --- average precision ---------------------------------------------------------------------------------------------


def precision_recall(matched: Matched) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall (rising), precision and score at every threshold, equal scores being one threshold."""
    return _precision_recall(matched, np.ones(len(matched.objects)))


def average_precision(
    found: Sequence[Any], truth: Sequence[Any], overlap: Rule = 0.5, label: int | None = None, points: Points = "all"
) -> float:
    """Return the average precision: the area under the precision envelope over recall.

    Parameters
    ----------
    found, truth : sequences of items with corners, labels (and scores)
        One an image.
    overlap : float or "centre"
        See `match`.
    label : int, optional
        Only this class; otherwise all boxes without regard to their class.
    points : "all" or "coco"

    Returns
    -------
    float
        NaN where there is no object.

    References
    ----------
    Everingham et al., The Pascal visual object classes challenge: a retrospective, IJCV 2015 (all points); Lin et al., Microsoft COCO:
    common objects in context, ECCV 2014 (101 points), by which RetinaNet is judged (Lin et al., Focal loss for dense object detection,
    ICCV 2017).
    """
    matched = match(found, truth, overlap, label)
    return _area(matched, np.ones(len(matched.objects)), points)


def mean_average_precision(
    found: Sequence[Any], truth: Sequence[Any], classes: int, overlap: float | Sequence[float] = 0.5, points: Points = "all"
) -> float:
    """Return the mean of the average precision over classes that have an object (mAP), and over overlaps where there are several.

    With overlap .5 it is mAP@.5, with `COCO_OVERLAPS` and the points of "coco" what the COCO challenge ranks by. NaN where no class
    has an object.
    """
    overlaps = [overlap] if isinstance(overlap, int | float) else list(overlap)
    every = [[average_precision(found, truth, o, k, points) for o in overlaps] for k in range(classes)]
    return _mean_of_known(np.array(every).reshape(classes, len(overlaps)).mean(axis=1))


# --- FROC ----------------------------------------------------------------------------------------------------------


def froc(found: Sequence[Any], truth: Sequence[Any], rule: Rule = "centre", label: int | None = None) -> Froc:
    """Return the free-response ROC curve; further detections of an object that was found already do not count.

    Parameters
    ----------
    found, truth : sequences of items with corners, labels (and scores)
        One an image; images without objects belong to them.
    rule : float or "centre"
        See `match`.
    label : int, optional
        Only this class; otherwise all boxes without regard to their class.

    References
    ----------
    Chakraborty, Maximum likelihood analysis of free-response receiver operating characteristic (FROC) data, Medical Physics 1989;
    Ehteshami Bejnordi et al., Diagnostic assessment of deep learning algorithms for detection of lymph node metastases, JAMA 2017.
    """
    matched = match(found, truth, rule, label, repeats="ignored")
    return _froc(matched, np.ones(len(matched.objects)))


def cpm(found: Sequence[Any], truth: Sequence[Any], rule: Rule = "centre", label: int | None = None) -> float:
    """Return the competition performance metric: the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives an image.

    References
    ----------
    Setio et al., Validation, comparison, and combination of algorithms for automatic detection of pulmonary nodules in computed tomography
    images: the LUNA16 challenge, Medical Image Analysis 2017.
    """
    return float(froc(found, truth, rule, label).at().mean())


# --- intervals -----------------------------------------------------------------------------------------------------


def detection_summary(
    found: Sequence[Any],
    truth: Sequence[Any],
    classes: int,
    groups: Sequence[Any] | np.ndarray | None = None,
    overlap: float = 0.5,
    rule: Rule = "centre",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Return what a detector's card tells, each with its bootstrap interval, drawing images or whole subjects.

    Parameters
    ----------
    found, truth : sequences of items with corners, labels (and scores)
        One an image.
    classes : int
    groups : (images,) array, optional
        The subject of each image; every image is its own otherwise.
    overlap : float
        For average precision.
    rule : float or "centre"
        For FROC.
    level, resamples, seed
        See `cohortex.measures.classification.grouped_bootstrap`.

    Returns
    -------
    dict of str to (value, low, high)
        ``map``, ``ap_<class>`` for every class, ``cpm`` and ``sensitivity_at_1`` (false positive an image), the last two without regard
        to classes.
    """
    images = len(truth)
    units = np.arange(images) if groups is None else np.asarray(groups)
    if len(units) != images:
        raise ValueError(f"there are {len(units)} groups for {images} images")
    functions = detection_statistics(found, truth, classes, overlap, rule)
    return {name: grouped_bootstrap(function, units, level, resamples, seed) for name, function in functions.items()}


def detection_statistics(
    found: Sequence[Any], truth: Sequence[Any], classes: int, overlap: float = 0.5, rule: Rule = "centre"
) -> dict[str, Callable[[np.ndarray], float]]:
    """Return what `detection_summary` tells as functions of (m,) image numbers, some of them several times; matching is done once.

    Parameters
    ----------
    found, truth, classes, overlap, rule
        See `detection_summary`.
    """
    images = len(truth)
    every = [match(found, truth, overlap, k) for k in range(classes)]
    free = match(found, truth, rule, repeats="ignored")

    def weights(rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows, minlength=images).astype(np.float64)

    functions = {"map": lambda i: _mean_of_known(np.array([_area(m, weights(i), "all") for m in every]))}
    functions |= {f"ap_{k}": lambda i, m=m: _area(m, weights(i), "all") for k, m in enumerate(every)}
    functions |= {"cpm": lambda i: float(_froc(free, weights(i)).at().mean())}
    return functions | {"sensitivity_at_1": lambda i: float(_froc(free, weights(i)).at([1.0])[0])}


# --- curves with weights: an image drawn twice counts twice, without sorting anew ----------------------------------


def _counts(matched: Matched, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hits, false positives and score at every distinct score, counting each image `weight` times."""
    each = weight[matched.image]
    last = np.append(matched.scores[1:] < matched.scores[:-1], True)[: len(matched.scores)]
    hits = np.cumsum(each * matched.hit)[last]
    false = np.cumsum(each * ~matched.hit)[last]
    return hits, false, matched.scores[last]


def _precision_recall(matched: Matched, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total = float(weight @ matched.objects)
    hits, false, score = _counts(matched, weight)
    precision = hits / np.maximum(hits + false, 1e-12)
    return (hits / total if total else np.full(len(hits), NAN)), precision, score


def _area(matched: Matched, weight: np.ndarray, points: Points) -> float:
    if not weight @ matched.objects:
        return NAN
    recall, precision, _ = _precision_recall(matched, weight)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points == "coco":
        place = np.searchsorted(recall, np.linspace(0.0, 1.0, 101), side="left")
        return float(np.append(envelope, 0.0)[np.minimum(place, len(envelope))].mean())
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _froc(matched: Matched, weight: np.ndarray) -> Froc:
    total, images = float(weight @ matched.objects), float(weight.sum())
    hits, false, score = _counts(matched, weight)
    sensitivity = hits / total if total else np.full(len(hits), NAN)
    start = 0.0 if total else NAN
    return Froc(np.append(0.0, false / max(images, 1.0)), np.append(start, sensitivity), np.append(np.inf, score))


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else NAN


def _volume(corners: np.ndarray) -> np.ndarray:
    dims = corners.shape[1] // 2
    return np.clip(corners[:, dims:] - corners[:, :dims], 0.0, None).prod(axis=1)


def _corners(corners: Any) -> np.ndarray:
    """Return corners as a (n, 2 * dims) float64 array."""
    array = np.asarray(corners, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, array.shape[1] if array.ndim == 2 and array.shape[1] else 4)
    if array.ndim != 2 or array.shape[1] % 2:
        raise ValueError(f"boxes are rows of low and high corners, (n, 2 * dims); these are {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("boxes have corners that are not finite: leave such boxes out first")
    return array


def _of_label(item: Any, label: int | None, scored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners and scores of a class, or of all."""
    corners = _corners(item.corners)
    labels = np.asarray(item.labels)
    if len(labels) != len(corners):
        raise ValueError(f"an image has {len(corners)} boxes and {len(labels)} labels")
    scores = np.zeros(len(corners))
    if scored:
        if item.scores is None:
            raise ValueError("detections need scores, these have none")
        scores = np.asarray(item.scores, dtype=np.float64)
        if scores.shape != (len(corners),) or not np.isfinite(scores).all():
            raise ValueError(f"an image has {len(corners)} detections: it needs as many finite scores, one each")
    keep = np.ones(len(corners), dtype=bool) if label is None else labels == label
    return corners[keep], scores[keep]
