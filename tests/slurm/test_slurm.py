"""Runs on a real Slurm: whatever dies, the results are those of an undisturbed run on one machine, and no wait is without a word.

The tests share runs, since most of their time is waiting.
"""

from pathlib import Path

import pytest

from tests.slurm.cluster import wait_for
from tests.slurm.runs import CHAIN, Run, command, site_profile
from tests.workflow import digests, snakemake, write_cohort

BATCHES = ["b00001", "b00002", "b00003"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Return the table of three subjects."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), ["1", "2", "3"])


def settings(cohort: Path) -> dict[str, object]:
    return {"input": cohort, "batch_size": 1, "stages": CHAIN}


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    """Return the folder of the same cohort after a run on this machine alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    snakemake(folder, **settings(cohort))
    return folder


def same(folder: Path, other: Path) -> None:
    assert digests(folder / "results") == digests(other / "results")
    assert digests(folder / "work" / "records") == digests(other / "work" / "records")


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(slurm, cohort, tmp_path_factory):
    """Run the cohort while a job is cancelled, one runs out of time, a node dies, the controller dies, a job is preempted and one is
    too large for its memory; return the run and what was seen."""
    folder = tmp_path_factory.mktemp("faults")
    site = site_profile(
        folder / "site",
        acquire={"runtime": "attempt"},
        export={"slurm_partition": "gpu", "gpu": 1},
        report={"mem_mb": "attempt * 350"},
    )
    run = Run(folder, command(site, **settings(cohort)))
    seen = {}
    try:
        late, lost, cancelled = (run.hold("acquire", batch) for batch in BATCHES)
        seen["late"], seen["lost"], seen["cancelled"] = late, lost, cancelled
        slurm.ask("scancel", cancelled.job)
        assert lost.node != late.node, "jobs go to the emptier node"
        slurm.kill_node(lost.node)
        slurm.kill_controller()
        run.says("controller does not answer")
        slurm.start_controller()
        run.says("answers again")
        back = run.hold("acquire", BATCHES[1], but=lost.pid)
        seen["back"] = back
        run.let_go("acquire", BATCHES[1])
        slurm.start_node(lost.node)
        # one of the jobs that now run on the only node with GPUs makes room for a more urgent one
        first = next(batch for batch in BATCHES[1:] if run.hold("export", batch, seconds=200))
        seen["preempted"] = run.owner("export", first)["slurm_job"]
        slurm.ask("sbatch", "--partition=rush", "--nodelist=g1", "--exclusive", "--mem=100", "--output=/dev/null", "--wrap=sleep 2")
        wait_for(lambda: "PENDING" in slurm.ask("squeue", "-h", "-j", str(seen["preempted"]), "-o", "%T"), 60, "the job is put back")
        seen["first"] = first
        seen["code"] = run.ends()
    finally:
        run.kill()
        slurm.ask("scancel", "--user=root")
    return run, seen


def test_a_run_through_every_fault_gives_the_results_of_an_undisturbed_one(faults, undisturbed):
    run, seen = faults
    assert seen["code"] == 0, run.said[-6000:]
    same(run.folder, undisturbed)
