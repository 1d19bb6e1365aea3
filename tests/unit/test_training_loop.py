"""The training loop falls, repeats, resumes and keeps to its budget."""

import json

import numpy as np
import pytest
import torch

from cohortex.training import loop, patches


def network():
    return loop.fresh(lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)), 5)


def sample(rng):
    x = rng.normal(size=(16, 4)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


def error(made, target):
    return ((made - target) ** 2).mean()


def bytes_of(net):
    return b"".join(v.numpy().tobytes() for v in net.state_dict().values())


def test_the_loss_falls():
    curves = loop.fit(network(), sample, error, steps=200, seed=1, rate=1e-2)
    assert curves.steps == 200
    assert curves.loss[-1] < 0.2 * curves.loss[0]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not():
    made = []
    for seed in (1, 1, 2):
        net = network()
        loop.fit(net, sample, error, steps=20, seed=seed)
        made.append(bytes_of(net))
    assert made[0] == made[1] != made[2]


def test_torchs_own_generator_is_left_alone():
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    network()
    assert torch.equal(first, torch.rand(1))


@pytest.mark.parametrize("killed_at", [1, 7, 19])
def test_a_killed_training_that_is_resumed_gives_the_bytes_of_one_that_was_not(tmp_path, killed_at):
    whole = network()
    loop.fit(whole, sample, error, steps=20, seed=1)

    class KilledError(Exception):
        pass

    drawn = []

    def sample_until(rng):
        drawn.append(1)
        if len(drawn) > killed_at:
            raise KilledError
        return sample(rng)

    with pytest.raises(KilledError):
        loop.fit(network(), sample_until, error, steps=20, seed=1, checkpoint=tmp_path / "c", every_s=0)
    resumed, rest = network(), []
    curves = loop.fit(resumed, lambda rng: (rest.append(1), sample(rng))[1], error, steps=20, seed=1, checkpoint=tmp_path / "c", every_s=0)
    assert bytes_of(resumed) == bytes_of(whole)
    assert len(rest) == 20 - killed_at
    assert curves.steps == 20


def test_the_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=tmp_path / "c")
    drawn = []
    loop.fit(network(), lambda rng: (drawn.append(1), sample(rng))[1], error, steps=5, seed=2, checkpoint=tmp_path / "c")
    assert len(drawn) == 5


def test_half_a_checkpoint_is_not_taken_up(tmp_path):
    loop.fit(network(), sample, error, steps=5, seed=1, checkpoint=tmp_path / "c")
    note = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**note, "sha256": "0" * 64}))
    drawn = []
    loop.fit(network(), lambda rng: (drawn.append(1), sample(rng))[1], error, steps=5, seed=1, checkpoint=tmp_path / "c")
    assert len(drawn) == 5


def test_the_minutes_end_a_training_and_it_says_so():
    curves = loop.fit(network(), sample, error, steps=10**6, seed=1, minutes=0.002)
    assert curves.stopped == "minutes"
    assert 0 < curves.steps < 10**6


def test_validation_sees_the_averaged_weights_and_changes_nothing():
    plain, validated = network(), network()
    loop.fit(plain, sample, error, steps=20, seed=1)
    seen = []
    curves = loop.fit(validated, sample, error, steps=20, seed=1, validate=lambda net: (seen.append(bytes_of(net)), 1.5)[1])
    assert bytes_of(plain) == bytes_of(validated) == seen[-1]
    assert [step for step, _ in curves.validation] == [4, 8, 12, 16, 20]


def test_a_layer_with_no_share_of_the_rate_stays_as_it_is():
    net = network()
    before = net[2].weight.clone()
    loop.fit(net, sample, error, steps=5, seed=1, slower={"2.": 0.0})
    assert torch.equal(net[2].weight, before)
    assert not torch.equal(net[0].weight, network()[0].weight)


def test_the_rate_rises_to_its_largest_value_and_falls_to_zero():
    rates = [loop.schedule(step, 100) for step in range(100)]
    assert max(rates) == 1
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] < 0.01


def test_a_patch_holds_foreground_and_lies_inside():
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30, 10), bool)
    mask[15:, :4, 8:] = True
    places = patches.places(mask, rng)
    for _ in range(50):
        box = patches.random_box(mask.shape, (6, 6, 40), rng, places)
        assert [b - a for a, b in box] == [6, 6, 10]
        assert all(0 <= a < b <= n for (a, b), n in zip(box, mask.shape, strict=True))
        assert mask[tuple(slice(a, b) for a, b in box)].any()


def test_turning_keeps_input_and_target_together():
    rng = np.random.default_rng(0)
    array = rng.random((5, 5, 4))
    results = set()
    for _ in range(300):
        a, b = patches.turned([array, array * 2], rng, swap=(0, 1))
        np.testing.assert_array_equal(a * 2, b)
        results.add(a.tobytes())
    assert len(results) == 16
