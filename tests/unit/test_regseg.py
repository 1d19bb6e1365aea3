"""The stage regseg: pairs, poses, joint training and what comes out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.blocks import Plan, planned
from cohortex.errors import Refused, Skip
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.items import Image
from cohortex.models.folder import read_card
from cohortex.models.regseg import affine as poses
from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.deform import Prepared, labels_on, prepare, refine, to_mm
from cohortex.models.regseg.pair import names_of, pairs_of
from cohortex.models.regseg.register import register
from cohortex.models.regseg.similarity import Similarity
from cohortex.stages.regseg import load, regseg
from cohortex.training import regseg as training
from cohortex.training import regseg_data
from cohortex.training.loop import Clock
from cohortex.volume import Volume

SHIFT = np.array([7.0, -5.0, 4.0])


@pytest.fixture(scope="module")
def section(root) -> dict:
    found = yaml.safe_load((root / "config.yaml").read_text())["regseg"]
    default = found["default"] | {
        "weights": "model",
        "weights_otherwise": None,
        "working_spacing_mm": 6.0,
        "segment_spacing_mm": 5.0,
        "segment_network": {"name": "unet3d_small", "options": {"features": [4, 8]}},
        "network": {"name": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}},
    }
    default["training"] = default["training"] | {"steps": 2, "segment_steps": 2, "turn": 1, "rounds": 1, "crop": 16}
    default["deformable"] = default["deformable"] | {"refine_steps": 2}
    return {"default": default}


def head(modality: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An off-centre egg with two cores on 4 mm voxels: array, labels, affine; the CT is moved by SHIFT."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) * 4.0 for n in (40, 46, 42)], indexing="ij"))
    at = SHIFT.reshape(3, 1, 1, 1) if modality == "CT" else 0.0
    away = grid - np.array([80.0, 92.0, 84.0]).reshape(3, 1, 1, 1) - at
    outer = (away**2 / np.array([56.0, 72.0, 62.0]).reshape(3, 1, 1, 1) ** 2).sum(0) < 1
    inner = ((away - np.array([14.0, 20.0, 10.0]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 22**2
    front = ((away - np.array([-18.0, -30.0, 6.0]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 15**2
    labels = outer.astype(np.uint8) + inner + 2 * (front & ~inner)
    values = np.array([-1000.0, 20.0, 60.0, 90.0]) if modality == "CT" else np.array([0.0, 300.0, 120.0, 210.0])
    noise = 3.0 if modality == "CT" else 6.0
    array = values[labels] + noise * rng.standard_normal(labels.shape)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-80.0, -92.0, -84.0)
    return array.astype(np.float32), labels, affine


def thing(subject: str, modality: str, session: str = "", kind: str = "image", volume: Volume | None = None, **row: str) -> Image:
    name = "_".join(filter(None, [subject, session, modality])) + ("+labels" if kind == "labels" else "")
    role = "labels" if kind == "labels" else "image"
    return Image(name, subject, session, modality, kind, role, row.pop("body_part", "head"), row=row, opener=lambda: volume)


def subject_of(name: str, seed: int, split: str, labelled: bool) -> list[Image]:
    found = []
    for modality in ("T1w", "CT"):
        array, labels, affine = head(modality, seed)
        found.append(thing(name, modality, volume=Volume(array, affine, modality, "image", "head"), split=split))
        if labelled:
            found.append(thing(name, modality, kind="labels", volume=Volume(labels, affine, modality, "labels", "head"), split=split))
    return found


def moved(section, images) -> dict[str, str | None]:
    return {p.moving.id: p.fixed.id if p.fixed else None for p in pairs_of(images, section["default"]["pair"])}


def test_a_pair_that_is_learned_from_is_the_same_out_of_memory_and_in_blocks(section, tmp_path):
    images = subject_of("1", 1, "train", True)
    files = []
    for image in images:
        path = tmp_path / f"{image.id}.ozx"
        write_ozx(path, image.volume.with_data(image.volume.array(np.uint8 if image.kind == "labels" else np.float32)))
        files.append(replace(image, opener=lambda path=path: read_ozx(path)))
    made = []
    for scans, memory_mb in ((images, 1024), (files, 0)):
        with planned(Plan(memory_mb=memory_mb, scratch=tmp_path)):
            (pair,) = pairs_of([i for i in scans if i.kind == "image"], section["default"]["pair"])
            labels = {i.id.removesuffix("+labels"): i for i in scans if i.kind == "labels"}
            made.append(regseg_data._case(pair, labels, {"working_spacing_mm": 8.0, "segment_spacing_mm": 6.0}, "train", 0))
    for name, whole in vars(made[0]).items():
        blocked = getattr(made[1], name)
        assert np.array_equal(whole, blocked) if isinstance(whole, np.ndarray) else repr(whole) == repr(blocked), name
    assert made[0].labelled


def test_ct_goes_to_t1w_and_contrasts_to_t1w_of_their_session(section):
    images = [thing("1", "CT", "a"), thing("1", "T1w", "a"), thing("1", "T1w", "b"), thing("1", "FLAIR", "b"), thing("1", "FLAIR", "c")]
    assert moved(section, images) == {"1_a_CT": "1_a_T1w", "1_b_T1w": "1_a_T1w", "1_b_FLAIR": "1_b_T1w", "1_c_FLAIR": "1_b_FLAIR"}


def test_later_visits_go_to_the_first_by_number_not_by_letter(section):
    images = [thing("1", "T1w", s) for s in ("10", "9", "2")]
    assert moved(section, images) == {"1_10_T1w": "1_2_T1w", "1_9_T1w": "1_2_T1w"}


def test_ultrasound_prefers_t2w(section):
    images = [thing("1", m, body_part="prostate") for m in ("US", "T2w", "T1w")]
    assert moved(section, images) == {"1_US": "1_T2w", "1_T2w": "1_T1w"}


def test_the_column_pair_keeps_strangers_apart(section):
    images = [thing("1", "CT", "a", pair="x"), thing("1", "T1w", "a", pair="y"), thing("1", "T1w", "b", pair="x")]
    assert moved(section, images) == {"1_a_CT": "1_b_T1w"}


def test_another_body_part_is_no_partner(section):
    assert moved(section, [thing("1", "CT", body_part="chest"), thing("1", "T1w")]) == {}


def test_the_template_takes_an_affine():
    (pair,) = pairs_of([thing("1", "T1w")], [{"moving": ["T1w"], "fixed": "template"}])
    assert pair.fixed is None
    assert pair.freedom == "affine"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["T1w", "T2w", "CT", "FLAIR"]), st.sampled_from(["1", "2"])), unique=True, max_size=7))
def test_no_image_moves_twice_and_no_two_to_each_other(specs):
    rules = [{"moving": "any", "fixed": ["T1w", "T2w", "CT"]}, {"moving": "any", "fixed": "same"}]
    pairs = pairs_of([thing("s", m, s) for m, s in specs], rules)
    to = {p.moving.id: p.fixed.id for p in pairs if p.fixed}
    assert len(to) == len(pairs)
    for start in to:
        here, steps = start, 0
        while here in to:
            here, steps = to[here], steps + 1
            assert steps <= len(to)


def test_names_are_the_modality_or_tell_visits_apart():
    assert list(names_of([thing("1", "CT", "a"), thing("1", "T1w", "a"), thing("1", "T1w", "b")]).values()) == ["CT", "aT1w", "bT1w"]


@pytest.fixture(scope="module")
def template() -> tuple[np.ndarray, np.ndarray]:
    from cohortex.stages.regseg import _template

    volume, _ = _template()
    return grids.reduced(volume.array(), volume.affine, 3.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rigid_motion_of_the_mni_head_is_found_though_its_contrast_is_inverted(template, seed):
    array, affine = template
    rng = np.random.default_rng(seed)
    truth = np.eye(4)
    truth[:3, :3] = poses.rotation(rng.uniform(-15, 15, 3).tolist())
    truth[:3, 3] = rng.uniform(-20, 20, 3)
    lattice = grids.Grid((68, 80, 68), np.array([[3.0, 0, 0, -100], [0, 3.0, 0, -130], [0, 0, 3.0, -85], [0, 0, 0, 1]]))
    there = grids.resample(array, affine, lattice, np.linalg.inv(truth), outside=0.0)
    inverted = np.where(there > 15, 300 - there, 0) + rng.normal(0, 5, there.shape)
    found = poses.align(prepare(array, affine, "T1w").scan(), prepare(inverted.astype(np.float32), lattice.affine, "T2w").scan(), seed=seed)
    points = np.c_[rng.uniform(-60, 60, (50, 3)), np.ones(50)]
    assert np.linalg.norm((points @ found.matrix.T - points @ truth.T)[:, :3], axis=1).mean() < 1.0
    assert found.after > found.before


def test_an_image_that_is_aligned_stays(template):
    array, affine = template
    scan = prepare(array, affine, "T1w").scan()
    found = poses.align(scan, scan, seed=0)
    assert np.allclose(found.matrix, np.eye(4), atol=0.02)
    assert found.after >= found.before


def test_images_that_lie_together_already_are_no_reason_for_a_warning(template):
    array, affine = template
    wanted = {"affine": {"starts": ["header"]}, "deformable": {"method": "none", "scales": [[1, 1]]}, "working_spacing_mm": 6}
    prepared = prepare(array, affine, "T1w")
    pose = poses.align(prepared.scan(), prepared.scan(), "rigid", ["header"])
    assert pose.kept
    assert pose.confirmed
    assert register(prepared, prepared, "rigid", wanted).doubts == ()


@pytest.mark.parametrize(("shift_mm", "turn_deg", "small"), [(1.0, 1.0, True), (9.0, 0.5, False), (0.5, 11.0, False)])
def test_a_search_that_ends_far_from_the_headers_pose_does_not_confirm_it(template, shift_mm, turn_deg, small):
    scan = prepare(*template, "T1w").scan()
    middle = poses._middle(scan, np.mean)
    ended = np.eye(4)
    ended[:3, :3] = poses.rotation((turn_deg, 0, 0))
    ended[:3, 3] = middle - ended[:3, :3] @ middle + (shift_mm, 0, 0)
    assert poses._is_small(ended, scan) is small


def test_refinement_recovers_a_smooth_warp_and_invents_none(template):
    array, affine = template
    prepared: Prepared = prepare(array, affine, "T1w")
    box = prepared.box(4.0)
    image = torch.from_numpy(prepared.on(box))[None, None]
    mask = torch.from_numpy(prepared.body_on(box).astype(np.float32))[None, None]
    torch.manual_seed(0)
    truth = torch.nn.functional.interpolate(1.5 * torch.randn(1, 3, 3, 3, 3), size=box.shape, mode="trilinear", align_corners=True)
    from cohortex.models.regseg.warp import invert, warp

    moving = 1 - warp(image, invert(truth))
    inside = mask[0, 0] > 0
    found = refine(image, moving, mask, None, 15, [(1, 1), (1, 2)], 1.0)
    error = (found - truth)[0][:, inside].norm(dim=0).mean()
    assert float(error) < 0.4 * float(truth[0][:, inside].norm(dim=0).mean())
    still = refine(image, 1 - image, mask, None, 5, [(1, 1), (1, 2)], 1.0)
    assert float(still[0][:, inside].norm(dim=0).mean()) < 0.05


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(-3, 3)] * 3))
def test_resampling_by_whole_voxels_moves_them_exactly(shift):
    array = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    affine = np.diag([2.0, 3.0, 1.5, 1.0])
    matrix = np.eye(4)
    matrix[:3, 3] = np.array(shift) * (2.0, 3.0, 1.5)
    out = grids.resample(array, affine, grids.Grid(array.shape, affine), matrix, outside=0.0)
    padded = np.pad(array, 3)
    assert np.allclose(out, padded[tuple(slice(3 + s, 3 + s + n) for s, n in zip(shift, array.shape, strict=True))], atol=1e-5)


def test_labels_of_probabilities_are_the_best_class_and_background_beyond_the_box():
    soft = torch.zeros(3, 4, 4, 4)
    soft[0], soft[2, :2] = 0.4, 0.6
    box = grids.Grid((4, 4, 4), np.eye(4))
    big = grids.Grid((8, 4, 4), np.array([[1.0, 0, 0, -2], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]))
    assert labels_on(big, soft.numpy(), box)[:, 0, 0].tolist() == [0, 0, 2, 2, 0, 0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(2, 9))
def test_labels_and_images_are_those_of_interpolating_everything(seed, displaced, classes):
    """The compiled loops skip what cannot matter; PyTorch's grid_sample skips nothing."""
    from cohortex.models.regseg.affine import rotation

    torch.manual_seed(seed % 2**31)
    rng = np.random.default_rng(seed)
    soft = torch.softmax(4 * torch.nn.functional.interpolate(torch.randn(1, classes, 3, 3, 3), size=(7, 9, 8), mode="trilinear")[0], dim=0)
    box = grids.Grid((7, 9, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    affine, matrix = np.diag([1.3, -0.9, 1.7, 1.0]), np.eye(4)
    affine[:3, 3], matrix[:3, :3], matrix[:3, 3] = (-2, 14, -1), rotation(rng.uniform(-20, 20, 3).tolist()), rng.uniform(-2, 2, 3)
    grid = grids.Grid((13, 15, 9), affine)
    mm = rng.normal(0, 2, (3, 4, 5, 4)).astype(np.float32)
    moved = grids.Displacement(mm, grids.Grid((4, 5, 4), np.diag([5.0, 5.0, 5.0, 1.0]))) if displaced else None
    world = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    if moved is not None:
        field = by_torch(torch.from_numpy(mm), world / 5).transpose(1, 2, 3, 0)
        assert np.allclose(grids.field_on(grid, moved), field, atol=1e-4)
        world = world + field
    points = (world @ matrix[:3, :3].T + matrix[:3, 3]) / 2
    shares = by_torch(soft, points)
    inside = ((points >= -0.5) & (points <= np.array(box.shape) - 0.5)).all(axis=-1)
    ordered = np.sort(shares, axis=0)
    clear = (ordered[-1] - ordered[-2] > 1e-4) & (np.abs(np.abs(points - np.array([3, 4, 3.5])) - np.array([3.5, 4.5, 4])).min(-1) > 1e-4)
    found = labels_on(grid, soft.numpy(), box, matrix, moved)
    assert (found == shares.argmax(axis=0) * inside)[clear].all()
    image = grids.resample(soft[0].numpy(), box.affine, grid, matrix, moved)
    assert np.allclose(image, shares[0], atol=1e-4)


def by_torch(channels, points):
    from cohortex.models.regseg.warp import sample

    where = torch.from_numpy(np.moveaxis(points, -1, 0).astype(np.float32))
    return sample(channels[None].float(), where[None], exact=False)[0].numpy()


def test_a_displacement_in_voxels_becomes_millimetres():
    box = grids.Grid((4, 4, 4), np.diag([3.0, 3.0, 3.0, 1.0]))
    assert np.allclose(to_mm(torch.ones(1, 3, 4, 4, 4), box).mm, 3.0)


@pytest.fixture(scope="module")
def trained(section, tmp_path_factory):
    torch.set_num_threads(1)
    images = []
    for i, (split, labelled) in enumerate([("train", True), ("train", False), ("validation", True)]):
        images += subject_of(f"s{i}", i, split, labelled)
    folder = tmp_path_factory.mktemp("models") / "joint"
    training.train_regseg(images, section, 3, "cpu", folder)
    return images, folder


def test_training_leaves_one_folder_with_three_networks_and_whom_it_saw(trained):
    card = read_card(trained[1])
    assert set(card["parts"]) == {"register", "segment.T1w", "segment.CT"}
    assert card["subjects"] == {"train": ["s0", "s1"], "validation": ["s2"]}
    assert card["extra"]["labelled"] == ["s0", "s2"]
    assert {"dice_after", "dice_T1w", "dice_CT", "folding_percent"} <= {m["name"] for m in card["metrics"]}


def test_the_same_seed_trains_the_same_weights(trained, section, tmp_path):
    images, folder = trained
    training.train_regseg(images, section, 3, "cpu", tmp_path / "again")
    assert read_card(tmp_path / "again")["sha256"] == read_card(folder)["sha256"]


def test_gradients_reach_only_the_part_whose_turn_it_is(trained, section):
    images, _ = trained
    material = training.gather(images, section["default"], 3)
    nets = training._networks(section["default"], material, "cpu")
    weights = {"smooth": 1.0, "dice": 1.0, "consistency": 1.0}
    run = training.Run(material, nets, weights, Similarity("mind_ssc", [(1, 1)]), 16, 16, 2, 1e-3, "cpu", np.random.default_rng(0), Clock())
    parts = {"register": nets.register, **nets.segment}
    unlabelled = next(c for c in material.cases if not c.labelled)
    training.predict(run, [unlabelled])
    losses = {
        "register": lambda: sum(training.registration_loss(run, c) for c in run.split("train")),
        "T1w": lambda: training.segmentation_loss(run, nets.segment["T1w"]),
        "CT": lambda: training.segmentation_loss(run, nets.segment["CT"]),
    }
    for turn, loss in losses.items():
        for network in parts.values():
            network.zero_grad(set_to_none=True)
        before = nets.state()
        nets.freeze_all_but(parts[turn])
        loss().backward()
        reached = {n for n, network in parts.items() if any(p.grad is not None for p in network.parameters())}
        assert reached == {turn}
        # The running means of the frozen networks stay, too.
        after = nets.state()
        frozen = [k for k in before if not k.startswith("register." if turn == "register" else f"segment.{turn}.")]
        assert all(torch.equal(before[k], after[k]) for k in frozen)


def test_labels_of_training_pairs_beyond_the_first_so_many_are_left_aside_those_of_validation_are_not(section):
    pairs, labels = [], {}
    for i, split in enumerate(["train", "train", "validation", "train", "train"]):
        own = [thing(f"s{i}", modality, split=split) for modality in ("T1w", "CT")]
        pairs += pairs_of(own, section["default"]["pair"])
        # The first training pair has none.
        labels |= {image.id: image for image in own if i != 0}
    splits = regseg_data.splits_of(pairs)
    kept = {n: {i.split("_")[0] for i in regseg_data._at_most_labelled(pairs, labels, splits, n)} for n in (None, 1, 2, 9)}
    assert kept == {None: {"s1", "s2", "s3", "s4"}, 1: {"s1", "s2"}, 2: {"s1", "s2", "s3"}, 9: {"s1", "s2", "s3", "s4"}}


def test_training_without_labels_is_refused(section):
    with pytest.raises(Refused, match="labels"):
        training.gather(subject_of("a", 0, "train", False), section["default"], 0)


def test_training_without_pairs_is_refused(section):
    with pytest.raises(Refused, match="pair"):
        training.gather(subject_of("a", 0, "train", True)[:2], section["default"], 0)


def test_a_pair_gives_labels_transform_and_images_in_both_spaces(trained, section):
    model = load(section, {"model": trained[1]}, "cpu")
    images = subject_of("new", 9, "test", True)
    made = regseg(images, section, model, 5)
    by_id = {m.of + (f"+{m.tag}" if m.tag else ""): m for m in made}
    expected = {"new_T1w", "new_CT", "new_T1w+seg", "new_CT+seg", "new_CT+warped", "new_CT+warpedseg", "new_T1w+CTseg", "new_CT+affine"}
    assert expected <= set(by_id)
    assert set(by_id) <= expected | {"new_CT+field", "new_CT+warpedlabels"}
    assert by_id["new_CT+warped"].entities == {"space": "T1w", "desc": "warped"}
    assert by_id["new_CT+affine"].entities == {"from": "CT", "to": "T1w"}
    assert np.allclose(by_id["new_CT+affine"].content[:3, 3], SHIFT, atol=2.0)
    measures = by_id["new_CT"].measures
    assert measures["mi_after"] > measures["mi_before"]
    assert measures["labels_dice_after"] > max(0.9, measures["labels_dice_before"])
    assert {"checkerboard_axial_before", "checkerboard_coronal_after", "checkerboard_sagittal_after"} <= set(by_id["new_CT"].previews)
    assert all(p.dtype == np.uint8 for p in by_id["new_CT"].previews.values())
    again = regseg(images, section, model, 5)
    assert [m.content.sha256() for m in again if isinstance(m.content, Volume)] == [
        m.content.sha256() for m in made if isinstance(m.content, Volume)
    ]


def test_a_pair_without_a_model_still_gets_its_affine(section):
    images = [
        replace(i, modality="T2w", id=i.id.replace("CT", "T2w")) if i.modality == "CT" else i for i in subject_of("b", 1, "test", False)
    ]
    made = regseg(images, section, {}, 5)
    # And a field where Gauss-Newton finds one that mutual information confirms.
    assert {m.tag for m in made if m.tag} - {"field"} == {"warped", "affine"}
    assert all(m.status == "ok" for m in made)


def test_a_subject_with_nothing_to_pair_and_no_model_is_skipped(section):
    with pytest.raises(Skip) as skip:
        regseg(subject_of("c", 1, "test", False)[:1], section, {}, 5)
    assert skip.value.code == "no-pair"


def test_the_model_is_not_used_on_an_unknown_body_part_unless_told(trained, section):
    model = load(section, {"model": trained[1]}, "cpu")
    (image,) = [replace(i, body_part="") for i in subject_of("d", 1, "test", False)][:1]
    unknown = replace(image.volume, body_part="")
    image = replace(image, opener=lambda: unknown)
    with pytest.raises(Skip):
        regseg([image], section, model, 5)
    told = {"default": section["default"] | {"assume_body_part": "head"}}
    assert [m.tag for m in regseg([image], told, model, 5)] == ["seg", ""]


def test_the_shipped_settings_hold_to_their_schema(root):
    import json

    import jsonschema

    schema = json.loads((root / "schemas" / "stages" / "regseg.json").read_text())
    for settings_of_modality in yaml.safe_load((root / "config.yaml").read_text())["regseg"].values():
        jsonschema.Draft202012Validator(schema).validate(settings_of_modality)
