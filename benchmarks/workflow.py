"""Starting the workflow and taking its measure, for all benchmarks that run it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]


class Cost(NamedTuple):
    """What a command took: wall and CPU time of its whole tree in s, the peak memory of its tree and of the process itself in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    head_mb: float


def command(*arguments: str, cores: int | None = 2, snakefile: Path = ROOT / "Snakefile", profile: str = "local") -> list[str]:
    """Return the words of a run; `cores` is None on a cluster, whose profile says how many jobs there may be."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--profile", str(ROOT / "profiles" / profile)]
    return [*words, *([] if cores is None else ["--cores", str(cores)]), *arguments]


def environment() -> dict[str, str]:
    """Return the environment of a run."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def tree_mb(process: psutil.Process) -> float:
    """Return the memory of a process and all its children in MB; shared pages count once (PSS)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def measured(words: list[str], folder: Path) -> Cost:
    """Run a command in a folder, its words appended to ``benchmark.log``; the memory of the tree is sampled four times a second.

    The CPU time is that of the process and of every descendant that was waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
                    peak = max(peak, tree_mb(watched))
                except psutil.Error:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed, see {folder / 'benchmark.log'}")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, peak, usage.ru_maxrss / 1024)
