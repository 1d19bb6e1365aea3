"""The commands of the documentation: which are run, and for each that is not, why, and what is looked at instead.

A command counts as run where all its words are words of one that is (`RUN`), so one dry run stands for several commands.
"""

from __future__ import annotations

import re
import shlex

MY = "input=my_study output=my_results work=my_work"
ALL_BAKEOFFS = " ".join(f"bakeoff_{task}" for task in ("denoise", "superresolve", "segment", "regseg", "classify", "recognize"))

README = [
    "make demo",
    f"snakemake --profile local --config {MY}",
    f"snakemake --profile local --config {MY} --dry-run",
    "cohortex status my_work",
    "cohortex verify my_results",
]
"""Those of the README, as they stand there."""

RUN = [
    *README,
    "make docs",
    "cohortex index /data/dump -o cohort.tsv",
    "cohortex status my_work --follow",
    'cohortex find my_results "class=tumour" "volume_lesion_ml>2" "age>=60"',
    "snakemake --profile local --configfile my_study.yaml",
    "snakemake --profile local --configfile my_study.yaml --report report.zip",
    f"snakemake --profile slurm --workflow-profile ~/cohortex-site --configfile my_study.yaml --config device=cuda {MY} -n"
    " --set-resources train:gpu=4 train:slurm_partition=gpu",
    f"snakemake --profile local {ALL_BAKEOFFS} --config {MY} -n",
    "snakemake --profile generic -n",
    "snakemake --profile slurm --config container=/path/to/cohortex.sif -n",
    "snakemake --profile slurm batches --batch batches=1/10 -n",
    "snakemake --profile slurm --logger rich --until denoise -n",
    "snakemake --profile local --configfile docs/recipes/denoise_from_noisy_scans.yaml my_study.yaml -n",
]
"""In this order; ``-n`` where the whole would take long or needs a cluster."""

NEEDS = {"make docs": "mkdocs", "snakemake --profile generic -n": "snakemake_executor_plugin_cluster_generic"}
"""Modules without which a command cannot run; `make install` brings the first, an extra of the package the second."""

STAND_INS = {
    "/data/dump": "{clone}/work/demo",
    "~/cohortex-site": "{clone}/cohortex-site",
    'cohortex find my_results "class': 'cohortex find results "class',
    f"{ALL_BAKEOFFS} --config {MY}": f"{ALL_BAKEOFFS} --config input=labelled.tsv output=compared work=comparing",
    "batches=1/10": "batches=1/10 --config input=labelled.tsv output=shared work=sharing batch_size=1",
}
"""What stands for folders and cohorts of a user: the demo's results for those with classes, a table with labels and splits."""

ELSEWHERE = {
    r"make test": "is this very run",
    r"make lint": "continuous integration runs it before the tests (.ci/run)",
    r"make install": "has made the environment that this runs in; a test holds its words (tests/unit/test_environments.py)",
    r"make (lock|audit)": "asks a package index",
    r"make (figures|zoo|zoo-superresolve)": "takes hours; what it would call is looked at (make -n)",
    r"pip install .*|python -m venv .*": "asks a package index; the extras that bring these stand in pyproject.toml",
    r"docker .*|apptainer .*": "no daemon; benchmarks/image.py builds the image, tests/unit/test_environments.py compares both recipes",
    r"snakemake --profile slurm --sdm (conda|apptainer).*": "needs conda or Apptainer; tests/run/test_engines.py has a stand-in",
    r"snakemake --profile local --resources gpu=4 --config device=cuda": "needs a GPU; a machine without one refuses it, which is run here",
    r"cohortex view .*": "serves until it is ended; tests/unit/test_cli.py asks it for pages",
    r"python -m http\.server .*": "serves until it is ended",
    r"cohortex names .*": "needs a run with pseudonyms; tests/unit/test_privacy.py has one",
    r"snakemake bakeoff_<task>": "stands for the six that are run",
    r"python -m benchmarks\.registration_picture .*": "draws a picture of a benchmark; its one argument is a file",
}
"""Patterns of whole commands, and why they do not run here. Of commands of this package the arguments are parsed all the same."""

SLURM = "tests/slurm/test_slurm.py"
"""Where Slurm itself runs the workflow; here its commands are dry runs."""


def words(command: str) -> list[str]:
    """Return the words of a command without what makes it a dry run."""
    return [word for word in shlex.split(command) if word not in ("-n", "--dry-run")]


def covered_by(command: str) -> str:
    """Return the command that is run and holds all words of this one; empty where there is none."""
    wanted = words(command)
    return next((run for run in RUN if wanted[0] == words(run)[0] and set(wanted) <= set(words(run))), "")


def reason(command: str) -> str:
    """Return why a command is not run; empty where nothing is said of it."""
    return next((why for pattern, why in ELSEWHERE.items() if re.fullmatch(pattern, command)), "")


def modules(command: str) -> list[list[str]]:
    """Return the module and arguments of every ``python -m`` of this repository in a command."""
    found = []
    for part in command.split("&&"):
        # what a record of a measurement says after a comma is no word of the command
        given = shlex.split(re.sub(r", .*", "", part.strip()))
        if given[:2] == ["python", "-m"] and given[2].split(".")[0] in ("benchmarks", "cohortex", "tests"):
            found.append(given[2:])
    return found
