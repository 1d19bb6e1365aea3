"""A trained network that recognises things, on a whole image: its grid, its range of values, slices or overlapping windows, its boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import read_block
from cohortex.errors import Refused
from cohortex.filters.lookup import Means
from cohortex.lazy import Elementwise
from cohortex.models.recognize.findings import Findings, joined, linked, nothing, standing, without_doubles
from cohortex.models.regseg.grid import looked
from cohortex.models.segment.apply import Feeding, feeding_of, grid_of
from cohortex.survey import survey
from cohortex.volume import ArrayLike, Volume

if TYPE_CHECKING:
    import torch
    from torch import nn

LARGEST = {2: 1024, 3: 128}
"""Voxels along each axis that go through a network of two, or three, dimensions at once."""
AT_ONCE = 4
"""Slices that go through a network of two dimensions together."""
BEYOND = (-0.5, 2.0)
"""Values that are kept, where 0..1 is the usual range of an image: a small thing may be brighter than nearly all else."""
UNSURE = 0.5
"""Boxes of slices count for the length of a thing down to this share of the score that its surest one needs."""


class NotFinite(ArithmeticError):
    """A network gave something that is no number."""


@dataclass(frozen=True)
class Fed:
    """How a network is fed and what it is asked, as its training wrote it into the card.

    Attributes
    ----------
    feeding : Feeding
        Spacing, range of values, the axis that slices are cut along, the training's patch.
    classes : list of str
        What the labels are called, from 0.
    reach : tuple of float
        Edges of the largest thing of the training, in voxels of the plan along each axis of a patch: windows overlap by them.
    score : float
        From which a box is a finding: the best compromise on validation subjects.
    """

    feeding: Feeding
    classes: list[str]
    reach: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class Asked:
    """What is asked of a network beside its card.

    Attributes
    ----------
    score : float
        Below are no findings.
    overlap : float
        Findings of a class that overlap by more are one.
    most : int
        Findings of an image.
    slices : int
        Of volumes seen by a network of two dimensions: the least that a finding spans.
    """

    score: float = 0.05
    overlap: float = 0.3
    most: int = 100
    slices: int = 1


def fed_of(card: Mapping[str, Any]) -> Fed:
    """Return how the network of a card is fed.

    Raises
    ------
    Refused
        When the card does not say it.
    """
    extra, classes = card.get("extra", {}), card.get("classes", [])
    feeding = feeding_of(card)
    if "reach" not in extra or "score" not in extra or not classes:
        raise Refused(
            f"The card of {card['name']} does not say what its network finds (classes; extra: reach, score); "
            "name a folder that the training of the stage recognize wrote."
        )
    return Fed(feeding, [str(name) for name in classes], tuple(float(n) for n in extra["reach"]), float(extra["score"]))


def prepared(volume: Volume, feeding: Feeding) -> tuple[ArrayLike, np.ndarray]:
    """Return an image on the plan's grid, lazily, and the voxels of the image that one of the grid is long.

    Where the grid is at least twice as coarse, means of whole blocks of voxels are taken first, so that nothing is aliased. Values: the
    plan's window becomes 0..1; without one the percentile .5 of the image becomes 0 and percentile 99.5 of its foreground 1. What lies
    beyond keeps its distance up to `BEYOND`.

    Returns
    -------
    (X, Y, Z) array-like, (3,) float64 array
    """
    plan = feeding.plan
    grid = grid_of(volume, plan)
    factor = grid.spacing / np.array(volume.spacing)
    whole = np.minimum(np.maximum(np.floor(factor + 1e-3).astype(int), 1), volume.shape)
    if (whole > 1).any():
        affine = volume.affine.copy()
        affine[:3, :3] = volume.affine[:3, :3] * whole
        affine[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, :3] @ ((whole - 1) / 2)
        volume = volume.with_data(Means(volume.data, whole.tolist()), affine)
    low, high = plan.window if plan.normalise == "window" else _range(volume)
    on_grid = looked(volume.data, volume.affine, grid)
    return Elementwise(lambda x: np.clip((x - low) / max(high - low, 1e-8), *BEYOND).astype(np.float32), on_grid), factor


def _range(volume: Volume) -> tuple[float, float]:
    look = survey(volume)
    values = look.of(look.data)
    inside = values[look.sample_inside]
    low, high = float(np.percentile(values, 0.5)), float(np.percentile(inside if inside.size else values, 99.5))
    return low, high if high > low else low + 1.0


def found_in(volume: Volume, network: nn.Module, fed: Fed, asked: Asked, device: str = "cpu") -> Findings:
    """Return what a network finds in an image, in voxels of the image.

    A network of two dimensions sees whole slices, and the boxes of a volume's slices are `linked`; one of three dimensions sees windows
    that overlap by the largest thing of its training, of which each keeps the boxes whose middle is nearer to its own. Slices above
    `LARGEST` are cut likewise. Only these windows are read and held.

    Parameters
    ----------
    volume : Volume
    network : nn.Module
        Of the task recognize, on `device`; it is put into evaluation mode.
    fed : Fed
    asked : Asked
    device : str

    Raises
    ------
    NotFinite
        When the network gives something that is no number.
    """
    network.eval()
    values, factor = prepared(volume, fed.feeding)
    across = fed.feeding.across
    if across is None:
        found = without_doubles(joined(list(_of_windows(network, values, None, fed, asked.score, asked, device))), asked.overlap)
    else:
        found = _of_slices(network, values, across, fed, asked, device)
    found = found.some(found.scores >= asked.score).some(np.arange(asked.most)[: int((found.scores >= asked.score).sum())])
    corners = np.clip(found.corners * np.tile(factor, 2), 0, np.tile(volume.shape, 2))
    return Findings(corners, found.labels, found.scores)


def _of_slices(network: nn.Module, values: ArrayLike, across: int, fed: Fed, asked: Asked, device: str) -> Findings:
    count = values.shape[across]
    alone = count == 1
    least = asked.score if alone else UNSURE * asked.score
    slices: list[Findings] = []
    for start in range(0, count, AT_ONCE):
        several = list(range(start, min(start + AT_ONCE, count)))
        parts: list[list[Findings]] = [[] for _ in several]
        for number, part in enumerate(_of_windows(network, values, several, fed, least, asked, device)):
            parts[number % len(several)].append(part)
        slices += [without_doubles(joined(each, 2), asked.overlap) for each in parts]
    if alone:
        return standing(slices[0], across, 0)
    found = linked(slices, across)
    return found.some(found.corners[:, 3 + across] - found.corners[:, across] >= min(asked.slices, count))


def _of_windows(
    network: Any, values: ArrayLike, slices: Sequence[int] | None, fed: Fed, least: float, asked: Asked, device: str
) -> Iterator[Findings]:
    """Yield what is found in each window, in voxels of the grid; of slices those of one window after the other."""
    import torch

    across, multiple = fed.feeding.across, int(getattr(network, "multiple", 1))
    axes = [axis for axis in range(3) if axis != across]
    edge = LARGEST[len(axes)]
    cuts = [windows(values.shape[axis], edge, fed.reach[i]) for i, axis in enumerate(axes)]
    for window in product(*cuts):
        lengths = [min(edge, values.shape[axis]) for axis in axes]
        padded = [-(-n // multiple) * multiple for n in lengths]
        box = [(start, start + n) for (start, _, _), n in zip(window, padded, strict=True)]
        if across is not None and slices is not None:
            box.insert(across, (slices[0], slices[-1] + 1))
        block = np.asarray(read_block(values, box, (0, 0, 0), "edge"), np.float32)
        block = block[None] if across is None else np.moveaxis(block, across, 0)
        with torch.inference_mode():
            raw = network(torch.from_numpy(np.ascontiguousarray(block))[:, None].to(device))
            if not all(bool(tensor.isfinite().all()) for tensor in _tensors(raw)):
                # no score of it would be above any other number, so that nothing would be found
                raise NotFinite
            parts = network.detections(raw, tuple(padded), score=least, overlap=asked.overlap, most=asked.most)
        for part in parts:
            yield _own(_plain(part), window, [values.shape[axis] for axis in axes])


def _tensors(raw: Any) -> Iterator[Any]:
    """Yield the tensors of whatever a network gives that hold fractions."""
    if isinstance(raw, Mapping):
        raw = list(raw.values())
    if isinstance(raw, list | tuple):
        for part in raw:
            yield from _tensors(part)
    elif hasattr(raw, "is_floating_point") and raw.is_floating_point():
        yield raw


def _plain(found: Any) -> Findings:
    """Return what a network's `detections` gave of one image as arrays."""

    def plain(tensor: torch.Tensor, dtype: Any) -> np.ndarray:
        return np.asarray(tensor.detach().float().cpu().numpy(), dtype)

    return Findings(plain(found.corners, np.float64), plain(found.labels, np.int64), plain(found.scores, np.float64))


def _own(found: Findings, window: Sequence[tuple[int, float, float]], shape: Sequence[int]) -> Findings:
    """Return the boxes of a window, cut to the image, whose middle lies in the window's own part, in voxels of the grid."""
    dimensions = len(window)
    if not len(found):
        return nothing(dimensions)
    starts = np.array([start for start, _, _ in window], float)
    corners = np.clip(found.corners + np.tile(starts, 2), 0, np.tile(shape, 2))
    middle = (corners[:, :dimensions] + corners[:, dimensions:]) / 2
    low, high = (np.array([each[i] for each in window]) for i in (1, 2))
    own = (middle >= low) & (middle < high) & (corners[:, dimensions:] > corners[:, :dimensions])
    return Findings(corners, found.labels, found.scores).some(np.asarray(own.all(axis=1)))


def windows(size: int, edge: int, reach: float) -> list[tuple[int, float, float]]:
    """Return the windows of an axis: where each begins, and from where to where the middles of boxes are its own.

    Neighbours overlap by `reach` voxels (half a window at most) and share their overlap in the middle, so that a box of up to that length
    lies wholly in the window that keeps it.
    """
    if size <= edge:
        return [(0, -np.inf, np.inf)]
    step = edge - min(int(np.ceil(reach)), edge // 2)
    starts = [*range(0, size - edge, step), size - edge]
    cuts = [-np.inf, *((behind + edge + ahead) / 2 for behind, ahead in pairwise(starts)), np.inf]
    return [(start, cuts[i], cuts[i + 1]) for i, start in enumerate(starts)]
