"""Random SIGKILLs of jobs, workers and the head process: do the results stay the same, and how much work is done again?

    python -m benchmarks.faults [--kills 60] [--seed 11] [--seconds 0.6] [--folder DIR] [--save FILE]

Data: six simulated subjects of 35,000 voxels in batches of three, chain acquire, preprocess, denoise, export, local executor with
two cores. The stage functions are the workflow's, padded to 0.6 s so that kills meet them (`benchmarks.padded`). A run is killed
at random moments until ten kills have met it or it ends; the user's part is done after each death of a head: ``--unlock``, then the
same line again; a run that ends with an error is started again, too. Against: the results and records of an undisturbed run, byte
by byte (times left out).

Work lost by a kill: calls of a stage's function in a process that it ended, of which the same item began again later (where a process
ended otherwise, the first kill after the call began is to blame). Kills of whole nodes belong to the tests on Slurm.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.padded import Told, copy_workflow, read_told
from benchmarks.record import Run, Table, add_save
from benchmarks.workflow import command, environment
from tests.workflow import digests, write_cohort

SUBJECTS = [f"{number:03d}" for number in range(1, 7)]
SETTINGS = ("batch_size=3", "stages=[acquire,preprocess,denoise,export]")
KILLS_A_RUN = 10
STARTS = 40
"""A run that needs more starts than this does not come to an end."""


class Kill(NamedTuple):
    """When who was killed, and the processes that this ended: its own and, of a job, its workers."""

    time: float
    victim: str
    ended: frozenset[int]


def victims(head: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of a run: jobs run a script, workers are their children, the head is the root."""
    found: dict[str, list[psutil.Process]] = {"job": [], "worker": [], "head": [head]}
    for process in head.children(recursive=True):
        try:
            words = process.cmdline()
            parent = process.parent()
            above = " ".join(parent.cmdline()) if parent else ""
        except psutil.Error:
            continue
        if words and "python" in words[0] and any(".snakemake/scripts/" in word for word in words):
            found["worker" if "python" in above.split(" ")[0] and ".snakemake/scripts/" in above else "job"].append(process)
    return found


def may_die(work: Path, victim: str) -> bool:
    """Say whether a kill of this kind leaves every item below the number of deaths at which it is set aside as the cause of them."""
    from cohortex.stage import JOB_DEATHS, WORKER_DEATHS

    for file in (work / ".running").glob("*/*/*.starts.json"):
        try:
            count = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if file.with_name(file.name.replace(".starts.json", ".done.json")).exists():
            continue
        if victim == "worker" and count["worker_died"] + 1 >= WORKER_DEATHS:
            return False
        if count["started"] - count["worker_died"] + 1 >= JOB_DEATHS:
            return False
    return True


def strike(head: subprocess.Popen[bytes], work: Path, dice: random.Random) -> Kill | None:
    """Kill one process of a run of which a job runs; None when no job ran."""
    found = victims(psutil.Process(head.pid))
    if not found["job"]:
        return None
    order = ["worker", "job", "head"]
    dice.shuffle(order)
    for victim in order:
        if not found[victim] or not may_die(work, victim):
            continue
        process = dice.choice(found[victim])
        try:
            # jobs outlive their head
            below = [] if victim == "head" else process.children(recursive=True)
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
        return Kill(time.time(), victim, frozenset(each.pid for each in (process, *below)))
    return None


def disturbed(words: list[str], folder: Path, dice: random.Random, most: int, length_s: float) -> list[Kill]:
    """Run until it ends well, killing now and then, `most` times at most; return the kills."""
    kills: list[Kill] = []
    for _ in range(STARTS):
        with (folder / "head.log").open("ab") as log:
            head = subprocess.Popen(words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
            while head.poll() is None:
                until = time.monotonic() + dice.uniform(0.0, length_s / 4)
                while head.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                if head.poll() is None and len(kills) < most:
                    kill = strike(head, folder / "work", dice)
                    if kill is not None:
                        kills.append(kill)
                        if kill.victim == "head":
                            break
            code = head.wait()
            if code == 0:
                return kills
            subprocess.run([*words, "--unlock"], cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, check=True)
    raise SystemExit(f"the run in {folder} did not come to an end after {STARTS} starts, see its head.log")


def lost(told: list[Told], kills: list[Kill]) -> Counter[int]:
    """Return by kill (its number) how many items were begun again because of it."""
    begun: dict[tuple[str, str], Told] = {}
    found: Counter[int] = Counter()
    for line in told:
        if line.what != "begin":
            continue
        item = (line.stage, line.item)
        if item in begun:
            last = begun[item]
            later = [number for number, kill in enumerate(kills) if kill.time >= last.time]
            guilty = [number for number in later if last.pid in kills[number].ended] or later or [-1]
            found[guilty[0]] += 1
        begun[item] = line
    return found


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """Return the files that two runs do not have alike."""
    names = []
    for part in ("results", "work/records"):
        one, other = digests(folder / part), digests(undisturbed / part)
        names += [f"{part}/{name}" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    return names


def main() -> None:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.6, help="what a stage's function takes")
    parser.add_argument("--folder", type=Path)
    add_save(parser)
    given = parser.parse_args()
    run = Run("faults", ["snakemake"])
    dice = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        table = write_cohort(folder / "cohort", SUBJECTS)

        def prepared(name: str) -> tuple[list[str], Path]:
            place = folder / name
            place.mkdir()
            snakefile = copy_workflow(place / "workflow", given.seconds, place / "told.tsv")
            return [*command(snakefile=snakefile), "--config", f"input={table}", *SETTINGS], place

        words, undisturbed = prepared("undisturbed")
        started = time.monotonic()
        with (undisturbed / "head.log").open("ab") as log:
            subprocess.run(words, cwd=undisturbed, env=environment(), stdout=log, stderr=subprocess.STDOUT, check=True)
        length_s = time.monotonic() - started
        print(f"an undisturbed run takes {length_s:.0f} s", flush=True)

        by_victim: dict[str, list[int]] = {"worker": [], "job": [], "head": []}
        mismatches, without, number = 0, 0, 0
        while sum(map(len, by_victim.values())) < given.kills:
            number += 1
            words, place = prepared(f"run{number:02d}")
            most = min(KILLS_A_RUN, given.kills - sum(map(len, by_victim.values())))
            kills = disturbed(words, place, dice, most, length_s)
            again = lost(read_told(place / "told.tsv"), kills)
            wrong = differences(place, undisturbed)
            mismatches += len(wrong)
            without += again.pop(-1, 0)
            for index, kill in enumerate(kills):
                by_victim[kill.victim].append(again[index])
            print(
                f"run {number}: killed {', '.join(f'{kill.victim} (-{again[index]})' for index, kill in enumerate(kills))}; "
                + (f"{len(wrong)} files differ: {', '.join(wrong[:5])}" if wrong else "results and records as undisturbed"),
                flush=True,
            )
    everything = [each for losses in by_victim.values() for each in losses]
    table = Table({"killed": "", "kills": "d", "images begun again": "d", "at most by one kill": "d", "files that differ": "d"})
    for victim, losses in {**by_victim, f"all, in {number} runs": everything}.items():
        table.add(victim, len(losses), sum(losses), max(losses, default=0), mismatches if losses is everything else None)
    figures = {
        "kills": len(everything),
        "mismatches": mismatches,
        "images_lost_per_kill": max(everything, default=0),
        "mean_lost": sum(everything) / max(len(everything), 1),
        "lost_by_heads": sum(by_victim["head"]),
        "begun_again_unkilled": without,
    }
    run.end({"kills": table}, figures, given.save)
    if mismatches:
        sys.exit(1)


if __name__ == "__main__":
    main()
