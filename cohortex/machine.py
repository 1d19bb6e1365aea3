"""What this machine and its file systems must be able to do before any job of a run is started.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, RLIMIT_NPROC, getrlimit
from typing import TYPE_CHECKING, Any

from cohortex.errors import Refused
from cohortex.resources import Load, ask, load_of_tables, memory_mb
from cohortex.stages import STAGES

if TYPE_CHECKING:
    from cohortex.cohort import BatchSize

SHARE = 0.9
"""Of the machine's memory, what jobs get together; the rest is for the system and the head process."""
SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Errors of a machine that gives no more open files, processes or threads: no image's fault."""
NAMED = 3
"""So many batches or files are named in a sentence."""


def memory_for_jobs_mb() -> int:
    """Return the memory that jobs on this machine may have together: of the machine, or of the control group that this process is in."""
    import psutil

    return int(SHARE * min([psutil.virtual_memory().total, *_limits()]) / 1e6)


def _limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the limits in bytes that the control groups of this process set, both versions."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = top / path.lstrip("/")
        for folder in [group, *group.parents]:
            try:
                text = (folder / name).read_text(encoding="utf-8").strip()
            except OSError:
                text = ""
            if text.isdigit():
                yield int(text)
            if folder == top:
                break


# --- memory and GPUs of this machine ---------------------------------------------------------------------------


def check_memory(config: Mapping[str, Any], sizes: Mapping[str, BatchSize], limit_mb: int, told: Collection[str] = ()) -> None:
    """Compare the memory that the first attempt of every job asks for with what this machine has.

    Parameters
    ----------
    config : mapping
    sizes : mapping
        Of the batches.
    limit_mb : int
        For all jobs together.
    told : collection of str
        Stages whose memory the user gave on the command line.

    Raises
    ------
    Refused
        Naming stage, batch, image and what to change.
    """
    for stage in config["stages"]:
        if stage in told:
            continue
        load = {batch: load_of_tables([size]) for batch, size in sizes.items()}
        asked = {batch: memory_mb(ask(stage, config, each)) for batch, each in load.items()}
        above = sorted((batch for batch in asked if asked[batch] > limit_mb), key=lambda batch: -asked[batch])
        if above:
            images = ", ".join(_largest(config, batch, load[batch]) for batch in above[:NAMED])
            more = f" (and batches {len(above) - NAMED} more)" if len(above) > NAMED else ""
            streams = f"lower blocks.memory_mb (it is {config['blocks']['memory_mb']}), " if STAGES[stage].streams else ""
            raise Refused(
                f"{stage} needs about {asked[above[0]]} MB for {images}{more}, and the jobs of this machine have {limit_mb} MB: {streams}"
                "run on a machine with more memory or a cluster (--profile slurm), leave these images out (select), or, if you know "
                f"better, say --set-resources {stage}:mem_mb={limit_mb}."
            )


def _largest(config: Mapping[str, Any], batch: str, load: Load) -> str:
    """Name the image of a batch that takes most memory, by the sizes of files."""
    from cohortex.cohort.cut import Prints
    from cohortex.privacy.conceal import true_rows
    from cohortex.tables import read_table

    largest = max(load.parts, key=lambda part: part.largest_mb)
    work = Path(config["work"])
    told = read_table(work / "cohort" / "batches" / f"{batch}.tsv")
    rows = [row for row in true_rows(work, batch, told) if row["modality"] == largest.modality]
    prints = Prints("size", work / "cohort" / "fingerprints.json")
    row = max(rows, key=lambda row: prints.of(row["path"])[1])
    return f"{row['image']} ({largest.largest_mb:.0f} MB as float32, batch {batch})"


def check_gpus(config: Mapping[str, Any], slots: int | None, visible: Collection[str]) -> None:
    """Refuse ``device: cuda`` on a machine without a GPU, or with no slot for one.

    Parameters
    ----------
    config : mapping
    slots : int or None
        ``--resources gpu=``; None where it is not limited.
    visible : collection of str
        The GPUs that this process sees.

    Raises
    ------
    Refused
        Naming the key.
    """
    learned = [stage for stage in config["stages"] if STAGES[stage].learned]
    if config["device"] != "cuda" or not learned:
        return
    if not visible:
        raise Refused(
            f"device is cuda, but this machine has no GPU that {', '.join(learned)} could use: set device to auto or cpu, "
            "or run on a cluster that has some (--profile slurm)."
        )
    if slots is not None and slots < 1:
        raise Refused("device is cuda, but gpu=0 leaves no slot for a GPU: give --resources gpu=1, or set device to auto or cpu.")


# --- file systems ----------------------------------------------------------------------------------------------


def check_written(folders: Mapping[str, str]) -> None:
    """Refuse folders that cannot be written to: read-only file systems, missing permissions.

    Parameters
    ----------
    folders : mapping
        Key of the configuration to folder; a folder need not be there yet.

    Raises
    ------
    Refused
        Naming the key and the folder.
    """
    for key, folder in folders.items():
        there = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise Refused(f"{key}: {there} is a file where a folder is wanted; give another {key}.")
        if not os.access(there, os.W_OK | os.X_OK):
            read_only = os.statvfs(there).f_flag & os.ST_RDONLY
            why = "its file system is mounted read-only" if read_only else "you have no permission"
            raise Refused(f"{key}: nothing can be written in {there} ({why}); give another {key}.")


def too_few(error: OSError) -> str:
    """Say in a sentence that no more files, processes or threads are given, and what to do."""
    limit, name, what = (RLIMIT_NPROC, "u", "start no more processes or threads")
    if error.errno != errno.EAGAIN:
        limit, name, what = RLIMIT_NOFILE, "n", "open no more files"
    most = getrlimit(limit)[0]
    told = f" is {most}" if most != RLIM_INFINITY else ""
    return f"this process may {what} (ulimit -{name}{told}); raise the limit, or run fewer jobs at once, then start the same line again."


def no_space(folder: str | Path, error: OSError) -> str:
    """Say in a sentence that a disk is full, has no files left, or is read-only, and what to do."""
    if error.errno == errno.EROFS:
        return f"the file system of {folder} has become read-only; mount it for writing, then start the same line again."
    if error.errno == errno.EDQUOT:
        return f"the quota of {folder} is used up; free some of it or give another folder, then start the same line again."
    try:
        disk = os.statvfs(folder)
        files = disk.f_files > 0 and disk.f_favail == 0
    except OSError:
        files = False
    what = "has no room for another file (inodes)" if files else "is full"
    return f"the disk of {folder} {what}; free some of it or give another folder, then start the same line again: what is finished is kept."
