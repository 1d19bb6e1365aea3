"""The networks that classify: as large as their papers say, logits for pictures and volumes of any size, and what each is known for."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.models.classify import SMALL
from cohortex.models.classify.attention import AttentionGuided, GuidedReLU, LesionAware
from cohortex.models.classify.focus import BrowseFocus, cropped, hottest
from cohortex.models.classify.network import ClassificationNetwork
from cohortex.models.classify.slices import TimeLSTM
from cohortex.models.classify.streams import MultiStream, zoomed
from cohortex.models.classify.vit import ViT
from cohortex.models.folder import write_model
from cohortex.models.segment.transformer import Attention
from cohortex.training.transfer import class_tensors, features_of, taken_over

TINY: dict[str, dict] = {
    "alexnet": {"features": [4, 4, 6, 4, 4], "hidden": 8, "grid": 2, "stem": "small", "norm": "batch"},
    "vgg11": {"features": [3, 4, 4, 5, 5], "hidden": 8, "grid": 1, "norm": "batch"},
    "vgg16": {"features": [3, 4, 4, 5, 5], "hidden": 8, "grid": 1, "norm": "batch"},
    "resnet18": {"stem": "small", "width": 2},
    "resnet34": {"depth": [1, 2, 1], "bottleneck": False, "width": 3},
    "resnet50": {"depth": [1, 1, 1], "stem": "deep", "width": 2},
    "densenet121": {"growth": 3, "blocks": [2, 2, 2], "width": 6, "stem": "small"},
    "googlenet": {"width": 0.05, "stem": "small", "norm": "batch", "auxiliary": True},
    "vit_b16": {"size": 16, "patch": 4, "width": 8, "hidden": 8, "heads": 2, "layers": 2, "skip": 0.3},
    "swin_t": {"patch": 2, "width": 4, "depths": [2, 2], "heads": [2, 2], "window": 3, "ratio": 2, "skip": 0.3},
    "multi_stream": {"size": 12, "features": [3, 4], "hidden": 8},
    "ag_cnn": {"width": 4, "hidden": 8, "stem": "small"},
    "lacnn": {"depth": 11, "features": [3, 3, 4, 4, 4]},
    "browse_focus": {"growth": 3, "blocks": [2, 2], "width": 6, "stem": "small"},
    "stacked_autoencoder": {"grid": 6, "widths": [10, 8]},
    "deep_belief": {"grid": 6, "widths": [10, 8]},
    "slice_rnn": {"hidden": 4, "depth": [1, 1], "width": 3, "stem": "small"},
    "time_lstm": {"hidden": 4, "depth": [1, 1], "width": 3, "stem": "small"},
}
"""Options that make a network small enough for a test."""

VARIANTS: list[tuple[str, dict]] = [
    *TINY.items(),
    *(
        (name, {**options, "dimensions": 2 if name == "multi_stream" else 3})
        for name, options in TINY.items()
        if name not in ("slice_rnn", "time_lstm")
    ),
    ("multi_stream", {**TINY["multi_stream"], "shared": True}),
    ("ag_cnn", {**TINY["ag_cnn"], "attention": False}),
    ("lacnn", {**TINY["lacnn"], "weighting": False}),
    ("browse_focus", {"backbone": "resnet", "blocks": [1, 1], "width": 3, "stem": "small", "bottleneck": False}),
    ("stacked_autoencoder", {**TINY["stacked_autoencoder"], "noise": 0.0}),
    *(("slice_rnn", {**TINY["slice_rnn"], "cell": cell}) for cell in ("rnn", "gru", "convlstm", "none")),
    ("slice_rnn", {**TINY["slice_rnn"], "both": False, "layers": 2}),
    *(("time_lstm", {**TINY["time_lstm"], "modulation": kind}) for kind in ("cell", "none")),
]

each = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(str(x).replace(" ", "") for x in v.values())
)

CLASSES = 3


def built(name, options, seed=0, classes=CLASSES, channels=1) -> ClassificationNetwork:
    """Return a network for one channel and three classes."""
    torch.manual_seed(seed)
    network = registry.build("classify", name, channels=channels, classes=classes, **options)
    assert isinstance(network, ClassificationNetwork)
    return network


def image(name, options, number=2, channels=1, edge=17):
    """Return a few images, of odd sizes, that a network takes."""
    generator = torch.Generator().manual_seed(number)
    flat = registry.expected(registry.entry("classify", name), options).dimensions == 2
    return torch.rand(number, channels, edge, edge + 3, *([] if flat else [6]), generator=generator)


def test_the_options_here_and_those_for_small_pictures_cover_the_registry():
    with torch.device("meta"):
        networks = {entry.name: registry.build("classify", entry.name) for entry in registry.entries("classify")}
    assert set(TINY) == {name for name, network in networks.items() if isinstance(network, ClassificationNetwork)} == set(SMALL)
    with torch.device("meta"):
        small = {name: registry.build("classify", name, channels=1, classes=2, **options) for name, options in SMALL.items()}
    assert all(registry.count_parameters(network) < 1.5e6 for network in small.values())


def test_the_page_has_every_network_with_its_count():
    lines = (Path(__file__).parents[2] / "docs" / "models.md").read_text().splitlines()
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| `")}
    for name in SMALL:
        with torch.device("meta"):
            network = registry.build("classify", name)
        assert rows[name][4] == f"{registry.count_parameters(network):,}"


STATED = [
    ("vgg11", {"depth": 13}, 133_047_848),
    ("vgg11", {"depth": 19}, 143_667_240),
    ("resnet50", {"depth": 101}, 44_549_160),
    ("resnet50", {"depth": 152}, 60_192_808),
    # as it is trained since batch norms are known
    ("googlenet", {"norm": "batch", "large": 3}, 6_624_904),
    # the paper's heads in the middle
    ("googlenet", {"auxiliary": True}, 13_378_280),
    ("densenet121", {"blocks": [6, 12, 32, 32]}, 14_149_480),
    # ViT-S/16, ViT-B/32 and ViT-L/16
    ("vit_b16", {"width": 384, "hidden": 1536, "heads": 6}, 22_050_664),
    ("vit_b16", {"patch": 32}, 88_224_232),
    ("vit_b16", {"width": 1024, "hidden": 4096, "heads": 16, "layers": 24}, 304_326_632),
    ("swin_t", {"depths": [2, 2, 18, 2]}, 49_606_258),
    # for videos of Kinetics-400 it has 33,371,472 with a first kernel that spans 3 frames, here 7
    ("resnet18", {"dimensions": 3, "classes": 400}, 33_371_472 + 3 * 64 * 4 * 7 * 7),
]


@pytest.mark.parametrize(("name", "options", "stated"), STATED, ids=[f"{name}-{stated}" for name, _, stated in STATED])
def test_variants_of_a_network_have_the_counts_that_are_known_of_them(name, options, stated):
    # the registry's own counts are tested with the registry
    with torch.device("meta"):
        network = registry.build("classify", name, **options)
    assert registry.count_parameters(network) == stated


@each
def test_a_network_gives_logits_of_images_of_any_size_and_its_losses_reach_every_parameter(name, options):
    network = built(name, options).train()
    made = network.outputs(image(name, options))
    assert len(made) == len(network.outputs_weights)
    assert all(logits.shape == (2, CLASSES) for logits in made)
    # at most one image in training skips a layer
    torch.manual_seed(5)
    x = image(name, options, 6)
    losses = [cross_entropy(logits, torch.arange(6) % CLASSES) for logits in network.outputs(x)]
    sum(weight * loss for weight, loss in zip(network.outputs_weights, losses, strict=True)).backward()
    reached = {key: value.grad is not None and bool(value.grad.any()) for key, value in network.named_parameters() if value.requires_grad}
    assert all(reached.values()), [key for key, there in reached.items() if not there]
    with torch.no_grad():
        other = network.eval()(image(name, options, 1, edge=21))
    assert other.shape == (1, CLASSES) and other.isfinite().all()


@pytest.mark.parametrize(("name", "options"), TINY.items(), ids=list(TINY))
def test_the_features_of_a_network_are_what_its_last_layer_sees(name, options):
    network = built(name, options)
    x = image(name, options)
    found = features_of(network, network.head, x.numpy(), "cpu")
    with torch.inference_mode():
        torch.testing.assert_close(network.head(torch.from_numpy(found).float()), network(x), rtol=1e-4, atol=1e-5)


def learned(network, make: Callable[[torch.Generator, int], tuple[torch.Tensor, torch.Tensor]], steps, rate=3e-3):
    """Train a network on images that are made anew for each step; return its accuracy on others."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    network.train()
    torch.manual_seed(2)
    for _ in range(steps):
        x, y = make(generator, 16)
        made = network.outputs(x)
        loss = sum(weight * cross_entropy(logits, y) for weight, logits in zip(network.outputs_weights, made, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = make(torch.Generator().manual_seed(9), 100)
    with torch.no_grad():
        return float((network.eval()(x).argmax(1) == y).float().mean())


def stripes(generator, number):
    """Return noisy pictures of stripes across one axis or the other."""
    y = torch.randint(2, (number,), generator=generator)
    phase = torch.rand(number, 1, 1, generator=generator) * 6
    wave = torch.sin(torch.arange(16.0) * 1.5 + phase).expand(-1, 16, -1)
    pictures = torch.where(y[:, None, None] == 1, wave, wave.transpose(1, 2))
    return (0.5 + 0.3 * pictures + 0.1 * torch.randn(number, 16, 16, generator=generator))[:, None], y


LEARNING: dict[str, tuple[dict, int, float]] = {
    "resnet18": ({"width": 4}, 25, 1e-2),
    "densenet121": ({}, 25, 1e-2),
    "vit_b16": ({"width": 16, "hidden": 32, "skip": 0.0}, 80, 3e-3),
    "swin_t": ({"width": 16, "window": 4, "skip": 0.0}, 100, 1e-3),
}
"""Options, steps and rate."""


@pytest.mark.parametrize("name", LEARNING)
def test_a_small_network_learns_to_tell_stripes(name):
    options, steps, rate = LEARNING[name]
    assert learned(built(name, {**TINY[name], **options}, classes=2), stripes, steps, rate) > 0.9


def order(generator, number):
    """Return volumes with a bright slice that comes before or after a dark one."""
    y = torch.randint(2, (number,), generator=generator)
    x = 0.5 + 0.1 * torch.randn(number, 1, 8, 8, 6, generator=generator)
    first = torch.randint(0, 3, (number,), generator=generator)
    for volume, label, at in zip(x, y, first, strict=True):
        volume[..., at] += 1 if label else -1
        volume[..., at + 3] -= 1 if label else -1
    return x, y


def test_a_recurrent_cell_knows_the_order_of_slices_and_their_mean_does_not():
    options = {**TINY["slice_rnn"], "hidden": 12, "width": 4}
    found = learned(built("slice_rnn", {**options, "both": False}, classes=2), order, 80, 1e-2)
    blind = learned(built("slice_rnn", {**options, "cell": "none"}, classes=2), order, 80, 1e-2)
    assert found > 0.95
    assert blind < 0.7


# transformers


def test_rows_of_attention_sum_to_one_and_are_those_that_the_network_computes_with():
    network = built("vit_b16", TINY["vit_b16"]).eval()
    assert isinstance(network, ViT)
    x = image("vit_b16", {})
    maps = network.attention_weights(x)
    assert len(maps) == 2 and maps[0].shape == (2, 2, 26, 26) and all(bool((rows >= 0).all()) for rows in maps)
    for rows in maps:
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows.sum(-1)))
    attention, tokens = Attention(8, 2, True), torch.randn(3, 5, 8)
    added = torch.randn(2, 5, 5)
    value = attention.ask(tokens)[..., 16:].reshape(3, 5, 2, 4).transpose(1, 2)
    by_hand = attention.out((attention.weights(tokens, added) @ value).transpose(1, 2).reshape(3, 5, 8))
    torch.testing.assert_close(attention(tokens, added), by_hand)


def test_rows_of_attention_within_windows_sum_to_one_and_do_not_reach_round_the_end():
    network = built("swin_t", {**TINY["swin_t"], "patch": 1}).eval()
    seen: list[torch.Tensor] = []
    for layer in network.modules():
        if isinstance(layer, Attention):
            layer.register_forward_pre_hook(lambda attention, given: seen.append(attention.weights(*given)))
    network(image("swin_t", {}, edge=9))
    assert len(seen) == 4
    for rows in seen:
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows.sum(-1)))
    # the last window of the shifted layer holds what is at opposite ends: closed, so many entries are 0
    assert (seen[1] < 1e-30).any() and not (seen[0] < 1e-30).any()


def test_a_transformer_does_not_know_the_order_of_patches_but_by_their_positions():
    network = built("vit_b16", TINY["vit_b16"]).eval()
    assert isinstance(network, ViT)
    x = torch.rand(2, 1, 16, 16)
    shuffled = x.unflatten(2, (4, 4)).unflatten(4, (4, 4)).permute(0, 1, 2, 4, 3, 5).flatten(2, 3)
    shuffled = shuffled[:, :, torch.randperm(16)].unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
    assert shuffled.shape == x.shape and not torch.equal(shuffled, x)
    with torch.no_grad():
        network.position.normal_(generator=torch.Generator().manual_seed(0))
        assert (network(x) - network(shuffled)).abs().max() > 1e-3
        network.position.zero_()
        torch.testing.assert_close(network(x), network(shuffled), rtol=0, atol=1e-5)


# attention, lesions, parts


def test_guided_backpropagation_lets_only_what_is_positive_back():
    x = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    (GuidedReLU.apply(x) * torch.tensor([1.0, -1.0, 1.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0, 1.0]


def spots(generator, number, edge=16):
    """Return pictures with a bright or a dark spot somewhere, a distractor of any kind in a corner, and masks of the spots."""
    y = torch.randint(2, (number,), generator=generator)
    x = 0.5 + 0.05 * torch.randn(number, 1, edge, edge, generator=generator)
    mask = torch.zeros_like(x)
    places = torch.randint(5, edge - 4, (number, 2), generator=generator)
    for n in range(number):
        i, j = places[n].tolist()
        x[n, 0, i : i + 4, j : j + 4] += 0.4 if y[n] else -0.4
        mask[n, 0, i : i + 4, j : j + 4] = 1
    return x, y, mask


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_attention_that_is_shown_where_readers_look_comes_to_look_there():
    network = built("ag_cnn", TINY["ag_cnn"], classes=2)
    assert isinstance(network, AttentionGuided)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    held, _, where = spots(torch.Generator().manual_seed(7), 20)
    for _ in range(40):
        x, y, mask = spots(generator, 12)
        loss = network.attention_loss(x, mask) + sum(cross_entropy(logits, y) for logits in network.outputs(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        looked, located = network.attention_map(held), network.located(held)
    assert looked.shape == located.shape == held.shape
    assert float(located.min()) >= 0 and float(located.max()) <= 1
    assert correlation(looked, where) > 0.5
    # images that nobody looked at say nothing
    assert float(network.attention_loss(held, torch.zeros_like(where)).detach()) == 0
    with torch.inference_mode():
        assert network(held).shape == (20, 2)


def test_a_detector_that_is_shown_lesions_finds_them_and_the_map_weights_the_features():
    network = built("lacnn", TINY["lacnn"], classes=2)
    assert isinstance(network, LesionAware)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)
    for _ in range(50):
        x, _, mask = spots(generator, 12)
        optimizer.zero_grad()
        network.lesion_loss(x, mask).backward()
        optimizer.step()
    network.eval()
    held, _, where = spots(torch.Generator().manual_seed(7), 20)
    with torch.no_grad():
        assert correlation(network.lesion_map(held), where) > 0.5
        torch.testing.assert_close(network.vector(held), network.vector(held, network.lesion_map(held)))
        assert (network.vector(held) - network.vector(held, torch.zeros_like(where))).abs().max() > 1e-3


def test_the_part_that_is_focused_on_is_the_box_round_the_largest_hot_region():
    heat = torch.zeros(2, 8, 10)
    heat[0, 2:5, 3:7] = 1.0
    heat[0, 7, 9] = 2.0
    # of two regions above .4 of the range the larger, though the smaller is hotter; of no heat the whole image
    boxes = torch.from_numpy(hottest(heat.numpy(), 0.4))
    torch.testing.assert_close(boxes[0], torch.tensor([[2 / 8, 5 / 8], [3 / 10, 7 / 10]]))
    assert boxes[1].tolist() == [[0.0, 1.0], [0.0, 1.0]]
    picture = torch.arange(80.0).reshape(1, 1, 8, 10).repeat(2, 1, 1, 1)
    part = cropped(picture, boxes)
    torch.testing.assert_close(part[1], picture[1])
    # the middle of the part is that of the box: row 3, column 4.5
    assert float(part[0].mean()) == pytest.approx(3 * 10 + 4.5, abs=1e-3)
    volume = torch.rand(1, 1, 4, 6, 8)
    half = cropped(volume, torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.5, 1.0]]]))
    # a pixel of the part is a quarter from one of the volume and three quarters from the next
    torch.testing.assert_close(half[..., 1], 0.75 * volume[..., 4] + 0.25 * volume[..., 5])
    torch.testing.assert_close(half[..., 6], 0.25 * volume[..., 6] + 0.75 * volume[..., 7])


def test_what_the_local_branch_sees_is_the_hot_part_of_the_image():
    network = built("browse_focus", TINY["browse_focus"])
    assert isinstance(network, BrowseFocus)
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 8:, :8] = 1
    maps = torch.zeros(1, 5, 4, 4)
    maps[0, 3, 2:, :2] = 3
    part = network.focused(x, maps)
    # the outermost pixels lie between the part and what is beside it
    assert part.shape == x.shape and float(part[..., 1:, :-1].min()) == pytest.approx(1, abs=1e-5)


def test_nine_streams_see_three_planes_at_three_scales():
    network = built("multi_stream", TINY["multi_stream"])
    assert isinstance(network, MultiStream)
    x = torch.zeros(1, 1, 16, 16, 16)
    x[0, 0, :, :, 7:9] = 1
    patches = network.patches(x)
    assert [len(planes) for planes in patches] == [3, 3, 3] and {p.shape for planes in patches for p in planes} == {(1, 1, 12, 12)}
    # across the sheet a plane shows a line that is wider the closer one looks; along it the plane is bright everywhere
    widths = [float(planes[0].mean()) for planes in patches]
    assert widths[0] > widths[1] > widths[2] == pytest.approx(2 / 16, abs=0.02)
    assert all(float(planes[2].min()) == 1 for planes in patches)
    shared = built("multi_stream", {**TINY["multi_stream"], "shared": True})
    assert len(network.streams[0]) == 3 and len(shared.streams[0]) == 1
    torch.testing.assert_close(zoomed(x[..., 0], 1.0, 16), x[..., 0])


# cells


def test_without_times_the_time_modulated_cell_is_an_lstm():
    ours, theirs = TimeLSTM(3, 4, "gates").double(), torch.nn.LSTM(3, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input.weight)
        theirs.bias_ih_l0.copy_(ours.input.bias)
        theirs.weight_hh_l0.copy_(ours.state.weight)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x, x.new_zeros(2, 5)), theirs(x)[0])
    assert (ours(x, x.new_ones(2, 5)) - theirs(x)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["gates", "cell", "none"])
def test_gradients_of_the_time_modulated_cell_are_those_of_differences(kind):
    torch.manual_seed(0)
    cell = TimeLSTM(2, 3, kind).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    gaps = torch.tensor([[0.0, 1.5, 0.3], [math.nan, 0.0, 2.0]], dtype=torch.float64)
    names = [name for name, _ in cell.named_parameters()]

    def states(x, *values):
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (x, gaps))

    assert torch.autograd.gradcheck(states, (x, *cell.parameters()))


def test_an_exam_that_is_not_there_changes_nothing():
    network = built("time_lstm", {**TINY["time_lstm"], "reports": 2}).eval()
    x = image("time_lstm", {})
    gaps = torch.tensor([[math.nan, math.nan, 0.0, 1.0, 2.0, 0.5]] * 2)
    reports = torch.rand(2, 6, 2)
    with torch.no_grad():
        torch.testing.assert_close(network(x, gaps, reports), network(x[..., 2:], gaps[:, 2:], reports[:, 2:]))
        assert (network(x, gaps, reports) - network(x, gaps)).abs().max() > 1e-6
        assert (network(x, gaps, reports) - network(x, 2 * gaps, reports)).abs().max() > 1e-6


def test_the_time_between_exams_tells_what_a_plain_lstm_cannot():
    def late(generator, number):
        """Return features of two exams, and whether the second came late."""
        y = torch.randint(2, (number,), generator=generator)
        gaps = torch.stack([torch.zeros(number), torch.where(y == 1, 1.5, 0.5) + 0.2 * torch.rand(number, generator=generator)], 1)
        return torch.rand(number, 2, 3, generator=generator), gaps, y

    accuracy = {}
    for kind in ("gates", "cell", "none"):
        torch.manual_seed(0)
        cell, head = TimeLSTM(3, 6, kind), torch.nn.Linear(6, 2)
        optimizer = torch.optim.Adam([*cell.parameters(), *head.parameters()], 3e-2)
        generator = torch.Generator().manual_seed(1)
        for _ in range(80):
            x, gaps, y = late(generator, 32)
            optimizer.zero_grad()
            cross_entropy(head(cell(x, gaps)[:, -1]), y).backward()
            optimizer.step()
        x, gaps, y = late(torch.Generator().manual_seed(2), 200)
        accuracy[kind] = float((head(cell(x, gaps)[:, -1]).argmax(1) == y).float().mean())
    assert accuracy["gates"] > 0.95 and accuracy["cell"] > 0.95 and accuracy["none"] < 0.65


# other classes


def test_weights_serve_a_network_for_other_classes_all_but_its_heads(tmp_path):
    options = {**TINY["googlenet"], "channels": 1}
    trained = built("googlenet", TINY["googlenet"])
    assert set(class_tensors("googlenet", options)) == {
        *("head.weight", "head.bias", "auxiliary.0.6.weight", "auxiliary.0.6.bias", "auxiliary.1.6.weight", "auxiliary.1.6.bias")
    }
    card = {
        "name": "tiny",
        "task": "classify",
        "network": "fusion",
        "parts": {"cnn": {"network": "googlenet", "options": {**options, "classes": 3}}},
        "modality": ["any"],
        "body_part": ["any"],
        "dimensions": [2],
        "spacing_mm": {"min": 0.1, "max": 10},
        "classes": ["a", "b", "c"],
        "data": "none",
        "recipe": {},
        "seed": 0,
        "metrics": [],
        "intended_use": "a test",
        "limits": "none",
    }
    tensors = {f"cnn.{key}": value for key, value in trained.state_dict().items()}
    write_model(tmp_path / "model", card, {**tensors, "fusion.weights": torch.ones(1)})
    taken = taken_over(tmp_path / "model", "googlenet", {**options, "classes": 2})
    assert set(taken) == set(trained.state_dict()) - set(class_tensors("googlenet", options))
    assert all(torch.equal(torch.from_numpy(value), trained.state_dict()[key]) for key, value in taken.items())
    with pytest.raises(Refused, match="of the model tiny is of shape"):
        taken_over(tmp_path / "model", "googlenet", {**options, "classes": 2, "width": 0.1})
    with pytest.raises(Refused, match="the model tiny has the network googlenet"):
        taken_over(tmp_path / "model", "alexnet", TINY["alexnet"])


def test_networks_without_a_number_of_classes_are_refused():
    with pytest.raises(Refused, match="classes of its own"):
        class_tensors("motioncnn2d", {})
