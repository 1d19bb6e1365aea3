"""Physics inside networks: gradients are adjoints, layers are the operators of the simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.physics import ct, mr
from cohortex.physics.fourier import centred_fft, centred_ifft
from cohortex.physics.torch_operators import (
    Operator,
    centred_fft2,
    centred_ifft2,
    coil_adjoint,
    coil_forward,
    data_consistency,
    fbp_operator,
    radon_operator,
)


def gradient_is_the_adjoint(operator: Operator, batch: tuple[int, ...], seed: int) -> None:
    """<A x, y> = <x, g> for the gradient g of <A x, y>, and for the gradient of that in y."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, *operator.inputs, generator=generator, requires_grad=True)
    y = torch.randn(*batch, *operator.outputs, generator=generator, requires_grad=True)
    made = operator(x)
    (g,) = torch.autograd.grad((made * y).sum(), x, create_graph=True)
    left, right = (made.double() * y).sum(), (x.double() * g).sum()
    scale = made.norm() * y.norm()
    assert abs(left - right) <= 1e-4 * scale
    v = torch.randn(*x.shape, generator=generator)
    (again,) = torch.autograd.grad((g * v).sum(), y)
    torch.testing.assert_close(again, operator(v), rtol=1e-4, atol=1e-4 * float(again.abs().max()) + 1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 20), st.integers(3, 20), st.integers(1, 3), st.integers(1, 9), st.integers(-6, 3), st.integers(0, 1000))
def test_the_gradients_of_projection_and_of_fbp_are_their_adjoints(nx: int, ny: int, n: int, views: int, more: int, seed: int) -> None:
    angles = ct.view_angles(views) + seed / 1000
    bins = max(2, ct.detectors_for((nx, ny)) + more)
    gradient_is_the_adjoint(radon_operator((nx, ny), angles, 1.3, bins), (n,), seed)
    for window in ("ram-lak", "hann"):
        gradient_is_the_adjoint(fbp_operator((nx, ny), angles, 1.3, bins, window), (n, 2), seed)


def test_the_layers_are_the_operators_of_the_simulations() -> None:
    angles = ct.view_angles(16)
    images = np.random.default_rng(0).random((3, 2, 18, 25)).astype(np.float32)
    stack = images.reshape(6, 18, 25).transpose(1, 2, 0)
    rays = ct.radon(stack, angles, 1.5)
    layer = radon_operator((18, 25), angles, 1.5)(torch.from_numpy(images))
    assert layer.shape == (3, 2, 16, ct.detectors_for((18, 25)))
    np.testing.assert_array_equal(layer.numpy().reshape(6, *layer.shape[2:]), rays.transpose(2, 0, 1))
    back = fbp_operator((18, 25), angles, 1.5)(layer)
    np.testing.assert_array_equal(back.numpy().reshape(6, 18, 25), ct.fbp(rays, angles, 1.5, (18, 25)).transpose(2, 0, 1))
    half = radon_operator((18, 25), angles, 1.5)(torch.from_numpy(images).to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"takes pictures of \(18, 25\), not of \(25, 18\)"):
        radon_operator((18, 25), angles, 1.5)(torch.zeros(1, 25, 18))


def test_gradient_descent_through_the_layers_finds_the_picture() -> None:
    """The loss of a picture's projections, minimised through the layer, leads to the picture and not only to a smaller loss."""
    angles = ct.view_angles(48)
    axis = torch.arange(24) - 11.5
    truth = ((axis[:, None] ** 2 + axis**2) < 64).float()[None]
    project = radon_operator((24, 24), angles, 1.0)
    rays, found = project(truth), torch.zeros_like(truth, requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=0.1)
    for _ in range(80):
        optimiser.zero_grad()
        (project(found) - rays).square().mean().backward()
        optimiser.step()
    assert float((found.detach() - truth).square().mean().sqrt()) < 0.12 * float(truth.std())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 17), st.integers(2, 17), st.integers(0, 1000))
def test_the_transform_is_that_of_the_simulations(ny: int, nx: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.standard_normal((2, ny, nx)) + 1j * rng.standard_normal((2, ny, nx))).astype(np.complex64)
    np.testing.assert_allclose(centred_fft2(torch.from_numpy(image)).numpy(), centred_fft(image, (-2, -1)), atol=1e-5)
    np.testing.assert_allclose(centred_ifft2(torch.from_numpy(image)).numpy(), centred_ifft(image, (-2, -1)), atol=1e-5)


def test_a_consistent_image_has_the_measured_samples_and_keeps_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    image, truth = (torch.randn(2, 16, 12, dtype=torch.complex64, generator=generator) for _ in range(2))
    mask = torch.from_numpy(mr.cartesian_mask(16, 2.0, 0.2, np.random.default_rng(0)))[:, None]
    measured = centred_fft2(truth) * mask
    measured = torch.where(mask, measured, torch.nan)  # what was not measured cannot leak in
    hard = centred_fft2(data_consistency(image, measured, mask))
    torch.testing.assert_close(hard, torch.where(mask, centred_fft2(truth), centred_fft2(image)), rtol=0, atol=1e-5)
    soft = centred_fft2(data_consistency(image, measured, mask, trust=3.0))
    mixed = 0.25 * centred_fft2(image) + 0.75 * centred_fft2(truth)
    torch.testing.assert_close(soft, torch.where(mask, mixed, centred_fft2(image)), rtol=0, atol=1e-5)
    trust = torch.tensor(1.0, requires_grad=True)
    data_consistency(image, measured, mask, trust).abs().square().sum().backward()
    assert trust.grad is not None and math.isfinite(float(trust.grad)) and float(trust.grad) != 0


def test_the_multi_coil_operator_in_torch_is_that_of_the_simulation_with_its_adjoint() -> None:
    rng = np.random.default_rng(3)
    points = (np.arange(14.0) - 7, (np.arange(18.0) - 9)[:, None], np.zeros(1)[:, None, None])
    maps = np.moveaxis(mr.coil_sensitivities(points, np.array([[20.0, 0, 2], [-20, 3, 0], [0, 20, 4]]), 20.0), 0, 1)
    mask = mr.cartesian_mask(18, 2.0, 0.2, rng)
    image = (rng.standard_normal((1, 18, 14)) + 1j * rng.standard_normal((1, 18, 14))).astype(np.complex64)
    sensitivities, lines = torch.from_numpy(maps), torch.from_numpy(mask)[:, None]
    made = coil_forward(torch.from_numpy(image), sensitivities, lines)
    np.testing.assert_allclose(made.numpy(), mr.acquire_kspace(image, maps, mask), atol=1e-5)
    other = torch.randn(made.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    back = coil_adjoint(other, sensitivities, lines)
    left, right = torch.vdot(other.flatten(), made.flatten()), torch.vdot(back.flatten(), torch.from_numpy(image).flatten())
    assert abs(left - right) <= 1e-4 * made.norm() * other.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_tensor_of_a_gpu_comes_back_to_it() -> None:
    project = radon_operator((20, 20), ct.view_angles(9), 1.0)
    images = torch.rand(2, 20, 20)
    there = images.cuda().requires_grad_()
    made = project(there)
    made.sum().backward()
    assert made.is_cuda and there.grad is not None and there.grad.is_cuda
    torch.testing.assert_close(made.detach().cpu(), project(images))
