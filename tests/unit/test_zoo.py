"""The zoo's page: settings that the configuration takes, real scans dealt out by subject, a section made of a bake-off's pages."""

from argparse import Namespace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import segment, zoo, zoo_sets
from benchmarks.record import TARGETS, figure_line
from cohortex.bakeoff.systems import systems_of
from cohortex.config import check_config
from cohortex.io.boxes import CORNERS, read_boxes
from cohortex.models.registry import entries
from cohortex.tables import read_table

GIVEN = Namespace(tasks=["denoise", "superresolve"], candidates="", steps=5, minutes=1.0, images=2, edge=[48, 48, 12], subjects=8)


@pytest.mark.parametrize("cohort", ["demo", "real"])
def test_every_network_of_the_registry_and_every_shipped_folder_is_a_candidate(root, cohort):
    asked = zoo.settings_of(GIVEN, cohort)
    shipped = yaml.safe_load((root / "config.yaml").read_text())
    bakeoffs = asked.pop("bakeoff")
    config = check_config({**shipped, **asked, "bakeoff": {task: shipped["bakeoff"][task] | bakeoffs[task] for task in zoo.TASKS}})
    for task in zoo.TASKS:
        found = systems_of(config, task)
        trained = {system.name for system in found if system.trains}
        shipped_ones = [system for system in found if system.kind == "network" and not system.trains]
        assert {system.name for system in shipped_ones} == {f"{path.name}_shipped" for path in (root / "zoo" / task).iterdir()}
        # one that the stage does not train stands there with its shipped weights
        networks = {system.section["default"]["method"] for system in shipped_ones}
        assert {entry.name for entry in entries(task)} - trained <= networks
        assert len(trained) >= 10
        assert all(system.section["default"]["training"]["steps"] == 5 for system in found if system.trains)


@pytest.mark.parametrize("task", zoo.LABELLED)
def test_networks_with_labels_are_candidates_on_the_simulated_heads(root, task):
    asked = zoo.settings_of(Namespace(**{**vars(GIVEN), "tasks": [task]}), "demo")
    assert asked["demo"]["labelled"] == 1 and asked["stages"] == ["acquire", "regseg", "export"]
    shipped = yaml.safe_load((root / "config.yaml").read_text())
    bakeoff = shipped["bakeoff"][task] | asked.pop("bakeoff")[task]
    config = check_config({**shipped, **asked, "bakeoff": {**shipped["bakeoff"], task: bakeoff}})
    found = {system.name: system for system in systems_of(config, task)}
    assert {entry.name for entry in entries(task)} <= {name for name, system in found.items() if system.trains}
    assert found["heads_shipped"].weights == "zoo/regseg/heads" and bakeoff["against"] in found
    if task == "segment":
        assert len(found) > 15 and {system.section["default"]["training"]["steps"] for system in found.values()} == {5}
        assert bakeoff["labels"]["2"] == "grey_matter"


@pytest.mark.parametrize(("task", "cohort"), [(task, cohort) for task in zoo.SETS for cohort in ("demo", "pictures")])
def test_networks_that_fit_are_candidates_on_a_cohort_of_the_task(root, task, cohort):
    asked = zoo.settings_of(Namespace(**{**vars(GIVEN), "tasks": [task]}), cohort)
    shipped = yaml.safe_load((root / "config.yaml").read_text())
    bakeoff, section = shipped["bakeoff"][task] | asked.pop("bakeoff")[task], shipped[task]["default"] | asked.pop(task)["default"]
    config = check_config({**shipped, **asked, "bakeoff": {**shipped["bakeoff"], task: bakeoff}, task: {"default": section}})
    found = {system.name: system for system in systems_of(config, task)}
    trained = {name for name, system in found.items() if system.trains}
    other = {"demo": {"motioncnn2d", "smallresnet2d"}, "pictures": {"motioncnn2d", "smallcnn3d", "slice_rnn", "time_lstm"}}
    assert trained == {entry.name for entry in entries(task)} - (other[cohort] if task == "classify" else set())
    assert bakeoff["against"] in found and {found[name].section["default"]["training"]["steps"] for name in trained} == {5}
    assert all(
        cohort == "demo" and system.weights.startswith(f"zoo/{task}/") for system in found.values() if system.weights not in ("", "train")
    )
    assert ("regseg" in asked["stages"]) == ((task, cohort) == ("classify", "demo"))


def test_slices_of_heads_show_what_their_diagnosis_says(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_sets, "HEADS", {"train": 2, "test": 1})
    rows = read_table(zoo_sets.heads_table(tmp_path, "recognize"))
    assert len(rows) == 3 * zoo_sets.SLICES * 2 and {row["split"] for row in rows} == {"train", "test"}
    assert [row["diagnosis"] for row in rows[:: 2 * zoo_sets.SLICES]] == list(zoo_sets.DIAGNOSED["recognize"])
    for row in rows:
        image = nib.load(row["path"])
        assert image.shape == zoo_sets.FINE
        if row["role"] == "labels":
            assert (np.asarray(image.dataobj) == zoo_sets.LESION).any() == (row["diagnosis"] != "control")
    places = {(row["subject"], round(float(nib.load(row["path"]).affine[2, 3]), 3)) for row in rows}
    assert len(places) == 3 * zoo_sets.SLICES


def test_pictures_of_tumours_have_their_boxes_beside_them_and_subjects_one_split(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_sets, "DEALT", {"train": (0, 1), "test": (17, 18)})
    rows = read_table(zoo_sets.pictures_table(tmp_path, shared_data))
    assert len({(row["subject"], row["split"]) for row in rows}) == len({row["subject"] for row in rows}) == 6
    assert len(rows) == 2 * 6 * 5
    picture, boxes = (next(row for row in rows if row["role"] == role) for role in ("image", "boxes"))
    image = nib.load(picture["path"])
    table = read_boxes(Path(boxes["path"]), image.shape, image.affine, "t")
    values, at = np.asarray(image.dataobj), [round(table[name][0]) for name in CORNERS]
    assert table["label"] == [boxes["diagnosis"]] and 0 <= at[0] < at[3] <= values.shape[0] and 0 <= at[1] < at[4] <= values.shape[1]
    size = [float(word) for word in next((shared_data / "brain-tumour-2d" / "0").glob(f"{boxes['run']}.txt")).read_text().split()[3:]]
    assert [table["x_high"][0] - table["x_low"][0], table["y_high"][0] - table["y_low"][0]] == pytest.approx(
        [128 * n for n in size], abs=1e-3
    )


def test_candidates_can_be_named():
    few = Namespace(**{**vars(GIVEN), "candidates": "cnn_dae,subslice_shipped"})
    asked = zoo.settings_of(few, "demo")["bakeoff"]
    assert asked["denoise"]["candidates"] == [{"cnn_dae": {"method": "cnn_dae", "training": {"batch": 1}}}]
    assert asked["superresolve"]["candidates"] == [{"subslice_shipped": {"method": "subslice", "weights": "zoo/superresolve/subslice"}}]


def test_the_command_names_no_folder():
    assert zoo.told(["denoise", "--folder", "/somewhere", "--steps", "9", "--out", "there"]) == ["denoise", "--steps", "9"]


def test_new_sections_take_the_place_of_those_of_the_same_cohort():
    first = zoo.page("denoise", "", {"real": "## Real scans\n\nold real\n\n### Leaderboard\n\nx"})
    assert first.startswith("# Zoo: denoise\n\nAll networks") and first.endswith("### Leaderboard\n\nx\n")
    second = zoo.page("denoise", first, {"demo": "## Simulated heads\n\nnew demo"})
    assert second.index("new demo") < second.index("old real") and second.endswith("### Leaderboard\n\nx\n")
    third = zoo.page("denoise", second, {"real": "## Real scans\n\nnew real"})
    assert "new demo" in third and "new real" in third and "old real" not in third
    assert zoo.page("denoise", third, {}) == third


def test_real_subjects_are_in_one_split_and_their_scans_are_there(shared_data, tmp_path):
    rows = read_table(zoo.real_table(tmp_path, shared_data))
    assert {row["subject"] for row in rows} == {subject for subjects in zoo.SPLITS.values() for subject in subjects}
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert len({(row["subject"], row["split"]) for row in rows}) == len({row["subject"] for row in rows})


def test_a_section_is_the_leaderboard_below_a_heading_with_a_picture_of_few_greys(tmp_path):
    pages = tmp_path / "pages"
    (pages / "pictures").mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 900), dtype=np.uint8)).save(pages / "pictures" / "compared.png")
    (pages / "leaderboard.md").write_text("# Bake-off\n\n- fact\n\n## Leaderboard\n\n![x](pictures/compared.png)\n")
    lines = zoo.section(pages, "demo", "denoise", tmp_path, ["--steps", "9"])
    assert lines.startswith("## Simulated heads\n\n`python -m benchmarks.zoo --steps 9`, commit ")
    assert "- fact" in lines and "### Leaderboard" in lines and "![x](denoise-demo.png)" in lines
    with Image.open(tmp_path / "denoise-demo.png") as picture:
        assert picture.size == (900, 300) and len(picture.getcolors()) <= zoo.GREYS


def test_the_table_of_segmentation_is_the_leaderboard():
    names = ("dice", "iou", "dice_gain", "dice_low", "dice_high", "hd95", "asd", "recall", "precision", "training_cpu_s", "cpu_s_scan")
    row = {"system": "vnet", "parameters": "1200", **{name: str(k / 10) for k, name in enumerate(names)}, "dice_low": ""}
    assert segment.row_of(row) == ["vnet", 1200, 0.0, 0.1, 0.2, None, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert len(segment.COLUMNS) == len(segment.row_of(row))
    assert figure_line("segment", dict.fromkeys(TARGETS["segment"], 0.5)).startswith("FIGURE networks_built=0.5 best_dice=")
    assert segment.built() == len(entries("segment")), "every network that states its parameters has as many"
