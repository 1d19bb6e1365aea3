"""Networks over volumes larger than memory: blocks with a halo, or windows that overlap with weights, a slab at a time.

Libraries of networks choose their kernels by the shape of their input, so a voxel's last digits depend on the block that it lies in.
Blocks are therefore cut by the volume alone, never by memory or threads, and a result is the same whether it stays
in memory or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import gcd, prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.blocks import COPIES, Box, Edge, align_of, cut, new_array, plan, read_block, run_all, without_halo
from cohortex.device import smaller
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    import torch
    from torch import nn

Weights = Literal["gaussian", "hann"]
Precision = Literal["float32", "bfloat16"]


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
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Run a network with one input and one output channel over a volume, block by block, exactly.

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
    say : callable, optional
        Told in a sentence when the block was halved.

    Returns
    -------
    (x, y, z) float32 array-like, device
        The device is the one that did the work.
    """
    import torch

    result = new_array(array.shape) if out is None else out
    runner = Runner(network, device, block, say=say)

    def step(values: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        made = runner(tensor.permute(2, 0, 1)[:, None])[:, 0].permute(1, 2, 0) if slicewise else runner(tensor[None, None])[0, 0]
        return made.numpy()

    def pieces(with_halo: np.ndarray, made: np.ndarray) -> None:
        for piece in product(*(grid_of(n, most) for n, most in zip(made.shape, runner.block, strict=True))):
            values = with_halo[tuple(slice(a, b + 2 * h) for (a, b), h in zip(piece, halo, strict=True))]
            value = None if empty is None else empty(values)
            there = tuple(slice(a, b) for a, b in piece)
            made[there] = without_halo(step(values), values.shape, piece, halo, edge) if value is None else value

    def one(box: Box) -> str:
        with_halo = read_block(array, box, halo, edge)
        made = np.empty(tuple(b - a for a, b in box), np.float32)
        while True:
            try:
                pieces(with_halo, made)
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


def class_probabilities(network: nn.Module, image: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """Return the probabilities (K, X, Y, Z) float32 of a working image (X, Y, Z), which is one block: it was cut to the body before.

    Where a GPU's memory does not suffice the CPU does the work.
    """
    import torch

    runner = Runner(network, device, (image.shape[0], image.shape[1], image.shape[2]))
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    while True:
        try:
            return torch.softmax(runner(tensor), dim=1)[0]
        except torch.OutOfMemoryError:
            if runner.device == "cpu":
                raise
            torch.cuda.empty_cache()
            runner.network, runner.device = network.to("cpu"), "cpu"


# --- labels ----------------------------------------------------------------------------------------------------


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


# --- precision and norms ---------------------------------------------------------------------------------------


def computes_bfloat16(device: str) -> bool:
    """Tell whether a device multiplies bfloat16 faster than float32, by what it says of itself (no timing: the choice is repeatable)."""
    import torch

    if device != "cpu":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(network: nn.Module, sample: np.ndarray, device: str = "cpu", least: float = 0.995) -> tuple[Precision, float]:
    """Return bfloat16 where the device gains by it and the labels of a sample agree, else float32; and the share that agrees.

    Parameters
    ----------
    network : nn.Module
        A segmentation network in evaluation mode, on `device`.
    sample : (x, y, z) float32 array
        A typical part of a volume, in the network's range.
    least : float
        Share of equal labels from which bfloat16 is taken.

    Returns
    -------
    precision, share
        The share is 1 where only float32 comes into question.
    """
    import torch

    if not computes_bfloat16(device):
        return "float32", 1.0
    tensor = torch.from_numpy(np.ascontiguousarray(sample, dtype=np.float32))[None, None]
    block = (sample.shape[0], sample.shape[1], sample.shape[2])
    full, half = (Runner(network, device, block, p)(tensor) for p in ("float32", "bfloat16"))
    same = (full > 0) == (half > 0) if full.shape[1] == 1 else full.argmax(1) == half.argmax(1)
    share = float(same.float().mean())
    return ("bfloat16" if share >= least else "float32"), share


@contextmanager
def frozen_norms(network: nn.Module, parts: Callable[[], Iterator[np.ndarray]], device: str = "cpu", passes: int = 2) -> Iterator[int]:
    """Replace the statistics that instance norms take of their input by those of the whole volume, gathered block by block.

    A norm that looks at its own block gives a volume cut into blocks other labels than the whole. Each pass runs the network over all
    blocks and gathers the sums of every norm; norms have the statistics of the pass before, or their block's own in the first one.
    After n passes the first n norms along the network are those of the whole (up to the blocks' borders), the others close to it;
    after as many passes as there are norms all are. Two passes are the usual compromise; tests and docs/performance.md say how close.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; its InstanceNorm layers without running statistics are replaced while the context lasts.
    parts : callable
        Gives the blocks (x, y, z) float32 anew each time, of equal weight by voxel.
    passes : int

    Yields
    ------
    int
        How many norms were frozen; 0 for a network that needs none, which is then not run.
    """
    from torch import nn

    layers = [m for m in network.modules() if isinstance(m, nn.modules.instancenorm._InstanceNorm) and not m.track_running_stats]
    if not layers:
        yield 0
        return
    frozen = [_FrozenNorm(layer) for layer in layers]
    handles = [layer.register_forward_hook(each) for layer, each in zip(layers, frozen, strict=True)]
    try:
        for _ in range(passes):
            for part in parts():
                import torch

                Runner(network, device, (1, 1, 1))(torch.from_numpy(part)[None, None])
            for each in frozen:
                each.settle()
        for each in frozen:
            each.gathers = False
        yield len(frozen)
    finally:
        for handle in handles:
            handle.remove()


class _FrozenNorm:
    """A forward hook that gathers the statistics of a norm's input and answers with those settled before."""

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        self.count = 0
        self.sums: Any = None
        self.squares: Any = None
        self.mean: Any = None
        self.scale: Any = None
        self.gathers = True

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        x = inputs[0]
        if self.gathers:
            flat = x.detach().double().flatten(2)
            self.count += flat.shape[0] * flat.shape[2]
            sums, squares = flat.sum((0, 2)), (flat * flat).sum((0, 2))
            self.sums = sums if self.sums is None else self.sums + sums
            self.squares = squares if self.squares is None else self.squares + squares
        if self.mean is None:
            return None
        wide = (1, -1) + (1,) * (x.ndim - 2)
        return ((x - self.mean.to(x.dtype).view(wide)) * self.scale.to(x.dtype).view(wide)).to(output.dtype)

    def settle(self) -> None:
        """Turn the sums into the affine map that stands in for the norm from now on."""
        import torch

        if self.count == 0:
            return
        mean = self.sums / self.count
        variance = (self.squares / self.count - mean * mean).clamp_min(0)
        scale = torch.rsqrt(variance + self.layer.eps)
        if self.layer.affine:
            scale = scale * self.layer.weight.double()
            mean = mean - self.layer.bias.double() / scale
        self.mean, self.scale = mean.float(), scale.float()
        self.count, self.sums, self.squares = 0, None, None
