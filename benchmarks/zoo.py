"""The bake-off of every network of a task, as a page: on simulated heads, and on real scans where ../shared/data is there.

    python -m benchmarks.zoo denoise | superresolve [--candidates redcnn,...] [--subjects 16] [--steps 600] [--minutes 30]
        [--images 8] [--only demo,real] [--folder DIR] [--out docs/zoo]

Runs `snakemake bakeoff_<task>` (docs/bakeoff.md) with the networks of the registry as candidates and writes ``<out>/<task>.md`` with
command, commit and machine, and a picture of each cohort beside it. The simulated heads are half training, a quarter validation and a
quarter test subjects of a seed of their own; the real scans are dealt out by subject below. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import yaml

from benchmarks.real import COLUMNS, rows_of
from benchmarks.record import ROOT, commit, machine
from benchmarks.workflow import command, environment
from cohortex.models.registry import entries
from cohortex.tables import read_table

SEED = 70001
"""Of the simulated heads: no shipped model was trained on them."""

SPLITS = {
    "train": ("ms20", "prostate0", "prostate1", "prostate2", "lidc0314"),
    "validation": ("ms01", "prostate3", "nrrdbrain"),
    "test": ("ms07", "prostate4", "prostate5", "cord", "abdct"),
}
"""Real subjects by split."""

TITLES = {"demo": "Simulated heads", "real": "Real scans"}
WIDEST = 700
"""Pixels of a picture in the page."""


def settings_of(given: argparse.Namespace, cohort: str) -> dict[str, object]:
    """Return the settings of a bake-off."""
    asked = {
        "candidates": given.candidates.split(",") if given.candidates else [entry.name for entry in entries(given.task)],
        "training": {"steps": given.steps, "minutes": given.minutes},
        "images": given.images,
        "adjust": None,
    }
    found: dict[str, object] = {"stages": ["acquire", "preprocess", "denoise", "superresolve", "export"], "bakeoff": {given.task: asked}}
    if cohort == "demo":
        split = {"train": 0.5, "validation": 0.25, "test": 0.25}
        found["demo"] = {"subjects": given.subjects, "seed": SEED, "prefix": "zoo", "split": split}
    return found


def real_table(folder: Path, data: Path) -> Path:
    """Write the cohort table of the real scans: structural images of the subjects of `SPLITS`."""
    splits = {subject: split for split, subjects in SPLITS.items() for subject in subjects}
    rows = [row for cohort in rows_of(data).values() for row in cohort if row[0] in splits and row[5] == "image"]
    kept = [(*row, splits[row[0]]) for row in rows if row[2] in ("T1w", "T2w", "FLAIR", "CT")]
    table = folder / "cohort.tsv"
    table.write_text("\n".join("\t".join(row) for row in [(*COLUMNS, "split"), *kept]) + "\n", encoding="utf-8")
    return table


def run(given: argparse.Namespace, cohort: str, folder: Path) -> Path:
    """Run a bake-off in a folder and return where its pages are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.yaml").write_text(yaml.safe_dump(settings_of(given, cohort)), encoding="utf-8")
    words = [f"bakeoff_{given.task}", "--configfile", str(folder / "zoo.yaml")]
    if cohort == "real":
        words += ["--config", f"input={real_table(folder, ROOT.parent / 'shared' / 'data')}"]
    with (folder / "benchmark.log").open("ab") as log:
        done = subprocess.run(command(*words), cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"the bake-off failed, see {folder / 'benchmark.log'}")
    return folder / "results" / "bakeoff" / given.task


def section(pages: Path, cohort: str, task: str, out: Path) -> list[str]:
    """Return the lines of a cohort's section, and leave its picture beside the page."""
    from PIL import Image

    name = f"{task}-{cohort}.png"
    with Image.open(pages / "pictures" / "compared.png") as picture:
        # Enlarged pixels hold nothing more: a picture that is too wide loses some.
        small = picture.copy()
        small.thumbnail((WIDEST, 10_000))
        small.quantize(64).save(out / name, optimize=True)
    words = (pages / "leaderboard.md").read_text(encoding="utf-8").split("\n", 1)[1]
    words = re.sub(r"^## ", "### ", words, flags=re.MULTILINE).replace("pictures/compared.png", name)
    return [f"## {TITLES[cohort]}", "", words.strip(), ""]


def main() -> None:
    """Run the bake-offs and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("denoise", "superresolve"))
    parser.add_argument("--candidates", default="", help="names of networks, with commas; all by default")
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--only", default="demo,real")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "zoo")
    given = parser.parse_args()
    cohorts = given.only.split(",")
    if "real" in cohorts and not (ROOT.parent / "shared" / "data").is_dir():
        print("the optional folder of real scans (../shared/data) is not here: simulated heads only")
        cohorts.remove("real")
    given.out.mkdir(parents=True, exist_ok=True)
    places = ("--folder", "--out")
    words = sys.argv[1:]
    shown = " ".join(word for i, word in enumerate(words) if word not in places and (i == 0 or words[i - 1] not in places))
    host = machine()
    lines = [
        f"# Zoo: {given.task}",
        "",
        f"`python -m benchmarks.zoo {shown}`, commit {commit()}, {datetime.now(UTC).date().isoformat()}, {host['processor']} with "
        f"{host['cores']} cores. What the figures mean: [bakeoff.md](../bakeoff.md).",
        "",
    ]
    figures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for cohort in cohorts:
            pages = run(given, cohort, (given.folder or Path(temporary)) / f"{given.task}-{cohort}")
            lines += section(pages, cohort, given.task, given.out)
            rows = read_table(pages / "leaderboard.tsv")
            best = next((row for row in rows if row["chosen"]), None)
            figures |= {f"{cohort}_systems": str(len(rows)), f"{cohort}_failed": str(sum(row["status"] != "ok" for row in rows))}
            if best is not None:
                figures |= {f"{cohort}_chosen": best["system"], f"{cohort}_psnr_gain": best["psnr_gain"] or "0"}
    (given.out / f"{given.task}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("FIGURE", *(f"{name}={value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
