"""What tests of the cohort's table and of its cut share."""

import pytest

from cohortex.cohort import make_cohort
from cohortex.config import check_config
from cohortex.tables import read_table


@pytest.fixture
def make(tmp_path):
    """Make a cohort in a temporary folder and give its rows by image."""

    def run(source, **settings):
        config = {"input": str(source), "work": str(tmp_path / "work"), "output": str(tmp_path / "results"), **settings}
        make_cohort(check_config(config))
        return {row["image"]: row for row in read_table(tmp_path / "work" / "cohort" / "cohort.tsv")}

    return run


@pytest.fixture
def folder(tmp_path):
    """The folder of the cohort's tables."""
    return tmp_path / "work" / "cohort"
