"""Losses of segmentation: known values, gradients, and which error costs what."""

import math

import numpy as np
import pytest
import torch

from cohortex.errors import Refused
from cohortex.training.objectives.labels import LOSSES, border_weights, loss_of, multi_scale_l1, one_hot, signed_distance

LABELS = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 2, 2], [0, 0, 0, 0]]])
SMOOTH = [name for name in LOSSES if name not in ("bootstrapped_cross_entropy",)]


def sure(labels, by=30.0, classes=3):
    return by * (2 * one_hot(labels, classes).double() - 1)


@pytest.mark.parametrize("name", LOSSES)
def test_true_labels_cost_least_and_wrong_ones_more(name):
    loss = loss_of(name)
    right, wrong = float(loss(sure(LABELS), LABELS)), float(loss(sure((LABELS + 1) % 3), LABELS))
    # two distances to borders are negative within: their least is below 0
    assert right < 1e-2
    assert wrong > right + 0.3
    if name != "boundary":
        assert right > -1e-6


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_is_that_of_small_steps(name):
    generator = torch.Generator().manual_seed(0)
    # far from ties, where the label that the Hausdorff loss looks at would jump
    logits = (sure(LABELS, 0.5) + 0.2 * torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(name)(x, LABELS), (logits,), atol=1e-5)


def test_known_values():
    nothing = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    assert float(loss_of("cross_entropy")(nothing, LABELS)) == pytest.approx(math.log(3))
    assert float(loss_of("likelihood")(nothing, LABELS)) == pytest.approx(16 * math.log(3))
    assert float(loss_of("binary_cross_entropy")(nothing, LABELS)) == pytest.approx(math.log(2))
    assert float(loss_of("focal")(nothing, LABELS)) == pytest.approx((2 / 3) ** 2 * math.log(3))
    # three voxels of each of two classes, a third of sixteen is said of each: 2 x 1 / (3 + 16 / 3)
    assert float(loss_of("dice")(nothing, LABELS)) == pytest.approx(1 - 2 / (3 + 16 / 3), abs=1e-4)
    assert float(loss_of("squared_dice")(nothing, LABELS)) == pytest.approx(1 - 2 / (3 + 16 / 9), abs=1e-4)
    index = 1 / (1 + 0.3 * 13 / 3 + 0.7 * 2)
    assert float(loss_of("tversky")(nothing, LABELS)) == pytest.approx(1 - index, abs=1e-4)
    assert float(loss_of("focal_tversky")(nothing, LABELS)) == pytest.approx((1 - index) ** 0.75, abs=1e-4)


def test_losses_that_are_one_with_certain_options():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 3, 4, 4, generator=generator)

    def value(name, **options):
        return float(loss_of({"name": name, **options})(x, LABELS))

    assert value("focal", gamma=0.0) == pytest.approx(value("cross_entropy"), rel=1e-5)
    assert value("tversky", alpha=0.5, beta=0.5) == pytest.approx(value("dice"), rel=1e-4)
    assert value("focal_tversky", gamma=1.0) == pytest.approx(value("tversky"), rel=1e-5)
    assert value("weighted_cross_entropy", power=0.0) == pytest.approx(value("cross_entropy"), rel=1e-5)
    assert value("bootstrapped_cross_entropy", share=1.0) == pytest.approx(value("cross_entropy"), rel=1e-5)
    assert value("combo", alpha=0.0) == pytest.approx(value("dice"), rel=1e-5)
    assert value("boundary", weight=0.0) == pytest.approx(value("generalised_dice"), rel=1e-5)
    assert value("hausdorff", weight=0.0) == pytest.approx(value("dice"), rel=1e-5)
    assert value("dice_cross_entropy", dice_weight=0.0) == pytest.approx(value("cross_entropy"), rel=1e-5)
    assert value("cross_entropy", weights=[1.0, 1.0, 1.0]) == pytest.approx(value("cross_entropy"), rel=1e-5)


def too_much_and_too_little():
    """Return logits that say a voxel too many and one too few of the only foreground class, equally sure."""
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[0, 2:4, 2:4] = 1
    more, less = labels.clone(), labels.clone()
    more[0, 2, 4] = 1
    less[0, 2, 2] = 0
    return labels, sure(more, 3.0, 2), sure(less, 3.0, 2)


@pytest.mark.parametrize(("name", "towards"), [("combo", {"beta": 0.8}), ("tversky", {"alpha": 0.2, "beta": 0.8})])
def test_an_option_trades_false_positives_for_false_negatives(name, towards):
    labels, more, less = too_much_and_too_little()
    away = {key: 1 - value for key, value in towards.items()}
    for options, dearer, cheaper in ((towards, less, more), (away, more, less)):
        loss = loss_of({"name": name, **options})
        if name == "combo":
            loss = loss_of({"name": name, "alpha": 1.0, **options})
        assert loss(dearer, labels) > loss(cheaper, labels)


def test_a_rare_class_counts_by_its_weight():
    labels = torch.zeros(1, 10, 10, dtype=torch.long)
    labels[0, 0, 0] = 1
    missed = sure(torch.zeros_like(labels), 4.0, 2)
    plain, weighted = (float(loss_of(name)(missed, labels)) for name in ("cross_entropy", "weighted_cross_entropy"))
    assert weighted > 4 * plain


def test_an_error_far_from_the_border_costs_more_by_its_distance():
    labels = torch.zeros(1, 12, 12, dtype=torch.long)
    labels[0, 4:8, 4:8] = 1
    for name in ("boundary", "hausdorff"):
        costs = []
        for column in (8, 11):
            said = labels.clone()
            said[0, 5, column] = 1
            costs.append(float(loss_of({"name": name, "weight": 1.0})(sure(said, classes=2), labels)))
        assert costs[1] > costs[0]


def test_distances_to_a_border_change_sign_at_it():
    labels = np.array([[0, 0, 1, 1, 0]])
    away = signed_distance(labels, 2)
    assert away[1].tolist() == [[1.5, 0.5, -0.5, -0.5, 0.5]]
    assert not signed_distance(np.zeros((2, 2), int), 2).any()


def test_the_gap_between_two_cells_counts_most():
    labels = np.zeros((20, 20), int)
    labels[5:15, 3:9] = labels[5:15, 11:17] = 1
    weights = border_weights(labels)
    assert weights[10, 9:11].min() > 5
    assert weights[labels > 0].max() == 1
    assert weights[10, 0] < weights[10, 9]
    # narrower is heavier, and one cell alone has no gap
    labels[5:15, 10] = 1
    assert border_weights(labels)[10, 9] > weights[10, 9]
    assert (border_weights((labels > 0) & (np.arange(20) < 9)) == 1).all()


def test_features_of_what_is_said_and_what_is_true_are_alike_when_it_is():
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, stride=2)

    def features(x):
        a = torch.relu(first(x))
        return [x, a, second(a)]

    image = torch.rand(1, 1, 4, 4)
    right = float(multi_scale_l1(features, image, sure(LABELS).float(), LABELS).detach())
    wrong = float(multi_scale_l1(features, image, sure((LABELS + 1) % 3).float(), LABELS).detach())
    assert right < 1e-6 < 0.05 < wrong


def test_an_unknown_loss_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="Did you mean tversky"):
        loss_of("tverski")
    with pytest.raises(Refused, match="no option 'beta'"):
        loss_of({"name": "focal", "beta": 1})
