"""Runs a network of the task `superresolve` over a volume of any size: on the fine grid in blocks, on the slices in whole columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.blocks import Box, boxes, new_array, plan, read_block, run_all, without_halo
from cohortex.inference import Precision, Runner, grid_of, run_network
from cohortex.lazy import align_of
from cohortex.models.superresolve.fitted import Fitted
from cohortex.volume import ArrayLike

BLOCK = (32, 64, 64)
"""Voxels of the fine grid that go through a network at once: at 64 channels some 60 MB."""

COLUMN = 2**19
"""Voxels of a column of slices with its halo that go through at once, where its edge can be made smaller."""

EDGES = (64, 32, 16)
"""Of a column, in its slices' plane."""


class WithFactor(nn.Module):
    """A network that is called with its factor."""

    def __init__(self, network: nn.Module, factor: float):
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fine grid."""
        return self.network(x, self.factor)


def run_fine(
    network: nn.Module,
    fed: Fitted,
    slices: ArrayLike,
    start: ArrayLike,
    others: Mapping[str, ArrayLike],
    device: str = "cpu",
    *,
    out: Any = None,
    finish: Callable[[np.ndarray, Box], np.ndarray] | None = None,
    precision: Precision = "float32",
    say: Callable[[str], None] | None = None,
) -> tuple[Any, str]:
    """Return the fine volume that a network makes of thick slices.

    Blocks are cut by the volume alone and know their halo, so a result does not depend on the memory. A network on the slices' grid is
    given columns that are whole along the slices: it applies its own rule at the first and the last one.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on `device`.
    fed : Fitted
    slices : (x, y, slices) array-like
        In the network's range, slice axis last; may be lazy.
    start : (x, y, z) array-like
        The same interpolated to the fine grid by the agreeing spline; its shape is that of the result.
    others : mapping
        Further inputs of `fed`, by name, on the fine grid.
    out, finish, precision, say
        As in `cohortex.inference.run_network`.

    Returns
    -------
    (x, y, z) float32 array-like, device
        The device is the one that did the work.
    """
    if fed.grid == "fine" and not fed.inputs[1:]:
        return run_network(network, start, fed.halo, BLOCK, device, out=out, finish=finish, precision=precision, say=say)
    count, lines = start.shape[2], slices.shape[2]
    result = new_array(start.shape) if out is None else out
    on_slices = fed.grid == "slices"
    halo = (fed.halo[0], fed.halo[1], 0 if on_slices else fed.halo[2])
    edge = next((e for e in EDGES if (e + 2 * halo[0]) * (e + 2 * halo[1]) * lines <= COLUMN), EDGES[-1])
    block = (edge, edge, count) if on_slices else BLOCK
    runner = Runner(WithFactor(network, count / lines) if fed.any_factor else network, device, block, precision, say)
    inputs = [slices if on_slices else start, *(others[name] for name in fed.inputs[1:])]

    def channels(piece: Box) -> np.ndarray:
        if not on_slices:
            return np.stack([read_block(array, piece, halo) for array in inputs])
        plane = piece[:2]
        first = read_block(slices, (*plane, (0, lines)), halo)[None]
        further = (read_block(array, (*plane, (0, count)), halo) for array in inputs[1:])
        split = (np.moveaxis(fine.reshape(*fine.shape[:2], lines, -1), 3, 0) for fine in further)
        return np.concatenate([first, *split])

    def one(box: Box) -> str:
        made = np.empty([b - a for a, b in box], np.float32)
        done = False
        while not done:
            try:
                sizes = (*runner.block[:2], count) if on_slices else runner.block
                for part in product(*(grid_of(n, most) for n, most in zip(made.shape, sizes, strict=True))):
                    piece = tuple((a + origin, b + origin) for (a, b), (origin, _) in zip(part, box, strict=True))
                    values = np.ascontiguousarray(channels(piece), np.float32)
                    given = runner(torch.from_numpy(values)[None])[0, 0].numpy()
                    whole = (*values.shape[1:3], count) if on_slices else values.shape[1:]
                    made[tuple(slice(a, b) for a, b in part)] = without_halo(given, whole, piece, halo, "reflect")
                done = True
            except torch.OutOfMemoryError:
                if runner.device == "cpu":
                    raise
                runner.shrink()
        result[tuple(slice(a, b) for a, b in box)] = made if finish is None else finish(made, box)
        return runner.device

    align = align_of(result)
    grid = list(boxes(start.shape, (align, align, count), align))
    if plan().scheduler == "slurm" and not isinstance(result, np.ndarray):
        return result, run_all(one, grid, shared=True)[-1]
    return result, [one(box) for box in grid][-1]
