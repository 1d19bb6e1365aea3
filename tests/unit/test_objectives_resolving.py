"""Objectives of super-resolution have their known values, and networks are trained with them."""

import math

import numpy as np
import pytest
import torch

from cohortex.models import registry
from cohortex.training import loop, objectives
from cohortex.training.objectives import resolving


def test_the_surprise_is_smallest_at_the_true_variance():
    error = 0.3 * torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    found = {
        variance: float(resolving.gaussian_surprise(torch.zeros_like(error), torch.full_like(error, math.log(variance)), error))
        for variance in (0.03, 0.06, 0.09, 0.13, 0.2)
    }
    assert min(found, key=lambda v: found[v]) == 0.09
    assert found[0.09] == pytest.approx(0.5 * (1 + math.log(0.09)), abs=0.01)


def test_the_surprise_and_the_texture_distance_have_right_gradients():
    def double(*shape, seed=0):
        return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()

    target = double(1, 1, 3, 3).detach()
    assert torch.autograd.gradcheck(
        lambda m, v: resolving.gaussian_surprise(m, v, target), (double(1, 1, 3, 3), double(1, 1, 3, 3, seed=1))
    )
    other, variances = [double(2, 3, 4, 4, seed=2).detach()], [torch.ones(3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda m: resolving.texture_distance([m], other, variances), double(2, 3, 4, 4, seed=3))


def test_the_texture_distance_does_not_see_where_things_are_but_sees_what_goes_together():
    features = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    variances = [features.var((0, 2, 3))]
    moved = features.flatten(2)[..., torch.randperm(36, generator=torch.Generator().manual_seed(1))].reshape(features.shape)
    assert float(resolving.texture_distance([features], [moved], variances)) == pytest.approx(0, abs=1e-9)
    apart = features.clone()
    apart[:, 0] = -apart[:, 0]
    assert float(resolving.texture_distance([features], [apart], variances)) > 1e-4


def test_the_divergence_of_the_weights_counts_less_with_more_voxels():
    network = loop.fresh(lambda: registry.build("superresolve", "bayesian_espcn"), 0).train()
    x, y = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 8)
    few, many = (objectives.build({"name": "heteroscedastic", "voxels": voxels}) for voxels in (1e3, 1e6))
    one, other = few.loss(network, x, y, 0), many.loss(network, x, y, 0)
    assert float((one - other).detach()) == pytest.approx(float(network.divergence().detach()) * (1e-3 - 1e-6), rel=1e-3)


def test_a_network_without_a_variance_learns_by_the_squared_error():
    network = loop.fresh(lambda: registry.build("superresolve", "bayesian_espcn", variance=False, dropout=False), 0).train()
    x, y = torch.rand(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 8)
    found = objectives.build("heteroscedastic").loss(network, x, y, 0)
    assert float(found) == pytest.approx((network(x) - y).square().mean().item(), rel=1e-5)


def trained(name, options, objective, steps, rate=3e-3):
    """Return a network trained on one patch whose target has other noise in every step, the patch, a target and the curves."""
    network = loop.fresh(lambda: registry.build("superresolve", name, **options), 1)
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(2, network.channels, 10, 10, 10)), 3), 4).astype(np.float32)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    target = smooth[:, :1] if network.grid == "fine" else np.repeat(smooth[:, :1], 2, 4)

    def noisy(draw):
        return target + 0.1 * draw.normal(size=target.shape).astype(np.float32)

    curves = loop.fit(network, lambda draw, _: (smooth, noisy(draw)), objectives.build(objective), steps=steps, seed=3, batch=2, rate=rate)
    return network, smooth, noisy(rng), curves


def test_a_training_by_likelihood_finds_the_noise_of_its_target():
    network, source, target, _ = trained("bayesian_espcn", {}, {"name": "heteroscedastic", "voxels": 1e9}, 80, 1e-2)
    mean, intrinsic, _ = network.predict(torch.from_numpy(source), 4)
    error = float((mean - torch.from_numpy(target)).square().mean())
    assert 0.5 < float(intrinsic.mean()) / error < 2


def test_a_training_by_likelihood_is_repeatable():
    one, other = (trained("bayesian_espcn", {}, "heteroscedastic", 3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_progressive_training_against_its_critic_runs_and_is_repeatable():
    objective = {"name": "progressive_gan_features", "feature_steps": 2, "feature_width": 2, "width": 2}
    options = {"width": 4, "blocks": 1}
    network, *_, curves = trained("progressive_sr", options, objective, 2)
    again, *_ = trained("progressive_sr", options, objective, 2)
    assert curves.steps == 2
    assert np.isfinite(curves.loss).all()
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))
    untrained = loop.fresh(lambda: registry.build("superresolve", "progressive_sr", **options), 1)
    assert any(not torch.equal(a, b) for a, b in zip(network.state_dict().values(), untrained.state_dict().values(), strict=True))
