"""Features of pictures: of the foreground only, in the plane only, on square pixels."""

import time

import numpy as np
import pytest

from cohortex.models.classify.pictures import PICTURE_NAMES, picture_features, picture_foreground, picture_names


def disc(n: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a textured disc on black, and its mask."""
    grid = np.stack(np.meshgrid(*[np.arange(n)] * 2, indexing="ij"), axis=-1) - (n - 1) / 2
    inside = np.linalg.norm(grid, axis=-1) < n / 3
    return np.where(inside, 100 + 20 * np.random.default_rng(seed).random((n, n)), 0.0), inside


def test_the_surroundings_are_no_foreground_and_a_dark_spot_inside_is():
    image, inside = disc()
    image[30:33, 30:33] = 0
    assert np.array_equal(picture_foreground(image), inside)
    assert picture_foreground(np.ones((5, 5))).all()
    image[0, 0] = np.nan
    assert not picture_foreground(image)[0, 0]
    assert not picture_foreground(np.full((3, 3), np.nan)).any()


def test_what_surrounds_the_foreground_changes_nothing():
    image, inside = disc()
    found = picture_features(image, (0.5, 0.5))
    assert tuple(found) == picture_names()
    assert found["area_mm2"] == pytest.approx(inside.sum() / 4)
    wider = picture_features(np.pad(image, ((9, 2), (0, 5))), (0.5, 0.5))
    same = [name for name in found if name != "foreground_share"]
    assert {name: wider[name] for name in same} == {name: found[name] for name in same}
    assert picture_features(image[:, :, None], (0.5, 0.5, 1.0)) == found
    assert picture_features(image, (0.5, 0.5), mask=inside) == found


def test_texture_of_a_picture_knows_neither_turns_nor_gain():
    image, inside = disc()
    image = np.where(inside, np.round(image), 0)
    found = picture_features(image, (1, 1), mask=inside)
    turned = picture_features(np.rot90(image), (1, 1), mask=np.rot90(inside))
    brighter = picture_features(4 * image, (1, 1), mask=inside)
    for name, value in found.items():
        assert turned[name] == pytest.approx(value, rel=1e-6, abs=1e-9)
        if not name.startswith("firstorder"):
            assert brighter[name] == pytest.approx(value, rel=1e-9)


def test_runs_of_a_picture_are_looked_for_in_its_plane_only():
    stripes = np.tile(np.array([0.0, 1.0]), (40, 20))
    found = picture_features(stripes, (1, 1), mask=np.ones(stripes.shape, bool), bins=2, families=("glrlm",))
    # one of four directions has runs of 40 pixels, in the others a run is one pixel
    assert found["glrlm_percentage"] == pytest.approx((3 * 1600 + 40) / (4 * 1600))


def test_long_pixels_are_made_square_without_the_surroundings_in_their_edge():
    _, inside = disc(96)
    smooth = np.where(inside, 100.0, 0.0)
    found = picture_features(smooth[:, ::2], (1.0, 2.0), families=("firstorder", "glcm"))
    assert found["firstorder_minimum"] == pytest.approx(100)
    assert found["firstorder_maximum"] == pytest.approx(100)
    assert found["area_mm2"] == pytest.approx(inside.sum(), rel=0.03)
    noise = np.random.default_rng(1).normal(size=(80, 80))
    fine = picture_features(noise, (1, 1), families=("glcm",))
    assert picture_features(noise, (1, 3), families=("glcm",))["glcm_contrast"] < fine["glcm_contrast"] * 1.2


def test_an_empty_region_and_a_flat_one():
    image, _ = disc()
    found = picture_features(image, (1, 1), mask=np.zeros(image.shape, bool))
    assert found["area_mm2"] == 0
    assert all(np.isnan(value) for name, value in found.items() if name not in ("area_mm2", "foreground_share"))
    flat = picture_features(np.ones((9, 9)), (1, 1))
    assert all(np.isfinite(value) for value in flat.values())
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        picture_features(np.zeros((4, 4, 3)), (1, 1))
    with pytest.raises(ValueError, match="the mask has shape"):
        picture_features(image, (1, 1), mask=np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="no family 'wavelet'"):
        picture_features(image, (1, 1), families=("wavelet",))
    assert len(picture_names()) == 2 + sum(len(names) for names in PICTURE_NAMES.values())


def test_a_picture_of_128_pixels_takes_a_few_hundredths_of_a_second():
    image = np.random.default_rng(0).normal(size=(128, 128)).cumsum(axis=0)
    picture_features(image, (1, 1))
    spent = []
    for _ in range(5):
        start = time.process_time()
        picture_features(image, (1, 1))
        spent.append(time.process_time() - start)
    assert min(spent) < 0.05  # 0.015 where nothing else runs
