"""Training of one registration network: what it is given, what it learns, and the model folder that the stage takes."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy import ndimage

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models import registry
from cohortex.models.folder import load_network, read_card
from cohortex.models.regseg.warp import warp
from cohortex.stages.regseg import load, regseg
from cohortex.training import checkpoint
from cohortex.training.register import displaced, folded_percent, inverse_error, moved_labels, train_on_pairs
from cohortex.training.register_data import BEND, SIMULATED, ImagePair, pair_sampler, random_displacement, with_classical
from cohortex.training.register_settings import register_training
from cohortex.volume import Volume

NETWORK = {"name": "voxelmorph", "options": {"encoder": [8, 16, 16], "decoder": [16, 16, 16], "final": [8]}}
SHAPE = (16, 20, 16)


def bodies(seed: int, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of two textured balls, and their labels."""
    at = np.indices(SHAPE) - np.array(shift).reshape(3, 1, 1, 1)
    rng = np.random.default_rng(seed)
    one = np.linalg.norm(at - np.array([7.5, 7.0, 7.5]).reshape(3, 1, 1, 1), axis=0)
    two = np.linalg.norm(at - np.array([8.0, 13.0, 7.0]).reshape(3, 1, 1, 1), axis=0)
    image = np.clip(5.5 - one, 0, 1) * 0.4 + np.clip(4.5 - two, 0, 1) * 0.5
    labels = np.where(two < 4, 2, np.where(one < 5, 1, 0)).astype(np.uint8)
    return (np.asarray(ndimage.gaussian_filter(image, 0.7)) + 0.01 * rng.standard_normal(SHAPE)).clip(0, 1).astype(np.float32), labels


def shifted(seed: int, shift: tuple[float, float, float]) -> ImagePair:
    """Return a pair of which the moving image is shifted, so the displacement is that shift everywhere."""
    (fixed, a), (moving, b) = bodies(seed), bodies(seed + 50, shift)
    field = np.broadcast_to(np.array(shift, np.float32).reshape(3, 1, 1, 1), (3, *SHAPE)).copy()
    return ImagePair(fixed, moving, (a, b), field, str(seed))


PAIRS = [shifted(0, (1.5, 0.0, 0.0)), shifted(1, (-1.5, 0.0, 1.0)), shifted(2, (0.0, -1.5, 0.0)), shifted(3, (0.0, 1.5, -1.0))]


def trained(folder, seed=1, network=None, pairs=PAIRS, **training):
    train_on_pairs(pairs, {"network": network or NETWORK, "training": training}, seed, "cpu", folder, 6.0, pairs[:2])
    return load_network(folder, part="register")


def test_labels_of_a_displacement_are_learnt(tmp_path):
    network = trained(tmp_path / "m", pairs=PAIRS[:1], steps=40, rate=1e-2, objective="known_displacement", examples="classical")
    error = np.linalg.norm(displaced(network, PAIRS[0].fixed, PAIRS[0].moving) - PAIRS[0].displacement, axis=0).mean()
    assert error < 0.5 * 1.5
    told = {m["name"]: m["value"] for m in read_card(tmp_path / "m")["metrics"]}
    assert told["dice_after"] > told["dice_before"] + 0.05
    assert told["endpoint_error_mm"] == pytest.approx(6 * error, rel=1e-4)


def test_images_alone_teach_a_network_to_bring_them_together(tmp_path):
    objective = {"similarity": "squared_error", "smooth": 0.01}
    network = trained(tmp_path / "m", steps=120, rate=5e-3, objective=objective)
    for p in PAIRS[:2]:
        moved = warp(torch.from_numpy(p.moving)[None, None], torch.from_numpy(displaced(network, p.fixed, p.moving))[None])[0, 0].numpy()
        assert np.mean((moved - p.fixed) ** 2) < 0.5 * np.mean((p.moving - p.fixed) ** 2)


@pytest.mark.parametrize(
    ("network", "training"),
    [
        (NETWORK, {"objective": {"name": "images_alike", "window": 5, "labels": 1.0, "folding": 1.0}, "contrast": True}),
        (NETWORK, {"objective": "known_displacement", "examples": "simulated"}),
        ({"name": "icnet", "options": {"width": 2}}, {}),
        ({"name": "affine_voxelmorph", "options": {"affine": [4, 8], "encoder": [4], "decoder": [4], "final": []}}, {"bend": SIMULATED}),
    ],
    ids=["images", "simulated", "inverse", "affine"],
)
def test_a_training_that_failed_goes_on_and_gives_the_bytes_of_one_that_did_not(tmp_path, monkeypatch, network, training):
    from cohortex.training import register

    monkeypatch.setattr(checkpoint, "EVERY_S", 0)
    whole = trained(tmp_path / "whole", network=network, steps=4, **training)
    plain, drawn = register.pair_sampler, []

    def failing(*given):
        sample = plain(*given)

        def draw(rng, count):
            drawn.append(1)
            if len(drawn) == 3:
                raise OSError
            return sample(rng, count)

        return draw

    monkeypatch.setattr(register, "pair_sampler", failing)
    with suppress(OSError):
        trained(tmp_path / "again", network=network, steps=4, **training)
    again = trained(tmp_path / "again", network=network, steps=4, **training)
    assert len(drawn) == 3 + 2
    assert read_card(tmp_path / "again")["recipe"]["run"]["resumed"] == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with torch.random.fork_rng():
        fresh = registry.build("regseg", network["name"], **network["options"]).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in whole.state_dict().items())


def test_the_stage_takes_a_network_that_was_trained_alone(tmp_path, root):
    import yaml

    trained(tmp_path / "m", steps=2)
    default = yaml.safe_load((root / "config.yaml").read_text())["regseg"]["default"]
    default |= {"weights": "m", "weights_otherwise": None, "pair": [{"moving": ["T1w"], "fixed": "same"}]}
    default["deformable"] = default["deformable"] | {"refine_steps": 0}
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    images = []
    for session, array in (("1", PAIRS[0].fixed), ("2", PAIRS[0].moving)):
        volume = Volume(array, affine, "T1w", "image", "head")
        images.append(Image(f"a_{session}", "a", session, "T1w", "image", "image", "head", row={}, opener=lambda volume=volume: volume))
    models = load({"default": default}, {"m": tmp_path / "m"}, "cpu")
    made = regseg(images, {"default": default}, models, 0)
    assert next(m for m in made if m.of == "a_2" and m.measures).measures["deformed_by"] == "network"


def test_a_simulated_pair_is_one_image_and_the_same_one_bent_by_what_is_said_to_be_true():
    training = register_training("displacement_simulated", {})
    source, (fixed, moving, truth) = pair_sampler(PAIRS, training, [1, 2])(np.random.default_rng(0), 2)
    for pair, a, b, field in zip(source, fixed, moving, truth, strict=True):
        assert float(np.linalg.norm(field, axis=0).max()) > 1
        by = torch.from_numpy(field)[None]
        assert np.array_equal(warp(torch.from_numpy(pair[None, 1:]), by)[0, 0].numpy(), pair[0])
        assert np.array_equal(warp(torch.from_numpy(b[None]), by)[0].numpy(), a)


def test_random_displacements_have_no_folds_and_the_turns_and_shifts_that_are_asked_for():
    rng = np.random.default_rng(1)
    bent = random_displacement((20, 24, 20), rng, BEND | {"spread": 6.0, "knots": 6})
    assert np.abs(bent).max() > 2
    assert folded_percent(bent) == 0
    stiff = random_displacement((20, 24, 20), rng, BEND | {"turn_deg": 5.0, "shift": 2.0, "stretch": 0.05})
    assert np.abs(np.diff(stiff, n=2, axis=1)).max() < 1e-4
    assert np.abs(random_displacement((8, 8, 8), rng, BEND)).max() == 0


def test_gauss_newton_labels_pairs_that_have_no_label_of_their_own():
    known, unknown = PAIRS[0], ImagePair(PAIRS[0].fixed, PAIRS[0].moving)
    one, two = with_classical([known, unknown], 6.0)
    assert one is known
    assert two.displacement is not None
    assert known.displacement is not None
    inside = PAIRS[0].fixed > 0.2
    assert np.linalg.norm(two.displacement - known.displacement, axis=0)[inside].mean() < 0.6


def test_moved_labels_and_inverse_errors_are_those_of_a_shift():
    assert PAIRS[0].labels is not None
    labels = PAIRS[0].labels[1]
    shift = np.zeros((3, *SHAPE), np.float32)
    shift[0] = 2
    assert np.array_equal(moved_labels(labels, shift)[:-2], labels[2:])
    assert inverse_error(shift, -shift).max() == 0
    assert inverse_error(shift, shift).mean() == 4


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"objective": "squared_error"}, "not for networks that register"),
        ({"objective": "known_displacement"}, "classical or simulated"),
        ({"examples": "atlas"}, "no examples 'atlas'"),
        ({"pace": 3}, "no setting 'pace'"),
        ({"objective": {"name": "images_alike", "labels": 1.0}, "classes": [7]}, "none of those|no pair has any"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, training, words):
    with pytest.raises(Refused, match=words):
        trained(tmp_path / "m", **training)


def test_pairs_of_several_shapes_are_refused(tmp_path):
    other = ImagePair(np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32))
    for pairs in ([*PAIRS, other], []):
        with pytest.raises(Refused, match="one shape"):
            train_on_pairs(pairs, {"network": NETWORK}, 0, "cpu", tmp_path / "m", 6.0)


def test_objectives_of_registration_are_refused_by_other_trainings():
    from cohortex.training.settings import denoise_training

    with pytest.raises(Refused, match="for networks that register"):
        denoise_training({"default": {"training": {"objective": "images_alike"}}})
