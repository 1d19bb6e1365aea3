"""Networks over volumes: blocks with a halo are exact, windows with weights are what the definition says, in bounded memory."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cohortex import inference, labelling, norms
from cohortex.blocks import Plan, planned
from cohortex.io.scratch import Scratch
from cohortex.models import registry
from cohortex.models.regseg import segment as segmenting
from cohortex.models.segment.unet3d import unet3d


def random(shape, seed=1):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("block", [(8, 7, 6), (3, 14, 11)])
def test_a_network_gives_the_same_for_every_block_to_float32_rounding(block):
    torch.manual_seed(0)
    network = registry.build("superresolve", "srcnn3d").eval()
    array = random((12, 14, 11))
    whole, device = inference.run_network(network, array, (6, 6, 6), array.shape)
    assert device == "cpu"
    assert whole.shape == array.shape
    np.testing.assert_allclose(inference.run_network(network, array, (6, 6, 6), block)[0], whole, atol=2e-6)


def test_a_2d_network_sees_slices_along_z():
    torch.manual_seed(0)
    network = registry.build("denoise", "redcnn", filters=4).eval()
    array = random((12, 10, 2))
    whole, _ = inference.run_network(network, array, (20, 20, 0), (12, 10, 2), slicewise=True)
    for z in range(2):
        alone, _ = inference.run_network(network, array[:, :, z : z + 1], (20, 20, 0), (6, 10, 1), slicewise=True)
        np.testing.assert_allclose(alone[:, :, 0], whole[:, :, z], atol=2e-6)


@settings(max_examples=6, deadline=None)
@given(st.tuples(st.integers(5, 140), st.integers(5, 70), st.integers(5, 70)), st.integers(0, 9))
def test_a_result_larger_than_memory_has_the_bytes_of_one_in_memory(tmp_path_factory, shape, seed):
    network = nn.Conv3d(1, 1, 3).eval()
    array = random(shape, seed)
    here, _ = inference.run_network(network, array, (1, 1, 1), (32, 64, 64))
    with planned(Plan(memory_mb=0, scratch=tmp_path_factory.mktemp("scratch"))):
        there, _ = inference.run_network(network, array, (1, 1, 1), (32, 64, 64))
    assert isinstance(there, Scratch)
    assert there[...].tobytes() == here.tobytes()


class Greedy(nn.Module):
    """Runs out of memory on its first three inputs."""

    def __init__(self, out=lambda x: x):
        super().__init__()
        self.seen, self.out = (), out

    def forward(self, x):
        self.seen = (*self.seen, tuple(x.shape[2:]))
        if len(self.seen) < 4:
            raise torch.OutOfMemoryError
        return self.out(x)


def test_out_of_memory_halves_the_block_and_ends_on_the_cpu_and_says_so():
    network, words = Greedy(), []
    array = random((64, 40, 8))
    # "cpu:0" stands for a GPU: it is not "cpu"
    made, device = inference.run_network(network, array, (0, 0, 0), (64, 64, 64), device="cpu:0", say=words.append)
    assert np.array_equal(made, array)
    assert device == "cpu:0"
    assert network.seen[:4] == ((64, 40, 8), (32, 40, 8), (32, 32, 8), (32, 32, 8))
    assert "goes on with blocks of 32 x 64 x 64 voxels" in words[0]
    for _ in range(4):
        network.seen = ()
        runner = inference.Runner(network, "cpu:0", (32, 32, 32), say=words.append)
        runner.shrink()
    assert runner.device == "cpu"
    assert "goes on on the CPU" in words[-1]


def test_segmentation_survives_out_of_memory_with_the_same_labels():
    logits = lambda x: torch.cat([-x, x - 0.8], 1)  # noqa: E731
    array = random((64, 64, 64))
    words = []
    made, _ = labelling.segment(Greedy(logits), array, 2, (64, 64, 64), "cpu:0", multiple=16, say=words.append)
    assert np.array_equal(made, (array - 0.8 > -array).astype(np.uint8))
    assert len(words) == 3


def small_unet(norm="batch"):
    torch.manual_seed(0)
    network = unet3d(classes=3, features=(4, 6), norm=norm).eval()
    with torch.no_grad():
        for m in network.modules():
            if isinstance(m, nn.BatchNorm3d):
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.5, 2)
        # so that every class wins somewhere
        network.head.bias -= network(torch.from_numpy(random((16, 16, 16)))[None, None]).mean((0, 2, 3, 4))
    return network


def test_blocks_with_the_networks_halo_have_the_labels_of_the_whole():
    network, array = small_unet(), random((24, 21, 34))
    whole, _ = labelling.segment(network, array, 3, (128, 128, 128), multiple=2)
    parts, _ = labelling.segment(network, array, 3, (16, 16, 24), multiple=2, halo=network.halo)
    assert len(np.unique(whole)) > 1
    assert (whole == parts).mean() > 0.9999
    near, _ = labelling.segment(network, array, 3, (16, 16, 24), multiple=2, halo=0)
    assert (whole == near).mean() < 0.9999


def test_logits_never_exist_for_more_than_a_block(tmp_path):
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            sizes.append(x.numel())
            return torch.cat([x, 1 - x], 1)

    array = random((130, 70, 66))
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        made, _ = labelling.segment(Watched(), array, 2, (32, 32, 32))
        assert np.array_equal(made[...], (array < 0.5).astype(np.uint8))
    assert max(sizes) <= 32**3


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.integers(6, 40)] * 3),
    st.tuples(*[st.integers(4, 20)] * 3),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from(["gaussian", "hann"]),
)
def test_windows_averaged_in_slabs_are_those_averaged_in_the_whole(shape, window, overlap, weights):
    class Positional(nn.Module):
        """Sees its window's edge, so windows disagree where they overlap."""

        def forward(self, x):
            ramp = torch.linspace(0, 1, x.shape[2])[None, None, :, None, None]
            return torch.cat([x * ramp, 0.4 * x + 0.1, 0.3 * torch.ones_like(x)], 1)

    network, array = Positional(), random(shape)
    window = tuple(min(w, n) for w, n in zip(window, shape, strict=True))
    total, sums, weight = np.zeros((3, *shape)), np.zeros(shape), labelling.window_weights(window, weights)
    for x in labelling.window_starts(shape[0], window[0], overlap):
        for y in labelling.window_starts(shape[1], window[1], overlap):
            for z in labelling.window_starts(shape[2], window[2], overlap):
                here = (slice(x, x + window[0]), slice(y, y + window[1]), slice(z, z + window[2]))
                total[(slice(None), *here)] += weight * network(torch.from_numpy(array[here])[None, None])[0].numpy()
                sums[here] += weight
    assert sums.min() > 0
    made, _ = labelling.segment(network, array, 3, window, overlap=overlap, weights=weights)
    mean = total / sums
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert np.array_equal(made[clear], mean.argmax(0)[clear])


def test_one_class_is_told_by_its_threshold_in_blocks_and_in_windows():
    array = random((40, 20, 20))
    logit = nn.Conv3d(1, 1, 1).eval()
    wanted = torch.sigmoid(logit(torch.from_numpy(array)[None, None]))[0, 0].detach().numpy()
    level = float(np.median(wanted))
    clear = np.abs(wanted - level) > 1e-6
    for options in ({}, {"overlap": 0.5}):
        made, _ = labelling.segment(logit, array, 1, (16, 16, 16), threshold=level, **options)
        assert np.array_equal(made[clear], (wanted > level)[clear])
    with pytest.raises(ValueError, match="threshold"):
        labelling.segment(logit, array, 1, (16, 16, 16))


def test_empty_blocks_are_background_and_not_looked_at():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(float(x.max()))
            return torch.cat([-x, x], 1)

    array = random((64, 32, 32))
    array[:32] = 0
    for options in ({}, {"overlap": 0.0}):
        seen.clear()
        made, _ = labelling.segment(Watched(), array, 2, (32, 32, 32), empty=lambda block: not block.any(), **options)
        assert len(seen) == 1
        assert not made[:32].any()
        assert made[32:].mean() > 0.99
    network = Greedy()
    network.seen = (0,) * 3
    restored, _ = inference.run_network(network, array, (0, 0, 0), (32, 32, 32), empty=lambda block: None if block.any() else 7.0)
    assert (restored[:32] == 7).all()
    assert np.array_equal(restored[32:], array[32:])


@pytest.mark.parametrize("norm", [lambda: nn.InstanceNorm3d(6, affine=True), lambda: nn.GroupNorm(2, 6), lambda: nn.InstanceNorm3d(6)])
def test_frozen_norms_bring_blocks_closer_to_the_whole_with_every_pass(norm):
    torch.manual_seed(0)
    layers = []
    for width in (1, 6, 6):
        layers += [nn.Conv3d(width, 6, 1), norm(), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv3d(6, 3, 1)).eval()
    array = random((32, 32, 32)) + np.linspace(0, 2, 32, dtype=np.float32)[:, None, None]
    with torch.no_grad():
        # so that every class wins somewhere
        network[-1].bias -= network(torch.from_numpy(array)[None, None]).mean((0, 2, 3, 4))
    whole = network(torch.from_numpy(array)[None, None])[0].detach()

    def parts():
        for x in range(0, 32, 8):
            yield array[x : x + 8]

    def blocked():
        return torch.cat([network(torch.from_numpy(p)[None, None])[0].detach() for p in parts()], 1)

    errors = []
    alone = float((blocked() - whole).abs().mean())
    for passes in (1, 2, 3):
        with norms.frozen_norms(network, parts, passes=passes) as frozen:
            assert frozen == 3
            errors.append(float((blocked() - whole).abs().mean()))
    assert alone > errors[1] > errors[2]
    # kernels of one voxel have no borders: as many passes as norms are exact
    assert errors[2] < 1e-5
    assert float((network(torch.from_numpy(array)[None, None])[0] - whole).detach().abs().max()) < 1e-6
    with norms.frozen_norms(small_unet(), partial(iter, [])) as frozen:
        assert frozen == 0
    one = {"block": (32, 32, 32)}
    wanted, _ = labelling.segment(network, array, 3, **one)
    near, _ = labelling.segment(network, array, 3, (8, 32, 32), norm_passes=3)
    far, _ = labelling.segment(network, array, 3, (8, 32, 32), norm_passes=0)
    assert (near == wanted).mean() > 0.9999 > (far == wanted).mean()


def test_bfloat16_is_taken_only_where_what_comes_out_is_alike(monkeypatch):
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: True)
    clear = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        clear.weight[:, 0, 0, 0, 0] = torch.tensor([-1.0, 1.0])
        clear.bias[:] = torch.tensor([0.5, -0.5])
    sample = random((90, 16, 16))
    assert inference.choose_precision("auto", clear.eval(), sample) == "bfloat16"
    assert inference.choose_precision("float32", clear, sample) == "float32"
    with torch.no_grad():
        clear.weight[:] *= 1e-3
        clear.bias[:] = 100
    assert inference.choose_precision("auto", clear, sample) == "float32"
    fine, coarse = nn.Conv3d(1, 1, 1).eval(), nn.Conv3d(1, 1, 1).eval()
    with torch.no_grad():
        fine.weight[:], fine.bias[:] = 0.01, 0
        coarse.weight[:], coarse.bias[:] = 1, 0.3
    assert inference.choose_precision("auto", fine, sample, alike=inference.same_image) == "bfloat16"
    assert inference.choose_precision("auto", coarse, sample, alike=inference.same_image) == "float32"
    assert not inference.same_image(torch.ones(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), torch.nan)), "no number is alike to none"
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: False)
    assert inference.choose_precision("auto", fine, sample, alike=inference.same_image) == "float32"


def test_the_sample_of_a_small_image_has_the_axes_that_the_network_wants(monkeypatch):
    monkeypatch.setattr(inference, "computes_bfloat16", lambda device: True)
    network = small_unet()
    seen = []
    network.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[2:])))
    inference.choose_precision("auto", network, random((21, 130, 9)), multiple=network.multiple)
    assert seen == [(22, 64, 10)] * 2
    redcnn = registry.build("denoise", "redcnn", filters=2).eval()
    reach = (redcnn.halo, redcnn.halo, 0)
    assert inference.choose_precision("auto", redcnn, random((9, 12, 1)), "cpu", inference.same_image, reach, slicewise=True)


@pytest.mark.parametrize("options", [{}, {"halo": 8}, {"overlap": 0.5}])
def test_probabilities_are_kept_where_labels_are_wanted_later(tmp_path, options):
    network, array = small_unet(), random((40, 21, 34))
    labels, _ = labelling.segment(network, array, 3, (16, 16, 24), multiple=2, **options)
    soft, _ = labelling.segment(network, array, 3, (16, 16, 24), multiple=2, keep="probabilities", **options)
    assert soft.shape == (3, 40, 21, 34)
    np.testing.assert_allclose(soft.sum(0), 1, atol=1e-5)
    ordered = np.sort(soft, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert clear.mean() > 0.9
    assert np.array_equal(soft.argmax(0)[clear], labels[clear])
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        there, _ = labelling.segment(network, array, 3, (16, 16, 24), multiple=2, keep="probabilities", **options)
    assert isinstance(there, Scratch)
    assert there.whole()
    assert there[...].tobytes() == soft.tobytes()


def test_probabilities_of_nothing_are_background_and_of_one_class_those_of_the_sigmoid():
    array = random((32, 16, 16))
    array[:16] = 0
    nothing = {"empty": lambda block: not block.any(), "keep": "probabilities"}
    soft, _ = labelling.segment(small_unet(), array, 3, (16, 16, 16), multiple=2, **nothing)
    assert (soft[:, :16] == np.array([1, 0, 0]).reshape(3, 1, 1, 1)).all()
    logit = nn.Conv3d(1, 1, 1).eval()
    wanted = torch.sigmoid(logit(torch.from_numpy(array)[None, None]))[0].detach().numpy()
    for options in ({}, {"overlap": 0.5}):
        soft, _ = labelling.segment(logit, array, 1, (16, 16, 16), threshold=0.5, keep="probabilities", **options)
        np.testing.assert_allclose(soft, wanted, atol=1e-6)


def test_a_working_image_that_is_cut_has_nearly_the_labels_of_the_whole(monkeypatch, tmp_path):
    network, array = small_unet(), random((64, 40, 48))
    whole, _ = segmenting.class_probabilities(network, array, 3)
    with torch.no_grad():
        wanted = torch.softmax(network(torch.from_numpy(array)[None, None]), 1)[0]
    np.testing.assert_allclose(whole, wanted.numpy(), atol=1e-6)
    monkeypatch.setattr(segmenting, "BLOCK", (32, 32, 32))
    with planned(Plan(memory_mb=0, scratch=tmp_path)):
        parts, precision = segmenting.class_probabilities(network, array, 3)
    assert precision == "float32"
    assert isinstance(parts, Scratch)
    np.testing.assert_allclose(parts[...], whole, atol=1e-4)


def test_windows_of_a_working_image_overlap_and_air_is_not_looked_at(monkeypatch):
    network, array = small_unet(), random((64, 40, 48))
    array[:32] = 0
    whole, _ = segmenting.class_probabilities(network, array, 3)
    monkeypatch.setattr(segmenting, "BLOCK", (32, 32, 32))
    monkeypatch.setattr(segmenting, "CONTEXT", 0)
    seen = []
    network.register_forward_hook(lambda _, given, made: seen.append(given[0].shape))
    windows, _ = segmenting.class_probabilities(network, array, 3, overlap=0.5)
    overlapping = len(seen)
    blocks, _ = segmenting.class_probabilities(network, array, 3)
    assert len(seen) - overlapping == 4, "the four blocks of air are left out"
    assert (blocks[:, :32] == np.array([1, 0, 0]).reshape(3, 1, 1, 1)).all()
    np.testing.assert_allclose(windows.sum(0), 1, atol=1e-5)
    worst = [np.abs(found[:, 36:] - whole[:, 36:]).mean() for found in (windows, blocks)]
    assert worst[0] < worst[1], "what lies at the border of one window lies inside of another"


def test_a_network_that_ended_on_the_cpu_goes_back_to_its_device_for_the_next_volume():
    network, places = nn.Conv3d(1, 1, 1).eval(), []
    network.to = lambda device: places.append(device) or network
    runner = inference.Runner(network, "cpu:0", (32, 32, 32))
    runner.shrink()
    inference.Runner(network, "cpu:0", (32, 32, 32))
    assert places == ["cpu:0", "cpu", "cpu:0"]


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is seen here: what runs on a GPU is not tested")


@cuda
def test_on_a_gpu_networks_give_what_they_give_on_the_cpu():
    network, array = small_unet(), random((40, 37, 34))
    options = {"multiple": 2, "halo": network.halo, "keep": "probabilities"}
    wanted, _ = labelling.segment(network, array, 3, (16, 16, 24), **options)
    made, device = labelling.segment(network, array, 3, (16, 16, 24), "cuda", **options)
    assert device == "cuda"
    np.testing.assert_allclose(made, wanted, atol=2e-3)
    kernel = registry.build("superresolve", "srcnn3d").eval()
    here, _ = inference.run_network(kernel, array, (6, 6, 6), (32, 32, 32))
    there, device = inference.run_network(kernel, array, (6, 6, 6), (32, 32, 32), "cuda")
    assert device == "cuda"
    np.testing.assert_allclose(there, here, atol=2e-3)
    half, _ = inference.run_network(kernel, array, (6, 6, 6), (32, 32, 32), "cuda", precision="bfloat16")
    assert 0 < np.abs(half - here).max() < 0.1


@cuda
def test_on_a_gpu_without_room_the_work_goes_on_in_smaller_blocks():
    class Hungry(nn.Module):
        """Wants more than any GPU has for blocks above 32 voxels."""

        def forward(self, x):
            if max(x.shape[2:]) > 32:
                torch.empty(2**46, dtype=torch.uint8, device=x.device)
            return torch.cat([-x, x - 0.8], 1)

    array, words = random((64, 64, 64)), []
    made, device = labelling.segment(Hungry(), array, 2, (64, 64, 64), "cuda", multiple=16, say=words.append)
    assert device == "cuda"
    assert len(words) == 3
    assert np.array_equal(made, (array - 0.8 > -array).astype(np.uint8))
    assert torch.cuda.memory_allocated() < 2**30
