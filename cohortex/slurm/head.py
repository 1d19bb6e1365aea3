"""The head process of a run on Slurm: checks before the first job, old jobs ended, a watch over the queue while the run lasts.

Snakemake's plugin is taken as it is; the few calls of its executor that can wait for ever are wrapped here, in one place.
"""

from __future__ import annotations

import getpass
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from cohortex.errors import Refused
from cohortex.slurm import NoAnswer, ask, cancel, queue
from cohortex.slurm.orphans import let_old_jobs_end, note_run
from cohortex.slurm.requests import FORMAT, Request, plain, read_nodes, refusals
from cohortex.slurm.watchdog import Watch

CLUSTERS = ("cluster", "clusters", "slurm_cluster")
"""Resources by which the plugin sends a job to another cluster than that of this host."""


def say(text: str) -> None:
    """Tell the user, and the log of the run that takes standard error along."""
    print(f"cohortex: {time.strftime('%H:%M')} {text}", file=sys.stderr, flush=True)  # noqa: T201


def begin(workflow: Any, config: Mapping[str, Any]) -> None:
    """Do what comes before the first job: end jobs of killed runs, hold requests against the cluster, watch the queue.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
        With its scheduler and its graph of jobs, as ``onstart`` finds it.
    config : mapping

    Raises
    ------
    Refused
        When jobs of this run could never start, naming each rule and what to change.
    """
    executor = workflow.scheduler._executor
    on_slurm = type(executor).__module__ == "snakemake_executor_plugin_slurm"
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local] if on_slurm else []
    elsewhere = sorted({str(job.resources[key]) for job in jobs for key in CLUSTERS if job.resources.get(key)})
    if jobs and not elsewhere:
        check_requests(jobs)
    let_old_jobs_end(config, say)
    if elsewhere:
        say(f"jobs go to other clusters ({', '.join(elsewhere)}), where they are not watched: look at them yourself now and then")
    elif on_slurm:
        note_run(config, executor.run_uuid)
        watch, ended = Watch(), threading.Event()
        first_s = workflow.executor_settings.init_seconds_before_status_checks or 20
        guard(executor, watch, ended, longest_s=3 * first_s)
        # half as often as the plugin at its quickest
        interval_s = 2.0 * first_s
        threading.Thread(target=keep_watch, args=(watch, executor.run_uuid, interval_s, ended), daemon=True).start()


def check_requests(jobs: Iterable[Any]) -> None:
    """Hold what jobs ask for against the partitions of this Slurm.

    Raises
    ------
    Refused
        A line for each rule that can never run.
    """
    try:
        nodes = read_nodes(ask("sinfo", "--noheader", "--exact", f"--format={FORMAT}"))
        config = ask("scontrol", "show", "config")
    except NoAnswer as error:
        if "not installed" in str(error):
            raise Refused(f"{error}: run `snakemake --profile slurm` on a host that submits jobs, or use --profile local") from None
        say(f"Slurm's controller does not answer ({error}); what jobs ask for is not checked")
        return
    requests = {request for job in jobs if (request := request_of(job))}
    problems = refusals(requests, nodes)
    if "associations" in config.partition("AccountingStorageEnforce")[2].partition("\n")[0]:
        problems += unknown_accounts({request.account for request in requests})
    if problems:
        raise Refused("\n".join(problems))


def request_of(job: Any) -> Request | None:
    """Return what a job of Snakemake will ask of Slurm; None where that is known only later."""
    given = job.resources
    numbers = {name: given.get(name) or 0 for name in ("mem_mb", "runtime", "gpu", "nodes")}
    if not all(isinstance(number, int) for number in numbers.values()):
        return None
    batch = f" of {job.wildcards.batch}" if "batch" in job.wildcards.keys() else ""  # noqa: SIM118
    partition, account = (str(given.get(name)) if given.get(name) else None for name in ("slurm_partition", "slurm_account"))
    # memory is asked for on every node, GPUs for all together
    gpus = -(-numbers["gpu"] // max(numbers["nodes"], 1))
    what = f"{job.rule.name}{batch}"
    return Request(job.rule.name, what, partition, account, job.threads, numbers["mem_mb"], numbers["runtime"], gpus)


def unknown_accounts(asked: Iterable[str | None]) -> list[str]:
    """Return a sentence where this site demands an account that the user has not; nothing where that cannot be told."""
    user = getpass.getuser()
    try:
        mine = set(ask("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=Account").split())
    except NoAnswer:
        return []
    if not mine:
        return [f"this Slurm demands an account, and user {user} has none: ask your site for one"]
    wrong = sorted({account for account in asked if account is not None} - mine)
    return (
        [f"slurm_account is {', '.join(wrong)}, but yours are {', '.join(sorted(mine))}: correct it in default-resources"] if wrong else []
    )


def guard(executor: Any, watch: Watch, ended: threading.Event, longest_s: int) -> None:
    """Wrap the calls of the plugin's executor that can wait for ever.

    - A look at the queue that fails makes the plugin drop all its jobs: they are given back to it.
    - A job that it still waits for, and of which no more will be heard, is reported as failed.
    - While the controller does not answer nothing is submitted, since that would use up the job's attempts.
    - An error of sbatch is followed by what to change.
    - The plugin waits 10 s longer after each look that finds nothing, up to 180 s, which each job of a chain would lose at its end: here it
      waits no longer than it is told.

    Parameters
    ----------
    executor : snakemake_executor_plugin_slurm.Executor
    watch : Watch
    ended : threading.Event
        Set when the run ends.
    longest_s : int
        Between two looks of the plugin.
    """
    check, failed, succeeded = executor.check_active_jobs, executor.report_job_error, executor.report_job_success
    run_job, shutdown = executor.run_job, executor.shutdown
    told: set[int] = set()

    def report_job_error(job_info: Any, msg: str | None = None, **more: Any) -> None:
        told.add(id(job_info))
        words = plain(msg or "") if "sbatch" in (msg or "") or "submission failed" in (msg or "") else ""
        if words:
            say(f"{job_info.job.name} could not be submitted: {words.replace('RULE', job_info.job.name)}")
        failed(job_info, msg=msg, **more)

    def report_job_success(job_info: Any) -> None:
        told.add(id(job_info))
        succeeded(job_info)

    async def check_active_jobs(active_jobs: list[Any]) -> AsyncIterator[Any]:
        told.clear()
        waited_for = {id(job_info) async for job_info in check(active_jobs)}
        for job_info in active_jobs:
            if id(job_info) in told:
                continue
            why = watch.fate(str(job_info.external_jobid)) if id(job_info) in waited_for else ""
            if why:
                say(why)
                report_job_error(job_info, msg=f"{why}. ")
            else:
                yield job_info
        executor.next_seconds_between_status_checks = min(executor.next_seconds_between_status_checks, longest_s)

    def run_job_when_slurm_answers(job: Any) -> None:
        while watch.silent_looks and not ended.wait(1):
            pass
        run_job(job)

    def shut_down() -> None:
        ended.set()
        shutdown()

    executor.check_active_jobs, executor.run_job, executor.shutdown = check_active_jobs, run_job_when_slurm_answers, shut_down
    executor.report_job_error, executor.report_job_success = report_job_error, report_job_success


def keep_watch(watch: Watch, run: str, interval_s: float, ended: threading.Event) -> None:
    """Look at the queue as long as the run lasts, say what is the matter, and cancel what can never start."""
    while not ended.wait(interval_s):
        try:
            lines, hopeless = watch.look(queue(name=run), time.monotonic())
            for line in lines:
                say(line)
            cancel(hopeless)
        except NoAnswer as error:
            for line in watch.no_answer(str(error), time.monotonic()):
                say(line)
        except Exception as error:
            # A look that fails in a way nobody thought of ends neither the watch nor the submissions.
            watch.silent_looks = 0
            say(f"a look at the queue failed ({type(error).__name__}: {error}); jobs go on, the next look is in {interval_s:.0f} s")
