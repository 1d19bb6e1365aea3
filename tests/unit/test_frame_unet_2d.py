"""The shrinkage network of slices, and how networks in units of the noise are trained by the stage from noisy scans alone."""

import numpy as np
import pytest
import torch
import yaml

from cohortex.errors import Refused, Skip
from cohortex.inference import run_network
from cohortex.items import Image
from cohortex.models import folder as folders
from cohortex.models import registry
from cohortex.models.denoise.frame_unet_2d import FrameUnet2d
from cohortex.stages import denoise as stage
from cohortex.training import denoise_data, objectives
from cohortex.training.denoise import train_denoise
from cohortex.training.objectives.noisy import of_recorrupted
from cohortex.training.settings import DENOISE, denoise_training
from cohortex.volume import Volume
from tests.workflow import ROOT

SMALL = {"fine": 4, "coarse": 8, "blocks": 1}
RECIPE = ROOT / "docs" / "recipes" / "denoise_from_noisy_scans.yaml"


def small():
    torch.manual_seed(0)
    network = FrameUnet2d(**SMALL)
    with torch.no_grad():
        # The U-Net has a say from the start here.
        for parameter in (network.noise.weight, network.correction.weight):
            parameter.normal_(0, 0.3)
    return network.eval()


def truth(shape=(60, 52, 5)):
    """Return an ellipse of 0.5 with an inner one of 0.8 and one of 0.1, in air, in every slice."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    flat = 0.5 * (x**2 + y**2 < 0.9) + 0.3 * ((x + 0.3) ** 2 + y**2 < 0.15) - 0.4 * ((x - 0.4) ** 2 + y**2 < 0.08)
    return np.repeat(flat[:, :, None], shape[2], 2).astype(np.float32)


def scan(subject, split="test", sigma=0.06, scale=500.0, modality="T1w", seed=0):
    noise = np.random.default_rng([seed, int(subject)]).normal(0, sigma, (2, *truth().shape))
    data = scale * np.hypot(truth() + noise[0], noise[1]).astype(np.float32) - (1000 if modality == "CT" else 0)
    volume = Volume(data, np.diag([1.0, 1.0, 4.0, 1]), modality=modality, body_part="head")
    name = f"{subject}_{modality}"
    return Image(name, subject, "", modality, "image", body_part="head", row={"split": split}, opener=lambda: volume)


def section(**training):
    return {"default": {"method": "frame_unet_2d", "weights": "train", "training": {"options": SMALL, "patch": 24, "batch": 1, **training}}}


def cohort():
    return [scan("1", "train"), scan("2", "train", sigma=0.03), scan("3", "validation")]


@pytest.mark.parametrize("shape", [(16, 16), (13, 18), (5, 30)])
def test_windows_cover_every_pixel(shape):
    """Where all coefficients are noise nothing is left, at the border too."""
    network = FrameUnet2d(**SMALL)
    with torch.no_grad():
        network.noise.bias.fill_(80.0)
        made = network(torch.randn(1, 1, *shape))
    assert made.shape == (1, 1, *shape)
    assert float(made.abs().max()) < 1e-4


def test_it_begins_as_a_threshold():
    clean = truth()[None].transpose(3, 0, 1, 2)
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        made = registry.build("denoise", "frame_unet_2d").eval()(torch.from_numpy(noisy / 0.05)).numpy() * 0.05
    assert np.mean((made - clean) ** 2) < 0.6 * np.mean((noisy - clean) ** 2)


def test_a_pixel_depends_on_no_pixel_beyond_the_halo_and_on_some_near_it():
    network, size = small(), 120
    x = torch.randn(1, 1, size, 8, requires_grad=True)
    reached = []
    for at in range(56, 60):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, at].sum(), x)
        reached += [at - int(n) for n in torch.nonzero(gradient.abs().sum((0, 1, 3))).flatten()]
    assert network.halo - network.multiple < max(map(abs, reached)) <= network.halo


def test_a_slice_in_blocks_is_the_slice_in_one_piece():
    network, array = small(), 9 * np.random.default_rng(5).random((53, 45, 2), dtype=np.float32)
    around = (network.halo, network.halo, 0)
    one, many = (run_network(network, array, around, block, slicewise=True)[0] for block in ((53, 45, 2), (20, 12, 1)))
    np.testing.assert_allclose(many, one, atol=1e-4)


def test_a_scan_in_units_of_the_noise_has_a_noise_of_one_whatever_its_level():
    expects = registry.entry("denoise", "frame_unet_2d").expects
    for reads, noise in (("noisy", 1.0), ("halves", 2**-0.5)):
        for found in denoise_data.scans_for([scan("1"), scan("2", sigma=0.03)], {"default": {}}, dict(DENOISE), reads, 3):
            unit = denoise_data.in_units(found, expects, reads)
            assert unit.low == 0
            assert found.sigma / unit.high == pytest.approx(noise)
    other = registry.entry("denoise", "unet").expects
    assert denoise_data.in_units(found, other, "noisy") is found


def test_what_is_made_noisier_is_given_to_a_network_in_units_of_the_new_noise():
    seen = []

    class Looking(torch.nn.Module):
        in_noise_units = True

        def forward(self, x):
            seen.append(float(x.std()))
            return x

    image = torch.randn(1, 1, 200, 200)
    noisier = image + 0.5 * torch.randn(1, 1, 200, 200)
    made = of_recorrupted(Looking(), image, noisier, 0.5)
    assert seen[0] == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(made, noisier)


def test_only_objectives_without_clean_targets_train_a_network_in_units_of_the_noise():
    assert denoise_training(section())["objective"]["name"] == "recorrupted"
    with pytest.raises(Refused, match="from noisy scans alone, not by squared_error; name an objective such as recorrupted"):
        denoise_training(section(objective="squared_error"))


@pytest.mark.parametrize("objective", ["recorrupted", "sure", "consensus"])
def test_it_is_trained_from_noisy_scans_and_applied_to_scans_of_any_scale(tmp_path, objective):
    chosen = section(objective=objective, steps=2)
    train_denoise([*cohort(), scan("4", "train", modality="CT")], chosen, 3, "cpu", tmp_path / "m")
    card = folders.read_card(tmp_path / "m")
    assert (card["modality"], card["values"]) == (["T1w"], {"kind": "noise", "low": 0, "high": 1})
    assert card["extra"] == {"makes": "mean"}
    assert card["metrics"][0]["value"] > 2, "dB over the noisy scan, since it begins as a threshold"
    models = stage.load(chosen, {"train": tmp_path / "m"}, "cpu")
    one, other = (stage.denoise(scan("5", scale=scale), chosen["default"], models, 0) for scale in (1.0, 500.0))
    np.testing.assert_allclose(other.content.array(), 500 * one.content.array(), atol=0.2)
    assert one.measures["noise_sigma_after"] < 0.6 * one.measures["noise_sigma_before"]
    with pytest.raises(Skip, match="is for T1w, not for CT"):
        stage.denoise(scan("4", modality="CT"), {**chosen["default"], "otherwise": "none"}, models, 0)


def test_the_bias_of_magnitudes_is_undone_where_a_model_makes_means(tmp_path):
    """A network that changes nothing leaves the mean of a magnitude, which is too bright where there is little signal."""
    torch.manual_seed(0)
    network = registry.build("denoise", "unet", features=[2])
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.zero_()
    noise = np.random.default_rng(0).normal(0, 30, (2, 60, 60, 8))
    flat = np.where(np.arange(60)[:, None, None] < 30, 60.0, 600.0) + np.zeros((60, 60, 8))
    volume = Volume(np.hypot(flat + noise[0], noise[1]).astype(np.float32), np.eye(4), modality="T1w", body_part="head")
    image = Image("1_T1w", "1", "", "T1w", "image", body_part="head", opener=lambda: volume)
    card = {
        "name": "nothing", "task": "denoise", "network": "unet", "options": {"features": [2]}, "modality": ["T1w"], "body_part": ["any"],
        "dimensions": [3], "spacing_mm": {"min": 0.5, "max": 5}, "data": "none", "recipe": {}, "seed": 0, "metrics": [],
        "intended_use": "tests", "limits": "all",
    }  # fmt: skip
    settings = {"method": "unet", "weights": "m"}

    def made(extra, **more):
        folders.write_model(tmp_path / "m", {**card, "extra": extra}, network.state_dict())
        models = stage.load({"default": settings}, {"m": tmp_path / "m"}, "cpu")
        return stage.denoise(image, {**settings, **more}, models, 0).content.array(np.float32)

    np.testing.assert_allclose(made({}), volume.array(), atol=0.01)
    means, undone = volume.array(), made({"makes": "mean"})
    assert undone[30:].mean() == pytest.approx(means[30:].mean() - 30**2 / 1200, abs=0.3), "sigma^2 / 2 A"
    assert undone[:28].mean() < means[:28].mean() - 6
    np.testing.assert_allclose(made({"makes": "mean"}, rician=False), volume.array(), atol=0.01)


def test_the_recipe_is_one_that_reads_noisy_scans_alone():
    default = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["denoise"]["default"]
    training = denoise_training({"default": default})
    assert default["weights"] == "train"
    assert objectives.kind(training["objective"]["name"]).reads == "noisy"
