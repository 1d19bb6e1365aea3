"""Odd values, names of measures and the charts that are drawn of them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortex.report import methods, page, pictures
from cohortex.report.charts import short, stacked, strips, ticks
from cohortex.report.measures import Group, _percentiles_without, charts_of, groups_of, odd_ones, robust_z, spoken, without_moment
from cohortex.report.records import Records, Row


def told(image, body_part, sigma):
    cells = dict.fromkeys(Row.__dataclass_fields__, "")
    cells |= {"image": image, "kind": "image", "modality": "T2w", "body_part": body_part, "status": "ok"}
    return Row(**{**cells, "measures": {"sigma": str(sigma)}})


def group(values):
    return Group("denoise", "sigma", "T1w", "", [f"i{index}" for index in range(len(values))], list(values))


def test_one_value_far_from_the_others_is_odd_and_the_others_are_not():
    values = [*np.random.default_rng(0).normal(10, 1, 30), 30.0]
    (odd,) = odd_ones([group(values)], 3.5)
    assert odd.image == "i30"
    assert odd.z > 10
    assert odd.low < odd.median < odd.high < 15


def test_the_robust_score_equals_the_ordinary_one_for_many_normal_values():
    values = np.random.default_rng(1).normal(5, 2, 20000)
    assert np.allclose(robust_z(values), (values - 5) / 2, atol=0.1)


def test_one_different_value_among_equal_ones_is_odd():
    assert [odd.image for odd in odd_ones([group([95.0] * 9 + [42.0])], 3.5)] == ["i9"]


def test_equal_values_and_rounding_are_never_odd():
    assert odd_ones([group([1.0] * 20), group([1.0] * 19 + [1.00001])], 3.5) == []


def test_few_values_are_never_odd():
    assert odd_ones([group([1.0, 1.1, 1.0, 50.0])], 3.5) == []


@pytest.mark.parametrize("count", [6, 8, 12, 20, 60])
def test_normal_values_are_as_rarely_odd_in_a_small_group_as_in_a_large_one(count):
    drawn = np.random.default_rng(3).normal(size=(24000 // count, count))
    odd = sum(len(odd_ones([group(values)], 3.5)) for values in drawn)
    assert odd / drawn.size < 0.002
    assert odd_ones([group([*drawn[0], drawn[0].mean() + 100])], 3.5)


def test_images_of_different_body_parts_are_not_compared():
    rows = [told(f"{part}{index}_T2w", part, value) for part, value in (("head", 1.0), ("prostate", 9.0)) for index in range(6)]
    groups = groups_of(Records(["denoise"], told={"denoise": rows}))
    assert [(one.body_part, one.values) for one in groups] == [("head", [1.0] * 6), ("prostate", [9.0] * 6)]
    assert [label for label, _, _ in charts_of(groups)["denoise"]["sigma", ""]] == ["T2w head", "T2w prostate"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=50), st.floats(0.1, 10), st.floats(-100, 100))
def test_scores_are_finite_whatever_the_values(values, _scale, _shift):
    assert np.isfinite(robust_z(values)).all()


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ("tre_after_mm", ("TRE after", "mm")),
        ("psnr_db", ("PSNR", "dB")),
        ("dice", ("Dice", "")),
        ("mi_before", ("mutual information before", "")),
        ("sharpness_per_mm", ("sharpness", "1/mm")),
        ("s", ("s", "")),
        ("folding_percent", ("folding", "%")),
    ],
)
def test_measures_are_spoken_with_their_units(measure, words):
    assert spoken(measure) == words


@pytest.mark.parametrize(
    ("measure", "parted"),
    [
        ("tre_before_mm", ("tre_mm", "before")),
        ("noise_sigma_after", ("noise_sigma", "after")),
        ("after", ("after", "")),
        ("afternoon_x", ("afternoon_x", "")),
    ],
)
def test_before_and_after_of_one_measure_share_a_chart(measure, parted):
    assert without_moment(measure) == parted


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, width):
    found = ticks(low, low + width)
    assert len(found) <= 7
    assert all(low - width * 1e-6 <= tick <= low + width * (1 + 1e-6) for tick in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.34567, "12.35"), (1234567.0, "1.23 M"), (245760, "246 k"), (2.5e12, "2.5e+12"), (0.00012345, "0.000123"), (95.0, "95")],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_a_chart_escapes_names_and_marks_odd_dots():
    chart = strips([("<b>", ["<i>1", "2", "3"], [1.0, 2.0, 9.0], [False, False, True])], "a & b")
    assert "<b>" not in chart
    assert "<i>" not in chart
    assert chart.count("<circle") == 3
    assert chart.count('class="dot odd"') == 1


def test_a_chart_of_many_values_draws_only_the_tails():
    values = list(np.random.default_rng(2).normal(size=5000))
    chart = strips([("CT", [str(value) for value in values], values, [False] * 5000)], "many")
    assert 50 < chart.count("<circle") <= 150


def test_pieces_of_a_bar_are_as_wide_as_their_share():
    widths = [
        float(width) for width in re.findall(r'class="s-\w+" x="[\d.]+" y="0" width="([\d.]+)"', stacked({"ok": 3, "failed": 1}, 6, "x"))
    ]
    assert widths == [150.0, 50.0]


def test_the_methods_paragraph_says_what_was_done_not_what_was_configured():
    model = {"zoo/x": {"sha256": "ab", "card": {"name": "x"}}}
    done = replace(told("1_T2w", "head", 3.0), measures={"method": "spline"})
    numbers = {stage: {"b1": {"section": {"default": {"method": "srcnn3d"}}, "models": model}} for stage in ("denoise", "superresolve")}
    records = Records(["denoise", "superresolve"], {"1_T2w": {"subject": "1", "modality": "T2w"}}, numbers=numbers)
    records.told = {"denoise": [replace(done, status="skipped")], "superresolve": [done]}
    text = methods.paragraph(records, {})
    assert "The stage denoise left all of them as they were." in text
    assert "finer through-plane resolution (by default: method srcnn3d); used were spline (1)" in text
    assert "Learned models" not in text
    assert methods.models(records)[0]["images"] == 0
    records.told["superresolve"] = [replace(done, measures={"method": "srcnn3d", "model": "x"})]
    assert methods.models(records)[0]["images"] == 1
    assert "Learned models: x" in methods.paragraph(records, {})


@pytest.mark.parametrize(
    ("intensities", "tissues", "said"),
    [("auto", {"2": "grey matter"}, True), ("none", {"2": "grey matter"}, False), ("auto", None, False)],
)
def test_the_methods_paragraph_says_whether_tissues_followed_the_intensities(intensities, tissues, said):
    card = {"name": "x", "extra": {"tissues": tissues} if tissues else {}}
    section = {"default": {"intensities": intensities}, "CT": {}}
    numbers = {"regseg": {"b1": {"section": section, "models": {"zoo/x": {"sha256": "ab", "card": card}}}}}
    done = replace(told("1_T1w", "head", 3.0), measures={"model": "x"})
    records = Records(["regseg"], {"1_T1w": {"subject": "1", "modality": "T1w"}}, numbers=numbers)
    records.told = {"regseg": [done]}
    assert ("expectation maximisation" in methods.paragraph(records, {})) is said


def test_reasons_that_differ_in_more_than_numbers_stay_apart():
    told_ = [
        replace(told(f"{index}_T2w", "head", 1.0), status="skipped", code="no-fit", reason=reason)
        for index, reason in enumerate(("is for CT, not for T2w", "is for voxels up to 5 mm, not 6.5", "is for voxels up to 5 mm, not 7.2"))
    ]
    assert [entry["count"] for entry in page._reasons(Records(["denoise"], told={"denoise": told_}))] == [1, 2]


def test_a_colour_that_stands_for_several_labels_names_them():
    assert pictures.legend([{2: "label 2", 10: "label 10"}, {1: "csf"}]) == {1: "csf", 2: "label 2, 10"}
    assert pictures.legend([{k: f"label {k}" for k in range(1, 42)}])[1] == "label 1, 9, 17, 25, …"


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=60), st.data())
def test_percentiles_of_the_others_are_those_that_numpy_finds(values, data):
    position = data.draw(st.integers(0, len(values) - 1))
    found = _percentiles_without(np.sort(values), values[position], (5, 50, 95))
    np.testing.assert_allclose(found, np.percentile(np.delete(values, position), (5, 50, 95)), rtol=1e-9, atol=1e-9)
