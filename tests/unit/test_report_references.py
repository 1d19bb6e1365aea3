"""A methods section cites what really ran, and nothing else."""

import re
from dataclasses import replace

import pytest

from cohortex.models.registry import entry
from cohortex.report import methods
from cohortex.report.harmonise import Harmonised, Part
from cohortex.report.page import write_report
from cohortex.report.records import Records
from cohortex.report.references import BY_MEASURE, references
from tests.fake_cohort import CARD, CONFIG, STAGES, write_fake_cohort
from tests.unit.test_report_measures import told

REGSEG = {"name": "joint", "task": "regseg", "network": "voxelmorph_small", "parts": {"segment.CT": {"network": "unet3d_small"}}}


def records(stage, measures, card=None):
    row = replace(told("1_T2w", "head", 1.0), measures=measures)
    numbers = {stage: {"b1": {"models": {"zoo/x": {"sha256": "ab", "card": card}} if card else {}}}}
    return Records([stage], {"1_T2w": {"subject": "1", "modality": "T2w"}}, told={stage: [row]}, numbers=numbers)


def cited(found, made=None):
    return dict(references(found, methods.models(found), made or Harmonised()))


@pytest.mark.parametrize(("stage", "measure"), list(BY_MEASURE))
def test_what_a_measure_shows_to_have_run_is_cited(stage, measure):
    what, paper = BY_MEASURE[stage, measure]
    assert cited(records(stage, {measure: "1.2"}))[what] == paper
    assert what not in cited(records(stage, {"other": "1"}))


def test_networks_are_cited_where_they_saw_an_image_with_those_of_their_parts():
    used = cited(records("regseg", {"model": "joint"}, REGSEG))
    assert used["voxelmorph_small"] == entry("regseg", "voxelmorph_small").paper
    assert used["unet3d_small"] == entry("segment", "unet3d_small").paper
    assert "voxelmorph_small" not in cited(records("regseg", {"model": "another"}, REGSEG))


@pytest.mark.parametrize("card", [{}, {"network": "unheard of"}, {"task": "denoise", "network": None, "parts": [1]}])
def test_a_card_without_a_known_network_cites_nothing(card):
    assert list(cited(records("denoise", {"model": "x"}, {"name": "x", **card}))) == ["the workflow"]


def test_combat_is_cited_where_something_was_harmonised():
    part = Part("regseg", "T1w", "seg", [], [], [], *(2 * [None]))  # type: ignore[arg-type]
    assert "ComBat" in cited(records("regseg", {}), Harmonised([part])) and "ComBat" not in cited(records("regseg", {}))


def test_nothing_is_cited_of_a_cohort_without_images():
    assert references(Records([]), [], Harmonised()) == []


def test_the_page_lists_the_references_under_the_paragraph(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=2, pictures=False)
    text = write_report(work, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    how = re.search(r'<section id="how".*?</section>', text, re.S)[0]
    listed = re.findall(r"<li>(.*?): ", re.search(r'<ol class="methods">(.*?)</ol>', how, re.S)[1])
    assert listed == ["the workflow", "the form of the results"], f"{CARD['name']} saw no image"
