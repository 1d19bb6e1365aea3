"""A bake-off: which systems, which pairs, what is chosen on whom, and what a system that fails does to the others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from cohortex.bakeoff import page
from cohortex.bakeoff.board import Scored, leaderboard, read_scores, table
from cohortex.bakeoff.pairs import linear, make_pair
from cohortex.bakeoff.restore import restorer
from cohortex.bakeoff.run import looked_at, pairs_of, score_system
from cohortex.bakeoff.score import MEASURES, measured, score
from cohortex.bakeoff.systems import System, adjusted, changed, grid, system_from, system_named, systems_of
from cohortex.config import check_config
from cohortex.errors import Refused, Skip
from cohortex.items import Image
from cohortex.measures.image_quality import noise_sigma, psnr
from cohortex.models.folder import write_model
from cohortex.models.registry import build
from cohortex.models.superresolve import throughplane as through
from cohortex.publish import write_json
from cohortex.tables import write_table
from cohortex.volume import Volume
from tests.workflow import phantom


@pytest.fixture
def config(root):
    """The shipped configuration with a small bake-off."""
    found = yaml.safe_load((root / "config.yaml").read_text())
    for task in ("denoise", "superresolve"):
        found["bakeoff"][task] |= {"edge": 32, "lesions": {"diameters_mm": [4], "contrasts": [3], "each": 1}}
    return check_config(found)


THREE = [("3", "validation"), ("4", "test"), ("5", "test")]


def image(subject, split, shape=(36, 40, 20), spacing=(1.5, 1.5, 1.5), modality="T1w"):
    volume = Volume(phantom(int(subject), shape), np.diag([*spacing, 1]), modality=modality, body_part="head")
    row = {"split": split, "sha256": subject}
    return Image(f"{subject}_{modality}", subject, "", modality, "image", body_part="head", row=row, opener=lambda: volume)


def given_as(one, array):
    """Return an image with other voxels."""
    return replace(one, opener=lambda: one.volume.with_data(array))


# --- systems


def test_baselines_always_run_and_names_become_systems(config):
    config["bakeoff"]["denoise"] |= {"candidates": ["redcnn", {"small": {"method": "redcnn", "training": {"filters": 8, "steps": 9}}}]}
    config["bakeoff"]["denoise"] |= {"baselines": [{"gaussian": {"sigma_mm": 2.0}}], "against": "transform"}
    found = {system.name: system for system in systems_of(config, "denoise")}
    assert list(found) == ["noisy", "gaussian", "transform", "redcnn", "small"]
    assert [system.kind for system in found.values()] == ["nothing", "filter", "method", "network", "network"]
    assert found["gaussian"].section == {"sigma_mm": 2.0}
    small = found["small"].section["default"]
    assert (small["method"], small["weights"], small["training"]["filters"]) == ("redcnn", "train", 8)
    assert small["training"]["steps"] == config["bakeoff"]["denoise"]["training"]["steps"], "one budget for all"
    assert all(system_from(system.told()) == system for system in found.values())


def test_settings_of_a_modality_hold_but_not_its_choice_of_a_method(config):
    config["denoise"]["CT"] = {"method": "none", "strength": 0.5}
    assert system_named(config, "denoise", "transform").section["CT"] == {"strength": 0.5}


def test_a_network_for_one_factor_is_trained_for_that_of_the_pairs(config):
    own = {"mine": {"method": "csn", "training": {"options": {"factor": 2}}}}
    config["bakeoff"]["superresolve"] |= {"factor": 3, "candidates": ["csn", "cardiac_sr", "saint", "srcnn3d", own]}
    found = {system.name: system.section["default"]["training"] for system in systems_of(config, "superresolve") if system.trains}
    assert {name: training.get("options", {}).get("factor") for name, training in found.items()} == {
        "csn": 3, "cardiac_sr": 3, "saint": None, "srcnn3d": None, "mine": 2,
    }  # fmt: skip


def test_a_model_folder_is_not_trained(config):
    config["bakeoff"]["superresolve"]["candidates"] = [{"shipped": {"method": "srcnn3d", "weights": "zoo/superresolve/srcnn3d"}}, "srcnn3d"]
    found = {system.name: system for system in systems_of(config, "superresolve")}
    assert list(found) == ["linear", "spline", "shipped", "srcnn3d"]
    assert (found["shipped"].trains, found["shipped"].weights, found["srcnn3d"].trains) == (False, "zoo/superresolve/srcnn3d", True)


def test_names_that_are_no_system_are_refused_with_the_nearest_one(config):
    config["bakeoff"]["denoise"]["candidates"] = ["redcn"]
    with pytest.raises(Refused, match="did you mean redcnn"):
        systems_of(config, "denoise")
    config["bakeoff"]["denoise"] |= {"candidates": [{"gaussian": {"sigma_mm": 2}}], "baselines": ["gaussian"]}
    with pytest.raises(Refused, match="gaussian twice"):
        systems_of(config, "denoise")


def test_the_configuration_refuses_unknown_settings_of_a_system(root):
    found = yaml.safe_load((root / "config.yaml").read_text())
    found["bakeoff"]["denoise"]["candidates"] = [{"small": {"methd": "redcnn"}}]
    with pytest.raises(Refused, match=r"bakeoff\.denoise\.candidates"):
        check_config(found)
    found["bakeoff"]["denoise"] |= {"candidates": ["../x"]}
    with pytest.raises(Refused, match=r"bakeoff\.denoise\.candidates"):
        check_config(found)


def test_a_grid_is_tried_in_its_order_and_dots_reach_into_mappings(config):
    assert grid({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
    before = system_named(config, "superresolve", "srcnn3d")
    system = changed(before, {"training.steps": 7})
    assert system.section["default"] == before.section["default"] | {"training": before.section["default"]["training"] | {"steps": 7}}
    config["bakeoff"]["denoise"]["adjust"] |= {"grid": {"strenght": [1]}}
    with pytest.raises(Refused, match="did you mean strength"):
        adjusted(config, "denoise")
    config["bakeoff"]["denoise"]["adjust"] |= {"system": "noisy"}
    with pytest.raises(Refused, match="has no settings"):
        adjusted(config, "denoise")


# --- pairs


def test_a_noisy_pair_is_a_clean_scan_with_the_noise_of_the_scan_itself(config):
    one = image("3", "test")
    pair = make_pair("denoise", one, config["bakeoff"]["denoise"], config["denoise"], 5)
    assert pair.truth.shape == (32, 32, 20)
    assert 12 < pair.noise < 30, "15 in the phantom, whose many edges raise the estimate"
    assert noise_sigma(pair.truth, pair.inside) < 0.5 * pair.noise
    noisy = pair.image.volume.array()
    np.testing.assert_array_equal(pair.degrade(pair.truth), noisy)
    assert np.std((noisy - pair.truth)[pair.inside]) == pytest.approx(pair.noise, rel=0.1)
    few = make_pair("denoise", one, config["bakeoff"]["denoise"] | {"edge": [30, 24, 9]}, config["denoise"], 5)
    assert few.truth.shape == (30, 24, 9)
    other = make_pair("denoise", one, config["bakeoff"]["denoise"], config["denoise"], 6)
    assert not np.array_equal(other.image.volume.array(), noisy)


def test_a_thick_pair_has_the_slice_means_of_its_truth_in_the_same_place(config):
    config["bakeoff"]["superresolve"]["factor"] = 2
    pair = make_pair("superresolve", image("3", "test"), config["bakeoff"]["superresolve"], config["superresolve"], 5)
    axis, thick = pair.axis, pair.image.volume
    assert thick.shape[axis] * 2 == pair.truth.shape[axis]
    assert thick.spacing[axis] == pytest.approx(3.0)
    middle = lambda volume, shape: volume.affine @ [*(np.array(shape) / 2 - 0.5), 1]  # noqa: E731
    fine = through.fine_affine(thick.affine, thick.shape[axis], pair.truth.shape[axis], axis)
    np.testing.assert_allclose(middle(thick, thick.shape), fine @ [*(np.array(pair.truth.shape) / 2 - 0.5), 1], atol=1e-9)
    pairs = pair.truth.reshape(*pair.truth.shape[:axis], -1, 2, *pair.truth.shape[axis + 1 :])
    np.testing.assert_allclose(thick.array(), pairs.mean(axis + 1), rtol=1e-4, atol=1e-3)


def test_straight_lines_meet_a_ramp_and_no_pair_is_made_where_there_is_none(config):
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 4, 4)).astype(np.float32)
    fine = linear(through.average(ramp, 6, 0), 12, 0)
    np.testing.assert_allclose(fine[1:-1], ramp[1:-1], atol=1e-5)
    asked = config["bakeoff"]["superresolve"]
    assert "thicker than" in make_pair("superresolve", image("3", "test", spacing=(1, 1, 20)), asked, config["superresolve"], 0)
    assert make_pair("superresolve", image("3", "test", (36, 40, 1)), asked, config["superresolve"], 0) == "it is a picture"


def test_a_training_looks_at_boxes_of_the_validation_subjects_and_at_the_contrast_that_its_network_needs(config):
    splits = [("1", "train"), ("2", "validation"), ("3", "validation"), ("4", "validation")]
    images = [image(subject, split, modality=kind) for subject, split in splits for kind in ("T1w", "T2w")]
    asked = config["bakeoff"]["superresolve"] | {"images": 2}
    plain, wanting = (system_named(config | {"bakeoff": {"superresolve": asked}}, "superresolve", "srcnn3d") for _ in range(2))
    wanting = changed(wanting, {"reference": "T2w"})
    found = {each.id: each.volume.shape for each in looked_at(images, plain, asked)}
    assert found == {"1_T1w": (36, 40, 20), "1_T2w": (36, 40, 20), "2_T1w": (32, 32, 20), "2_T2w": (32, 32, 20)}, "one of each modality"
    assert looked_at(images, plain, asked | {"images": 6})[-1].id == "4_T2w"
    few = looked_at(images, wanting, asked | {"images": 1})
    assert [each.id for each in few if each.row["split"] == "validation"] == ["2_T1w", "2_T2w"]
    cut = next(each for each in looked_at(images, plain, asked) if each.id == "2_T1w").volume
    at = np.round(np.linalg.inv(images[2].volume.affine) @ cut.affine)[:3, 3].astype(int)
    np.testing.assert_array_equal(cut.array(), images[2].volume.array()[tuple(slice(a, a + n) for a, n in zip(at, cut.shape, strict=True))])


def test_what_cannot_be_measured_on_makes_no_pair_and_the_reason_is_said(config):
    good = image("3", "test")
    nan, infinite = good.volume.array(np.float32).copy(), good.volume.array(np.float32).copy()
    nan[5, 5, 5], infinite[5, 5, 5] = np.nan, -np.inf
    said = {"it has voxels that are NaN or infinite": [nan, infinite]}
    said["all its voxels are 7, there is nothing to restore"] = [np.full(good.volume.shape, 7, np.float32)]
    for task in ("denoise", "superresolve"):
        asked = config["bakeoff"][task] | {"factor": 2}
        for reason, arrays in said.items():
            for array in arrays:
                assert make_pair(task, given_as(good, array), asked, config[task], 0) == reason
    slice_of = make_pair("denoise", image("3", "test", (36, 40, 1)), config["bakeoff"]["denoise"], config["denoise"], 0)
    assert slice_of.truth.shape == (32, 32, 1) and np.isfinite(measured(slice_of, slice_of.start)["psnr"])


# --- scores


def test_doing_nothing_has_no_change_and_the_truth_is_perfect(config):
    pair = make_pair("denoise", image("3", "test"), config["bakeoff"]["denoise"], config["denoise"], 5)
    nothing, perfect = measured(pair, pair.start), measured(pair, pair.truth)
    assert nothing["nps_distance"] == 1 and nothing["removed_share"] == 0
    assert perfect["nps_distance"] == 0 and perfect["psnr"] == np.inf and perfect["hfen"] == 0
    assert perfect["removed_share"] == pytest.approx(1, rel=0.1)
    assert nothing["psnr"] == pytest.approx(psnr(pair.unit(pair.truth), pair.unit(pair.start), 1.0, pair.inside))


@pytest.mark.parametrize(("task", "names"), [("denoise", ["noisy", "median", "transform"]), ("superresolve", ["linear", "spline"])])
def test_every_kind_of_system_restores_onto_the_grid_of_the_truth(config, task, names):
    config["bakeoff"]["superresolve"]["factor"] = 2
    pair = make_pair(task, image("3", "test"), config["bakeoff"][task], config[task], 5)
    values = []
    for name in names:
        system = system_named(config, task, name)
        result = restorer(system, None, "cpu", 2)(pair)(pair.image.volume.array(np.float32))
        values.append(measured(pair, result)["psnr"])
    assert values[-1] == max(values), dict(zip(names, values, strict=True))


def test_a_system_that_fails_has_a_row_that_says_so(config):
    pairs = [make_pair("denoise", image("3", "validation"), config["bakeoff"]["denoise"], config["denoise"], 5)]
    bad = System("denoise", "wavelet", "filter", {"basis": "no such wavelet"})
    about, rows, lesions, pictures = score_system(bad, None, {}, pairs, config, 0, "cpu")
    assert about["status"] == "failed" and about["reason"] and not rows and not lesions and not pictures
    pair = pairs[0]
    with pytest.raises(Refused, match="1 voxels that are NaN"):
        broken = pair.truth.copy()
        broken[0, 0, 0] = np.nan
        measured(pair, broken)
    with pytest.raises(Refused, match="shape"):
        measured(pair, pair.truth[1:])


def test_images_that_a_system_is_not_for_are_left_out_and_said(config):
    pairs = [make_pair("denoise", image(s, split), config["bakeoff"]["denoise"], config["denoise"], 5) for s, split in THREE]

    def for_pair(pair):
        def restore(array):
            if pair.image.subject == "4":
                raise Skip("no-fit", "It is for other voxels.")
            return array

        return restore

    rows, _, pictures, left_out = score(pairs, for_pair, config["bakeoff"]["denoise"], 0)
    assert [row["subject"] for row in rows] == ["3", "5"]
    assert left_out == {"4_T1w": "It is for other voxels."} and not pictures, "the picture is of the first test subject"
    with pytest.raises(Refused, match="none of the 1 images: It is for other"):
        score(pairs[1:2], for_pair, config["bakeoff"]["denoise"], 0)


def test_a_network_without_the_contrast_that_it_needs_is_not_scored_as_the_spline(config, tmp_path):
    options = {"width": 4, "blocks": 1, "depth": 1}
    card = {
        "name": "two", "task": "superresolve", "network": "progressive_sr", "options": options, "modality": ["any"], "dimensions": [3],
        "body_part": ["any"], "spacing_mm": {"min": 0.5, "max": 9}, "data": "none", "recipe": {}, "seed": 0, "metrics": [],
        "intended_use": "tests", "limits": "all", "extra": {"factors": [2, 2]},
    }  # fmt: skip
    write_model(tmp_path / "two", card, build("superresolve", "progressive_sr", **options).state_dict())
    asked = config["bakeoff"]["superresolve"]
    asked |= {"factor": 2, "candidates": [{"two": {"method": "progressive_sr", "weights": "two", "reference": "T2w"}}]}
    t1w, t2w = image("3", "test"), image("3", "test", modality="T2w")
    two = system_named(config, "superresolve", "two")
    pairs, without = pairs_of([t1w, t2w, image("4", "test")], config, "superresolve", 0)
    assert [pair.image.id for pair in pairs] == ["3_T1w", "3_T2w", "4_T1w"] and not without
    about, rows, _, _ = score_system(two, tmp_path / "two", {}, pairs, config, 0, "cpu")
    assert about["status"] == "ok" and [row["image"] for row in rows] == ["3_T1w"], "the T2w of 3 is no further contrast to itself"
    assert set(about["left_out"]) == {"3_T2w", "4_T1w"} and "needs a reference contrast" in about["left_out"]["4_T1w"]


def test_what_takes_long_is_not_done_a_second_time_for_the_clock(config, monkeypatch):
    one = config["bakeoff"]["denoise"]
    pairs = [make_pair("denoise", image("3", split), one, config["denoise"], 5) for split in ("test", "validation")]
    runs = []

    def for_pair(pair):
        return lambda array: runs.append(pair.split) or array

    score(pairs, for_pair, config["bakeoff"]["denoise"], 0)
    assert runs == ["test", "test", "test", "validation"], "twice for the clock, once with lesions"
    monkeypatch.setattr("cohortex.bakeoff.score.LONG_S", -1.0)
    runs.clear()
    score(pairs, for_pair, config["bakeoff"]["denoise"], 0)
    assert runs == ["test", "test", "validation"]


def test_a_system_that_did_not_do_all_validation_images_is_not_chosen(config):
    short = scored("short", [40.0], [30.0])
    short = replace(short, about={**short.about, "left_out": {"a": "It is for other voxels."}})
    board = leaderboard([short, scored("whole", [30.0, 30.0], [29.0, 29.0])], "denoise", "whole")
    assert board.chosen == "whole" and [line.system for line in board.lines] == ["whole", "short"]
    assert any("short is not for 1 of the images, such as a: It is for other voxels." in sentence for sentence in page.facts(board, config))
    assert "short (1 of 2 images)" in page.markdown(board, config, None, None)


# --- the leaderboard


def scored(name, validation, test, status="ok"):
    """Return what a system leaves: PSNR by subject of each split."""
    rows = []
    for split, values in (("validation", validation), ("test", test)):
        for number, value in enumerate(values):
            subject = f"{split}{number}"
            about = {"subject": subject, "image": f"{subject}_T1w", "split": split}
            rows.append({**about, "cpu_s": "2", "megavoxels": "0.5", "psnr": str(value)})
    lesions = [{"diameter_mm": "4", "contrast": "3", "recovery": str(share)} for share in (0.5, 0.7)]
    reason = "" if status == "ok" else "its result has 5 voxels that are NaN or infinite"
    about = {"system": name, "kind": "filter", "status": status, "reason": reason}
    return Scored(about, rows if status == "ok" else [], lesions if status == "ok" else [], {})


def test_validation_subjects_choose_and_test_subjects_give_the_figures():
    board = leaderboard(
        [scored("baseline", [30, 30], [30, 31, 32]), scored("right", [33, 33], [29, 30, 31]), scored("tempting", [31, 31], [40, 41, 42])],
        "denoise",
        "baseline",
    )
    assert board.chosen == "right"
    assert [line.system for line in board.lines] == ["right", "tempting", "baseline"]
    right, tempting, _ = board.lines
    assert right.means["psnr"] == 30 and right.validation == 33 and right.subjects == 3
    assert right.gains["psnr"] == pytest.approx((-1, -1, -1)) and tempting.gains["psnr"][0] == pytest.approx(10)
    assert right.cost_s == 4
    assert right.recovery == {(4.0, 3.0): pytest.approx(0.6)}


def test_images_of_a_subject_count_once_and_intervals_are_over_subjects():
    one = scored("a", [1.0], [10.0, 20.0])
    twice = [*one.rows, *[dict(row) for row in one.rows if row["subject"] == "test1"]]
    board = leaderboard([replace(one, rows=twice), scored("b", [0.0], [9.0, 21.0])], "denoise", "b")
    line = next(line for line in board.lines if line.system == "a")
    assert line.means["psnr"] == 15
    mean, low, high = line.gains["psnr"]
    assert (mean, line.subjects) == (0, 2) and low < 0 < high


def test_a_system_that_is_not_for_some_images_is_held_against_the_others_on_the_rest():
    """CT has other decibels than MR: the mean of both is no measure for a system that does MR alone."""
    both, mr = scored("both", [30], [30, 32]), scored("mr", [30], [31, 33])
    ct = [{**row, "image": f"{row['subject']}_CT", "psnr": "50"} for row in both.rows]
    board = leaderboard([replace(both, rows=[*both.rows, *ct]), mr], "denoise", "both")
    lines = {line.system: line for line in board.lines}
    assert lines["both"].means["psnr"] == pytest.approx(40.5) and lines["mr"].means["psnr"] == 32
    assert lines["mr"].gains["psnr"] == pytest.approx((1, 1, 1))


def test_a_failed_system_is_last_and_the_rest_of_the_page_stands(config, tmp_path):
    pictures = {name: np.linspace(0, 1, 400).reshape(20, 20).astype(np.float32) for name in ("truth", "start", "result")}
    left = [scored("transform", [30], [31]), scored("ruined", [], [], "failed"), scored("gaussian", [29], [28])]
    for number, each in enumerate(left):
        folder = tmp_path / str(number)
        write_json(folder / "about.json", each.about)
        write_table(folder / "measures.tsv", ("subject", "image", "split", *MEASURES, "cpu_s", "megavoxels"), each.rows)
        write_table(folder / "lesions.tsv", ("diameter_mm", "contrast", "recovery"), each.lesions)
        np.savez_compressed(folder / "pictures.npz", **(pictures if each.rows else {}))
    assert read_scores(tmp_path / "0").rows[0]["psnr"] == "30"
    board = page.write_page([tmp_path / str(number) for number in range(3)], None, tmp_path / "out", config, "denoise")
    assert [line.system for line in board.lines] == ["transform", "gaussian", "ruined"]
    columns, rows = table(board)
    assert rows[-1]["status"] == "failed" and set(rows[0]) <= set(columns)
    words = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "transform (chosen)" in words and "failed: its result has 5 voxels that are NaN" in words
    assert "Of one subject there is no interval" in words and "Simulated" not in words
    told = replace(board, lines=[replace(line, about={**line.about, "simulated": True}) for line in board.lines])
    assert page.facts(told, config)[0].startswith("Simulated data")
    html = (tmp_path / "out" / "index.html").read_text()
    assert html.count("<img ") == 1 + 2 + 3 + 3, "truth, doing nothing, and two systems"
    from PIL import Image as Picture

    with Picture.open(tmp_path / "out" / "pictures" / "compared.png") as picture:
        assert np.asarray(picture).std() > 10


def test_without_test_subjects_the_page_says_whose_figures_they_are(config):
    board = leaderboard([scored("transform", [30, 31], []), scored("gaussian", [29, 30], [])], "denoise", "transform")
    assert board.split == "validation"
    assert any("no test subjects" in sentence for sentence in page.facts(board, config))
    board = leaderboard([scored("transform", [], [30, 31])], "denoise", "transform")
    assert board.chosen == "" and any("nothing was chosen" in sentence for sentence in page.facts(board, config))


def test_the_table_is_plain_json_numbers(config):
    columns, rows = table(leaderboard([scored("transform", [30], [31, 32])], "denoise", "transform"))
    assert json.loads(json.dumps(rows[0]))["psnr"] == 31.5
    assert len(columns) == len(set(columns))
