"""The bake-offs of every network of a task, as pages: on simulated heads, and on real scans where ../shared/data is there.

    python -m benchmarks.zoo [denoise] [superresolve] [segment] [regseg] [classify] [recognize] [--candidates redcnn,...] [--subjects 8]
        [--steps 40] [--minutes 5] [--images 4] [--edge 64 64 12] [--only demo,bent,real,pictures] [--cores 2] [--folder DIR]
        [--out docs/zoo]

Runs `snakemake bakeoff_<task>` (docs/bakeoff.md), of both restorations at once where none is named, and writes a section of each cohort
into ``<out>/<task>.md``, with command, commit and machine, and a picture of it beside the page. Candidates are the networks of the
registry, each trained, and the model folders of ``zoo/<task>`` as they are. The simulated heads are half training, a quarter validation and
a quarter test subjects of a seed of their own, the bent ones (of regseg) too; the real scans are dealt out by subject below. Heads and
pictures of classify and recognize are those of `benchmarks.zoo_sets`. With --folder, what is done already is not done again. Last
line: FIGURE.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real import COLUMNS, rows_of
from benchmarks.record import ROOT, commit, machine
from benchmarks.small_networks import registrations, segmenters
from benchmarks.workflow import command, environment
from benchmarks.zoo_bent import bent_table
from benchmarks.zoo_sets import OVERLAP, PICTURES, classifiers, finders, heads_table, pictures_table, sections
from cohortex.bakeoff.kinds import KINDS
from cohortex.errors import Refused
from cohortex.items import HEAD_LABELS
from cohortex.models.registry import entries
from cohortex.tables import read_table
from cohortex.training.settings import denoise_training

TASKS = ("denoise", "superresolve")
"""The tasks of which shipped models exist for other scans than the demo's, too; they run where none is named."""

LABELLED = ("segment", "regseg")
"""Those that need labels, which the simulated heads have."""

SETS = ("classify", "recognize")
"""Those of kinds of scans and of what is in them, on a cohort of their own."""

SEED = 70001
"""Of the simulated heads: no shipped model was trained on them."""

SPLITS = {
    "train": ("ms20", "prostate0", "prostate1", "prostate2", "lidc0314"),
    "validation": ("ms01", "prostate3", "nrrdbrain"),
    "test": ("ms07", "prostate4", "prostate5", "cord", "abdct"),
}
"""Real subjects by split."""

TITLES = {"demo": "Simulated heads", "bent": "Simulated heads, bent", "real": "Real scans", "pictures": "Pictures"}
GREYS = 48
"""Of a picture in the page."""

RESTORED = (
    "All networks of the registry, each trained for the same few steps of one small patch, which takes some seconds on one core, and the "
    "shipped model folders (`_shipped`), whose trainings took longer. redcnn, wavelet_cnn and all critics are narrower here than in their "
    "papers. So the order of the trained ones says which learn fast; it is not what they reach: for that, give the bake-off of your own "
    "cohort a budget of minutes. What the figures mean: [bakeoff.md](../bakeoff.md)."
)

ABOUT = {
    "denoise": RESTORED,
    "superresolve": RESTORED,
    "segment": (
        "All networks of the registry on labelled heads, each narrower than in its paper so that a core trains it in about a minute, and "
        "all for the same steps with the same loss (`benchmarks/small_networks.py` has the widths, patches and batches); `planned_unet`, "
        "which configures itself by the scans, is what they are held against, and the shipped joint model (`_shipped`) was trained longer. "
        "So the order says which small networks learn fast; it is not what they reach, and not an order of the papers. What the figures "
        "mean: [bakeoff.md](../bakeoff.md)."
    ),
    "regseg": (
        "The affine start alone, the methods without a network, every registration network of the registry, trained jointly with two "
        "segmentations for some minutes of one core, and the shipped joint models (`_shipped`), whose training took longer. CT and T1w of "
        "a simulated subject differ by a rigid motion alone, so after the affine start nothing is left to be deformed: registration can do "
        "no better than tie there, and that section shows that none does harm. Of the bent heads the CT is displaced against the T1w by "
        "5 mm in the mean (`benchmarks/zoo_bent.py`), as the organs of a trunk are between two scans. What the figures mean: "
        "[bakeoff.md](../bakeoff.md)."
    ),
    "classify": (
        "Networks of the registry that fit (volumes, or pictures; all of them where the command names none), each narrower than in its "
        "paper, and all for the same few steps, some seconds on one core (`benchmarks/zoo_sets.py` has the options). **The budget is too "
        "short to rank networks finely**: the page shows that each of them is trained, scored and held against the frequencies of the "
        "classes, and which learn fast; the order is not what they reach, and not an order of the papers. The simulated heads are on a "
        "grid of 3 mm and were segmented by the shipped joint model: the networks see its labels beside the image, as the shipped "
        "classifier (`_shipped`) does, whose training took longer. Of the pictures of tumours ten slices in a row count as one subject, "
        "since patients are not told apart; one may still be in two splits. What the figures mean: [bakeoff.md](../bakeoff.md)."
    ),
    "recognize": (
        "Networks of the registry (all of them where the command names none), each narrower than in its paper, and all for the same few "
        "steps, some tens of seconds on one core (`benchmarks/zoo_sets.py` has the options). **The budget is too short to rank networks "
        "finely**: the page shows that each of them is trained, scored and held against blobs, and which learn fast; the order is not what "
        "they reach, and not an order of the papers. Of each simulated head there are three slices of 1.5 mm with its labels; two heads "
        "in three have a tumour. The pictures of tumours have boxes in tables beside them; ten slices in a row count as one subject, since "
        "patients are not told apart, and one may still be in two splits. What the figures mean: [bakeoff.md](../bakeoff.md)."
    ),
}

CRITIC = {"critic_steps": 1, "width": 16, "hidden": 128}

SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "denoise": {
        "": {"batch": 1},
        "redcnn": {"options": {"filters": 48}},
        "wavelet_cnn": {"options": {"filters": 16}, "patch": 32},
        "wgan_vgg": {"objective": {"name": "wgan_features", "feature_steps": 30, "feature_width": 8, **CRITIC}, "patch": 48},
        "smgan": {"objective": {"name": "wgan_structure", **CRITIC}, "patch": [48, 48, 11]},
        "noise_gan": {"objective": {"name": "least_squares_gan", "width": 16}, "patch": 48},
        "dp_resnet": {"patch": [1, 1, 3]},
    },
    "superresolve": {
        "": {"batch": 1, "patch": 16, "slices": 6, "around": 3, "rate": 2e-3},
        "srcnn3d": {"patch": 12, "rate": 1e-3},
        "progressive_sr": {"objective": {"name": "progressive_gan_features", "feature_steps": 30, "feature_width": 8, "width": 8}},
    },
}
"""What is smaller than usual, so that a step takes a fraction of a second: of all networks, and of some."""


def candidates(task: str, cohort: str) -> list[dict[str, Any]]:
    """Return every network that its stage trains, and the model folders that are shipped, each as a mapping of its name to its settings."""
    if task in SETS:
        return [*(classifiers(cohort) if task == "classify" else finders()), *shipped_for(cohort, task)]
    if task in LABELLED:
        shipped = [{f"{card.parent.name}_shipped": {"weights": f"zoo/regseg/{card.parent.name}"}} for card in _cards("regseg")]
        return [*(segmenters() if task == "segment" else registrations()), *shipped]
    found: list[dict[str, Any]] = []
    for entry in entries(task):
        training = {**SMALL[task][""], **SMALL[task].get(entry.name, {})}
        own: dict[str, Any] = {"method": entry.name, "training": training}
        if "reference" in entry.expects.inputs and cohort == "real":
            own["reference"] = "T2w"
        elif "reference" in entry.expects.inputs:
            # Simulated heads have one MR contrast.
            training["options"] = {**training.get("options", {}), "inputs": ["image"]}
        if task != "denoise" or _trains(own):
            found.append({entry.name: own})
    for card in _cards(task):
        network = yaml.safe_load(card.read_text(encoding="utf-8"))["network"]
        found.append({f"{card.parent.name}_shipped": {"method": network, "weights": f"zoo/{task}/{card.parent.name}"}})
    return found


def shipped_for(cohort: str, task: str) -> list[dict[str, Any]]:
    """Return the shipped model folders that know the simulated heads, on these."""
    cards = [card for card in _cards(task) if cohort == "demo" and yaml.safe_load(card.read_text(encoding="utf-8"))["simulated"]]
    return [{f"{card.parent.name}_shipped": {"weights": f"zoo/{task}/{card.parent.name}"}} for card in cards]


def _cards(task: str) -> list[Path]:
    return sorted((ROOT / "zoo" / task).glob("*/card.yaml"))


def _trains(section: dict[str, Any]) -> bool:
    try:
        denoise_training({"default": section})
    except Refused:
        return False
    return True


def settings_of(given: argparse.Namespace, cohort: str) -> dict[str, Any]:
    """Return the settings of the bake-offs on a cohort."""
    if given.tasks[0] in SETS:
        return settings_of_set(given, cohort)
    asked: dict[str, dict[str, Any]] = {}
    for task in given.tasks:
        asked[task] = _asked(given, task, cohort)
        if task == "segment":
            named = {str(value): name.replace(" ", "_").lower() for value, name in HEAD_LABELS.items()}
            asked[task] |= {"edge": given.edge, "labels": named, "modality": "T1w"}
        elif task == "regseg":
            both_ways = {"method": "gauss_newton", "gauss_newton": {"symmetric": True}}
            asked[task] |= {"baselines": ["gauss_newton", {"both_ways": {"deformable": both_ways}}, "instance"]}
            asked[task]["training"] = {"minutes": given.minutes}
        else:
            asked[task] |= {"edge": given.edge, "adjust": None}
    restored = ["preprocess", "denoise", "superresolve"] if set(given.tasks) - set(LABELLED) else []
    joined = ["regseg"] if set(given.tasks) & set(LABELLED) else []
    found: dict[str, Any] = {"stages": ["acquire", *restored, *joined, "export"], "bakeoff": asked}
    if set(given.tasks) <= set(LABELLED):
        # Both read it, one after the other.
        found["keep"] = ["acquire"]
    if cohort == "demo":
        split = {"train": 0.5, "validation": 0.25, "test": 0.25}
        found["demo"] = {"subjects": given.subjects, "seed": SEED, "prefix": "zoo", "split": split, "labelled": 1 if joined else 0}
    return found


def _asked(given: argparse.Namespace, task: str, cohort: str) -> dict[str, Any]:
    """Return candidates and budget of a bake-off."""
    wanted = given.candidates.split(",") if given.candidates else []
    chosen = [each for each in candidates(task, cohort) if not wanted or next(iter(each)) in wanted]
    return {"candidates": chosen, "images": given.images, "training": {"steps": given.steps, "minutes": given.minutes}}


def settings_of_set(given: argparse.Namespace, cohort: str) -> dict[str, Any]:
    """Return the settings of a bake-off of `SETS`; volumes that are told apart are segmented before."""
    (task,) = given.tasks
    more = {"baselines": [], "against": "prior"} if task == "classify" else {"overlap": OVERLAP[cohort]}
    segmented = ["regseg"] if (task, cohort) == ("classify", "demo") else []
    found: dict[str, Any] = {"stages": ["acquire", *segmented, "export"], "keep": ["acquire"], "batch_size": 500}
    return {**found, "bakeoff": {task: {**_asked(given, task, cohort), **more}}, task: {"default": sections(task, cohort)}}


def real_table(folder: Path, data: Path) -> Path:
    """Write the cohort table of the real scans: structural images of the subjects of `SPLITS`."""
    splits = {subject: split for split, subjects in SPLITS.items() for subject in subjects}
    rows = [row for cohort in rows_of(data).values() for row in cohort if row[0] in splits and row[5] == "image"]
    kept = [(*row, splits[row[0]]) for row in rows if row[2] in ("T1w", "T2w", "FLAIR", "CT")]
    table = folder / "cohort.tsv"
    table.write_text("\n".join("\t".join(row) for row in [(*COLUMNS, "split"), *kept]) + "\n", encoding="utf-8")
    return table


def run(given: argparse.Namespace, cohort: str, folder: Path) -> Path:
    """Run the bake-offs in a folder and return where their pages are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.yaml").write_text(yaml.safe_dump(settings_of(given, cohort)), encoding="utf-8")
    words = [*(f"bakeoff_{task}" for task in given.tasks), "--configfile", str(folder / "zoo.yaml")]
    if cohort == "real":
        words += ["--config", f"input={real_table(folder, ROOT.parent / 'shared' / 'data')}"]
    elif cohort == "pictures":
        words += ["--config", f"input={pictures_table(folder, ROOT.parent / 'shared' / 'data')}"]
    elif cohort == "demo" and given.tasks[0] in SETS:
        words += ["--config", f"input={heads_table(folder, given.tasks[0])}"]
    elif cohort == "bent":
        words += ["--config", f"input={bent_table(folder, given.subjects)}"]
    with (folder / "benchmark.log").open("ab") as log:
        done = subprocess.run(command(*words, cores=given.cores), cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"a bake-off failed, see {folder / 'benchmark.log'}")
    return folder / "results" / "bakeoff"


def section(pages: Path, cohort: str, task: str, out: Path, words: Sequence[str]) -> str:
    """Return a cohort's section, and leave its picture beside the page."""
    from PIL import Image

    name = f"{task}-{cohort}.png"
    with Image.open(pages / "pictures" / "compared.png") as picture:
        # Fewer greys: the pictures are kept in the repository.
        picture.quantize(GREYS).save(out / name, optimize=True)
    board = (pages / "leaderboard.md").read_text(encoding="utf-8").split("\n", 1)[1]
    board = re.sub(r"^## ", "### ", board, flags=re.MULTILINE).replace("pictures/compared.png", name)
    host, command = machine(), " ".join(["python -m benchmarks.zoo", *words])
    about = f"`{command}`, commit {commit()}, {datetime.now(UTC).date().isoformat()}, {host['processor']} with {host['cores']} cores."
    return "\n".join([f"## {TITLES[cohort]}", "", about, "", board.strip(), ""])


def page(task: str, text: str, made: Mapping[str, str]) -> str:
    """Return a page with new sections in place of those of the same cohorts; the others stay as they are.

    Parameters
    ----------
    task : str
    text : str
        The page as it was; empty where there was none.
    made : mapping
        Cohort to its section.
    """
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = {cohort: each for cohort, title in TITLES.items() for each in found if each.startswith(f"## {title}\n")}
    sections = [(kept | dict(made))[cohort].strip() for cohort in TITLES if cohort in kept or cohort in made]
    return "\n\n".join([f"# Zoo: {task}", ABOUT[task], *sections]) + "\n"


def told(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments without those that name a place."""
    places = ("--folder", "--out")
    return [word for i, word in enumerate(arguments) if word not in places and (i == 0 or arguments[i - 1] not in places)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how large a bake-off is and where it runs."""
    parser.add_argument("--candidates", default="", help="names of networks, with commas; all by default")
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--edge", type=int, nargs=3, default=[64, 64, 12])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path)


def main() -> None:
    """Run the bake-offs and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="denoise, superresolve (both by default), segment, regseg, classify, recognize")
    add_options(parser)
    parser.add_argument("--only", default="demo,real")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "zoo")
    given = parser.parse_args()
    given.tasks = given.tasks or list(TASKS)
    if not set(given.tasks) <= {*TASKS, *LABELLED, *SETS}:
        parser.error(f"the tasks are {', '.join([*TASKS, *LABELLED, *SETS])}")
    cohorts = given.only.split(",")
    if set(given.tasks) & set(SETS) and (len(given.tasks) > 1 or set(cohorts) - {"demo", "pictures"}):
        parser.error("classify and recognize have cohorts of their own and go alone: --only demo, or pictures, or demo,pictures")
    if "pictures" in cohorts and not set(given.tasks) <= set(SETS):
        parser.error("the pictures have kinds and boxes of tumours alone: classify or recognize --only pictures")
    if "pictures" in cohorts and not (ROOT.parent / "shared" / "data" / PICTURES).is_dir():
        print(f"the optional folder of pictures (../shared/data/{PICTURES}) is not here: simulated heads only")
        cohorts.remove("pictures")
    if "real" in cohorts and set(given.tasks) & set(LABELLED):
        parser.error("segment and regseg are compared on the simulated heads, whose labels are known: --only demo, or bent")
    if "bent" in cohorts and given.tasks != ["regseg"]:
        parser.error("the bent heads are pairs to be registered: regseg --only bent")
    if "real" in cohorts and not (ROOT.parent / "shared" / "data").is_dir():
        print("the optional folder of real scans (../shared/data) is not here: simulated heads only")
        cohorts.remove("real")
    given.out.mkdir(parents=True, exist_ok=True)
    made: dict[str, dict[str, str]] = {task: {} for task in given.tasks}
    figures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for cohort in cohorts:
            pages = run(given, cohort, (given.folder or Path(temporary)) / cohort)
            for task in given.tasks:
                made[task][cohort] = section(pages / task, cohort, task, given.out, told(sys.argv[1:]))
                rows = read_table(pages / task / "leaderboard.tsv")
                best = next((row for row in rows if row["chosen"]), None)
                of = f"{task}_{cohort}"
                figures |= {f"{of}_systems": str(len(rows)), f"{of}_failed": str(sum(row["status"] != "ok" for row in rows))}
                if best is not None:
                    ranked = KINDS[task].ranked_by[0]
                    figures |= {f"{of}_chosen": best["system"], f"{of}_{ranked}_gain": best[f"{ranked}_gain"] or "0"}
    for task in given.tasks:
        path = given.out / f"{task}.md"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.write_text(page(task, before, made[task]), encoding="utf-8")
    print("FIGURE", *(f"{name}={value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
