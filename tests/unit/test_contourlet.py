"""The non-subsampled contourlet transform: perfect reconstruction, scales, directions, the reach that it says."""

import numpy as np
import pytest
import torch

from cohortex.filters.contourlet import contourlet, inverse_contourlet, reach


@pytest.mark.parametrize("shape", [(61, 48), (2, 17, 9), (3, 5), (1, 1)])
@pytest.mark.parametrize("directions", [(8, 4, 2), (1,), (4, 8), (2, 1, 8)])
def test_reconstruction_is_perfect_for_every_size_also_at_the_edges(shape, directions):
    picture = np.random.default_rng(1).standard_normal(shape)
    bands = contourlet(picture, directions)
    assert bands.shape == (*shape[:-2], 1 + sum(directions), *shape[-2:])
    assert np.abs(inverse_contourlet(bands, directions) - picture).max() < 1e-10


def test_tensors_have_the_bands_of_arrays_and_gradients():
    picture = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 20, 24))).requires_grad_()
    bands = contourlet(picture)
    np.testing.assert_allclose(bands.detach().numpy(), contourlet(picture.detach().numpy()), atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: contourlet(x, (4, 2)), picture[:1, :6, :7].detach().requires_grad_(), fast_mode=True)


def test_the_frame_is_close_to_a_tight_one():
    delta = np.zeros((128, 128))
    delta[64, 64] = 1
    energy = (np.abs(np.fft.fft2(contourlet(delta))) ** 2).sum(0)
    assert energy.min() > 0.9
    assert energy.max() < 1.2


@pytest.mark.parametrize(
    ("degrees", "band"),
    [(55, 0), (75, 1), (125, 2), (105, 3), (35, 4), (15, 5), (145, 6), (165, 7)],
)
def test_a_fine_wave_lies_above_all_in_the_band_of_its_direction(degrees, band):
    # the wave's frequency is 0.33 cycles a pixel, at an angle from the columns' axis towards the rows' axis
    row, column = np.meshgrid(np.arange(160), np.arange(160), indexing="ij")
    angle = np.radians(degrees)
    wave = np.cos(2 * np.pi * 0.33 * (np.sin(angle) * row + np.cos(angle) * column))
    energy = (contourlet(wave)[:, 40:-40, 40:-40] ** 2).mean((1, 2))
    first, second = np.sort(energy)[[-1, -2]]
    assert energy[7 + band] == first
    assert first > 1.8 * second


@pytest.mark.parametrize(("wavelength", "scale"), [(100, slice(0, 1)), (12, slice(1, 3)), (6, slice(3, 7)), (3, slice(7, 15))])
def test_a_wave_lies_in_the_bands_of_its_scale(wavelength, scale):
    wave = np.cos(2 * np.pi * np.arange(300) / wavelength)[:, None] * np.ones((1, 200))
    energy = (contourlet(wave)[:, 40:-40, 40:-40] ** 2).mean((1, 2))
    assert energy[scale].sum() > 0.5 * energy.sum()


@pytest.mark.parametrize("directions", [(8, 4, 2), (2,), (1, 4)])
def test_it_reaches_as_far_as_it_says(directions):
    there, back = reach(directions)
    size, middle = 2 * there + 9, there + 4
    delta = np.zeros((size, size))
    delta[middle, middle] = 1
    bands = contourlet(delta, directions)
    assert np.abs(np.argwhere(bands)[:, 1:] - middle).max() == there
    farthest = 0
    for band in range(len(bands)):
        one = np.zeros_like(bands)
        one[band, middle, middle] = 1
        farthest = max(farthest, np.abs(np.argwhere(inverse_contourlet(one, directions)) - middle).max())
    assert farthest == back


def test_other_numbers_of_directions_or_bands_are_refused():
    with pytest.raises(ValueError, match="1, 2, 4 or 8 directions, not 3"):
        contourlet(np.zeros((8, 8)), (3,))
    with pytest.raises(ValueError, match="15 bands, there are 14"):
        inverse_contourlet(np.zeros((14, 8, 8)))
