"""A broken scan in a real run: the others go on, the exit code tells the truth, and a corrected file mends the run."""

import re

import pytest

from cohortex.tables import read_table
from tests.workflow import digests, jobs_run, phantom, snakemake, write_cohort, write_nifti

STAGES = "[acquire,export]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a run on two good scans and a cut one, the same without the cut one, and what the first said."""
    folder = tmp_path_factory.mktemp("broken")
    table = write_cohort(folder, ["1", "2", "3"])
    bad = folder / "scans" / "2_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:2000])
    first = snakemake(folder / "run", check=False, input=table, stages=STAGES, batch_size=2)
    report = (folder / "run" / "results" / "report" / "index.html").read_text()
    tolerated = snakemake(folder / "run", check=False, input=table, stages=STAGES, batch_size=2, quarantine="{tolerate: 0.5}")
    (folder / "good.tsv").write_text("".join(line for line in table.read_text().splitlines(keepends=True) if not line.startswith("2")))
    snakemake(folder / "good", input=folder / "good.tsv", stages=STAGES, batch_size=2)
    write_nifti(bad, phantom(5))
    mended = snakemake(folder / "run", check=False, input=table, stages=STAGES, batch_size=2)
    return folder, first, report, tolerated, mended


def test_too_much_set_aside_ends_with_another_exit_code_and_its_sentence_last(runs):
    _, first, _, _, _ = runs
    assert first.returncode != 0
    last = [line for line in first.stdout.splitlines() if line.startswith("cohortex: ")][-1]
    assert last.startswith("cohortex: Too much was set aside: 1 of 3 images") and "2_T1w (acquire: truncated)" in last
    assert "Traceback" not in first.stdout


def test_the_report_is_there_all_the_same_and_names_the_scan_and_what_to_do(runs):
    assert "scans/2_T1w.nii.gz" in runs[2] and "copy it again from its source" in runs[2]


def test_what_is_tolerated_ends_well_and_only_the_word_on_it_is_said_again(runs):
    _, _, _, tolerated, _ = runs
    assert tolerated.returncode == 0
    assert set(jobs_run(tolerated.stdout)) <= {"report", "verdict", "all"}
    assert "within the 50 % tolerated" in tolerated.stdout


def test_the_good_scans_are_those_of_a_run_without_the_bad_one(runs):
    folder = runs[0]
    good, mended = digests(folder / "good" / "results"), digests(folder / "run" / "results")
    images = [name for name in good if name.startswith("sub-")]
    assert images and all(mended[name] == good[name] for name in images)


def test_a_corrected_file_runs_its_batch_again_and_the_run_ends_well(runs):
    folder, _, _, _, mended = runs
    assert mended.returncode == 0
    assert jobs_run(mended.stdout) == {"acquire": 1, "export": 1, "report": 1, "verdict": 1, "all": 1}
    assert "b00001" in mended.stdout and "batch=b00002" not in mended.stdout
    rows = {row["image"]: row["status"] for row in read_table(folder / "run" / "results" / "manifest.tsv")}
    assert rows == {"1_T1w": "ok", "2_T1w": "ok", "3_T1w": "ok"}


def test_a_cohort_of_one_bad_scan_has_its_report_and_fails(tmp_path):
    table = write_cohort(tmp_path, ["1"])
    (tmp_path / "scans" / "1_T1w.nii.gz").write_bytes(b"")
    done = snakemake(tmp_path, check=False, input=table, stages=STAGES)
    assert done.returncode != 0
    assert "Too much was set aside: 1 of 1 image (100 %) was set aside" in done.stdout
    assert "1_T1w.nii.gz is empty" in (tmp_path / "results" / "report" / "index.html").read_text()


def test_the_report_of_the_mended_run_says_what_changed_since_the_last_one(runs):
    folder, _, first, _, _ = runs
    text = (folder / "run" / "results" / "report" / "index.html").read_text()
    since = re.sub(r"<[^>]+>", "", re.search(r'<section class="since".*?</section>', text, re.S)[0])
    assert "1 image has another word" in since and "2_T1w" in since
    assert re.search(r"quarantined\s*→\s*✓ok", since)
    assert 'class="since"' not in first, "the first run has nothing to be compared with"
