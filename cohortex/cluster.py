"""Workers on other nodes for one volume that is larger than a node: dask.distributed, started by Slurm through dask-jobqueue."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from cohortex.blocks import Box, plan
from cohortex.errors import NoWorkers, WorkersDied
from cohortex.slurm import FORMAT as QUEUE
from cohortex.slurm import NoAnswer, ask, read_queue

WAIT_S = 3600.0
"""A job waits for its first worker at most so long."""

_client: Any = None


def use_client(client: Any) -> None:
    """Have blocks run on the workers of a `distributed.Client`; None starts workers by Slurm again."""
    global _client
    _client = client


def client() -> Any:
    """Return the client of this process; the first call asks Slurm for the workers of the plan.

    Partition, account and network interface are the site's: they stand in dask's own configuration (``jobqueue.slurm.queue``,
    ``account``, ``interface``, ...), which dask-jobqueue reads.

    Raises
    ------
    NoWorkers
        When none of them begins in time.
    """
    if _client is None:
        from dask_jobqueue.slurm import SLURMCluster  # pyright: ignore[reportMissingImports]
        from distributed import Client  # pyright: ignore[reportMissingImports]

        now = plan()
        hours, minutes = divmod(now.minutes, 60)
        cluster = SLURMCluster(
            cores=now.threads,
            processes=1,
            # the libraries take some beside the blocks
            memory=f"{now.memory_mb + 1024}MiB",
            walltime=f"{hours:02d}:{minutes:02d}:00",
            log_directory=str(now.folder),
            # a page that anyone in the network could open
            scheduler_options={"dashboard": False},
        )
        # a worker whose job ends is replaced
        cluster.adapt(minimum_jobs=now.workers, maximum_jobs=now.workers)
        use_client(Client(cluster))
        atexit.register(close)
        wait_for_a_worker(_client, WAIT_S)
    return _client


def wait_for_a_worker(there: Any, limit_s: float, pause_s: float = 60) -> None:
    """Wait until the first worker of a client is there, and say every minute why none is.

    Raises
    ------
    NoWorkers
        When none comes in time; all are given back.
    """
    until = time.monotonic() + limit_s
    while True:
        try:
            return there.wait_for_workers(1, timeout=min(pause_s, limit_s))
        except TimeoutError:
            why = why_they_wait([str(worker.job_id) for worker in there.cluster.workers.values() if worker.job_id])
        if time.monotonic() >= until:
            close()
            raise NoWorkers(
                f"no worker for the blocks of a volume began within {limit_s / 60:.0f} minutes ({why}): give jobqueue.slurm.queue and "
                "account in dask's configuration, ask for less (blocks.memory_mb), or set blocks.scheduler to threads"
            )
        print(f"waits for Slurm's workers: {why}", file=sys.stderr, flush=True)  # noqa: T201


def why_they_wait(jobs: Sequence[str]) -> str:
    """Return what squeue says of the jobs of workers."""
    if not jobs:
        return "none could be submitted"
    try:
        rows = read_queue(ask("squeue", "--noheader", "--states=all", f"--format={QUEUE}", f"--jobs={','.join(jobs)}"))
    except NoAnswer as error:
        return str(error)
    return ", ".join(f"job {row.job} is {row.state} ({row.reason})" for row in rows)


def close() -> None:
    """End the workers."""
    if _client is not None:
        started = _client.cluster
        _client.close()
        if started is not None:
            started.close()
        use_client(None)


def run_on_cluster(one: Callable[[Box], Any], grid: Sequence[Box]) -> list[Any]:
    """Call a function of a box for all boxes on the workers; a block whose worker died is computed again, an error comes home.

    Returns
    -------
    list
        In the order of `grid`.

    Raises
    ------
    WorkersDied
        When a block ended several workers, one after the other.
    """
    from distributed import KilledWorker  # pyright: ignore[reportMissingImports]

    there = client()
    futures = there.map(one, list(grid), pure=False, retries=2)
    try:
        return list(there.gather(futures))
    except KilledWorker:
        raise WorkersDied from None
    finally:
        there.cancel(futures)
