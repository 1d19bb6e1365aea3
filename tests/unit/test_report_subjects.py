"""The pages of subjects: what they show, that they come out of whatever records exist, and that they trust no text."""

import base64
import hashlib
import io
import re
import shutil
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from cohortex.report.page import write_report
from cohortex.report.pictures import Gallery
from cohortex.report.previews import slices_of
from cohortex.report.records import read_previews
from cohortex.report.sprites import LEVELS, LINES, Shown, change, diverging, fitted, layer, one_unit, outlines
from cohortex.tables import read_table, write_table
from cohortex.volume import Volume
from tests.fake_cohort import PAGED, SCRIPT, SLICES, STAGES, write_fake_cohort
from tests.lazy_arrays import Counted

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return with_registered(write_fake_cohort(tmp_path_factory.mktemp("cohort") / "work", subjects=3))


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    return write_report(finished, tmp_path_factory.mktemp("results"), PAGED, STAGES).parent


def with_registered(work):
    """Let regseg have laid the CT of subject 001 on its T1w, and left how unsure the labels of the T1w are."""
    record = work / "records" / "regseg" / "b0000"
    rows = read_table(record / "manifest.tsv")
    ct = next(row for row in rows if row["image"] == "001_CT")
    plain = {**dict.fromkeys(ct, ""), **{key: ct[key] for key in ("subject", "modality", "body_part", "shape", "spacing_mm", "path")}}
    plain |= {"kind": "image", "role": "image", "status": "ok"}
    moved = {**plain, "image": "001_CT+warped", "sources": "001_CT 001_T1w"}
    unsure = {**plain, "image": "001_T1w+uncertainty", "sources": "001_T1w", "modality": "T1w"}
    write_table(record / "manifest.tsv", list(rows[0]), [*rows, moved, unsure])
    previews = dict(np.load(record / "previews.npz"))
    fixed = previews["001_T1w|stack"]
    previews |= {f"001_CT+warped|{name}": 255 - previews[f"001_T1w|{name}"] for name in ("stack", "coronal")}
    previews |= {"001_T1w+uncertainty|stack": fixed // 2, "001_T1w+uncertainty|stack_window": np.array([0, 0.5], np.float32)}
    np.savez_compressed(record / "previews.npz", **previews)
    return work


def text_of(report, subject="001"):
    return (report / "subjects" / f"sub-{subject}.html").read_text(encoding="utf-8")


def section(text, image):
    return re.search(rf'<section class="image" id="image-{image}".*?</section>', text, re.S)[0]


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


# --- slices -----------------------------------------------------------------------------------------------------------


def volume(data, **more):
    return Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), **more)


def test_slices_are_those_of_the_volume_from_the_feet_on_at_equal_distances():
    data = np.zeros((20, 30, 24), np.float32) + np.arange(24, dtype=np.float32)
    data[:10] *= 2  # the first half along x is the patient's left, which is on the right of the picture
    made = slices_of(volume(data, modality="PET"), 6, size=16)
    stack, (low, high) = made["stack"], made["stack_window"]
    assert stack.shape == (6, 16, 11) and stack.dtype == np.uint8
    values = low + stack.astype(float) / 255 * (high - low)
    assert values[:, 8, 1] == pytest.approx(np.clip([2, 6, 10, 14, 18, 22], low, high), abs=0.2), "the right half, on the left"
    assert values[2, 8, 9] == pytest.approx(20, abs=0.3)


def test_slices_of_labels_keep_their_values():
    data = np.zeros((40, 40, 8), np.uint8)
    data[10:30, 10:30, 4:] = 6
    made = slices_of(volume(data, kind="labels"), 12)
    assert set(made) == {"stack"} and made["stack"].shape == (8, 40, 40), "no more slices than there are"
    assert set(np.unique(made["stack"])) == {0, 6}
    assert not made["stack"][:4].any() and made["stack"][5, 20, 20] == 6


@pytest.mark.parametrize("shape", [(30, 20, 1), (1, 20, 30)])
def test_a_picture_has_no_slices(shape):
    assert slices_of(volume(np.ones(shape, np.float32), modality="XR"), 12) == {}


def test_a_volume_that_is_not_in_memory_is_not_read():
    lazy = Counted(np.ones((8, 8, 8), np.float32))
    assert slices_of(volume(lazy, modality="T1w"), 12) == {} and lazy.read == 0
    assert slices_of(volume(np.ones((8, 8, 8), np.float32), modality="T1w"), 0) == {}


def test_slices_are_read_only_by_who_asks_for_them(finished):
    notes = []
    assert "stack" not in read_previews(finished, "denoise", "b0000", ["001_T1w"], notes)["001_T1w"]
    found = read_previews(finished, "denoise", "b0000", ["001_T1w"], notes, stacks=True)["001_T1w"]
    assert found["stack"].shape[0] == SLICES and notes == []


# --- what changed -----------------------------------------------------------------------------------------------------


def test_a_change_is_shown_in_the_unit_of_the_image_with_its_scale():
    window = (-10.0, 90.0)
    before = Shown(np.full((2, 20, 20), 100, np.uint8), window)
    after = Shown(before.pixels.copy(), window)
    after.pixels[0, :10, :10] += 51
    after.pixels[1, :10, :10] -= 51
    gallery = Gallery()
    found = change(gallery, before, after, "CT")
    assert found.most == pytest.approx(20) and found.unit == "HU"
    steps = pixels(gallery.pictures[found.picture][0])
    assert steps.shape == (40, 20)
    assert (steps[0, 0], steps[15, 15], steps[20, 0]) == (2 * LEVELS, LEVELS, 0)
    assert len(diverging()) == 2 * LEVELS + 1 and diverging()[LEVELS] == (0, 0, 0)
    assert diverging()[0][2] > diverging()[0][0] and diverging()[-1][0] > diverging()[-1][2], "blue fell, orange rose"


def test_nothing_changed_has_no_picture():
    one = Shown(np.full((2, 20, 20), 100, np.uint8), (0.0, 1.0))
    assert change(Gallery(), one, one, "T1w") is None


def test_windows_of_one_unit_are_made_one_and_those_of_two_are_left():
    before = Shown(np.full((1, 8, 8), 255, np.uint8), (0.0, 100.0))
    after = Shown(np.full((1, 8, 8), 200, np.uint8), (0.0, 125.0))
    moved = fitted(before, after)
    assert moved.window == after.window and int(moved.pixels[0, 0, 0]) == 204
    other = Shown(after.pixels, (0.0, 1.0))
    assert int(fitted(before, other).pixels[0, 0, 0]) == 255 and not one_unit((0, 100), (0, 1))
    assert change(Gallery(), fitted(before, other), other, "T1w").unit == "% of the grey window"


def test_thick_slices_are_shown_beside_thin_ones_and_other_fields_of_view_are_not():
    thin, thick = Shown(np.zeros((12, 20, 16), np.uint8)), Shown(np.arange(6, dtype=np.uint8)[:, None, None].repeat(10, 1).repeat(8, 2))
    assert fitted(thick, thin).pixels[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert fitted(Shown(np.zeros((12, 20, 20), np.uint8)), thin) is None


def test_outlines_lie_on_the_edge_of_labels_in_the_colours_of_the_style_sheet():
    labels = np.zeros((1, 30, 30), np.uint8)
    labels[0, 8:22, 8:22] = 9  # the ninth label has the first colour again
    found = outlines(labels)
    assert found.shape == (1, 60, 60) and set(np.unique(found)) == {0, 1}
    assert found[0, 30, 16] == 1 and found[0, 30, 30] == 0 and not found[0, :15].any()
    style = (resources.files("cohortex.report") / "templates" / "style.css").read_text(encoding="utf-8")
    colours = re.findall(r"\.l\d \{ stroke: #(\w{6});", style)
    assert ["".join(f"{value:02x}" for value in line) for line in LINES] == colours


def test_a_map_is_the_denser_the_more_it_says():
    gallery = Gallery()
    name = layer(gallery, Shown(np.array([[[0, 128, 255]]], np.uint8), (0.0, 1.0)))
    picture = Image.open(io.BytesIO(base64.b64decode(gallery.pictures[name][0].partition(",")[2]))).convert("RGBA")
    assert np.asarray(picture)[0, :, 3].tolist() == [0, 73, 255]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_is_small_refers_to_nothing_outside_and_allows_its_own_script_only(report):
    text = text_of(report)
    assert len(text) < 3e6
    addresses = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert all(re.match(r"#|data:|\.\./index\.html|sub-\d{3}\.html$", address) for address in addresses)
    assert "http" not in re.sub(r"Content-Security-Policy|http-equiv", "", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert not re.findall(r"<[^>]* (?:style|on[a-z]+)=", text)


def test_every_picture_is_on_the_page_once(report):
    names = re.findall(r'<image id="(\w[\w.-]*)"', text_of(report))
    assert len(names) == len(set(names)) > 20
    assert set(re.findall(r'<use class="deep[^"]*" href="#([^"]+)"', text_of(report))) <= set(names)


def test_the_index_leads_to_the_pages_and_they_lead_back(report):
    index = (report / "index.html").read_text(encoding="utf-8")
    assert '"pages":["002","003","001"]' in index, "those with something set aside come first"
    assert 'href="subjects/sub-002.html"' in index and 'href="subjects/sub-001.html#image-001_T1w"' in index
    assert text_of(report).count('href="../index.html"') == 2 and 'href="sub-003.html"' in text_of(report)


def test_an_image_shows_each_stage_with_what_was_before(report):
    t1 = section(text_of(report), "001_T1w")
    figures = re.findall(r'<figure class="viewer" data-mode="(\w+)".*?<strong>(\w+)</strong>', t1, re.S)
    assert figures == [("plain", "acquire"), *(("slider", stage) for stage in STAGES[1:5])]
    assert t1.count('data-plane="slices" data-width') == 5 and f'data-count="{SLICES}"' in t1
    assert "uncertainty of the labels" in t1 and t1.count('class="veil-range"') == 1
    assert "white matter" in t1 and 'class="mode-button" data-mode="change"' in t1
    ct = section(text_of(report), "001_CT")
    assert "laid on 001_T1w" in ct and ct.count('data-mode="board"') == 1


def test_measures_stand_beside_the_cohorts(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=8, pictures=False, stages=STAGES[:3])
    report = write_report(work, tmp_path / "results", PAGED, STAGES[:3]).parent
    table = re.search(r'<table class="measures">.*?</table>', section(text_of(report, "006"), "006_T1w"), re.S)[0]
    _, *rows = re.findall(r"<tr>.*?</tr>", table, re.S)
    (first,) = [row for row in rows[:2] if "sigma before" in row]
    assert "odd-cell" in first and 'class="dot odd"' in first, "odd ones come first"
    assert first.count("v8") == 7, "one of eight crashed, the others are drawn"
    index = (report / "index.html").read_text(encoding="utf-8")
    z = re.search(r'<table class="odd">.*?006_T1w</th><td>denoise</td><td[^>]*>sigma before.*?<strong>(\+[\d.]+)</strong>', index, re.S)
    assert z is not None and f'<td class="num">{z[1]}</td>' in first, "the same score as on the index"


def test_what_went_wrong_comes_first_and_markup_stays_text(report):
    text = text_of(report, "002")
    assert text.index("missing-slices") < text.index('class="image"')
    assert SCRIPT not in text and "&lt;script&gt;document.title" in text
    assert "crashed" in text_of(report, "003")


def test_provenance_names_models_with_their_sums_and_settings(report):
    steps = section(text_of(report), "001_CT")
    assert "redcnn-demo" in steps and "ab" * 32 in steps and "method: half_grid_unet" in steps
    assert hashlib.sha256(b"001_CT").hexdigest() in steps, "the sum of the image itself"
    assert "redcnn-demo" not in section(text_of(report), "001_T1w"), "its settings name no model"


@pytest.mark.parametrize("chosen", ["all", "none", "shown"])
def test_pages_are_made_of_those_that_are_asked_for_and_old_ones_go(finished, tmp_path, chosen):
    old = tmp_path / "report" / "subjects" / "sub-999.html"
    old.parent.mkdir(parents=True)
    old.write_text("of a subject that left the cohort")
    config = PAGED | {"report": {"pictures": 0, "subjects": chosen}}
    report = write_report(finished, tmp_path, config, STAGES).parent
    found = sorted(path.name for path in (report / "subjects").glob("*")) if (report / "subjects").exists() else []
    assert found == ([f"sub-00{k}.html" for k in (1, 2, 3)] if chosen == "all" else [])


def test_pages_come_out_where_everything_was_set_aside_and_without_pictures(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=1, pictures=False, stages=STAGES[:1])
    manifest = work / "records" / "acquire" / "b0000" / "manifest.tsv"
    rows = read_table(manifest)
    for row in rows:
        row |= {"status": "failed", "code": MARKUP, "reason": f"{MARKUP} " + "x" * 100_000, "path": ""}
    write_table(manifest, list(rows[0]), rows)
    (work / "cohort" / "participants.tsv").unlink()
    report = write_report(work, tmp_path / "results", PAGED, STAGES).parent
    text = text_of(report)
    assert "No stage left a picture of it" in text and text.count("letters; manifest.tsv has all") == 2
    assert MARKUP not in text and "&lt;img src=x" in text and len(text) < 100_000


def test_notes_and_names_of_raters_are_text(finished, tmp_path):
    work = shutil.copytree(finished, tmp_path / "work")
    rows = [{"image": "001_T1w", "rating": "reject", "note": MARKUP, "rater": "<b>anna"}]
    write_table(work / "cohort" / "ratings.tsv", ("image", "rating", "note", "rater", "date"), rows)
    report = write_report(work, tmp_path / "results", PAGED, STAGES).parent
    text = text_of(report)
    assert MARKUP not in text and "<b>anna" not in text and MARKUP not in (report / "index.html").read_text(encoding="utf-8")
    assert "Left out by a rater:" in text and "&lt;b&gt;anna" in section(text, "001_T1w")
    measures = re.search(r'<table class="measures">.*?</table>', section(text, "001_T1w"), re.S)[0]
    assert "noise sd" in measures, "what was measured is still told, beside the others"


def test_a_subject_whose_id_is_no_file_name_has_no_page(finished, tmp_path):
    work = shutil.copytree(finished, tmp_path / "work")
    table = work / "cohort" / "cohort.tsv"
    rows = read_table(table)
    for row in rows:
        row["subject"] = row["subject"].replace("001", "../../001")
    write_table(table, list(rows[0]), rows)
    report = write_report(work, tmp_path / "results", PAGED, STAGES).parent
    assert sorted(path.name for path in (report / "subjects").iterdir()) == ["sub-002.html", "sub-003.html"]


def test_of_a_subject_with_many_images_those_that_the_report_shows_have_pictures(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("cohortex.report.subjects.PICTURED", 1)
    config = PAGED | {"report": {"pictures": 1, "subjects": "shown"}}
    report = write_report(finished, tmp_path, config, STAGES).parent
    (page,) = (report / "subjects").iterdir()
    text = page.read_text(encoding="utf-8")
    assert page.name == "sub-002.html" and "missing-slices" in text
    assert "not on the page" in section(text, "002_T1w") and "Measures beside" in section(text, "002_T1w")
    assert '<figure class="viewer"' in section(text, "002_CT")
