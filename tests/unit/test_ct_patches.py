"""What the shipped CT denoiser learned from, how it was trained, and the shipped weights themselves."""

import json

import numpy as np
import pytest
import torch

from cohortex.inference import same_image
from cohortex.items import Image
from cohortex.measures.image_quality import psnr
from cohortex.models import folder as folders
from cohortex.stages import denoise as stage
from cohortex.training import ct_patches, zoo_ct
from cohortex.volume import Volume

SHIPPED = folders.SCHEMA.parents[1] / "zoo" / "denoise" / "low_dose"
SETTINGS = {"method": "half_grid_unet", "weights": "m"}


def body(shape=(96, 88, 6)):
    """Return a trunk of soft tissue with organs, a bone and two lungs, HU."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[x**2 / 0.8 + y**2 / 0.6 < 1] = -90
    hu[x**2 / 0.65 + y**2 / 0.45 < 1] = 45
    hu[(x - 0.35) ** 2 / 0.05 + (y - 0.1) ** 2 / 0.08 < 1] = 110
    hu[(x + 0.4) ** 2 / 0.03 + (y + 0.1) ** 2 / 0.1 + z**2 / 3 < 1] = -820
    hu[(x - 0.02) ** 2 + (y + 0.45) ** 2 < 0.02] = 700
    return hu.astype(np.float32)


@pytest.fixture(scope="module")
def noisy():
    """Return a trunk, where it is, and noise of 25 HU of its own kind."""
    truth = body()
    inside = truth > -500
    return truth, inside, ct_patches.quantum_noise(truth, 3.0, 25.0, np.random.default_rng(0), inside, "hann", 0.1)


def as_image(data, spacing=3.0):
    volume = Volume(np.asarray(data, np.float32), np.diag([spacing, spacing, 3.0, 1]), modality="CT", body_part="abdomen")
    return Image(id="1_CT", subject="1", session="", modality="CT", kind="image", body_part="abdomen", row={}, opener=lambda: volume)


def test_noise_of_less_dose_has_the_wanted_size_and_is_stronger_inside_than_at_the_skin(noisy):
    truth, inside, noise = noisy
    assert ct_patches.rms(noise, inside) == pytest.approx(25, rel=0.15)
    middle, skin = noise[36:60, 36:52], noise[8:14, 36:52]
    assert middle.std() > 1.4 * skin.std()
    again = ct_patches.quantum_noise(truth, 3.0, 25.0, np.random.default_rng(0), inside, "hann", 0.1)
    assert np.array_equal(noise, again)


def test_a_softer_kernel_makes_neighbours_alike(noisy):
    truth, inside, noise = noisy
    sharp = ct_patches.quantum_noise(truth, 3.0, 25.0, np.random.default_rng(0), inside, "ram-lak")

    def alike(values):
        return np.corrcoef(values[30:66, 30:58].ravel(), values[31:67, 30:58].ravel())[0, 1]

    assert alike(noise) > alike(sharp) + 0.3


def test_the_own_noise_of_a_scan_is_that_of_its_soft_tissue():
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(64)[:, None, None] < 32, 40.0, 700.0) + np.zeros((64, 64, 4))
    for level in (5.0, 15.0):
        assert ct_patches.own_noise(flat + rng.normal(0, level, flat.shape)) == pytest.approx(level, rel=0.1)


def test_voxels_are_averaged_along_each_axis_and_the_rest_is_left_out():
    array = np.arange(5 * 4 * 7, dtype=np.float32).reshape(5, 4, 7)
    made = ct_patches.averaged(array, (2, 1, 3))
    assert made.shape == (2, 4, 2)
    assert made[1, 2, 1] == array[2:4, 2, 3:6].mean()


def clean(own=0.0):
    return ct_patches.clean("trunk", body(), 3.0, own, 1.0, np.random.default_rng(1))


def test_patches_have_slices_beside_them_noise_of_every_level_and_depend_on_the_seed_only():
    images = [clean()]
    drawn = [ct_patches.draw(images, 32, 2, np.random.default_rng([3, number])) for number in range(60)]
    again = ct_patches.draw(images, 32, 2, np.random.default_rng([3, 7]))
    assert all(np.array_equal(a, b) for a, b in zip(drawn[7], again, strict=True))
    assert {(noisy.shape, target.shape) for noisy, target in drawn} == {((5, 32, 32), (1, 32, 32))}
    spread = np.array([(noisy[2] - target[0]).std() for noisy, target in drawn])
    assert spread.min() < 4 and spread.max() > 40
    assert 8 < np.median(spread) < 25
    # slices beside the target have noise of their own
    pairs = [np.corrcoef((noisy[2] - target[0]).ravel(), (noisy[1] - target[0]).ravel())[0, 1] for noisy, target in drawn]
    assert np.median(np.abs(pairs)) < 0.3


def test_the_noise_of_a_target_is_kept_below_that_which_is_added():
    image = clean(own=12.0)
    inside = [ct_patches.draw([image], 96, 2, np.random.default_rng(number)) for number in range(25)]
    assert min((noisy[2] - target[0])[target[0] > -200].std() for noisy, target in inside) > 0.7 * 12 * np.exp(-0.6)


def test_errors_of_soft_tissue_count_whole_and_others_for_less():
    target = torch.from_numpy(zoo_ct.in_window(np.full((1, 1, 8, 8), 40.0)))
    bone = torch.from_numpy(zoo_ct.in_window(np.full((1, 1, 8, 8), 900.0)))
    error = 100 / (zoo_ct.WINDOW[1] - zoo_ct.WINDOW[0])
    assert float(zoo_ct.window_error(target + error, target)) == pytest.approx(1, abs=1e-3)
    assert float(zoo_ct.window_error(bone + error, bone)) == pytest.approx(zoo_ct.ELSEWHERE**0.5, abs=1e-3)


def test_a_training_writes_a_model_folder_with_its_metrics_and_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo_ct, "HELD_OUT", 1)
    monkeypatch.setattr(zoo_ct, "metrics", lambda network, seed: [])
    images = [clean()]
    training = {**zoo_ct.TRAINING, "steps": 2, "batch": 1, "patch": 24}
    for name in ("a", "b"):
        journal = zoo_ct.open_journal(tmp_path / name, [], training, 5)
        network, curves = zoo_ct.trained(images, training, 5, journal)
        zoo_ct.write(tmp_path / name, network, images, curves.recipe(), 5)
    card = folders.read_card(tmp_path / "a")
    assert folders.model_sha256(tmp_path / "a") == folders.model_sha256(tmp_path / "b")
    assert card["options"] == zoo_ct.OPTIONS and card["values"] == {"kind": "window", "low": -1200.0, "high": 3100.0}
    folders.load_network(tmp_path / "a")


def test_the_shipped_weights_remove_noise_through_the_stage_and_leave_what_has_none(noisy):
    truth, inside, noise = noisy
    models = stage.load({"default": SETTINGS}, {"m": SHIPPED}, "cpu")
    assert (SHIPPED / folders.WEIGHTS).stat().st_size <= 2_500_000
    made = stage.denoise(as_image(truth + noise), SETTINGS, models, 0)
    before, after = (psnr(truth, each, 400.0, inside) for each in (truth + noise, np.asarray(made.content.data)))
    assert made.status == "ok" and after > before + 5
    left = stage.denoise(as_image(truth), SETTINGS, models, 0)
    assert ct_patches.rms(np.asarray(left.content.data) - truth, inside) < 6


def test_the_shipped_weights_compute_alike_in_bfloat16(noisy):
    from cohortex.models.intensity import to_unit

    truth, _, noise = noisy
    network = folders.load_network(SHIPPED)
    x = torch.from_numpy(to_unit(truth + noise, *zoo_ct.WINDOW)).permute(2, 0, 1)[None, :5]
    with torch.no_grad():
        full = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
    assert same_image(full, half)


def test_what_the_benchmark_measured_goes_into_the_card_once(tmp_path):
    folders.write_model(
        tmp_path / "m", {**folders.read_card(SHIPPED), "metrics": []} | {"sha256": "0" * 64}, folders.read_model(SHIPPED)[1]
    )
    record = tmp_path / "denoise_ct.json"
    rows = [["simulated heads", "4", 0.9123, 0.5, 1.3], ["a real abdomen", "1", 4.2, None, None]]
    record.write_text(json.dumps({"tables": {"gains": {"rows": rows}}}))
    for _ in range(2):
        zoo_ct.with_record(tmp_path / "m", record)
    metrics = folders.read_card(tmp_path / "m")["metrics"]
    assert [(m["value"], m["low"], m["n"]) for m in metrics] == [(0.912, 0.5, 4), (4.2, None, 1)]
    assert folders.model_sha256(tmp_path / "m") == folders.model_sha256(SHIPPED)
