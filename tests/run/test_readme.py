"""The commands of the README and of all other pages, as they stand there, in a fresh clone of the repository; and what they leave."""

import importlib.util
import os
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks.report_validator import bids_errors
from cohortex.device import visible
from tests.docs.documented import NEEDS, README, RUN, STAND_INS
from tests.docs.pages import copy_repository
from tests.workflow import environment, listing, phantom, write_nifti

HERE = [command for command in RUN if command not in NEEDS or importlib.util.find_spec(NEEDS[command])]
EXPECTED = Path(__file__).with_name("demo-files.txt")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Return a clone of what is committed or changed, with the environment linked in and what stands for a user's files."""
    folder = copy_repository(tmp_path_factory.mktemp("clone") / "cohortex")
    for name in ("requirements.lock", "pyproject.toml"):
        # Older than the environment, which is there and must not be installed again from here.
        os.utime(folder / name, (0, 0))
    for number, subject in enumerate(("01", "1")):
        write_nifti(folder / "my_study" / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz", phantom(number))
    (folder / "my_study" / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.10.0"}')
    (folder / "my_study.yaml").write_text("input: my_study\noutput: my_results\nwork: my_work\n")
    (folder / "cohortex-site").mkdir()
    (folder / "cohortex-site" / "profile.v9+.yaml").write_text(
        "default-resources:\n  slurm_partition: batch\n  mem_mb: 2000\n  runtime: 30\n"
    )
    rows = ["subject\tmodality\tpath\trole\tsplit\tdiagnosis"]
    for number in range(24):
        split, group = ("train", "train", "train", "train", "validation", "test")[number % 6], ("control", "tumour")[number // 6 % 2]
        for modality in ("T1w", "CT"):
            rows += [f"{number}\t{modality}\tscans/{number}_{modality}{role}.nii.gz\t{role}\t{split}\t{group}" for role in ("", "labels")]
    (folder / "labelled.tsv").write_text("\n".join(rows) + "\n")
    return folder


def run(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone, with the environment's commands on the path, as the line `. .venv/bin/activate` has it."""
    for said, stands in STAND_INS.items():
        command = command.replace(said, stands.format(clone=clone))
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{environment()['PATH']}"
    return subprocess.run(
        shlex.split(command), cwd=clone, env={**environment(), "PATH": path}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def said(clone) -> dict[str, str]:
    """Run every command in order; return what each said."""
    spoken = {}
    for command in HERE:
        done = run(clone, command)
        assert done.returncode == 0, f"`{command}` ended with {done.returncode}:\n{done.stdout[-5000:]}"
        spoken[command] = done.stdout
    return spoken


def test_every_command_works_in_a_fresh_clone(said):
    assert set(README) < set(said) and list(said) == HERE
    missing = sorted(set(RUN) - set(HERE))
    if missing:
        pytest.skip(f"not run here, since {', '.join(NEEDS[command] for command in missing)} is not installed: {', '.join(missing)}")


def test_the_demo_leaves_exactly_the_files_that_the_repository_lists(said, clone):
    assert listing(clone / "results") == EXPECTED.read_text().split()


def test_the_bids_validator_finds_no_error_in_the_results(said, clone):
    assert bids_errors(clone / "results") == bids_errors(clone / "my_results") == []


def test_two_subjects_01_and_1_are_two_subjects(said, clone):
    assert {path.name for path in (clone / "my_results").glob("sub-*")} == {"sub-01", "sub-1"}


def test_nothing_of_the_demo_was_set_aside(said, clone):
    assert "No image was set aside" in (clone / "work" / "verdict.txt").read_text()


def test_the_report_of_snakemake_holds_the_page(said, clone):
    assert zipfile.is_zipfile(clone / "report.zip")


def test_a_machine_without_a_gpu_refuses_what_asks_for_one(said, clone):
    done = run(clone, "snakemake --profile local --resources gpu=4 --config device=cuda -n")
    assert done.returncode == 0 if visible() else (done.returncode != 0 and "this machine has no GPU" in done.stdout)


def test_a_dry_run_says_which_jobs_there_would_be(said):
    for command, told in said.items():
        if command.startswith("snakemake") and command.endswith(" -n") and "rich" not in command:
            assert "This was a dry-run" in told or "Nothing to be done" in told, command
