"""What every stage makes of two small scans, and what is written down of it in golden.json.

``python -m tests.golden`` writes that file anew, once a stage's version was raised.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from cohortex import __version__
from cohortex.config import check_config, resolve_weights
from cohortex.items import Image, Made
from cohortex.models.folder import model_sha256
from cohortex.stages import STAGES
from cohortex.tables import cell
from cohortex.threads import set_threads
from cohortex.volume import Volume
from cohortex.worker import Item, Task, call, seed_for
from tests.workflow import ROOT, phantom, write_nifti

FILE = Path(__file__).with_name("golden.json")
SPACING = (1.5, 1.5, 3.0)
TOLERANCE = 1e-3
"""Relative; libraries choose their kernels by the processor, which moves the last digits of float32."""


def processor() -> str:
    """Return what decides which kernels run, so that bytes are compared on like processors only."""
    import torch
    from llvmlite import binding

    return f"{binding.get_host_cpu_name()} {torch.backends.cpu.get_cpu_capability()}"


def heads() -> dict[str, Volume]:
    """Return a T1w and a CT of a head with a face, coarse."""
    from tests.faces import head

    return {f"1_{modality}": head(modality, 4.0)[0] for modality in ("T1w", "CT")}


def scans() -> dict[str, Volume]:
    """Return a T1w, a CT of the same head in another place, and labels of the T1w."""
    affine = np.diag([*SPACING, 1.0])
    first = phantom(1, (48, 56, 24))
    clean = phantom(1, (48, 56, 24)) + np.random.default_rng(3).normal(0, 10, (48, 56, 24)).astype(np.float32)
    moved = affine.copy()
    moved[:3, 3] = 3, -2, 4
    labels = np.digitize(first, [60, 200, 320, 500]).astype(np.uint8)
    return {
        "1_T1w": Volume(first, affine, "T1w", body_part="head"),
        "1_CT": Volume(clean * 2 - 1000, moved, "CT", body_part="head"),
        "1_T1w+seg": Volume(labels, affine, "T1w", kind="labels", body_part="head"),
    }


def images(stage: str, folder: Path) -> list[Image]:
    """Return what the stage is given: files for acquire, labels too for classify and export."""
    made = []
    # what deface is given must have a brain
    for name, volume in (heads() if stage == "deface" else scans()).items():
        row = {"acq": "", "run": "", "site": "demo-simulator", "path": ""}
        if stage == "acquire":
            row["path"] = str(write_nifti(folder / f"{name}.nii.gz", volume.array()[::-1], SPACING))
        role = "labels" if volume.kind == "labels" else "image"
        if volume.kind == "labels" and stage not in ("acquire", "classify", "export"):
            continue
        made.append(Image(name, "1", "", volume.modality, volume.kind, role, "head", row=row, opener=lambda volume=volume: volume))
    return made


def models(stage: str) -> dict[str, str]:
    """Return the sha256 of the weights that a stage is shipped with; they are part of every key by themselves."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    return {name: model_sha256(folder) for name, folder in resolve_weights(config[stage], stage, "work", ROOT).items()}


def detector(folder: Path) -> Path:
    """Write the folder of a detector that has learned nothing but tells places apart: its first weights, those of its answers larger."""
    import torch

    from cohortex.models import registry
    from cohortex.models.folder import write_model
    from cohortex.models.segment.plan import Fingerprint, plan

    options = {"filters": 8, "convs": 1, "backbone": [4, 8], "classes": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        tensors = registry.build("recognize", "retinanet", **options).state_dict()
    tensors["class_head.2.weight"] *= 100
    found = Fingerprint([(48, 56, 24)], [SPACING], "T1w", 1, 2)
    card = {"name": "golden", "task": "recognize", "network": "retinanet", "options": options, "modality": ["any"], "body_part": ["head"]}
    card |= {"dimensions": [3], "spacing_mm": {"min": 1, "max": 4}, "classes": ["one", "two"], "data": "nothing", "recipe": {}, "seed": 5}
    card |= {"metrics": [], "intended_use": "tests", "limits": "tests", "license": "CC0-1.0"}
    extra = {"plan": replace(plan(found), across=2).told(), "across": 2, "patch": [48, 56], "reach": [20.0, 20.0], "score": 0.01}
    write_model(folder, {**card, "extra": extra}, tensors)
    return folder


def make(stage: str, folder: Path) -> list[Made]:
    """Run a stage as it is shipped on one thread."""
    set_threads(1)
    config = check_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
    section = config[stage] | ({"results": str(folder)} if stage == "export" else {})
    if stage == "recognize":
        # none is shipped
        section = {"default": {**section["default"], "weights": str(detector(folder / "detector")), "most": 5}}
    module = importlib.import_module(f"cohortex.stages.{stage}")
    folders = {name: Path(place) for name, place in resolve_weights(section, stage, "work", ROOT).items()}
    model = module.load(section, folders, "cpu") if STAGES[stage].learned else None
    task = Task(stage, STAGES[stage].unit, getattr(module, stage), None, section, folders, {}, "cpu", 1, folder, print)
    everything = images(stage, folder)
    groups: Sequence[list[Image]] = [everything] if STAGES[stage].unit == "subject" else [[image] for image in everything]
    return [
        replace(made, of=made.of or group[0].id)
        for group in groups
        for made in call(task, Item(group[0].id, tuple(group), "", seed_for(1, group[0].id, stage)), model)
    ]


def told(stage: str) -> dict[str, Any]:
    """Return version, sha256 and some numbers of what a stage makes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest, numbers = hashlib.sha256(), {}
        for made in make(stage, folder):
            called = f"{made.of}+{made.tag}" if made.tag else made.of
            content = made.content
            digest.update(f"{called}|{made.status}|{made.code}|{sorted(made.entities.items())}|".encode())
            for measure, value in sorted(made.measures.items()):
                digest.update(f"{measure}={cell(value)}|".encode())
                if isinstance(value, float):
                    numbers[f"{called} {measure}"] = value
            if isinstance(content, Volume):
                digest.update(content.sha256().encode())
                array = content.array(np.float64)
                numbers |= {f"{called} mean": float(array.mean()), f"{called} sd": float(array.std())}
            elif content is not None:
                values = [value for column in content.values() for value in column] if isinstance(content, Mapping) else np.ravel(content)
                found = [float(value) for value in values if isinstance(value, int | float) and np.isfinite(value)]
                numbers |= {f"{called} sum {i}": sum(found[i::4]) for i in range(4)}
                digest.update(
                    json.dumps(dict(content) if isinstance(content, Mapping) else np.asarray(content).tolist(), default=str).encode()
                )
        for path in sorted(folder.rglob("sub-*")) if stage == "export" else ():
            if path.is_file():
                raw = path.read_bytes().replace(__version__.encode(), b"")
                digest.update(f"{path.relative_to(folder)}|{hashlib.sha256(raw).hexdigest()}|".encode())
                numbers[f"{path.name} shape"] = float(np.prod(nib.load(path).shape)) if path.name.endswith(".nii.gz") else 1.0
        numbers = {name: float(f"{value:.9g}") for name, value in sorted(numbers.items()) if np.isfinite(value)}
        return {"version": STAGES[stage].version, "models": models(stage), "sha256": digest.hexdigest(), "numbers": numbers}


def main() -> None:
    """Write down what the stages make today."""
    content = {"processor": processor(), "stages": {stage: told(stage) for stage in STAGES}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{FILE.name} written\n")


if __name__ == "__main__":
    main()
