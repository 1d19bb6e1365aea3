"""Ratings, and how many slices a page scrolls through, are asked for again and again: neither runs an image again."""

import numpy as np
import pytest
import yaml

from tests.workflow import jobs_run, snakemake, write_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a folder of two runs, the second with other ratings and slices, and what that one ran."""
    folder = tmp_path_factory.mktemp("ratings")
    table = write_cohort(folder, ["001", "002"])
    again(folder, table, report={"slices": 3})
    batches = (folder / "work" / "cohort" / "batches.tsv").read_bytes()
    (folder / "ratings.tsv").write_text("image\trating\tnote\trater\n001_T1w\treject\tmoved much\tanna\n")
    ran = again(folder, table, report={"slices": 4}, ratings="ratings.tsv")
    assert (folder / "work" / "cohort" / "batches.tsv").read_bytes() == batches
    return folder, table, ran


def again(folder, table, **settings):
    """Run with some settings and return what ran."""
    (folder / "settings.yaml").write_text(yaml.safe_dump({"stages": ["acquire", "export"], **settings}))
    return jobs_run(snakemake(folder, "--configfile", "settings.yaml", input=table).stdout)


def test_ratings_and_another_number_of_slices_run_the_report_again_and_nothing_before_it(run):
    folder, _, ran = run
    assert ran == {"report": 1, "verdict": 1, "all": 1}
    report = folder / "results" / "report"
    assert "moved much" in (report / "index.html").read_text()
    assert "Left out by a rater" in (report / "subjects" / "sub-001.html").read_text()


def test_slices_are_made_as_many_as_were_asked_for(run):
    with np.load(run[0] / "work" / "records" / "acquire" / "b00001" / "previews.npz") as previews:
        assert previews["001_T1w|stack"].shape[0] == 3


def test_a_table_that_is_wrong_is_refused_before_any_job(run):
    folder, table, _ = run
    (folder / "wrong.tsv").write_text("image\trating\n001_T1w\tperhaps\n")
    (folder / "settings.yaml").write_text(yaml.safe_dump({"stages": ["acquire", "export"], "ratings": "wrong.tsv"}))
    done = snakemake(folder, "--configfile", "settings.yaml", check=False, input=table)
    assert done.returncode and jobs_run(done.stdout) == {}
    assert "cohortex: Ratings: wrong.tsv line 2: the rating is 'perhaps'" in done.stdout
