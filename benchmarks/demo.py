"""Cost of the demo, and what each stage gains on 24 subjects never trained on.

    python -m benchmarks.demo [--subjects 24] [--folder DIR] [--only demo,gain]

Data: the simulated demo cohort (the shipped one for the cost, seed 90001 for the gains; the shipped weights were trained on
other seeds, see their cards). Against: doing nothing - the image as it came into the stage (denoise), its trilinear
interpolation (superresolve), the scanner's coordinates (regseg). Intervals: 95 %, bootstrap over subjects, paired.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from benchmarks.workflow import command, environment, measured

SEED = 90001


def demo_cost(folder: Path) -> dict[str, float]:
    """Run the shipped demo."""
    folder.mkdir(parents=True, exist_ok=True)
    cost = measured(command(), folder)
    return {"demo_wall_s": cost.wall_s, "demo_peak_gb": cost.peak_mb / 1000}


def gains(folder: Path, subjects: int) -> dict[str, float]:
    """Run the pipeline on further subjects and compare each stage with doing nothing."""
    from benchmarks.gain import measure

    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "gain.yaml"
    settings.write_text(
        f"demo: {{subjects: {subjects}, seed: {SEED}, prefix: gain}}\n"
        "stages: [acquire, preprocess, denoise, superresolve, regseg, export]\n"
        "keep: [acquire, preprocess, denoise, superresolve, regseg]\n"
    )
    with (folder / "benchmark.log").open("ab") as log:
        subprocess.run(
            command("--configfile", str(settings)), cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, check=True
        )
    return measure(folder / "work")


def main() -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", default="demo,gain")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        parts = {
            "demo": lambda: demo_cost(folder / "demo"),
            "gain": lambda: gains(folder / "gain", given.subjects),
        }
        figures: dict[str, float] = {}
        for name in given.only.split(","):
            figures |= parts[name]()
    for name, value in figures.items():
        print(f"{name:32s} {value:.4g}")
    print("FIGURE", *(f"{name}={value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
