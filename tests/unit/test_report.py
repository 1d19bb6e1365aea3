"""The report comes out of whatever records exist, says everything that was set aside, and trusts no text."""

import base64
import gzip
import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from cohortex.models.folder import SHOWN, read_shown
from cohortex.publish import write_text
from cohortex.report.page import write_report
from cohortex.report.pictures import choose, contour_paths
from cohortex.report.records import read_previews, read_records, safe_cell, write_union
from cohortex.report.training import trained
from cohortex.tables import read_table, write_table
from tests.fake_cohort import CONFIG, SCRIPT, STAGES, training_shown, write_fake_cohort


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_fake_cohort(folder / "work")
    return folder / "work"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Records without pictures: quick to write and to change."""
    folder = tmp_path_factory.mktemp("plain")
    return write_fake_cohort(folder / "work", pictures=False)


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return write_report(finished, results, CONFIG, STAGES)


def text_of(path):
    return path.read_text(encoding="utf-8")


def unpacked(packed):
    return {name: json.loads(gzip.decompress(base64.b64decode(columns))) for name, columns in packed.items()}


def data_of(text):
    """Return the table of all images as the page's script has it: its rows are fixed cells, measures by stage and column, odd ones."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    packed = unpacked(data["packed"])
    fixed = list(zip(*packed.pop(""), strict=True))
    assert len(fixed) == data["count"] and all(len(column) == data["count"] for columns in packed.values() for column in columns)
    data["rows"] = []
    for index, cells in enumerate(fixed):
        told = {
            stage: {str(place): column[index] for place, column in enumerate(columns) if column[index] is not None}
            for stage, columns in packed.items()
        }
        marks = [[stage, column] for row, stage, column in data["odd"] if row == index]
        data["rows"].append([list(cells), {stage: values for stage, values in told.items() if values}, marks])
    return data


def test_the_page_of_eight_subjects_is_small_and_refers_to_nothing_outside(page):
    text = text_of(page)
    assert page.stat().st_size < 12e6
    addresses = re.findall(r'(?:href|src)="([^"]*)"', text)
    # and the pages of subjects beside it
    own = re.compile(r"#|data:|\.\./manifest\.tsv$|subjects/sub-\d{3}\.html(#image-\d{3}_\w+)?$")
    assert all(own.match(address) for address in addresses)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_the_security_policy_allows_this_style_and_this_script_only(page):
    text = text_of(page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert not re.findall(r"<[^>]* (?:style|on[a-z]+)=", text)


def test_markup_in_a_reason_stays_text(page):
    text = text_of(page)
    assert SCRIPT not in text
    assert "&lt;script&gt;document.title" in text
    assert any(SCRIPT in row[0][5] for row in data_of(text)["rows"])


def test_everything_set_aside_stands_under_the_verdict_with_code_and_sentence(page):
    verdict = re.search(r'<section id="verdict".*?</section>', text_of(page), re.S)[0]
    for word in ("2 of 16 images", "002_CT", "missing-slices", "send the series again", "003_T1w", "process-died"):
        assert word in verdict
    assert "001_CT" not in verdict


def test_sections_come_in_the_order_of_what_matters(page):
    assert re.findall(r'^<section id="(\w+)"', text_of(page), re.M) == [
        "verdict",
        "odd",
        "glance",
        "images",
        "groups",
        "stages",
        "times",
        "models",
        "how",
    ]


def test_a_class_that_few_subjects_belong_to_is_not_odd(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    values = iter([0.99, *(0.01 + place / 1000 for place in range(9))])
    for record in (work / "records" / "classify").iterdir():
        rows = read_table(record / "manifest.tsv")
        for row in rows:
            row["p_tumour"] = f"{next(values):.3f}" if row["p_tumour"] else ""
        write_table(record / "manifest.tsv", list(rows[0]), rows)
    odd = re.search(r'<section id="odd".*?</section>', text_of(write_report(work, tmp_path / "results", CONFIG, STAGES)), re.S)[0]
    assert "p tumour" not in odd


def test_the_page_shows_why_a_scan_has_its_class(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    grey = np.tile(np.arange(40, dtype=np.uint8), (30, 1))
    over = np.stack([grey] * 3, axis=-1)
    over[10:20, 10:20, 0] = 255
    for record in (work / "records" / "classify").iterdir():
        rows = read_table(record / "manifest.tsv")
        columns = [*rows[0], "class", "probability", "why_method", "randomisation_check", "why_features"]
        for row in rows:
            told = row["p_tumour"] and "+" not in row["image"]
            words = ("tumour", "0.93", "grad_cam", "failed", "lesion_volume_ml +1.25, brain_<b>_mean -0.50")
            row.update(dict(zip(columns[-5:], words if told else [""] * 5, strict=True)))
        write_table(record / "manifest.tsv", columns, rows)
        names = [row["image"] for row in rows if row["why_method"]]
        pictures = {f"{name}|why_this_class_axial_{when}": one for name in names for when, one in (("before", grey), ("after", over))}
        np.savez_compressed(record / "previews.npz", **pictures)
    stage = re.search(
        r'<section class="stage" id="stage-classify".*?</section>', text_of(write_report(work, tmp_path / "r", CONFIG, STAGES)), re.S
    )[0]
    assert "Why this class: left the scan, right what speaks for its class" in stage
    assert "001_T1w: tumour 93 %" in stage
    assert "Grad-CAM (Selvaraju et al. 2017)" in stage
    assert "do not read a reason out of them" in stage
    assert "lesion volume ml <strong>+1.25</strong>" in stage
    assert "brain &lt;b&gt; mean <strong>-0.50</strong>" in stage
    assert stage.count('class="pair double"') == len(set(re.findall(r"\d{3}_T1w: tumour", stage))) > 1


def test_without_reasons_the_page_says_nothing_of_them(page):
    assert "Why this class" not in text_of(page)
    assert "What the features add" not in text_of(page)


def test_the_odd_scan_is_listed_with_its_measure_and_linked_to_its_picture(page):
    odd = re.search(r'<section id="odd".*?</section>', text_of(page), re.S)[0]
    row = next(row for row in re.findall(r"<tr.*?</tr>", odd, re.S) if "006_T1w" in row and "sigma before" in row)
    assert 'href="#picture-denoise-006_T1w"' in row
    assert 'id="picture-denoise-006_T1w"' in text_of(page)
    assert "7 images</strong> in superresolve" in odd


def test_each_picture_is_on_the_page_once_however_often_it_is_shown(page):
    text = text_of(page)
    names = re.findall(r'<image id="(\w+)"', text)
    assert len(names) == len(set(names))
    assert all(text.count(address) == 1 for address in re.findall(r'href="(data:image[^"]*)"', text)[:20])
    used = set(re.findall(r'<use href="#(\w+)"', text))
    assert set(names) <= used


def test_small_pictures_of_the_table_are_those_of_the_page_and_lead_to_where_they_are_large(page):
    data, text = data_of(text_of(page)), text_of(page)
    assert {data["rows"][int(row)][0][1] for row in data["thumbs"]} == {row[0][1] for row in data["rows"]}
    for picture, width, height, place in data["thumbs"].values():
        assert f'<image id="{picture}" width="{width}" height="{height}"' in text and f'id="{place[1:]}"' in text


def test_simulated_data_is_labelled_and_other_data_is_not(page, tmp_path):
    assert "Simulated data." in text_of(page)
    write_fake_cohort(tmp_path / "work", pictures=False, subjects=2, site="Basel")
    other = text_of(write_report(tmp_path / "work", tmp_path / "results", CONFIG, STAGES))
    assert "Simulated data." not in other
    assert {cells[6] for cells, _, _ in data_of(other)["rows"]} == {"Basel"}


def test_contours_follow_the_edge_of_a_region():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 5:25] = 3
    (path,) = re.findall(r'class="l3" d="M([^"]*)Z"', contour_paths(labels))
    points = np.array([[float(x) for x in point.split(" ")] for point in path.split("L")])
    assert np.allclose(points.min(axis=0), (5, 10), atol=0.6)
    assert np.allclose(points.max(axis=0), (25, 30), atol=0.6)


def test_pictures_are_capped_and_what_was_set_aside_or_odd_comes_first(finished, tmp_path):
    records = read_records(finished, STAGES)
    assert choose(records, ["003_T1w", "002_CT+seg", "003_T1w"], 4)[:2] == ["003_T1w", "002_CT"]
    assert len(choose(records, [], 4)) == 4
    assert {name[-2:] for name in choose(records, [], 4)} == {"CT", "1w"}
    assert choose(records, ["003_T1w"], 0) == []
    none = write_report(finished, tmp_path / "none", CONFIG | {"report": {"pictures": 0}}, STAGES)
    assert "<image" not in text_of(none)


def test_the_union_has_the_last_word_on_every_image_and_the_measures_of_all_stages(plain, tmp_path):
    records = read_records(plain, STAGES)
    write_union(tmp_path / "manifest.tsv", records)
    rows = {row["image"]: row for row in read_table(tmp_path / "manifest.tsv")}
    assert {name for name in rows if "+" not in name} == set(records.cohort)
    assert (rows["002_CT"]["stage"], rows["002_CT"]["status"], rows["002_CT"]["code"]) == ("preprocess", "quarantined", "missing-slices")
    assert (rows["001_T1w"]["stage"], rows["001_T1w"]["status"]) == ("export", "ok")
    assert float(rows["001_T1w"]["denoise.sigma_before"]) > float(rows["001_T1w"]["denoise.sigma_after"]) > 0
    assert list(rows) == sorted(rows)


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "@SUM(A1)", "-2+3", "\t=1"])
def test_a_cell_that_a_spreadsheet_would_compute_is_quoted(text):
    assert safe_cell(text).startswith("'")


@pytest.mark.parametrize("text", ["-1.5", "+2", "ok", "", "1e-3", "n/a"])
def test_numbers_and_words_stay_as_they_are_in_cells(text):
    assert safe_cell(text) == text


def test_the_report_comes_out_of_nothing(tmp_path):
    page = write_report(tmp_path / "work", tmp_path / "results", {}, STAGES)
    assert "The cohort holds no image" in text_of(page)
    assert (tmp_path / "results" / "manifest.tsv").is_file()


def test_the_report_comes_out_where_a_stage_left_no_record_and_names_what_did_not_finish(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    shutil.rmtree(work / "records" / "regseg" / "b0001")
    for stage in ("classify", "export"):
        shutil.rmtree(work / "records" / stage)
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "No record: this stage did not run." in text
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)[0]
    assert "the job of the stage regseg for the batch b0001 left no record" in verdict
    assert "the job of the stage classify for the batch b0000 left no record" in verdict


def test_the_report_comes_out_where_everything_failed(tmp_path, plain):
    work = shutil.copytree(plain, tmp_path / "work")
    for stage in STAGES[1:]:
        shutil.rmtree(work / "records" / stage)
    for manifest in (work / "records" / "acquire").glob("*/manifest.tsv"):
        write_text(manifest, text_of(manifest).replace("\tok\t", "\tfailed\t").replace("\twarned\t", "\tcrashed\t"))
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "Too much was set aside: 16 of 16 images (100 %)" in text


def test_records_that_are_broken_are_noted_and_the_rest_is_shown(finished, tmp_path):
    work = shutil.copytree(finished, tmp_path / "work")
    record = work / "records" / "denoise" / "b0000"
    (record / "previews.npz").write_bytes((record / "previews.npz").read_bytes()[:5000])
    (record / "numbers.json").write_text("{", encoding="utf-8")
    (work / "records" / "acquire" / "b0001" / "timing.tsv").unlink()
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "The pictures of the batch b0000 of denoise cannot be read" in text
    assert "denoise/b0000/numbers.json cannot be read" in text
    assert "acquire/b0001/timing.tsv cannot be read" in text


def test_pictures_are_read_without_pickle(finished, tmp_path):
    record = tmp_path / "records" / "acquire" / "b0000"
    record.mkdir(parents=True)
    np.savez(record / "previews.npz", **{"001_T1w|axial": np.array([{"a": 1}], dtype=object)})
    notes = []
    assert read_previews(tmp_path, "acquire", "b0000", ["001_T1w"], notes) == {}
    assert len(notes) == 1


def test_a_batch_with_one_cause_says_what_its_scans_have_in_common(tmp_path):
    work = write_fake_cohort(tmp_path / "work", pictures=False, systemic=True)
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)[0]
    assert "more than half of the batch b0001 was set aside in preprocess (5 x missing-slices)" in verdict
    assert "in common" not in verdict
    table = work / "cohort" / "cohort.tsv"
    old = table.read_text(encoding="utf-8").splitlines()
    write_text(table, "\n".join(line.replace("demo-simulator", "Bern") if line.endswith("b0001\t") else line for line in old) + "\n")
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "in common: site Bern" in text
    assert verdict.index("Systemic:") < verdict.index("005_CT") < verdict.index("002_CT")


def test_absolute_paths_of_the_machine_are_not_on_the_page(plain, tmp_path):
    config = CONFIG | {
        "input": "/data/hospital/secret/cohort",
        "work": str(tmp_path),
        "denoise": {"default": {"weights": "/opt/models/net"}},
    }
    text = text_of(write_report(plain, tmp_path / "results", config, STAGES))
    assert "/data/hospital" not in text
    assert str(tmp_path) not in text
    assert "…/cohort" in text


def test_models_are_shown_with_intervals_intended_use_limits_and_hash(page):
    models = re.search(r'<section id="models".*?</section>', text_of(page), re.S)[0]
    for word in ("redcnn-demo", "95 % interval 3.9 to 4.6", "no interval given", "not for clinical use", "ab" * 32, "Low-dose head CT"):
        assert word in models


def test_curves_and_examples_of_a_training_are_shown_with_its_model(page):
    models = re.search(r'<section id="models".*?</section>', text_of(page), re.S)[0]
    assert "2\u202f000 steps, mean squared error" in models and "Validation: mean squared error" in models
    assert models.count('<polyline class="line"') == 2 and models.count('<circle class="dot"') == 15
    assert "values on a logarithmic scale" in models, "0.04 falls to 0.0018"
    assert re.findall(r'alt="(.*?), example \d', models) == ["with synthetic noise", "network", "target"] * 2
    assert models.count('src="data:image/png;base64,iVBOR') == 6


def test_rounds_of_a_training_are_one_curve_behind_the_other():
    recipe = {"rounds": [{"steps_done": 100, "loss": [1.0, 0.9]}, {"steps_done": 50, "loss": [0.5, 0.4], "validation": [[50, -0.1]]}]}
    found = trained({"recipe": recipe}, {})
    assert found.words == "150 steps" and [title for title, _ in found.charts] == ["Loss"] and not found.examples
    assert re.findall(r"<title>(\d[\d.]*): ([\d.]+)</title>", found.charts[0][1]) == [
        ("25", "1"), ("75", "0.9"), ("112.5", "0.5"), ("137.5", "0.4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "recipe", [{}, {"loss": "mse"}, {"loss": [None, "x"]}, {"loss": [0.1]}, {"rounds": 3}, {"validation": [[1], 2]}, "text"]
)
def test_a_card_without_curves_has_none(recipe):
    found = trained({"recipe": recipe}, {})
    assert not found.words and not found.charts and not found.examples


def test_pictures_of_a_foreign_model_folder_are_pictures_or_left_out(tmp_path):
    good = training_shown()["examples"][0]
    bad = {"script": "x" * 9, "not png": "aGFsbG8=", "number": 3, "too large": good["target"] + "A" * 200_000}
    assert len(trained({}, {"examples": [good]}).examples) == 1
    for word, text in bad.items():
        assert not trained({}, {"examples": [{**good, word: text}]}).examples
    assert not trained({}, {"examples": "x"}).examples and not trained({}, {"examples": [4, {}]}).examples
    folder = tmp_path / "model"
    folder.mkdir()
    assert read_shown(folder) == {}
    for content in ("[1]", "{", '{"a": "' + "b" * 1_000_000 + '"}'):
        (folder / SHOWN).write_text(content)
        assert read_shown(folder) == {}


def test_class_probabilities_stand_beside_the_known_class(page):
    stage = re.search(r'<section class="stage" id="stage-classify".*?</section>', text_of(page), re.S)[0]
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", stage, re.S)
    assert len(rows) == 7
    shares = [[int(share) for share in re.findall(r'class="num">(\d+) %', row)] for row in rows]
    assert all(len(share) == 3 and abs(sum(share) - 100) <= 1 for share in shares)


def test_a_large_cohort_stays_one_small_page(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=400, pictures=False)
    page = write_report(work, tmp_path / "results", CONFIG, STAGES)
    assert page.stat().st_size < 2e6
    assert len(data_of(text_of(page))["rows"]) == 800


def test_the_table_of_many_images_takes_few_bytes_an_image(tmp_path):
    write_fake_cohort(tmp_path / "work", pictures=False, subjects=600, stages=STAGES[:5], batch_size=20)
    text = text_of(write_report(tmp_path / "work", tmp_path / "results", CONFIG, STAGES[:5]))
    packed = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["packed"]
    figures = sum(value is not None for columns in unpacked(packed).values() for column in columns for value in column)
    assert sum(map(len, packed.values())) < 5 * figures, "a figure of four digits as text takes eight bytes"


def test_what_only_left_to_other_runs_is_not_called_lost(plain, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(plain, work)
    shutil.rmtree(work / "records" / "export" / "b0001")
    (work / "cohort" / "index.json").write_text(json.dumps({"batches": {"b0000": [1, 1, 8], "b0001": [1, 1, 8]}, "only": None}))
    assert {row.batch for row in read_records(work, STAGES).unfinished} == {"b0001"}
    (work / "cohort" / "index.json").write_text(json.dumps({"batches": {"b0000": [1, 1, 8], "b0001": [1, 1, 8]}, "only": ["b0000"]}))
    records = read_records(work, STAGES)
    assert records.unfinished == [] and len(records.images) == 8
    assert "8 images of 1 batch that no run has finished are not told of" in " ".join(records.notes)
    (work / "cohort" / "index.json").write_text(json.dumps({"batches": {"b0000": [1, 1, 8], "b0001": [1, 1, 8]}, "only": ["b0001"]}))
    assert len(read_records(work, STAGES).images) == 16, "a batch that an earlier run finished is told of"


def test_labels_that_should_not_be_used_unseen_come_first_in_what_looks_odd(plain, tmp_path):
    work = shutil.copytree(plain, tmp_path / "work")
    (manifest,) = (work / "records" / "regseg" / "b0000").glob("manifest.tsv")
    rows = read_table(manifest)
    changed = next(row for row in rows if row["image"] == "001_T1w")
    reason = "the labels are expected to overlap by a Dice of 0.31 with true ones, less than 0.5"
    changed |= {"status": "warned", "code": "labels-doubtful", "reason": reason, "predicted_dice": "0.3141"}
    write_table(manifest, [*rows[0], "predicted_dice"], [{"predicted_dice": "", **row} for row in rows])
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    odd = re.search(r'<section id="odd".*?</section>', text, re.S)[0]
    assert odd.index(reason) < odd.index("far from the others")
    assert "0.314" in odd[: odd.index(reason)]
    assert "labels-doubtful" not in text_of(write_report(plain, tmp_path / "plain", CONFIG, STAGES))


def test_one_image_under_several_ids_is_told_at_the_top_naming_all(tmp_path, plain):
    work = shutil.copytree(plain, tmp_path / "work")
    manifests = {row["image"]: path for path in (work / "records" / "acquire").glob("*/manifest.tsv") for row in read_table(path)}
    sums = {row["image"]: row["sha256"] for path in set(manifests.values()) for row in read_table(path)}
    for name in ("004_T1w", "007_T1w"):
        write_text(manifests[name], text_of(manifests[name]).replace(sums[name], sums["001_T1w"]))
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)[0]
    assert verdict.count("One image, several ids") == 1
    assert "001_T1w, 004_T1w, 007_T1w have the same voxels" in verdict
    assert "One image, several ids" not in text_of(write_report(plain, tmp_path / "plain", CONFIG, STAGES))


def test_a_cohort_of_one_subject_has_a_whole_report(tmp_path):
    work = write_fake_cohort(tmp_path / "work", subjects=1, pictures=False)
    text = text_of(write_report(work, tmp_path / "results", CONFIG, STAGES))
    assert "No image was set aside: 2 images of 2 in order" in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.S).lower().replace("finance", "")
