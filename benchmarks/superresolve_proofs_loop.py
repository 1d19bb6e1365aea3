"""Row S12: the workflow itself collects, makes slices thick, cleans, trains, generates, evaluates and refines on a small demo cohort."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.proofs import Found
from benchmarks.superresolve_proofs_data import SEED, Data
from benchmarks.workflow import command, environment
from cohortex.io.nifti import read_nifti
from cohortex.tables import read_table

STEPS = (15, 60, 240)
"""What the refinement tries, in this order."""

SETTINGS: dict[str, Any] = {
    "stages": ["acquire", "superresolve", "export"],
    "select": {"suffix": ["T1w"]},
    "demo": {"subjects": 4, "seed": SEED, "prefix": "loop", "split": {"train": 0.5, "validation": 0.25, "test": 0.25}},
    "superresolve": {"default": {"training": {"patch": 14, "batch": 2, "factors": [3, 3]}}},
}


def settings_of(steps: float) -> dict[str, Any]:
    """Return the settings of the run."""
    tried = [max(1, round(count * steps)) for count in STEPS]
    adjust = {"system": "srcnn3d", "grid": {"training.steps": tried}, "measure": "psnr", "target": None, "patience": 2}
    asked = {"candidates": ["srcnn3d"], "training": {"steps": tried[0], "minutes": 60}, "factor": 3, "edge": 48, "adjust": adjust}
    return {**SETTINGS, "bakeoff": {"superresolve": asked}}


def loop(have: Data) -> Found:
    """Row S12: the run leaves all six artefacts, and refinement improves or keeps PSNR on validation subjects."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "loop.yaml").write_text(yaml.safe_dump(settings_of(have.steps)), encoding="utf-8")
        target = "results/bakeoff/superresolve/adjust"
        words = command(target, "--configfile", str(folder / "loop.yaml"), cores=1)
        done = subprocess.run(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(f"the workflow failed:\n{done.stdout[-4000:]}")
        return judged(folder / target)


def judged(made: Path) -> Found:
    """Say what a run left and whether it got better."""
    rows = read_table(made / "pairs.tsv")
    names = {f"{row['image']}.nii.gz" for row in rows}

    def images(of: str) -> bool:
        files = {path.name for path in (made / of).glob("*.nii.gz")}
        return files == names and all(np.isfinite(read_nifti(made / of / name).array()).all() for name in names)

    evaluation = json.loads((made / "evaluation.json").read_text())
    artefacts = {
        "low-resolution set": images("low_resolution"),
        "pairs": images("truth") and all((made / row["input"]).is_file() for row in rows),
        "set without noise": images("denoised"),
        "model": (made / "model" / "model.safetensors").is_file() and (made / "model" / "card.yaml").is_file(),
        "high-resolution results": images("high_resolution"),
        "evaluation": len(evaluation["history"]) > 1 and evaluation["chosen_on"]["split"] == "validation",
    }
    values = [attempt["value"] for attempt in evaluation["history"]]
    best = [attempt["best_so_far"] for attempt in evaluation["history"]]
    tried = [attempt["settings"]["training.steps"] for attempt in evaluation["history"]]
    figures = [
        f"{sum(artefacts.values())} of {len(artefacts)} artefacts",
        "validation PSNR " + ", ".join(f"{value:.2f} dB ({count} steps)" for value, count in zip(values, tried, strict=True)),
        f"best {evaluation['best']['value']:.2f} dB, of test subjects {evaluation['test']['value']:.2f} dB; input {evaluation['input']}",
    ]
    kept = evaluation["best"]["value"] == best[-1] == max(values) and sorted(best) == best
    return Found(figures, {**artefacts, "refining improves or keeps validation PSNR": kept})
