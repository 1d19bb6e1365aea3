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
    streams : bool
        Whether a volume that does not stay in memory goes through it block by block (`cohortex.blocks`), so that the memory of a
        job does not grow with it.
    beside : tuple of str
        Of a stage of unit image: settings that name other images of the subject; where one is set for an image's modality the stage
        sees the subject's other images, and they are part of the image's key.
    task : str
        Of a learned stage: for what its models were trained, where that is not named as the stage is.
    usual : bool
        Whether it stands in the chain where the configuration does not say which stages do.
    """

    unit: Literal["image", "subject"]
    version: int = 1
    learned: bool = False
    streams: bool = False
    beside: tuple[str, ...] = ()
    task: str = ""
    usual: bool = True


STAGES: dict[str, Stage] = {
    "acquire": Stage("image", streams=True),
    "deface": Stage("image", learned=True, streams=True, task="regseg", usual=False),
    "preprocess": Stage("image", version=3, streams=True),
    "denoise": Stage("image", version=3, learned=True, streams=True),
    "superresolve": Stage("image", version=3, learned=True, streams=True, beside=("second_view", "reference")),
    "regseg": Stage("subject", version=6, learned=True, streams=True),
    "recognize": Stage("image", learned=True, streams=True, usual=False),
    "classify": Stage("subject", version=3, learned=True, streams=True),
    "export": Stage("subject", version=2, streams=True),
}
"""In the order in which they usually stand in ``stages:``."""

USUAL = tuple(name for name, stage in STAGES.items() if stage.usual)
"""The chain where the configuration says nothing."""


def stage_version(name: str) -> int:
    """Return the version of a stage's bytes."""
    return STAGES[name].version
