"""Losses have their known values, see what they may see, and objectives train."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from cohortex.errors import Refused
from cohortex.training import features, loop, objectives
from cohortex.training.objectives import adversarial, noisy, structure
from cohortex.training.objectives.objective import Objective, within
from cohortex.training.objectives.pixel import absolute_error, smooth_absolute_error, squared_error


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_errors_of_a_constant_difference():
    target = double(2, 1, 5, 5)
    assert float(squared_error(target + 3, target)) == pytest.approx(9)
    assert float(absolute_error(target - 3, target)) == pytest.approx(3)
    assert float(smooth_absolute_error(target + 3, target, 4.0)) == pytest.approx(1)
    assert float(smooth_absolute_error(target, target, 0.1)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("length", [1.0, 3.0, 0.5])
def test_the_penalty_of_a_linear_critic_is_the_distance_of_its_gradient_from_one(length):
    weight = double(16)
    weight *= length / weight.norm()
    real, made = double(4, 1, 4, 4, seed=1), double(4, 1, 4, 4, seed=2)
    found = adversarial.gradient_penalty(lambda x: x.flatten(1) @ weight[:, None], real, made, torch.rand(4, dtype=torch.float64))
    assert float(found) == pytest.approx((length - 1) ** 2, abs=1e-9)


def test_the_penalty_is_taken_between_real_and_made():
    seen = []
    real, made = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    adversarial.gradient_penalty(lambda x: (seen.append(x), x.flatten(1).sum(1, keepdim=True))[1], real, made, torch.tensor([0, 0.25, 1]))
    np.testing.assert_allclose(seen[0].detach().mean((1, 2, 3)), [0, 0.25, 1])


def test_the_gradients_of_the_losses_are_right():
    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    real, made = double(2, 1, 6, 6), double(2, 1, 6, 6, seed=1).requires_grad_()
    share = torch.tensor([0.3, 0.8], dtype=torch.float64)
    sigma = torch.full((2, 1, 1, 1), 0.3, dtype=torch.float64)
    weights = list(critic.parameters())
    assert torch.autograd.gradcheck(lambda *_: adversarial.gradient_penalty(critic, real, made, share), weights)
    assert torch.autograd.gradcheck(lambda m: structure.similarity(m, real), made)
    assert torch.autograd.gradcheck(lambda m: adversarial.structure_and_error(m, real, 0.89), made)
    assert torch.autograd.gradcheck(lambda m: smooth_absolute_error(m, real, 0.1), made)
    assert torch.autograd.gradcheck(lambda m: noisy.consensus(m, 2 * m, real, real + 1, 0.3), made)
    assert torch.autograd.gradcheck(lambda m: noisy.stein_risk(m, 1.1 * m, real, real.sign(), sigma, 0.1), made)
    network = features.FeatureNetwork(2).double()
    large = double(1, 1, 8, 8, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: features.distance(network, m, double(1, 1, 8, 8)), large)


def test_the_wasserstein_gap_and_the_least_squares_loss_have_their_values():
    one, zero = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert float(adversarial.wasserstein_gap(lambda x: x.flatten(1).sum(1, keepdim=True), one, zero)) == 4
    assert float(adversarial.least_squares(torch.ones(3, 1), torch.zeros(3, 1))) == 0
    assert float(adversarial.least_squares(torch.full((3, 1), 0.5), torch.full((3, 1), 0.5))) == pytest.approx(0.25)


def test_similarity_is_that_of_scikit_image_and_one_for_equal_pictures():
    a = np.random.default_rng(0).random((40, 37))
    b = a + np.random.default_rng(1).normal(0, 0.2, a.shape)
    _, full = structural_similarity(a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)
    first, second = (torch.from_numpy(x)[None, None] for x in (a, b))
    assert float(structure.similarity(first, second)) == pytest.approx(full[5:-5, 5:-5].mean(), rel=1e-6)
    for loss in (structure.similarity, structure.multiscale_similarity):
        assert float(loss(first, first)) == pytest.approx(1)
        assert float(loss(first, second)) < 0.9


def test_similarity_at_several_scales_is_contrast_at_the_fine_ones_and_similarity_at_the_coarsest():
    rng = np.random.default_rng(0)
    a = rng.random((36, 40))
    b = a + rng.normal(0, 0.2, a.shape)

    def local(x):
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    contrast = (2 * (local(a * b) - local(a) * local(b)) + 9e-4) / (local(a * a) - local(a) ** 2 + local(b * b) - local(b) ** 2 + 9e-4)
    coarse = [x.reshape(18, 2, 20, 2).mean((1, 3)) for x in (a, b)]
    last = float(structure.similarity(*(torch.from_numpy(x)[None, None] for x in coarse)))
    found = structure.multiscale_similarity(*(torch.from_numpy(x)[None, None] for x in (a, b)))
    fine, rest = (weight / sum(structure.WEIGHTS[:2]) for weight in structure.WEIGHTS[:2])
    assert float(found) == pytest.approx(contrast.mean() ** fine * last**rest, rel=1e-6)


def test_volumes_are_compared_slice_by_slice():
    a, b = double(2, 1, 16, 15, 3), double(2, 1, 16, 15, 3, seed=1)
    slices = [structure.similarity(a[..., z], b[..., z]) for z in range(3)]
    assert float(structure.similarity(a, b)) == pytest.approx(float(torch.stack(slices).mean()))


@pytest.mark.parametrize("shape", [(2, 1, 12, 13), (2, 1, 9, 8, 5), (2, 1, 10, 10, 1)])
@pytest.mark.parametrize("fill", ["neighbour", "mean"])
def test_what_a_network_is_given_does_not_depend_on_the_values_at_blind_spots(shape, fill):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    spots = noisy.lattice(torch.Size(shape), 4, torch.Generator().manual_seed(1))
    given = noisy.blinded(image, spots, fill, torch.Generator().manual_seed(2))
    other = noisy.blinded(torch.where(spots, 77.0, image), spots, fill, torch.Generator().manual_seed(2))
    assert spots.any()
    assert spots.float().mean() < 0.2
    torch.testing.assert_close(given, other, rtol=0, atol=0)
    torch.testing.assert_close(given[~spots], image[~spots], rtol=0, atol=0)


def test_steins_risk_foretells_the_error_without_the_truth():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 1, 200, 200, generator=generator)
    sigma, share = torch.full((1, 1, 1, 1), 0.2), 0.7
    image = truth + sigma * torch.randn(truth.shape, generator=generator)
    probe = torch.randn(truth.shape, generator=generator)
    risk = noisy.stein_risk(share * image, share * (image + 1e-3 * probe), image, probe, sigma, 1e-3)
    assert float(risk) == pytest.approx(float((share * image - truth).square().mean()), rel=0.03)


def test_recorrupted_images_have_independent_noise():
    generator = torch.Generator().manual_seed(0)
    noise, more = torch.randn(2, 1, 300, 300, generator=generator).split(1)
    one, two = noisy.recorrupted(0.2 * noise, more, torch.tensor(0.2), 0.5)
    assert abs(float(np.corrcoef(one.flatten(), two.flatten())[0, 1])) < 0.01
    assert float(one.std()) == pytest.approx(0.2 * 1.25**0.5, rel=0.02)


def test_the_target_of_a_network_without_borders_is_its_middle():
    target = double(1, 1, 9, 8, 7)
    torch.testing.assert_close(within(target, torch.zeros(1, 1, 5, 8, 3)), target[:, :, 2:7, :, 2:5])


def test_an_unknown_objective_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="wgan_features"):
        objectives.build("wgan_feature")
    with pytest.raises(Refused, match="penalty"):
        objectives.build({"name": "wgan_features", "gradient": 1})
    assert objectives.overlaid({"name": "sure", "step": 1}, "sure") == {"name": "sure", "step": 1}
    assert objectives.overlaid({"name": "sure", "step": 1}, {"name": "halves"}) == {"name": "halves"}


# --- training with them ----------------------------------------------------------------------------------------

SMALL = {"width": 2, "hidden": 4}
TRAINED = [
    "squared_error",
    "absolute_error",
    "smooth_absolute_error",
    {"name": "wgan_features", "critic_steps": 2, "feature_steps": 3, "feature_width": 2, **SMALL},
    {"name": "wgan_structure", "critic_steps": 2, **SMALL},
    {"name": "least_squares_gan", "width": 2},
    "blind_spot",
    "sure",
    "recorrupted",
    "halves",
    "consensus",
    "noise2inverse",
]


def named(objective):
    return objective if isinstance(objective, str) else objective["name"]


def denoiser(channels=1, seed=3):
    return loop.fresh(
        lambda: torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 3)
        ),
        seed,
    )


def sampler_for(name, channels=1, edge=16, level=0.2, scale=4):
    """Return a sampler of smooth pictures with noise, as the objective reads them."""
    reads = objectives.kind(name).reads

    def sample(rng, count):
        coarse = rng.random((count, channels, edge // scale, edge // scale))
        truth = coarse.repeat(scale, 2).repeat(scale, 3).astype(np.float32)
        one, two = (truth + level * rng.standard_normal(truth.shape, dtype=np.float32) for _ in range(2))
        middle = slice(channels // 2, channels // 2 + 1)
        if reads == "pairs":
            return one, truth[:, middle]
        if reads == "noisy":
            return one, (one[:, middle], np.full((count, 1, 1, 1), level, np.float32))
        return one, two

    return sample


def bytes_of(net):
    return b"".join(v.numpy().tobytes() for v in net.state_dict().values())


@pytest.mark.parametrize("objective", TRAINED, ids=named)
def test_a_training_by_each_objective_that_failed_goes_on_and_gives_the_bytes_of_one_that_did_not(tmp_path, monkeypatch, objective):
    from cohortex.training import checkpoint

    monkeypatch.setattr(checkpoint, "EVERY_S", 0)
    name, steps = named(objective), 4
    whole = denoiser(3)
    aim = objectives.build(objective)
    curves = loop.fit(whole, sampler_for(name, 3), aim, steps=steps, seed=1, batch=2)
    assert all(np.isfinite(curves.loss))
    assert bytes_of(whole) != bytes_of(denoiser(3))

    def failing_after(most):
        drawn = []

        def sample(rng, count):
            drawn.append(1)
            if len(drawn) > most:
                raise OSError
            return sampler_for(name, 3)(rng, count)

        return sample

    for most in (1, 7, 24):
        kept = checkpoint.Checkpoint(tmp_path / "c")
        with suppress(OSError):
            loop.fit(denoiser(3), failing_after(most), objectives.build(objective), steps=steps, seed=1, batch=2, checkpoint=kept)
    resumed = denoiser(3)
    kept, other = checkpoint.Checkpoint(tmp_path / "c"), objectives.build(objective)
    again = loop.fit(resumed, sampler_for(name, 3), other, steps=steps, seed=1, batch=2, checkpoint=kept)
    assert bytes_of(resumed) == bytes_of(whole)
    assert (again.loss, again.told, other.facts()) == (curves.loss, curves.told, aim.facts())
    assert [bytes_of(n) for n in other.networks().values()] == [bytes_of(n) for n in aim.networks().values()]


@pytest.mark.parametrize("name", ["blind_spot", "sure", "recorrupted", "halves", "consensus"])
def test_denoising_is_learnt_from_noisy_pictures_alone(name):
    network = loop.fresh(lambda: torch.nn.Conv2d(1, 1, 5, padding=2), 3)
    loop.fit(network, sampler_for(name, edge=32, scale=8), objectives.build(name), steps=120, seed=1, batch=4, rate=3e-2)
    noisy_, truth = sampler_for("squared_error", edge=32, scale=8)(np.random.default_rng(99), 32)
    with torch.no_grad():
        made = network(torch.from_numpy(noisy_)).numpy()
    assert np.mean((made - truth) ** 2) < 0.5 * np.mean((noisy_ - truth) ** 2)


def test_a_critic_learns_to_tell_what_a_network_makes_from_what_was_measured():
    network = loop.fresh(lambda: torch.nn.Conv2d(1, 1, 5, padding=2), 3)
    before = bytes_of(network)
    objective = objectives.build({"name": "wgan_structure", "critic_rate": 1.0, "width": 4, "hidden": 16, "critic_steps": 3})
    curves = loop.fit(network, sampler_for("wgan_structure"), objective, steps=25, seed=1, batch=4, rate=5e-3, slower={"": 0.0})
    assert bytes_of(network) == before
    assert curves.told["critic_gap"][-1] > max(0, curves.told["critic_gap"][0])
    assert set(curves.recipe()["of_objective"]) == {"critic_gap", "content", "critic"}
    assert not any(parameter.requires_grad for parameter in objective.critic.parameters())


def test_the_feature_network_tells_structure_apart_from_a_shift_in_brightness():
    objective = objectives.build({"name": "wgan_features", "feature_steps": 40, "feature_width": 4, **SMALL})
    loop.fit(denoiser(), sampler_for("wgan_features", edge=32), objective, steps=1, seed=1, batch=2)
    assert objective.facts()["features"]["loss"][-1] < objective.facts()["features"]["loss"][0]
    noisy_, truth = sampler_for("wgan_features", edge=32)(np.random.default_rng(9), 8)
    truth, noisy_ = torch.from_numpy(truth), torch.from_numpy(noisy_)
    shift = float((noisy_ - truth).square().mean().sqrt())
    assert float(objective.distance(truth, truth)) == 0
    assert float(objective.distance(truth + shift, truth)) < float(objective.distance(noisy_, truth))


def test_an_objective_without_a_loss_is_none():
    with pytest.raises(TypeError, match="loss"):
        Objective()  # pyright: ignore[reportAbstractUsage]
