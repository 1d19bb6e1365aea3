"""The viewer of a subject: whose volumes are in the report, how many bytes they have, and nothing of them where a face may be seen."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import tomllib
from importlib import resources

import numpy as np
import pytest

from cohortex.io.nifti import write_nifti
from cohortex.records import write_manifest
from cohortex.report import viewer_page
from cohortex.report.page import write_report
from cohortex.report.sprites import LINES
from cohortex.tables import read_table
from cohortex.volume import Volume
from tests.exported_heads import MARK, OBLIQUE, small_head, with_volumes
from tests.fake_cohort import PAGED, STAGES, write_fake_cohort
from tests.workflow import ROOT

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Work folder and results of a simulated cohort."""
    folder = tmp_path_factory.mktemp("simulated")
    work = write_fake_cohort(folder / "work", 2, pictures=False)
    return with_volumes(work, folder / "results"), folder / "results"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """The same of people."""
    folder = tmp_path_factory.mktemp("people")
    work = write_fake_cohort(folder / "work", 2, pictures=False, site="a hospital")
    return with_volumes(work, folder / "results"), folder / "results"


@pytest.fixture
def again(tmp_path):
    """Give copies of a cohort that may be changed."""

    def copied(cohort):
        work, results = (shutil.copytree(path, tmp_path / path.name) for path in cohort)
        return work, results

    return copied


def pages(cohort, **report):
    work, results = cohort
    return write_report(work, results, PAGED | {"report": PAGED["report"] | report}, STAGES).parent / "subjects"


def volumes(folder, subject="001"):
    text = (folder / f"sub-{subject}.view.js").read_text(encoding="utf-8")
    start = "window.cohortexView = "
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return {one["id"]: one for one in json.loads(line.removeprefix(start).rstrip(";"))["images"]}


def unpacked(image, layer):
    data = np.frombuffer(gzip.decompress(base64.b64decode(layer["data"])), np.uint8)
    return data.reshape(image["shape"], order="F")


def change(work, image, **cells):
    """Change what the record of the export says of an image."""
    for path in (work / "records" / "export").glob("*/manifest.tsv"):
        rows = read_table(path)
        for row in rows:
            if row["image"] == image:
                row |= cells
        write_manifest(path, rows)


def test_each_subject_has_a_page_with_its_volumes_and_the_report_the_library_once(again, simulated):
    folder = pages(again(simulated))
    names = {path.name for path in folder.iterdir()}
    assert names == {f"sub-00{k}{ending}" for k in (1, 2) for ending in (".html", ".view.html", ".view.js")}
    assert (folder.parent / "niivue.js").stat().st_size > 2e6
    assert (folder / "sub-001.view.js").stat().st_mode & 0o777 == 0o640
    page = (folder / "sub-001.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="(sub-001\.view\.html#[^"]*)">View in three dimensions', page) == [
        "sub-001.view.html#001_T1w",
        "sub-001.view.html#001_CT",
    ]
    assert "niivue" not in page
    viewer = (folder / "sub-001.view.html").read_text(encoding="utf-8")
    assert 'href="sub-001.html"' in viewer and len(viewer) < 60_000
    assert re.findall(r'src="([^"]*)"', viewer) == ["../niivue.js", "sub-001.view.js"]


def test_a_voxel_of_the_copy_has_the_place_and_the_value_of_the_volume(again, simulated):
    image = volumes(pages(again(simulated)))["001_T1w"]
    values, labels = small_head()
    layer = image["layers"][0]
    assert image["shape"] == list(values.shape) and np.allclose(np.reshape(image["affine"], (4, 4)), OBLIQUE, atol=1e-5)
    seen = np.array(layer["levels"])[unpacked(image, layer)]
    assert np.abs(seen - values).max() < 0.01 and layer["window"][0] < 1 < layer["window"][1]
    assert np.unravel_index(seen.argmax(), seen.shape) == np.unravel_index(values.argmax(), values.shape) and seen.max() == pytest.approx(
        MARK
    )
    seg = image["layers"][1]
    assert np.array_equal(unpacked(image, seg), labels)
    assert seg["classes"] == [[3, "white matter", "#" + bytes(LINES[2]).hex()], [6, "lesion", "#" + bytes(LINES[5]).hex()]]
    assert seg["full"] == "../../sub-001/anat/001_T1w_desc-seg.nii.gz"


def test_maps_lie_over_their_image_as_shares(tmp_path):
    work = with_volumes(write_fake_cohort(tmp_path / "work", 1, pictures=False), tmp_path / "results", maps=True)
    images = volumes(pages((work, tmp_path / "results")))
    assert [layer["kind"] for layer in images["001_T1w"]["layers"]] == ["image", "labels", "map"] and len(images["001_CT"]["layers"]) == 2
    layer = images["001_T1w"]["layers"][2]
    assert layer["title"] == "uncertainty of the labels" and layer["levels"][0] == 0 and layer["levels"][255] == 1
    assert np.array_equal(unpacked(images["001_T1w"], layer), 255 * (small_head()[0] == MARK))


def test_what_has_the_size_of_an_image_and_lies_elsewhere_is_not_laid_over_it(again, simulated):
    work, results = again(simulated)
    _, labels = small_head()
    aside = OBLIQUE.copy()
    aside[0, 3] += 5
    write_nifti(results / "sub-001" / "anat" / "001_T1w_desc-seg.nii.gz", Volume(labels, aside, "T1w", "labels"))
    assert [layer["id"] for layer in volumes(pages((work, results)))["001_T1w"]["layers"]] == ["001_T1w"]


def test_what_another_image_left_on_the_grid_is_laid_over_it_and_its_own_elsewhere_is_not(again, simulated):
    work, results = again(simulated)
    change(work, "001_T1w+seg", sources="001_T1w 001_CT", entities="space=CT;desc=fromfixed")
    images = volumes(pages((work, results)))
    assert [layer["id"] for layer in images["001_T1w"]["layers"]] == ["001_T1w"]
    assert [(layer["id"], layer["title"]) for layer in images["001_CT"]["layers"][1:]] == [
        ("001_CT+seg", "labels"),
        ("001_T1w+seg", "labels of 001_T1w"),
    ]


def test_volumes_of_a_subject_have_no_more_bytes_than_they_may(again, simulated, monkeypatch):
    monkeypatch.setattr(viewer_page, "LIMIT", 6000)
    work, results = again(simulated)
    noise = np.random.default_rng(1).random((40, 30, 20), dtype=np.float32)
    with_volumes(work, results, (noise, (noise * 200).astype(np.uint8)))
    images = volumes(pages((work, results)))
    assert len(images) == 2
    for image in images.values():
        assert sum(len(layer["data"]) for layer in image["layers"]) <= 3000
        assert np.prod(image["shape"]) < noise.size and image["fullShape"] == [40, 30, 20]
        corner = np.reshape(image["affine"], (4, 4)) @ [-0.5, -0.5, -0.5, 1]
        assert np.allclose(corner, OBLIQUE @ [-0.5, -0.5, -0.5, 1], atol=1e-3), "the grid begins at the same corner"


def test_nothing_of_a_head_that_was_not_defaced_is_in_the_report(again, people):
    folder = pages(again(people))
    assert sorted(path.name for path in folder.iterdir()) == ["sub-001.html", "sub-002.html"]
    assert not (folder.parent / "niivue.js").exists()
    text = (folder / "sub-001.html").read_text(encoding="utf-8")
    assert text.count("Not in three dimensions.") == 2 and "Put deface into stages" in text
    assert "view.html" not in text


def test_what_was_there_goes_when_faces_are_hidden_and_comes_where_they_may_be_shown(again, people):
    cohort = again(people)
    assert "001_T1w" in volumes(pages(cohort, faces="show"))
    folder = pages(cohort, faces="hide")
    assert not list(folder.glob("*.view.*")) and not (folder.parent / "niivue.js").exists()


def test_a_defaced_head_is_shown_and_labels_of_one_that_was_not_are_left_out(again, people):
    work, results = again(people)
    # the stage preprocess stands for deface
    path = next((work / "records" / "preprocess").glob("*/manifest.tsv"))
    rows = read_table(path)
    write_manifest(path, [row | ({"defaced": "true"} if row["image"] == "001_CT" else {}) for row in rows])
    assert set(volumes(pages((work, results)))) == {"001_CT"}
    assert [layer["id"] for layer in volumes(pages((work, results)))["001_CT"]["layers"]] == ["001_CT", "001_CT+seg"]
    # labels of the other image, brought onto this one, have its form
    change(work, "001_CT+seg", sources="001_CT 001_T1w")
    assert [layer["id"] for layer in volumes(pages((work, results)))["001_CT"]["layers"]] == ["001_CT"]
    assert "Not in three dimensions." in (results / "report" / "subjects" / "sub-001.html").read_text(encoding="utf-8")


def test_another_body_part_is_shown(again, people):
    work, results = again(people)
    for image in ("001_T1w", "001_T1w+seg"):
        change(work, image, body_part="chest")
    assert set(volumes(pages((work, results)))) == {"001_T1w"}


@pytest.mark.parametrize("report", [{"viewer": "none"}, {"subjects": "none"}, {"pictures": 0, "subjects": "all"}])
def test_there_is_no_viewer_where_none_is_wanted_or_the_report_shows_no_image_of_the_subject(again, simulated, report):
    folder = pages(again(simulated), **report)
    assert not list(folder.glob("*.view.*")) and not (folder.parent / "niivue.js").exists()


def test_volumes_are_not_read_again_for_a_report_that_is_made_anew(again, simulated, monkeypatch):
    work, results = again(simulated)
    first = (pages((work, results)) / "sub-001.view.js").read_bytes()
    asked = []
    monkeypatch.setattr(viewer_page, "read", lambda path, *_, **__: asked.append(path))
    folder = pages((work, results))
    assert asked == [] and (folder / "sub-001.view.js").read_bytes() == first and (folder / "sub-001.view.html").is_file()
    monkeypatch.undo()
    with_volumes(work, results, small_head((16, 16, 16)))
    assert volumes(pages((work, results)))["001_T1w"]["shape"] == [16, 16, 16]


def test_a_volume_that_is_gone_cut_or_another_one_is_told_of_and_the_others_are_shown(again, simulated):
    work, results = again(simulated)
    gone, cut = (results / "sub-001" / "anat" / f"001_{modality}.nii.gz" for modality in ("T1w", "CT"))
    gone.unlink()
    folder = pages((work, results))
    assert set(volumes(folder)) == {"001_CT"} and set(volumes(folder, "002")) == {"002_T1w"}
    assert "could not be shown in three dimensions" in (folder / "sub-001.html").read_text(encoding="utf-8")
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-20])
    folder = pages((work, results))
    assert not (folder / "sub-001.view.js").exists()
    assert "ends too early" in (folder / "sub-001.html").read_text(encoding="utf-8")
    cut.write_bytes(whole)
    assert set(volumes(pages((work, results)))) == {"001_CT"}, "what could not be read is tried again"


def test_a_report_reads_no_more_than_it_may(again, simulated, monkeypatch):
    monkeypatch.setattr(viewer_page, "READ_MB", 0.2)
    folder = pages(again(simulated))
    told = "".join((folder / f"sub-00{k}.html").read_text(encoding="utf-8") for k in (1, 2))
    assert "which is what a report reads" in told and 0 < len(list(folder.glob("*.view.js"))) < 3


def test_a_browser_is_sent_no_more_than_it_can_hold_whole(again, simulated, monkeypatch):
    monkeypatch.setattr(viewer_page, "FULL_MB", 1.5 * small_head()[0].size * 4 / 1e6)
    image = volumes(pages(again(simulated)))["001_T1w"]
    assert [bool(layer["full"]) for layer in image["layers"]] == [True, False] and all(layer["data"] for layer in image["layers"])


def test_a_volume_of_the_other_form_is_read_and_its_whole_is_not_for_a_browser(tmp_path):
    work = with_volumes(write_fake_cohort(tmp_path / "work", 1, pictures=False), tmp_path / "results", ending=".ozx")
    image = volumes(pages((work, tmp_path / "results")))["001_T1w"]
    assert image["layers"][0]["full"] == "" and len(image["layers"]) == 2


def test_the_page_allows_no_script_but_its_own_and_words_stay_text(again, simulated):
    work, results = again(simulated)
    folder = write_report(work, results, PAGED | {"input": f"/x/{MARKUP}"}, STAGES).parent / "subjects"
    assert MARKUP not in (folder / "sub-001.view.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', (folder / "sub-001.view.html").read_text(encoding="utf-8"))[1]
    assert "unsafe" not in policy and "blob:" not in policy and "http" not in policy and "default-src &#39;none&#39;" in policy


def test_the_library_is_the_one_that_is_told_of_and_goes_with_its_licences(tmp_path):
    vendor = resources.files("cohortex.report") / "vendor"
    text = (vendor / "README.md").read_text(encoding="utf-8")
    content = (vendor / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() in text
    (version,) = re.findall(r"\| (\d+\.\d+\.\d+) \|", text)
    assert f'"{version}"'.encode() in content
    viewer_page.write_library(tmp_path / "niivue.js")
    written = (tmp_path / "niivue.js").read_bytes()
    assert written.endswith(content) and b"Copyright (c) 2021, Niivue" in written[:1000]
    assert b"*/" not in written[: len(written) - len(content) - 3] and b"eval(" not in content and b"new Function" not in content
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["cohortex"]
    assert "report/vendor/*" in packaged
