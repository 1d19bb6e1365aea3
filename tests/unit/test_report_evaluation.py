"""The report on a classifier: what its card promises, what the cohort shows, groups that it does not work for, copies."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from cohortex.measures.conformal import prediction_sets
from cohortex.measures.evaluation import conformal_of, evaluation, rule_out_of, sets_of
from cohortex.report import evaluation as judged
from cohortex.report.page import write_report
from cohortex.report.records import read_records
from cohortex.tables import read_table, write_table
from tests.fake_cohort import CARD, CONFIG, STAGES, write_fake_cohort

NAMES = ("control", "tumour", "lesions")
SUBJECTS = 120


def said(rng: np.random.Generator, y: np.ndarray, sharp: np.ndarray, classes: int) -> np.ndarray:
    """Return calibrated probabilities of `classes` classes; `sharp` is how well each case is seen."""
    score = sharp[:, None] * np.eye(classes)[y] + rng.normal(0, 1, (len(y), classes))
    logits = sharp[:, None] * score
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def write_classified(
    work: Path, classes: int = 2, card: dict | None = None, subjects: int = SUBJECTS, copied: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write records of a cohort that a classifier saw, which fails on women; every fourth subject was in its training.

    Parameters
    ----------
    card : dict, optional
        What differs in the card: ``extra`` or ``recipe``.
    copied : mapping of str to str
        Images that have the file of another.
    """
    rng = np.random.default_rng(11)
    write_fake_cohort(work, subjects, pictures=False, batch_size=subjects)
    names = list(NAMES[:classes])
    y, sex = rng.integers(0, classes, subjects), rng.integers(0, 2, subjects)
    p = said(rng, y, np.where(sex == 1, 3.5, 0.1), classes)
    ids = [f"{index + 1:03d}" for index in range(subjects)]
    people = [
        {"subject": one, "group": names[k], "sex": "MF"[1 - s], "age": 20 + 7 * n % 70}
        for n, (one, k, s) in enumerate(zip(ids, y, sex, strict=True))
    ]
    write_table(work / "cohort" / "participants.tsv", ("subject", "group", "sex", "age"), people)
    # The training had subjects like these, and some of these.
    fit, its = rng.integers(0, classes, 160), rng.integers(0, 2, 160)
    own = said(rng, fit, np.where(its == 1, 3.5, 0.1), classes)
    who, fold = np.arange(160).astype(str), np.arange(160) % 4
    of = names[1] if classes == 2 else None
    told = {"on": "cross-validation", **evaluation(fit, own, who, names, of, {"sex": np.array(["F", "M"], dtype=object)[its]})}
    told["sets"] = sets_of(fit, own, who, fold, names, 0.9, 0)
    told["rule_out"] = {**rule_out_of(fit == 1, own[:, 1], who, names[1], 0.95, 0.9, 0), "chosen": "the rarer of two classes"}
    metrics = [{"name": "auc (macro, one versus rest)", "value": 0.871, "low": 0.81, "high": 0.93, "n": 160, "on": "cross-validation"}]
    base = {**CARD, "name": "toy-group", "task": "classify", "modality": ["T1w"], "classes": names, "metrics": metrics}
    base |= {"subjects": {"train": ids[::4], "validation": []}, "recipe": {}, "extra": {"target": "group", "evaluation": told}}
    base |= card or {}
    told = base["extra"].get("evaluation", {})
    record = work / "records" / "classify" / "b0000"
    rows = read_table(record / "manifest.tsv")
    for row in rows:
        for name in [name for name in row if name.startswith("p_") or name == "predicted"]:
            row.pop(name)
        if row["image"].endswith("_T1w") and row["subject"] in ids:
            mine = p[ids.index(row["subject"])]
            row |= {f"p_{name}": f"{value:.6g}" for name, value in zip(names, mine, strict=True)} | {"class": names[int(mine.argmax())]}
            if "sets" in told:
                member = prediction_sets(conformal_of(told["sets"]), mine[None]).member[0]
                inside = [name for name, one in zip(names, member, strict=True) if one]
                row |= {"set": "|".join(inside), "set_size": str(len(inside)), "unlike_training": "false"}
            if "rule_out" in told and told["rule_out"]["threshold"] is not None:
                row["ruled_out"] = str(bool(mine[1] < told["rule_out"]["threshold"])).lower()
    last = work / "records" / "export" / "b0000" / "manifest.tsv"
    files = [{**row, "sha256": copied.get(row["image"], row["image"]).encode().hex()} for row in read_table(last)]
    write_table(last, list(files[0]), files)
    write_table(record / "manifest.tsv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    numbers = json.loads((record / "numbers.json").read_text())
    numbers["models"] = {"train": {"sha256": "ef" * 32, "card": base, "shown": {}}}
    (record / "numbers.json").write_text(json.dumps(numbers))
    return work


def section(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition('id="stage-classify"')[2].partition('<section class="stage" id="stage-export"')[0]


def verdict_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition('<section id="verdict"')[2].partition("</section>")[0]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        number: (
            work := write_classified(folder / f"work{number}", number),
            write_report(work, folder / f"results{number}", CONFIG, STAGES),
        )
        for number in (2, 3)
    }


def test_curves_have_axes_legends_and_intervals(pages):
    for number, plots in ((2, 6), (3, 10)):
        text = section(pages[number][1])
        assert text.count('<svg class="chart plot"') == plots, "of the training and of the cohort: ROC, reliability, decision curves"
        assert text.count("1 − specificity") == text.count("share that came true") == 2
        assert len(re.findall(r"AUC 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", text)) >= 2
        assert not re.search(r'points="[^"]*(nan|inf|-\d)', text), "inside the field"


def test_only_subjects_that_the_training_did_not_see_are_evidence(pages):
    work, page = pages[2]
    records = read_records(work, STAGES)
    (scans,) = judged._by_model(records)
    assert sum(scans.seen) == 30 and len(scans.seen) == 119, "one scan crashed"
    text = section(page)
    assert "30 of the subjects with a known class were in the model" in text and text.count("seen in training</span>") == 30
    fresh = [(k, p) for k, p, seen in zip(scans.known, scans.probability, scans.seen, strict=True) if not seen]
    right = sum(int(np.argmax(p)) == k for k, p in fresh)
    assert (
        f"accuracy <strong>{right / len(fresh):.3f} (" in text
        and f"Of 89 with a known class that the training did not see {right} " in text
    )
    assert "89 subjects with a known class" in text


def test_a_group_that_it_does_not_work_for_opens_the_report(pages):
    verdict = verdict_of(pages[2][1])
    alarms = re.findall(r"<strong>Classification:</strong> (.*?) <a", verdict)
    assert [("sex F against the others" in one, "scanner" in one, "age" in one) for one in alarms] == [(True, False, False)] * 2
    assert verdict.index("Classification:") < verdict.index('<table class="lost">')
    stage = section(pages[2][1])
    assert stage.count('<tr class="alarm"><th scope="row">sex: F</th>') == 6 and '<th scope="row">age: 40 to 64</th>' in stage


def test_sets_and_ruling_out_are_counted_and_measured(pages):
    work, page = pages[2]
    rows = [row for row in read_table(work / "records" / "classify" / "b0000" / "manifest.tsv") if row.get("set_size")]
    one, out = sum(row["set_size"] == "1" for row in rows), sum(row["ruled_out"] == "true" for row in rows)
    text = section(page)
    assert f"{one} of {len(rows)} scans have one class" in text and f"is ruled out for {out} of {len(rows)} scans" in text
    assert "tumour (the rarer of two classes, as none was named)" in text
    assert re.search(r"Expected sensitivity 9\d % \(95 % interval \d+ to \d+\)", text) and "Measured on scans of subjects" in text
    assert "takes 45 training subjects of that class, there were 41" in section(pages[3][1])
    assert "tumour|control" not in text and "lesions (4" not in text, "sets are no words of a measure"


def test_images_on_both_sides_of_a_split_are_said_first(tmp_path):
    copies = {"left_out": ["002", "003"], "both": ["004"], "together": [["006", "007"]], "two_labels": 1, "alike": 2}
    work = write_classified(tmp_path / "work", card={"recipe": {"copies": copies}}, copied={"010_T1w": "005_T1w", "011_T1w": "012_T1w"})
    page = write_report(work, tmp_path / "results", CONFIG, STAGES)
    verdict = verdict_of(page)
    for words in (
        "2 training subjects had an image of a validation subject",
        "004 were training and validation",
        "006, 007",
        "two labels",
        "training subject (010)",
    ):
        assert words in verdict
    assert "33 of the subjects with a known class were in the model" in section(page), (
        "003 crashed; 002, 004 and 010 are no evidence either"
    )


def test_a_card_without_these_entries_is_shown_as_far_as_it_goes(tmp_path):
    work = write_classified(tmp_path / "old", card={"extra": {"target": "group"}})
    text = section(write_report(work, tmp_path / "r1", CONFIG, STAGES))
    assert "This cohort: subjects that the training did not see" in text and "Sets of classes" not in text and "ruled out" not in text
    unknown = write_classified(tmp_path / "unknown", card={"extra": {}})
    text = section(write_report(unknown, tmp_path / "r2", CONFIG, STAGES))
    assert "This cohort" not in text and '<svg class="chart plot"' not in text


def test_few_subjects_have_rates_but_no_curves(tmp_path):
    work = write_classified(tmp_path / "work", subjects=8, card={"subjects": {"train": ["001"]}, "extra": {"target": "group"}})
    text = section(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "no curves" in text and "accuracy <strong>" in text and '<svg class="chart plot"' not in text
