"""The detector of motion learns from what k-space says, in the order that it is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cohortex.measures.classification import auc
from cohortex.models import registry
from cohortex.training.motion import (
    Recipe,
    draw_examples,
    fit_motion_detector,
    motion_probability,
    schedule,
    spoiled,
    standardised,
    train_motion_detector,
)


def heads(count: int, seed: int, ny: int = 48, nx: int = 40) -> list[np.ndarray]:
    """Bright rings around darker, structured discs."""
    rng, made = np.random.default_rng(seed), []
    y, x = np.ogrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j]
    for _ in range(count):
        a, b = rng.uniform(0.55, 0.8, 2)
        radius = np.hypot(y / a, x / b)
        image = 1.0 * ((radius < 1) & (radius > 0.88)) + 0.5 * (radius < 0.8)
        for _ in range(4):
            cy, cx = rng.uniform(-0.4, 0.4, 2)
            image -= rng.uniform(-0.2, 0.3) * (np.hypot(y - cy, x - cx) < 0.15)
        made.append(np.maximum(image, 0).astype(np.float32))
    return made


QUICK = Recipe(steps=60, batch=10, easiest=4.0, hardest=1.0, noise=(0.0, 0.02), vary=None)
SMALL = {"widths": [8, 12, 16]}


def test_the_network_has_the_parameters_that_it_says_and_takes_any_slice() -> None:
    import torch

    network = registry.build("classify", "motioncnn2d").eval()
    assert registry.count_parameters(network) == 29_322
    for shape in ((16, 16), (61, 47)):
        assert network(torch.zeros(2, 1, *shape)).shape == (2, 2)


def test_a_still_slice_is_the_slice_and_a_moved_one_is_further_from_it_the_more_it_moved() -> None:
    image = heads(1, 0)[0]
    np.testing.assert_allclose(spoiled(image, 0.0, 0.0, np.random.default_rng(0)), image, atol=1e-5)
    errors = [
        np.mean([np.abs(spoiled(image, size, 0.0, np.random.default_rng(seed)) - image).mean() for seed in range(6)])
        for size in (0.3, 1.0, 3.0)
    ]
    assert 1e-3 < errors[0] < errors[1] < errors[2]
    noisy = spoiled(image, 0.0, 0.05, np.random.default_rng(1))
    air = image == 0
    assert noisy[air].mean() == pytest.approx(0.05 * np.percentile(image, 99.5) * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh


def test_half_of_the_examples_move_and_their_severity_lies_in_the_range() -> None:
    made = draw_examples(heads(3, 1), 40, QUICK, np.random.default_rng(0))
    assert made.inputs.shape == (40, 1, 48, 40) and made.inputs.dtype == np.float32
    assert not made.severity[::2].any()
    assert ((made.severity[1::2] >= 1.0) & (made.severity[1::2] <= 4.0)).all()
    again = draw_examples(heads(3, 1), 40, QUICK, np.random.default_rng(0))
    assert np.array_equal(made.inputs, again.inputs)
    varied = draw_examples(heads(3, 1), 4, replace(QUICK, vary=Recipe().vary), np.random.default_rng(0))
    assert np.isfinite(varied.inputs).all() and varied.inputs.max() <= np.sqrt(2) + 1e-6


def test_the_curriculum_shows_every_example_once_the_severe_ones_first() -> None:
    severity = np.zeros(400)
    severity[1::2] = np.random.default_rng(0).uniform(0.3, 3.0, 200)
    for order in ("curriculum", "random"):
        shown = schedule(severity, replace(QUICK, order=order), np.random.default_rng(1))
        assert np.array_equal(np.sort(shown), np.arange(400))
        assert not severity[shown[0::2]].any() and severity[shown[1::2]].all()
        parts = severity[shown[1::2]].reshape(4, 50).mean(axis=1)
        if order == "curriculum":
            assert parts[0] > 2.3 and parts[0] > parts[1] > parts[2:].max()
            first = severity[shown[1]]
            assert first >= np.quantile(severity[1::2], 0.74)
        else:
            assert np.array_equal(shown, np.arange(400))
    strict = schedule(severity, replace(QUICK, paced=1.0), np.random.default_rng(1))
    assert np.corrcoef(np.arange(200), severity[strict[1::2]])[0, 1] < -0.7


def test_standardised_slices_do_not_depend_on_the_scanners_unit() -> None:
    image = np.stack(heads(2, 0))
    np.testing.assert_allclose(standardised(image * 1000), standardised(image), rtol=1e-5)
    assert np.isfinite(standardised(np.zeros((1, 16, 16)))).all()


def test_the_detector_learns_to_tell_heads_apart_that_it_never_saw_and_repeats_itself() -> None:
    network, losses = train_motion_detector(heads(12, 2), 3, QUICK, options=SMALL)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    rng = np.random.default_rng(9)
    slices = [spoiled(image, 3.0 * (index % 2), 0.01, rng) for index, image in enumerate(heads(60, 77))]
    probability = motion_probability(network, np.stack(slices))
    assert ((probability >= 0) & (probability <= 1)).all()
    assert auc(np.arange(60) % 2 == 1, probability) > 0.85
    few = replace(QUICK, steps=3)
    made = draw_examples(heads(4, 1), 30, few, np.random.default_rng(0))
    weights = [fit_motion_detector(made, 1, few, options=SMALL)[0].state_dict()["head.weight"].numpy() for _ in range(2)]
    assert np.array_equal(*weights)
