"""Labels of a volume larger than memory by a network, whose logits exist for a block or a slab only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.blocks import Box, align_of, cut, new_array, read_block
from cohortex.inference import Precision, Runner
from cohortex.norms import frozen_norms
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

Weights = Literal["gaussian", "hann"]


def segment(
    network: nn.Module,
    array: ArrayLike,
    classes: int,
    block: tuple[int, int, int],
    device: str = "cpu",
    *,
    multiple: int = 1,
    halo: int = 0,
    overlap: float | None = None,
    weights: Weights = "gaussian",
    threshold: float | None = None,
    precision: Precision = "float32",
    norm_passes: int = 2,
    empty: Callable[[np.ndarray], bool] | None = None,
    out: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Return the labels of a volume by a network whose logits never exist for the whole volume.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`: (1, 1, x, y, z) to logits (1, classes, x, y, z).
    array : (x, y, z) array-like
        In the network's range of values; may be lazy.
    classes : int
    block : three ints
        Voxels of a block or window, multiples of `multiple`; a shorter axis is continued by reflection to the next multiple.
    device : str
    multiple : int
        What the network asks of its axes (2 ** levels of pooling). Blocks begin at multiples of it, so pooling falls as in the whole.
    halo : int
        Voxels by which a block is enlarged on each side inside the volume, rounded up to `multiple`; from the network's reach on
        the labels are those of the whole volume in one pass. Not used with `overlap`.
    overlap : float, optional
        Instead of a halo: the share by which windows overlap, 0 to below 1; logits are averaged with `weights`.
        Accumulators hold a slab, as thick as a window along x.
    weights : {"gaussian", "hann"}
        gaussian: standard deviation an eighth of the window, as nnU-Net has it (Isensee et al., Nature Methods 2021).
    threshold : float, optional
        With one class: label 1 where the sigmoid is above it. By default the class with the largest logit.
    precision : {"float32", "bfloat16"}
        bfloat16 computes convolutions with 8-bit mantissas (autocast); see `choose_precision`.
    norm_passes : int
        Passes over all blocks in which the statistics of instance and group norms are gathered first, see `frozen_norms`; nothing for
        networks without them, and for a volume that is one block.
    empty : callable, optional
        Given a block with its halo it tells that there is nothing in it; its label is 0.
    out : array-like, optional
        Where labels go; made when not given (uint8, or uint16 from 256 classes on).
    say : callable, optional
        Told in a sentence when the block was halved.

    Returns
    -------
    (x, y, z) array-like, device
    """
    import torch

    if (threshold is None) == (classes == 1):
        raise ValueError("a threshold goes with a network of one class, and only with it")
    if any(n % multiple for n in block):
        raise ValueError(f"blocks of this network are multiples of {multiple} voxels, not {block}")
    result = new_array(array.shape, np.uint8 if classes <= 256 else np.uint16) if out is None else out
    runner = Runner(network, device, block, precision, say)
    padded = _Padded(array, multiple)
    streams = _exact if overlap is None else _weighted
    while True:
        try:
            sink = _Labels(result, threshold)
            with frozen_norms(runner.network, partial(_blocks, padded, runner.block, multiple), runner.device, norm_passes):
                streams(runner, padded, classes, multiple, -(-halo // multiple) * multiple, overlap or 0.0, weights, empty, sink)
            sink.finish()
            return result, runner.device
        except torch.OutOfMemoryError:
            if runner.device == "cpu":
                raise
            runner.shrink()
            if any(n % multiple for n in runner.block):
                runner.block = tuple(-(-n // multiple) * multiple for n in runner.block)  # pyright: ignore[reportAttributeAccessIssue]
            if not isinstance(result, np.ndarray):
                # A scratch array is written once: what was begun is begun again elsewhere.
                result = new_array(array.shape, result.dtype)


class _Padded:
    """An array whose axes are continued to multiples by reflection, lazily."""

    def __init__(self, array: ArrayLike, multiple: int):
        self.array = array
        self.shape = tuple(-(-n // multiple) * multiple for n in array.shape)

    def box(self, box: Box) -> np.ndarray:
        """Return a box of the continued array as float32."""
        return np.ascontiguousarray(read_block(self.array, box, (0, 0, 0), "reflect"), dtype=np.float32)


def _blocks(padded: _Padded, block: Sequence[int], multiple: int) -> Iterator[np.ndarray]:
    """Yield the blocks of a volume without halo; nothing where it is one block."""
    grid = list(product(*(cut(n, min(most, n), multiple) for n, most in zip(padded.shape, block, strict=True))))
    for box in grid if len(grid) > 1 else []:
        yield padded.box(box)


class _Labels:
    """Takes labels slab by slab along x and hands them on in whole chunks."""

    def __init__(self, out: Any, threshold: float | None):
        self.out = out
        self.threshold = threshold
        self.start = 0
        self.align = align_of(out)
        self.slab = np.zeros((0, *out.shape[1:]), out.dtype)

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the labels of logits (classes, x, y, z)."""
        if self.threshold is None:
            return logits.argmax(axis=0).astype(self.out.dtype)
        return (logits[0] > np.log(self.threshold / (1 - self.threshold))).astype(self.out.dtype)

    def add(self, slab: np.ndarray) -> None:
        """Take the labels of the next rows along x."""
        self.slab = np.concatenate([self.slab, slab]) if len(self.slab) else slab
        ready = (len(self.slab) // self.align) * self.align
        if ready:
            self.out[self.start : self.start + ready, :, :] = self.slab[:ready]
            self.start, self.slab = self.start + ready, self.slab[ready:].copy()

    def finish(self) -> None:
        """Hand on what is left."""
        if len(self.slab):
            self.out[self.start : self.start + len(self.slab), :, :] = self.slab


def _exact(
    runner: Runner,
    padded: _Padded,
    classes: int,
    multiple: int,
    halo: int,
    overlap: float,
    weights: Weights,
    empty: Callable[[np.ndarray], bool] | None,
    sink: _Labels,
) -> None:
    """Label blocks one by one; what a block sees beyond itself ends at the faces of the volume."""
    import torch

    shape, wanted = padded.shape, sink.out.shape
    pieces = [cut(n, min(most, n), multiple) for n, most in zip(shape, runner.block, strict=True)]
    for x in pieces[0]:
        slab = np.zeros((min(x[1], wanted[0]) - x[0], *wanted[1:]), sink.out.dtype)
        for y in pieces[1]:
            for z in pieces[2]:
                box = (x, y, z)
                wide = tuple((max(a - halo, 0), min(b + halo, n)) for (a, b), n in zip(box, shape, strict=True))
                values = padded.box(wide)
                if empty is not None and empty(values):
                    continue
                logits = runner(torch.from_numpy(values)[None, None])[0].numpy()
                inner = tuple(slice(a - low, min(b, n) - low) for (a, b), (low, _), n in zip(box, wide, wanted, strict=True))
                there = tuple(slice(a, min(b, n)) for (a, b), n in zip(box[1:], wanted[1:], strict=True))
                slab[(slice(None), *there)] = sink.decide(logits[(slice(None), *inner)])
        sink.add(slab)


def _weighted(
    runner: Runner,
    padded: _Padded,
    classes: int,
    multiple: int,
    halo: int,
    overlap: float,
    weights: Weights,
    empty: Callable[[np.ndarray], bool] | None,
    sink: _Labels,
) -> None:
    """Average windows; rows along x that no later window touches are labelled and forgotten."""
    import torch

    shape, wanted = padded.shape, sink.out.shape
    window = tuple(min(b, n) for b, n in zip(runner.block, shape, strict=True))
    starts = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    weight = window_weights(window, weights)
    total = np.zeros((classes, window[0], *shape[1:]), np.float32)
    front = 0
    for i, x in enumerate(starts[0]):
        for y in starts[1]:
            for z in starts[2]:
                values = padded.box(((x, x + window[0]), (y, y + window[1]), (z, z + window[2])))
                here = (slice(None), slice(0, window[0]), slice(y, y + window[1]), slice(z, z + window[2]))
                if empty is not None and empty(values):
                    # Background wins where only empty windows lie.
                    total[here][0] += weight
                    continue
                total[here] += weight * runner(torch.from_numpy(values)[None, None])[0].numpy()
        until = starts[0][i + 1] if i + 1 < len(starts[0]) else shape[0]
        rows = until - front
        # The weights are the same for every class, so the largest sum is the largest mean; a threshold needs the mean.
        ready = total[:, :rows]
        if sink.threshold is not None:
            ready = ready / _weight_sum(starts, window, weight, front, until, shape)
        keep = min(until, wanted[0]) - front
        if keep > 0:
            sink.add(sink.decide(ready[:, :keep, : wanted[1], : wanted[2]]))
        total[:, : window[0] - rows] = total[:, rows:].copy()
        total[:, window[0] - rows :] = 0
        front = until


def _weight_sum(
    starts: Sequence[Sequence[int]], window: Sequence[int], weight: np.ndarray, front: int, until: int, shape: Sequence[int]
) -> np.ndarray:
    """Return the sum of the weights of all windows over rows front..until - 1."""
    sums = np.zeros((until - front, *shape[1:]), np.float32)
    for x in starts[0]:
        low, high = max(x, front), min(x + window[0], until)
        if low < high:
            for y in starts[1]:
                for z in starts[2]:
                    sums[low - front : high - front, y : y + window[1], z : z + window[2]] += weight[low - x : high - x]
    return sums


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along an axis: evenly spread, with at least the overlap asked for, the last one at the end."""
    if not 0 <= overlap < 1:
        raise ValueError(f"windows overlap by a share from 0 to below 1, not {overlap}")
    if size <= window:
        return [0]
    count = 1 + -(-(size - window) // max(1, int(window * (1 - overlap))))
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def window_weights(window: Sequence[int], weights: Weights) -> np.ndarray:
    """Return the weight of every voxel of a window, above 0 everywhere, largest in the middle; float32."""
    profile = np.ones((), np.float64)
    for n in window:
        at = np.arange(n) + 0.5 - n / 2
        line = np.exp(-0.5 * (at / (n / 8)) ** 2) if weights == "gaussian" else np.cos(np.pi * at / n) ** 2
        profile = np.multiply.outer(profile, line)
    return np.maximum(profile, 1e-3 * profile.max()).astype(np.float32)
