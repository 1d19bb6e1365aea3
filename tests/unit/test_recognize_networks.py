"""Networks that recognise: each learns two tiny images by heart and finds what is there."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from cohortex.models import registry
from cohortex.models.recognize.boxes import Boxes, Found, none_of, overlaps
from cohortex.models.recognize.cascade import mixture_weights
from cohortex.models.recognize.mask import MaskedBoxes, pasted
from cohortex.models.recognize.yolo2 import folded
from cohortex.training.loop import fresh

SMALL = {"norm": "group", "backbone": [8, 16, 16]}
FASTER = {"filters": 16, "hidden": 32, "proposals": 20, "size": 4, "anchor": 3.0, "sampled_anchors": 64}
NETWORKS = {
    "patch_detector": {"norm": "group", "patch": 16, "filters": [6, 12], "hidden": 16},
    "faster_rcnn": {**SMALL, **FASTER},
    "mask_rcnn": {**SMALL, **FASTER, "mask_size": 6, "mask_convs": 1},
    "yolo": {**SMALL, "filters": 16, "largest": 32.0},
    "yolo2": {**SMALL, "filters": 16, "anchor": 4.0},
    "ssd": {**SMALL, "anchor": 3.0},
    "retinanet": {**SMALL, "filters": 16, "convs": 1, "anchor": 3.0},
    "windowed_retinanet": {**SMALL, "filters": 16, "convs": 1, "anchor": 3.0, "windows": [[0, 1], [0, 0.5]]},
    "cascade": {"norm": "group", "screening": [6, 12], "contexts": [8, 16], "filters": 6, "candidates": 6},
}
PLACES = {2: [[[6, 8, 16, 18], [28, 26, 38, 36]], [[20, 6, 30, 16]]], 3: [[[2, 4, 2, 10, 12, 10]], [[8, 2, 10, 16, 10, 18]]]}
EDGE = {2: 48, 3: 20}


def build(name: str, dimensions: int, **options) -> Any:
    return fresh(lambda: registry.build("recognize", name, **{"dimensions": dimensions, "classes": 2, **NETWORKS[name], **options}), 0)


def squares(dimensions: int) -> tuple[torch.Tensor, list[Boxes]]:
    """Bright squares or cubes of two classes (how bright) in two images."""
    images = 0.1 * torch.rand(2, 1, *[EDGE[dimensions]] * dimensions, generator=torch.Generator().manual_seed(0))
    targets = []
    for image, boxes in zip(images, PLACES[dimensions], strict=True):
        for number, box in enumerate(boxes):
            image[(0, *[slice(box[a], box[a + dimensions]) for a in range(dimensions)])] += 0.5 + 0.3 * (number % 2)
        targets.append(Boxes(torch.tensor(boxes, dtype=torch.float32), torch.arange(len(boxes)) % 2))
    return images, targets


def by_heart(network: nn.Module, images: torch.Tensor, targets: list, steps: int) -> list[float]:
    """Let a network learn images, the rate falling in the second half; return the losses."""
    optimiser, losses = torch.optim.AdamW(network.parameters(), lr=5e-3), []
    # some draw what they learn from; a seed of its own makes that the same in any order of tests
    torch.manual_seed(1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * min(1.0, 2 * (1 - step / steps))
        optimiser.zero_grad()
        loss: Any = network.loss(network(images), targets)  # type: ignore[operator]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    network.eval()
    return losses


@functools.cache
def learnt(name: str, dimensions: int) -> tuple[float, float, list[Found]]:
    images, targets = squares(dimensions)
    network = build(name, dimensions)
    losses = by_heart(network, images, targets, {("cascade", 3): 45, ("yolo", 3): 100, ("faster_rcnn", 2): 120}.get((name, dimensions), 60))
    with torch.inference_mode():
        return losses[0], losses[-1], network.detections(network(images), tuple(images.shape[2:]))


def agrees(found: list[Found], targets: list[Boxes], classes: bool = True) -> bool:
    """Whether every box was found; without `classes` whatever it is called."""
    for said, target in zip(found, targets, strict=True):
        for box, label in zip(target.corners, target.labels, strict=True):
            own = said.corners[said.labels == label] if classes else said.corners
            if not len(own) or overlaps(box[None], own).max() <= 0.5:
                return False
    return True


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mask_rcnn"])
def test_a_network_finds_the_squares_that_it_learnt(name):
    before, after, found = learnt(name, 2)
    assert after < 0.5 * before
    # Six candidates a step are too few for the cascade to tell two classes of brightness apart.
    assert agrees(found, squares(2)[1], classes=name != "cascade")


@pytest.mark.parametrize("name", ["faster_rcnn", "yolo", "yolo2", "ssd", "retinanet", "cascade"])
def test_a_network_finds_cubes_in_volumes(name):
    assert agrees(learnt(name, 3)[2], squares(3)[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_detections_are_sorted_cut_limited_and_above_the_score(name):
    images, _ = squares(2)
    images = images[..., :37]
    network = build(name, 2).eval()
    with torch.inference_mode():
        found = network.detections(network(images), (48, 37), score=0.0, overlap=0.2, most=7)
        none = network.detections(network(images), (48, 37), score=1.01)
    for said in found:
        assert 0 < len(said) <= 7
        assert (said.scores.diff() <= 0).all()
        assert (said.corners >= 0).all() and (said.corners[:, 2:] <= torch.tensor([48, 37])).all()
        for label in (0, 1):
            own = said.corners[said.labels == label]
            assert not len(own) or (overlaps(own, own).triu(1) <= 0.2).all()
    assert [len(said) for said in none] == [0, 0]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_without_anything_have_a_loss_with_gradients(name, dimensions):
    images, targets = squares(dimensions)
    network = build(name, dimensions)
    for given in ([none_of(dimensions), none_of(dimensions)], [targets[0], none_of(dimensions)]):
        network.zero_grad()
        loss = network.loss(network(images), given)
        loss.backward()
        assert loss.ndim == 0 and bool(torch.isfinite(loss)) and float(loss.detach()) > 0
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients and all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("entry", registry.entries("recognize"), ids=lambda e: e.name)
def test_dimensions_and_channels_are_the_options(entry):
    assert registry.expected(entry, {"dimensions": 3, "channels": 4}).dimensions == 3
    assert registry.expected(entry, {"dimensions": 3, "channels": 4}).channels == 4
    for options in ({"dimensions": 4}, {"classes": 0}):
        with pytest.raises(ValueError, match=r"dimensions is 2 or 3|classes is at least 1"):
            registry.build("recognize", entry.name, **options)


def discs() -> tuple[torch.Tensor, list[MaskedBoxes]]:
    """Bright discs in two pictures, with their pixels."""
    images = 0.1 * torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    targets = []
    for image, (cy, cx, r) in zip(images, ((14, 16, 7), (30, 28, 9)), strict=True):
        mask = (y - cy) ** 2 + (x - cx) ** 2 <= r * r
        image[0][mask] += 0.6
        targets.append(MaskedBoxes(torch.tensor([[cy - r, cx - r, cy + r, cx + r]]).float(), torch.tensor([0]), mask[None]))
    return images, targets


def test_masks_say_more_than_boxes():
    images, targets = discs()
    network = build("mask_rcnn", 2, classes=1, anchor=4.0)
    by_heart(network, images, targets, 60)
    with torch.inference_mode():
        found = network.detections(network(images), (48, 48))
    for said, target in zip(found, targets, strict=True):
        mask, true = said.masks[0], target.masks[0]
        whole = pasted(torch.ones(1, 2, 2), said.corners[:1], (48, 48))[0]
        shares = [float((said & true).sum() / (said | true).sum()) for said in (mask, whole)]
        assert shares[0] > max(0.75, shares[1] + 0.03)
        low, high = said.corners[0].chunk(2)
        inside = mask.nonzero() + 0.5
        assert ((inside >= low) & (inside <= high)).all()


def test_a_full_mask_fills_the_voxels_whose_middles_are_in_its_box():
    box = torch.tensor([[2.0, 3.0, 6.4, 9.6], [-3, -3, 2, 40]])
    made = pasted(torch.ones(2, 4, 4), box, (10, 12))
    assert made[0].nonzero().amin(0).tolist() == [2, 3] and made[0].nonzero().amax(0).tolist() == [5, 9]
    assert int(made[0].sum()) == 4 * 7 and int(made[1].sum()) == 2 * 12
    half = torch.zeros(1, 4, 4)
    half[:, :, 2:] = 1
    assert pasted(half, torch.tensor([[0.0, 0, 8, 8]]), (8, 8))[0].any(0).tolist() == [False] * 4 + [True] * 4


# --- what is published --------------------------------------------------------------------------------------------


def test_retinanet_of_the_paper_has_as_many_parameters_as_torchvision_counts():
    with torch.device("meta"):
        network = registry.build("recognize", "retinanet", channels=3, classes=91, backbone=50, first=1, further=2, filters=256)
    norms = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    # its norms are frozen and do not count: https://pytorch.org/vision/stable/models/retinanet.html
    assert registry.count_parameters(network) - norms == 34_014_999
    assert network.pyramid.strides == [8, 16, 32, 64, 128] and len(network.extents) == 9


def test_ssd_of_the_paper_has_26_3_million_parameters_and_8732_boxes():
    with torch.device("meta"):
        network = registry.build("recognize", "ssd", channels=3, classes=20, backbone="vgg16")
    assert registry.count_parameters(network) == 26_285_486
    maps = [torch.zeros(1, 1, n, n) for n in (38, 19, 10, 5, 3, 1)]
    network.extents = [torch.zeros(e.shape) for e in network.extents]
    anchors = network.anchors(type("Raw", (), {"classes": maps}))
    assert anchors.shape == (8732, 4)


# --- each network's own ------------------------------------------------------------------------------------------


def test_a_patch_says_the_same_alone_as_within_the_image():
    network = build("patch_detector", 2, norm="batch").eval()
    images, _ = squares(2)
    with torch.inference_mode():
        whole = network(images)
        assert whole.shape == (2, 2, 12, 12)
        for y, x in ((3, 4), (5, 8)):
            begin = [4 * i + 2 - 8 for i in (y, x)]
            patch = images[:, :, begin[0] : begin[0] + 16, begin[1] : begin[1] + 16]
            torch.testing.assert_close(network.layers(patch)[..., 0, 0], whole[..., y, x], atol=1e-5, rtol=1e-4)


def test_the_patch_detector_takes_notice_of_sizes_in_training_only():
    network = build("patch_detector", 2)
    images, targets = squares(2)
    network.eval()
    network.loss(network(images), targets)
    assert network.extents.unique().tolist() == [8]
    network.train()
    network.loss(network(images), [Boxes(torch.tensor([[0.0, 0, 6, 8], [9, 9, 13, 19]]), torch.zeros(2, dtype=torch.int64)), none_of(2)])
    assert network.extents.tolist() == [[5, 9], [8, 8]]
    assert "extents" in network.state_dict()


def test_focal_loss_and_matching_are_options_of_retinanet():
    images, targets = squares(2)
    values = {}
    for name, options in {
        "focal": {},
        "same": {"gamma": 0.0, "alpha": 0.5},
        "cross_entropy": {"loss": "cross_entropy"},
        "overlap": {"matching": "overlap"},
    }.items():
        network = build("retinanet", 2, **options)
        nn.init.zeros_(network.box_head[-1].weight)
        raw = network(images)
        values[name] = float(network.loss(raw, targets).detach())
        network.box_head[-1].bias.data.zero_()
    assert len(set(values.values())) == 4
    with pytest.raises(ValueError, match="matching"):
        build("retinanet", 2, matching="nearest")
    with pytest.raises(ValueError, match="loss"):
        network = build("retinanet", 2, loss="dice")
        network.loss(network(images), targets)


def test_one_cell_of_yolo_knows_one_thing():
    network = build("yolo", 2)
    images, targets = squares(2)
    same = Boxes(torch.tensor([[9.0, 9, 14, 14], [10, 10, 13, 13]]), torch.tensor([0, 1]))
    raw = network(images)
    last = Boxes(same.corners[1:], same.labels[1:])
    assert torch.equal(network.loss(raw, [same, targets[1]]), network.loss(raw, [last, targets[1]]))


def test_things_of_different_sizes_in_one_cell_of_yolo_with_priors_have_answers_of_their_own():
    network = build("yolo2", 2)
    both = Boxes(torch.tensor([[9.0, 9, 14, 14], [0, 0, 24, 24]]), torch.tensor([0, 1]))
    rows, which = network.answers(both, (6, 6))
    sizes = network.extents[rows % len(network.extents)][:, 0]
    assert set(which.tolist()) == {0, 1} and (rows // len(network.extents) == 7).all()
    assert sizes[which == 0].max() < sizes[which == 1].min()
    # what is folded comes back: every second place of the grid before, whose last row is repeated where their number is odd
    x = torch.arange(15.0).view(1, 1, 3, 5)
    assert folded(x)[0, 0].tolist() == x[0, 0, ::2, ::2].tolist() and folded(x)[0, 3].tolist() == [[6, 8, 9], [11, 13, 14]]
    with pytest.raises(ValueError, match="two stages"):
        build("yolo2", 2, backbone=[8])


def test_a_resnet_of_any_width_makes_the_features():
    with torch.device("meta"):
        networks = [
            registry.build("recognize", "retinanet", backbone=b) for b in (18, {"depth": 18, "width": 64}, {"depth": 18, "width": 8})
        ]
    counts = [registry.count_parameters(network.pyramid.backbone) for network in networks]
    assert counts[0] == counts[1] > 40 * counts[2] and networks[2].pyramid.backbone.features == [8, 16, 32, 64]
    with pytest.raises(ValueError, match="backbone"):
        build("retinanet", 2, backbone={"layers": 18})


def test_windows_are_what_the_attention_weighs():
    network = build("windowed_retinanet", 2)
    views = network.views(torch.tensor([0.25, 0.75, 2.0, -1.0]).view(1, 1, 2, 2))
    assert views.flatten(1).tolist() == [[0.25, 0.75, 1, 0], [0.5, 1, 1, 0]]
    images, _ = squares(2)
    with torch.inference_mode():
        nn.init.zeros_(network.attention[-1].weight)
        network.attention[-1].bias.copy_(torch.tensor([50.0, -50.0]))
        network.eval()
        for a, b in zip(network.features(images), network.pyramid(images.clamp(0, 1)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="windows"):
        build("windowed_retinanet", 2, windows=[[1.0, 0.0]])


def test_the_second_look_scores_the_screenings_candidates_anew():
    network = build("cascade", 2, threshold=0.0, weights=[1.0, 0.0]).eval()
    images, _ = squares(2)
    with torch.inference_mode():
        raw = network(images)
        candidates, found = network.screened(raw, (48, 48)), network.detections(raw, (48, 48), score=0.0)
        for image, before, after in zip(images, candidates, found, strict=True):
            assert {tuple(c) for c in after.corners.tolist()} <= {tuple(c) for c in before.corners.tolist()}
            middles = (before.corners[:, :2] + before.corners[:, 2:]) / 2
            each = network.logits(image, middles)
            assert each.shape == (2, len(before), 3)
            # the second context counts nothing
            assert set(after.scores.tolist()) <= set(each[0].softmax(-1)[:, 1:].max(1).values.tolist())
    with pytest.raises(ValueError, match="weights"):
        build("cascade", 2, weights=[1.0])


def test_a_cascade_weighs_its_contexts_by_what_they_say_of_held_out_images():
    """Of two contexts one knows, the other guesses; of two that know different things both count."""
    sure, guess = torch.tensor([0.9, 0.8, 0.95, 0.9]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert mixture_weights(torch.stack([guess, sure]), torch.ones(4))[1] > 0.99
    left, right = torch.tensor([0.9, 0.9, 0.2, 0.2]), torch.tensor([0.2, 0.2, 0.9, 0.9])
    assert torch.allclose(mixture_weights(torch.stack([left, right]), torch.ones(4)), torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert mixture_weights(torch.stack([left, right]), torch.tensor([3.0, 3, 1, 1]))[0] > 0.7
    images, targets = squares(2)
    network = build("cascade", 2, threshold=0.0).eval()
    with torch.inference_mode():
        examples = [(network(image[None]), target) for image, target in zip(images, targets, strict=True)]
    chosen = network.chosen(examples)
    assert chosen["weights"] == list(network.weights) and abs(sum(network.weights) - 1) < 1e-3
    assert network.chosen([(examples[0][0], none_of(2))]) == {}
    assert build("cascade", 2, weights=[0.5, 0.5]).chosen(examples) == {}


def test_features_within_boxes_are_taken_from_the_level_of_their_size():
    network = build("faster_rcnn", 2)
    levels = [torch.full((1, 16, 48 // s, 48 // s), float(number)) for number, s in enumerate(network.pyramid.strides)]
    seen = []
    network.dense.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.second(levels, 0, torch.tensor([[0.0, 0, 48, 48], [3, 3, 9, 9], [0, 0, 20, 20]]))
    assert seen[0].flatten(1).mean(1).tolist() == [1.0, 0.0, 0.0]
