"""Whatever is killed, and whenever: after a rerun the results are those of an undisturbed run, and nothing finished was done twice."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.faults import victims
from tests.workflow import computed, digests, jobs_run, phantom, snakemake, start, write_cohort, write_nifti

CHAIN = "stages=[acquire,preprocess,denoise,export]"
SUBJECTS = [f"{number:03d}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), SUBJECTS)


def settings(cohort: Path) -> dict[str, object]:
    return {"input": cohort, "batch_size": 3, "stages": "[acquire,preprocess,denoise,export]"}


@pytest.fixture(scope="module")
def undisturbed(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    snakemake(folder, **settings(cohort))
    return folder


def kill_one(processes: list[psutil.Process]) -> bool:
    """Kill the first process that is still there; say whether there was one."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
        return True
    return False


@pytest.mark.parametrize("victim", ["worker", "job", "head"])
def test_a_run_that_is_killed_ends_with_the_results_of_an_undisturbed_one(cohort, undisturbed, tmp_path, victim):
    moments = random.Random(victim)
    killed = 0
    for _ in range(3):
        head = start(tmp_path, **settings(cohort))
        process = psutil.Process(head.pid)
        while head.poll() is None and not (tmp_path / "work" / ".running").exists():
            time.sleep(0.02)
        # A moment anywhere between the first job and about the middle of the run, on a quick or a slow machine.
        until = time.monotonic() + moments.uniform(0, 3)
        hit = False
        while head.poll() is None and not hit:
            time.sleep(0.02)
            if time.monotonic() >= until:
                hit = kill_one(victims(process)[victim])
        killed += hit
        head.wait()
        if not hit or victim == "worker":
            break
        if victim == "head":
            snakemake(tmp_path, "--unlock", **settings(cohort))
    assert killed, "the run ended before anything could be killed"
    snakemake(tmp_path, **settings(cohort))
    assert digests(tmp_path / "results") == digests(undisturbed / "results")
    assert digests(tmp_path / "work" / "records") == digests(undisturbed / "work" / "records")
    again = {item: count for item, count in computed(tmp_path / "work").items() if count > 1}
    assert not again, f"finished images were computed twice: {again}"


def test_a_parameter_changed_between_kill_and_rerun_gives_an_undisturbed_run_with_the_new_one(cohort, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text("denoise:\n  default: {strength: 0.5}\n")
    head = start(tmp_path / "killed", **settings(cohort))
    while head.poll() is None and not list((tmp_path / "killed" / "work" / ".running" / "denoise").glob("*/*.done.json")):
        time.sleep(0.02)
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    snakemake(tmp_path / "killed", "--unlock", **settings(cohort))
    snakemake(tmp_path / "killed", "--configfile", str(changed), **settings(cohort))
    snakemake(tmp_path / "new", "--configfile", str(changed), **settings(cohort))
    assert digests(tmp_path / "killed" / "results") == digests(tmp_path / "new" / "results")


def test_two_more_subjects_run_only_their_own_batch(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", SUBJECTS[:4])
    given = settings(cohort) | {"batch_size": 2}
    snakemake(tmp_path / "run", **given)
    left = {path.relative_to(tmp_path / "run" / "work").parts[0] for path in (tmp_path / "run" / "work").rglob("*.ozx")}
    assert not left, "with `keep: []` no volume stays"
    assert len(list((tmp_path / "run" / "work" / "records").glob("*/*/manifest.tsv"))) == 4 * 2, "but every record does"
    _append(cohort, ["x1", "x2"])
    said = snakemake(tmp_path / "run", **given).stdout
    assert jobs_run(said) == {"acquire": 1, "preprocess": 1, "denoise": 1, "export": 1, "report": 1, "verdict": 1, "all": 1}


def _append(table: Path, subjects: list[str]) -> None:
    for number, subject in enumerate(subjects):
        write_nifti(table.parent / "scans" / f"{subject}_T1w.nii.gz", phantom(7000 + number))
        with table.open("a") as file:
            file.write(f"{subject}\t\tT1w\tscans/{subject}_T1w.nii.gz\t\n")


def test_a_replaced_file_runs_only_its_batch_again(undisturbed, tmp_path):
    cohort = write_cohort(tmp_path / "cohort", SUBJECTS[:4])
    given = settings(cohort) | {"batch_size": 2, "stages": "[acquire,export]"}
    snakemake(tmp_path / "run", **given)
    write_nifti(cohort.parent / "scans" / "003_T1w.nii.gz", phantom(4242))
    said = snakemake(tmp_path / "run", **given).stdout
    assert jobs_run(said)["acquire"] == 1
    assert "b00002" in said
