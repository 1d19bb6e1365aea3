"""Networks that segment, side by side: the bake-off of the registry's networks on simulated heads, as a table of mean IoU and more.

    python -m benchmarks.segment [--folder DIR] [--steps N] [--subjects N] [--images N] [--edge N N N] [--cores N] [--save FILE]

Runs what `python -m benchmarks.zoo segment --only demo` runs (`snakemake bakeoff_segment`), without writing the page; with a folder of that
command and the same numbers nothing is trained again. Printed are Dice, mean IoU, distances, parameters and times on test subjects, and the
paired difference to the planned baseline. Last line: FIGURE networks_built (of the registry at its own size, with the parameters that its
paper states, counted without memory), best_dice, baseline_dice.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import zoo
from benchmarks.record import Run, Table, add_save
from cohortex.bakeoff.systems import PLANNED
from cohortex.models import registry
from cohortex.tables import read_table

COLUMNS = {
    "network": "",
    "parameters": ",d",
    "Dice": ".3f",
    "mean IoU": ".3f",
    "over the baseline": "+.3f",
    "low": "+.3f",
    "high": "+.3f",
    "HD95 mm": ".2f",
    "surface distance mm": ".2f",
    "recall": ".3f",
    "precision": ".3f",
    "training CPU s": ".0f",
    "CPU s a scan": ".2f",
}


def built() -> int:
    """Return how many networks of the registry are built as their papers have them."""
    made = 0
    for entry in registry.entries("segment"):
        with torch.device("meta"):
            network = registry.build("segment", entry.name)
        made += entry.parameters in (None, registry.count_parameters(network))
    return made


def _number(text: str) -> float | None:
    return float(text) if text else None


def row_of(row: dict[str, str]) -> list[Any]:
    """Return the cells of a system of the leaderboard."""
    names = ("dice", "iou", "dice_gain", "dice_low", "dice_high", "hd95", "asd", "recall", "precision", "training_cpu_s", "cpu_s_scan")
    return [row["system"], int(row["parameters"]), *(_number(row[name]) for name in names)]


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_options(parser)
    add_save(parser)
    given = parser.parse_args()
    given.tasks = ["segment"]
    run = Run("segment", ("torch", "numpy"))
    count = built()
    with tempfile.TemporaryDirectory(prefix="segment-") as temporary:
        pages = zoo.run(given, "demo", (given.folder or Path(temporary)) / "demo")
        rows = read_table(pages / "segment" / "leaderboard.tsv")
    table = Table(COLUMNS)
    done = [row for row in rows if row["status"] == "ok"]
    for row in done:
        table.add(*row_of(row))
    for row in rows:
        if row["status"] != "ok":
            print(f"{row['system']}: {row['reason']}", flush=True)
    best = max(float(row["dice"]) for row in done)
    baseline = next(float(row["dice"]) for row in done if row["system"] == PLANNED)
    run.end({"networks": table}, {"networks_built": count, "best_dice": best, "baseline_dice": baseline}, given.save)


if __name__ == "__main__":
    main()
