"""A system of a bake-off as a function from an array to an array."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.pairs import Pair, given, linear
from cohortex.bakeoff.systems import System
from cohortex.errors import Skip
from cohortex.items import settings_for


def restorer(system: System, folder: str | Path | None, device: str, factor: int = 1, seed: int = 0) -> Callable[[Pair], Any]:
    """Load a system and return a function that gives, for a pair, its ``restore(array) -> array``.

    Parameters
    ----------
    system : System
    folder : path or None
        The model folder of a network.
    device : str
    factor : int
        Of a bake-off of `superresolve`: how many fine voxels a slice becomes.
    seed : int

    Raises
    ------
    Refused
        When a network's folder is not a model of the stage.
    """
    if system.kind == "nothing":
        return lambda pair: (
            lambda array: np.asarray(array, np.float32) if pair.axis < 0 else linear(array, pair.truth.shape[pair.axis], pair.axis)
        )
    if system.kind == "filter":
        from cohortex.filters.blockwise import run_filter

        return lambda pair: lambda array: np.asarray(run_filter(system.name, array, pair.image.volume.spacing, dict(system.section)))
    stage = importlib.import_module(f"cohortex.stages.{system.task}")
    function = getattr(stage, system.task)
    models = stage.load(system.section, {system.weights: Path(folder)}, device) if folder is not None else {}

    def for_pair(pair: Pair) -> Callable[[np.ndarray], np.ndarray]:
        settings = settings_for(system.section, pair.image.modality)
        if system.task == "superresolve":
            # The pair's own axis by the pair's own factor, whatever the anisotropy of the user's scans.
            settings |= {"factor": factor, "min_anisotropy": 1.0, "max_factor": max(factor, settings.get("max_factor", 4))}

        def restore(array: np.ndarray) -> np.ndarray:
            made = function(given(pair, array), settings, models, seed)
            # What stands in for a network that is not for the image, or lacks a further one, would be another system.
            if made.content is None or made.code.startswith("no-"):
                raise Skip(made.code or "skipped", made.reason)
            return made.content.array(np.float32)

        return restore

    return for_pair
