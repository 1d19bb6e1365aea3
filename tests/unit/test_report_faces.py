"""No view of the report shows the profile of a head that was not defaced, unless the user allows it."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from cohortex.report.faces import may_be_a_head, may_show_face, without_profiles
from cohortex.report.page import write_report
from cohortex.report.records import read_records
from cohortex.volume import Volume
from tests.fake_cohort import STAGES, write_fake_cohort


def page(work, results, stages=STAGES, **report):
    return write_report(work, results, {"report": report} if report else {}, stages).read_text()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A cohort of four people, no simulated heads."""
    return write_fake_cohort(tmp_path_factory.mktemp("faces") / "work", 4, site="a hospital")


def views(text):
    return {view for view in ("axial", "coronal", "sagittal") if re.search(rf"{view} view (before|after)", text)}


def test_no_profile_of_a_head_that_was_not_defaced_is_on_the_page(real, tmp_path):
    text = page(real, tmp_path)
    assert views(text) == {"axial", "coronal"}
    assert not re.search(r"<[^>]*view-sagittal", text)
    assert "report: faces: show" in text


def test_profiles_are_there_where_the_user_allows_them(real, tmp_path):
    text = page(real, tmp_path, faces="show")
    assert views(text) == {"axial", "coronal", "sagittal"} and re.search(r"<[^>]*view-sagittal", text)


@pytest.mark.parametrize("faces", ["hide", "show"])
def test_the_pages_of_subjects_show_no_profile_either(real, tmp_path, faces):
    page(real, tmp_path, faces=faces)
    pages = sorted((tmp_path / "report" / "subjects").glob("sub-*.html"))
    assert len(pages) == 4
    shown = [path.name for path in pages if re.search("sagittal", path.read_text().split("<main", 1)[1])]
    assert shown == ([path.name for path in pages] if faces == "show" else [])


def test_profiles_of_simulated_heads_are_there(tmp_path):
    assert "sagittal" in views(page(write_fake_cohort(tmp_path / "work", 3), tmp_path / "results"))


def test_profiles_are_there_from_the_stage_on_that_defaced(real):
    records = read_records(real, STAGES)
    name = next(row.image for row in records.told["preprocess"] if row.status == "ok")
    told = {"acquire": [], "preprocess": [SimpleNamespace(image=name, measures={"defaced": "true"}, set_aside=False)], "denoise": []}
    records = SimpleNamespace(
        last=records.last, cohort=records.cohort, simulated=set(), told=told, stages=["acquire", "preprocess", "denoise"]
    )
    pictures = {"axial": 1, "sagittal": 2, "checkerboard_sagittal_after": 3}
    seen = {stage: {name: dict(pictures)} for stage in records.stages}
    kept, hidden = without_profiles(seen, records, {"faces": "hide"})  # type: ignore[arg-type]
    assert kept["acquire"][name] == {"axial": 1} and hidden == {name}
    assert kept["preprocess"][name] == kept["denoise"][name] == pictures
    told["preprocess"][0].set_aside = True
    assert without_profiles(seen, records, None)[0]["denoise"][name] == {"axial": 1}  # type: ignore[arg-type]


def test_a_picture_of_a_pair_shows_no_profile_of_the_partner(real):
    records = read_records(real, STAGES)
    one, other = records.images[:2]
    told = {"regseg": [SimpleNamespace(image=one, measures={"defaced": "true", "fixed": other}, set_aside=False)]}
    records = SimpleNamespace(last=records.last, cohort=records.cohort, simulated=set(), told=told, stages=["regseg"])
    kept, _ = without_profiles({"regseg": {one: {"checkerboard_sagittal_after": 1}}}, records, None)  # type: ignore[arg-type]
    assert kept["regseg"][one] == {}


@pytest.mark.parametrize(
    ("part", "shape", "may"),
    [("head", (8, 8, 8), True), ("", (8, 8, 8), True), ("Neck", (8, 8, 8), True), ("chest", (8, 8, 8), False), ("head", (8, 8, 1), False)],
)
def test_what_may_be_a_head_is_a_volume_of_one_or_of_nobody_knows_what(part, shape, may):
    assert may_be_a_head(part, shape) is may
    volume = Volume(np.zeros(shape, np.float32), np.eye(4), "T1w", body_part=part)
    assert may_show_face(volume) is not may
    assert may_show_face(volume, simulated=True) and may_show_face(volume, {"faces": "show"})


def test_a_body_part_that_has_no_face_is_shown_whole(real):
    records = read_records(real, STAGES)
    chest = {name: SimpleNamespace(body_part="chest", shape=row.shape) for name, row in records.last.items()}
    others = SimpleNamespace(last=chest, cohort=records.cohort, simulated=set(), told=records.told, stages=list(STAGES))
    seen = {"acquire": {next(iter(chest)): {"sagittal": 1}}}
    assert without_profiles(seen, others, None)[1] == set()  # type: ignore[arg-type]
