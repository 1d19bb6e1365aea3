"""A trained segmentation network on a whole image: its grid, its range of values, and the walk over volume or slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cohortex.blocks import new_array
from cohortex.errors import Refused
from cohortex.lazy import Elementwise
from cohortex.models.regseg.grid import Grid, looked
from cohortex.models.segment.plan import Plan
from cohortex.survey import survey
from cohortex.volume import ArrayLike, Volume

if TYPE_CHECKING:
    from torch import nn

    from cohortex.labelling import Keep

LARGEST_HALO = 64
"""Voxels by which blocks are enlarged at most, whatever the network's reach."""
OVERLAP = 0.5
"""Of windows, for networks that look at their whole input."""


@dataclass(frozen=True)
class Feeding:
    """How a network is fed, as its training wrote it into the card.

    Attributes
    ----------
    plan : Plan
        Spacing and range of values.
    across : int or None
        Of a network of two dimensions: the axis of the image that slices are cut along.
    patch : tuple of int
        Of the training.
    """

    plan: Plan
    across: int | None
    patch: tuple[int, ...]


def feeding_of(card: Mapping[str, Any]) -> Feeding:
    """Return how the network of a card is fed.

    Raises
    ------
    Refused
        When the card does not say it.
    """
    extra = card.get("extra", {})
    told, names = extra.get("plan"), {each.name for each in fields(Plan)}
    if not isinstance(told, Mapping) or set(told) != names or "patch" not in extra:
        raise Refused(
            f"The card of {card['name']} does not say how its network is fed (extra: plan, across, patch); "
            "name a folder that the training of a segmentation wrote."
        )
    tuples = {name: tuple(told[name]) for name in ("spacing", "shape", "patch", "window")}
    return Feeding(Plan(**{**told, **tuples}), extra.get("across"), tuple(int(n) for n in extra["patch"]))


def grid_of(volume: Volume, how: Plan) -> Grid:
    """Return the grid of an image at the plan's spacing, along the image's own axes; of two dimensions slices stay where they are."""
    spacing = np.array(how.spacing)
    if how.across is not None:
        spacing[how.across] = volume.spacing[how.across]
    factor = spacing / np.array(volume.spacing)
    shape = np.maximum(np.round(np.array(volume.shape) / factor).astype(int), 1)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * factor
    # the outer edges of both grids agree at the near end
    affine[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, :3] @ ((factor - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def standardised(volume: Volume, how: Plan, grid: Grid) -> ArrayLike:
    """Return an image on a grid with the plan's values, computed where it is read."""
    on_grid = looked(volume.data, volume.affine, grid)
    if how.normalise == "window":
        (low, high), mean, deviation = how.window, how.mean, how.deviation
        return Elementwise(lambda x: ((np.clip(x, low, high) - mean) / deviation).astype(np.float32), on_grid)
    look = survey(volume)
    values = look.of(look.data)
    inside = values[look.sample_inside]
    inside = inside if inside.size else values
    own_mean, own_deviation = float(inside.mean()), float(max(inside.std(), 1e-8))
    return Elementwise(lambda x: ((x - own_mean) / own_deviation).astype(np.float32), on_grid)


def predicted(
    network: nn.Module,
    values: ArrayLike,
    fed: Feeding,
    device: str = "cpu",
    keep: str = "labels",
    precision: str = "float32",
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Return what a network says of a standardised image on its grid.

    A network of two dimensions sees whole slices, one after the other. One of three dimensions sees blocks with a halo; if it looks at its
    whole input it sees windows of the training's size, whose logits are averaged.

    Parameters
    ----------
    network : nn.Module
        On `device`; it is put into evaluation mode.
    values : (X, Y, Z) array-like
        As `standardised` gives them.
    fed : Feeding
    device : str
        Where a GPU's memory does not suffice blocks are halved, and in the end the CPU does the work.
    keep : {"labels", "probabilities"}
    precision : {"float32", "auto"}
        See `cohortex.inference.choose_precision`; of three dimensions only.
    say : callable, optional
        Told in a sentence when a block was halved.

    Returns
    -------
    array-like, precision
        (X, Y, Z) labels, or (K, X, Y, Z) float32 probabilities.
    """
    from cohortex.inference import choose_precision
    from cohortex.labelling import segment

    network.eval()
    classes = max(2, fed.plan.classes)
    if fed.across is not None:
        return _by_slices(network, values, classes, fed.across, device, keep), "float32"
    multiple = int(getattr(network, "multiple", 1))
    size = [-(-n // multiple) * multiple for n in fed.patch]
    halo = getattr(network, "halo", None)
    block = [max(n, 2 * multiple) for n in size] if halo is not None else size
    chosen = choose_precision(precision, network, values, device, multiple=multiple)
    found, _ = segment(
        network,
        values,
        classes,
        (block[0], block[1], block[2]),
        device,
        multiple=multiple,
        halo=min(int(halo), LARGEST_HALO) if halo is not None else 0,
        overlap=None if halo is not None else OVERLAP,
        precision=chosen,
        keep=cast("Keep", keep),
        say=say,
    )
    return found, chosen


def _by_slices(network: nn.Module, values: ArrayLike, classes: int, across: int, device: str, keep: str) -> Any:
    import torch

    soft = keep == "probabilities"
    made = new_array((classes, *values.shape), np.float32) if soft else np.zeros(values.shape, np.uint8 if classes <= 256 else np.uint16)
    for number in range(values.shape[across]):
        key = tuple(slice(number, number + 1) if axis == across else slice(None) for axis in range(3))
        image = np.ascontiguousarray(np.asarray(values[key]).squeeze(across), dtype=np.float32)
        with torch.inference_mode():
            logits = network(torch.from_numpy(image)[None, None].to(device))[0].float()
        if soft:
            made[(slice(None), *key)] = np.expand_dims(torch.softmax(logits, 0).cpu().numpy(), across + 1)
        else:
            made[key] = np.expand_dims(logits.argmax(0).cpu().numpy(), across)
    return made
