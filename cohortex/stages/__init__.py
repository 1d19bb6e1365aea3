"""The stages: what each is called, what it works on, which version its bytes have.

Listing the stages imports nothing heavy, so the Snakefile may do it. A stage's function and, where it
needs a model, its ``load`` function live in the module of its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """One stage of the chain.

    Attributes
    ----------
    unit : {"image", "subject"}
        What one call of the stage's function sees.
    version : int
        Raised only when the stage's output bytes change; it is part of every key.
    learned : bool
        Whether its module has ``load(section, folders, device)`` and the stage takes model folders.
    mem_factor : float
        Peak memory as a multiple of the largest image of the batch in float32, above the fixed cost.
    seconds_mb : float
        Seconds of one core per float32 megabyte of image.
    scratch_factor : float
        Disk for scratch arrays where volumes do not stay in memory, as a multiple of the largest image of the batch in float32.
    streams : bool
        Whether a volume that does not stay in memory goes through it block by block (`cohortex.blocks`), so that the memory of a
        job does not grow with it.
    """

    unit: Literal["image", "subject"]
    version: int = 1
    learned: bool = False
    mem_factor: float = 8.0
    seconds_mb: float = 1.0
    scratch_factor: float = 4.0
    streams: bool = False


STAGES: dict[str, Stage] = {
    "acquire": Stage("image", mem_factor=6.0, seconds_mb=0.5, streams=True),
    "preprocess": Stage("image", version=3, mem_factor=10.0, seconds_mb=1.5, streams=True),
    "denoise": Stage("image", version=2, learned=True, mem_factor=16.0, seconds_mb=3.0, streams=True),
    "superresolve": Stage("image", version=2, learned=True, mem_factor=24.0, seconds_mb=3.0, streams=True),
    "regseg": Stage("subject", version=3, learned=True, mem_factor=30.0, seconds_mb=4.0, scratch_factor=12.0, streams=True),
    "classify": Stage("subject", version=2, learned=True, mem_factor=16.0, seconds_mb=1.0, streams=True),
    "export": Stage("subject", version=2, mem_factor=8.0, seconds_mb=0.5, streams=True),
}
"""In the order in which they usually stand in ``stages:``."""


def stage_version(name: str) -> int:
    """Return the version of a stage's bytes."""
    return STAGES[name].version
