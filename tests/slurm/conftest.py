"""The Slurm of these tests: started once, for all of them."""

import pytest

from tests.slurm.cluster import started, why_not


@pytest.fixture(scope="session")
def slurm():
    """Return a running Slurm, or skip with the reason why there is none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with started() as cluster:
        yield cluster
