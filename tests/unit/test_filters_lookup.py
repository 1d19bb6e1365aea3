"""What is looked up in blocks, out of a source that is read in parts, has the bytes of what is looked up at once."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.blocks import Plan, planned
from cohortex.filters import lookup, scores
from cohortex.filters.lookup import Looked, Means, plain
from cohortex.filters.lookup_kernels import around, place
from cohortex.filters.scores import Best
from cohortex.io.scratch import Scratch
from cohortex.models.regseg.affine import rotation
from cohortex.models.regseg.grid import Displacement, Grid, field_on, route
from tests.lazy_arrays import Counted


def boxes_of(shape, rng) -> list:
    """Cut a grid at random places."""
    cuts = [np.unique([0, n, *rng.integers(0, n + 1, 2)]) for n in shape]
    pairs = [list(zip(c[:-1].tolist(), c[1:].tolist(), strict=True)) for c in cuts]
    return [(x, y, z) for x in pairs[0] for y in pairs[1] for z in pairs[2]]


def together(lazy, rng) -> np.ndarray:
    made = np.empty(lazy.shape, lazy.dtype)
    for box in boxes_of(lazy.shape, rng):
        key = tuple(slice(a, b) for a, b in box)
        made[key] = lazy[key]
    return made


def random_route(rng, size, displaced):
    """A turned, scaled, shifted and perhaps displaced grid that mostly lies in the source."""
    affine, world = np.diag([*rng.uniform(0.4, 1.6, 3), 1.0]), np.eye(4)
    affine[:3, 3] = rng.uniform(-3, 3, 3)
    world[:3, :3] = rotation(rng.uniform(-25, 25, 3).tolist()) @ np.diag(rng.choice([-1.0, 1.0], 3))
    world[:3, 3] = (world[:3, :3] < -0.5).any(1) * np.array(size)
    mm = rng.normal(0, 2, (3, *rng.integers(1, 6, 3))).astype(np.float32)
    field = Displacement(mm, Grid(mm.shape[1:], np.diag([4.0, 5.0, 3.0, 1.0]))) if displaced else None
    return route(Grid((1, 1, 1), affine), world, field)


shapes = st.tuples(*[st.integers(1, 22)] * 3)


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.booleans(), st.sampled_from(["bilinear", "nearest"]), st.sampled_from([None, 7.0]), st.integers(0, 2**31))
def test_an_image_looked_up_in_parts_has_the_bytes_of_the_whole(size, shape, displaced, mode, outside, seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(100, 30, size).astype(np.float32) if mode == "bilinear" else rng.integers(0, 200, size).astype(np.uint8)
    way = random_route(rng, size, displaced)
    whole = Looked(source, way, shape, mode, outside)[...]
    assert whole.dtype == source.dtype
    disk = Counted(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "room", lambda itemsize=4: 300)
        made = together(Looked(disk, way, shape, mode, outside), rng)
    assert made.tobytes() == whole.tobytes()


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_no_voxel_looks_at_anything_beside_its_part_of_the_source(size, shape, displaced, filled, seed):
    """Also not with weight 0: what lies beside a part in memory may be NaN."""
    rng = np.random.default_rng(seed)
    way = random_route(rng, size, displaced)
    for box, part in lookup.pieces(way, tuple((0, n) for n in shape), size, 300, filled):
        if part is None:
            continue
        for voxel in product(*(range(a, b) for a, b in box)):
            for position, n, (start, stop) in zip(place(way, *voxel), size, part, strict=True):
                low, high, _ = around(position, n)
                assert start <= low <= high < stop


@settings(max_examples=30, deadline=None)
@given(shapes, shapes, st.booleans(), st.integers(2, 6), st.integers(0, 2**31))
def test_labels_of_scores_on_the_disk_have_the_bytes_of_those_in_memory(size, shape, displaced, classes, seed):
    rng = np.random.default_rng(seed)
    given_scores = rng.normal(0, 1, (classes, *size)).astype(np.float32)
    way = random_route(rng, size, displaced)
    whole = Best(given_scores, way, shape)[...]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "room", lambda itemsize: 300)
        made = together(Best(Counted(given_scores), way, shape), rng)
    assert made.tobytes() == whole.tobytes()


def test_no_more_of_the_source_is_read_at_once_than_a_block_may_take(monkeypatch):
    source = Counted(np.random.default_rng(0).random((60, 60, 60), dtype=np.float32))
    way = plain(np.diag([1.2, 1.2, 1.2, 1.0]))
    monkeypatch.setattr(lookup, "room", lambda itemsize=4: 2000)
    monkeypatch.setattr(scores, "room", lambda itemsize: 2000)
    assert Looked(source, way, (48, 48, 48), outside=0.0)[:, 20, :].shape == (48, 48)
    Looked(source, way, (48, 48, 48), outside=0.0)[...]
    assert 0 < source.most <= 2000
    means = Means(source, (3, 3, 3))
    source.most = 0
    assert means[...].shape == (20, 20, 20)
    assert 0 < source.most <= 2000
    classes = Counted(np.zeros((4, 60, 60, 60), np.float32))
    Best(classes, way, (48, 48, 48))[...]
    assert 0 < classes.most <= 4 * 2000


@settings(max_examples=30, deadline=None)
@given(shapes, st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**31))
def test_means_do_not_depend_on_how_they_are_read(size, factors, seed):
    rng = np.random.default_rng(seed)
    factors = tuple(min(f, n) for f, n in zip(factors, size, strict=True))
    source = rng.normal(100, 30, size).astype(np.float32)
    whole = Means(source, factors)[...]
    counts = [n // f for n, f in zip(size, factors, strict=True)]
    cut = source[tuple(slice(0, n * f) for n, f in zip(counts, factors, strict=True))].astype(np.float64)
    split = cut.reshape(counts[0], factors[0], counts[1], factors[1], counts[2], factors[2])
    np.testing.assert_allclose(whole, split.mean(axis=(1, 3, 5)), rtol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "room", lambda itemsize=4: 100)
        made = together(Means(Counted(source), factors), rng)
    assert made.tobytes() == whole.tobytes()


@pytest.mark.parametrize("shape", [(130, 9, 11), (40, 70, 66)])
def test_a_field_larger_than_memory_has_the_bytes_of_one_in_memory(tmp_path, shape):
    rng = np.random.default_rng(1)
    moves = Displacement(rng.normal(0, 3, (3, 6, 5, 7)).astype(np.float32), Grid((6, 5, 7), np.diag([9.0, 9.0, 9.0, 1.0])))
    grid = Grid(shape, np.diag([0.7, 0.9, 1.1, 1.0]))
    whole = field_on(grid, moves)
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        made = field_on(grid, moves, Scratch(tmp_path, (*shape, 3)))
    assert made.whole()
    assert made[...].tobytes() == whole.tobytes()


def test_integers_and_slices_take_the_same_values():
    lazy = Looked(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), plain(np.eye(4)), (3, 4, 5), "nearest", 0.0)
    wanted = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for key in (..., 1, (1, ..., 2), (slice(1, 3), slice(None), 4), (slice(1, 9), slice(0, 2), slice(None))):
        assert np.array_equal(lazy[key], wanted[key])
