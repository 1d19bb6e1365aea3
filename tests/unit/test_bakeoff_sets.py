"""Bake-offs of classification and recognition: which systems there are, figures by hand, paired differences, what is shown."""

import numpy as np
import pytest
import yaml

from cohortex.bakeoff import classified, page, recognized, sets
from cohortex.bakeoff.board import Scored, leaderboard, table
from cohortex.bakeoff.run import compared, score_system
from cohortex.bakeoff.set_pictures import pictures_of_sets
from cohortex.bakeoff.systems import ask_bakeoff, check_splits, system_named, systems_of
from cohortex.bakeoff.train import train_system
from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.recognize.findings import Findings
from cohortex.resources import Load, Part
from cohortex.tables import write_table
from cohortex.volume import Volume
from tests.toy_findings import pair


@pytest.fixture
def config(root, tmp_path):
    """The shipped configuration for pictures of T2w."""
    found = yaml.safe_load((root / "config.yaml").read_text())
    found["work"] = str(tmp_path)
    found["classify"]["default"] |= {"target": "kind", "modalities": ["T2w"], "input": {"size": [16, 16], "spacing_mm": None}}
    found["recognize"]["default"]["labels"] = {"1": "ball"}
    found["bakeoff"]["classify"] |= {"candidates": ["smallresnet2d"], "baselines": [], "against": "prior"}
    return check_config(found)


# --- systems


def test_names_become_classifiers_with_one_truth_and_one_budget(config):
    own = {"network": {"name": "resnet18"}, "training": {"rate": 0.1, "steps": 9}}
    config["bakeoff"]["classify"] |= {
        "candidates": ["smallresnet2d", {"mine": own}, {"both": {"parts": ["radiomics", "cnn"]}}, {"ready": {"weights": "my_model"}}],
        "baselines": ["radiomics"],
        "training": {"steps": 7, "minutes": 3},
    }
    found = {system.name: system for system in systems_of(config, "classify")}
    assert [(name, system.kind, system.trains) for name, system in found.items()] == [
        ("prior", "nothing", False),
        ("radiomics", "method", True),
        ("smallresnet2d", "network", True),
        ("mine", "network", True),
        ("both", "network", True),
        ("ready", "network", False),
    ]
    mine, radiomics = found["mine"].section["default"], found["radiomics"].section["default"]
    assert (mine["network"]["name"], mine["parts"], mine["training"]["rate"]) == ("resnet18", ["cnn"], 0.1)
    assert mine["training"]["steps"] == radiomics["training"]["steps"] == 7 and mine["target"] == "kind"
    assert radiomics["parts"] == ["radiomics"] and found["both"].section["default"]["network"]["name"] == "smallcnn3d"


@pytest.mark.parametrize(
    ("task", "candidate", "said"),
    [
        ("classify", "resnet19", "did you mean resnet18"),
        ("classify", {"mine": {"target": "age", "network": {"name": "resnet18"}}}, "another target than classify.default has"),
        ("classify", {"mine": {"modalities": ["CT"]}}, "another modalities than classify.default has"),
        ("recognize", "retinanett", "did you mean retinanet"),
        ("recognize", {"mine": {"labels": {"2": "x"}}}, "other labels than recognize.default has"),
    ],
)
def test_what_is_no_system_or_has_another_truth_is_refused(config, task, candidate, said):
    config["bakeoff"][task]["candidates"] = [candidate]
    with pytest.raises(Refused, match=said):
        systems_of(config, task)


def test_detectors_are_networks_model_folders_and_blobs(config):
    small = {"small": {"network": "ssd", "training": {"batch": 2}}}
    config["bakeoff"]["recognize"]["candidates"] = [
        "yolo",
        small,
        {"dots": {"diameters_mm": [3], "bright": False}},
        {"r": {"weights": "w"}},
    ]
    found = {system.name: (system.kind, system.trains) for system in systems_of(config, "recognize")}
    networks = {"yolo": ("network", True), "small": ("network", True), "r": ("network", False)}
    assert found == networks | {"blobs": ("method", False), "dots": ("method", False)}
    assert system_named(config, "recognize", "small").section["default"]["network"] == "ssd"


def test_without_two_classes_or_without_labels_nothing_is_started(config, tmp_path):
    rows = [{"subject": name, "split": split, "role": "image"} for name, split in zip("abc", ("train", "train", "test"), strict=True)]
    write_table(tmp_path / "cohort" / "cohort.tsv", ["subject", "split", "role"], rows)
    with pytest.raises(Refused, match="two classes in the column kind among train subjects, and there are none"):
        check_splits(config, "classify")
    people = [{"subject": name, "kind": kind} for name, kind in zip("abc", ("x", "x", "y"), strict=True)]
    write_table(tmp_path / "cohort" / "participants.tsv", ["subject", "kind"], people)
    with pytest.raises(Refused, match="there is 1; name another column"):
        check_splits(config, "classify")
    write_table(tmp_path / "cohort" / "participants.tsv", ["subject", "kind"], [*people[1:], {"subject": "a", "kind": "y"}])
    check_splits(config, "classify")
    with pytest.raises(Refused, match="no training subject has labels"):
        check_splits(config, "recognize")


def test_jobs_ask_for_what_their_images_take(config):
    small, large = (Load((Part("T1w", 20, mb, 20 * mb),), mb) for mb in (2.0, 100.0))
    for task in ("classify", "recognize"):
        asks = [ask_bakeoff(config, task, load, scored=2) for load in (small, large)]
        assert asks[0].memory_mb < asks[1].memory_mb and asks[0].seconds < asks[1].seconds < 48 * 3600
        assert ask_bakeoff(config, task, small, trained=1).seconds > 3600, "its minutes"


# --- figures by hand

TRUTH = {"a": "ill", "b": "ill", "c": "well", "d": "well"}
ILL = {"a": 0.9, "b": 0.4, "c": 0.6, "d": 0.1}


def told(ill, split="test", times=1, truth=None):
    """Return the rows and answers of a system that gives each subject's scans this probability of being ill."""
    rows, answers = [], []
    for subject, value in ill.items():
        for k in range(times):
            about = {"subject": subject, "image": f"{subject}{k}", "split": split}
            rows.append(about)
            kind = (truth or TRUTH)[subject]
            answers += [{**about, "truth": kind, "class": c, "probability": str(p)} for c, p in (("ill", value), ("well", 1 - value))]
    return rows, answers


def said(ill, **how):
    return sets.said_of("classify", *told(ill, **how), ["ill", "well"])


def test_figures_of_four_scans_are_those_worked_out_by_hand():
    found = sets.figures(said(ILL))
    # of the pairs (a, c), (a, d), (b, c), (b, d) all but the third are in order
    assert found["auc"] == 0.75 and found["accuracy"] == found["balanced_accuracy"] == 0.5
    assert found["brier"] == pytest.approx((0.1**2 + 0.6**2 + 0.6**2 + 0.1**2) / 4)
    assert found["log_loss"] == pytest.approx(-(2 * np.log(0.9) + 2 * np.log(0.4)) / 4)
    # two told by 0.9 and right, two by 0.6 and wrong
    assert found["calibration_error"] == pytest.approx((2 * 0.1 + 2 * 0.6) / 4)
    each = sets.of_each(said(ILL))
    assert each["ill"] == each["well"] == {"auc": 0.75, "sensitivity": 0.5, "specificity": 0.5}


def test_differences_are_paired_and_draw_whole_subjects():
    perfect, same = said({"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.1}), said(ILL)
    assert sets.differences(same, same)["auc"] == (0, 0, 0)
    found = sets.differences(perfect, same)
    assert found["auc"][0] == 0.25 and found["accuracy"][0] == 0.5 and found["brier"][0] == pytest.approx(0.025 - 0.185)
    # ten scans of each subject that say the same say nothing more
    often = sets.differences(said({"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.1}, times=10), said(ILL, times=10))
    for name in ("auc", "accuracy", "brier", "log_loss"):
        assert often[name] == pytest.approx(found[name])
    with pytest.raises(ValueError, match="same images"):
        sets.differences(same, said({"a": 0.9}))


def boxes(image, split="test"):
    """Return one object of either class, of which the first is found after nothing and before one that is not there."""
    about = {"subject": image[0], "image": image, "split": split}

    def box(what, label, score, low):
        place = {name: low + 4 * (k >= 3) for k, name in enumerate(sets.CORNERS)}
        return {**about, "what": what, "label": label, "score": score, **place}

    if image == "a":
        return [box("true", "cell", 1, 2), box("found", "cell", 0.9, 2), box("found", "cell", 0.5, 20)]
    return [box("true", "node", 1, 2)]


def test_boxes_of_two_images_are_measured_as_by_hand():
    rows = [{"subject": name, "image": name, "split": "test"} for name in "ab"]
    whole = sets.said_of("recognize", rows, [*boxes("a"), *boxes("b")], ["cell", "node"])
    # the cell is found first of all, the node never; half of the objects without a false box
    assert sets.figures(whole) == {"map": 0.5, "sensitivity_at_1": 0.5, "cpm": 0.5}
    assert sets.of_each(whole) == {"cell": {"ap": 1.0}, "node": {"ap": 0.0}}
    better = [*boxes("b"), {**boxes("b")[0], "what": "found", "score": 0.7}]
    gains = sets.differences(sets.said_of("recognize", rows, [*boxes("a"), *better], ["cell", "node"]), whole)
    assert gains["map"][0] == 0.5 and gains["cpm"][0] == 0.5 and gains["map"][1] <= 0.5 <= gains["map"][2]


def scored(name, test, validation, status="ok", **about):
    """Return what a system left of four test and four validation subjects."""
    truth = TRUTH | {key.upper(): kind for key, kind in TRUTH.items()}
    parts = [told(test, "test", truth=truth), told({key.upper(): p for key, p in validation.items()}, "validation", truth=truth)]
    rows = [{**row, "modality": "T2w", "cpu_s": "0.5", "megavoxels": "1"} for part in parts for row in part[0]]
    word = {"system": name, "kind": "network", "status": status, "reason": "", "classes": ["ill", "well"], **about}
    pictures = {"scan_a0": np.eye(8, dtype=np.float32), "scan_c0": np.eye(8, dtype=np.float32)}
    return Scored(word, rows, [], pictures, [], [answer for part in parts for answer in part[1]])


def test_validation_subjects_choose_and_test_subjects_give_the_figures(config, tmp_path):
    perfect = {"a": 0.9, "b": 0.8, "c": 0.2, "d": 0.1}
    flat = dict.fromkeys("abcd", 0.5)
    fewer = scored("fewer", perfect, {"a": 0.9, "c": 0.1})
    systems = [scored("prior", flat, flat, kind="nothing"), scored("lucky", perfect, ILL), scored("good", ILL, perfect), fewer]
    systems.append(Scored({"system": "lost", "status": "failed", "reason": "it is lost"}, [], [], {}))
    board = leaderboard(systems, "classify", "prior")
    assert [line.system for line in board.lines] == ["good", "lucky", "prior", "fewer", "lost"] and board.chosen == "good"
    good = board.lines[0]
    assert (good.validation, good.means["auc"], good.gains["auc"][0], good.images, good.subjects) == (1.0, 0.75, 0.25, 4, 4)
    assert good.cost_s == 0.5 and "auc" not in board.lines[2].gains
    columns, rows = table(board)
    assert set(rows[0]) <= set(columns) and rows[0]["validation_auc"] == 1.0 and rows[0]["auc_ill"] == 0.75
    shown = pictures_of_sets(board, systems, 60)
    assert {name: list(some) for name, some in shown.items()} == {"ill": ["a0"], "well": ["c0"]} and shown["ill"]["a0"].shape[2] == 3
    folder = tmp_path / "board"
    written = page.html(board, config, None, shown, 1.0) + page.markdown(board, config, None, 1.0)
    assert not folder.exists() and "none is a mean over subjects" in written and "failed: it is lost" in written


# --- images


def picture(name, split, label="", values=None, seed=0):
    array = np.random.default_rng(seed).normal(100, 5, (20, 22, 1)) if values is None else values
    volume = Volume(np.asarray(array, np.float32), np.eye(4), "T2w", "image", "head")
    row = {"split": split, "label": label, "sha256": name}
    return Image(f"{name}_T2w", name, "", "T2w", "image", body_part="head", row=row, opener=lambda: volume)


def test_an_image_of_an_earlier_split_is_not_measured_on(config):
    images = [picture(f"t{k}", "train", "x" if k % 2 else "y", seed=k) for k in range(4)]
    images += [picture("v1", "validation", "x", seed=20), picture("v2", "validation", "y", seed=3), picture("e1", "test", "x", seed=20)]
    images += [picture("e2", "test", "y", seed=30), picture("e3", "test", seed=31), picture("e4", "test", "z", seed=32)]
    cases, without = classified.cases_of(images, config["classify"], config["bakeoff"]["classify"])
    assert [case.image.subject for case in cases] == ["v1", "e2"]
    assert without == {
        "v2_T2w": "its voxels are those of t3_T2w of the train subject t3",
        "e1_T2w": "its voxels are those of v1_T2w of the validation subject v1",
        "e3_T2w": "its subject has no class in the column kind",
        "e4_T2w": "no training subject has its class z",
    }
    assert cases[0].frequency == {"x": 0.5, "y": 0.5}


def test_a_network_is_trained_and_told_apart_from_the_prior(config, tmp_path):
    config["bakeoff"]["classify"]["training"] = {"steps": 12, "minutes": 5}
    own = {"network": {"name": "smallresnet2d"}, "training": {"folds": 2, "batch": 8, "rate": 0.02}}
    config["bakeoff"]["classify"]["candidates"] = [{"tiny": own}]
    splits, images = ["train"] * 12 + ["validation"] * 4 + ["test"] * 8, []
    for k, split in enumerate(splits):
        images.append(picture(f"s{k:02d}", split, "xy"[k % 2], np.random.default_rng(k).normal(100 + 40 * (k % 2), 5, (20, 22, 1))))
    system = system_named(config, "classify", "tiny")
    trained = train_system(system, [i for i in images if i.row["split"] != "test"], 1, "cpu", tmp_path / "running", 1)
    assert trained["status"] == "ok" and trained["steps_done"] == 12 and trained["parameters"] > 100_000, trained["reason"]
    cases, without = compared(images, config, "classify", 1)
    assert (len(cases), without) == (12, {})
    left = []
    for each, folder, word in ((system_named(config, "classify", "prior"), None, {}), (system, tmp_path / "running" / "model", trained)):
        about, rows, answers, pictures = score_system(each, folder, word, cases, config, 1, "cpu")
        left.append(Scored({**about}, rows, [], pictures, [], answers))
    board = leaderboard(left, "classify", "prior")
    assert board.chosen == "tiny" and board.lines[0].means["auc"] == 1 and board.lines[0].gains["auc"] == (0.5, 0.5, 0.5)
    assert len([key for key in left[1].pictures if key.startswith("scan_")]) == classified.PICTURED
    # a model of other classes is not scored as if it knew these
    others = [classified.Case(case.image, case.beside, "z", {"z": 0.5, "y": 0.5}) for case in cases]
    about, *_ = score_system(system, tmp_path / "running" / "model", trained, others, config, 1, "cpu")
    assert about["status"] == "failed" and "the cohort has z, y" in about["reason"]


@pytest.mark.parametrize("shape", [(48, 56, 1), (48, 56, 12)])
def test_blobs_are_as_large_as_what_training_subjects_have(config, shape):
    images = [each for k, split in enumerate(["train"] * 3 + ["validation"] + ["test"] * 3) for each in pair(f"{k}", k, shape, split)]
    cases, without = compared(images, config, "recognize", 1)
    assert [case.split for case in cases] == ["validation"] + ["test"] * 3 and not without
    assert 6 < cases[0].diameters_mm[0] <= cases[0].diameters_mm[-1] < 13
    about, rows, answers, pictures = score_system(system_named(config, "recognize", "blobs"), None, {}, cases, config, 1, "cpu")
    assert about["status"] == "ok" and len(rows) == 4, about["reason"]
    found = sets.figures(sets.said_of("recognize", rows, answers, about["classes"], 0.3))
    assert found["map"] > 0.6 and found["sensitivity_at_1"] > 0.9
    assert {key.split("_")[0] for key in pictures} == {"scan", "true", "found"}


def test_boxes_lie_where_the_picture_shows_what_they_are_around(config):
    array = np.zeros((20, 30, 6), np.float32)
    array[3:8, 10:22, 2:5] = 100
    volume = Volume(array, np.diag([1.0, 2.0, 3.0, 1.0]), "T2w", "image", "head")
    image = Image("a_T2w", "a", "", "T2w", "image", row={"split": "test"}, opener=lambda: volume)
    corners = np.array([[3.0, 10, 2, 8, 22, 5]])
    found = Findings(np.concatenate([corners + 1, corners]), np.array([0, 0]), np.array([0.9, 0.8]))
    made = recognized.pictures_of(image, Findings(corners, np.array([0]), np.ones(1)), found)
    (low_row, low_column, high_row, high_column, label), plane = made["true_a_T2w"][0], made["scan_a_T2w"]
    inside = plane[int(low_row) : int(high_row), int(low_column) : int(high_column)]
    assert inside.min() > 0.9 and inside.size == (plane > 0.5).sum() == 5 * 24 and label == 0
    # of the found ones as many as there are true ones
    assert made["found_a_T2w"].shape == (1, 5) and made["found_a_T2w"][0, 0] == low_row - 2
