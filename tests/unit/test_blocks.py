"""Block by block gives what the whole volume gives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex import blocks
from cohortex.device import choose_device, smaller
from cohortex.errors import Refused
from cohortex.models import registry

small = st.integers(1, 11)
KERNEL = np.random.default_rng(3).integers(-8, 9, (5, 3, 7)).astype(np.float32)


def convolve(values):
    """Correlate with a 5 x 3 x 7 kernel; the sum has one order whatever the shape."""
    x, y, z = (n - k + 1 for n, k in zip(values.shape, KERNEL.shape, strict=True))
    made = np.zeros((x, y, z), np.float32)
    for i, j, k in np.ndindex(*KERNEL.shape):
        made += KERNEL[i, j, k] * values[i : i + x, j : j + y, k : k + z]
    return made


@settings(max_examples=60, deadline=None)
@given(st.tuples(small, small, small), st.tuples(small, small, small), st.sampled_from(["reflect", "edge"]), st.integers(0, 99))
def test_a_convolution_gives_the_same_bytes_for_every_block(shape, block, edge, seed):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    whole = blocks.map_blocks(convolve, array, shape, (2, 1, 3), edge=edge)
    assert blocks.map_blocks(convolve, array, block, (2, 1, 3), edge=edge).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("edge", "mode"), [("reflect", "mirror"), ("edge", "nearest")])
def test_the_edge_rules_are_those_of_scipy(edge, mode):
    array = np.random.default_rng(0).normal(size=(9, 4, 6)).astype(np.float32)
    wanted = ndimage.correlate(array.astype(np.float64), KERNEL.astype(np.float64), mode=mode)
    np.testing.assert_allclose(blocks.map_blocks(convolve, array, (4, 4, 4), (2, 1, 3), edge=edge), wanted, atol=1e-3)


def test_a_function_that_keeps_the_halo_is_cropped():
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    assert np.array_equal(blocks.map_blocks(lambda b: b * 2, array, (4, 3, 5), (2, 2, 2)), array * 2)


def test_a_function_that_returns_another_shape_is_refused():
    with pytest.raises(ValueError, match="halo"):
        blocks.map_blocks(lambda b: b[:1], np.zeros((8, 8, 8)), (4, 4, 4), (1, 1, 1))


def test_only_the_block_and_its_halo_are_read_from_a_lazy_array():
    class Lazy:
        shape, dtype, most = (40, 8, 8), np.dtype(np.float32), 0

        def __getitem__(self, key):
            part = np.zeros(self.shape, np.float32)[key]
            self.most = max(self.most, part.shape[0])
            return part

    lazy = Lazy()
    blocks.map_blocks(lambda b: b, lazy, (5, 8, 8), (2, 0, 0))
    assert lazy.most == 9


@given(st.integers(1, 300), st.integers(1, 300))
def test_pieces_cover_an_axis_once_and_differ_by_one_at_most(size, most):
    pieces = blocks.cut(size, most)
    assert [i for a, b in pieces for i in range(a, b)] == list(range(size))
    lengths = {b - a for a, b in pieces}
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("block", [(5, 5, 5), (20, 7, 9), (3, 20, 20)])
def test_a_network_gives_the_same_for_every_block_to_float32_rounding(block):
    torch.manual_seed(0)
    network = registry.build("superresolve", "srcnn3d").eval()
    array = np.random.default_rng(1).random((20, 14, 11), dtype=np.float32)
    whole, device = blocks.run_network(network, array, (6, 6, 6), array.shape)
    assert device == "cpu"
    assert whole.shape == array.shape
    np.testing.assert_allclose(blocks.run_network(network, array, (6, 6, 6), block)[0], whole, atol=2e-6)


def test_a_2d_network_sees_slices_along_z():
    torch.manual_seed(0)
    network = registry.build("denoise", "redcnn", filters=4).eval()
    array = np.random.default_rng(1).random((30, 26, 3), dtype=np.float32)
    whole, _ = blocks.run_network(network, array, (20, 20, 0), (30, 26, 3), slicewise=True)
    for z in range(3):
        alone, _ = blocks.run_network(network, array[:, :, z : z + 1], (20, 20, 0), (11, 13, 1), slicewise=True)
        np.testing.assert_allclose(alone[:, :, 0], whole[:, :, z], atol=2e-6)


def test_out_of_memory_halves_the_block_and_ends_on_the_cpu():
    class Greedy(torch.nn.Module):
        seen = ()

        def forward(self, x):
            self.seen = (*self.seen, tuple(x.shape[2:]))
            if len(self.seen) < 4:
                raise torch.OutOfMemoryError
            return x

    network = Greedy()
    array = np.random.default_rng(1).random((64, 40, 8), dtype=np.float32)
    made, device = blocks.run_network(network, array, (0, 0, 0), (64, 64, 64), device="cpu:0")  # stands for a GPU: it is not "cpu"
    assert np.array_equal(made, array)
    assert device == "cpu"
    assert network.seen[:4] == ((64, 40, 8), (32, 40, 8), (32, 20, 8), (32, 20, 8))


def test_the_next_block_after_out_of_memory_is_half_along_its_longest_edge():
    assert smaller((64, 96, 64), "cuda") == ((64, 48, 64), "cuda")
    assert smaller((32, 32, 16), "cuda") == ((32, 32, 16), "cpu")


def test_the_cpu_is_chosen_without_torch_and_another_word_is_refused():
    assert choose_device("cpu") == "cpu"
    with pytest.raises(Refused, match="auto, cpu or cuda"):
        choose_device("gpu")
