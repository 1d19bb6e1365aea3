"""A run that is told to end, and others beside it: no job is begun any more, what is there is told, and the next run goes on."""

import os
import signal
import time

import pytest

from cohortex.runs import read_runs
from cohortex.verify import verify
from tests.workflow import computed, jobs_run, snakemake, start, write_cohort

GIVEN = {"stages": "[acquire,export]", "batch_size": 1}
SUBJECTS = ["1", "2", "3", "4"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), SUBJECTS)


def started(folder, cohort):
    """Start a run and wait until it has the record of one job."""
    head = start(folder, input=cohort, **GIVEN)
    while head.poll() is None and not list((folder / "work" / "records").glob("*/b*/manifest.tsv")):
        time.sleep(0.02)
    assert head.poll() is None, (folder / "head.log").read_text()[-3000:]
    return head


@pytest.fixture(scope="module")
def beside(cohort, tmp_path_factory):
    """Return a run that waits, the folder of it, and what two others said: one in its folder, one of the same output."""
    folder = tmp_path_factory.mktemp("SIGTERM")
    head = started(folder, cohort)
    # it lives, but does not go on while the others are tried
    os.kill(head.pid, signal.SIGSTOP)
    try:
        same = snakemake(folder, check=False, input=cohort, **GIVEN)
        other = snakemake(folder / "other", check=False, input=cohort, output=folder / "results", **GIVEN)
        yield head, folder, [same, other]
    finally:
        os.kill(head.pid, signal.SIGKILL) if head.poll() is None else None


@pytest.fixture(scope="module", params=["SIGTERM", "SIGINT"])
def ended(request, beside, cohort, tmp_path_factory):
    """Return the folder of a run that was told to end, with what it ended, and what it said; the first is the one that waits."""
    if request.param == "SIGTERM":
        head, folder, _ = beside
    else:
        folder = tmp_path_factory.mktemp(request.param)
        head = started(folder, cohort)
    os.kill(head.pid, getattr(signal, request.param))
    os.kill(head.pid, signal.SIGCONT)
    return folder, head.wait(timeout=120), (folder / "head.log").read_text()


def test_of_two_runs_the_second_is_refused_naming_the_first_in_its_folder_and_in_another(beside):
    head, folder, others = beside
    for other in others:
        assert other.returncode != 0
        assert f"process {head.pid} on " in other.stdout and "belongs to another run" in other.stdout
        assert not jobs_run(other.stdout)
    assert not (folder / "other" / "work" / "records").exists()


def test_no_job_is_begun_any_more_and_the_exit_code_and_the_last_words_say_so(ended):
    folder, code, said = ended
    assert code != 0
    assert "Traceback" not in said
    _, _, after = said.partition("Terminating processes" if "Terminating processes" in said else "Will exit after finishing")
    assert after and not jobs_run(after)
    assert len(list((folder / "work" / "records").glob("*/b*/manifest.tsv"))) < 2 * len(SUBJECTS)
    last = [line for line in said.splitlines() if line.startswith("cohortex: ")][-1]
    assert "ended before everything was done, and no job of it failed" in last and "what is finished is kept" in last


def test_the_report_tells_of_what_there_is_and_the_folders_are_given_back(ended):
    folder, _, _ = ended
    page = (folder / "results" / "report" / "index.html").read_text()
    assert all(f"{subject}_T1w" in page for subject in SUBJECTS)
    (run,) = read_runs(folder / "work")
    assert run["exit"] == "failure" and run["ended"]
    assert not (folder / "work" / "owner.json").exists() and not (folder / "results" / ".cohortex" / "owner.json").exists()


def test_the_next_run_goes_on_and_computes_nothing_twice(ended, cohort):
    folder, _, _ = ended
    again = snakemake(folder, input=cohort, **GIVEN).stdout
    assert "No image was set aside: 4 images of 4 in order" in again
    assert set(computed(folder / "work").values()) == {1}
    count, problems = verify(folder / "results")
    assert count >= len(SUBJECTS) and not problems
