"""What a run on Slurm waits for, said in plain words, and an end to waiting for what can never come.

Snakemake's plugin asks squeue for its jobs and believes in four states. It waits for ever for a job that is held, that no node can take,
that was preempted without return or that Slurm forgot, and it drops all its jobs when squeue fails once. `Watch` judges the queue by
itself, without side effects; `guard` and `keep_watch` (in `cohortex.slurm.head`) let it act.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cohortex.slurm import WAITING, Queued

Kind = Literal["turn", "blocked", "hopeless"]

GRACE_LOOKS = 3
"""A state is told, and an end believed, when it was seen in so many looks at the queue in a row."""
PATIENCE_LOOKS = 20
"""A job that can never start is cancelled after so many looks; at the profile's 40 s a look this is a quarter of an hour."""
AGAIN_S = 3600.0
"""What goes on is told again after this time."""
PULSE_S = 1800.0
"""When jobs wait, this is the longest silence."""


class Advice(NamedTuple):
    """What a reason of squeue means.

    Attributes
    ----------
    kind : {"turn", "blocked", "hopeless"}
        turn: the job waits for its turn; blocked: it waits for something that others must end; hopeless: it will never start as it is.
    words : str
        What is the matter.
    fix : str
        What to do.
    """

    kind: Kind
    words: str
    fix: str


ASK_LESS = (
    "ask for less (--set-resources RULE:mem_mb=N RULE:runtime=N, a smaller batch_size or blocks.memory_mb), or name another partition"
)
PARTITION = "give another one to the rule (--set-resources RULE:slurm_partition=NAME)"
SITE = "give the right one in your site's profile (default-resources), see docs/cluster.md"
REASONS: tuple[tuple[str, Advice], ...] = (
    (r"none|priority|resources|begintime|cleaning|prolog|dependency", Advice("turn", "waits for its turn", "")),
    (
        r".*held state|.*requeued held|jobholdmaxrequeue|faillaunch.*",
        Advice(
            "hopeless",
            "Slurm could not start it on a node and holds it",
            "ask the administrators about the node; scontrol release JOB tries once more",
        ),
    ),
    (r"jobheldadmin", Advice("hopeless", "an administrator holds it", "ask why; scontrol release JOB by an administrator lets it go on")),
    (r"jobhelduser", Advice("blocked", "it was held by your own scontrol hold", "scontrol release JOB lets it go on, scancel JOB ends it")),
    (r"partitionnodelimit", Advice("hopeless", "its partition has no node that may take it, or all those are down", ASK_LESS)),
    (r"partitiontimelimit", Advice("hopeless", "it asks for more time than its partition gives", ASK_LESS)),
    (r"badconstraints", Advice("hopeless", "no node of its partition has what it asks for", f"correct constraint or gres, or {ASK_LESS}")),
    (r"dependencyneversatisfied", Advice("hopeless", "it waits for a job that failed", "scancel JOB; the run submits it again")),
    (r"(invalid)?account(notallowed)?|invalidaccount", Advice("hopeless", "its account may not be used here", f"slurm_account: {SITE}")),
    (r"(invalid)?qos(notallowed)?|invalidqos", Advice("hopeless", "its quality of service may not be used here", f"qos: {SITE}")),
    (r"reservationdeleted", Advice("hopeless", "its reservation is gone", "leave slurm-reservation out of the profile")),
    (r"deadline", Advice("hopeless", "it cannot end before its deadline", ASK_LESS)),
    (
        r"(assoc|qos)max.*perjob(limit)?|qosmin.*",
        Advice("hopeless", "it asks for more, or less, than your account may for one job", ASK_LESS),
    ),
    (
        r"(assoc|qos)(max|grp).*",
        Advice(
            "blocked",
            "your account has as many jobs, processors or memory in use as it may",
            "wait until they end; ask your site for more, or lower `jobs`",
        ),
    ),
    (
        r"reqnodenotavail.*|nodes_required.*|nodes required.*|nodedown|frontenddown",
        Advice(
            "blocked",
            "the nodes that could take it are down, drained or reserved",
            "sinfo -R says why; wait for them, or name another partition",
        ),
    ),
    (r"partition(down|inactive)", Advice("blocked", "its partition takes no jobs now", f"wait for it, or {PARTITION}")),
    (r"reservation", Advice("blocked", "it waits for its reservation to begin", "scontrol show reservation says when")),
    (r"licenses", Advice("blocked", "it waits for licenses", "wait; scontrol show licenses says who has them")),
)
UNKNOWN = Advice("blocked", "Slurm does not start it", "`man squeue`, under job reason codes, says what this means")
STATES = {
    "SUSPENDED": Advice("blocked", "it is suspended", "scontrol resume JOB by an administrator lets it go on"),
    "STOPPED": Advice("blocked", "it is stopped", "scancel --signal=CONT JOB lets it go on"),
    "COMPLETING": Advice("blocked", "it has ended, but its node does not get rid of it", "ask the administrators about the node"),
    "CONFIGURING": Advice("blocked", "its node is being started", "wait; sinfo says whether the node comes up"),
    "STAGE_OUT": Advice("blocked", "its burst buffer is being written", "wait"),
}


def advice(job: Queued) -> Advice | None:
    """Return what a job waits for; None for one that runs or has ended."""
    if job.state in WAITING:
        held = job.state in ("REQUEUE_HOLD", "SPECIAL_EXIT")
        reason = job.reason.lower().strip("()")
        found = next((meaning for pattern, meaning in REASONS if re.fullmatch(pattern, reason)), UNKNOWN)
        return REASONS[1][1] if held and found.kind == "turn" else found
    return STATES.get(job.state)


@dataclass
class Sight:
    """What was seen of a job: its last look, in how many looks in a row it was so, and whether it was cancelled from here."""

    last: Queued
    looks: int = 1
    cancelled: bool = False


@dataclass
class Watch:
    """What is known of the jobs of a run; plain bookkeeping over looks at the queue.

    Attributes
    ----------
    seen : dict
        Every job ever seen, by its number.
    missing : dict
        In how many looks in a row a job was not there.
    """

    seen: dict[str, Sight] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    looked: int = 0
    silent_looks: int = 0
    said_at: dict[str, float] = field(default_factory=dict)
    pulse_at: float | None = None

    def look(self, jobs: Sequence[Queued], now_s: float) -> tuple[list[str], list[str]]:
        """Take in what squeue shows of this run.

        Parameters
        ----------
        jobs : sequence of Queued
            All jobs of the run, those that have ended among them.
        now_s : float
            A clock.

        Returns
        -------
        lines, hopeless : lists of str
            What is to be said, and the jobs to be cancelled.
        """
        lines = []
        if self.silent_looks >= GRACE_LOOKS:
            lines.append("Slurm answers again; the run goes on")
            self.said_at.pop("no answer", None)
        self.silent_looks = 0
        self.looked += 1
        for job in jobs:
            sight = self.seen.get(job.job)
            if sight is None or (sight.last.state, sight.last.reason) != (job.state, job.reason):
                self.seen[job.job] = Sight(job, cancelled=sight.cancelled if sight else False)
            else:
                sight.looks += 1
            self.missing.pop(job.job, None)
        for job in self.seen.keys() - {job.job for job in jobs}:
            self.missing[job] += 1
        lines += self._waits(jobs, now_s)
        hopeless = self._hopeless(jobs)
        lines += [
            f"cancels job {job.job} ({job.what}), which can never start: {meaning.words} ({job.reason}); {_for(meaning.fix, job)}. It is "
            "tried again as often as `retries` says; all else goes on"
            for job, meaning in hopeless
        ]
        lines += self._pulse(jobs, now_s, spoken=bool(lines))
        return lines, [job.job for job, _ in hopeless]

    def no_answer(self, error: str, now_s: float) -> list[str]:
        """Take in that squeue failed; return what is to be said."""
        self.silent_looks += 1
        if self.silent_looks < GRACE_LOOKS:
            return []
        words = "jobs that run go on, none is submitted or given up meanwhile; if this lasts, ask your site's administrators"
        return self._once("no answer", f"Slurm's controller does not answer ({' '.join(error.split())}): {words}", now_s, AGAIN_S / 6)

    def fate(self, job: str) -> str:
        """Return why a job that the plugin still waits for will never be heard of again; nothing while there is hope.

        To be asked only after the plugin has looked, so that an end which it understands has been dealt with.
        """
        if self.silent_looks or not self.looked:
            return ""
        sight = self.seen.get(job)
        if sight is None:
            self.missing[job] += 1
        if self.missing[job] >= GRACE_LOOKS:
            return (
                f"Slurm does not know job {job} any more, and did not say how it ended (it was removed, or the controller lost its state); "
                "it is taken for failed, what it finished is not computed again"
            )
        if sight is not None and sight.last.ended and sight.last.state != "COMPLETED" and sight.looks >= GRACE_LOOKS:
            return f"job {job} ended as {sight.last.state}, and Slurm does not start it again"
        return ""

    def _once(self, key: str, line: str, now_s: float, again_s: float = AGAIN_S) -> list[str]:
        if key in self.said_at and now_s - self.said_at[key] < again_s:
            return []
        self.said_at[key] = now_s
        return [line]

    def _waits(self, jobs: Iterable[Queued], now_s: float) -> list[str]:
        groups: dict[tuple[str, str, str], list[Queued]] = {}
        for job in jobs:
            meaning = advice(job)
            # a node may take its time to begin or to end a job
            enough = GRACE_LOOKS if job.state in WAITING else PATIENCE_LOOKS
            if meaning is not None and meaning.kind != "turn" and self.seen[job.job].looks >= enough:
                why = job.reason if job.state in WAITING else job.state
                groups.setdefault((why, job.partition, meaning.words), []).append(job)
        for key in [key for key in self.said_at if key.startswith("waits ") and key[6:] not in map(str, groups)]:
            del self.said_at[key]
        lines = []
        for key, members in groups.items():
            why, partition, words = key
            fix = advice(members[0])
            named = ", ".join(f"{job.job} ({job.what})" for job in members[:3]) + f" and {len(members) - 3} more" * (len(members) > 3)
            line = f"waits for job {named} in partition {partition}: {words} ({why}); {_for(fix.fix if fix else '', members[0])}"
            lines += self._once(f"waits {key}", line, now_s)
        return lines

    def _hopeless(self, jobs: Iterable[Queued]) -> list[tuple[Queued, Advice]]:
        found = []
        for job in jobs:
            meaning, sight = advice(job), self.seen[job.job]
            if meaning is not None and meaning.kind == "hopeless" and sight.looks >= PATIENCE_LOOKS and not sight.cancelled:
                sight.cancelled = True
                found.append((job, meaning))
        return found

    def _pulse(self, jobs: Iterable[Queued], now_s: float, spoken: bool) -> list[str]:
        live = [job for job in jobs if not job.ended]
        if spoken or not live or self.pulse_at is None:
            self.pulse_at = now_s
        if now_s - self.pulse_at < PULSE_S:
            return []
        self.pulse_at = now_s
        running = sum(job.state not in WAITING for job in live)
        reasons = Counter(job.reason for job in live if job.state in WAITING)
        waiting = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        return [f"{running} jobs run on Slurm, {reasons.total()} wait there" + (f" ({waiting})" if waiting else "")]


def _for(fix: str, job: Queued) -> str:
    return fix.replace("JOB", job.job).replace("RULE", job.what.split()[0])
