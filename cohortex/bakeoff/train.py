"""Trains one system of a bake-off by its stage's own training, and says what it took."""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.bakeoff.systems import System
from cohortex.items import Image
from cohortex.models import registry
from cohortex.models.folder import load_network, read_card, read_model
from cohortex.publish import write_json
from cohortex.training.limit import Interrupted

LOG = logging.getLogger("cohortex.bakeoff")


def trained_model(system: System, images: Sequence[Image], seed: int, device: str, folder: Path) -> Path:
    """Return the model folder of a system that is trained on some images, ``<folder>/model``; one that is there already is not made again.

    ``cost.json`` beside it has the wall and CPU seconds of all attempts.

    Raises
    ------
    Interrupted
        When the attempt has to end; the next one goes on at the checkpoint.
    """
    model = folder / "model"
    if model.is_dir():
        return model
    folder.mkdir(parents=True, exist_ok=True)
    function = getattr(importlib.import_module(f"cohortex.training.{system.task}"), f"train_{system.task}")
    before = cost_of(folder)
    began, cpu = time.monotonic(), time.process_time()
    try:
        function(images, system.section, seed, device, model)
    finally:
        wall_s, cpu_s = before["wall_s"] + time.monotonic() - began, before["cpu_s"] + time.process_time() - cpu
        write_json(folder / "cost.json", {"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)})
    return model


def cost_of(folder: Path) -> dict[str, float]:
    """Return the wall and CPU seconds that a training took so far."""
    try:
        return json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {"wall_s": 0.0, "cpu_s": 0.0}


def told_of_model(folder: Path) -> dict[str, Any]:
    """Return what the leaderboard says of a model folder: parameters, steps that were taken, and what ended them."""
    card = read_card(folder)
    recipe = card.get("recipe", {})
    done, ended = recipe.get("steps_done"), recipe.get("stopped", "")
    if card["task"] == "regseg":
        # its networks learn in turns: said are the steps of the one that registers
        done = recipe.get("run", {}).get("steps", {}).get("register")
        ended = "minutes" if recipe.get("out_of_time") else ""
        parameters = sum(each.numel() for part in card.get("parts", {}) for each in load_network(folder, "cpu", part).parameters())
    elif card["task"] == "classify":
        done, ended, parameters = _of_classifier(folder, recipe)
    else:
        parameters = registry.count_parameters(registry.build(card["task"], card["network"], **card.get("options", {})))
    return {
        "parameters": parameters,
        "steps_done": done,
        "stopped": ended,
        "sha256": card["sha256"],
    }


def _of_classifier(folder: Path, recipe: Mapping[str, Any]) -> tuple[int | None, str, int]:
    """Return steps, what ended them, and parameters of a classifier: of its networks, and of its regression."""
    _, tensors = read_model(folder)
    parameters = sum(each.numel() for part in read_card(folder).get("parts", {}) for each in load_network(folder, "cpu", part).parameters())
    parameters += sum(value.size for name, value in tensors.items() if name in ("logistic.coef", "logistic.intercept"))
    done, asked = recipe.get("steps"), recipe.get("training", {}).get("steps")
    return done, "minutes" if done is not None and asked is not None and done < asked else "", parameters


def train_system(system: System, images: Sequence[Image], seed: int, device: str, running: Path, threads: int) -> dict[str, Any]:
    """Train a system and return what is written down of it; a training that fails is told of, too.

    Returns
    -------
    dict
        ``status`` ok or failed, ``reason``, ``wall_s``, ``cpu_s``, ``threads``, ``device``, ``seed``, ``budget``, and what
        `told_of_model` says.

    Raises
    ------
    Interrupted
        See `trained_model`.
    """
    budget = {key: system.section["default"]["training"][key] for key in ("steps", "minutes")}
    told: dict[str, Any] = {"system": system.name, "status": "ok", "reason": "", "seed": seed, "budget": budget}
    told |= {"threads": threads, "device": device}
    try:
        told |= told_of_model(trained_model(system, images, seed, device, running))
    except Interrupted:
        raise
    except Exception as error:
        # The others of the bake-off go on, whatever this one died of: its row says so.
        LOG.exception("the training of %s failed", system.name)
        told |= {"status": "failed", "reason": f"training failed: {error or type(error).__name__}"}
    return told | cost_of(running)
