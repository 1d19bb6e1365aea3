"""What readers of foreign files may take: memory beyond it is a sentence, and the other images go on."""

from dataclasses import replace

import numpy as np
import pytest

from cohortex.items import Made
from cohortex.job import Job
from cohortex.stage import run_job
from cohortex.tables import read_table
from cohortex.watch import at_most
from tests.unit.test_stage import job  # noqa: F401 - a fixture


@pytest.mark.parametrize(("memory_mb", "status"), [(100.0, "failed"), (4000.0, "ok")])
def test_a_file_that_wants_more_memory_than_its_job_has_is_set_aside_and_the_others_go_on(job: Job, memory_mb: float, status: str) -> None:  # noqa: F811
    def greedy(image, settings, model, seed):
        if image.id == "1_T1w":
            assert np.ones(600 * 2**20, np.uint8)[-1] == 1
        return Made()

    folders = {name: getattr(job, name).parents[1] / "acquire" / "b00001" for name in ("record", "running")}
    run_job(replace(job, stage="acquire", before=None, before_record=None, images=None, memory_mb=memory_mb, **folders), greedy)
    rows = {row["image"]: row for row in read_table(folders["record"] / "manifest.tsv")}
    assert rows["1_T1w"]["status"] == status
    assert {row["status"] for image, row in rows.items() if image != "1_T1w"} == {"ok"}
    if status == "failed":
        assert rows["1_T1w"]["code"] == "out-of-memory"
        assert "needed more memory" in rows["1_T1w"]["reason"]


def test_a_library_that_never_comes_back_from_a_file_ends_its_worker_and_the_others_go_on(job: Job) -> None:  # noqa: F811
    def endless(image, settings, model, seed):
        if image.id == "1_T1w":
            with at_most(0.2):
                while True:
                    pass
        return Made()

    folders = {name: getattr(job, name).parents[1] / "acquire" / "b00001" for name in ("record", "running")}
    run_job(replace(job, stage="acquire", before=None, before_record=None, images=None, **folders), endless)
    rows = {row["image"]: row for row in read_table(folders["record"] / "manifest.tsv")}
    assert (rows["1_T1w"]["status"], rows["1_T1w"]["code"]) == ("crashed", "process-died")
    assert "endless loop" in rows["1_T1w"]["reason"]
    assert {row["status"] for image, row in rows.items() if image != "1_T1w"} == {"ok"}


def test_no_other_process_is_ended() -> None:
    with at_most(0.01):
        assert sum(range(3_000_000))
