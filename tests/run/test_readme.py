"""The README's commands, as they stand there, in a fresh clone of the repository; and what they leave."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.report_validator import bids_errors
from tests.workflow import ROOT, environment, listing, phantom, write_nifti

NOT_RUN = {
    "make test": "is this very run",
    "snakemake --profile slurm --config input=my_study output=my_results work=my_work": "needs a cluster",
}
EXPECTED = Path(__file__).with_name("demo-files.txt")


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Return a clone of what is committed or changed, with the environment linked in and a small BIDS dataset `my_study`."""
    folder = tmp_path_factory.mktemp("clone") / "cohortex"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, names.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink()) if source.is_symlink() else shutil.copy2(source, target)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.lock", "pyproject.toml"):
        # Older than the environment, which is there and must not be installed again from here.
        os.utime(folder / name, (0, 0))
    for number, subject in enumerate(("01", "1")):
        write_nifti(folder / "my_study" / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz", phantom(number))
    (folder / "my_study" / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.10.0"}')
    return folder


@pytest.fixture(scope="module")
def said(clone) -> dict[str, str]:
    """Run every command of the README in order; return what each said."""
    spoken = {}
    for line in commands():
        if line in NOT_RUN or line.startswith(". "):
            continue
        # The shell line `. .venv/bin/activate` is what puts the environment's commands on the path here.
        words = shlex.split(line)
        path = f"{clone / '.venv' / 'bin'}{os.pathsep}{environment()['PATH']}"
        done = subprocess.run(
            words, cwd=clone, env={**environment(), "PATH": path}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, f"`{line}` ended with {done.returncode}:\n{done.stdout[-5000:]}"
        spoken[line] = done.stdout
    return spoken


def test_every_command_of_the_readme_works_in_a_fresh_clone(said):
    assert "make demo" in said and len(said) >= 4


def test_what_is_not_run_here_stands_in_the_readme():
    assert set(NOT_RUN) <= set(commands())


def test_the_demo_leaves_exactly_the_files_that_the_repository_lists(said, clone):
    assert listing(clone / "results") == EXPECTED.read_text().split()


def test_the_bids_validator_finds_no_error_in_the_results(said, clone):
    assert bids_errors(clone / "results") == bids_errors(clone / "my_results") == []


def test_two_subjects_01_and_1_are_two_subjects(said, clone):
    assert {path.name for path in (clone / "my_results").glob("sub-*")} == {"sub-01", "sub-1"}


def test_nothing_of_the_demo_was_set_aside(said, clone):
    assert "No image was set aside" in (clone / "work" / "verdict.txt").read_text()
