"""Where and how long the proofs of classification train, and the pictures that they are tried on.

All are made from seeds, have as many cases of each class as of the others (but for `chests`), and vary in place, size, brightness and
contrast by more than the classes differ. `fundus`: discs with an optic disc, vessels, a macula, and bright exudates around
it or another place. `textures`: eight kinds of plain surface. `lungs`: patterns of interstitial disease in a part of a
noisy lung. `masses`: smooth or with spicules, on film or from a digital device, whose pictures have less contrast, more noise and fibres.
`nodule_types`: volumes whose nodules differ in the core, at the margin or by what they hang on. `chests`: radiographs with several
findings that do not exclude each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

from benchmarks.radiomics_data import grain


@dataclass(frozen=True)
class Settings:
    """How proofs are tried.

    Attributes
    ----------
    folder : Path
        Where networks and models are kept.
    steps : float
        A multiple of the steps of every training.
    seed : int
        Of pictures and trainings.
    """

    folder: Path
    steps: float
    seed: int


@dataclass(frozen=True)
class Pictures:
    """Images (n, *space) float32 and the class of each, (n,) int64; (n, findings) where several may be there at once."""

    images: np.ndarray
    y: np.ndarray

    def take(self, rows: np.ndarray) -> Pictures:
        """Return some of them."""
        return Pictures(self.images[rows], self.y[rows])


TEXTURES = ("fine grain", "coarse grain", "narrow stripes", "wide stripes", "bright dots", "dark dots", "cells", "crossing lines")
LUNGS = ("normal", "ground glass", "reticulation", "honeycomb", "micronodules")
NODULE_TYPES = ("solid", "calcified", "spiculated", "perifissural")
PLAIN_TEXTURES = ("narrow stripes", "wide stripes", "cells", "crossing lines")
FINDINGS = ("large heart", "effusion", "opacity")


def places(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of pixels from the middle, two (size, size) arrays."""
    x, y = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    return x, y


def line(x: np.ndarray, y: np.ndarray, through: np.ndarray, angle: float, bend: float, width: float) -> np.ndarray:
    """Return a soft line (0..1) through a place, bent by `bend` pixels a squared pixel."""
    along = (x - through[0]) * np.cos(angle) + (y - through[1]) * np.sin(angle)
    across = (y - through[1]) * np.cos(angle) - (x - through[0]) * np.sin(angle)
    return np.exp(-(((across - bend * along**2) / width) ** 2))


def dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, count: int, width: float, within: float) -> np.ndarray:
    """Return soft dots (0..1) at random places up to `within` pixels from the middle along each axis."""
    found = np.zeros_like(x)
    for _ in range(count):
        a, b = rng.uniform(-within, within, 2)
        found = np.maximum(found, np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2)))
    return found


def cells(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, apart: float, width: float) -> np.ndarray:
    """Return soft walls (0..1) between cells whose middles are about `apart` pixels from each other."""
    half = x.max() + apart
    grid = np.arange(-half, half + apart, apart)
    middles = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2) + rng.uniform(-0.35, 0.35, (len(grid) ** 2, 2)) * apart
    away = np.sqrt((x[..., None] - middles[:, 0]) ** 2 + (y[..., None] - middles[:, 1]) ** 2)
    nearest = np.partition(away, 1, axis=-1)
    return np.exp(-(((nearest[..., 1] - nearest[..., 0]) / width) ** 2))


def net(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, count: int, width: float) -> np.ndarray:
    """Return soft lines (0..1) that cross each other."""
    found = np.zeros_like(x)
    for _ in range(count):
        found = np.maximum(found, line(x, y, rng.uniform(-x.max(), x.max(), 2), rng.uniform(0, np.pi), rng.uniform(-0.02, 0.02), width))
    return found


def fundus(n: int, seed: int, size: int = 32) -> Pictures:
    """Return pictures of the back of eyes, with exudates around the macula (1), or as many around another place (0)."""
    rng, (x, y) = np.random.default_rng([seed, 11]), places(size)
    made, labels = [], np.arange(n) % 2
    inside = np.hypot(x, y) < size / 2 - 1
    for label in labels:
        tilt, side = rng.uniform(-0.012, 0.012, 2), rng.choice([-1, 1])
        image = 0.55 + tilt[0] * x + tilt[1] * y + 0.04 * grain(rng, (size, size), 2.5)
        nerve = np.array([side * rng.uniform(0.2, 0.34), rng.uniform(-0.1, 0.1)]) * size
        macula = nerve - np.array([side * rng.uniform(0.34, 0.4), rng.uniform(-0.05, 0.05)]) * size
        image += rng.uniform(0.2, 0.35) / (1 + np.exp((np.hypot(x - nerve[0], y - nerve[1]) - rng.uniform(2.5, 3.5)) / 0.5))
        away = np.hypot(x - macula[0], y - macula[1])
        image -= rng.uniform(0.1, 0.2) * np.exp(-(away**2) / (2 * 2.0**2))
        for _ in range(int(rng.integers(2, 6))):
            image -= rng.uniform(0.15, 0.25) * line(x, y, nerve, rng.uniform(0, 2 * np.pi), rng.uniform(-0.02, 0.02), rng.uniform(0.7, 1.2))
        free = inside & (np.hypot(x - nerve[0], y - nerve[1]) > 5) & (np.hypot(x, y) < 0.42 * size)
        other = rng.choice(np.argwhere(free & (away > 0.32 * size)))
        free &= (away if label else np.hypot(x - x[tuple(other)], y - y[tuple(other)])) < 0.19 * size
        for place in rng.choice(np.argwhere(free), int(rng.integers(4, 9))):
            spot = np.hypot(x - x[tuple(place)], y - y[tuple(place)])
            image += rng.uniform(0.15, 0.3) * np.exp(-(spot**2) / (2 * 0.8**2))
        image = rng.uniform(0.8, 1.2) * image + 0.04 * rng.standard_normal(image.shape)
        made.append(np.where(inside, np.clip(image, 0.05, 1.5), 0))
    return Pictures(np.asarray(made, np.float32), labels)


def textures(n: int, seed: int, size: int = 28) -> Pictures:
    """Return surfaces of the kinds `TEXTURES`."""
    rng, (x, y) = np.random.default_rng([seed, 12]), places(size)
    made, labels = [], np.arange(n) % len(TEXTURES)
    for label in labels:
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        across = y * np.cos(angle) - x * np.sin(angle)
        if label < 2:
            own = 0.5 * grain(rng, (size, size), rng.uniform(0.7, 1.0) if label == 0 else rng.uniform(1.5, 2.2))
        elif label < 4:
            own = np.sin(2 * np.pi * across / (rng.uniform(3, 4.5) if label == 2 else rng.uniform(6, 9)) + phase)
        elif label < 6:
            own = (1.6 if label == 4 else -1.6) * dots(rng, x, y, int(rng.integers(12, 30)), rng.uniform(0.8, 1.3), size / 2)
        elif label == 6:
            own = 1.6 * cells(rng, x, y, rng.uniform(4.5, 7), rng.uniform(0.8, 1.3))
        else:
            own = 1.6 * net(rng, x, y, int(rng.integers(6, 12)), rng.uniform(0.7, 1.1))
        image = rng.uniform(0.4, 1.0) * own + 0.4 * grain(rng, (size, size), 3.0) + 0.3 * rng.standard_normal((size, size))
        made.append(rng.uniform(0.7, 1.4) * image + rng.normal())
    return Pictures(np.asarray(made, np.float32), labels)


def plain_textures(n: int, seed: int, size: int = 28) -> Pictures:
    """Return the surfaces `PLAIN_TEXTURES`, which are told apart at once."""
    rows = [TEXTURES.index(name) for name in PLAIN_TEXTURES]
    found = textures(2 * n, seed, size)
    kept = np.flatnonzero(np.isin(found.y, rows))
    return Pictures(found.images[kept], np.searchsorted(rows, found.y[kept]))


def lungs(n: int, seed: int, size: int = 28) -> Pictures:
    """Return parts of lungs with the patterns `LUNGS`, which fill a part of the picture."""
    rng, (x, y) = np.random.default_rng([seed, 13]), places(size)
    made, labels = [], np.arange(n) % len(LUNGS)
    for label in labels:
        image = 0.3 * grain(rng, (size, size), 2.0) + 0.6 * net(rng, x, y, int(rng.integers(0, 3)), rng.uniform(0.8, 1.4))
        image += 0.8 * dots(rng, x, y, int(rng.integers(0, 4)), rng.uniform(0.8, 1.4), size / 2)
        field = grain(rng, (size, size), 6.0)
        region = ndi.gaussian_filter((field > np.quantile(field, rng.uniform(0.1, 0.4))).astype(float), 1.0)
        if label == 1:
            own = 0.8 + 0.3 * grain(rng, (size, size), 1.2)
        elif label == 2:
            own = net(rng, x, y, int(rng.integers(8, 14)), rng.uniform(0.6, 0.9))
        elif label == 3:
            own = cells(rng, x, y, rng.uniform(4.0, 5.5), rng.uniform(0.8, 1.2))
        elif label == 4:
            own = dots(rng, x, y, int(rng.integers(25, 45)), rng.uniform(0.7, 1.0), size / 2)
        else:
            own = np.zeros_like(x)
        image = image + rng.uniform(0.8, 1.3) * region * own + 0.25 * rng.standard_normal((size, size))
        made.append(rng.uniform(0.8, 1.2) * image + 0.5 * rng.normal())
    return Pictures(np.asarray(made, np.float32), labels)


def masses(n: int, seed: int, size: int = 28, device: str = "film") -> Pictures:
    """Return masses of the breast that are smooth (0) or have spicules (1), on film or from a digital device."""
    rng, (x, y) = np.random.default_rng([seed, 14, ("film", "digital").index(device)]), places(size)
    digital, made, labels = device == "digital", [], np.arange(n) % 2
    for label in labels:
        middle, radius = rng.uniform(-2.5, 2.5, 2), rng.uniform(3.0, 5.5)
        angle, away = np.arctan2(y - middle[1], x - middle[0]), np.hypot(x - middle[0], y - middle[1])
        wave = 1 + rng.uniform(0.03, 0.12) * np.cos(rng.integers(2, 5) * angle + rng.uniform(0, 2 * np.pi))
        mass = 1 / (1 + np.exp((away - radius * wave) / rng.uniform(0.4, 0.9)))
        rays = np.zeros_like(x)
        if label:
            for _ in range(int(rng.integers(5, 9))):
                own = line(x, y, middle, rng.uniform(0, 2 * np.pi), rng.uniform(-0.03, 0.03), rng.uniform(0.6, 0.9))
                rays = np.maximum(rays, own * np.exp(-np.maximum(away - radius, 0) / rng.uniform(2.0, 4.0)))
        fibres = net(rng, x, y, int(rng.integers(2, 6) if digital else rng.integers(0, 3)), rng.uniform(0.7, 1.2))
        image = np.maximum(mass, 0.9 * rays) + rng.uniform(0.3, 0.6) * fibres + 0.2 * grain(rng, (size, size), 3.0)
        if digital:
            image = 0.7 * image + 0.2 * grain(rng, (size, size), 1.2)
        made.append(rng.uniform(0.7, 1.3) * image + (0.2 if digital else 0.15) * rng.standard_normal((size, size)))
    return Pictures(np.asarray(made, np.float32), labels)


def digital_masses(n: int, seed: int, size: int = 28) -> Pictures:
    """Return `masses` from a digital device."""
    return masses(n, seed, size, "digital")


def nodule_types(n: int, seed: int, size: int = 32) -> Pictures:
    """Return volumes with a nodule in the middle, of the kinds `NODULE_TYPES`.

    Calcified ones have grains of a voxel in their core, spiculated ones teeth around it, perifissural ones hang on a thin plane that goes
    through all of the volume. Every kind has vessels, and some noise of the core.
    """
    rng = np.random.default_rng([seed, 15])
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij")).astype(np.float32)
    made, labels = [], np.arange(n) % len(NODULE_TYPES)
    for label in labels:
        offset = rng.uniform(-1.0, 1.0, 3)
        place = grid - offset[:, None, None, None]
        away = np.sqrt((place**2).sum(0))
        radius = rng.uniform(4.0, 6.0)
        teeth = 0.25 * radius if NODULE_TYPES[label] == "spiculated" else 0.05 * radius
        waves = np.ones_like(away)
        turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32)
        turned = np.tensordot(turn, place, 1) / np.maximum(away, 1e-3)
        for part in turned:
            waves = waves * np.cos(rng.integers(4, 7) * np.arccos(np.clip(part, -1, 1)) + rng.uniform(0, 2 * np.pi))
        image = 1 / (1 + np.exp((away - radius - 2 * teeth * waves) / 0.6))
        core = away < rng.uniform(2.5, 3.5)
        depth = rng.uniform(0.25, 0.4) if NODULE_TYPES[label] == "calcified" else rng.uniform(0.0, 0.1)
        image = image + core * depth * rng.standard_normal(away.shape)
        way = rng.standard_normal(3)
        way /= np.linalg.norm(way)
        flat = np.tensordot(way, place, 1)
        if NODULE_TYPES[label] == "perifissural":
            image = np.maximum(image, rng.uniform(0.35, 0.5) * np.exp(-(((flat - 0.8 * radius) / 1.0) ** 2)))
        for _ in range(int(rng.integers(1, 4))):
            other = rng.standard_normal(3)
            other /= np.linalg.norm(other)
            past = place - rng.uniform(-12, 12, 3)[:, None, None, None]
            along = np.tensordot(other, past, 1)
            beside = (past**2).sum(0) - along**2
            image = np.maximum(image, rng.uniform(0.4, 0.8) * np.exp(-beside / rng.uniform(1.0, 2.0)))
        image = rng.uniform(0.8, 1.2) * image + 0.08 * rng.standard_normal(away.shape)
        made.append(image)
    return Pictures(np.asarray(made, np.float32), labels)


def chests(n: int, seed: int, size: int = 40) -> Pictures:
    """Return radiographs of chests, each of `FINDINGS` in about a quarter of them; y is (n, 3)."""
    rng, (x, y) = np.random.default_rng([seed, 16]), places(size)
    x, y = x / (size / 2), y / (size / 2)  # x to the right, y downwards
    made, labels = [], (rng.random((n, len(FINDINGS))) < 0.25).astype(np.int64)
    for large, effusion, opacity in labels:
        wide, high = rng.uniform(0.3, 0.38), rng.uniform(0.6, 0.75)
        move = rng.uniform(-0.06, 0.06, 2)
        u, v = x - move[0], y - move[1]
        lungs_there = np.zeros_like(u)
        for side in (-1, 1):
            shape = ((u - 0.45 * side) / wide) ** 2 + ((v + 0.05) / high) ** 2
            floor = v - 0.5 + 0.15 * (u - 0.45 * side) ** 2 / wide**2
            lungs_there = np.maximum(lungs_there, 1 / (1 + np.exp((shape - 1) / 0.12)) / (1 + np.exp(floor / 0.04)))
        image = 1.0 - 0.75 * lungs_there
        ribs = 0.5 + 0.5 * np.cos(2 * np.pi * (v + 0.25 * np.abs(u)) / rng.uniform(0.2, 0.28) + rng.uniform(0, 6))
        image += rng.uniform(0.06, 0.14) * ribs**2 * lungs_there
        heart = rng.normal(0.48, 0.04) if large else rng.normal(0.34, 0.04)
        inside = ((u - 0.12) / heart) ** 2 + ((v - 0.25) / rng.uniform(0.3, 0.38)) ** 2
        image = np.maximum(image, 0.95 / (1 + np.exp((inside - 1) / 0.12)))
        if effusion:
            side = rng.choice([-1, 1])
            level = 0.5 - rng.uniform(0.12, 0.3) - 0.5 * np.maximum(side * u - 0.45, -0.3)
            there = (side * u > 0.1) / (1 + np.exp((level - v) / 0.04))
            image = np.maximum(image, rng.uniform(0.75, 0.95) * there * (image < 2) * (lungs_there > 0.05))
        if opacity:
            middle = np.array([rng.choice([-1, 1]) * rng.uniform(0.35, 0.6), rng.uniform(-0.5, 0.2)])
            spot = ((u - middle[0]) ** 2 + (v - middle[1]) ** 2) / rng.uniform(0.09, 0.16) ** 2
            image = image + rng.uniform(0.25, 0.45) * np.exp(-spot / 2) * lungs_there
        image = rng.uniform(0.8, 1.2) * image + 0.05 * grain(rng, (size, size), 2.0) + 0.05 * rng.standard_normal((size, size))
        made.append(image.T)
    return Pictures(np.asarray(made, np.float32), labels)


KINDS: dict[str, Callable[[int, int], Pictures]] = {
    "fundus": fundus,
    "textures": textures,
    "plain textures": plain_textures,
    "lungs": lungs,
    "film masses": masses,
    "digital masses": digital_masses,
    "nodule types": nodule_types,
    "chests": chests,
}
