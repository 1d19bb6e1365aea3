"""Images are held against those of their own scanner, and a scanner that lies elsewhere is told of as one."""

import re

import numpy as np
import pytest

from cohortex.report.compared import Cohort
from cohortex.report.measures import Group, odd_ones
from cohortex.report.page import write_report
from cohortex.report.records import Records, Row
from cohortex.report.scanners import ENOUGH, machine_of, machines_of, odd_beside, sentences, shifts_of
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort
from tests.moved_cohort import move, rewrite


def cohort(counts, medians, seed=0, spread=1.0):
    """Return a group of values of several scanners and which scanner each image is of."""
    generator = np.random.default_rng(seed)
    images, values, machines = [], [], {}
    for name, count in counts.items():
        for index in range(count):
            image = f"{name}{index}"
            images.append(image)
            values.append(float(generator.normal(medians[name], spread)))
            machines[image] = name
    return Group("denoise", "sigma", "T1w", "", images, values), machines


def with_value(group, image, value):
    values = [value if name == image else old for name, old in zip(group.images, group.values, strict=True)]
    return Group(group.stage, group.measure, group.modality, group.tag, group.images, values)


def test_a_scanner_with_an_offset_is_one_sentence_and_its_values_are_not_odd():
    group, machines = cohort({"a": 60, "b": 60, "c": 25}, {"a": 10, "b": 10, "c": 18})
    assert len(odd_ones([group], 3.5)) > 20, "what a list of values alone would say"
    odd, shifts = odd_beside([group], 3.5, machines)
    assert [(shift.machine, shift.images, shift.machines) for shift in shifts] == [("c", 25, 3)]
    assert odd == []
    ((name, words),) = sentences(shifts)
    assert name == "c" and words.startswith("its 25 images lie elsewhere as a whole: sigma of T1w in denoise, median 1")
    assert words.endswith(" of the 2 other scanners.")


def test_one_odd_image_of_a_shifted_scanner_is_found_though_it_is_usual_for_the_cohort():
    group, machines = cohort({"a": 60, "b": 60, "c": 25}, {"a": 10, "b": 10, "c": 18})
    group = with_value(group, "c7", 10.0)
    assert "c7" not in {one.image for one in odd_ones([group], 3.5)}
    odd, shifts = odd_beside([group], 3.5, machines)
    assert [(one.image, one.beside) for one in odd] == [("c7", "c")] and [shift.machine for shift in shifts] == ["c"]
    assert odd[0].z < -3.5 and odd[0].low > 15 and odd[0].group is group


def test_an_image_that_is_odd_among_all_stays_odd_where_no_scanner_lies_elsewhere():
    group, machines = cohort({"a": 30, "b": 30}, {"a": 10, "b": 10})
    odd, shifts = odd_beside([with_value(group, "a3", 30.0)], 3.5, machines)
    assert [one.image for one in odd] == ["a3"] and shifts == []


def test_few_images_of_a_scanner_are_held_against_all():
    group, machines = cohort({"a": 60, "b": ENOUGH - 1}, {"a": 10, "b": 40})
    odd, shifts = odd_beside([group], 3.5, machines)
    assert shifts == [] and {one.image for one in odd} == {name for name in group.images if name.startswith("b")}
    assert {one.beside for one in odd} == {""}


def test_without_scanners_the_rule_is_the_one_of_all_values():
    group, _ = cohort({"a": 30}, {"a": 10})
    group = with_value(group, "a3", 30.0)
    assert odd_beside([group], 3.5, {}) == (odd_ones([group], 3.5), [])


def test_scanners_that_all_differ_are_not_odd_and_one_that_differs_from_several_that_agree_is():
    steps = {name: 10 + 5 * place for place, name in enumerate("abcdef")}
    group, machines = cohort(dict.fromkeys(steps, 20), steps)
    assert shifts_of(group, machines) == []
    alike = {name: 10.0 + 0.2 * place for place, name in enumerate("abcde")} | {"f": 16.0}
    group, machines = cohort(dict.fromkeys(alike, 20), alike)
    assert [shift.machine for shift in shifts_of(group, machines)] == ["f"]


def test_of_two_scanners_that_differ_the_smaller_one_is_told_of():
    group, machines = cohort({"a": 12, "b": 40}, {"a": 10, "b": 30})
    assert [shift.machine for shift in shifts_of(group, machines)] == ["a"]


def test_the_same_value_for_all_images_of_each_scanner_is_a_protocol_and_told_only_of_the_one_that_differs():
    values = {"a": 64.0, "b": 64.0, "c": 128.0}
    group, machines = cohort(dict.fromkeys(values, 12), values, spread=0.0)
    assert [shift.machine for shift in shifts_of(group, machines)] == ["c"]
    values = {"a": 64.0, "b": 96.0, "c": 128.0}
    assert shifts_of(*cohort(dict.fromkeys(values, 12), values, spread=0.0)) == []


def test_scanners_that_are_alike_are_told_of_as_seldom_as_chance_has_it():
    shifted = sum(bool(shifts_of(*cohort(dict.fromkeys("abcd", 10), dict.fromkeys("abcd", 5.0), seed))) for seed in range(300))
    assert shifted <= 3


@pytest.mark.parametrize(
    ("entry", "person", "name"),
    [
        ({"site": "Bern", "scanner": "x"}, {}, "Bern · x"),
        ({"site": "Bern"}, {}, "Bern"),
        ({"scanner": "x"}, {"scanner": "y"}, "x"),
        ({"site": "", "scanner": ""}, {"site": "Ulm", "scanner": "n/a"}, "Ulm"),
        ({}, {}, ""),
    ],
)
def test_a_scanner_is_named_with_its_site_by_the_image_or_else_by_its_subject(entry, person, name):
    records = Records([], cohort={"i": {"subject": "1", **entry}}, participants={"1": person})
    assert machine_of(records, "i") == name
    assert machines_of(records) == ({"i": name} if name else {})


def test_the_page_of_a_subject_calls_odd_what_the_report_calls_odd():
    group, machines = cohort({"a": 60, "b": 60, "c": 25}, {"a": 10, "b": 10, "c": 18})
    group = with_value(group, "c7", 10.0)
    odd, _ = odd_beside([group], 3.5, machines)
    cells = dict.fromkeys(Row.__dataclass_fields__, "") | {"stage": "denoise", "modality": "T1w"}
    told = [Row(**{**cells, "image": image, "measures": {"sigma": str(value)}}) for image, value in (("c7", 10.0), ("c8", 18.0))]
    first, second = Cohort([group], 3.5, odd).measures_of(told)
    assert first.odd and first.name == "sigma, beside c" and first.z == odd[0].z
    assert not second.odd


def test_the_report_opens_with_the_scanner_and_names_what_each_odd_value_lies_beside(tmp_path):
    work = move(write_fake_cohort(tmp_path / "work", subjects=45, pictures=False))
    text = write_report(work, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)[0]
    (sentence,) = re.findall(r"<strong>Scanner Ulm · gamma:</strong> (.*?)</p>", verdict, re.S)
    assert "volume" in sentence and "ml of the 2 other scanners" in sentence
    odd = re.search(r'<section id="odd".*?</section>', text, re.S)[0]
    assert '<th scope="col">Beside</th>' in odd and "<td>Ulm · gamma</td>" in odd
    assert not re.findall(r"<tr[^>]*><th[^>]*>[^<]*\+seg", odd), "the volumes of a whole scanner are not listed one by one"


def test_of_many_scanners_that_lie_elsewhere_some_are_told_at_the_top_and_the_others_below(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=120, pictures=False, stages=STAGES[:3])
    rewrite(work / "cohort" / "cohort.tsv", lambda row: {"scanner": f"s{int(row['subject']) % 12:02d}"})
    for manifest in (work / "records" / "acquire").glob("*/manifest.tsv"):
        rewrite(manifest, lambda row: {"noise_sd": float(row["noise_sd"]) + 50 * (int(row["subject"]) % 12 >= 7)})
    text = write_report(work, tmp_path / "results", CONFIG, STAGES[:3]).read_text(encoding="utf-8")
    verdict, odd = (re.search(rf'<section id="{name}".*?</section>', text, re.S)[0] for name in ("verdict", "odd"))
    top, below = (re.findall(r"<strong>Scanner demo-simulator · (s\d\d):", part) for part in (verdict, odd))
    assert len(top) == 4 and sorted(top + below) == ["s07", "s08", "s09", "s10", "s11"]
    assert "1 more scanner lies elsewhere as a whole" in verdict
