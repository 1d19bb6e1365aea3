"""Rare classes, orders of examples and sub-classes: what the training of a classifier does about them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cohortex.errors import Refused
from cohortex.models.classify.committee import Committee, OwnScale, as_one, composed, own_scale
from cohortex.models.classify.fusion import Fusion, fuse, shift_of
from cohortex.models.registry import build, count_parameters
from cohortex.training.balance import BALANCES, loss_for, one_pass
from cohortex.training.classify import expected_shares
from cohortex.training.classify_network import Budget, Start, train_network
from cohortex.training.curriculum import easiest, losses_of
from cohortex.training.decompose import subclasses
from cohortex.training.transfer import class_tensors, fit_head

Y = np.array([0] * 90 + [1] * 10)


def shares(balance: str) -> np.ndarray:
    """Return the probabilities that a network would learn which sees nothing of its examples."""
    logits = torch.zeros(2, requires_grad=True)
    loss, target = loss_for(balance, Y, 2, "cpu", smoothing=0.0), torch.from_numpy(Y)
    optimiser = torch.optim.LBFGS([logits], max_iter=100)

    def step():
        optimiser.zero_grad()
        value = loss(logits.expand(len(Y), 2), target)
        value.backward()
        return value

    optimiser.step(step)  # pyright: ignore[reportArgumentType]
    return logits.detach().softmax(0).numpy()


def test_without_balance_probabilities_are_frequencies_and_with_it_they_are_even():
    assert shares("none") == pytest.approx([0.9, 0.1], abs=1e-3)
    for balance in ("weights", "focal", "logit_adjust"):
        assert shares(balance) == pytest.approx([0.5, 0.5], abs=1e-3)


def test_the_focal_loss_is_the_published_formula():
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.5]])
    target = torch.tensor([0, 1, 1])
    p = logits.softmax(1)[torch.arange(3), target].numpy()
    expected = np.mean(-((1 - p) ** 2) * np.log(p))
    assert float(loss_for("focal", np.array([0, 1]), 2, "cpu")(logits, target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balance", BALANCES)
def test_a_pass_shows_every_example_and_with_sampling_every_class_as_often(balance):
    rows = one_pass(balance, Y, np.arange(100), np.random.default_rng(1))
    counts = np.bincount(Y[rows])
    assert counts.tolist() == ([50, 50] if balance == "sampling" else [90, 10])
    if balance == "sampling":
        assert np.bincount(rows[Y[rows] == 1])[90:].tolist() == [5] * 10
    else:
        assert sorted(rows) == list(range(100))


def test_a_curriculum_begins_with_the_easiest_of_each_class_and_ends_with_all():
    hardness = np.random.default_rng(0).random(100)
    first, later, last = (easiest(hardness, Y, done) for done in (0.0, 0.25, 0.5))
    assert np.bincount(Y[first]).tolist() == [27, 3]
    assert hardness[first][Y[first] == 0].max() <= np.sort(hardness[:90])[26]
    assert set(first) < set(later) < set(last) == set(range(100))
    logs = np.log([[0.9, 0.1], [0.4, 0.6]])
    assert losses_of(logs, np.array([0, 0])) == pytest.approx([-np.log(0.9), -np.log(0.4)])


def test_a_class_of_two_kinds_is_cut_into_them():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 30))
    y, kind = np.arange(80) % 2, np.arange(80) // 2 % 2
    features[:, 5] += 12 * kind * (y == 0)
    found = subclasses(features, y, 2, 7)
    assert (found // 2 == y).all()
    assert len(set(zip(kind[y == 0], found[y == 0], strict=True))) == 2
    assert subclasses(features[:5], y[:5], 2, 7)[y[:5] == 1].tolist() == [2, 2]


def test_probabilities_of_subclasses_add_up_and_those_of_members_are_averaged():
    logs = torch.log_softmax(torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    assert composed(logs, 3).exp().numpy() == pytest.approx(logs.exp().unflatten(1, (2, 3)).sum(2).numpy(), abs=1e-6)

    class Mean(torch.nn.Module):
        def __init__(self, gain: float):
            super().__init__()
            self.gain = gain

        def forward(self, x):
            left = x[:, 0, 0].mean(dim=1)
            return torch.stack([self.gain * left, torch.zeros_like(left)], dim=1)

    x = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    views = [Mean(g)(v).softmax(1) for g in (1.0, 3.0) for v in (x, x.flip(2))]
    found = Committee([Mean(1.0), Mean(3.0)], mirrored=True)(x).exp()
    assert found.numpy() == pytest.approx(torch.stack(views).mean(0).numpy(), abs=1e-6)
    alone = Mean(2.0)
    assert as_one([alone]) is alone


def test_the_head_is_found_and_learns_as_scikit_learn_does():
    from sklearn.linear_model import LogisticRegression

    options = {"widths": [4, 8], "classes": 2, "channels": 1}
    assert class_tensors("smallresnet2d", options) == ["head.weight", "head.bias"]
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    features = rng.normal(3, 5, (60, 6)) + y[:, None] * 2
    layer = torch.nn.Linear(6, 2)
    strength = fit_head(layer, features, y, np.arange(60), "weights", 1)
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(scaled, y).predict_proba(scaled)
    ours = layer(torch.from_numpy(features).float()).softmax(1).detach().numpy()
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_the_small_network_of_pictures_takes_any_size_and_every_weight_learns():
    network = build("classify", "smallresnet2d", channels=3, classes=4)
    assert count_parameters(network) == 308_116
    logits = network(torch.randn(2, 3, 21, 30, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 4)
    logits[:, 0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in network.named_parameters() if "head" not in name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("googlenet", {"width": 0.05, "stem": "small", "norm": "batch", "auxiliary": True}),
        ("deep_belief", {"grid": 6, "widths": [10, 8]}),
    ],
)
def test_further_heads_and_layers_that_are_trained_one_by_one_are_learned_too(name, options):
    rng = np.random.default_rng(0)
    inputs, y = rng.random((12, 1, 24, 24)).astype(np.float32), np.arange(12) % 2
    start = Start(name, {"dimensions": 2, **options})
    untrained = train_network(inputs, y, 2, 5, Budget(steps=0, batch=4), start=start)[0].state_dict()
    network, facts = train_network(inputs, y, 2, 5, Budget(steps=2, batch=4, average=0.5), start=start)
    assert facts["steps"] == 2
    changed = {key.split(".")[0] for key, value in network.state_dict().items() if not torch.equal(value, untrained[key])}
    if name == "googlenet":
        assert {"head", "auxiliary"} <= changed
    else:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            fresh = build("classify", name, channels=1, classes=2, **start.options).state_dict()
        assert any(not torch.equal(fresh[key], untrained[key]) for key in fresh if not key.startswith("head"))
        assert torch.equal(fresh["head.weight"], untrained["head.weight"])


def test_probabilities_are_told_for_the_expected_shares():
    """Bayes' rule: two normal classes, used where they have other shares; the threshold lies where both are as likely."""
    y = np.repeat([0, 1], [900, 100])
    x = np.linspace(-3, 3, 61)
    logs = np.log(np.stack([0.9 * np.exp(-((x + 1) ** 2) / 2), 0.1 * np.exp(-((x - 1) ** 2) / 2)], axis=1))
    plain = Fusion(np.ones(1), np.ones(1))
    for expected, threshold in (([0.5, 0.5], 0.0), ([0.9, 0.1], np.log(9) / 2), ([0.2, 0.8], np.log(0.25) / 2)):
        told, parts = fuse([logs], replace(plain, shift=shift_of(expected, y)))
        assert told[:, 1] == pytest.approx(1 / (1 + np.exp(-2 * (x - threshold))))
        assert parts[0] == pytest.approx(told)
    assert fuse([logs], replace(plain, shift=shift_of([0.9, 0.1], y)))[0] == pytest.approx(fuse([logs], plain)[0])


@pytest.mark.parametrize(
    ("asked", "balance", "sentence"),
    [
        ({"a": 0.5, "c": 0.5}, "none", "give each of the classes a, b"),
        ({"a": 0.5, "b": 0.1}, "none", "1 in all"),
        ({"a": 0.5, "b": 0.5}, "weights", "balance is weights"),
    ],
)
def test_expected_shares_of_other_classes_are_refused(asked, balance, sentence):
    with pytest.raises(Refused, match=sentence):
        expected_shares(asked, ["a", "b"], balance)
    assert expected_shares(None, ["a", "b"], "weights") is None


def test_every_second_member_sees_inputs_in_their_own_scale():
    x = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(1)) * 7 + 3
    seen = own_scale(x)
    assert seen[:, 0].mean(dim=(1, 2)).numpy() == pytest.approx(np.zeros(3), abs=1e-6)
    assert seen[:, 0].std(dim=(1, 2), correction=0).numpy() == pytest.approx(np.ones(3), abs=1e-5)
    assert torch.equal(seen[:, 1:], x[:, 1:]), "labels stay"
    assert own_scale(torch.full((1, 1, 3, 3), 5.0)).abs().max() == 0
    members = [build("classify", "smallresnet2d", widths=[4, 8], channels=2).eval() for _ in range(3)]
    found = as_one(members, own_scale=True)(x).exp()
    each = [member(view).softmax(1) for member, view in zip(members, (x, seen, x), strict=True)]
    assert found.detach().numpy() == pytest.approx(torch.stack(each).mean(0).detach().numpy(), abs=1e-6)
    assert isinstance(as_one(members[:2], own_scale=True).members[1], OwnScale)
