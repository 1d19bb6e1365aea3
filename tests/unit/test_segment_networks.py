"""The networks that segment: as large as their papers say, logits of the input's size, the same in blocks as in one piece."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cohortex.inference import channels_last
from cohortex.labelling import segment
from cohortex.models import registry
from cohortex.models.segment.layers import SegmentationNetwork
from cohortex.models.segment.unet import mirrored, valid_margins

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

SMALL: dict[str, dict] = {
    "planned_unet": {"features": [4, 6, 8]},
    "unet": {"features": [4, 6]},
    "unetplusplus": {"features": [3, 4, 5], "deep_supervision": True},
    "attention_unet": {"features": [4, 6, 8]},
    "vnet": {"features": [4, 6], "depths": [1, 2]},
    "unet3d": {"features": [4, 6]},
    "unet3d_small": {"features": [4, 6]},
    "segnet": {"features": [4, 6]},
    "fcn": {"features": [3, 3, 4, 4, 4], "hidden": 5, "norm": "batch"},
    "deeplab_v1": {"features": [3, 3, 4, 4, 4], "hidden": 5, "rate": 2, "norm": "batch"},
    "deeplab_v2": {"depth": [1, 1, 1, 1], "width": 2, "rates": [1, 2]},
    "deeplab_v3": {"depth": [1, 1, 1, 2], "width": 2, "rates": [1, 2], "filters": 4},
    "enet": {"width": 12},
    "pspnet": {"depth": [1, 1, 1, 1], "width": 2, "bins": [1, 2]},
    "frrn": {"width": 4, "lane": 3, "factor": 0.03},
    "r2unet": {"features": [4, 6]},
    "bcdunet": {"features": [4, 6]},
    "unetr": {"size": 32, "features": 2, "width": 8, "hidden": 8, "heads": 2, "layers": 4},
    "swin_unetr": {"features": 4, "depths": [2, 2], "heads": [2, 2], "window": 3},
    "triplanar": {"layers": 2, "features": 3, "hidden": 4},
}
"""Options that make a network small enough for a test."""

VARIANTS: list[tuple[str, dict]] = [
    *SMALL.items(),
    ("planned_unet", {"dimensions": 2, "features": [4, 6, 8], "norm": "instance", "residual": True, "blocks": 1}),
    ("planned_unet", {"features": [3, 4, 5], "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]]}),
    ("unet", {"features": [4, 6], "valid": False}),
    ("unet", {"dimensions": 3, "features": [3, 4], "valid": False, "norm": "batch"}),
    ("unetplusplus", {"dimensions": 3, "features": [3, 4]}),
    ("attention_unet", {"dimensions": 2, "features": [4, 6], "gates": False}),
    ("vnet", {"dimensions": 2, "features": [4, 6, 8], "depths": [1, 1, 1], "norm": "batch"}),
    ("segnet", {"dimensions": 3, "features": [3, 4], "unpooling": "linear"}),
    ("fcn", {"stride": 32, "features": [3, 3, 4, 4, 4], "hidden": 5, "norm": "batch"}),
    ("fcn", {"stride": 16, "features": [3, 3, 4, 4, 4], "hidden": 5, "norm": "batch"}),
    ("deeplab_v2", {"depth": [1, 1, 1, 1], "width": 2, "rates": [1], "scales": [1.0, 0.5]}),
    ("deeplab_v3", {"depth": [1, 1, 1, 1], "width": 2, "rates": [1], "stride": 8, "filters": 4, "image_pooling": False}),
    ("deeplab_v3", {"dimensions": 3, "depth": [1, 1, 1, 1], "width": 2, "rates": [1], "filters": 4}),
    ("enet", {"dimensions": 3, "width": 8}),
    ("pspnet", {"depth": [1, 1, 1, 1], "width": 2, "bins": [1], "pooling": "max"}),
    ("frrn", {"kind": "B", "width": 4, "lane": 3, "factor": 0.03}),
    ("r2unet", {"features": [4, 6], "steps": 0}),
    ("bcdunet", {"features": [4, 6], "lstm": False, "blocks": 1}),
    ("swin_unetr", {"dimensions": 2, "features": 4, "depths": [2, 2], "heads": [2, 2], "window": 3, "shift": False}),
]

each = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(str(x).replace(" ", "") for x in v.values())
)

CLASSES = 3


def built(name, options, seed=0):
    """Return a network for one channel and three classes."""
    torch.manual_seed(seed)
    network = registry.build("segment", name, **{"channels": 1, "classes": CLASSES, **options})
    assert isinstance(network, SegmentationNetwork)
    return network


def dimensions(name, options):
    return registry.expected(registry.entry("segment", name), options).dimensions


def awakened(network):
    """Give weights that begin at zero something to say."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1 and not value.any():
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return network


def stirred(network):
    """Give norms and biases values of a trained network too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [*network.parameters(), *network.buffers()]:
            if value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return awakened(network).eval()


def test_the_small_options_here_cover_the_registry():
    assert set(SMALL) == {entry.name for entry in registry.entries("segment")}


def test_the_page_has_every_network_with_its_count_its_reach_and_its_loss():
    rows = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")] for line in PAGE.read_text().splitlines() if line.startswith("| `")
    }
    for entry in registry.entries("segment"):
        with torch.device("meta"):
            network = registry.build("segment", entry.name)
        count, reach, loss = rows[entry.name][4:7]
        assert count == f"{registry.count_parameters(network):,}"
        assert reach == str(getattr(network, "halo", "whole"))
        assert loss == f"`{entry.training['objective']}`"


ROUNDED = [
    ("fcn", {}, 134.4e6),
    # with the kernel of the last upsampling, which is fixed, it is 134.5 million
    ("deeplab_v1", {}, 20.5e6),
    # ResNet-101 without its classifier, 42.5 million, and four branches to 21 classes
    ("deeplab_v2", {}, 44.0e6),
    ("frrn", {"kind": "A"}, 17.7e6),
    ("frrn", {"kind": "B"}, 24.7e6),
    ("unetr", {}, 92.8e6),
    ("attention_unet", {"gates": False}, 5.9e6),
    # the original, in Caffe
    ("vnet", {}, 65.2e6),
    ("unet", {"features": [32, 64, 128, 256, 512], "classes": 1}, 7.76e6),
    ("enet", {}, 0.36e6),
]


@pytest.mark.parametrize(("name", "options", "stated"), ROUNDED)
def test_a_network_has_as_many_parameters_as_its_paper_or_its_authors_say_in_round_numbers(name, options, stated):
    with torch.device("meta"):
        network = registry.build("segment", name, **options)
    assert registry.count_parameters(network) == pytest.approx(stated, rel=5e-3)


@each
def test_the_logits_have_the_size_of_the_image_whatever_that_is(name, options):
    network = stirred(built(name, options))
    for shape in ((19, 26), (33, 17)) if dimensions(name, options) == 2 else ((18, 13, 7),):
        x = torch.rand(1, 1, *shape)
        with torch.no_grad():
            made, heads = network(x), network.outputs(x)
        assert made.shape == (1, CLASSES, *shape)
        assert torch.isfinite(made).all()
        assert len(heads) == len(network.outputs_weights)
        assert all(head.shape == made.shape for head in heads)
        torch.testing.assert_close(heads[0], made)


@each
def test_every_parameter_gets_a_gradient(name, options):
    network = awakened(built(name, options)).train()
    shape = (34, 33) if dimensions(name, options) == 2 else (20, 17, 10)
    x = torch.rand(2, 1, *shape)
    loss = sum(
        w * torch.nn.functional.cross_entropy(y, torch.zeros(2, *shape, dtype=torch.long))
        for w, y in zip(network.outputs_weights, network.outputs(x), strict=True)
        if w
    )
    loss.backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []


def far_sighted(name, options):
    return hasattr(built(name, options), "halo")


LOCAL = [(name, options) for name, options in VARIANTS if far_sighted(name, options)]
NEAR = [(name, options) for name, options in LOCAL if dimensions(name, options) == 2 or built(name, options).halo < 50]
"""Those that can be tried quickly: of the others there is a twin in two dimensions."""


def test_the_networks_that_look_at_their_whole_input_are_known():
    assert set(SMALL) - {name for name, _ in LOCAL} == {"pspnet", "unetr", "swin_unetr"}


@pytest.mark.parametrize(("name", "options"), NEAR, ids=lambda v: v if isinstance(v, str) else "-".join(str(x) for x in v.values()))
def test_a_network_sees_no_farther_than_it_says(name, options):
    network = stirred(built(name, options)).double()
    axes, multiple = dimensions(name, options), network.multiple
    halo = network.halo
    first = multiple * 2
    # the far ends are continued by the last values, and that is no nearer than the halo either
    length = first + multiple + halo + multiple
    shape = [length, *[max(8, multiple)] * (axes - 1)]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, *shape, dtype=torch.float64, generator=generator)
    changed = x.clone()
    changed[:, :, first + multiple + halo :] = torch.rand(changed[:, :, first + multiple + halo :].shape, generator=generator)
    with torch.no_grad():
        before, after = network(x), network(changed)
    assert torch.equal(before[:, :, : first + multiple], after[:, :, : first + multiple])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["planned_unet", "unet3d_small", "attention_unet", "triplanar"])
def test_a_volume_in_blocks_has_the_labels_of_the_volume_in_one_piece(name):
    network = channels_last(stirred(built(name, SMALL[name])))
    array = np.random.default_rng(5).random((45, 12, 9), dtype=np.float32)
    multiple = network.multiple
    arguments = {"multiple": multiple, "halo": network.halo, "keep": "probabilities"}
    whole, _ = segment(network, array, CLASSES, (48, 16, 16), **arguments)
    parts, _ = segment(network, array, CLASSES, (8, 16, 16), **arguments)
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_unpooling_returns_values_to_the_very_places_they_came_from():
    network = built("segnet", {"features": [4]})
    x = torch.rand(1, 4, 6, 8)
    pooled, places = network.pool(x)
    from cohortex.models.segment.layers import unpooled

    back = unpooled(pooled, places, x.shape[2:])
    kept = back != 0
    assert int(kept.sum()) == pooled.numel()
    assert torch.equal(back[kept], x[kept])


def test_the_margins_of_unpadded_convolutions_are_those_of_the_paper():
    assert valid_margins(388, 5) == (92, 92)


def test_unpadded_convolutions_see_a_mirrored_image():
    x = torch.arange(4.0).reshape(1, 1, 4)
    assert mirrored(x, 2, 5, 4)[0, 0].tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    network = stirred(built("unet", {"features": [4, 6]}))
    inside = stirred(built("unet", {"features": [4, 6], "valid": False}))
    image = torch.rand(1, 1, 60, 60)
    with torch.no_grad():
        a, b = network(image), inside(image)
    assert torch.allclose(a[:, :, 20:40, 20:40], b[:, :, 20:40, 20:40], atol=1e-5)
    assert not torch.allclose(a[:, :, :4], b[:, :, :4], atol=1e-5)


def test_a_pruned_nested_unet_gives_what_its_head_gives_in_the_whole_one():
    whole = stirred(built("unetplusplus", {"features": [3, 4, 5], "deep_supervision": True}))
    x = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        heads = whole.outputs(x)
        torch.testing.assert_close(heads[0], torch.stack(heads[1:]).mean(0))
        for level in (1, 2):
            pruned = built("unetplusplus", {"features": [3, 4, 5], "deep_supervision": True, "level": level}).eval()
            pruned.load_state_dict(whole.state_dict())
            torch.testing.assert_close(pruned(x), heads[level])


def test_the_gates_of_the_attention_unet_are_weights_of_their_skips():
    network = stirred(built("attention_unet", {"features": [4, 6, 8]}))
    with torch.no_grad():
        _, weights = network.gated(torch.rand(1, 1, 16, 16, 8))
    assert [tuple(w.shape) for w in weights] == [(1, 1, 8, 8, 4)]
    assert all(((w > 0) & (w < 1)).all() for w in weights)


def test_a_recurrence_costs_no_parameters():
    counts = {steps: registry.count_parameters(built("r2unet", {"features": [4, 6], "steps": steps})) for steps in (0, 2)}
    assert counts[0] == counts[2]


def test_the_label_of_a_voxel_by_the_triplanar_network_is_that_of_its_three_patches():
    network = stirred(built("triplanar", {"layers": 2, "features": 3, "hidden": 4}))
    x = torch.rand(1, 1, 9, 9, 9)
    only = torch.zeros_like(x)
    middle = 4
    for axis in range(3):
        plane = [slice(None)] * 5
        plane[axis + 2] = slice(middle, middle + 1)
        only[tuple(plane)] = x[tuple(plane)]
    with torch.no_grad():
        torch.testing.assert_close(network(only)[..., middle, middle, middle], network(x)[..., middle, middle, middle])


def test_windows_that_are_shifted_let_voxels_of_neighbouring_windows_see_each_other():
    x = torch.rand(1, 1, 48, 48)
    changed = x.clone()
    changed[:, :, 24:] += 1
    seen = {}
    for shift in (False, True):
        options = {"dimensions": 2, "features": 4, "depths": [2], "heads": [2], "window": 4, "shift": shift}
        network = stirred(built("swin_unetr", options))
        with torch.no_grad():
            y, z = (network.stages[0](network.embed(v).movedim(1, -1)) for v in (x, changed))
        seen[shift] = int((y - z).abs().sum((0, 2, 3)).gt(0).nonzero().min())
    assert seen == {False: 12, True: 10}


def test_a_small_network_learns_an_image_by_heart():
    torch.manual_seed(0)
    network = built("planned_unet", {"dimensions": 2, "features": [8, 16], "deep_supervision": False})
    axes = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    labels = ((axes[0] - 11).square() + (axes[1] - 9).square() < 36).long()[None] + (axes[0] > 18).long()[None] * 2
    labels = labels.clamp(max=2)
    image = labels[:, None].float() + 0.3 * torch.randn(1, 1, 24, 24)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(image), labels).backward()
        optimiser.step()
    with torch.no_grad():
        assert (network(image).argmax(1) == labels).float().mean() > 0.99
