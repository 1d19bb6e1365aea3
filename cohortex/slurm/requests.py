"""What jobs ask of Slurm, held against the partitions that there are, before anything is submitted; and sbatch's errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FORMAT = "%P|%l|%c|%m|%G"
"""What sinfo is asked to write, a line for each partition and kind of node."""
DOCS = "docs/cluster.md shows a site's profile"


class Nodes(NamedTuple):
    """Nodes of one kind in a partition."""

    partition: str
    default: bool
    minutes: float
    cpus: int
    mem_mb: int
    gpus: int


class Request(NamedTuple):
    """What a job of a rule asks for, on one node; None where it says nothing."""

    rule: str
    what: str
    partition: str | None
    account: str | None
    cpus: int
    mem_mb: int
    minutes: int
    gpus: int


def minutes_of(limit: str) -> float:
    """Return a time limit as Slurm writes it (``infinite``, ``30:00``, ``1:00:00``, ``2-00:00:00``) in minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not match:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 1440 * days + 60 * hours + minutes + seconds / 60


def read_nodes(text: str) -> list[Nodes]:
    """Return what sinfo wrote in `FORMAT`."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5:
            name, limit, cpus, mem_mb, gres = cells
            gpus = sum(int(count or 1) for count in re.findall(r"\bgpu(?::(?!\d+\b(?!\.))[\w.-]+)?(?::(\d+))?", gres))
            # a + says that some of these nodes have more
            most_cpus, most_mb = (int(re.sub(r"\D", "", cell) or 0) for cell in (cpus, mem_mb))
            found.append(Nodes(name.rstrip("*"), name.endswith("*"), minutes_of(limit), most_cpus, most_mb, gpus))
    return found


def refusals(requests: Iterable[Request], nodes: Sequence[Nodes]) -> list[str]:
    """Return a sentence for everything that no node of its partition can give, one a rule; nothing where all may run.

    Only what is plainly impossible is named: what a site forbids besides (accounts, limits of a user) is told by sbatch.
    """
    found: dict[tuple[str, str], str] = {}
    # of a rule's jobs the largest is named
    for asked in sorted(requests, key=lambda asked: (-asked.mem_mb, -asked.minutes, asked.what)):
        for kind, sentence in _impossible(asked, nodes):
            found.setdefault((asked.rule, kind), sentence)
    return list(found.values())


def _impossible(asked: Request, nodes: Sequence[Nodes]) -> Iterable[tuple[str, str]]:
    names = sorted({node.partition for node in nodes})
    if not nodes:
        return
    if asked.partition is None:
        mine = [node for node in nodes if node.default]
        if not mine:
            yield (
                "partition",
                f"no partition is named for {asked.rule}, and this Slurm has no default one: give slurm_partition ({', '.join(names)}) in "
                f"default-resources; {DOCS}",
            )
            return
        where = f"the default partition {mine[0].partition}"
    else:
        several = asked.partition.split(",")
        mine = [node for node in nodes if node.partition in several]
        if not mine:
            yield (
                "partition",
                f"{asked.rule} is to run in partition {asked.partition}, but those of this Slurm are {', '.join(names)}: correct "
                f"slurm_partition in default-resources or set-resources; {DOCS}",
            )
            return
        where = f"partition {asked.partition}"
    give = f"--set-resources {asked.rule}:"
    most = {"gpus": max(node.gpus for node in mine), "cpus": max(node.cpus for node in mine), "mem_mb": max(node.mem_mb for node in mine)}
    if asked.gpus > most["gpus"]:
        having = sorted({node.partition for node in nodes if node.gpus >= asked.gpus})
        fix = f"{give}slurm_partition={having[0]} (GPUs are in {', '.join(having)})" if having else "set device: cpu, this Slurm has none"
        yield "gpu", f"{asked.what} asks for {asked.gpus} GPU, and no node of {where} has so many: {fix}"
        return
    if asked.cpus > most["cpus"]:
        yield (
            "cpus",
            f"{asked.what} asks for {asked.cpus} processors, the largest node of {where} has {most['cpus']}: --set-threads {asked.rule}=N",
        )
        return
    if asked.mem_mb > most["mem_mb"]:
        larger = sorted({node.partition for node in nodes if node.mem_mb >= asked.mem_mb and node.gpus >= asked.gpus})
        other = f"{give}slurm_partition={larger[0]}, or " if larger else ""
        yield (
            "memory",
            f"{asked.what} asks for {asked.mem_mb} MB, the largest node of {where} has {most['mem_mb']} MB: {other}lower "
            f"blocks.memory_mb; {give}mem_mb=N asks for less",
        )
        return
    if not any(node.gpus >= asked.gpus and node.cpus >= asked.cpus and node.mem_mb >= asked.mem_mb for node in mine):
        yield (
            "together",
            f"no node of {where} has at once the {asked.gpus} GPU, {asked.cpus} processors and {asked.mem_mb} MB that {asked.what} "
            f"asks for: {give}mem_mb=N, or another slurm_partition",
        )
    longest = max(node.minutes for node in mine)
    if asked.minutes > longest:
        yield (
            "time",
            f"{asked.what} asks for {asked.minutes} minutes, {where} gives {longest:.0f} at most: lower batch_size, or {give}runtime=N or "
            "another slurm_partition",
        )


PLAIN = (
    (
        r"Invalid account or account/partition",
        f"this site wants an account, or another one: slurm_account=NAME in default-resources (sacctmgr show assoc "
        f"user=$USER lists yours); {DOCS}",
    ),
    (
        r"given account .* appears to be invalid",
        f"correct slurm_account in default-resources; {DOCS}",
    ),
    (
        r"sacctmgr' reported|Unable to test the validity",
        f"this Slurm keeps no accounts: leave slurm_account out of default-resources; {DOCS}",
    ),
    (
        r"No partition specified|system default partition",
        f"name a partition: slurm_partition=NAME in default-resources (sinfo -s lists them); {DOCS}",
    ),
    (r"invalid partition specified|Invalid partition name", f"correct slurm_partition (sinfo -s lists them); {DOCS}"),
    (
        r"node configuration is not available|Memory required by task|Memory specification can not be satisfied",
        "no node of the partition has what the job asks for (memory grows with each attempt): name a partition with larger nodes, or "
        "lower batch_size or blocks.memory_mb",
    ),
    (
        r"Invalid generic resource|Invalid gres|generic resource \(gres\)",
        "the partition has no such GPU: name one that has (--set-resources RULE:slurm_partition=...), correct gres or gpu_model, "
        "or set device: cpu",
    ),
    (
        r"time limit is invalid|time limit",
        "the partition gives less time: another one, a lower batch_size, or --set-resources RULE:runtime=N",
    ),
    (r"More processors requested", "no node has so many processors: --set-threads RULE=N"),
    (r"Invalid qos", f"correct qos in default-resources or slurm-qos in the profile; {DOCS}"),
    (r"Invalid feature", f"no node has this feature: correct constraint in default-resources; {DOCS}"),
    (
        r"accounting/QOS policy|QOSMaxSubmit|AssocMaxSubmit|QOSGrpSubmit|AssocGrpSubmit",
        "your account may not have so many jobs in the queue, or none so large: lower `jobs` in the profile, or ask for less",
    ),
    (r"not permitted to use this partition|Access/permission denied", "you may not use this partition: name another one (slurm_partition)"),
    (
        r"Unable to contact slurm controller|Socket timed out|temporarily unable|Connection refused|retrieval of cluster partitions",
        "Slurm's controller did not answer: the job is tried again; if this lasts, ask your site's administrators",
    ),
    (
        r"Argument list too long|line is too long|Pathname of a file, directory or other parameter too long",
        "the command line is too long for this site: slurm-pass-command-as-script: true in the profile",
    ),
)


def plain(message: str) -> str:
    """Return what to change after an error of sbatch; nothing for one that is not known."""
    return next((words for pattern, words in PLAIN if re.search(pattern, message, re.IGNORECASE)), "")
