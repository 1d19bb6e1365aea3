"""Row N11: the loop of bake-offs that denoises, measures and adjusts, tried on low-dose scans."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.denoise_proofs_data import NOISE_HU, SEED, Case, Data, noisy_case
from benchmarks.record import ROOT
from cohortex.bakeoff.adjust import Material, by_subject, run_search
from cohortex.bakeoff.pairs import Pair
from cohortex.bakeoff.restore import restorer
from cohortex.bakeoff.score import measured
from cohortex.bakeoff.systems import System, changed
from cohortex.config import check_config
from cohortex.items import Image
from cohortex.volume import Volume

WEIGHTS = (5.0, 15.0, 30.0, 60.0, 90.0, 130.0)
"""Of total variation in HU, which are tried in this order."""

OUT_OF_REACH_DB = 90.0


def tried(have: Data) -> tuple[dict[str, float | str], dict[str, bool]]:
    """Search the weight of total variation for the validation patients, twice alike, with a target that is met and with one that is not.

    Test patients have the noise of the whole dose, for which a smaller weight is best.

    Returns
    -------
    figures, statements
    """
    system = System("denoise", "total_variation", "filter", {})
    grid = [{"weight": weight} for weight in WEIGHTS]
    pairs = [pair_of(case, "validation") for case in have.cases("validation")]
    for number, case in enumerate(have.cases("test")):
        rng = np.random.default_rng([SEED, 7, number])
        pairs.append(pair_of(noisy_case(case.name, case.truth, case.spacing, NOISE_HU, rng), "test"))
    values = {split: [mean_of(system, setting, pairs, split) for setting in grid] for split in ("validation", "test")}
    best, other = (int(np.argmax(values[split])) for split in ("validation", "test"))
    runs = {
        "reached": searched(system, grid, pairs, values["validation"][best - 1]),
        "again": searched(system, grid, pairs, values["validation"][best - 1]),
        "out of reach": searched(system, grid, pairs, OUT_OF_REACH_DB),
        "without test patients": searched(system, grid, [pair for pair in pairs if pair.split == "validation"], OUT_OF_REACH_DB),
    }
    (reached, _), (missed, _) = runs["reached"], runs["out of reach"]
    chosen = missed["best"]["settings"]["weight"]
    figures: dict[str, float | str] = {
        "target dB": reached["target"],
        "stopped after": len(reached["history"]),
        "without reaching 90 dB stopped after": len(missed["history"]),
        "chosen weight HU": chosen,
        "best for validation HU": WEIGHTS[best],
        "best for test HU": WEIGHTS[other],
        "validation dB": missed["best"]["value"],
    }
    return figures, {
        "stops at its target": reached["target_met"] and reached["stopped"] == "target" and len(reached["history"]) == best,
        "says that it is best so far": missed["best_so_far_only"] and missed["stopped"] in ("no gain", "all tried"),
        "the same bytes": runs["reached"][1] == runs["again"][1],
        "chosen on validation": chosen == WEIGHTS[best] == runs["without test patients"][0]["best"]["settings"]["weight"],
        "test would choose otherwise": other != best,
    }


def pair_of(case: Case, split: str) -> Pair:
    """Return a patient as bake-offs have them."""
    volume = Volume(case.noisy, np.diag([*case.spacing, 1.0]), modality="CT", body_part="any")
    called = f"{split}-{case.name}".replace(" ", "-")
    image = Image(called, called, "", "CT", "image", body_part="any", row={"split": split}, opener=lambda: volume)
    noise = case.noisy - case.truth
    return Pair(
        image, case.truth, case.spacing, case.inside, case.low, case.high, case.sigma, lambda truth: truth + noise, case.noisy
    )  # fmt: skip


def mean_of(system: System, setting: Mapping[str, Any], pairs: Sequence[Pair], split: str) -> float:
    """Return the mean PSNR of a setting over the patients of a split."""
    some = [pair for pair in pairs if pair.split == split]
    restore = restorer(changed(system, setting), None, "cpu")
    return by_subject(some, [measured(pair, restore(pair)(pair.image.volume.array(np.float32)))["psnr"] for pair in some])


def searched(
    system: System, grid: Sequence[Mapping[str, Any]], pairs: Sequence[Pair], target: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the loop; return its evaluation, and the digest of every file that it leaves."""
    config = check_config(yaml.safe_load((ROOT / "config.yaml").read_text()))
    asked = config["bakeoff"]["denoise"]
    asked = {**asked, "adjust": {**asked["adjust"], "measure": "psnr", "target": target, "patience": 2}}
    with tempfile.TemporaryDirectory() as folder:
        left = Path(folder) / "left"
        left.mkdir()
        run_search(system, grid, Material([], pairs, config["denoise"], asked, SEED, "cpu", Path(folder) / "running"), left)
        files = {str(path.relative_to(left)): sha256(path.read_bytes()).hexdigest() for path in sorted(left.rglob("*")) if path.is_file()}
        return json.loads((left / "evaluation.json").read_text()), files
