"""The optimiser of orthogonal steps."""

import numpy as np
import pytest
import torch
from torch import nn

from cohortex.training.checkpoint import optimiser_tensors, restore_optimiser
from cohortex.training.loop import fit, fresh
from cohortex.training.muon import DECAY, Muon, of_kernels, orthogonal


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_singular_values_come_to_about_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrix = 1e-3 * torch.randn(shape)
    made = orthogonal(matrix)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ made @ v.T
    large = s > 0.05 * s.max()
    assert 0.6 < float(inside.diagonal()[large].min()) < float(inside.diagonal().max()) < 1.3
    assert float((inside - torch.diag(inside.diagonal())).abs().max()) < 1e-3


def test_a_gradient_of_zero_moves_nothing():
    assert float(orthogonal(torch.zeros(4, 6)).abs().max()) == 0


def test_what_is_no_kernel_goes_as_with_adamw():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(5, 3))
    theirs = nn.Parameter(ours.detach().clone())
    one, other = Muon([{"params": [ours]}], 1e-2, []), torch.optim.AdamW([theirs], lr=1e-2, weight_decay=DECAY)
    for _ in range(20):
        ours.grad = torch.randn(5, 3)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_step_of_a_kernel_is_as_large_as_one_of_adam():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3, 1))
    kernel.grad = 100 * torch.randn_like(kernel)
    Muon([{"params": [kernel]}], 1e-3, [kernel], faster=2.0).step()
    assert 0.2 < float(kernel.detach().square().mean().sqrt()) / (2 * 0.2e-3) < 1.2


def test_it_learns():
    """Two layers learn what two others do, from inputs of very different size."""
    torch.manual_seed(0)
    teacher, network = (nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12)) for _ in range(2))
    optimiser = Muon([{"params": list(network.parameters())}], 1e-3, [p for p in network.parameters() if p.ndim == 2], faster=2.5)
    sizes = torch.logspace(-1.5, 0.5, 12)
    losses = []
    for _ in range(300):
        x = torch.randn(64, 12) * sizes
        loss = (network(x) - teacher(x).detach()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.1 * losses[0]


def test_its_state_is_kept_by_a_checkpoint():
    def made():
        torch.manual_seed(0)
        layer = nn.Linear(6, 4)
        return layer, Muon([{"params": list(layer.parameters())}], 1e-2, [layer.weight])

    def step(layer, optimiser, number):
        layer.weight.grad = torch.full((4, 6), 1.0) + torch.eye(4, 6) * number
        layer.bias.grad = torch.arange(4.0) - number
        optimiser.step()

    whole, optimiser = made()
    for number in range(4):
        step(whole, optimiser, number)
    first, kept = made()
    for number in range(2):
        step(first, kept, number)
    second, fresh = made()
    second.load_state_dict(first.state_dict())
    restore_optimiser(fresh, optimiser_tensors(kept))
    for number in range(2, 4):
        step(second, fresh, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True))


def test_a_training_may_take_orthogonal_steps_for_kernels_between_several_channels():
    def network():
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))

    def draw(rng, count):
        x = rng.random((count, 1, 12, 12), np.float32)
        return x, (x[:, :, :-6, 3:-3] + x[:, :, 6:, 3:-3]) / 2

    built = fresh(network, 1)
    taken = of_kernels(built, [{"params": list(built.parameters())}], 1e-3).kernels
    assert taken == {id(built.get_parameter("2.weight"))}
    losses = {}
    for name in ("adam", "muon"):
        curves = fit(
            fresh(network, 1), draw, lambda made, target: ((made - target) ** 2).mean(), steps=40, seed=1, rate=2e-3, optimiser=name
        )
        losses[name] = curves.loss[-1]
    assert losses["muon"] < losses["adam"]
