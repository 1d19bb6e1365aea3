"""Trains a detector of motion: slices spoiled by motion of k-space lines, from easy to hard.

Oksuz et al., Automatic CNN-based detection of cardiac MR motion artefacts using k-space data augmentation and curriculum learning,
Medical Image Analysis 55 (2019) 136-147: still images are made into moved ones in k-space, and a network sees the strongly
spoiled ones first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.physics.motion import move, random_motion
from cohortex.training.augment import Ranges, draw, vary_image

if TYPE_CHECKING:
    from torch import nn

Order = Literal["curriculum", "random"]

TURN_STEP_DEG = 0.5
"""Turns are rounded to multiples of this while examples are made, which is most of the time of a training."""


VARY = Ranges(translate=0.08, rotate_deg=10.0, shear=0.05, scale=0.2, flip=(1,), gamma=0.5)
"""How slices are varied, so that a network learned on few heads knows other ones."""


@dataclass(frozen=True)
class Recipe:
    """How examples are made and in which order they are learned from.

    Attributes
    ----------
    steps, batch : int
        Updates of the weights, and slices in each: half of them still.
    rate : float
        Largest learning rate; a warm-up goes before it, a cosine to zero follows.
    easiest, hardest : float
        Severity of the motion (pixels, root mean square), drawn evenly on a logarithmic scale between both.
    noise : (float, float)
        Standard deviation of complex noise as a share of the slice's range; still and moved slices have the same noise.
    vary : Ranges, optional
        How slices are varied before they are spoiled; None leaves them as they are.
    order : {"curriculum", "random"}
        The same examples are shown from severe to slight motion (see `schedule`), or as they were drawn.
    paced : float
        Share of the steps until which the curriculum has come to the slightest motion.
    """

    steps: int = 400
    batch: int = 12
    rate: float = 4e-3
    easiest: float = 3.0
    hardest: float = 0.3
    noise: tuple[float, float] = (0.0, 0.03)
    vary: Ranges | None = VARY
    order: Order = "curriculum"
    paced: float = 0.5


def spoiled(image: np.ndarray, severity: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return a slice as a scan gives it of a person who moves, or who lies still.

    Parameters
    ----------
    image : (y, x) array
        Without motion, y the phase encoding.
    severity : float
        Of `cohortex.physics.motion.random_motion`; 0 is no motion.
    noise : float
        Standard deviation of the complex noise, as a share of the range (percentile 99.5 of the slice).
    rng : numpy.random.Generator

    Returns
    -------
    (y, x) float32 array
        Magnitude. Both classes pass through the same steps, so that nothing but motion tells them apart.
    """
    ny, nx = image.shape
    y, x = (np.arange(ny) - ny / 2)[:, None] / ny, (np.arange(nx) - nx / 2) / nx
    # A smooth phase of the coils and of the field.
    phase = rng.normal(0, 2) * y + rng.normal(0, 2) * x + rng.normal(0, 4) * y * x
    complex_image = (image * np.exp(1j * phase)).astype(np.complex64)
    motion = random_motion(ny, rng, severity)
    seen = move(complex_image, motion, TURN_STEP_DEG) if severity > 0 else complex_image
    sigma = noise * float(np.percentile(image, 99.5))
    noisy = seen + sigma * (rng.standard_normal(image.shape) + 1j * rng.standard_normal(image.shape))
    return np.abs(noisy).astype(np.float32)


def shaded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a slice as another coil and another resolution show it: smoothly shaded, and blurred by up to 0.8 pixels."""
    from scipy.ndimage import gaussian_filter, zoom

    factors = [n / 3 for n in image.shape]
    shading: Any = np.exp(np.asarray(zoom(rng.normal(0, 0.25, (3, 3)), factors, order=1, grid_mode=True, mode="nearest")))
    return (gaussian_filter(image, rng.uniform(0, 0.8)) * shading[: image.shape[0], : image.shape[1]]).astype(np.float32)


def standardised(slices: np.ndarray) -> np.ndarray:
    """Return slices (n, y, x) with their percentile 99.5 at 1, as the network sees them: (n, 1, y, x) float32.

    The root brings out what is faint: ghosts in the air beside bright tissue.
    """
    array = np.asarray(slices, np.float32)
    top = np.maximum(np.percentile(array, 99.5, axis=(1, 2), keepdims=True), 1e-12).astype(np.float32)
    return np.sqrt(np.clip(array / top, 0, 2))[:, None]


@dataclass(frozen=True, eq=False)
class Examples:
    """What is learned from, in the order in which it was drawn.

    Attributes
    ----------
    inputs : (n, 1, y, x) float32 array
        As `standardised` makes them.
    severity : (n,) float64 array
        Of the motion; 0 for every second one, which is still.
    """

    inputs: np.ndarray
    severity: np.ndarray


def draw_examples(slices: Sequence[np.ndarray], count: int, recipe: Recipe, rng: np.random.Generator) -> Examples:
    """Return `count` (even) examples made of still slices (y, x) of one shape."""
    made, severity = [], np.zeros(count)
    for index in range(count):
        image = slices[int(rng.integers(len(slices)))]
        if recipe.vary is not None:
            # Gamma belongs to values of 0 to 1.
            image = vary_image(image / max(float(np.percentile(image, 99.5)), 1e-12), draw(recipe.vary, image.shape, rng))
            image = shaded(image, rng)
        if index % 2:
            severity[index] = recipe.easiest * (recipe.hardest / recipe.easiest) ** rng.random()
        made.append(spoiled(image, float(severity[index]), float(rng.uniform(*recipe.noise)), rng))
    return Examples(standardised(np.stack(made)), severity)


def schedule(severity: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Return the order in which examples are shown, (n,) indices: still and moved ones in turn, each once.

    The curriculum draws from a pool that holds the severest quarter of the moved ones at first and grows evenly until it holds
    all of them, after the share `Recipe.paced` of the steps (pacing as in Hacohen & Weinshall, ICML 2019).
    """
    moved, still = np.flatnonzero(severity > 0), np.flatnonzero(severity == 0)
    if recipe.order == "curriculum":
        ranked, count, shown = moved[np.argsort(-severity[moved], kind="stable")], len(moved), []
        pool, held = [], 0
        for step in range(count):
            reach = min(1.0, 0.25 + 0.75 * step / max(1.0, recipe.paced * count))
            size = max(step + 1, math.ceil(reach * count))
            pool.extend(ranked[held:size])
            held = size
            shown.append(pool.pop(int(rng.integers(len(pool)))))
        moved = np.array(shown, np.int64)
    order = np.empty(len(severity), np.int64)
    order[0::2], order[1::2] = still, moved
    return order


def train_motion_detector(
    slices: Sequence[np.ndarray], seed: int, recipe: Recipe | None = None, device: str = "cpu", options: dict[str, Any] | None = None
) -> tuple[nn.Module, list[float]]:
    """Train the network `motioncnn2d` on still slices.

    Parameters
    ----------
    slices : sequence of (y, x) arrays of one shape
        Magnitudes without motion; y is the axis of phase encoding.
    seed : int
        The same seed gives the same weights on a CPU at one number of threads; both orders see the same examples.
    recipe : Recipe, optional
    device : str
    options : dict, optional
        Of the network.

    Returns
    -------
    network : torch module
        In evaluation mode.
    losses : list of float
        Of each step.
    """
    recipe = recipe or Recipe()
    made = draw_examples(slices, recipe.steps * recipe.batch, recipe, np.random.default_rng([seed, 1]))
    return fit_motion_detector(made, seed, recipe, device, options)


def fit_motion_detector(
    made: Examples, seed: int, recipe: Recipe, device: str = "cpu", options: dict[str, Any] | None = None
) -> tuple[nn.Module, list[float]]:
    """Train the network on examples, each shown once; see `train_motion_detector`."""
    import torch
    from torch.nn.functional import cross_entropy

    from cohortex.models import registry
    from cohortex.training.loop import fresh, take_steps

    network = fresh(lambda: registry.build("classify", "motioncnn2d", **(options or {})), seed).to(device).train()
    inputs, severity = made.inputs, made.severity
    order = schedule(severity, recipe, np.random.default_rng([seed, 2]))
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-3)
    warm, losses = max(1, recipe.steps // 20), []

    def loss_of(step: int) -> torch.Tensor:
        some = order[step * recipe.batch : (step + 1) * recipe.batch]
        batch = torch.from_numpy(inputs[some]).to(device)
        return cross_entropy(network(batch), torch.from_numpy((severity[some] > 0).astype(np.int64)).to(device))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # what drops out
        take_steps(
            network,
            optimiser,
            loss_of,
            recipe.steps,
            called="motion detector",
            device=device,
            batch=recipe.batch,
            rate=lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)),
            after=lambda done, mean: losses.append(mean),
        )
    return network.eval().requires_grad_(False), losses


def motion_logit(network: nn.Module, inputs: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Return the log-odds of motion in inputs (n, 1, y, x) of `standardised`: (n,) float64."""
    import torch

    found = [np.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(inputs), 32):
            logits = network(torch.from_numpy(inputs[start : start + 32]).to(device)).double().cpu().numpy()
            found.append(logits[:, 1] - logits[:, 0])
    return np.concatenate(found)


def motion_probability(network: nn.Module, slices: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Return how probable motion is in magnitude slices (n, y, x), y the phase encoding, if half of all move: (n,) float64."""
    return 1 / (1 + np.exp(-motion_logit(network, standardised(slices), device)))
