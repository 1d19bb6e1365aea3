"""Runs on the Slurm of the tests, and what is done to them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.slurm.cluster import processes_here, wait_for
from tests.workflow import ROOT, environment

CHAIN = "[acquire,export]"


class Held(NamedTuple):
    """A job whose processes were stopped."""

    job: str
    node: str
    pid: int


def site_profile(folder: Path, **set_resources: dict[str, object]) -> Path:
    """Write a site's profile, as docs/cluster.md shows it, with short waits; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["slurm-init-seconds-before-status-checks: 1", "latency-wait: 10", "default-resources:"]
    lines += ["  slurm_partition: cpu", "  mem_mb: 2000", "  runtime: 30"]
    if set_resources:
        lines.append("set-resources:")
        for rule, given in set_resources.items():
            lines += [f"  {rule}:", *(f"    {name}: {value}" for name, value in given.items())]
    (folder / "profile.v9+.yaml").write_text("\n".join(lines) + "\n")
    return folder


def command(site: Path, *arguments: str, **config: object) -> list[str]:
    """Return the words of a run with a site's profile."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles" / "slurm")]
    words += ["--workflow-profile", str(site), *arguments]
    return [*words, "--config", *[f"{name}={value}" for name, value in config.items()]]


def signalled(pid: int, number: signal.Signals) -> bool:
    """Return whether a process that was stopped has been sent a signal: it waits for the process, or has let it go on and end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    return not lines["State"].startswith("T") or any(int(lines[name], 16) >> (number - 1) & 1 for name in ("SigPnd", "ShdPnd"))


class Run:
    """A head process in a folder of its own, and what it said."""

    def __init__(self, folder: Path, words: list[str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.work = folder, folder / "work"
        self.log = folder / f"head{len(list(folder.glob('head*.log')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def said(self) -> str:
        """What it said until now."""
        return self.log.read_text()

    def ends(self, seconds: float = 900) -> int:
        """Wait until it ends; return its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the run did not end:\n{self.said[-6000:]}") from None

    def kill(self) -> None:
        """Kill the head process, as a lost login node does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def says(self, pattern: str, seconds: float = 240) -> str:
        """Wait until it says something; return the line."""

        def heard() -> re.Match[str] | None:
            return re.search(rf"^.*{pattern}.*$", self.said, re.MULTILINE)

        wait_for(lambda: heard() or self.process.poll() is not None, seconds, f"{pattern!r} in:\n{self.said[-4000:]}")
        match = heard()
        assert match, f"it ended without {pattern!r}:\n{self.said[-4000:]}"
        return match.group()

    def owner(self, stage: str, batch: str) -> dict[str, object]:
        """Return who works, or worked, on a batch."""
        with suppress(FileNotFoundError, ValueError):
            return json.loads((self.work / ".running" / stage / batch / "owner.json").read_text())
        return {}

    def hold(self, stage: str, batch: str, but: int = 0, seconds: float = 300) -> Held:
        """Stop the processes of a batch's job at its first image.

        Parameters
        ----------
        but : int
            The process of an earlier attempt, which is not meant.
        """
        found: list[Held] = []

        def held() -> bool:
            owner = self.owner(stage, batch)
            with suppress(psutil.Error, KeyError):
                process = psutil.Process(int(str(owner["pid"])))
                if process.pid != but and abs(process.create_time() - float(str(owner["started"]))) < 1:
                    process.suspend()
                    for child in process.children(recursive=True):
                        child.suspend()
                    found.append(Held(str(owner["slurm_job"]), process.environ()["SLURMD_NODENAME"], process.pid))
            return bool(found) or self.process.poll() is not None

        wait_for(held, seconds, f"{stage} of {batch} runs in:\n{self.said[-3000:]}")
        assert found, f"it ended before {stage} of {batch}:\n{self.said[-4000:]}"
        return found[0]

    def let_go(self, stage: str, batch: str) -> None:
        """Let the processes that were held go on."""
        process = psutil.Process(int(str(self.owner(stage, batch)["pid"])))
        for one in (*process.children(recursive=True), process):
            one.resume()

    def hold_training(self, step: int, of: int, seconds: float = 600) -> list[Held]:
        """Stop all processes that train together after a step of theirs."""
        log = self.work / "logs" / "train"
        wait_for(
            lambda: self.process.poll() is not None or any(f"step {step} of {of}" in file.read_text() for file in log.glob("*.log")),
            seconds,
            f"step {step} of the training in:\n{self.said[-3000:]}",
        )
        found = []
        for process in processes_here():
            with suppress(psutil.Error):
                words = process.cmdline()
                if words[1:3] == ["-m", "cohortex.training.member"] and Path(process.cwd(), words[3]).is_relative_to(self.work):
                    process.suspend()
                    found.append(Held(process.environ()["SLURM_JOB_ID"], process.environ()["SLURMD_NODENAME"], process.pid))
        assert found, f"nothing trains any more:\n{self.said[-4000:]}"
        return found

    def asked(self, rule: str, batch: str) -> list[dict[str, int]]:
        """Return the resources that a job asked for, at each attempt."""
        blocks = re.findall(rf"^rule {rule}:\n((?:    .*\n)+)", self.said, re.MULTILINE)
        found = [re.search(r"^    resources: (.*)$", block, re.MULTILINE) for block in blocks if batch in block]
        return [{name: int(value) for name, value in re.findall(r"(\w+)=(\d+)\b(?! )", line.group(1))} for line in found if line]
