"""Cost of the demo, the parse and a dry run of 10,000 subjects, and what each stage gains on 24 subjects never trained on.

    python -m benchmarks.demo [--subjects 24] [--folder DIR] [--only demo,parse,dry,gain]

Data: the simulated demo cohort (the shipped one for the cost, seed 90001 for the gains; the shipped weights were trained on
other seeds, see their cards). Against: doing nothing - the image as it came into the stage (denoise), its trilinear
interpolation (superresolve), the scanner's coordinates (regseg). Intervals: 95 %, bootstrap over subjects, paired.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SEED = 90001


def command(*arguments: str, cores: int = 2) -> list[str]:
    """Return the words of a run."""
    profile = str(ROOT / "profiles" / "local")
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--profile",
        profile,
        "--cores",
        str(cores),
        *arguments,
    ]


def environment() -> dict[str, str]:
    """Return the environment of a run."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def tree_gb(process: psutil.Process) -> float:
    """Return the memory of a process and all its children in GB; shared pages count once (PSS)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e9


def measured(words: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its wall time in s and its peak memory in GB, sampled four times a second."""
    peak = 0.0
    started = time.monotonic()
    with (folder / "benchmark.log").open("ab") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.25):
                try:
                    peak = max(peak, tree_gb(watched))
                except psutil.Error:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(words)} failed, see {folder / 'benchmark.log'}")
    return time.monotonic() - started, peak


def demo_cost(folder: Path) -> dict[str, float]:
    """Run the shipped demo."""
    folder.mkdir(parents=True, exist_ok=True)
    wall_s, peak_gb = measured(command(), folder)
    return {"demo_wall_s": wall_s, "demo_peak_gb": peak_gb}


PARSE = """
import sys, time
from snakemake import cli
from snakemake.workflow import Workflow
include, depth, spent = Workflow.include, 0, []
def timed(self, *args, **kwargs):
    global depth
    depth += 1
    started = time.perf_counter()
    try:
        return include(self, *args, **kwargs)
    finally:
        depth -= 1
        if depth == 0:
            spent.append(time.perf_counter() - started)
Workflow.include = timed
try:
    cli.main(sys.argv[1:])
except SystemExit:
    pass
print("PARSE", sum(spent))
"""


def parse_cost(folder: Path) -> dict[str, float]:
    """Time the parse of the Snakefile as a job process on a cluster does it (mode remote); median of five."""
    snakefile = ["--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    subprocess.run(
        [sys.executable, "-m", "snakemake", *snakefile, "-n", "-q"], cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    times = []
    for _ in range(5):
        target = ["work/records/acquire/b00001", "--mode", "remote", "-n", "-q"]
        done = subprocess.run(
            [sys.executable, "-c", PARSE, *snakefile, *target], cwd=folder, env=environment(), text=True, capture_output=True, check=True
        )
        times.append(float(done.stdout.split("PARSE")[1]))
    return {"parse_s": sorted(times)[2]}


def dry_cost(folder: Path) -> dict[str, float]:
    """Dry-run 10,000 subjects in batches of 20 (stand-in files)."""
    folder.mkdir(parents=True, exist_ok=True)
    scan = folder / "scan.nii.gz"
    scan.write_bytes(b"stand-in")
    lines = ["subject\tmodality\tpath", *(f"s{number:05d}\tT1w\tscan.nii.gz" for number in range(10_000))]
    (folder / "cohort.tsv").write_text("\n".join(lines) + "\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [*command("-n", "-q"), "--config", f"input={folder / 'cohort.tsv'}", "batch_size=20"]
    process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the dry run of 10,000 subjects failed")
    del before
    return {"dry10k_cpu_s": usage.ru_utime + usage.ru_stime, "dry10k_mb": usage.ru_maxrss / 1024}


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
    parser.add_argument("--only", default="demo,parse,dry,gain")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        parts = {
            "demo": lambda: demo_cost(folder / "demo"),
            "parse": lambda: parse_cost(folder / "parse"),
            "dry": lambda: dry_cost(folder / "dry"),
            "gain": lambda: gains(folder / "gain", given.subjects),
        }
        (folder / "parse").mkdir(parents=True, exist_ok=True)
        figures: dict[str, float] = {}
        for name in given.only.split(","):
            figures |= parts[name]()
    for name, value in figures.items():
        print(f"{name:32s} {value:.4g}")
    print("FIGURE", *(f"{name}={value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
