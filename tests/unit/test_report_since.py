"""The report says what changed since the last run, and says it again where a run changed nothing."""

import gzip
import json
import re
import shutil

import pytest

from cohortex.report.measures import groups_of
from cohortex.report.page import write_report
from cohortex.report.records import read_records
from cohortex.report.since import KEPT, since_last_run
from cohortex.tables import read_table
from cohortex.verdict import tally
from tests.fake_cohort import CONFIG, SCRIPT, STAGES, write_fake_cohort
from tests.moved_cohort import begin, rewrite

LOST = {"status": "quarantined", "code": "truncated", "reason": f"the file ends early; {SCRIPT}"}
RUNS = [f"202611{day:02d}T080000Z" for day in range(1, 20)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_fake_cohort(tmp_path_factory.mktemp("since") / "work", pictures=False)


@pytest.fixture
def work(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "work")


def since(work):
    records = read_records(work, STAGES)
    return since_last_run(work, records, groups_of(records), {row.image: row for row in tally(records, CONFIG).lost})


def said(work):
    return {file.name: file.read_bytes() for file in (work / "runs").glob("*.said.gz")}


def lose(work, image):
    """Have an image quarantined by preprocess, as its batch's jobs would."""
    for stage in STAGES[1:]:
        for manifest in (work / "records" / stage).glob("*/manifest.tsv"):
            if stage == "preprocess":
                rewrite(manifest, lambda row: LOST if row["image"] == image else {})
            else:
                text = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
                manifest.write_text("".join(line for line in text if f"\t{image}" not in line), encoding="utf-8")


def test_without_a_record_of_runs_nothing_is_compared_or_kept(work):
    assert since(work).run == "" and not (work / "runs").exists()


def test_the_first_run_has_nothing_to_compare_with_and_leaves_its_word(work):
    begin(work, RUNS[0])
    assert since(work).run == ""
    assert list(said(work)) == [f"{RUNS[0]}-000000.said.gz"]


def test_a_run_that_changes_nothing_says_so(work):
    for run in RUNS[:2]:
        begin(work, run)
        found = since(work)
    assert found.nothing and (found.run, found.until) == ("2026-11-01 08:00", "")


def test_images_that_came_went_and_have_another_word_are_told_with_the_reason(work):
    begin(work, RUNS[0])
    since(work)
    lose(work, "001_CT")
    cohort = (work / "cohort" / "cohort.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (work / "cohort" / "cohort.tsv").write_text("".join(line for line in cohort if "\t008_CT\t" not in line), encoding="utf-8")
    for manifest in (work / "records").glob("*/b0001/manifest.tsv"):
        text = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
        manifest.write_text("".join(line for line in text if "008_CT" not in line), encoding="utf-8")
    begin(work, RUNS[1])
    found = since(work)
    (changed,) = found.changed
    assert (changed.image, changed.before, changed.after, changed.stage, changed.code) == (
        "001_CT",
        "ok",
        "quarantined",
        "preprocess",
        "truncated",
    )
    assert found.gone == ["008_CT"] and found.new == [] and found.flows == [("ok", "quarantined", 1)] and found.causes == []


def test_a_new_image_is_new(work):
    begin(work, RUNS[0])
    since(work)
    table = work / "cohort" / "cohort.tsv"
    line = next(line for line in table.read_text(encoding="utf-8").splitlines() if "\t008_CT\t" in line)
    with table.open("a", encoding="utf-8") as file:
        file.write(line.replace("008", "009") + "\n")
    begin(work, RUNS[1])
    assert since(work).new == ["009_CT"]


def test_a_warning_of_an_earlier_stage_is_another_word(work):
    begin(work, RUNS[0])
    since(work)
    for manifest in (work / "records" / "preprocess").glob("*/manifest.tsv"):
        word = {"status": "warned", "code": "low-snr", "reason": "noisy"}
        rewrite(manifest, lambda row, word=word: word if row["image"] == "001_T1w" else {})
    begin(work, RUNS[1])
    assert [(one.image, one.before, one.after, one.code) for one in since(work).changed] == [("001_T1w", "ok", "warned", "low-snr")]


def test_other_settings_models_and_versions_are_named_with_the_measures_that_moved(work):
    begin(work, RUNS[0])
    since(work)
    for numbers in (work / "records" / "denoise").glob("*/numbers.json"):
        told = json.loads(numbers.read_text(encoding="utf-8"))
        told |= {"version": 2, "section": {"default": {"method": "median"}}, "models": {}}
        numbers.write_text(json.dumps(told), encoding="utf-8")
    for manifest in (work / "records" / "denoise").glob("*/manifest.tsv"):
        rewrite(manifest, lambda row: {"psnr_db": float(row["psnr_db"]) + 5} if row["psnr_db"] else {})
    begin(work, RUNS[1])
    found = since(work)
    assert found.causes == ["denoise has another version and other settings and other models"]
    assert sorted(words[:23] for words in found.measures) == ["PSNR of CT head in deno", "PSNR of T1w head in den"]
    assert all("median 3" in words and "→ 3" in words and words.endswith(" dB") for words in found.measures)
    assert found.changed == found.new == found.gone == []


def test_the_report_of_one_run_made_again_still_compares_with_the_run_before(work):
    begin(work, RUNS[0])
    since(work)
    lose(work, "001_CT")
    begin(work, RUNS[1])
    first = since(work)
    kept = said(work)
    assert since(work) == first and said(work) == kept, "the same bytes"


def test_a_run_without_a_change_does_not_hide_the_latest_change(work):
    begin(work, RUNS[0])
    since(work)
    lose(work, "001_CT")
    begin(work, RUNS[1])
    since(work)
    kept = said(work)
    for run in RUNS[2:4]:
        begin(work, run)
        found = since(work)
        assert (found.run, found.until) == ("2026-11-01 08:00", "2026-11-02 08:00")
        assert [one.image for one in found.changed] == ["001_CT"] and said(work) == kept


def test_a_report_made_early_is_replaced_by_the_last_one_of_its_run(work):
    begin(work, RUNS[0])
    since(work)
    begin(work, RUNS[1])
    (work / "records" / "export" / "b0001").rename(work / "aside")
    assert {one.after for one in since(work).changed} == {"failed"}
    (work / "aside").rename(work / "records" / "export" / "b0001")
    assert since(work).nothing and list(said(work)) == [f"{RUNS[0]}-000000.said.gz"]


def test_only_the_words_of_a_few_runs_are_kept(work):
    names = iter(row["image"] for row in read_table(work / "cohort" / "cohort.tsv"))
    for run in RUNS[: KEPT + 3]:
        begin(work, run)
        lose(work, next(names))
        since(work)
    assert len(said(work)) == KEPT


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images":{"a":[1]},"measures":{},"stages":{}}'])
@pytest.mark.parametrize("packed", [True, False])
def test_a_word_that_cannot_be_read_is_noted_and_not_compared(work, text, packed):
    begin(work, RUNS[0])
    since(work)
    (work / "runs" / f"{RUNS[0]}-000000.said.gz").write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    begin(work, RUNS[1])
    records = read_records(work, STAGES)
    assert since_last_run(work, records, [], {}).run == ""
    assert any(f"runs/{RUNS[0]}-000000.said.gz cannot be read" in note for note in records.notes)


def test_what_only_leaves_to_other_runs_is_not_called_gone(work):
    begin(work, RUNS[0])
    since(work)
    shutil.rmtree(work / "records" / "export" / "b0001")
    (work / "cohort" / "index.json").write_text(json.dumps({"only": ["b0000"]}))
    begin(work, RUNS[1])
    assert since(work).gone == []


def test_the_page_opens_with_what_changed_and_its_outputs_do_not_depend_on_it(work, tmp_path):
    begin(work, RUNS[0])
    write_report(work, tmp_path / "a", CONFIG, STAGES)
    lose(work, "001_CT")
    begin(work, RUNS[1])
    page = write_report(work, tmp_path / "b", CONFIG, STAGES)
    verdict = re.search(r'<section id="verdict".*?</details>', page.read_text(encoding="utf-8"), re.S)[0]
    assert "What changed since the run of 2026-11-01 08:00 (UTC)" in verdict
    assert "1 image has another word" in verdict and "001_CT" in verdict and "truncated" in verdict
    assert SCRIPT not in verdict and "&lt;script&gt;" in verdict
    shutil.rmtree(work / "runs")
    write_report(work, tmp_path / "c", CONFIG, STAGES)
    for name in ("manifest.tsv", "tables/denoise.tsv", "report/counts.json", "tables/manifest.parquet"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
