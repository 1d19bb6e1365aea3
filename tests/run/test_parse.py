"""Parsing the Snakefile is cheap: nothing heavy is imported, and a job's process looks into no folder of the data."""

import json
import subprocess
import sys

import pytest

from tests.workflow import ROOT, environment, phantom, snakemake, write_nifti

HEAVY = {"torch", "SimpleITK", "pandas", "scipy", "nibabel", "zarr", "numba"}
WATCHED = """
import json, os, sys
told, root, *words = sys.argv[1:]
imported, folders = set(), []
def ours():
    # what Snakemake and its plugins import and look for by themselves is not the workflow's
    frame = sys._getframe(2)
    while frame is not None and (not frame.f_code.co_filename.startswith(root) or "site-packages" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None
class Finder:
    def find_spec(self, name, path=None, target=None):
        if ours():
            imported.add(name.split(".")[0])
sys.meta_path.insert(0, Finder())
def hook(event, arguments):
    if event in ("os.scandir", "os.listdir") and arguments and isinstance(arguments[0], (str, os.PathLike)) and ours():
        folders.append(os.path.abspath(arguments[0]))
sys.addaudithook(hook)
from snakemake.cli import main
try:
    main(words)
except SystemExit as end:
    code = end.code
with open(told, "w") as file:
    json.dump({"code": code, "imported": sorted(imported), "folders": folders}, file)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Return a folder in which a run on a BIDS dataset of two subjects is planned."""
    folder = tmp_path_factory.mktemp("parse")
    for subject in ("01", "02"):
        write_nifti(folder / "data" / f"sub-{subject}" / "anat" / f"sub-{subject}_T1w.nii.gz", phantom(1, (10, 10, 10)))
    snakemake(folder, "-n", input="data", batch_size=1)
    return folder


def parsed(folder, *arguments):
    """Parse the Snakefile as a process of its own does, and return what it imported and where it looked."""
    told = folder / "told.json"
    words = ["--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "-n", *arguments, "--config", "input=data", "batch_size=1"]
    process = [sys.executable, "-c", WATCHED, str(told), str(ROOT), *words]
    done = subprocess.run(process, cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    content = json.loads(told.read_text())
    assert content["code"] == 0, done.stdout
    return content


def test_the_head_process_imports_nothing_heavy(cohort):
    content = parsed(cohort)
    assert "cohortex" in content["imported"] and str(cohort / "data") in content["folders"], "or this test would see nothing"
    assert HEAVY & set(content["imported"]) == set()


def test_a_job_process_imports_nothing_heavy_and_looks_into_no_folder(cohort):
    content = parsed(cohort, "--mode", "remote", "--allowed-rules", "acquire", "--target-jobs", "acquire:batch=b00001")
    assert "cohortex" in content["imported"]
    assert HEAVY & set(content["imported"]) == set()
    assert [path for path in content["folders"] if path.startswith(str(cohort))] == []
