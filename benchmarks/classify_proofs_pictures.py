"""Pictures that `benchmarks.classify_proofs_learning` learns from and is tested on, made from seeds.

`graded`: masses whose outline and core are graded, and whose class is drawn by both grades. `doubtful`: discs and rings of which some are
named wrongly. `kinds`: two classes of two kinds each, of which neither is more like its own class than like the other. `spots`: a small
ring somewhere, the lesion, or a small disc. `tiles`: pieces of tissue with few large or many small nuclei, as dark in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi


@dataclass(frozen=True)
class Cases:
    """Pictures with their classes.

    Attributes
    ----------
    images : (n, 1, x, y) float32 array
    y : (n,) int64 array
    facts : (n, k) float64 array
        What else is known of each.
    masks : (n, 1, x, y) float32 array, optional
        Where the lesion is.
    """

    images: np.ndarray
    y: np.ndarray
    facts: np.ndarray
    masks: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Cases:
        """Return some of the cases."""
        return Cases(self.images[rows], self.y[rows], self.facts[rows], None if self.masks is None else self.masks[rows])


def noise(rng: np.random.Generator, n: int, edge: int, scale: float) -> np.ndarray:
    """Return smooth noise of deviation 1, (n, edge, edge)."""
    values = ndi.gaussian_filter(rng.standard_normal((n, edge, edge)), (0, scale, scale), mode="wrap")
    return values / values.std(axis=(1, 2), keepdims=True)


def around(middles: np.ndarray, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and angle (n, edge, edge) of each pixel from a middle (n, 2) in pixels."""
    x, y = np.mgrid[:edge, :edge]
    dx, dy = x[None] - middles[:, :1, None], y[None] - middles[:, 1:, None]
    return np.hypot(dx, dy), np.arctan2(dy, dx)


def soft(inside: np.ndarray) -> np.ndarray:
    """Return 0..1 of how far inside an edge a pixel is, in pixels, 0 being the edge."""
    return np.clip(inside + 0.5, 0, 1)


def cases(images: np.ndarray, y: np.ndarray, facts: np.ndarray | None = None, masks: np.ndarray | None = None) -> Cases:
    """Return what was made as float32 with an axis of channels."""
    known = np.zeros((len(y), 0)) if facts is None else facts
    shown = None if masks is None else masks[:, None].astype(np.float32)
    return Cases(np.clip(images, 0, 1)[:, None].astype(np.float32), y.astype(np.int64), known, shown)


def graded(n: int, seed: int, edge: int = 28) -> Cases:
    """Return masses; facts are the grades (mean 0, deviation 1) of the outline's waves and of the core's darkness."""
    rng = np.random.default_rng([seed, 1])
    outline, core = rng.standard_normal((2, n))
    y = rng.random(n) < 1 / (1 + np.exp(-2.5 * (outline + core)))
    distance, angle = around(edge / 2 + rng.uniform(-4, 4, (n, 2)), edge)
    count, turn, radius = rng.integers(5, 8, n), rng.uniform(0, 6.3, n), rng.uniform(5.5, 8.5, n)

    def each(values: np.ndarray) -> np.ndarray:
        return values[:, None, None]

    waves = 0.13 * (1 + np.tanh(0.7 * each(outline))) * np.cos(each(count) * angle + each(turn))
    mass = soft(each(radius) * (1 + waves) - distance)
    hole = soft(each(radius) * 0.45 - distance)
    image = 0.35 + 0.05 * noise(rng, n, edge, 3) + each(rng.uniform(0.15, 0.3, n)) * mass - 0.07 * (1 + np.tanh(0.7 * each(core))) * hole
    return cases(image + 0.05 * rng.standard_normal(image.shape), y, np.stack([outline, core], 1))


def doubtful(n: int, seed: int, wrong: float = 0.0, edge: int = 28) -> Cases:
    """Return discs (0) and rings (1) from clear to hardly there; of the hardest third a share `wrong` has the other class.

    The fact is how clear each is, 0..1.
    """
    rng = np.random.default_rng([seed, 2])
    y, clear = rng.integers(0, 2, n), rng.uniform(0, 1, n)
    distance, _ = around(rng.uniform(8, edge - 8, (n, 2)), edge)
    radius = rng.uniform(3.5, 6, n)[:, None, None]
    shape = soft(radius - distance) - (y[:, None, None] == 1) * soft(radius - 2 - distance)
    image = 0.4 + 0.06 * noise(rng, n, edge, 2) + (0.05 + 0.3 * clear)[:, None, None] * shape
    named = np.where((clear < 1 / 3) & (rng.random(n) < wrong), 1 - y, y)
    return cases(image + 0.05 * rng.standard_normal(image.shape), named, clear[:, None])


def kinds(n: int, seed: int, edge: int = 28) -> Cases:
    """Return two classes of two kinds: bright discs and dark rings (0), dark discs and bright rings (1); the fact is the kind, 0 to 3."""
    rng = np.random.default_rng([seed, 3])
    kind = rng.integers(0, 4, n)
    ring, dark = np.isin(kind, (1, 3)), np.isin(kind, (1, 2))
    distance, _ = around(rng.uniform(8, edge - 8, (n, 2)), edge)
    radius = rng.uniform(3.5, 6, n)[:, None, None]
    shape = soft(radius - distance) - ring[:, None, None] * soft(radius - 2 - distance)
    strength = np.where(dark, -1, 1) * rng.uniform(0.1, 0.25, n)
    image = 0.5 + 0.06 * noise(rng, n, edge, 2) + strength[:, None, None] * shape
    return cases(image + 0.06 * rng.standard_normal(image.shape), kind >= 2, kind[:, None])


def spots(n: int, seed: int, edge: int = 40, share: float = 0.5, both: bool = False) -> Cases:
    """Return pictures with a small ring, the lesion (class 1, with its mask), or a small disc; bright lines cross both.

    With `both` the disc has a mask too: where a reader would look.
    """
    rng = np.random.default_rng([seed, 4])
    y = rng.random(n) < share
    middles = rng.uniform(6, edge - 6, (n, 2))
    distance, _ = around(middles, edge)
    radius = rng.uniform(3.0, 4.2, n)[:, None, None]
    ring = soft(radius - distance) * soft(distance - radius + 2.0)
    disc = soft(0.75 * radius - distance)
    image = 0.35 + 0.05 * noise(rng, n, edge, 4) + rng.uniform(0.15, 0.3, n)[:, None, None] * np.where(y[:, None, None], ring, disc)
    x, z = np.mgrid[:edge, :edge]
    for _ in range(2):
        way, place = rng.uniform(0, np.pi, n)[:, None, None], rng.uniform(0, edge, (n, 2))
        across = (x - place[:, :1, None]) * np.cos(way) + (z - place[:, 1:, None]) * np.sin(way)
        image = image + rng.uniform(0.08, 0.2, n)[:, None, None] * soft(0.8 - np.abs(across))
    return cases(image + 0.05 * rng.standard_normal(image.shape), y, masks=(y | both)[:, None, None] * soft(radius - distance))


def tiles(n: int, seed: int, each: int = 1, edge: int = 16) -> Cases:
    """Return n * each tiles, `each` of a piece of tissue, whose number is the fact: class 0 few large nuclei, 1 many small ones."""
    rng = np.random.default_rng([seed, 5])
    y = np.repeat(rng.integers(0, 2, n), each)
    images = np.empty((len(y), edge, edge))
    for number, label in enumerate(y):
        count = rng.integers(2, 4) if label == 0 else rng.integers(8, 15)
        radius = 3.0 if label == 0 else 1.4
        middles = rng.uniform(0, edge, (count, 2))
        distance, _ = around(middles, edge)
        images[number] = 0.75 - 0.45 * soft(radius * rng.uniform(0.85, 1.15, count)[:, None, None] - distance).max(0)
    images += np.repeat(rng.uniform(-0.08, 0.08, n), each)[:, None, None] + 0.05 * noise(rng, len(y), edge, 2)
    return cases(images + 0.06 * rng.standard_normal(images.shape), y, np.repeat(np.arange(n), each)[:, None])
