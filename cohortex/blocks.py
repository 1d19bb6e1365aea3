"""Functions of overlapping blocks: what a step does to a volume, a block with its halo at a time.

The result does not depend on the blocks when the function looks no further than its halo: voxels beyond the
volume are made by the edge rule from the whole volume, not from the block. Where the function itself rounds alike for
blocks of every shape, results are equal byte for byte; libraries of networks choose their kernels by shape, so
`run_network` keeps that promise to a few units in the last place of float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.device import smaller
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

Edge = Literal["reflect", "edge"]


def cut(size: int, most: int) -> list[tuple[int, int]]:
    """Cut an axis into the fewest pieces of at most `most` voxels, as equal as they can be; return (start, stop)."""
    if most < 1:
        raise ValueError(f"a block has at least one voxel along each axis, not {most}")
    pieces = -(-size // most)
    stops = [size * (i + 1) // pieces for i in range(pieces)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def source(start: int, stop: int, size: int, edge: Edge = "reflect") -> np.ndarray:
    """Return the index inside an axis that stands for each of start..stop - 1, which may lie outside.

    ``reflect`` mirrors at the centres of the outer voxels (2 1 | 0 1 2), ``edge`` repeats the outer voxel.
    """
    index = np.arange(start, stop)
    if edge == "edge" or size == 1:
        return np.clip(index, 0, size - 1)
    period = 2 * (size - 1)
    index = np.abs(index) % period
    return np.where(index >= size, period - index, index)


def read_block(array: ArrayLike, box: Sequence[tuple[int, int]], halo: Sequence[int], edge: Edge = "reflect") -> np.ndarray:
    """Return a block with its halo from an array that may be lazy; only the voxels that it needs are read."""
    indices = [source(a - h, b + h, n, edge) for (a, b), h, n in zip(box, halo, array.shape, strict=True)]
    lows = [int(i.min()) for i in indices]
    block = np.asarray(array[tuple(slice(low, int(i.max()) + 1) for low, i in zip(lows, indices, strict=True))])
    for axis, (index, low) in enumerate(zip(indices, lows, strict=True)):
        if len(index) != block.shape[axis] or index[0] != low or index[-1] != low + len(index) - 1:
            block = np.take(block, index - low, axis=axis)
    return block


def boxes(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the blocks of a grid, the last axis fastest."""
    return itertools.product(*(cut(size, most) for size, most in zip(shape, block, strict=True)))


def map_blocks(
    function: Callable[[np.ndarray], np.ndarray],
    array: ArrayLike,
    block: Sequence[int],
    halo: Sequence[int],
    out: Any = None,
    edge: Edge = "reflect",
    dtype: Any = np.float32,
) -> Any:
    """Apply a function to overlapping blocks and put the results together.

    Parameters
    ----------
    function : callable
        Given a block of (x + 2 halo, ...) voxels it returns one of the same shape, whose halo is cut off, or one that
        is shorter by the halo on each side already.
    array : array-like
        May be lazy; any number of axes.
    block : ints
        Most voxels of a block along each axis, without halo.
    halo : ints
        How far the function looks along each axis.
    out : array-like, optional
        Where the result goes (may be a zarr array); made when not given.
    edge : {"reflect", "edge"}
        See `source`.
    dtype
        Of the result when `out` is not given.

    Returns
    -------
    array-like of the shape of `array`
        `out`.

    Raises
    ------
    ValueError
        When the function returns a block of another shape.
    """
    result = np.empty(array.shape, dtype) if out is None else out
    for box in boxes(array.shape, block):
        made = function(read_block(array, box, halo, edge))
        inner = tuple(b - a for a, b in box)
        whole = tuple(n + 2 * h for n, h in zip(inner, halo, strict=True))
        if made.shape == whole:
            made = made[tuple(slice(h, h + n) for h, n in zip(halo, inner, strict=True))]
        elif made.shape != inner:
            raise ValueError(f"a block of {whole} voxels came back as {made.shape}, neither whole nor without its halo of {tuple(halo)}")
        result[tuple(slice(a, b) for a, b in box)] = made
    return result


def run_network(
    network: nn.Module,
    array: ArrayLike,
    halo: tuple[int, int, int],
    block: tuple[int, int, int],
    device: str = "cpu",
    slicewise: bool = False,
    edge: Edge = "reflect",
) -> tuple[np.ndarray, str]:
    """Run a network with one input and one output channel over a volume, block by block.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`. Takes (1, 1, x, y, z), or (z, 1, x, y) when `slicewise`; gives the same shape or
        one shorter by the halo on each side.
    array : (x, y, z) array-like
        In the network's range of values.
    halo, block : three ints
        As in `map_blocks`. Where a GPU's memory does not suffice the block is halved, and in the end the CPU does the work.
    device : str
    slicewise : bool
        A 2-D network, slices along z.
    edge : {"reflect", "edge"}

    Returns
    -------
    (x, y, z) float32 array, device
        The device is the one that did the work.
    """
    import torch

    x, y, z = (min(most, size) for most, size in zip(block, array.shape, strict=True))
    block = (x, y, z)

    def step(values: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device)
        tensor = tensor.permute(2, 0, 1)[:, None].contiguous() if slicewise else tensor[None, None]
        made = network(tensor)[:, 0] if slicewise else network(tensor)[0, 0]
        return (made.permute(1, 2, 0) if slicewise else made).float().cpu().numpy()

    with torch.inference_mode():
        while True:
            try:
                return map_blocks(step, array, block, halo, edge=edge), device
            except torch.OutOfMemoryError:
                if device == "cpu":
                    raise
                block, device = smaller(block, device)
                network = network.to(device)
