"""Workers on other nodes for one volume that is larger than a node: dask.distributed, started by Slurm through dask-jobqueue."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from typing import Any

from cohortex.blocks import Box, plan

_client: Any = None


def use_client(client: Any) -> None:
    """Have blocks run on the workers of a `distributed.Client`; None starts workers by Slurm again."""
    global _client
    _client = client


def client() -> Any:
    """Return the client of this process; the first call asks Slurm for the workers of the plan.

    Partition, account and network interface are the site's: they stand in dask's own configuration (``jobqueue.slurm.queue``,
    ``account``, ``interface``, ...), which dask-jobqueue reads.
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
        )
        cluster.scale(jobs=now.workers)
        use_client(Client(cluster))
        atexit.register(close)
    return _client


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
    """
    there = client()
    futures = there.map(one, list(grid), pure=False, retries=2)
    try:
        return list(there.gather(futures))
    finally:
        there.cancel(futures)
