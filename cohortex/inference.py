"""Networks over volumes larger than memory: blocks with a halo, or windows that overlap with weights, a slab at a time.

Libraries of networks choose their kernels by the shape of their input, so a voxel's last digits depend on the block that it lies in.
Blocks are therefore cut by the volume alone, never by memory or threads, and a result is the same whether it stays
in memory or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.blocks import COPIES, Box, Edge, align_of, new_array, plan, read_block, run_all, without_halo
from cohortex.device import smaller
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cohortex.models.registry import Expects

Precision = Literal["float32", "bfloat16"]

SAME_LABELS = 0.995
"""Share of equal labels from which bfloat16 is as good as float32."""
SAME_IMAGE = 5e-4
"""Root mean square difference, as a share of the image's range, up to which it is: 1.3 HU of the usual window of 2600 HU."""
SAMPLE = 64
"""Edge in voxels of the part of a volume that is computed both ways."""


SLICE_BLOCK, CUBE_BLOCK, STACK_BLOCK = (256, 256, 1), (64, 64, 64), 8
"""Voxels that go at once through a network of slices and through one of volumes, and slices of one that takes them whole: with 96 and
with 32 channels some 150 MB."""


@dataclass(frozen=True)
class Way:
    """How a network that keeps the grid goes over a volume.

    Attributes
    ----------
    halo, block : three ints
        As in `run_network`.
    slicewise : bool
        A 2-D network, slices along z.
    channels : int
        Of its input: an odd number of adjacent slices, the slice itself in the middle.
    multiple : int
        What the edges of its input must be multiples of.
    whole : bool
        Slices are not cut.
    own : bool
        A slice ends where it ends: the network pads by itself, and blocks have a halo of true pixels only.
    """

    halo: tuple[int, int, int] = (0, 0, 0)
    block: tuple[int, int, int] = SLICE_BLOCK
    slicewise: bool = False
    channels: int = 1
    multiple: int = 1
    whole: bool = False
    own: bool = False

    def smallest(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the edges at which it is not cut any more."""
        return (shape[0], shape[1], 1) if self.whole else (1, 1, 1)


def way_of(network: nn.Module, expects: Expects, shape: Sequence[int]) -> Way:
    """Return how a network goes over a volume of a shape.

    Parameters
    ----------
    network : nn.Module
        Its ``halo`` (an int, or one for each of its axes; 0 where it has none) is what an output voxel depends on beyond itself, its
        ``multiple`` (1 where it has none) what the edges of its input must be multiples of, ``pads`` whether it is made for slices that
        end where they end.
    expects : Expects
    shape : (x, y, z)
    """
    given: object = getattr(network, "halo", 0)
    multiple = int(getattr(network, "multiple", 1))  # pyright: ignore[reportArgumentType]
    flat = expects.dimensions == 2
    axes = 2 if flat else 3
    halo = [int(n) for n in given] if isinstance(given, tuple | list) else [int(given)] * axes  # pyright: ignore[reportArgumentType]
    # Pooling falls as in the whole volume where blocks, with what they see beyond them, begin at multiples.
    halo = [-(-n // multiple) * multiple for n in halo[:axes]] + [0] * (3 - axes)
    if flat:
        halo[2] = expects.channels // 2
    if expects.whole_slices:
        halo[:2] = 0, 0
    block = list(SLICE_BLOCK if flat else CUBE_BLOCK)
    if expects.whole_slices:
        block = [shape[0], shape[1], 1 if flat else STACK_BLOCK]
    edges = [n if a == 2 and flat else -(-n // multiple) * multiple for a, n in enumerate(block)]
    own = flat and bool(getattr(network, "pads", False))
    return Way((halo[0], halo[1], halo[2]), (edges[0], edges[1], edges[2]), flat, expects.channels, multiple, expects.whole_slices, own)


def through(runner: Callable[[torch.Tensor], torch.Tensor], values: np.ndarray, way: Way) -> np.ndarray:
    """Return what a network makes of a block with its halo.

    Parameters
    ----------
    runner : callable
        (n, c, x, y) or (n, c, x, y, z) tensor to (n, 1, ...) of the same size, or without the halo.
    values : (x, y, z) array
    way : Way

    Returns
    -------
    (x, y, z) array
        Of the block with its halo or without it; adjacent slices are gone in any case.
    """
    axes = 2 if way.slicewise else 3
    spare = [(0, -n % way.multiple if a < axes else 0) for a, n in enumerate(values.shape)]
    made = runner(as_input(np.pad(values, spare, mode="edge") if any(n for _, n in spare) else values, way))
    made = made[:, 0].permute(1, 2, 0) if way.slicewise else made[0, 0]
    return made.numpy()[tuple(slice(0, length - extra) for length, (_, extra) in zip(made.shape, spare, strict=True))]


def as_input(values: np.ndarray, way: Way) -> torch.Tensor:
    """Return a block as a network takes it: (1, 1, x, y, z), or a batch of slices (z, 1, x, y), each with those beside it as channels."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if not way.slicewise:
        return tensor[None, None]
    if way.channels == 1:
        return tensor.permute(2, 0, 1)[:, None]
    return tensor.unfold(2, way.channels, 1).permute(2, 3, 0, 1)


@dataclass
class Runner:
    """A network, where it runs, in which precision, and the block that its memory allows.

    Attributes
    ----------
    network : nn.Module
        In evaluation mode, on `device`.
    device : str
    block : three ints
        Halved where a GPU's memory does not suffice; in the end the CPU does the work.
    precision : {"float32", "bfloat16"}
        See `choose_precision`.
    say : callable, optional
        Told in a sentence when the block was halved.
    """

    network: nn.Module
    device: str
    block: tuple[int, int, int]
    precision: Precision = "float32"
    say: Callable[[str], None] | None = None
    least: tuple[int, int, int] = (1, 1, 1)
    """Edges that are not halved."""

    def __post_init__(self) -> None:
        # A volume before this one may have ended on the CPU.
        self.network.to(self.device)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the network's output for (n, c, x, y[, z]) as float32 on the CPU."""
        import torch

        lay = torch.channels_last_3d if tensor.ndim == 5 else torch.channels_last
        with torch.no_grad(), torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16"):
            made = self.network(tensor.to(self.device).contiguous(memory_format=lay))
        return made.float().cpu()

    def shrink(self) -> None:
        """Take the next smaller block, or the CPU, after the GPU's memory was exhausted.

        Raises
        ------
        torch.OutOfMemoryError
            Where there is nothing smaller.
        """
        before, where = self.block, self.device
        self.block, self.device = smaller(self.block, self.device)
        if any(n < least for n, least in zip(self.block, self.least, strict=True)):
            self.block, self.device = before, "cpu"
        self.network = self.network.to(self.device)
        if self.say is not None:
            size = " x ".join(map(str, self.block))
            told = f"goes on with blocks of {size} voxels" if self.device == where else "goes on on the CPU"
            self.say(f"the memory of {where} does not hold blocks of {' x '.join(map(str, before))} voxels: the network {told}")


def run_network(
    network: nn.Module,
    array: ArrayLike,
    halo: tuple[int, int, int],
    block: tuple[int, int, int],
    device: str = "cpu",
    slicewise: bool = False,
    edge: Edge = "reflect",
    out: Any = None,
    empty: Callable[[np.ndarray], float | None] | None = None,
    finish: Callable[[np.ndarray, Box], np.ndarray] | None = None,
    precision: Precision = "float32",
    say: Callable[[str], None] | None = None,
    way: Way | None = None,
) -> tuple[Any, str]:
    """Run a network with one output channel over a volume, block by block, exactly.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`. Takes (1, 1, x, y, z), or (z, 1, x, y) when `slicewise`; gives the same shape or
        one shorter by the halo on each side.
    array : (x, y, z) array-like
        In the network's range of values; may be lazy.
    halo, block : three ints
        What the network looks at beyond a block, and voxels of a block. Where a GPU's memory does not suffice the block is halved, and
        in the end the CPU does the work.
    device : str
    slicewise : bool
        A 2-D network, slices along z.
    edge : {"reflect", "edge"}
        What lies beyond the volume.
    out : array-like, optional
        Where the result goes; made when not given, a scratch array where it does not fit into memory.
    empty : callable, optional
        Given a block with its halo it returns the value of the whole result there when the network need not look at it, else None.
    finish : callable, optional
        Given a block of the result and its box it returns what is kept of it.
    precision : {"float32", "bfloat16"}
        See `choose_precision`.
    say : callable, optional
        Told in a sentence when the block was halved.
    way : Way, optional
        Of a network that takes adjacent slices, whole slices or multiples (`way_of`), instead of `halo`, `block` and `slicewise`.

    Returns
    -------
    (x, y, z) float32 array-like, device
        The device is the one that did the work.
    """
    import torch

    result = new_array(array.shape) if out is None else out
    how = way or Way(halo, block, slicewise)
    halo, block = how.halo, how.block
    runner = Runner(network, device, block, precision, say, how.smallest(array.shape))
    # What a network of adjacent slices makes of a block has none of them left.
    kept = (halo[0], halo[1], 0) if how.channels > 1 else halo

    def pieces(with_halo: np.ndarray, made: np.ndarray, box: Box) -> None:
        for piece in product(*(grid_of(n, most) for n, most in zip(made.shape, runner.block, strict=True))):
            there = tuple(slice(a, b) for a, b in piece)
            cut = tuple(slice(a, b + 2 * h) for (a, b), h in zip(piece, halo, strict=True))
            inner = None
            if how.own:
                place = tuple((low + a, low + b) for (low, _), (a, b) in zip(box, piece, strict=True))
                seen, whole = (_ending(each, halo, array.shape) for each in (place, box))
                cut = (*(slice(a - low, b - low) for (a, b), (low, _) in zip(seen, whole, strict=True)), cut[2])
                inner = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(place, seen, strict=False))
            values = with_halo[cut]
            value = None if empty is None else empty(values)
            if value is not None:
                made[there] = value
            elif inner is not None:
                made[there] = through(runner, values, how)[inner]
            else:
                lengths = [n - 2 * (h - k) for n, h, k in zip(values.shape, halo, kept, strict=True)]
                made[there] = without_halo(through(runner, values, how), lengths, piece, kept, edge)

    def one(box: Box) -> str:
        if how.own:
            with_halo = read_block(array, (*_ending(box, halo, array.shape), box[2]), (0, 0, halo[2]), edge)
        else:
            with_halo = read_block(array, box, halo, edge)
        made = np.empty(tuple(b - a for a, b in box), np.float32)
        while True:
            try:
                pieces(with_halo, made, box)
                break
            except torch.OutOfMemoryError:
                if runner.device == "cpu":
                    raise
                runner.shrink()
        result[tuple(slice(a, b) for a, b in box)] = made if finish is None else finish(made, box)
        return runner.device

    # Much is read and written at once; the network sees it in pieces of its own size, on one grid whatever is read at once.
    edges = _outer(array.shape, block, halo, align_of(result))
    grid = list(product(*(grid_of(n, edge) for n, edge in zip(array.shape, edges, strict=True))))
    if plan().scheduler == "slurm" and not isinstance(result, np.ndarray):
        return result, run_all(one, grid, shared=True)[-1]
    return result, [one(box) for box in grid][-1]


def _ending(box: Box, halo: Sequence[int], shape: Sequence[int]) -> Box:
    """Return where a box of slices with its halo begins and ends along their two axes, inside the slices."""
    return tuple((max(0, a - h), min(n, b + h)) for (a, b), h, n in list(zip(box, halo, shape, strict=True))[:2])


def grid_of(size: int, most: int) -> list[tuple[int, int]]:
    """Return the pieces (start, stop) of an axis that begin at the multiples of `most`."""
    return [(start, min(start + most, size)) for start in range(0, size, most)]


def _outer(shape: Sequence[int], block: Sequence[int], halo: Sequence[int], align: int) -> list[int]:
    """Return multiples of the block's edges that are read at once: as much as the plan's memory allows."""
    unit = [n * align // gcd(n, align) for n in block]
    outer = list(unit)
    budget = plan().memory_mb * 2**20 // (4 * COPIES)
    while True:
        axis = min((a for a in range(3) if outer[a] < shape[a]), key=lambda a: outer[a], default=None)
        if axis is None:
            return outer
        larger = [n + unit[a] * (a == axis) for a, n in enumerate(outer)]
        if prod(min(n + 2 * h, size) for n, h, size in zip(larger, halo, shape, strict=True)) > budget:
            return outer
        outer = larger


def channels_last(network: nn.Module) -> nn.Module:
    """Return a network whose kernels lie channels last, which is a quarter faster on a CPU; the weights are the same."""
    import torch

    lay = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in lay:
            parameter.data = parameter.data.contiguous(memory_format=lay[parameter.ndim])
    return network


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device multiplies bfloat16 faster than float32, by what it says of itself (no timing: the choice is repeatable)."""
    import torch

    if device != "cpu":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def label_agreement(full: torch.Tensor, half: torch.Tensor) -> float:
    """Return the share of equal labels of two outputs (1, classes, x, y, z)."""
    same = (full > 0) == (half > 0) if full.shape[1] == 1 else full.argmax(1) == half.argmax(1)
    return float(same.float().mean())


def same_labels(full: torch.Tensor, half: torch.Tensor) -> bool:
    """Tell whether at least `SAME_LABELS` of the labels of two outputs agree."""
    return label_agreement(full, half) >= SAME_LABELS


def same_image(full: torch.Tensor, half: torch.Tensor) -> bool:
    """Tell whether two outputs, in units of the image's range, differ by at most `SAME_IMAGE` (root mean square)."""
    return float((full - half).square().mean().sqrt()) <= SAME_IMAGE


def choose_precision(
    wanted: str,
    network: nn.Module,
    array: ArrayLike,
    device: str = "cpu",
    alike: Callable[[torch.Tensor, torch.Tensor], bool] = same_labels,
    halo: Sequence[int] = (0, 0, 0),
    multiple: int = 1,
    slicewise: bool = False,
    way: Way | None = None,
) -> Precision:
    """Return the precision that a network computes in over a volume.

    Parameters
    ----------
    wanted : {"float32", "auto"}
        The setting ``precision``. auto takes bfloat16 where the device gains by it and what comes out for the middle of the
        volume is alike, so its results depend on the processor.
    network : nn.Module
        In evaluation mode, on `device`.
    array : (x, y, z) array-like
        In the network's range; may be lazy, only a box of at most `SAMPLE` voxels along each axis in its middle is read.
    alike : callable
        Of the outputs in float32 and in bfloat16: `same_labels` or `same_image`.
    halo, multiple, slicewise, way
        As in `run_network` and `cohortex.labelling.segment`.
    """
    import torch

    if wanted != "auto" or not computes_bfloat16(device):
        return "float32"
    how = way or Way(tuple(halo), slicewise=slicewise, multiple=multiple)  # pyright: ignore[reportArgumentType]
    most = (array.shape[0], array.shape[1], 2) if how.whole else (SAMPLE, SAMPLE, SAMPLE)
    edges = [-(-min(m, n) // how.multiple) * how.multiple for m, n in zip(most, array.shape, strict=True)]
    starts = [max(0, (n - edge) // 2) for n, edge in zip(array.shape, edges, strict=True)]
    values = read_block(array, [(a, a + edge) for a, edge in zip(starts, edges, strict=True)], how.halo)
    try:
        tensor = as_input(values, how)
        full, half = (Runner(network, device, (SAMPLE, SAMPLE, SAMPLE), p)(tensor) for p in ("float32", "bfloat16"))
    except torch.OutOfMemoryError:
        # the volume itself will tell how it goes on
        return "float32"
    return "bfloat16" if alike(full, half) else "float32"
