"""The displacement that the shipped network for any contrast finds of a pair of `benchmarks.registration`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.registration_data import Pair


def network_start(folder: Path) -> Callable[[Pair], np.ndarray]:
    """Return a function that gives a pair's displacement (3, X, Y, Z) in voxels, as the stage's network finds it.

    Parameters
    ----------
    folder : Path
        A model folder with the part ``register``.
    """
    import torch

    from cohortex.models.folder import load_network, read_card
    from cohortex.models.regseg.deform import prepare, to_mm
    from cohortex.models.regseg.grid import Grid, field_on

    spacing_mm = float(read_card(folder)["extra"]["working_spacing_mm"])
    network = load_network(folder, "cpu", "register")

    def start(pair: Pair) -> np.ndarray:
        fixed, moving = (prepare(array, np.eye(4), "T1w") for array in (pair.fixed, pair.moving))
        grid = fixed.box(spacing_mm)
        given: Any = torch.from_numpy(np.stack([each.on(grid) for each in (fixed, moving)])[None])
        with torch.no_grad():
            found = to_mm(network(given), grid)
        shape = tuple(int(n) for n in pair.fixed.shape)
        return np.moveaxis(field_on(Grid((shape[0], shape[1], shape[2]), np.eye(4)), found), -1, 0)

    return start
