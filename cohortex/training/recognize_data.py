"""What a network that recognises learns from: images with labels or boxes of what is in them, and examples cut around these."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohortex.blocks import read_block
from cohortex.errors import BadInput, Refused
from cohortex.io.boxes import CORNERS_MM, to_voxels
from cohortex.items import Image
from cohortex.lazy import Elementwise
from cohortex.measures.components import find_components
from cohortex.models.recognize.apply import prepared
from cohortex.models.recognize.findings import Findings, nothing
from cohortex.models.regseg.grid import Grid, looked
from cohortex.models.segment.apply import Feeding
from cohortex.models.segment.plan import Fingerprint, Plan, plan
from cohortex.survey import survey
from cohortex.training.augment import Drawn, Ranges, draw, vary_image
from cohortex.volume import ArrayLike

LOG = logging.getLogger("cohortex.training")

USERS = {"labels": "labels", "boxes": "truth"}
"""By role, the tag of what a user gave, as ``<id>+labels``; what the pipeline made is no truth. Where there are both, boxes count."""
LOOKED_AT = 24
"""Images whose numbers make the plan."""
AROUND = 0.7
"""Share of the examples that have a thing of theirs in sight."""
VISIBLE = 0.3
"""Share of a thing that an example must show for it to count as there."""
LONGEST = {2: 512, 3: 96}
"""Edge of an example at most, where the settings say nothing."""
EDGE = 16
"""Examples have edges that are multiples of so many voxels."""
PADDING = -1.0
"""Label of the rows that fill up the boxes of a batch."""


@dataclass(frozen=True)
class Known:
    """An image whose things are known.

    Attributes
    ----------
    image : Image
    truth : Findings
        (n, 6) corners in voxels of the image.
    """

    image: Image
    truth: Findings


@dataclass(frozen=True)
class Prepared:
    """An image on the plan's grid, whose blocks are read when they are asked for.

    Attributes
    ----------
    values : (X, Y, Z) array-like
    boxes : Findings
        (n, 6) corners in voxels of the grid; of slices (n, 4).
    slices : list of Findings or None
        Of a network of two dimensions: the boxes of every slice.
    across : int or None
    """

    values: ArrayLike
    boxes: Findings
    slices: list[Findings] | None
    across: int | None


def labels_by_image(images: Sequence[Image]) -> dict[str, Image]:
    """Return the labels or boxes that users gave, by the id of their image."""
    found: dict[str, Image] = {}
    for role, tag in USERS.items():
        found |= {image.id.rpartition("+")[0]: image for image in images if image.role == role and image.id.endswith(f"+{tag}")}
    return {name: labels for name, labels in found.items() if name}


def labelled(images: Sequence[Image], split: str, modality: str | None = None) -> list[tuple[Image, Image]]:
    """Return the images of a split that have labels or boxes of a user, with these, sorted by id."""
    labels = labels_by_image(images)
    chosen = [i for i in images if i.kind == "image" and i.role == "image" and i.id in labels and i.row.get("split") == split]
    return [(i, labels[i.id]) for i in sorted(chosen, key=lambda i: i.id) if modality in (None, i.modality)]


def most_labelled(images: Sequence[Image]) -> str:
    """Return the modality of which most training images have labels.

    Raises
    ------
    Refused
        When none has.
    """
    found = [image.modality for image, _ in labelled(images, "train")]
    if not found:
        raise Refused(
            "recognize: no image of a training subject has labels or boxes; add rows of these roles to the cohort table, or name a trained "
            "model."
        )
    return max(sorted(set(found)), key=found.count)


def known_of(pair: tuple[Image, Image], classes: Sequence[tuple[int, str]], least_voxels: int = 1) -> Known:
    """Return an image with its boxes, or those of the connected pieces of its labels, each of fewer than `least_voxels` voxels left out.

    Parameters
    ----------
    pair : image, and labels or boxes
        Labels on another grid than their image are taken from the nearest voxel; boxes stay at their place in the world.
    classes : sequence of (value, name)
        The k-th is class k. A box has the name, or the value, as its label.
    least_voxels : int

    Raises
    ------
    BadInput
        ``unknown-label``, ``boxes-outside``: of boxes, see `of_use`.
    """
    image, beside = pair
    if beside.kind == "table":
        found = _given_boxes(image, beside, classes)
        # a box may be thinner than a voxel, a piece may not
        return Known(image, found if least_voxels <= 1 else found.some(_size(found.corners) >= least_voxels - 1e-3))
    return Known(image, _boxes(_labels_on(pair), classes, least_voxels))


def of_use(pairs: Sequence[tuple[Image, Image]], classes: Sequence[tuple[int, str]]) -> tuple[list[tuple[Image, Image]], dict[str, str]]:
    """Return the pairs whose boxes are all of known classes and within their image, and why others are not, by image, in a sentence."""
    kept, without = [], {}
    for pair in pairs:
        try:
            if pair[1].kind == "table":
                _given_boxes(*pair, classes)
        except BadInput as bad:
            without[pair[0].id] = bad.sentence
            LOG.warning("%s", bad.sentence)
        else:
            kept.append(pair)
    return kept, without


def _given_boxes(image: Image, beside: Image, classes: Sequence[tuple[int, str]]) -> Findings:
    """Return the boxes of an acquired table in voxels of the image, as it is now."""
    table: Any = beside.content
    numbers = {str(value): k for k, (value, _) in enumerate(classes)} | {name: k for k, (_, name) in enumerate(classes)}
    told = [str(name) for name in table.get("label", [])]
    unknown = sorted(set(told) - set(numbers))
    if unknown:
        raise BadInput(
            "unknown-label",
            f"{beside.id} has boxes of {', '.join(unknown)}, which recognize.default.labels does not name "
            f"({', '.join(f'{value}: {name}' for value, name in classes)}); {image.id} is not learned from: correct one or the other.",
        )
    places = np.array([[float(value) for value in table.get(name, [])] for name in CORNERS_MM]).T.reshape(-1, 6)
    volume = image.volume
    ends = [to_voxels(places[:, k : k + 3], volume.affine) for k in (0, 3)]
    corners = np.round(np.clip(np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1), 0, np.tile(volume.shape, 2)), 3)
    if len(corners) and not _size(corners).all():
        raise BadInput("boxes-outside", f"{beside.id} has a box outside {image.id} as it is now; it is not learned from: do not crop it.")
    return Findings(corners, np.array([numbers[name] for name in told], np.int64), np.ones(len(told)))


def _labels_on(pair: tuple[Image, Image]) -> ArrayLike:
    """Return labels on the grid of their image."""
    image, labels = (each.volume for each in pair)
    if labels.shape == image.shape and np.allclose(labels.affine, image.affine, atol=1e-3):
        return labels.data
    return looked(labels.data, labels.affine, Grid(image.shape, image.affine), mode="nearest", outside=0)


def _boxes(labels: ArrayLike, classes: Sequence[tuple[int, str]], least_voxels: int) -> Findings:
    largest = max(value for value, _ in classes)
    table = np.zeros(largest + 1, np.uint16)
    for number, (value, _) in enumerate(classes):
        table[value] = number + 1
    only = Elementwise(lambda x: table[np.where((x >= 0) & (x <= largest), x, 0).astype(np.int64)], labels)
    pieces = find_components(only)
    kept = pieces.voxels >= least_voxels
    corners = np.concatenate([pieces.low, pieces.high], axis=1).astype(float)[kept]
    found = pieces.labels[kept] - 1
    return Findings(corners, found.astype(np.int64), np.ones(len(found)))


def plan_of(known: Sequence[Known], spacing_mm: float | Sequence[float] | None = None) -> Plan:
    """Return spacing and range of values for labelled images: medians as in a segmentation's plan, a window of the foreground for CT.

    Parameters
    ----------
    known : sequence of Known
        Evenly spread ones are looked at.
    spacing_mm : float, or three, optional
        Instead of the plan's spacing.
    """
    chosen = np.unique(np.linspace(0, len(known) - 1, min(LOOKED_AT, len(known))).round().astype(int))
    shapes, spacings, seen = [], [], []
    for each in (known[i] for i in chosen):
        look = survey(each.image.volume)
        inside = look.of(look.data)[look.sample_inside]
        seen.append(np.asarray(inside[:: max(1, inside.size // 10_000)], float))
        shapes.append(each.image.volume.shape)
        spacings.append(each.image.volume.spacing)
    values = np.concatenate(seen) if any(each.size for each in seen) else np.array([0.0, 1.0])
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    inner = np.clip(values, low, high)
    made = plan(
        Fingerprint(shapes, spacings, known[0].image.modality, 1, 2, (low, high), float(inner.mean()), float(max(inner.std(), 1e-8)))
    )
    if spacing_mm is None:
        return made
    wanted = [float(spacing_mm)] * 3 if isinstance(spacing_mm, int | float) else [float(n) for n in spacing_mm]
    return replace(made, spacing=(wanted[0], wanted[1], wanted[2]))


def cut_of(how: Plan, dimensions: int) -> int | None:
    """Return along which axis slices are cut for a network of two dimensions: the planned one, else the coarsest.

    Raises
    ------
    Refused
        When the network is of three dimensions and the images are pictures or of few slices.
    """
    if dimensions == 3:
        if how.dimensions == 2:
            raise Refused(
                "recognize: the images are pictures or have few slices; name a network of two dimensions, or set its option dimensions: 2."
            )
        return None
    if how.across is not None:
        return how.across
    return int(np.argmax(how.spacing)) if how.spacing[2] < max(how.spacing) else 2


def patch_of(wanted: int | Sequence[int] | None, shapes: Sequence[Sequence[int]], across: int | None) -> tuple[int, ...]:
    """Return the size of examples: the largest image, whole up to `LONGEST` voxels along an axis.

    Raises
    ------
    Refused
        When the settings give another number of axes than the network has.
    """
    axes = [axis for axis in range(3) if axis != across]
    if isinstance(wanted, int):
        wanted = [wanted] * len(axes)
    if wanted is not None:
        if len(wanted) != len(axes):
            raise Refused(f"recognize: the patch {list(wanted)} has {len(wanted)} axes, the network {len(axes)}; give one length for each.")
        return tuple(int(n) for n in wanted)
    longest = [max(shape[axis] for shape in shapes) for axis in axes]
    return tuple(min(LONGEST[len(axes)], -(-n // EDGE) * EDGE) for n in longest)


def prepare(
    known: Known, feeding: Feeding, classes: Sequence[tuple[int, str]], pair: tuple[Image, Image] | None = None, least_voxels: int = 1
) -> Prepared:
    """Return an image as it is learned from.

    Parameters
    ----------
    known : Known
    feeding : Feeding
    classes, least_voxels
        As for `known_of`.
    pair : image and labels or boxes, optional
        For a network of two dimensions: what the boxes of each slice are taken from.
    """
    values, factor = prepared(known.image.volume, feeding)
    across = feeding.across
    scaled = replace(known.truth, corners=known.truth.corners / np.tile(factor, 2))
    if across is None or pair is None:
        return Prepared(values, scaled, None, across)
    axes = [axis for axis in range(3) if axis != across]
    if pair[1].kind == "table":
        return Prepared(values, scaled, [_cut(scaled, place, across) for place in range(values.shape[across])], across)
    labels, slices = _labels_on(pair), []
    held = {k for low, high in known.truth.corners[:, [across, 3 + across]].astype(int) for k in range(low, high)}
    for place in range(labels.shape[across]):
        if place not in held:
            slices.append(nothing(2))
            continue
        key = tuple(slice(place, place + 1) if axis == across else slice(None) for axis in range(3))
        found = _boxes(np.asarray(labels[key]), classes, least_voxels)
        columns = [*axes, *(3 + axis for axis in axes)]
        slices.append(replace(found, corners=found.corners[:, columns] / np.tile(factor[axes], 2)))
    return Prepared(values, scaled, slices, across)


def _cut(boxes: Findings, place: int, across: int) -> Findings:
    """Return the boxes (n, 4) of a slice: of all that reach to its middle, or that lie within it."""
    low, high = boxes.corners[:, across], boxes.corners[:, 3 + across]
    first = np.ceil(low - 0.5)
    held = (first <= place) & (place < np.maximum(np.ceil(high - 0.5), first + 1))
    columns = [axis for axis in range(6) if axis % 3 != across]
    found = boxes.some(held)
    return replace(found, corners=found.corners[:, columns])


def ranges_of(flip: Sequence[int], across: int | None) -> Ranges:
    """Return how far examples are varied where the settings do not say it; nothing is turned.

    Parameters
    ----------
    flip : sequence of int
        Axes of the image along which half of the examples are mirrored.
    across : int or None
    """
    axes = [axis for axis in range(3) if axis != across]
    own = tuple(axes.index(axis) for axis in flip if axis in axes)
    return Ranges(translate=0.05, rotate_deg=0.0, shear=0.0, scale=0.2, flip=own, gain=0.15, offset=0.05, noise=0.03)


def draw_example(item: Prepared, patch: Sequence[int], varied: Ranges, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an example and what it shows.

    Parameters
    ----------
    item : Prepared
    patch : sequence of int
        Of two or three axes.
    varied : Ranges
    rng : numpy.random.Generator

    Returns
    -------
    (1, ...) float32 array, (n, 2 * axes + 1) float64 array
        Corners in voxels of the example, then the label.
    """
    across, boxes = item.across, item.boxes
    shape = [n for axis, n in enumerate(item.values.shape) if axis != across]
    place = 0
    if across is not None:
        assert item.slices is not None
        full = [k for k, each in enumerate(item.slices) if len(each)]
        around = bool(full) and rng.random() < AROUND
        place = full[int(rng.integers(len(full)))] if around else int(rng.integers(len(item.slices)))
        boxes = item.slices[place]
    else:
        around = len(boxes) > 0 and rng.random() < AROUND
    axes = len(patch)
    starts = [int(rng.integers(min(0, n - s), max(0, n - s) + 1)) for n, s in zip(shape, patch, strict=True)]
    if around and len(boxes):
        one = boxes.corners[int(rng.integers(len(boxes)))]
        middle = (one[:axes] + one[axes:]) / 2
        # somewhere in the middle half of the example
        starts = [round(float(m)) - int(rng.integers(s // 4, max(s // 4 + 1, 3 * s // 4))) for m, s in zip(middle, patch, strict=True)]
    starts = [int(np.clip(a, min(0, n - s), max(0, n - s))) for a, s, n in zip(starts, patch, shape, strict=True)]
    box = [(a, a + s) for a, s in zip(starts, patch, strict=True)]
    if across is not None:
        box.insert(across, (place, place + 1))
    block = np.asarray(read_block(item.values, box, (0, 0, 0), "edge"), np.float32)
    if across is not None:
        block = block.squeeze(across)
    drawn = draw(varied, patch, rng)
    made = vary_image(block, drawn, outside=float(block.min()))
    corners = moved(boxes.corners - np.tile(starts, 2), drawn, patch)
    inside = np.clip(corners, 0, np.tile(patch, 2))
    share = _size(inside) / np.maximum(_size(corners), 1e-6)
    kept = share >= VISIBLE
    return made[None], np.concatenate([inside[kept], boxes.labels[kept, None]], axis=1)


def moved(corners: np.ndarray, drawn: Drawn, shape: Sequence[int]) -> np.ndarray:
    """Return where boxes lie once an image was varied, (n, 2 * axes) in voxels.

    Where it was turned or sheared a box is that of the ellipse that filled the old one: a box around the turned box would be too large for
    nearly all that is round (Kalra et al., Towards rotation invariance in object detection, ICCV 2021).
    """
    axes, half = len(shape), np.asarray(shape, float) / 2
    # the matrix says where in the image a place of the example lies, both from the middle
    low, high = (part - half - drawn.shift for part in (corners[:, :axes], corners[:, axes:]))
    factor = np.diag(drawn.matrix)
    if np.array_equal(drawn.matrix, np.diag(factor)):
        ends = [part / factor + half for part in (low, high)]
        return np.concatenate([np.minimum(*ends), np.maximum(*ends)], axis=1)
    back = np.linalg.inv(drawn.matrix)
    middle, extent = (low + high) / 2 @ back.T + half, np.sqrt(((high - low) / 2) ** 2 @ (back**2).T)
    return np.concatenate([middle - extent, middle + extent], axis=1)


def _size(corners: np.ndarray) -> np.ndarray:
    axes = corners.shape[1] // 2
    return np.prod(corners[:, axes:] - corners[:, :axes], axis=1)


def sampler_of(items: Sequence[Prepared], patch: Sequence[int], varied: Ranges) -> Any:
    """Return what draws a batch for `cohortex.training.loop.fit`: images, and boxes with their labels in rows filled up by `PADDING`."""

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw_example(items[int(rng.integers(len(items)))], patch, varied, rng) for _ in range(count)]
        rows = np.full((count, max(1, *(len(boxes) for _, boxes in drawn)), 2 * len(patch) + 1), PADDING, np.float32)
        for row, (_, boxes) in zip(rows, drawn, strict=True):
            row[: len(boxes)] = boxes
        return np.stack([image for image, _ in drawn]), rows

    return sample
