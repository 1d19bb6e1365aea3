"""What a segmentation network says of a working image, which may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.inference import choose_precision
from cohortex.labelling import segment
from cohortex.models.regseg.deform import MULTIPLE
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

BLOCK = (128, 128, 128)
"""Voxels up to which a working image is one block: a head at 2 mm. With 8 channels at this resolution that takes some 400 MB."""
CONTEXT = 32
"""Voxels by which the blocks of a larger one are enlarged on each side, where the network does not look less far: as much as networks see
that learned on crops of 64 voxels."""


def class_probabilities(
    network: nn.Module,
    image: ArrayLike,
    classes: int,
    device: str = "cpu",
    precision: str = "float32",
    overlap: float | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Return the probabilities of the classes at every voxel of a working image.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`. Its attributes ``multiple`` (of voxels, that its axes must be) and ``halo`` (how far it looks) are
        followed where it has them.
    image : (X, Y, Z) array-like
        Within 0 and 1, on a working grid.
    classes : int
    device : str
        Where a GPU's memory does not suffice the block is halved, and in the end the CPU does the work.
    precision : {"float32", "auto"}
        See `cohortex.inference.choose_precision`.
    overlap : float, optional
        Of what is larger than a block: the share by which windows of a block's size overlap, averaged with Gaussian weights, instead
        of blocks that see `CONTEXT` voxels around them.
    say : callable, optional
        Told in a sentence when the block was halved.

    Returns
    -------
    (K, X, Y, Z) float32 array-like, precision
        A scratch array where it does not fit into memory.
    """
    multiple = int(getattr(network, "multiple", MULTIPLE))
    halo = min(int(getattr(network, "halo", CONTEXT)), CONTEXT)
    block = tuple(-(-n // multiple) * multiple for n in BLOCK)
    chosen = choose_precision(precision, network, image, device, multiple=multiple)
    soft, _ = segment(
        network,
        image,
        classes,
        (block[0], block[1], block[2]),
        device,
        multiple=multiple,
        halo=halo,
        overlap=overlap,
        precision=chosen,
        empty=_air,
        keep="probabilities",
        say=say,
    )
    return soft, chosen


def _air(block: np.ndarray) -> bool:
    """Tell whether a block holds nothing but the lowest value, that of air; it is background then, and no network need look at it."""
    return not block.any()
