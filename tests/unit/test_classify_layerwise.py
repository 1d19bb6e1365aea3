"""Networks whose layers are trained one after another: machines of contrastive divergence, their likelihood, and stacks of layers."""

import pytest
import torch

from cohortex.models.classify.boltzmann import Boltzmann, layered_bound
from cohortex.models.classify.layerwise import DeepBelief, StackedAutoencoder
from tests.unit.test_classify_networks import built


def bars(number, seed=0, edge=4):
    """Return binary pictures of bars, all across one axis: the data of many papers on Boltzmann machines."""
    generator = torch.Generator().manual_seed(seed)
    lit = (torch.rand(number, edge, 1, generator=generator) < 0.4).float().expand(-1, -1, edge)
    across = torch.rand(number, generator=generator) < 0.5
    return torch.where(across[:, None, None], lit, lit.transpose(1, 2))[:, None].contiguous()


def test_the_partition_function_from_either_side_is_the_sum_over_all_states_and_annealing_finds_it():
    torch.manual_seed(0)
    machine = Boltzmann(5, 7)
    with torch.no_grad():
        for value in machine.parameters():
            value.copy_(torch.randn_like(value))
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    by_hand = float(torch.logsumexp(-machine.free_energy(states).detach().double(), 0))
    assert machine.log_partition() == pytest.approx(by_hand, abs=1e-4)
    mirrored = Boltzmann(7, 5)
    with torch.no_grad():
        mirrored.weight.copy_(machine.weight.T)
        mirrored.bias_visible.copy_(machine.bias_hidden)
        mirrored.bias_hidden.copy_(machine.bias_visible)
    assert mirrored.log_partition() == pytest.approx(by_hand, abs=1e-4)
    found, error = machine.annealed_log_partition(runs=100, temperatures=300)
    assert error < 0.1 and found == pytest.approx(by_hand, abs=0.2)
    with pytest.raises(ValueError, match="annealed"):
        Boltzmann(30, 30).log_partition()


def test_contrastive_divergence_raises_the_likelihood():
    values, held = bars(400).flatten(1), bars(200, seed=1).flatten(1)
    torch.manual_seed(0)
    machine = Boltzmann(16, 12)
    likelihoods = []
    for epochs in (0, 12, 12):
        losses = machine.learn(values, epochs, rate=0.1, steps=1, seed=epochs)
        estimate, error = machine.annealed_log_partition(values.mean(0), runs=50, temperatures=200)
        assert error < 0.15 and estimate == pytest.approx(machine.log_partition(), abs=0.4)
        likelihoods.append(machine.log_likelihood(held, estimate))
    assert likelihoods[0] < likelihoods[1] < likelihoods[2]
    # independent units cannot do better than their own entropies
    share = values.mean(0).clamp(0.01, 0.99)
    independent = float((held * share.log() + (1 - held) * (1 - share).log()).sum(1).mean())
    assert likelihoods[2] > independent + 1.5
    assert losses[-1] < losses[0]


def test_the_bound_of_one_machine_is_its_likelihood_and_a_second_one_that_copies_the_first_has_the_same():
    torch.manual_seed(0)
    first = Boltzmann(6, 4)
    with torch.no_grad():
        first.weight.mul_(100)
        first.bias_hidden.copy_(torch.randn(4))
    values = bars(30)[:, :, 0, :].flatten(1).repeat(1, 2)[:, :6]
    exact = first.log_likelihood(values, first.log_partition())
    assert layered_bound([first], values, first.log_partition()) == pytest.approx(exact, abs=1e-5)
    # upside down the second machine says of the first's hidden units what the first does, so that the bound is tight
    second = Boltzmann(4, 6)
    with torch.no_grad():
        second.weight.copy_(first.weight.T)
        second.bias_visible.copy_(first.bias_hidden)
        second.bias_hidden.copy_(first.bias_visible)
    assert layered_bound([first, second], values, second.log_partition(), draws=50) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("name", ["stacked_autoencoder", "deep_belief"])
def test_layers_are_trained_one_after_another_and_restore_better_and_better(name):
    network = built(name, {"grid": 4, "widths": [24, 12]})
    assert isinstance(network, StackedAutoencoder | DeepBelief)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, rate = bars(300), 0.02 if name == "stacked_autoencoder" else 0.3
    history = network.pretrain(x, epochs=12, rate=rate, seed=3)
    assert [len(losses) for losses in history] == [12, 12]
    assert all(losses[-1] < 0.9 * losses[0] for losses in history)
    changed = {key.split(".")[0] for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"layers" if name == "stacked_autoencoder" else "machines"}
    again = built(name, {"grid": 4, "widths": [24, 12]})
    assert isinstance(again, StackedAutoencoder | DeepBelief)
    assert again.pretrain(x, epochs=12, rate=rate, seed=3) == history


def test_a_trained_deep_belief_network_draws_bars():
    network = built("deep_belief", {"grid": 4, "widths": [16, 16]})
    assert isinstance(network, DeepBelief)
    network.pretrain(bars(400), epochs=25, rate=0.3)

    def striped(pictures):
        """Return the mean spread along the axis along which a picture's values are more alike."""
        square = pictures.reshape(-1, 4, 4)
        return float(torch.minimum(square.var(1).mean(1), square.var(2).mean(1)).mean())

    drawn = network.sampled(100, sweeps=50)
    assert drawn.shape == (100, 16)
    noise = torch.rand(100, 16, generator=torch.Generator().manual_seed(0))
    assert striped(drawn.round()) < 0.4 * striped(noise.round())
