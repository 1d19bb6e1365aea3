"""Running the real workflow in tests: a tiny cohort, snakemake as a user types it, what it left."""

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("timing.tsv", ".snakemake_timestamp", "owner.json")
"""Files in which a run's times stand, which no two runs share; pages say when they were made, too."""


def phantom(seed: int, shape: tuple[int, int, int] = (40, 44, 20)) -> np.ndarray:
    """Return a noisy ellipsoid with two inner parts, float32."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    shift = rng.uniform(-0.1, 0.1, 3)
    radius = np.sqrt((x - shift[0]) ** 2 / 0.6 + (y - shift[1]) ** 2 / 0.8 + (z - shift[2]) ** 2 / 0.7)
    image = 300.0 * (radius < 1) + 250.0 * (radius < 0.7) - 200.0 * (radius < 0.3)
    return (image + rng.normal(0, 15, shape)).clip(0).astype(np.float32)


def write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.5, 1.5, 3.0)) -> Path:
    """Write an array as a NIfTI file, world origin in the middle."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(spacing) * (np.array(array.shape) - 1) / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def write_cohort(folder: Path, subjects: list[str], modalities: tuple[str, ...] = ("T1w",)) -> Path:
    """Write a table and an image for each subject and modality; return the table."""
    rows = ["subject\tsession\tmodality\tpath\tbody_part"]
    for number, subject in enumerate(subjects):
        for modality in modalities:
            write_nifti(folder / "scans" / f"{subject}_{modality}.nii.gz", phantom(100 * number + len(modality)))
            rows.append(f"{subject}\t\t{modality}\tscans/{subject}_{modality}.nii.gz\t")
    table = folder / "cohort.tsv"
    table.write_text("\n".join(rows) + "\n")
    return table


def command(folder: Path, *arguments: str, **config: object) -> list[str]:
    """Return the words of a run in a folder; configuration as keywords."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles" / "local")]
    words += ["--cores", "2", *arguments]
    if config:
        words += ["--config", *[f"{name}={value}" for name, value in config.items()]]
    return words


def environment() -> dict[str, str]:
    """Return the environment of a run."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def snakemake(folder: Path, *arguments: str, check: bool = True, **config: object) -> subprocess.CompletedProcess[str]:
    """Run the workflow in a folder and return what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command(folder, *arguments, **config), cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert not check or done.returncode == 0, done.stdout[-6000:]
    return done


def start(folder: Path, *arguments: str, **config: object) -> subprocess.Popen[bytes]:
    """Start the workflow in a folder in the background, in a session of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "head.log").open("ab")
    return subprocess.Popen(
        command(folder, *arguments, **config),
        cwd=folder,
        env=environment(),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # tests that a shell started in the background ignore SIGINT, and would hand that on
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder but those that hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TIMES and path.suffix != ".html"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def listing(folder: Path) -> list[str]:
    """Return the names of all files below a folder, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".snakemake_timestamp")


def jobs_run(output: str) -> dict[str, int]:
    """Return how many jobs of each rule a run started, from what snakemake said."""
    counts: dict[str, int] = {}
    for rule in re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE):
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def computed(work: Path) -> dict[tuple[str, str], int]:
    """Return how often each item was computed in each stage, from the logs (what was resumed leaves no line)."""
    counts: dict[tuple[str, str], int] = {}
    for log in (work / "logs").rglob("b*.log"):
        for name in re.findall(r"\] \d+/\d+ (\S+) ", log.read_text()):
            counts[log.parent.name, name] = counts.get((log.parent.name, name), 0) + 1
    return counts


def need_generic_executor() -> None:
    """Skip a test of clusters without Slurm where their executor, an extra of the package, is not installed."""
    if importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None:
        pytest.skip("snakemake-executor-plugin-cluster-generic is not installed")
