"""The stage regseg: models for any contrast, segmentations trained by themselves, and what is said of what cannot be trusted."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from cohortex.errors import BadInput, Refused
from cohortex.models import registry
from cohortex.models.folder import read_card, read_model, write_model
from cohortex.models.regseg import affine as affines
from cohortex.models.regseg import tissues
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.pair import pairs_of, without_partner
from cohortex.models.regseg.quality import FEATURES
from cohortex.stages.regseg import Joint, load, regseg
from cohortex.stages.regseg_models import Subject
from cohortex.training.segment import train_segment
from cohortex.volume import Volume
from tests.unit.test_regseg import head, subject_of, thing

CLASSES = ["background", "skin", "core", "front"]
SMALL = {"features": [4, 8], "channels": 1, "classes": 4}


@pytest.fixture(scope="module")
def section(root) -> dict:
    default = yaml.safe_load((root / "config.yaml").read_text())["regseg"]["default"]
    default |= {"weights": None, "weights_otherwise": None, "affine": {"method": "none", "starts": ["header"]}, "working_spacing_mm": 8.0}
    default["deformable"] = {**default["deformable"], "otherwise": "none", "refine_steps": 0, "scales": [[1, 1]]}
    return {"default": default}


def with_settings(section, **changes):
    return {"default": {**section["default"], **changes}}


def card(task: str, **more) -> dict:
    common = {"name": "tiny", "task": task, "body_part": ["any"], "dimensions": [3], "spacing_mm": {"min": 0.1, "max": 20.0}, "recipe": {}}
    return {**common, "data": "none", "seed": 0, "metrics": [], "intended_use": "a test", "limits": "all", "classes": CLASSES, **more}


@pytest.fixture(scope="module")
def any_contrast(tmp_path_factory):
    """A folder with one segmentation and one registration for every modality, of fresh networks."""
    torch.manual_seed(0)
    options = {"encoder": [4, 4], "decoder": [4, 4]}
    networks = {
        "register": registry.build("regseg", "voxelmorph_small", **options),
        "segment.any": registry.build("segment", "unet3d_small", **SMALL),
    }
    parts = {"register": {"network": "voxelmorph_small", "options": options}, "segment.any": {"network": "unet3d_small", "options": SMALL}}
    extra = {"fixed": "any", "moving": "any", "working_spacing_mm": 12.0, "segment_spacing_mm": 8.0}
    told = card("regseg", network="voxelmorph_small", options=options, parts=parts, modality=["any"], extra=extra)
    folder = tmp_path_factory.mktemp("models") / "any_contrast"
    write_model(folder, told, {f"{part}.{k}": v for part, n in networks.items() for k, v in n.state_dict().items()})
    return folder


def as_t2w(images):
    """Return the images of a subject with another modality than T1w and CT in the place of the CT."""
    return [replace(i, modality="T2w", id=i.id.replace("CT", "T2w")) if i.modality == "CT" else i for i in images]


def words_of(made):
    return {m.of: m for m in made if not m.tag}


def test_a_model_for_any_contrast_labels_and_registers_modalities_that_it_does_not_name(any_contrast, section):
    wanted = with_settings(section, weights="any")
    model = load(wanted, {"any": any_contrast}, "cpu")
    made = regseg(as_t2w(subject_of("1", 1, "test", False)), wanted, model, 5)
    assert {"1_T1w+seg", "1_T2w+seg", "1_T2w+warped"} <= {f"{m.of}+{m.tag}" for m in made}
    word = words_of(made)["1_T2w"]
    assert word.measures["deformed_by"] == "network"
    assert word.measures["model"] == "tiny"
    assert 0 < word.measures["uncertainty"] <= 1
    assert any(name.startswith("uncertainty_") for name in word.measures)


def test_looking_again_says_how_much_stays_and_writes_the_map(any_contrast, section):
    wanted = with_settings(section, weights="any", uncertainty={"samples": 2, "map": True})
    model, images = load(wanted, {"any": any_contrast}, "cpu"), subject_of("1", 1, "test", False)
    first, again = regseg(images, wanted, model, 5), regseg(images[:1], wanted, model, 5)
    plain = regseg(images[:1], with_settings(section, weights="any"), model, 5)
    by_id = {f"{m.of}+{m.tag}": m for m in first}
    word = words_of(first)["1_T1w"]
    assert 0 < word.measures["agreement"] <= 1
    assert word.measures["variance"] > 0
    assert words_of(again)["1_T1w"].measures == word.measures
    volume = by_id["1_T1w+uncertainty"].content
    assert volume.shape == images[0].volume.shape
    assert 0 <= volume.array().min() < volume.array().max() <= 1
    pictures = word.previews
    assert pictures["unsure_labels_axial"].shape[2] == 3
    assert by_id["1_T1w+seg"].content.sha256() == next(m for m in plain if m.of == "1_T1w" and m.tag == "seg").content.sha256()
    moved = words_of(first)["1_CT"].measures
    assert moved["spread_mm"] >= 0


LABELS = {"1": "outer", "2": "core", "3": "front"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of two networks that learned for a step or two from T1w images, one of three and one of two dimensions."""
    folder = tmp_path_factory.mktemp("trained")
    images = [i for k, split in enumerate(["train", "validation"]) for i in subject_of(f"{k}", k, split, True) if i.modality == "T1w"]
    wanted = {
        "planned_unet": ([48, 48, 48], {"features": [4, 6], "kernels": [], "strides": []}),
        "unet": ([32, 32], {"features": [4, 8], "valid": False}),
    }
    for network, (patch, options) in wanted.items():
        training = {"steps": 1, "batch": 1, "patch": patch, "options": options}
        train_segment(images, {"default": {"network": network, "labels": LABELS, "training": training}}, 1, "cpu", folder / network)
    return folder


@pytest.mark.parametrize("network", ["planned_unet", "unet"])
def test_a_segmentation_trained_by_itself_labels_by_one_line_of_the_configuration(section, trained, network):
    wanted = with_settings(section, segment_weights="mine")
    made = regseg(subject_of("9", 9, "test", False)[:1], wanted, load(wanted, {"mine": trained / network}, "cpu"), 5)
    (seg,) = [m for m in made if m.tag == "seg"]
    assert seg.of == "9_T1w"
    assert seg.content.shape == (40, 46, 42)
    assert seg.content.history[-1]["label_names"] == LABELS
    assert words_of(made)["9_T1w"].measures["model"] == read_card(trained / network)["name"]


def test_where_a_single_segmentation_is_not_for_an_image_the_joint_model_labels_it(any_contrast, section, trained):
    wanted = with_settings(section, weights="any", segment_weights="mine")
    model = load(wanted, {"any": any_contrast, "mine": trained / "planned_unet"}, "cpu")
    words = words_of(regseg(subject_of("9", 9, "test", False), wanted, model, 5))
    assert words["9_T1w"].measures["model"].startswith("segment-T1w")
    assert words["9_CT"].measures["model"] == "tiny"
    # Label 1 of the one is not that of the other.
    assert "dice_after" not in words["9_CT"].measures


def test_a_joint_model_under_segment_weights_is_refused(any_contrast, section):
    with pytest.raises(Refused, match="segment_weights"):
        load(with_settings(section, segment_weights="any"), {"any": any_contrast}, "cpu")


class Painter(torch.nn.Module):
    """Logits by intensity, as sure as it is told: a segmentation that needs no training."""

    multiple, halo = 1, 0

    def __init__(self, levels, sharpness=60.0):
        super().__init__()
        self.levels, self.sharpness = torch.tensor(levels), sharpness

    def forward(self, x):
        return -self.sharpness * (x - self.levels.reshape(1, -1, 1, 1, 1)).abs()


class Mover(torch.nn.Module):
    """The displacement that it is told, in voxels."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, pair):
        return self.flow(pair[:, :1])


def joint(segment=None, flow=None, **extra) -> Joint:
    known = {"fixed": "any", "moving": "any", "working_spacing_mm": 8.0, "segment_spacing_mm": 4.0, **extra}
    return Joint(card("regseg", network="x", modality=["any"], extra=known), Mover(flow or torch.zeros_like), segment or {}, "cpu")


def two_t1w(second: np.ndarray, affine: np.ndarray, shift_mm=(0.0, 0.0, 0.0)):
    """Return a T1w and, as T2w of the same contrast, an array in another place."""
    array, _, own = head("T1w", 3)
    moved = affine.copy()
    moved[:3, 3] += shift_mm
    return [
        thing("1", "T1w", volume=Volume(array, own, "T1w", "image", "head")),
        thing("1", "T2w", volume=Volume(second, moved, "T2w", "image", "head")),
    ]


def test_images_that_lie_apart_give_a_warning_and_no_empty_image(section):
    array, _, affine = head("T1w", 4)
    made = regseg(two_t1w(array, affine, (900.0, 0, 0)), section, {}, 5)
    word = words_of(made)["1_T2w"]
    assert (word.status, word.code) == ("warned", "no-overlap")
    assert word.measures["covered_percent"] == 0
    assert [m.tag for m in made] == ["", ""]


def test_headers_that_lie_apart_are_no_matter_where_the_search_finds_the_place(section):
    array, _, affine = head("T1w", 4)
    wanted = with_settings(section, affine={"method": "auto", "starts": ["header", "masses"]})
    made = regseg(two_t1w(array, affine, (900.0, 0, 0)), wanted, {}, 5)
    assert words_of(made)["1_T2w"].status == "ok"
    assert {m.tag for m in made} == {"warped", "affine", ""}


def test_a_small_field_of_view_is_told(section):
    array, _, affine = head("T1w", 4)
    offset = affine.copy()
    offset[:3, 3] += affine[:3, :3] @ (0, 0, 14)
    made = regseg(two_t1w(array[:, :, 14:24], offset), section, {}, 5)
    word = words_of(made)["1_T2w"]
    assert (word.status, word.code) == ("warned", "partial-overlap")
    assert 5 < word.measures["covered_percent"] < 50
    assert "warped" in {m.tag for m in made}


@pytest.mark.parametrize(("flipped", "method"), [(True, "auto"), (False, "auto"), (True, "affine")])
def test_an_image_with_left_and_right_exchanged_is_told(section, flipped, method):
    images = subject_of("1", 5, "test", False)
    ct = images[1].volume
    turned = replace(images[1], opener=lambda: ct.with_data(ct.array()[::-1].copy() if flipped else ct.array(), ct.affine, {"step": "x"}))
    wanted = with_settings(section, affine={"method": method, "starts": ["header", "masses"]})
    word = words_of(regseg([images[0], turned], wanted, {}, 5))["1_CT"]
    assert (word.status, word.code) == (("warned", "left-right-flipped") if flipped else ("ok", ""))


def test_the_mirrored_search_begins_at_a_pose_with_scales_too():
    array, _, affine = head("T1w", 5)
    fixed = prepare(array, affine, "T1w").scan()
    larger = np.diag([1.03, 0.97, 1.02, 1.0])
    moving = prepare(array[::-1].copy(), larger @ affine, "T1w").scan()
    as_is = affines.given(fixed, moving, larger)
    mirrored = affines.mirrored_information(fixed, moving, replace(as_is, after=1e-3))
    assert mirrored > as_is.after * (1 + affines.MIRROR_MARGIN)


def folding(image):
    """Move by one voxel along x, which is right, and back and forth within the body, which no picture of it shows."""
    flow = torch.zeros(1, 3, *image.shape[2:])
    flow[:, 0] = 1.0
    middle = [n // 2 for n in image.shape[2:]]
    region = (0, 0, *(slice(m - 3, m + 3) for m in middle))
    flow[region] += 6.0 * torch.tensor([1.0, -1.0] * 3).reshape(-1, 1, 1)
    return flow


def even(image):
    flow = torch.zeros(1, 3, *image.shape[2:])
    flow[:, 0] = 1.0
    return flow


@pytest.mark.parametrize(("flow", "deformation"), [(folding, "folded"), (even, "kept")])
def test_a_deformation_that_folds_is_left_out_and_told(section, flow, deformation):
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    at = np.stack(np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij"))
    egg = 100.0 * ((at / np.array([18.0, 20, 17]).reshape(3, 1, 1, 1)) ** 2).sum(0) ** 0.5
    array = np.where(egg < 100, 100 + np.where(egg < 55, 55, egg), 0).astype(np.float32)
    fixed = thing("1", "T1w", volume=Volume(array, affine, "T1w", "image", "head"))
    shifted = affine.copy()
    shifted[0, 3] = 8.0
    moving = thing("1", "T2w", volume=Volume(array, shifted, "T2w", "image", "head"))
    wanted = with_settings(section, weights="model")
    made = regseg([fixed, moving], wanted, {"model": joint(flow=flow)}, 5)
    word = words_of(made)["1_T2w"]
    assert word.measures["deformation"] == deformation, word.measures
    assert (word.code == "deformation-folded") is (deformation == "folded")
    assert ("field" in {m.tag for m in made}) is (deformation == "kept")
    if deformation == "kept":
        assert word.measures["inverse_error_mm"] < 0.1


def test_labels_of_nothing_but_background_are_told(section):
    nothing = Painter([0.5, 9.0, 9.0, 9.0])
    wanted = with_settings(section, weights="model")
    made = regseg(subject_of("1", 1, "test", False)[:1], wanted, {"model": joint({"any": nothing})}, 5)
    word = words_of(made)["1_T1w"]
    assert (word.status, word.code) == ("warned", "labels-empty")
    assert "uncertainty" not in word.measures


def test_a_missing_partner_is_listed_or_replaced_by_the_template(section):
    images, rules = [thing("1", "CT")], section["default"]["pair"]
    assert pairs_of(images, rules) == []
    assert without_partner(images, rules, []) == {"1_CT": "T1w"}
    (pair,) = pairs_of(images, rules, "template")
    assert (pair.moving.id, pair.fixed, pair.freedom) == ("1_CT", None, "affine")
    with_partner = [*images, thing("1", "T1w")]
    assert [p.fixed.id for p in pairs_of(with_partner, rules, "template") if p.fixed] == ["1_T1w"]
    labelled = regseg(
        subject_of("1", 1, "test", False)[1:],
        with_settings(section, weights="model"),
        {"model": joint({"any": Painter([0.0, 0.5, 0.7, 0.9])})},
        5,
    )
    word = words_of(labelled)["1_CT"]
    assert (word.status, word.code) == ("ok", "no-partner")
    assert "no T1w" in word.reason


def test_labels_of_the_user_that_are_empty_strange_or_elsewhere_are_told(section):
    images = subject_of("1", 1, "test", True)

    def relabelled(index, change):
        image = images[index]
        volume = image.volume.with_data(change(image.volume.array(np.uint8)), image.volume.affine, {"step": "x"})
        return [*images[:index], replace(image, opener=lambda: volume), *images[index + 1 :]]

    wanted = with_settings(section, affine={"method": "centres", "starts": ["header"]})
    word = words_of(regseg(relabelled(1, np.zeros_like), wanted, {}, 5))["1_T1w"]
    assert (word.status, word.code) == ("warned", "user-labels-empty")
    word = words_of(regseg(relabelled(3, lambda x: np.where(x > 0, 40, 0).astype(np.uint8)), wanted, {}, 5))["1_CT"]
    assert (word.status, word.code) == ("warned", "user-labels-differ")
    trained = with_settings(section, affine={"method": "centres", "starts": ["header"]}, segment_weights="train", segment=False)
    word = words_of(regseg(relabelled(3, lambda x: np.where(x == 3, 77, x).astype(np.uint8)), trained, {}, 5))["1_CT"]
    assert (word.status, word.code) == ("warned", "user-labels-unexpected")
    assert "77" in word.reason


def test_a_calibrated_model_says_what_dice_to_expect_and_low_ones_are_warned_of(section):
    fit = {"features": list(FEATURES), "mean": [0.0] * 4, "sd": [1.0] * 4, "weights": [0.0, 1.0, 0.0, 0.0], "labels": {"1": 0.0, "2": 0.0}}
    quality = {"any": {"volumes": {}, "fits": {"plain": fit}}}
    network, images = Painter([0.0, 0.4, 0.7, 0.95], sharpness=30.0), subject_of("1", 1, "test", False)[:1]

    def word(least, **extra):
        wanted = with_settings(section, weights="model", least_predicted_dice=least)
        return words_of(regseg(images, wanted, {"model": joint({"any": network}, **extra)}, 5))["1_T1w"]

    doubted, trusted = word(0.999, quality=quality), word(0.5, quality=quality)
    assert 0.5 < trusted.measures["predicted_dice"] < 0.999
    assert trusted.measures["predicted_dice"] == np.mean([trusted.measures[f"predicted_dice_{name}"] for name in ("skin", "core")])
    assert (trusted.status, trusted.code) == ("ok", "")
    assert (doubted.status, doubted.code) == ("warned", "labels-doubtful")
    assert not any(name.startswith("predicted_dice") for name in word(0.999).measures)


def test_labels_that_follow_edges_lose_the_specks_of_noise(section):
    from skimage.measure import label

    network, (image,) = Painter([0.0, 0.4, 0.7, 0.95], sharpness=6.0), subject_of("1", 1, "test", False)[:1]
    rng = np.random.default_rng(0)
    noisy = image.volume.with_data(
        image.volume.array() + rng.normal(0, 40, image.volume.shape).astype(np.float32), image.volume.affine, {"step": "x"}
    )
    pieces = []
    for crf in (None, {"iterations": 2, "radius": 1, "bilateral": 2.0, "smooth": 3.0, "near": 6.0, "alike": 0.2, "close": 4.0}):
        wanted = with_settings(section, weights="model", crf=crf)
        made = regseg([replace(image, opener=lambda: noisy)], wanted, {"model": joint({"any": network})}, 5)
        (seg,) = [m for m in made if m.tag == "seg"]
        pieces.append(label(seg.content.array(np.uint8)).max())
    assert pieces[1] < 0.5 * pieces[0]


# --- a model for what the first is not for -----------------------------------------------------------------------


def copied(folder, name, **extra):
    """Leave a copy of a model folder under another name, with more in ``extra`` of its card; return where it is."""
    card_of, tensors = read_model(folder)
    card_of.pop("sha256")
    write_model(folder.with_name(name), {**card_of, "name": name, "extra": {**card_of["extra"], **extra}}, tensors)
    return folder.with_name(name)


def test_the_other_joint_model_labels_what_the_first_is_not_for(any_contrast, section):
    folders = {"demo": copied(any_contrast, "heads-of-the-demo", cohort="demo"), "any": any_contrast}
    scan = subject_of("1", 1, "test", False)[0]

    def model_of(**settings):
        wanted = with_settings(section, **settings)
        subject = Subject({}, {}, wanted, load(wanted, folders, "cpu"))
        found = subject.model_for(scan)
        return subject.misfits[scan.id] if found is None else found.card["name"]

    assert model_of(weights="demo", weights_otherwise="any") == "tiny"
    assert "simulated heads only" in model_of(weights="demo")
    assert model_of(weights=None, weights_otherwise="any") == "the settings name no model under weights"


def test_labels_of_tissues_follow_intensities_unless_the_settings_say_none(any_contrast, section, monkeypatch):
    folders, asked = {"knows": copied(any_contrast, "knows-tissues", tissues={"a": CLASSES[1:2]})}, []
    monkeypatch.setattr(tissues, "by_intensity", lambda soft, image, spacing_mm, known: asked.append((spacing_mm, known)) or soft)
    for choice, count in (("none", 0), ("auto", 1)):
        wanted = with_settings(section, weights="knows", intensities=choice)
        made = regseg(subject_of("1", 1, "test", False)[:1], wanted, load(wanted, folders, "cpu"), 5)
        assert any(m.tag == "seg" for m in made)
        assert len(asked) == count
    assert asked == [(8.0, {1: "a"})]


class Broken(torch.nn.Module):
    """Gives what is no number in one voxel."""

    multiple, halo = 1, 0

    def forward(self, x):
        logits = x.repeat(1, 4, 1, 1, 1)
        logits[..., 3, 4, 5] = float("nan")
        return logits


def test_a_segmentation_that_gives_no_numbers_is_set_aside_with_a_sentence(section):
    wanted = with_settings(section, weights="model")
    with pytest.raises(BadInput, match=r"The model tiny gives values that are not finite for 1_T1w: .*segment: false") as caught:
        regseg(subject_of("1", 1, "test", False)[:1], wanted, {"model": joint({"any": Broken()})}, 5)
    assert caught.value.code == "bad-result"


def test_a_registration_network_that_gives_no_numbers_is_left_out(section):
    images = as_t2w(subject_of("1", 3, "test", False))
    flow = lambda image: torch.full((1, 3, *image.shape[2:]), float("nan"))  # noqa: E731
    made = regseg(images, with_settings(section, weights="model"), {"model": joint(flow=flow)}, 5)
    assert words_of(made)["1_T2w"].measures["deformation"] != "kept"
    assert "field" not in {m.tag for m in made}
    assert all(np.isfinite(np.asarray(m.content.data[...])).all() for m in made if isinstance(m.content, Volume))


def test_labels_of_the_user_with_numbers_exchanged_are_told_with_the_voxels(section):
    images = subject_of("1", 1, "test", True)
    volume = images[3].volume
    exchanged = volume.with_data(np.array([0, 1, 3, 2], np.uint8)[volume.array(np.uint8)], volume.affine, {"step": "x"})
    wanted = with_settings(section, affine={"method": "centres", "starts": ["header"]})
    word = words_of(regseg([*images[:3], replace(images[3], opener=lambda: exchanged)], wanted, {}, 5))["1_CT"]
    assert (word.status, word.code) == ("warned", "user-labels-swapped")
    assert re.search(r"numbers exchanged \(2 and 3: \d+ voxels crosswise, \d+ alike\)", word.reason)
    assert words_of(regseg(images, wanted, {}, 5))["1_CT"].code != "user-labels-swapped"


def test_an_image_on_another_grid_comes_to_that_of_its_partner(section):
    array, _, affine = head("T1w", 3)
    thick = array[::-1, :40, ::2].transpose(1, 0, 2).copy()
    turned = affine @ np.array([[0, -1, 0, array.shape[0] - 1], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    fixed = thing("1", "T1w", volume=Volume(array, affine, "T1w", "image", "head"))
    moving = thing("1", "FLAIR", volume=Volume(thick, turned, "FLAIR", "image", "head"))
    made = regseg([fixed, moving], section, {}, 5)
    (warped,) = [m.content for m in made if m.tag == "warped"]
    assert warped.shape == array.shape and np.allclose(warped.affine, affine)
    inside = np.s_[4:-4, 4:36, 4:-6:2]
    assert np.corrcoef(warped.array()[inside].ravel(), array[inside].ravel())[0, 1] > 0.95
