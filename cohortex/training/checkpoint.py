"""Checkpoints of a training: tensors as safetensors, all else as JSON, each file whole or not there; nothing is pickled.

A training has a folder of them beside its model folder, one checkpoint for each part that is trained by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohortex.items import Image
from cohortex.publish import atomic_path, sweep, write_json
from cohortex.training.team import team

if TYPE_CHECKING:
    import numpy as np
    import torch

LOG = logging.getLogger("cohortex.training")

EVERY_S = 60.0
"""Seconds between two checkpoints: what a kill may cost."""

DIGITS = 16
"""Of the hash of its tensors in the name of their file."""


@dataclass
class Checkpoint:
    """One checkpoint; without a path nothing is kept.

    Attributes
    ----------
    path : Path, optional
        Without ending: the note is ``<path>.json``, the tensors are ``<path>.<hash>.safetensors`` beside it, which the note names.
    saved : float
        When it was written last, by the monotonic clock.
    """

    path: Path | None = None
    saved: float = field(default_factory=time.monotonic)

    def beside(self, name: str) -> Checkpoint:
        """Return the checkpoint of something that is trained before or beside this."""
        return Checkpoint(None if self.path is None else self.path.with_name(f"{self.path.name}.{name}"))

    def due(self) -> bool:
        """Return whether it is time to write it again."""
        return self.path is not None and time.monotonic() - self.saved >= EVERY_S

    def save(self, tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any]) -> None:
        """Write both files (the first process does); the note takes the place of the last one once its tensors are there."""
        self.saved = time.monotonic()
        if self.path is None or not team().leads:
            return
        from safetensors.torch import save

        # A tensor that several names share is written for each of them.
        raw = save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
        sha256 = hashlib.sha256(raw).hexdigest()
        file = self._tensors(sha256)
        for path, content in ((file, raw), (self._note(), json.dumps({**note, "sha256": sha256}).encode())):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        for old in self.path.parent.glob(self._tensors("?" * DIGITS).name):
            if old != file:
                old.unlink()

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return tensors and note; None when there is no whole checkpoint. All processes come to the same answer."""
        found = self._read() if team().leads else None
        if not team().agree(found is not None):
            return None
        found = found or self._read()
        if found is None:
            raise OSError(f"the checkpoint {self.path and self.path.name} is not seen by every process of the training")
        return found

    def _read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        from safetensors.torch import load

        if self.path is None:
            return None
        try:
            note = json.loads(self._note().read_text(encoding="utf-8"))
            raw = self._tensors(note["sha256"]).read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        return (load(raw), note) if note["sha256"] == hashlib.sha256(raw).hexdigest() else None

    def _note(self) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.json")

    def _tensors(self, sha256: str) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.{sha256[:DIGITS]}.safetensors")


@dataclass
class Journal:
    """The checkpoints of one training, and how often it was taken up again.

    Attributes
    ----------
    folder : Path, optional
        None keeps nothing.
    resumed : int
        How many attempts before this one left something to go on from.
    """

    folder: Path | None = None
    resumed: int = 0

    def of(self, part: str) -> Checkpoint:
        """Return the checkpoint of a part of the training."""
        return Checkpoint(None if self.folder is None else self.folder / part)

    def forget(self) -> None:
        """Remove the checkpoints of a training that is over."""
        if self.folder is not None and team().leads:
            shutil.rmtree(self.folder, ignore_errors=True)


def open_journal(model: str | Path, images: Sequence[Image], section: Mapping[str, Any], seed: int) -> Journal:
    """Return the journal beside a model folder: that of an attempt before this one, or a new one.

    Taken up is only what the same training left: the same images by id and content, settings, seed, number of processes and precision.
    """
    folder = Path(f"{model}.checkpoint")
    seen = sorted((image.id, image.row.get("sha256", ""), image.row.get("split", "")) for image in images)
    whole = json.dumps([seen, section, seed, team().size, team().precision], sort_keys=True, default=str)
    identity = hashlib.sha256(whole.encode()).hexdigest()
    resumed = 0
    if team().leads:
        try:
            before = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            before = {}
        if before.get("identity") != identity:
            if before:
                LOG.info("a checkpoint of another training (images, settings, seed or number of processes) is there; this one begins anew")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            sweep(folder)
            resumed = int(before["resumed"]) + any(note.name != "training.json" for note in folder.glob("*.json"))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "training.json", {"identity": identity, "resumed": resumed})
    if resumed:
        LOG.info("goes on from its checkpoint (time %d)", resumed)
    return Journal(folder, team().gather(resumed)[0])


def tensors_under(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors under a common name: ``<name>/<their name>``."""
    return {f"{name}/{key}": value for key, value in tensors.items()}


def tensors_of(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that `tensors_under` gave the name."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the state of an optimiser as tensors: ``<number of the parameter>/<name>`` and ``rate/<number of the group>``."""
    import torch

    found = {f"{index}/{name}": value for index, state in optimiser.state_dict()["state"].items() for name, value in state.items()}
    return found | {f"rate/{number}": torch.tensor(float(g["lr"]), dtype=torch.float64) for number, g in enumerate(optimiser.param_groups)}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` returned."""
    import torch

    whole = optimiser.state_dict()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        if index == "rate":
            whole["param_groups"][int(name)]["lr"] = float(value)
            continue
        of = parameters[int(index)]
        # In the order of the parameter's memory, or the next steps would round otherwise.
        states.setdefault(int(index), {})[name] = torch.empty_like(of).copy_(value) if value.shape == of.shape else value
    whole["state"] = states
    optimiser.load_state_dict(whole)


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return where a random generator stands, as plain values."""
    return dict(rng.bit_generator.state)
