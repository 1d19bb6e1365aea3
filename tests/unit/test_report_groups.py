"""What the page holds to split distributions by, small pictures, cost and leaderboards; and a page for whatever the cohort is."""

import base64
import gzip
import json
import re
import shutil

import pytest

from cohortex.report import costs
from cohortex.report.boards import boards
from cohortex.report.groups import VALUES, columns_of
from cohortex.report.harmonise import harmonised
from cohortex.report.measures import groups_of
from cohortex.report.page import write_report
from cohortex.report.records import Records, Timing, read_records
from cohortex.tables import read_table
from tests.fake_cohort import CONFIG, SCRIPT, STAGES, write_fake_cohort
from tests.moved_cohort import move, rewrite

HARMONISED = {**CONFIG, "report": {**CONFIG["report"], "harmonise": {"batch": "scanner", "covariates": ["age"]}}}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return move(write_fake_cohort(tmp_path_factory.mktemp("groups") / "work", subjects=45, pictures=False))


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_columns_of_few_values_are_groups_and_ids_and_ages_are_not(work):
    records = read_records(work, STAGES)
    found = columns_of(records, records.images)
    assert list(found) == ["scanner", "site", "sex", "group"], "age has a value for everyone, modality is chosen apart"
    assert found["scanner"][:4] == ["alpha", "alpha", "beta", "beta"] and set(found["sex"]) == {"f", "m"}


@pytest.mark.parametrize(
    ("cells", "offered"),
    [
        (["a", "b"] * 10, True),
        (["a"] * 20, False),
        ([str(place) for place in range(20)], False),
        ([str(place % (VALUES + 1)) for place in range(40)], False),
        (["a", "b", *[""] * 18], False),
        (["a", "n/a"] * 10, False),
    ],
)
def test_a_column_is_one_of_groups_when_few_values_stand_there_often(cells, offered):
    records = Records([], cohort={str(place): {"site": cell} for place, cell in enumerate(cells)})
    assert ("site" in columns_of(records, list(records.cohort))) is offered


def test_the_page_holds_groups_and_harmonised_values_of_the_rows_of_its_table(work, tmp_path):
    data = data_of(write_report(work, tmp_path / "results", HARMONISED, STAGES))
    names = unpacked(data["packed"][""])[1]
    scanners = dict(zip(names, unpacked(data["groups"]["packed"])[data["groups"]["names"].index("scanner")], strict=True))
    assert scanners["001_T1w"] == "alpha" and scanners["003_CT"] == "gamma"
    made = data["harmonised"]["regseg"]
    heads = [data["stages"]["regseg"][column] for column in made["columns"]]
    assert sorted(heads) == ["seg: volume CSF (ml)", "seg: volume grey (ml)", "seg: volume white (ml)"]
    column = unpacked(made["packed"])[heads.index("seg: volume grey (ml)")]
    told = {row["image"]: row for row in read_table(tmp_path / "results" / "tables" / "regseg_harmonised.tsv")}
    for name, value in zip(names, column, strict=True):
        row = told.get(f"{name}+seg")
        assert (value is None) == (row is None)
        assert row is None or value == pytest.approx(float(row["volume_grey_ml"]), rel=1e-3)
    records = read_records(work, STAGES)
    assert len(harmonised(records, groups_of(records), HARMONISED).parts) == 2


def test_without_groups_measures_or_harmonised_values_the_page_holds_none(tmp_path):
    data = data_of(write_report(tmp_path / "work", tmp_path / "results", {}, STAGES))
    assert data["groups"] == {"names": [], "packed": ""} and data["harmonised"] == {} and data["thumbs"] == {}


def test_images_that_a_rater_rejected_are_marked_as_not_to_be_counted(work, tmp_path):
    copied = shutil.copytree(work, tmp_path / "work")
    (copied / "cohort" / "ratings.tsv").write_text("image\trating\tnote\trater\tdate\n004_T1w\treject\t\tanna\t\n", encoding="utf-8")
    data = data_of(write_report(copied, tmp_path / "results", CONFIG, STAGES))
    assert [unpacked(data["packed"][""])[1][row] for row in data["left_out"]] == ["004_T1w"]


def test_hours_are_those_of_threads_and_devices_and_prices_are_added_up():
    told = [Timing("a", 3600, 2000, "n1", "cuda:0", 4, False), Timing("b", 1800, 4000, "n1", "cpu", 2, True)]
    rows = costs.times(Records(["denoise", "export"], timing={"denoise": told}))
    ((row),) = rows
    assert (row["cpu_h"], row["gpu_h"], row["gb_h"]) == pytest.approx((5.0, 1.0, 4.0))
    free = costs.cost(rows, 10, None)
    assert (free.cpu_h, free.gpu_h, free.gb_h, free.money) == pytest.approx((5.0, 1.0, 4.0, None))
    paid = costs.cost(rows, 10, {"cpu_hour": 0.1, "gpu_hour": 2, "gb_hour": 0.25, "currency": "EUR"})
    assert (paid.money, paid.an_image, paid.currency) == (pytest.approx(3.5), pytest.approx(0.35), "EUR")
    assert costs.cost([], 0, {"cpu_hour": 1}).an_image is None


def test_the_page_says_what_the_run_cost_only_where_prices_are_given(work, tmp_path):
    def times(config):
        text = write_report(work, tmp_path / "results", config, STAGES).read_text(encoding="utf-8")
        return re.search(r'<section id="times".*?</section>', text, re.S)[0]

    assert "core hours" in times(CONFIG) and "report: cost" not in times(CONFIG)
    priced = times({**CONFIG, "report": {**CONFIG["report"], "cost": {"cpu_hour": 100, "currency": "<b>EUR</b>"}}})
    assert "&lt;b&gt;EUR" in priced and "an image" in priced and "report: cost" in priced


def test_a_leaderboard_is_shown_with_the_columns_that_tell_systems_apart_and_linked(work, tmp_path):
    folder = tmp_path / "results" / "bakeoff" / "denoise"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("x")
    lines = [f"s{index}\t{30 + index / 7}\tok\t<i>{index}</i>" for index in range(20)]
    (folder / "leaderboard.tsv").write_text("\n".join(["system\tpsnr\tstatus\tnote", *lines]) + "\n", encoding="utf-8")
    for name, content in (("empty", b""), ("heads", b"system\tpsnr\n"), ("binary", b"\xff\xfe\n\xff\n")):
        (tmp_path / "results" / "bakeoff" / name).mkdir()
        (tmp_path / "results" / "bakeoff" / name / "leaderboard.tsv").write_bytes(content)
    notes = []
    (board,) = boards(tmp_path / "results", notes)
    assert [note.split("/")[1] for note in notes] == ["binary", "empty", "heads"]
    assert (board.task, board.page, board.heads) == ("denoise", "../bakeoff/denoise/index.html", ["system", "psnr", "note"])
    assert board.rows[1][:2] == ["s1", "30.14"] and (len(board.rows), board.more) == (12, 8)
    text = write_report(work, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    models = re.search(r'<section id="models".*?</section>', text, re.S)[0]
    assert "Leaderboard: denoise" in models and "&lt;i&gt;1" in models and 'href="../bakeoff/denoise/index.html"' in models
    assert "bakeoff/binary/leaderboard.tsv cannot be shown" in text
    assert boards(tmp_path / "nothing", []) == []


def test_the_page_of_a_cohort_with_markup_in_every_word_holds_none_of_it(work, tmp_path):
    copied = shutil.copytree(work, tmp_path / "work")
    rewrite(copied / "cohort" / "cohort.tsv", lambda row: {"site": SCRIPT, "scanner": f"<img src=x>{row['scanner']}"})
    rewrite(copied / "cohort" / "participants.tsv", lambda row: {"group": f"{row['group']}{SCRIPT}"})
    config = {**HARMONISED, "report": {**HARMONISED["report"], "harmonise": {"batch": "scanner", "covariates": ["group"]}}}
    text = write_report(copied, tmp_path / "results", config, STAGES).read_text(encoding="utf-8")
    assert SCRIPT not in text and "<img src=x>" not in text and "&lt;img src=x&gt;" in text


def test_a_hundred_kilobytes_of_text_in_a_tag_fill_no_page(work, tmp_path):
    copied = shutil.copytree(work, tmp_path / "work")
    long = "word " * 20_000
    rewrite(copied / "cohort" / "cohort.tsv", lambda row: {"site": f"{row['site']} {long}", "scanner": f"{row['scanner']} {long}"})
    for stage, word in (("acquire", "warned"), ("preprocess", "quarantined")):
        for manifest in (copied / "records" / stage).glob("*/manifest.tsv"):
            rewrite(manifest, lambda row, word=word: {"status": word, "code": "x", "reason": long} if row["image"].endswith("_CT") else {})
    page = write_report(copied, tmp_path / "results", HARMONISED, STAGES)
    assert page.stat().st_size < 2e6
    assert "manifest.tsv has all" in page.read_text(encoding="utf-8")


def test_a_cohort_of_which_everything_was_set_aside_and_nothing_is_known_has_a_page(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=12, pictures=False)
    (work / "cohort" / "participants.tsv").unlink()
    for stage in STAGES[1:]:
        shutil.rmtree(work / "records" / stage)
    for manifest in (work / "records" / "acquire").glob("*/manifest.tsv"):
        rewrite(manifest, lambda row: dict.fromkeys(row, "") | {"image": row["image"], "kind": "image", "status": "failed"})
    page = write_report(work, tmp_path / "results", HARMONISED, STAGES)
    text = page.read_text(encoding="utf-8")
    assert "24 of 24 images" in text and "Nothing was harmonised" in text
    assert data_of(page)["stages"] == {}


def test_one_subject_alone_has_a_page_without_groups_trends_or_odd_scanners(tmp_path):
    work = move(write_fake_cohort(tmp_path / "work", subjects=1, pictures=False))
    page = write_report(work, tmp_path / "results", HARMONISED, STAGES)
    text = page.read_text(encoding="utf-8")
    assert "too few to look for what changed over time" in text and "lie elsewhere" not in text
    assert "not harmonised, because fewer than 3 images" in text
    assert data_of(page)["groups"]["names"] == []
