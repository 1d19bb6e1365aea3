"""The Slurm of these tests: started once, for all of them."""

import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def slurm():
    """Return a running Slurm, or skip with the reason why there is none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # Not below pytest's own folder: munge's socket must be open to all.
    with tempfile.TemporaryDirectory(prefix="cohortex-slurm-", dir="/tmp") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
