"""Denoising by a 3-D network that sees the image in units of its noise, block by block and exactly."""

from __future__ import annotations

from itertools import product
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import Box, new_array, plan, read_block, run_all, without_halo
from cohortex.errors import Skip
from cohortex.lazy import Elementwise
from cohortex.models.folder import Loaded
from cohortex.survey import Survey

if TYPE_CHECKING:
    import torch

BLOCK = (256, 256, 256)
"""Voxels that go through the network at once: at 32 channels on half the grid some 1.5 GB."""

SAME = 0.05
"""Root mean square difference of bfloat16 from float32 up to which it is taken, in units of the noise. What remains of the noise is about
0.4, so that the error grows by less than 0.1 dB."""

BELOW, SHARE = 3.0, 1.0
"""An image is no magnitude when this percentile lies so many standard deviations of its noise below what stands for no signal."""


def same_but_for_noise(full: torch.Tensor, half: torch.Tensor) -> bool:
    """Tell whether two outputs, in units of the noise, differ by at most `SAME` (root mean square)."""
    return float((full - half).square().mean().sqrt()) <= SAME


def apply_in_noise_units(model: Loaded, look: Survey, wanted: str = "float32", bias: float = 0.0) -> tuple[Any, str, str]:
    """Run a 3-D network over a volume whose intensities are divided by its estimated noise (``values`` of kind ``noise`` in the card).

    `bias` is that of `cohortex.stages.denoise.apply_network`.

    The volume ends where it ends: the network pads by itself, blocks have a halo of true voxels on their inner sides only, and begin at
    multiples of what the network asks for, so the result does not depend on how the volume was cut.

    Returns
    -------
    (x, y, z) float32 array-like, precision, fallback
        As `cohortex.stages.denoise.apply_network`; the image as it is where it has no noise.

    Raises
    ------
    Skip
        ``no-fit`` when the image has values far below what the network takes for no signal: it is no magnitude.
    """
    import torch

    from cohortex.filters.transform import rician_amplitude
    from cohortex.inference import Runner, choose_precision, grid_of
    from cohortex.models.intensity import from_unit, to_unit, unit_range_of

    low, high = unit_range_of(look, model.card["values"])
    if high <= low:
        return look.data, "float32", ""
    least = float(np.percentile(look.of(look.data), SHARE))
    if least < low - BELOW * (high - low):
        raise Skip(
            "no-fit",
            f"Not denoised: the model {model.card['name']} is for magnitudes, whose air is about {low:g}, but {SHARE:g} % of this image "
            f"lie below {least:.4g}.",
        )
    unit = Elementwise(lambda block: to_unit(block, low, high), look.data)
    reach, multiple = int(model.network.halo), int(model.network.multiple)  # pyright: ignore[reportArgumentType]
    halo = (-(-reach // multiple) * multiple,) * 3

    precision = choose_precision(wanted, model.network, unit, model.device, same_but_for_noise, multiple=multiple)
    words: list[str] = []
    runner = Runner(model.network, model.device, BLOCK, precision, words.append)
    result = new_array(look.data.shape)

    def pieces(box: Box) -> None:
        for piece in product(*(grid_of(b - a, most) for (a, b), most in zip(box, runner.block, strict=True))):
            inner: Box = tuple((a + start, a + stop) for (a, _), (start, stop) in zip(box, piece, strict=True))
            values = read_block(unit, inner, halo, "own")
            made = runner(torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None])[0, 0].numpy()
            made = without_halo(made, values.shape, inner, halo, "own")
            result[tuple(slice(a, b) for a, b in inner)] = rician_amplitude(from_unit(made, low, high), bias)

    def one(box: Box) -> None:
        while True:
            try:
                return pieces(box)
            except torch.OutOfMemoryError:
                if runner.device == "cpu":
                    raise
                runner.shrink()

    edges = [most * multiple // gcd(most, multiple) for most in BLOCK]
    grid = list(product(*(grid_of(n, edge) for n, edge in zip(look.data.shape, edges, strict=True))))
    if plan().scheduler == "slurm" and not isinstance(result, np.ndarray):
        run_all(one, grid, shared=True)
    else:
        for box in grid:
            one(box)
    return result, precision, "; ".join(words)
