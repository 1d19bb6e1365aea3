"""Every rule, run for real by Snakemake on a tiny cohort: a T1w and a T2w of two subjects, thick slices, no body part."""

import json
import shutil

import pytest
import yaml
from jsonschema import Draft202012Validator

from cohortex.io.ozx import read_ozx
from cohortex.records import COLUMNS, TIMING_COLUMNS
from cohortex.schema import read_schema
from cohortex.stages import STAGES, USUAL
from cohortex.tables import read_table
from tests.workflow import jobs_run, snakemake, write_cohort

STAGE_NAMES = list(USUAL)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    table = write_cohort(folder, ["001", "1"], ("T1w", "T2w"))
    settings = folder / "settings.yaml"
    settings.write_text(yaml.safe_dump({"keep": STAGE_NAMES[:-1]}))
    snakemake(folder, "--configfile", str(settings), input=table)
    return folder


@pytest.fixture(params=STAGE_NAMES)
def stage(request):
    return request.param


def test_a_rule_leaves_a_complete_record(run, stage):
    record = run / "work" / "records" / stage / "b00001"
    rows = read_table(record / "manifest.tsv")
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert {"001_T1w", "001_T2w", "1_T1w", "1_T2w"} <= {row["image"] for row in rows}
    assert all(row["status"] in ("ok", "warned", "skipped") for row in rows), [row["reason"] for row in rows]
    assert list(read_table(record / "timing.tsv")[0]) == list(TIMING_COLUMNS)
    numbers = json.loads((record / "numbers.json").read_text())
    assert (numbers["stage"], numbers["version"], numbers["systemic"]) == (stage, STAGES[stage].version, False)
    assert (record / "previews.npz").is_file()


def test_every_row_of_a_manifest_holds_to_the_schema(run, stage):
    schema = Draft202012Validator(read_schema("manifest.schema.json"))
    for row in read_table(run / "work" / "records" / stage / "b00001" / "manifest.tsv"):
        assert [error.message for error in schema.iter_errors(row)] == []


def test_a_rule_leaves_its_log_and_its_benchmark(run, stage):
    assert "finished" in (run / "work" / "logs" / stage / "b00001.log").read_text()
    assert (run / "work" / "benchmarks" / stage / "b00001.tsv").is_file()


def test_a_stage_folder_holds_what_its_manifest_says_and_nothing_else(run, stage):
    if stage == "export":
        return
    folder = run / "work" / stage / "b00001"
    rows = {row["path"]: row for row in read_table(run / "work" / "records" / stage / "b00001" / "manifest.tsv") if row["path"]}
    assert {path.name for path in folder.iterdir() if path.name != ".snakemake_timestamp"} == set(rows)
    for path, row in rows.items():
        if path.endswith(".ozx"):
            assert read_ozx(folder / path).sha256() == row["sha256"]


def test_superresolve_thins_the_slices_and_keeps_the_field_of_view(run):
    before, after = (read_ozx(run / "work" / stage / "b00001" / "001_T1w.ozx") for stage in ("denoise", "superresolve"))
    assert before.spacing == pytest.approx((1.5, 1.5, 3.0)) and after.spacing == pytest.approx((1.5, 1.5, 1.5))
    assert after.shape[2] * after.spacing[2] == pytest.approx(before.shape[2] * before.spacing[2])


def test_regseg_registers_the_two_contrasts_of_a_subject_without_a_model(run):
    names = {row["image"] for row in read_table(run / "work" / "records" / "regseg" / "b00001" / "manifest.tsv")}
    assert {"001_T2w+affine", "001_T2w+warped"} <= names


def test_a_scan_of_an_unknown_body_part_gets_no_probability(run):
    rows = read_table(run / "work" / "records" / "classify" / "b00001" / "manifest.tsv")
    assert all(not row.get("probability") for row in rows)
    assert {row["status"] for row in rows if row["image"].endswith("T1w")} == {"skipped"}


def test_nothing_is_left_running(run):
    assert not (run / "work" / ".running").exists()
    assert not (run / "results" / ".cohortex" / "owner.json").exists() and not (run / "work" / "owner.json").exists()
    assert not list(run.rglob(".*.tmp"))


def test_files_are_for_the_owner_and_the_group_only(run):
    found = [path for folder in ("work", "results") for path in (run / folder, *(run / folder).rglob("*"))]
    open_to_all = [str(path.relative_to(run)) for path in found if path.stat().st_mode & 0o007]
    assert (run / "results" / "report" / "index.html") in found and not open_to_all


def test_results_that_were_deleted_are_exported_again_and_nothing_else_is_done_again(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=lambda folder, names: ["results"] if folder == str(run) else [])
    again = snakemake(copy, "-n", "--configfile", str(run / "settings.yaml"), input=run / "cohort.tsv")
    assert jobs_run(again.stdout) == {"export": 1, "report": 1, "verdict": 1, "all": 1}


def test_more_heads_of_the_demo_make_no_head_again(tmp_path):
    for subjects, made in ((1, {"demo": 1}), (2, {"demo": 1})):
        settings = tmp_path / "demo.yaml"
        settings.write_text(f"batch_size: 1\ndemo: {{subjects: {subjects}}}\n")
        targets = [f"work/demo/b{number:05d}" for number in range(1, subjects + 1)]
        done = snakemake(tmp_path, "--configfile", str(settings), "--", *targets)
        assert jobs_run(done.stdout) == made, done.stdout[-3000:]
