"""A filter gives the same bytes whole, in blocks with its halo, on several threads, and from a lazy image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex import threads
from cohortex.filters import steps
from cohortex.filters.chain import FILTERS, STEPS, filter_block, halo, resolve
from cohortex.filters.noise import estimated
from cohortex.filters.total_variation import sample_boxes
from cohortex.filters.transform import denoise_transform
from cohortex.measures.image_quality import noise_sigma

WHOLE = FILTERS | {"transform": denoise_transform}
CASES = [
    ("median", {}),
    ("median", {"radius_mm": 2.0}),
    ("gaussian", {"sigma_mm": [0.7, 1.4, 0.4]}),
    ("wavelet", {"basis": "haar", "levels": 2, "shifts": 3}),
    ("wavelet", {"basis": "db2", "levels": 1, "shifts": 2}),
    ("wiener", {}),
    ("wiener", {"radius_mm": 2.0, "sigma": 0.5, "edge": "zero"}),
    ("anisotropic_diffusion", {}),
    ("anisotropic_diffusion", {"iterations": 2, "kappa": 0.5, "conductance": "rational", "equation": "curvature"}),
    ("total_variation", {"weight": 0.5, "tolerance": 0.05}),
    ("total_variation", {"tolerance": None, "iterations": 6, "solver": "chambolle"}),
    ("transform", {"block_size": 3, "rician": True}),
]


class Lazy:
    """An array that is read in slices only, a few planes at a time."""

    def __init__(self, array, most):
        self.array, self.most, self.shape, self.dtype, self.ndim = array, most, array.shape, array.dtype, 3

    def __getitem__(self, key):
        part = self.array[key]
        assert part.shape[0] <= self.most, "too much is read at once"
        return part


def in_blocks(name, image, resolved, edges):
    reach, out = halo(name, resolved), np.empty_like(image)
    for corner in np.ndindex(*(-(-size // edge) for size, edge in zip(image.shape, edges, strict=True))):
        starts = [i * edge for i, edge in zip(corner, edges, strict=True)]
        stops = [min(size, start + edge) for size, start, edge in zip(image.shape, starts, edges, strict=True)]
        lows = [max(0, start - h) for start, h in zip(starts, reach, strict=True)]
        highs = [min(size, stop + h) for size, stop, h in zip(image.shape, stops, reach, strict=True)]
        part = image[tuple(slice(a, b) for a, b in zip(lows, highs, strict=True))]
        made = filter_block(name, part, resolved, tuple(lows))
        inner = tuple(slice(start - low, stop - low) for start, stop, low in zip(starts, stops, lows, strict=True))
        out[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))] = made[inner]
    return out


@settings(max_examples=36, deadline=None)
@given(
    case=st.sampled_from(CASES),
    shape=st.sampled_from([(33, 26, 21), (40, 19, 1), (1, 24, 37), (25, 30, 6), (21, 2, 18)]),
    edges=st.tuples(*[st.integers(5, 20)] * 3),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.3, 3.0)]),
    seed=st.integers(0, 99),
)
def test_blocks_with_the_halo_give_the_bytes_of_the_whole(case, shape, edges, spacing, seed):
    name, options = case
    image = np.random.default_rng(seed).normal(3, 1, shape).astype(np.float32)
    resolved = resolve(name, image, spacing, options)
    assert in_blocks(name, image, resolved, edges).tobytes() == WHOLE[name](image, spacing, **options).tobytes()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_any_number_of_threads_gives_the_same_bytes(name, options, monkeypatch):
    image = np.random.default_rng(0).normal(3, 1, (50, 17, 20)).astype(np.float32)
    alone = WHOLE[name](image, (1.0, 1.0, 1.5), **options)
    for count in (2, 3):
        monkeypatch.setattr(threads, "_count", count)
        assert WHOLE[name](image, (1.0, 1.0, 1.5), **options).tobytes() == alone.tobytes()


@pytest.mark.parametrize("slab", [2**24, 500])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_lazy_image_resolves_to_the_same_numbers(name, options, slab, monkeypatch):
    monkeypatch.setattr(steps, "SLAB_VOXELS", slab)
    image = np.random.default_rng(0).normal(3, 1, (300, 9, 10)).astype(np.float32)
    most = 300 if name == "total_variation" else 120  # of its sample of 96^3 voxels this image is a part
    first, second = resolve(name, image, (1.0, 1.0, 1.0), options), resolve(name, Lazy(image, most), (1.0, 1.0, 1.0), options)
    assert first.keys() == second.keys()
    for key in first:
        if key == "weights":
            assert all(np.array_equal(one, other) for one, other in zip(first[key], second[key], strict=True))
        elif key == "inverse":
            assert np.array_equal(first[key], second[key])
        else:
            assert first[key] == second[key], key


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99), clipped=st.booleans())
def test_the_noise_of_a_lazy_image_is_that_of_the_image_in_memory(shape, seed, clipped):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if clipped:
        image = np.maximum(image, 0)
    assert estimated(Lazy(image, 40)) == noise_sigma(image)
    image[-1, -1, -1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        estimated(Lazy(image, 40))


def test_a_filter_that_is_not_in_the_table_is_named():
    assert set(STEPS) == set(WHOLE)
    with pytest.raises(ValueError, match="no filter 'blur'"):
        halo("blur", {})


@pytest.mark.parametrize("shape", [(50, 60, 70), (300, 300, 300), (2000, 2000, 1), (400, 400, 30), (5000, 40, 40)])
def test_the_gap_of_a_large_image_is_looked_at_in_boxes_that_lie_inside(shape):
    boxes = sample_boxes(shape)
    voxels = sum(np.prod([part.stop - part.start for part in box]) for box in boxes)
    assert all(0 <= part.start < part.stop <= size for box in boxes for part, size in zip(box, shape, strict=True))
    assert voxels == np.prod(shape) if np.prod(shape) <= 96**3 else 0 < voxels <= 1.1 * 96**3
