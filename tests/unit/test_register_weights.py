"""A registration network by itself in the workflow: what it is trained on, what is refused, for which pairs the stage uses it."""

from contextlib import suppress
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import yaml

from cohortex import run
from cohortex.cohort import make_cohort
from cohortex.config import check_config, resolve_weights, training_section
from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.models.folder import check_registering, read_card, read_model, write_model
from cohortex.models.regseg.grid import Grid
from cohortex.report.methods import _saw
from cohortex.report.records import Row
from cohortex.report.training import trained as shown
from cohortex.resources import Load, Part, ask_training, method_of
from cohortex.stages.regseg import load, regseg
from cohortex.training import checkpoint, register
from cohortex.training.register import train_register
from cohortex.training.register_data import ImagePair, pair_sampler
from cohortex.training.register_pairs import gather, grown
from cohortex.training.register_settings import check_register, pairs_to_train, register_training
from tests.unit.test_regseg import subject_of, thing
from tests.workflow import write_cohort

TINY = {"network": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}, "spacing_mm": 12.0, "steps": 2}
LOAD = Load((Part("T1w", 10, 50.0, 500.0),), 100.0)


@pytest.fixture(scope="module")
def shipped(root) -> dict:
    return yaml.safe_load((root / "config.yaml").read_text())


def regseg_of(shipped, training=None, **changes) -> dict:
    """Return the section regseg with changes of its default."""
    default = shipped["regseg"]["default"]
    return {
        "default": {
            **default,
            "weights": None,
            "weights_otherwise": None,
            **changes,
            "register_training": {**default["register_training"], **(training or {})},
        }
    }


def trained_section(shipped, training=None, **modalities) -> dict:
    own = {} if modalities else {"register_weights": "train"}
    return training_section({"regseg": {**regseg_of(shipped, training, **own), **modalities}}, "register")


def without(images, subject, modality):
    return [i for i in images if (i.subject, i.modality) != (subject, modality)]


# --- what is trained ---------------------------------------------------------------------------------------------


def test_the_training_reads_the_rules_and_what_is_said_of_it(shipped):
    section = trained_section(shipped, {"rate": 2e-3})["default"]
    assert section["network"] == {"name": "voxelmorph_diffeomorphic", "options": {}}
    assert section["training"] == {"steps": 2000, "minutes": 60, "rate": 2e-3}, "null is not said"
    assert (section["spacing_mm"], section["pairs"], section["pair"]) == (3, 60, shipped["regseg"]["default"]["pair"])
    assert "modality" not in section
    assert trained_section(shipped, CT={"register_weights": "train"})["default"]["modality"] == "CT"
    with pytest.raises(Refused, match="register_weights: train stands at CT, US, and one network is trained"):
        trained_section(shipped, CT={"register_weights": "train"}, US={"register_weights": "train"})


def test_the_models_of_the_three_trainings_are_three(tmp_path):
    section = {"default": {"weights": "train", "segment_weights": "train", "register_weights": "train"}}
    assert resolve_weights(section, "regseg", "w", tmp_path) == {
        "train": "w/models/regseg",
        "train segment": "w/models/segment",
        "train register": "w/models/register",
    }


def test_the_kind_that_most_pairs_have_is_trained_or_that_of_the_modality_and_none_that_is_only_moved(shipped):
    images = [i for name in "123" for i in subject_of(name, 1, "train", False)]
    images += [thing(name, m, session="2", split="train") for name in "12" for m in ("T1w", "T2w")]
    rules = shipped["regseg"]["default"]["pair"]
    assert [p.moving.id for p in pairs_to_train(images, rules)] == ["1_CT", "2_CT", "3_CT"]
    assert [p.moving.id for p in pairs_to_train(images, rules, "T2w")] == ["1_2_T2w", "2_2_T2w"]
    with pytest.raises(Refused, match="with a moving T1w by the rules"):
        pairs_to_train(images, rules, "T1w")
    with pytest.raises(Refused, match="training subjects have none"):
        pairs_to_train([replace(i, row={"split": "validation"}) for i in images], rules)


def test_two_modalities_are_compared_by_self_similarities_unless_something_is_said():
    def objective(name, wanted, unalike=True):
        return register_training(name, wanted, unalike)["objective"]

    assert objective("voxelmorph", {}) == {"name": "images_alike", "similarity": "mind", "smooth": 50.0}
    assert objective("voxelmorph", {}, unalike=False) == {"name": "images_alike"}
    assert objective("voxelmorph_labels", {"objective": {"smooth": 9.0}}) == {
        "name": "images_alike",
        "similarity": "mind",
        "smooth": 9.0,
        "labels": 1.0,
    }
    assert objective("displacement_simulated", {}) == {"name": "known_displacement"}
    assert objective("icnet", {"objective": "images_alike"}) == {"name": "images_alike"}


def test_pairs_of_heads_of_several_sizes_lie_on_grids_of_one_shape(shipped):
    settings = trained_section(shipped, TINY)["default"]
    images = subject_of("1", 1, "train", True)
    # a head that is cut above: half as high
    low = [replace(i, id=i.id.replace("1_", "2_"), subject="2", row={"split": "validation"}) for i in images]
    low = [replace(i, opener=lambda v=i.volume: v.with_data(v.array(np.float32)[:, :, :24], v.affine, {"step": "x"})) for i in low]
    found = gather([*images, *without(low, "2", "")], settings, 0)
    ((pair,), (cut,)) = found.train, found.validation
    assert pair.fixed.shape == cut.fixed.shape == pair.moving.shape
    assert (pair.modalities, pair.subject, cut.subject, found.body_part) == (("T1w", "CT"), "1", "2", "head")
    assert pair.labels is not None
    inside = (pair.labels[0] > 0) & (pair.labels[1] > 0)
    assert inside.sum() > 0.8 * (pair.labels[0] > 0).sum(), "the affine start brings them together"


def test_a_grid_grows_on_all_sides():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (10.0, 20.0, 30.0)
    larger = grown(Grid((4, 6, 8), affine), (6, 9, 8))
    assert larger.shape == (6, 9, 8)
    assert larger.affine[:3, 3].tolist() == [8.0, 18.0, 30.0]
    assert np.array_equal(larger.affine[:3, :3], affine[:3, :3])


def test_a_batch_may_have_pairs_with_and_without_labels():
    rng = np.random.default_rng(0)
    images = rng.random((2, 8, 8, 8)).astype(np.float32)
    labels = np.ones((8, 8, 8), np.uint8)
    pairs = [ImagePair(images[0], images[1], (labels, labels)), ImagePair(images[0], images[1])]
    training = register_training("voxelmorph_labels", {})
    _, (fixed, moving, _) = pair_sampler(pairs, training, [1, 2])(np.random.default_rng(1), 8)
    assert fixed.shape == moving.shape == (8, 2, 8, 8, 8)
    assert {float(x.sum()) for x in fixed} == {512.0, 0.0}


# --- what is refused before any job ------------------------------------------------------------------------------


def rows_of(*modalities, roles=("image",), split="train"):
    return [
        {"image": f"1_{m}" + ("+labels" if role == "labels" else ""), "subject": "1", "session": "", "modality": m, "body_part": ""}
        | {"role": role, "pair": "", "split": split}
        for m in modalities
        for role in roles
    ]


@pytest.mark.parametrize(
    ("training", "rows", "words"),
    [
        ({"network": "voxelmorf"}, rows_of("T1w", "CT"), "no network 'voxelmorf'"),
        ({"options": {"deep": 3}}, rows_of("T1w", "CT"), "no option 'deep'"),
        ({"objective": "squared_error"}, rows_of("T1w", "CT"), "not for networks that register"),
        ({"objective": "known_displacement"}, rows_of("T1w", "CT"), "set examples to classical or simulated"),
        ({}, rows_of("T1w"), "training subjects have none by the rules"),
        ({}, rows_of("T1w", "CT", split="test"), "training subjects have none by the rules"),
        ({"network": "voxelmorph_labels"}, rows_of("T1w", "CT"), "weighs labels, and no training pair"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_job(shipped, training, rows, words):
    with pytest.raises(Refused, match=words):
        check_register(trained_section(shipped, training), rows)


def test_what_can_be_trained_is_not_refused(shipped):
    check_register(trained_section(shipped), rows_of("T1w", "CT"))
    check_register(trained_section(shipped, {"network": "voxelmorph_labels"}), rows_of("T1w", "CT", roles=("image", "labels")))
    # files whose modality stands in their headers
    check_register(trained_section(shipped), rows_of("", ""))


def test_a_cohort_without_pairs_is_refused_by_the_preflight(shipped, tmp_path):
    table = write_cohort(tmp_path / "data", ["1", "2"])
    text = table.read_text().splitlines()
    table.write_text("\n".join([f"{text[0]}\tsplit", *(f"{line}\ttrain" for line in text[1:])]) + "\n")
    config = {"input": str(table), "output": str(tmp_path / "results"), "work": str(tmp_path / "work")}
    config = check_config({**config, "stages": ["acquire", "regseg", "export"], "regseg": regseg_of(shipped, register_weights="train")})
    make_cohort(config)
    with pytest.raises(Refused, match="register_weights: train needs pairs"):
        run.preflight(config, str(tmp_path))


def test_a_training_asks_by_its_voxels_and_steps_and_for_the_stage_a_network_deforms(shipped):
    def asked(**training):
        return ask_training("register", {**shipped, "regseg": regseg_of(shipped, training, register_weights="train")}, LOAD)

    assert asked(steps=20, spacing_mm=6).seconds < asked(steps=20).seconds < asked(steps=200, minutes=600).seconds
    assert asked().seconds < 2 * 3600, "the minutes bound it"
    settings = regseg_of(shipped, register_weights="train")["default"]
    assert method_of("regseg", settings, "CT") == ("network", 1.0)
    assert method_of("regseg", {**settings, "register_weights": None}, "CT") == ("instance", 1.0)


# --- the model, and where the stage uses it ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(shipped, tmp_path_factory):
    """The folder of a network that learned for two steps from one pair, another pair validating it."""
    folder = tmp_path_factory.mktemp("trained") / "m"
    train_register(two_subjects(), trained_section(shipped, TINY), 3, "cpu", folder)
    return folder


def two_subjects():
    return [i for name, split in (("1", "train"), ("2", "validation")) for i in subject_of(name, int(name), split, True)]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A model folder with a fresh registration network for all modalities."""
    torch.manual_seed(0)
    network = registry.build("regseg", "voxelmorph_small", **TINY["options"])
    parts = {"register": {"network": "voxelmorph_small", "options": TINY["options"]}}
    card = {"name": "joint", "task": "regseg", "network": "voxelmorph_small", "options": TINY["options"], "parts": parts, "recipe": {}}
    card |= {
        "modality": ["any"],
        "body_part": ["any"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.1, "max": 20.0},
        "seed": 0,
        "metrics": [],
    }
    card |= {"data": "none", "intended_use": "a test", "limits": "all"}
    card |= {"extra": {"fixed": "any", "moving": "any", "working_spacing_mm": 12.0, "segment_spacing_mm": 8.0}}
    folder = tmp_path_factory.mktemp("joint") / "m"
    write_model(folder, card, {f"register.{name}": value for name, value in network.state_dict().items()})
    return folder


def test_the_card_says_what_it_is_for_and_the_report_has_its_curves(trained):
    card = read_card(trained)
    assert card["name"] == "voxelmorph_small-head-T1w-CT"
    assert card["subjects"] == {"train": ["1"], "validation": ["2"]}
    assert (card["body_part"], card["modality"]) == (["head"], ["CT", "T1w"])
    assert card["extra"] == {"fixed": "T1w", "moving": "CT", "working_spacing_mm": 12.0}
    assert card["recipe"]["objective"]["similarity"] == "mind"
    assert {"dice_before", "dice_after", "folding_percent", "mind_before", "mind_after"} <= {m["name"] for m in card["metrics"]}
    assert [title for title, _ in shown(card, {}).charts] == ["Loss"]
    assert not trained.with_name("m.checkpoint").exists()


def test_a_training_of_a_cohort_that_failed_goes_on_at_its_checkpoint(shipped, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY_S", 0)
    drawn = []

    def failing(*given):
        def draw(rng, count):
            drawn.append(1)
            if len(drawn) == 2:
                raise OSError
            return pair_sampler(*given)(rng, count)

        return draw

    monkeypatch.setattr(register, "pair_sampler", failing)
    with suppress(OSError):
        train_register(two_subjects(), trained_section(shipped, TINY), 3, "cpu", tmp_path / "m")
    train_register(two_subjects(), trained_section(shipped, TINY), 3, "cpu", tmp_path / "m")
    assert len(drawn) == 2 + 1
    (again, one), (_, other) = read_model(tmp_path / "m"), read_model(trained)
    assert again["recipe"]["run"]["resumed"] == 1
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def word_of(shipped, folders, moving="CT", body_part="head", deformable=None, **settings):
    """Return the measures of a pair of a test subject."""
    default = {
        **shipped["regseg"]["default"],
        "weights": None,
        "weights_otherwise": None,
        "affine": {"method": "none", "starts": ["header"]},
        **settings,
    }
    default["deformable"] = {**default["deformable"], "otherwise": "none", "refine_steps": 0, **(deformable or {})}
    images = [replace(i, body_part=body_part) for i in subject_of("9", 9, "test", False)]
    images = [replace(i, modality=moving, id=f"9_{moving}") if i.modality == "CT" else i for i in images]
    section = {"default": default}
    made = regseg(images, section, load(section, folders, "cpu"), 5)
    return next(m for m in made if m.of == f"9_{moving}" and not m.tag).measures


def test_the_stage_deforms_by_it_before_the_joint_model_where_it_is_for_the_pair(shipped, trained, joint):
    folders = {"mine": trained, "joint": joint}
    both = {"weights": "joint", "register_weights": "mine"}
    name = read_card(trained)["name"]
    found = word_of(shipped, folders, register_weights="mine")
    assert (found["deformed_by"], found["register_model"]) == ("network", name)
    found = word_of(shipped, folders, **both)
    assert (found["deformed_by"], found["register_model"]) == ("network", name)
    # another modality, another body part: the joint model's
    for other in ({"moving": "T2w"}, {"body_part": "knee"}):
        found = word_of(shipped, folders, **other, **both)
        assert found["deformed_by"] == "network"
        assert "register_model" not in found
    # and without one what `otherwise` says
    assert "deformed_by" not in word_of(shipped, folders, body_part="knee", register_weights="mine")
    found = word_of(shipped, folders, register_weights="mine", deformable={"method": "gauss_newton", "gauss_newton": {"spacing_mm": 8}})
    assert found["deformed_by"] == "gauss_newton"
    assert "register_model" not in found


def test_what_the_workflow_trained_is_used_by_its_own_name_and_gauss_newton_may_finish_it(shipped, trained):
    folders = {"train register": trained}
    deformable = {"refine_with": "gauss_newton", "gauss_newton": {"spacing_mm": 8}}
    found = word_of(shipped, folders, register_weights="train", deformable=deformable)
    assert found["deformed_by"] == "network+gauss_newton"
    assert found["register_model"] == read_card(trained)["name"]


def test_one_folder_may_stand_under_both_keys(shipped, trained):
    found = word_of(shipped, {"mine": trained}, weights="mine", register_weights="mine")
    assert found["register_model"] == read_card(trained)["name"]


def test_a_network_of_the_demo_is_for_no_other_heads(shipped, trained, tmp_path):
    card = read_card(trained)
    images = [replace(i, row={**i.row, "site": "demo-simulator"}) for i in subject_of("1", 1, "train", False)]
    train_register(images, trained_section(shipped, TINY), 3, "cpu", tmp_path / "demo")
    told = read_card(tmp_path / "demo")
    assert (told["simulated"], told["extra"]["cohort"]) == (True, "demo")
    assert not card["simulated"]
    assert "deformed_by" not in word_of(shipped, {"demo": tmp_path / "demo"}, register_weights="demo")


def test_a_model_that_registers_nothing_is_refused(trained, tmp_path):
    card = read_card(trained)
    wrong = {**{k: v for k, v in card.items() if k not in ("parts", "sha256")}, "task": "segment", "network": "unet", "options": {}}
    write_model(tmp_path / "m", wrong, {"a": np.zeros(2, np.float32)})
    with pytest.raises(Refused, match="stands under register_weights; name a network that registers"):
        check_registering({"default": {"register_weights": "m"}}, {"m": tmp_path / "m"})
    assert check_registering({"default": {"register_weights": "train"}}, {}) == {}


def test_the_report_credits_the_network_that_deformed():
    measures = {"deformation": "kept", "deformed_by": "network", "register_model": "mine", "model": "labels"}
    row = Row(**{**{each.name: "" for each in fields(Row)}, "measures": measures})
    assert [name for name in ("mine", "labels", "joint") if _saw(row, name)] == ["mine", "labels"]
