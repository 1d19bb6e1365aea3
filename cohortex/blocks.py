"""Functions of overlapping blocks: what a step does to a volume, a block with its halo at a time, in bounded memory.

A volume that fits into the plan's memory is one block and stays in memory; a larger one is decoded once into a scratch file, goes
through in blocks on dask's threads, and what comes of it is another scratch file (`cohortex.io.scratch`) that is encoded once,
when the volume is written.

The result does not depend on the blocks when the function looks no further than its halo: at the faces of the volume a block ends
where the volume ends, so that a function applies its own edge rule there, and nowhere else. Where the function itself rounds alike
for blocks of every shape, results are equal byte for byte. Functions that do not (matrix products, networks) are given blocks that
depend on the volume alone, never on memory or threads.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from cohortex.errors import BadInput
from cohortex.lazy import ALIGN, Box, Elementwise, align_of
from cohortex.volume import ArrayLike

Edge = Literal["own", "reflect", "edge"]

COPIES = 8
"""Arrays of a block's size that a function may need at once (halo, temporaries, result)."""
THIN = 2**23
"""Voxels of a slab of an array that is being put together in memory."""
FEWEST = 2**21
"""Voxels of a block below which another thread does not pay."""


@dataclass(frozen=True)
class Plan:
    """How much memory and how many threads a process may spend on blocks; never part of a key, since results do not depend on it.

    Attributes
    ----------
    threads : int
        Blocks at once.
    memory_mb : int
        For all blocks in flight; of one array that stays in memory at most an eighth of it.
    scratch : Path, optional
        Folder of scratch arrays; the system's folder for temporary files where it is not given.
    scheduler : {"threads", "slurm"}
        slurm: volumes that do not stay in memory are worked on by workers on other nodes, see `cohortex.cluster`.
    workers : int
        So many of them, each with the threads and the memory of this plan.
    minutes : int
        How long a worker may live.
    """

    threads: int = 1
    memory_mb: int = 1024
    scratch: Path | None = None
    scheduler: Literal["threads", "slurm"] = "threads"
    workers: int = 2
    minutes: int = 240

    @property
    def folder(self) -> Path:
        """Where scratch arrays lie."""
        return self.scratch or Path(tempfile.gettempdir())


_current = Plan()


def plan() -> Plan:
    """Return the plan of this process."""
    return _current


def set_plan(wanted: Plan) -> None:
    """Set the plan of this process (the worker does, once)."""
    global _current
    _current = wanted


@contextmanager
def planned(wanted: Plan) -> Iterator[Plan]:
    """Set a plan for a while."""
    before = plan()
    set_plan(wanted)
    try:
        yield wanted
    finally:
        set_plan(before)


@contextmanager
def divided(by: int) -> Iterator[Plan]:
    """Give each of several volumes that are held at once its part of this process' memory, for a while."""
    with planned(replace(plan(), memory_mb=plan().memory_mb // max(1, by))) as part:
        yield part


def fits_memory(shape: Sequence[int], itemsize: int = 4) -> bool:
    """Tell whether an array may stay in memory under the current plan."""
    return prod(shape) * itemsize <= plan().memory_mb * 2**20 // COPIES


def room(itemsize: int = 4) -> int:
    """Return how many voxels a block may have under the current plan, so that what a function needs beside it fits on every thread."""
    return max(plan().memory_mb * 2**20 // (itemsize * COPIES * plan().threads), ALIGN**3)


def at_hand(
    array: ArrayLike, dtype: Any = np.float32, look: Callable[[Box, np.ndarray], Any] | None = None, beside: int = 1
) -> tuple[ArrayLike, list[Any]]:
    """Return an array where blocks of it are cheap to read: in memory if it may stay there, else in a scratch file, decoded once.

    Parameters
    ----------
    array : (x, y, z) array-like
        One that is decoded in slices along an axis (its attribute `slow`) is taken in whole slices.
    dtype
        That blocks will have.
    look : callable, optional
        ``look(box, block)`` is called for every block on the way.
    beside : int
        So many arrays of this size are held together.

    Returns
    -------
    array-like, list
        And what `look` gave, in the order of the blocks.
    """
    slow: int | None = getattr(array, "slow", None)
    fits = fits_memory((beside, *array.shape), np.dtype(dtype).itemsize)
    if isinstance(array, np.ndarray) or (fits and slow is None):
        whole = np.ascontiguousarray(np.asarray(array[...]), dtype=dtype)
        return whole, [] if look is None else over_blocks(look, whole)
    from cohortex.io.scratch import Scratch

    there = array if isinstance(array, Scratch) and array.dtype == dtype else None
    if there is None and slow is None and plan().scheduler == "slurm":
        # workers on other nodes read the volume's own file
        there = array if np.dtype(array.dtype) == dtype else Elementwise(partial(np.asarray, dtype=dtype), array, dtype)
    if there is not None:
        return there, [] if look is None else over_blocks(look, there)
    kept: Any = np.empty(array.shape, dtype) if fits else Scratch(plan().folder, array.shape, dtype, slow or 0)

    def one(box: Box) -> Any:
        try:
            block = read_block(array, box, (0, 0, 0))
            kept[tuple(slice(a, b) for a, b in box)] = block
            return None if look is None else look(box, block)
        except BadInput as bad:
            # not itself: it holds the frames that it came through, and these the scratch file
            return BadInput(bad.code, bad.sentence)

    if slow is None:
        grid = list(boxes(array.shape, block_for(array.shape), ALIGN))
    else:
        # beside an array in memory a slab is thin, so that there is little more than the array
        grid = slabs(array.shape, slow, THIN if fits else prod(array.shape))
    found = run_all(one, grid)
    # whichever thread met it first: the same file is refused with the same words
    for each in found:
        if isinstance(each, BadInput):
            raise BadInput(each.code, each.sentence)
    return kept, found


def new_array(shape: Sequence[int], dtype: Any = np.float32, shared: bool = True) -> Any:
    """Return an empty array for a result: in memory where it may stay there, else in a scratch file, or a folder that workers share.

    Arrays with channels (fields, scores of classes) are made by one machine, so they are never such a folder.
    """
    if fits_memory(shape, np.dtype(dtype).itemsize):
        return np.empty(tuple(shape), dtype)
    if shared and plan().scheduler == "slurm" and len(shape) == 3:
        from cohortex.io.sharded import Sharded

        return Sharded.create(plan().folder, shape, dtype)
    from cohortex.io.scratch import Scratch

    return Scratch(plan().folder, shape, dtype)


# --- how a grid is cut -----------------------------------------------------------------------------------------


def cut(size: int, most: int, align: int = 1) -> list[tuple[int, int]]:
    """Cut an axis into the fewest pieces of at most `most` voxels, as equal as they can be; return (start, stop).

    With `align` pieces begin at its multiples, and may be longer than `most` up to the next multiple.
    """
    if most < 1:
        raise ValueError(f"a block has at least one voxel along each axis, not {most}")
    pieces = -(-size // most)
    if align > 1:
        length = -(-size // (pieces * align)) * align
        return [(start, min(start + length, size)) for start in range(0, size, length)]
    stops = [size * (i + 1) // pieces for i in range(pieces)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def boxes(shape: Sequence[int], block: Sequence[int], align: int = 1) -> Iterator[Box]:
    """Yield the blocks of a grid, the last axis fastest."""
    return itertools.product(*(cut(size, most, align) for size, most in zip(shape, block, strict=True)))


def block_for(shape: Sequence[int], halo: Sequence[int] = (0, 0, 0)) -> tuple[int, ...]:
    """Return the block that suits the current plan: the whole grid where it fits, else multiples of 64 voxels.

    The longest edge is halved until a block with its halo and what a function needs beside it fits as often as there are threads.
    """
    now, budget = plan(), room()
    if now.threads > 1:
        budget = min(budget, max(FEWEST, -(-prod(shape) // now.threads)))
    block = list(shape)

    def size() -> int:
        return prod(min(b + 2 * h, n) for b, h, n in zip(block, halo, shape, strict=True))

    while size() > budget and max(block) > ALIGN:
        axis = int(np.argmax(block))
        block[axis] = max(ALIGN, -(-block[axis] // (2 * ALIGN)) * ALIGN)
    return tuple(block)


def slabs(shape: Sequence[int], axis: int, voxels: int) -> list[Box]:
    """Return blocks of whole slices along an axis, as many in each as suits the current plan, and at most so many voxels."""
    now = plan()
    budget = min(voxels, now.memory_mb * 2**20 // (4 * COPIES * now.threads))
    most = max(1, budget // max(1, prod(shape) // shape[axis]))
    return [tuple(piece if a == axis else (0, n) for a, n in enumerate(shape)) for piece in cut(shape[axis], most)]


# --- what is read ----------------------------------------------------------------------------------------------


def source(start: int, stop: int, size: int, edge: Edge = "reflect") -> np.ndarray:
    """Return the index inside an axis that stands for each of start..stop - 1, which may lie outside.

    ``reflect`` mirrors at the centres of the outer voxels (2 1 | 0 1 2), ``edge`` repeats the outer voxel, ``own`` ends there.
    """
    if edge == "own":
        return np.arange(max(start, 0), min(stop, size))
    index = np.arange(start, stop)
    if edge == "edge" or size == 1:
        return np.clip(index, 0, size - 1)
    period = 2 * (size - 1)
    index = np.abs(index) % period
    return np.where(index >= size, period - index, index)


def read_block(array: ArrayLike, box: Sequence[tuple[int, int]], halo: Sequence[int], edge: Edge = "reflect") -> np.ndarray:
    """Return a block with its halo from an array that may be lazy; only the voxels that it needs are read."""
    indices = [source(a - h, b + h, n, edge) for (a, b), h, n in zip(box, halo, array.shape, strict=False)]
    lows = [int(i.min()) for i in indices]
    block = np.asarray(array[tuple(slice(low, int(i.max()) + 1) for low, i in zip(lows, indices, strict=True))])
    for axis, (index, low) in enumerate(zip(indices, lows, strict=True)):
        if len(index) != block.shape[axis] or index[0] != low or index[-1] != low + len(index) - 1:
            block = np.take(block, index - low, axis=axis)
    return block


# --- what is done ----------------------------------------------------------------------------------------------


def over_blocks(
    function: Callable[..., Any],
    *arrays: ArrayLike,
    halo: Sequence[int] = (0, 0, 0),
    block: Sequence[int] | None = None,
    edge: Edge = "own",
) -> list[Any]:
    """Call ``function(box, block of every array)`` for all blocks of a grid, on the plan's threads.

    Parameters
    ----------
    function : callable
        Its results are kept: it returns something small.
    arrays : array-likes
        Of one shape along x, y and z; may be lazy.
    halo, block, edge
        As in `map_blocks`.

    Returns
    -------
    list
        In the order of `boxes`, whatever the threads did first.
    """
    shape = arrays[0].shape[:3]
    if any(array.shape[:3] != shape for array in arrays):
        raise ValueError(f"arrays of different grids cannot be cut alike: {[array.shape for array in arrays]}")
    grid = list(boxes(shape, block or block_for(shape, halo), ALIGN))

    def one(box: Box) -> Any:
        return function(box, *(read_block(array, box, halo, edge) for array in arrays))

    return run_all(one, grid)


def run_all(one: Callable[[Box], Any], grid: Sequence[Box], shared: bool = False) -> list[Any]:
    """Call a function of a box for all boxes: here, on dask's threads, or (`shared`) on the workers of `cohortex.cluster`."""
    if shared and plan().scheduler == "slurm":
        from cohortex.cluster import run_on_cluster

        return run_on_cluster(one, grid)
    if plan().threads == 1 or len(grid) == 1:
        return [one(box) for box in grid]
    import dask
    from dask.delayed import delayed

    tasks = [delayed(one, pure=False)(box) for box in grid]
    return list(cast(Any, dask).compute(*tasks, scheduler="threads", num_workers=plan().threads))


def map_blocks(
    function: Callable[..., np.ndarray],
    *arrays: ArrayLike,
    halo: Sequence[int] = (0, 0, 0),
    block: Sequence[int] | None = None,
    edge: Edge = "own",
    out: Any = None,
    dtype: Any = np.float32,
    placed: bool = False,
) -> Any:
    """Apply a function to overlapping blocks and put the results together.

    Parameters
    ----------
    function : callable
        Given a block of each array, with halo, it returns one of the same shape, whose halo is cut off here, or one without halo.
    arrays : array-likes
        Of one shape along x, y and z; may be lazy.
    halo : three ints
        How far the function looks along each axis.
    block : three ints, optional
        Voxels of a block without halo; what suits the plan where it is not given.
    edge : {"own", "reflect", "edge"}
        own: at a face of the volume the halo ends with it, and the function applies its own edge rule; the others see `source`.
    out : array-like, optional
        Where the result goes; made when not given (`new_array`).
    dtype
        Of the result when `out` is not given.
    placed : bool
        Whether the function is given, before the blocks, where in the volume their first voxel lies.

    Returns
    -------
    array-like of the shape of the first array along x, y and z
        `out`.

    Raises
    ------
    ValueError
        When the function returns a block of another shape.
    """
    shape = arrays[0].shape[:3]
    if any(array.shape[:3] != shape for array in arrays):
        raise ValueError(f"arrays of different grids cannot be cut alike: {[array.shape for array in arrays]}")
    result = new_array(shape, dtype) if out is None else out
    shared = not isinstance(result, np.ndarray)
    align = align_of(result) if shared or block is None else 1
    grid = list(boxes(shape, [max(n, align) for n in block or block_for(shape, halo)], align))

    def one(box: Box) -> None:
        blocks = [read_block(array, box, halo, edge) for array in arrays]
        origin = tuple(max(a - h, 0) if edge == "own" else a - h for (a, _), h in zip(box, halo, strict=True))
        made = function(origin, *blocks) if placed else function(*blocks)
        result[tuple(slice(a, b) for a, b in box)] = without_halo(made, blocks[0].shape, box, halo, edge)

    run_all(one, grid, shared)
    return result


def without_halo(made: np.ndarray, whole: Sequence[int], box: Box, halo: Sequence[int], edge: Edge) -> np.ndarray:
    """Return the inner part of what a function made of a block of `whole` voxels.

    Raises
    ------
    ValueError
        When it has neither the shape of the block with its halo nor that without it.
    """
    inner = tuple(b - a for a, b in box)
    if made.shape[:3] == tuple(whole[:3]):
        lows = [min(h, a) if edge == "own" else h for (a, _), h in zip(box, halo, strict=True)]
        return made[tuple(slice(low, low + n) for low, n in zip(lows, inner, strict=True))]
    if made.shape[:3] != inner:
        raise ValueError(f"a block of {tuple(whole)} voxels came back as {made.shape}, neither whole nor without its halo of {tuple(halo)}")
    return made


def map_columns(function: Callable[..., tuple[np.ndarray, Any]], *arrays: ArrayLike, axis: int, count: int) -> tuple[Any, list[Any]]:
    """Apply a function to whole lines along an axis, in columns of 64 x 64 lines whatever the memory.

    Parameters
    ----------
    function : callable
        Given the same column of every array it returns `count` voxels along `axis`, and something small that is kept.
    arrays : (x, y, z) array-likes
        Of one shape but along `axis`; may be lazy.

    Returns
    -------
    (x, y, z) float32 array-like, list
        And what was kept, in the order of the columns.
    """
    shape = list(arrays[0].shape)
    shape[axis] = count
    result = new_array(shape)
    lines = [1 if a == axis else n for a, n in enumerate(shape)]

    def wide(box: Box) -> list[tuple[Box, Any]]:
        # Functions are given columns of one size; a store that takes larger boxes is given several at once.
        starts = [[0] if a == axis else range(begin, end, ALIGN) for a, (begin, end) in enumerate(box)]
        kept = []
        whole = np.empty([count if a == axis else end - begin for a, (begin, end) in enumerate(box)], np.float32)
        for corner in itertools.product(*starts):
            part = tuple((0, 1) if a == axis else (b, min(b + ALIGN, box[a][1])) for a, b in enumerate(corner))
            key = tuple(slice(None) if a == axis else slice(*piece) for a, piece in enumerate(part))
            there = tuple(slice(None) if a == axis else slice(b - box[a][0], e - box[a][0]) for a, (b, e) in enumerate(part))
            # one memory layout, too: it decides which kernel a matrix product takes
            whole[there], told = function(*(np.ascontiguousarray(array[key]) for array in arrays))
            kept.append((part, told))
        result[tuple(slice(0, count) if a == axis else slice(*part) for a, part in enumerate(box))] = whole
        return kept

    align = align_of(result)
    found = run_all(wide, list(boxes(lines, (align,) * 3, align)), not isinstance(result, np.ndarray))
    return result, [told for _, told in sorted(itertools.chain(*found), key=lambda each: each[0])]
