"""Where and how long the proofs of classification train, and the pictures that they are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How proofs are tried.

    Attributes
    ----------
    folder : Path
        Where networks and models are kept.
    steps : float
        A multiple of the steps of every training.
    seed : int
        Of pictures and trainings.
    """

    folder: Path
    steps: float
    seed: int
