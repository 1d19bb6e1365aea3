"""Every network for denoising is trained for a few steps by its own objective and applied; what sees noisy scans sees nothing else."""

import base64
import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image as Picture

from cohortex.config import check_config
from cohortex.errors import Refused
from cohortex.inference import Way, run_network, way_of
from cohortex.items import Image
from cohortex.measures.image_quality import noise_sigma
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.resources import needs, training_steps
from cohortex.schema import read_schema
from cohortex.stages import denoise as stage
from cohortex.training import denoise as trainer
from cohortex.training import denoise_data, noise, objectives
from cohortex.training.denoise import train_denoise
from cohortex.training.loop import fresh
from cohortex.training.settings import DENOISE, denoise_training
from cohortex.volume import Volume
from tests.workflow import ROOT

TINY: dict[str, tuple[dict, dict]] = {
    "redcnn": ({"filters": 3}, {"patch": 24}),
    "cnn_dae": ({"filters": 3}, {}),
    "wavelet_cnn": ({"filters": 3, "modules": 1, "directions": [2]}, {}),
    "wgan_vgg": ({"filters": 3}, {"critic_steps": 1, "feature_steps": 2, "feature_width": 2, "width": 2, "hidden": 4}),
    "smgan": ({"filters": 3}, {"patch": [16, 16, 5], "critic_steps": 1, "width": 2, "hidden": 4}),
    "noise_gan": ({"filters": 3, "blocks": 1}, {"width": 2}),
    "sinogram_attention": ({"filters": 8, "growth": 4, "blocks": 1, "layers": 1, "views": 20}, {}),
    "dp_resnet": ({"filters": 3, "blocks": 1, "views": 20}, {"patch": [1, 1, 3]}),
    "unet": ({"features": [3, 4]}, {}),
    "blind_spot": ({"filters": 3, "depth": 1}, {}),
    "half_grid_unet": ({"features": [4, 6]}, {}),
}
"""Options that make a network small, and settings of its training and of its objective."""


def scan(subject, split="test", modality="T1w", shape=(40, 36, 9), sigma=15.0, seed=0, run=""):
    """Return a scan of a bright ellipsoid with a pattern, with noise."""
    rng = np.random.default_rng([seed, len(run)])
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    truth = np.where(sum(a**2 for a in axes) < 0.8, 300 + 60 * np.sign(np.sin(9 * axes[0]) * np.sin(7 * axes[1])), 0)
    data = truth - 1000 + 3 * rng.normal(0, sigma, shape) if modality == "CT" else np.hypot(truth + rng.normal(0, sigma, shape), sigma)
    volume = Volume(data.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1]), modality=modality, body_part="head")
    name = f"{subject}{run}_{modality}"
    row = {"split": split, "site": "demo-simulator"}
    return Image(id=name, subject=subject, session="", modality=modality, kind="image", body_part="head", row=row, opener=lambda: volume)


def cohort(**changes):
    return [scan("1", "train", seed=1, **changes), scan("2", "train", seed=2, **changes), scan("3", "validation", seed=3, **changes)]


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def section_for(name, **training):
    options, more = TINY[name]
    patch = {key: value for key, value in more.items() if key in DENOISE}
    objective = registry.entry("denoise", name).training.get("objective", "squared_error")
    own = {key: value for key, value in more.items() if key not in DENOISE}
    chosen = {"steps": 2, "batch": 1, "patch": 16, "options": options, "objective": {"name": objective, **own}, **patch, **training}
    return {"default": {"method": name, "weights": "train", "training": chosen}}


def trained(folder, section, images=None, seed=3):
    train_denoise(images or cohort(), section, seed, "cpu", folder)
    return folders.read_card(folder), stage.load(section, {"train": folder}, "cpu")


def test_every_network_is_tried_here_and_stands_in_the_schema():
    names = [entry.name for entry in registry.entries("denoise")]
    own = {name for name in names if registry.entry("denoise", name).expects.values != "0..1"}
    assert set(TINY) == set(names) - own
    assert read_schema("stages/denoise.json")["properties"]["method"]["enum"] == ["transform", *names, "none"]
    assert tuple(names) == stage.NETWORKS


@pytest.mark.parametrize("name", TINY)
def test_a_network_trains_by_its_own_objective_and_its_stage_applies_it(tmp_path, name, monkeypatch):
    # A few steps make no denoiser: what a bad one makes is looked at below.
    monkeypatch.setattr(stage, "implausible", lambda *_: "")
    section = section_for(name)
    card, models = trained(tmp_path / "m", section)
    entry = registry.entry("denoise", name)
    assert card["network"] == name
    assert card["recipe"]["objective"]["name"] == entry.training["objective"]
    assert card["recipe"]["steps_done"] == 2
    assert [metric["n"] for metric in card["metrics"]] == [1, 1]
    assert len(card["recipe"]["validation"]) == 2
    fine = scan("5", seed=9)
    made = stage.denoise(fine, section["default"], models, 0)
    assert made.measures["method"] == name
    assert made.content.shape == fine.volume.shape
    assert np.isfinite(made.content.array()).all()
    assert 0 < card["extra"]["noise"]["min"] <= card["extra"]["noise"]["max"] < 1
    shown = json.loads((tmp_path / "m" / folders.SHOWN).read_text())
    assert (len(shown["loss"]), len(shown["validation"])) == (2, 2)
    assert shown["examples"]
    for example in shown["examples"]:
        sizes = {Picture.open(io.BytesIO(base64.b64decode(text))).size for text in example.values()}
        assert len(example) == (2 if name == "blind_spot" else 3)
        assert len(sizes) == 1


@pytest.mark.parametrize("objective", ["blind_spot", "sure", "recorrupted", "halves", "consensus"])
def test_without_clean_targets_no_image_is_cleaned_for_the_training(tmp_path, objective, monkeypatch):
    sources, images = [], cohort(shape=(40, 36, 8))
    build = denoise_data.sampler

    def seen(scans, shape):
        sources.extend(scans)
        return build(scans, shape)

    def forbidden(*_):
        raise AssertionError("an image was cleaned")

    monkeypatch.setattr(trainer, "sampler", seen)
    with monkeypatch.context() as patch:
        # The card compares with the block DCT at the end, on validation subjects; until then nothing may clean an image.
        patch.setattr(denoise_data, "apply_transform", forbidden)
        patch.setattr(trainer, "metrics", lambda *_: [])
        card, _ = trained(tmp_path / "m", section_for("unet", objective=objective), images)
    assert "no image was cleaned" in card["recipe"]["target"]
    measured = [image.volume.array(np.float32) for image in images]
    assert sources
    assert all(any(np.array_equal(each.clean, array) for array in measured) for each in sources)


def test_the_same_training_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        trained(tmp_path / name, section_for("unet", objective="recorrupted"))
    for file in ("card.yaml", "model.safetensors", folders.SHOWN):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_two_scans_of_one_thing_are_halves_and_one_alone_is_split():
    pair = [scan("1", "train", seed=1, run="a"), scan("1", "train", seed=1, run="bb"), scan("2", "train", seed=2)]
    found = denoise_data.scans_for(pair, {"default": {}}, dict(DENOISE), "halves", 3)
    assert len(found) == 1
    np.testing.assert_array_equal(found[0].others[0], pair[0].volume.array())
    np.testing.assert_array_equal(found[0].others[1], pair[1].volume.array())
    alone = denoise_data.scans_for(pair[2:], {"default": {}}, dict(DENOISE), "halves", 3)[0]
    shape = denoise_data.Shape(registry.Expects(2), (32, 32, 1), reads="halves")
    one, two = denoise_data.draw(alone, shape, np.random.default_rng(0))
    assert one.shape == two.shape == (1, 32, 32)
    assert abs(np.mean(one - two)) < 0.02
    assert np.std(one - two) == pytest.approx(2 * alone.sigma / (alone.high - alone.low), rel=0.1)


def test_halves_of_the_views_have_noise_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    flat = np.zeros((48, 48, 3), np.float32)
    parts = noise.split_views(flat + rng.normal(0, 30, flat.shape).astype(np.float32), 1.0, 2)
    middle = (slice(12, 36), slice(12, 36))
    one, two = (part[middle].ravel() for part in parts)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.3
    assert one.std() > 10
    card, _ = trained(tmp_path / "m", section_for("unet", objective="noise2inverse"), cohort(modality="CT"))
    assert card["recipe"]["objective"]["name"] == "noise2inverse"
    with pytest.raises(Refused, match="CT scans"):
        train_denoise(cohort(), section_for("unet", objective="noise2inverse"), 3, "cpu", tmp_path / "n")


def test_noise_of_a_lower_dose_has_the_wanted_level_and_is_correlated():
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 64, 12)), indexing="ij")
    head = np.where(axes[0] ** 2 + axes[1] ** 2 < 0.5, 40.0, -1000.0).astype(np.float32)
    made = noise.dose_noise(head, 1.0, 25.0, np.random.default_rng(0), head > 0)
    assert noise_sigma(made, head > 0) == pytest.approx(25, rel=1e-3)

    def of_means(array):
        """Return by how much the means of 8 x 8 pixels vary, as a multiple of what independent pixels would give."""
        return 8 * array[20:44, 20:44].reshape(3, 8, 3, 8, 12).mean((1, 3)).std() / array[20:44, 20:44].std()

    # The ramp filter leaves little noise at low frequencies, where white noise has as much as anywhere.
    white = np.random.default_rng(1).standard_normal(made.shape)
    assert of_means(made) < 0.88
    assert of_means(white) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize(("target", "extra"), [("cleaned", 2.0), ("scan", 3**0.5)])
def test_a_quarter_of_the_dose_is_four_times_the_variance(target, extra):
    training = {**DENOISE, "noise": "dose", "target": target}
    (found,) = denoise_data.scans_for([scan("1", "train", modality="CT")], {"default": {}}, training, "pairs", 3)
    assert found.extra == pytest.approx(extra)
    assert len(found.noise) == denoise_data.REALISATIONS
    np.testing.assert_array_equal(found.clean == scan("1", modality="CT").volume.array(), target == "scan")
    plain = denoise_data.scans_for([scan("1", "train")], {"default": {}}, training, "pairs", 3)[0]
    assert plain.noise == ()


def test_settings_are_the_sections_over_the_entrys_over_the_usual_ones():
    section = {"default": {"method": "smgan", "training": {"steps": 7, "patch": None, "objective": {"name": "wgan_structure", "tau": 0.5}}}}
    found = denoise_training(section)
    assert (found["steps"], found["patch"], found["batch"]) == (7, [80, 80, 11], 4)
    assert objectives.settings(found["objective"])[1]["tau"] == 0.5
    assert found["options"] == {"dimensions": 3, "filters": 32}
    assert denoise_training({"default": {"training": {"filters": 5}}})["options"] == {"filters": 5}
    by_modality = {"default": {"method": "transform"}, "CT": {"method": "wgan_vgg"}}
    assert denoise_training(by_modality)["objective"]["name"] == "wgan_features"
    with pytest.raises(Refused, match="no option 'filter'"):
        denoise_training({"default": {"method": "unet", "training": {"options": {"filter": 5}}}})
    with pytest.raises(Refused, match="Did you mean sure"):
        denoise_training({"default": {"training": {"objective": "shure"}}})


def test_what_a_network_is_not_measured_for_asks_for_the_most_of_its_stage(config):
    from cohortex.resources import Load, Part, ask

    load = Load((Part("T1w", 4, 30.0, 100.0),), 100.0)

    def asked(method):
        return ask("denoise", {**config, "denoise": {"default": {**config["denoise"]["default"], "method": method}}}, load)

    assert ("denoise", "unet") not in needs()
    assert asked("unet").memory_mb >= max(asked(method).memory_mb for _, method in needs() if _ == "denoise")


@pytest.mark.parametrize("name", TINY)
def test_a_training_is_given_time_by_what_it_does(config, name):
    default = {**config["denoise"]["default"], "method": name}
    assert check_config({**config, "denoise": {"default": default}})["denoise"]["default"]["method"] == name
    more = {**default, "training": {**default["training"], "batch": 40}}
    assert training_steps("denoise", {"default": more}) > training_steps("denoise", {"default": default}) > 0


# --- how a network goes over a volume --------------------------------------------------------------------------


def smoothing(dimensions, channels=1, halo=2, shrinks=False):
    """Return a network that blurs by `halo` along its axes, and the mean of the channels."""
    import torch

    class Smoothing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.halo = (halo, halo, 1) if dimensions == 3 else halo
            self.taps = (2 * halo + 1, 2 * halo + 1, 3)[:dimensions]

        def forward(self, x):
            kernel = torch.ones(1, channels, *self.taps) / (channels * np.prod(self.taps))
            run = torch.nn.functional.conv3d if dimensions == 3 else torch.nn.functional.conv2d
            return run(x, kernel, padding=0 if shrinks else tuple(n // 2 for n in self.taps))

    return Smoothing()


@pytest.mark.parametrize("shrinks", [False, True])
@pytest.mark.parametrize(("dimensions", "channels"), [(2, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("shape", [(21, 18, 7), (9, 30, 1), (5, 4, 2)])
def test_blocks_make_what_the_whole_makes(dimensions, channels, shape, shrinks):
    from scipy.ndimage import uniform_filter

    array = np.random.default_rng(0).random(shape).astype(np.float32)
    network = smoothing(dimensions, channels, shrinks=shrinks)
    way = way_of(network, registry.Expects(dimensions, channels), shape)
    assert way.halo == ((2, 2, 1) if dimensions == 3 or channels == 3 else (2, 2, 0))
    small = Way(way.halo, (8, 8, 1 if dimensions == 2 else 4), way.slicewise, way.channels)
    made, _ = run_network(network, array, way.halo, way.block, way=small)
    window = (5, 5, 3 if channels == 3 or dimensions == 3 else 1)
    # a single slice has itself for neighbours
    want = uniform_filter(array.astype(np.float64), [1 if n == 1 else w for n, w in zip(shape, window, strict=True)], mode="mirror")
    np.testing.assert_allclose(made, want, atol=1e-6)


def test_whole_slices_are_never_cut_and_edges_are_multiples():
    seen = []

    class Looking:
        halo, multiple = 0, 4

        def to(self, device):
            return self

        def __call__(self, x):
            seen.append(tuple(x.shape))
            return x

    array = np.random.default_rng(0).random((301, 70, 3)).astype(np.float32)
    way = way_of(Looking(), registry.Expects(2, whole_slices=True), array.shape)
    made, _ = run_network(Looking(), array, way.halo, way.block, way=way)
    np.testing.assert_array_equal(made, array)
    assert set(seen) == {(1, 1, 304, 72)}


# --- what a stage does with a network that went wrong ----------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    """Return a function that makes models of a stage: RED-CNN with another last layer, by how it is changed."""
    import torch

    def made(bias=0.0, weight=0.0, first=1.0, **card):
        network = fresh(lambda: registry.build("denoise", "redcnn", filters=2), 0)
        with torch.no_grad():
            for parameter in network.parameters():
                # so that something passes through all layers
                parameter.abs_()
            network.decoder[4].weight.fill_(weight)
            network.decoder[4].bias.fill_(bias)
            network.encoder[0].weight.mul_(first)
        whole = {
            "name": "cleaner", "task": "denoise", "network": "redcnn", "options": {"filters": 2}, "modality": ["T1w", "CT"],
            "body_part": ["any"], "dimensions": [2, 3], "spacing_mm": {"min": 0.5, "max": 5}, "data": "none", "recipe": {}, "seed": 0,
            "metrics": [], "intended_use": "tests", "limits": "all", **card,
        }  # fmt: skip
        folders.write_model(tmp_path / "m", whole, network.state_dict())
        settings = {"method": "redcnn", "weights": "m"}
        return settings, stage.load({"default": settings}, {"m": tmp_path / "m"}, "cpu")

    return made


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"weight": 1e38, "first": 1e38}, "not finite"),
        ({"bias": -50.0}, "nearly constant"),
        ({"bias": -0.6}, "clipped to its lowest"),
        ({"weight": 3.0, "first": 5.0}, "varies more than the image"),
    ],
)
def test_what_cannot_be_the_same_image_is_set_aside_with_a_reason(model, change, word):
    from cohortex.errors import BadInput

    settings, models = model(**change)
    with pytest.raises(BadInput, match=word) as caught:
        stage.denoise(scan("1"), settings, models, 0)
    assert caught.value.code == "bad-result"
    assert "cleaner" in caught.value.sentence


def test_a_constant_scan_is_left_as_it_is(model):
    from cohortex.errors import Skip

    flat = Image("1", "1", "", "T1w", "image", opener=lambda: Volume(np.full((20, 20, 3), 7.0, np.float32), np.eye(4), modality="T1w"))
    with pytest.raises(Skip, match="all voxels are 7") as caught:
        stage.denoise(flat, *model(), 0)
    assert caught.value.code == "constant"


def test_noise_and_intensities_beyond_those_of_the_training_are_warned_of(model):
    given = model(extra={"noise": {"min": 1e-5, "max": 1e-4}})
    made = stage.denoise(scan("1"), *given, 0)
    assert (made.status, made.code) == ("warned", "beyond-training")
    assert "its noise is" in made.reason
    level = made.measures["noise_sigma_before"] / 400
    assert stage.denoise(scan("1"), *model(extra={"noise": {"min": level / 2, "max": 2 * level}}), 0).status == "ok"


def test_a_scan_in_other_units_is_not_for_a_model_with_a_window(model):
    from cohortex.errors import Skip

    settings, models = model(values={"kind": "window", "low": 1000, "high": 3000})
    with pytest.raises(Skip, match="check the units") as caught:
        stage.denoise(scan("1", modality="CT"), settings, models, 0)
    assert caught.value.code == "no-fit"


@pytest.mark.parametrize("shape", [(40, 36, 1), (40, 36, 2)])
def test_pictures_and_few_slices_are_denoised_by_a_network_of_slices(model, shape):
    made = stage.denoise(scan("1", shape=shape), *model(), 0)
    assert made.content.shape == shape
    assert made.measures["residual_std"] >= 0


def test_a_network_of_stacks_is_not_for_pictures(tmp_path, monkeypatch):
    from cohortex.errors import Skip

    section = section_for("smgan")
    _, models = trained(tmp_path / "m", section)
    with pytest.raises(Skip, match="not for 2-D ones"):
        stage.denoise(scan("1", shape=(40, 36, 1)), section["default"], models, 0)
    with pytest.raises(Refused, match="pictures only"):
        train_denoise(cohort(shape=(40, 36, 1)), section, 3, "cpu", tmp_path / "n")
