"""ComBat takes out what batches add and keeps what covariates explain; what cannot be estimated is refused in a sentence."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.ratings import Rating
from cohortex.report.combat import CannotHarmonise, combat
from cohortex.report.harmonise import harmonised
from cohortex.report.measures import groups_of
from cohortex.report.page import write_report
from cohortex.report.records import read_records
from cohortex.tables import read_table
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort
from tests.moved_cohort import move, rewrite

ASKED = {"batch": "scanner", "covariates": ["age", "sex"]}
EXPECTED = {
    0: (13.43762, 14.08315, 12.78961, 15.57344, 17.47735),
    9: (11.92666, 14.89824, 13.65009, 16.43103, 18.38325),
    10: (13.32423, 13.59688, 13.56305, 14.66808, 15.08202),
    17: (13.64527, 16.20830, 17.63072, 17.49154, 19.45404),
    18: (13.26013, 13.24008, 15.51278, 15.37013, 18.64125),
    23: (11.58498, 14.07507, 14.40996, 15.76881, 17.03460),
}
"""Rows of `example` as neuroCombat 0.2.12 harmonises them, with numpy 2: ``neuroCombat(dat=values.T, covars=DataFrame({"batch", "age",
"sex"}), batch_col="batch", categorical_cols=["sex"], continuous_cols=["age"])["data"].T``."""


def example():
    """Return values (24, 5), batches and covariates (age, sex) with a shift and a scale of two of three batches."""
    generator = np.random.default_rng(7)
    count, measures = 24, 5
    batches = np.array(["a"] * 10 + ["b"] * 8 + ["c"] * 6)
    age, sex = generator.uniform(20, 80, count), (np.arange(count) % 2).astype(float)
    values = 10 + np.arange(measures) + 0.05 * age[:, None] + 0.4 * sex[:, None] * np.arange(measures)
    values = values + generator.normal(0, 1, (count, measures))
    for name, shift, scale in (("b", 2.0, 1.5), ("c", -1.0, 0.6)):
        rows = batches == name
        mean = values[rows].mean(0)
        values[rows] = mean + shift + scale * (values[rows] - mean) + generator.normal(0, 0.2, measures)
    return np.round(values, 6), batches, np.round(np.stack([age, sex], 1), 6)


def planted(seed=0, count=400, shift=30.0, scale=2.0):
    """Return values with an effect of age and a shift and scale of batch b, what they would be without these, batches and ages."""
    generator = np.random.default_rng(seed)
    batches = np.where(np.arange(count) % 2, "b", "a")
    age = generator.uniform(20, 80, count) + 8 * (batches == "b")
    noise = generator.normal(0, 5, (count, 12))
    true = 500 + 10 * np.arange(12) - 2 * age[:, None]
    moved = true + np.where(batches[:, None] == "b", shift + scale * noise, noise)
    return moved, true + noise, batches, age[:, None]


def with_config(asked, **more):
    return {**CONFIG, "report": {**CONFIG["report"], "harmonise": asked, **more}}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return move(write_fake_cohort(tmp_path_factory.mktemp("harmonise") / "work", subjects=45, pictures=False))


def test_the_numbers_are_those_of_neurocombat():
    found, _ = combat(*example())
    for row, values in EXPECTED.items():
        np.testing.assert_allclose(found[row], values, atol=2e-5)


def test_a_planted_shift_and_scale_are_recovered_and_the_effect_of_age_stays():
    moved, clean, batches, age = planted()
    found, fit = combat(moved, batches, age)
    b = batches == "b"
    slopes = np.polyfit(age[:, 0], found, 1)[0]
    assert np.allclose(slopes, -2, atol=0.06)
    residual = found + 2 * age
    assert np.abs(residual[b].mean(0) - residual[~b].mean(0)).max() < 1.5, "of a shift of 30"
    assert np.allclose(residual[b].std(0) / residual[~b].std(0), 1, atol=0.12), "of a scale of 2"
    assert np.allclose(fit.scale[1] / fit.scale[0], 2, atol=0.2)
    # what is left is each image's own deviation, not noise of another kind
    assert np.corrcoef(found[:, 0], clean[:, 0])[0, 1] > 0.98


def test_without_its_covariate_what_age_explains_is_taken_for_the_batch():
    moved, _, batches, age = planted(shift=0.0, scale=1.0)
    kept, _ = combat(moved, batches, age)
    taken, _ = combat(moved, batches, np.zeros((len(moved), 0)))
    b = batches == "b"
    explained = 2 * (age[b].mean() - age[~b].mean())
    assert kept[~b].mean() - kept[b].mean() == pytest.approx(explained, abs=1) and explained > 10
    assert abs(taken[~b].mean() - taken[b].mean()) < 1


def test_one_batch_is_left_as_it_is():
    moved, _, _, age = planted(count=20)
    found, _ = combat(moved, np.array(["a"] * 20), age)
    assert np.array_equal(found, moved)


def test_batches_without_a_difference_stay_nearly_as_they_are():
    moved, clean, batches, age = planted(shift=0.0, scale=1.0)
    found, _ = combat(moved, batches, age)
    assert np.abs(found - clean).max() < 3 and np.abs(found - clean).mean() < 0.5


def test_shifts_are_drawn_to_what_the_measures_of_a_batch_have_in_common():
    generator = np.random.default_rng(3)
    batches = np.array(["a"] * 40 + ["b"] * 4)
    values = generator.normal(0, 1, (44, 30)) + 2.0 * (batches == "b")[:, None]
    _, fit = combat(values, batches, np.zeros((44, 0)))
    own = values[40:].mean(0) - values[:40].mean(0)
    assert np.std(fit.shift[1]) < 0.6 * np.std(own)


def test_a_missing_value_stays_missing_and_the_others_of_its_image_count():
    moved, _, batches, age = planted()
    moved[3, 2] = moved[10, 5] = np.nan
    found, _ = combat(moved, batches, age)
    assert np.isnan(found[3, 2]) and np.isnan(found[10, 5]) and np.isfinite(found).sum() == found.size - 2
    whole, _ = combat(planted()[0], batches, age)
    assert np.nanmax(np.abs(found - whole)) < 1.0


def test_one_measure_alone_is_harmonised_by_its_own_estimates():
    moved, _, batches, age = planted()
    found, _ = combat(moved[:, :1], batches, age)
    b = batches == "b"
    residual = found + 2 * age
    assert abs(residual[b].mean() - residual[~b].mean()) < 1e-1 * 30


@pytest.mark.parametrize(
    ("batches", "covariate", "words"),
    [
        (["a"] * 5 + ["b"], [1, 2, 3, 4, 5, 6], "b has one image only"),
        (["a"] * 3 + ["b"] * 3, [1, 1, 1, 2, 2, 2], "cannot be told apart"),
    ],
)
def test_what_cannot_be_estimated_is_refused(batches, covariate, words):
    values = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(CannotHarmonise, match=words):
        combat(values, np.array(batches), np.array(covariate, float)[:, None])


def test_a_measure_without_variance_is_refused():
    values = np.random.default_rng(0).normal(size=(8, 2))
    values[:, 1] = 4.0
    with pytest.raises(CannotHarmonise, match="does not vary"):
        combat(values, np.array(["a", "b"] * 4), np.zeros((8, 0)))


def test_harmonised_measures_are_a_further_table_with_dictionary_and_parquet(work, tmp_path):
    results = tmp_path / "results"
    write_report(work, results, with_config(ASKED), STAGES)
    rows = read_table(results / "tables" / "regseg_harmonised.tsv")
    raw = {row["image"]: row for row in read_table(results / "tables" / "regseg.tsv")}
    assert rows == sorted(rows, key=lambda row: row["image"]) and all(row["image"].endswith("+seg") for row in rows)
    grey = {name: [] for name in ("alpha", "beta", "gamma")}
    before = {name: [] for name in grey}
    for row in rows:
        grey[row["batch"]].append(float(row["volume_grey_ml"]))
        before[row["batch"]].append(float(raw[row["image"]]["volume_grey_ml"]))
    assert np.mean(before["gamma"]) - np.mean(before["beta"]) > 120 > 40 > abs(np.mean(grey["gamma"]) - np.mean(grey["beta"]))
    told = json.loads((results / "tables" / "regseg_harmonised.json").read_text(encoding="utf-8"))
    assert set(told) == set(rows[0]) and "ComBat" in told["volume_grey_ml"]["Description"] and told["volume_grey_ml"]["Units"] == "ml"
    typed = pq.read_table(results / "tables" / "regseg_harmonised.parquet").to_pylist()
    assert [row["volume_csf_ml"] for row in typed] == [float(row["volume_csf_ml"]) for row in rows]
    write_report(work, results, CONFIG, STAGES)
    assert not list((results / "tables").glob("*harmonised*")), "of a run that does not ask for it"


def test_the_same_records_give_the_same_harmonised_bytes(work, tmp_path):
    for name in "ab":
        write_report(work, tmp_path / name, with_config(ASKED), STAGES)
    for kind in ("tsv", "json", "parquet"):
        first, second = (tmp_path / name / "tables" / f"regseg_harmonised.{kind}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_images_without_a_covariate_are_left_out_and_counted(work):
    records = read_records(work, STAGES)
    for subject in ("001", "002"):
        records.participants[subject]["age"] = "n/a"
    found = harmonised(records, groups_of(records), with_config(ASKED))
    assert all(not image.startswith(("001", "002")) for part in found.parts for image in part.images)
    assert any("2 images without scanner or age or sex are left out" in words for words in found.said)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"batch": "magnet"}, "no image has a value of magnet"),
        ({"batch": "scanner", "covariates": ["weight"]}, "no image has a value of weight"),
        ({"batch": "scanner", "measures": ["denoise.nothing"]}, "no measure is called denoise.nothing"),
        ({"batch": "scanner", "covariates": ["site"]}, "cannot be told apart"),
        ({"batch": "subject"}, "one image only"),
    ],
)
def test_what_cannot_be_harmonised_is_said_on_the_page_and_the_rest_of_it_stands(work, tmp_path, asked, words):
    page = write_report(work, tmp_path / "results", with_config(asked), STAGES)
    section = re.search(r'<section id="groups".*?</section>', page.read_text(encoding="utf-8"), re.S)[0]
    assert words in section and 'class="note"' in section
    assert not list((tmp_path / "results" / "tables").glob("*harmonised*"))


def test_a_measure_that_is_the_same_for_all_is_left_out_and_the_others_are_harmonised(work):
    records = read_records(work, STAGES)
    asked = {"batch": "scanner", "measures": ["regseg.dice", "regseg.folding_percent", "regseg.tre_*"]}
    found = harmonised(records, groups_of(records), with_config(asked))
    assert {measure for part in found.parts for measure in part.measures} == {"dice", "tre_before_mm", "tre_after_mm"}
    assert any("folding_percent not harmonised" in words for words in found.refused)


def test_one_scanner_only_changes_nothing_and_says_so(work, tmp_path):
    records = read_records(work, STAGES)
    for entry in records.cohort.values():
        entry["scanner"] = "only"
    found = harmonised(records, groups_of(records), with_config({"batch": "scanner"}))
    assert found.parts and all(np.array_equal(part.raw, part.values) for part in found.parts)
    assert all("all are of one scanner" in words for words in found.said)


def test_images_that_a_rater_rejected_are_not_harmonised(work):
    records = read_records(work, STAGES)
    records.ratings = [Rating("004_T1w", "reject", "moved", "anna", "2026-11-01T00:00:00Z")]
    found = harmonised(records, groups_of(records), with_config(ASKED))
    images = {image for part in found.parts for image in part.images}
    assert "004_T1w+seg" not in images and "004_CT+seg" in images


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"harmonise": {"covariates": ["age"]}}, "batch"),
        ({"harmonise": {"batch": "scanner", "method": "x"}}, "method"),
        ({"harmonise": {"batch": "scanner", "measures": ["volume"]}}, "measures"),
        ({"cost": {"cpu_hour": -1}}, "cpu_hour"),
        ({"cost": {}}, "cost"),
    ],
)
def test_wrong_settings_are_refused_by_their_key(section, words):
    with pytest.raises(Refused, match=words):
        check_config({"report": section})


def test_settings_are_filled_in():
    told = check_config({"report": {"harmonise": {"batch": "site"}, "cost": {"cpu_hour": 0.1}}})["report"]
    assert told["harmonise"] == {"batch": "site", "covariates": [], "measures": ["regseg.volume_*"]}
    assert told["cost"] == {"cpu_hour": 0.1, "gpu_hour": 0, "gb_hour": 0, "currency": ""}


def test_a_site_that_is_told_with_markup_stays_text(work, tmp_path):
    copied = shutil.copytree(work, tmp_path / "work")
    rewrite(copied / "cohort" / "cohort.tsv", lambda row: {"scanner": f"<b>{row['scanner']}</b>"})
    text = write_report(copied, tmp_path / "results", with_config(ASKED), STAGES).read_text(encoding="utf-8")
    assert "<b>gamma" not in text and "&lt;b&gt;gamma" in text
