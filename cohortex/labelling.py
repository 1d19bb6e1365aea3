"""Labels, or class probabilities, of a volume larger than memory by a network, whose logits exist for a block or a slab only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from cohortex.blocks import Box, cut, new_array, read_block
from cohortex.inference import Precision, Runner
from cohortex.norms import frozen_norms
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

Weights = Literal["gaussian", "hann"]
Keep = Literal["labels", "probabilities"]


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
    keep: Keep = "labels",
    out: Any = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Return the labels, or the class probabilities, of a volume by a network whose logits never exist for the whole volume.

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
    keep : {"labels", "probabilities"}
        What of the logits is kept.
    out : array-like, optional
        Where that goes; made when not given, a scratch array where it does not fit into memory: labels uint8, or uint16 from 257
        classes on; probabilities float32.
    say : callable, optional
        Told in a sentence when the block was halved.

    Returns
    -------
    array-like, device
        (x, y, z) labels, or (classes, x, y, z) probabilities; and the device that did the work.
    """
    import torch

    if (threshold is None) == (classes == 1):
        raise ValueError("a threshold goes with a network of one class, and only with it")
    if any(n % multiple for n in block):
        raise ValueError(f"blocks of this network are multiples of {multiple} voxels, not {block}")
    soft = keep == "probabilities"
    shape = (classes, *array.shape) if soft else array.shape
    result = new_array(shape, np.float32 if soft else np.uint8 if classes <= 256 else np.uint16) if out is None else out
    runner = Runner(network, device, block, precision, say)
    padded = _Padded(array, multiple)
    rounded = -(-halo // multiple) * multiple
    while True:
        try:
            sink: _Sink = _Probabilities(result) if soft else _Labels(result, threshold)
            with frozen_norms(runner.network, partial(_blocks, padded, runner.block, multiple), runner.device, norm_passes):
                made = (
                    _exact(runner, padded, multiple, rounded, empty)
                    if overlap is None
                    else _weighted(runner, padded, classes, overlap, weights, empty, soft or threshold is not None)
                )
                for box, logits in made:
                    # what was continued by reflection is left out
                    inner = tuple((a, min(b, n)) for (a, b), n in zip(box, array.shape, strict=True))
                    if all(b > a for a, b in inner):
                        sink.put(inner, None if logits is None else logits[(slice(None), *(slice(0, b - a) for a, b in inner))])
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
                result = new_array(shape, result.dtype)


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


class _Sink(Protocol):
    """Takes the logits of boxes, row by row along x, and keeps of them what is wanted."""

    def put(self, box: Box, logits: np.ndarray | None) -> None:
        """Take the logits (classes, x, y, z) of a box, None where there is nothing in it."""
        ...

    def finish(self) -> None:
        """Hand on what is left."""
        ...


class _Probabilities:
    """Keeps the softmax of the logits (of one class the sigmoid) box by box."""

    def __init__(self, out: Any):
        self.out = out

    def put(self, box: Box, logits: np.ndarray | None) -> None:
        import torch

        key = (slice(None), *(slice(a, b) for a, b in box))
        if logits is None:
            nothing = np.zeros((self.out.shape[0], *(b - a for a, b in box)), np.float32)
            nothing[0] = self.out.shape[0] > 1
            self.out[key] = nothing
            return
        tensor = torch.from_numpy(np.ascontiguousarray(logits))
        self.out[key] = (torch.softmax(tensor, dim=0) if len(tensor) > 1 else torch.sigmoid(tensor)).numpy()

    def finish(self) -> None:
        pass


class _Labels:
    """Keeps the label with the largest logit in a slab along x, and hands that on in whole shards where the array wants it so."""

    def __init__(self, out: Any, threshold: float | None):
        self.out = out
        self.threshold = threshold
        self.start = 0
        self.align = int(getattr(out, "align", 1))
        self.slab = np.zeros((0, *out.shape[1:]), out.dtype)

    def put(self, box: Box, logits: np.ndarray | None) -> None:
        (first, last), *rest = box
        if last > self.start + len(self.slab):
            self._hand_on(len(self.slab) // self.align * self.align)
            more = np.zeros((last - self.start - len(self.slab), *self.out.shape[1:]), self.out.dtype)
            self.slab = np.concatenate([self.slab, more]) if len(self.slab) else more
        if logits is not None:
            there = (slice(first - self.start, last - self.start), *(slice(a, b) for a, b in rest))
            self.slab[there] = self._decided(logits)

    def _decided(self, logits: np.ndarray) -> np.ndarray:
        """Return the labels of logits (classes, x, y, z)."""
        if self.threshold is None:
            return logits.argmax(axis=0).astype(self.out.dtype)
        return (logits[0] > np.log(self.threshold / (1 - self.threshold))).astype(self.out.dtype)

    def _hand_on(self, rows: int) -> None:
        if rows:
            self.out[self.start : self.start + rows, :, :] = self.slab[:rows]
            self.start, self.slab = self.start + rows, self.slab[rows:].copy()

    def finish(self) -> None:
        self._hand_on(len(self.slab))


def _seen(runner: Runner, padded: _Padded, box: Box, empty: Callable[[np.ndarray], bool] | None) -> np.ndarray | None:
    """Return the logits (classes, x, y, z) of a box, None where there is nothing in it."""
    import torch

    values = padded.box(box)
    return None if empty is not None and empty(values) else runner(torch.from_numpy(values)[None, None])[0].numpy()


def _exact(
    runner: Runner, padded: _Padded, multiple: int, halo: int, empty: Callable[[np.ndarray], bool] | None
) -> Iterator[tuple[Box, np.ndarray | None]]:
    """Yield blocks and their logits; what a block sees beyond itself ends at the faces of the volume."""
    shape = padded.shape
    for box in product(*(cut(n, min(most, n), multiple) for n, most in zip(shape, runner.block, strict=True))):
        wide = tuple((max(a - halo, 0), min(b + halo, n)) for (a, b), n in zip(box, shape, strict=True))
        logits = _seen(runner, padded, wide, empty)
        inner = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(box, wide, strict=True))
        yield box, None if logits is None else logits[(slice(None), *inner)]


def _weighted(
    runner: Runner,
    padded: _Padded,
    classes: int,
    overlap: float,
    weights: Weights,
    empty: Callable[[np.ndarray], bool] | None,
    means: bool,
) -> Iterator[tuple[Box, np.ndarray]]:
    """Yield the rows along x that no later window touches, and the sums of their windows' weighted logits, or the `means`."""
    shape = padded.shape
    window = tuple(min(b, n) for b, n in zip(runner.block, shape, strict=True))
    starts = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    weight = window_weights(window, weights)
    total = np.zeros((classes, window[0], *shape[1:]), np.float32)
    front = 0
    for i, x in enumerate(starts[0]):
        for y in starts[1]:
            for z in starts[2]:
                logits = _seen(runner, padded, ((x, x + window[0]), (y, y + window[1]), (z, z + window[2])), empty)
                here = (slice(None), slice(0, window[0]), slice(y, y + window[1]), slice(z, z + window[2]))
                if logits is None:
                    # Background wins where only empty windows lie.
                    total[here][0] += weight
                else:
                    total[here] += weight * logits
        until = starts[0][i + 1] if i + 1 < len(starts[0]) else shape[0]
        rows = until - front
        # The weights are the same for every class, so the largest sum is the largest mean; all else needs the mean.
        ready = total[:, :rows] / _weight_sum(starts, window, weight, front, until, shape) if means else total[:, :rows]
        yield ((front, until), (0, shape[1]), (0, shape[2])), ready
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
