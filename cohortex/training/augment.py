"""Classic augmentation: an example turned, scaled, sheared, moved, mirrored and made noisy, with the labels that belong to it.

What is drawn is a value (`Drawn`) that can be kept, applied to any array of the example and undone. All geometry is one affine map
and so one interpolation, linear for images, nearest for labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numba import njit

from cohortex.errors import Refused


@dataclass(frozen=True)
class Ranges:
    """How far examples are varied; every range is even, around no change.

    Attributes
    ----------
    translate : float
        As a share of half of each axis.
    rotate_deg : float
        In 2-D about the middle, in 3-D about each axis.
    shear : float
        Displacement across an axis per length along it.
    scale : float
        0.1 gives sizes from 0.9 to 1.1.
    flip : tuple of int
        Axes along which half of the examples are mirrored.
    gain, offset, noise : float
        Of the image, in its units where the background is 0: a factor around 1, a summand, the largest standard deviation.
    gamma : float
        Of an image in the range 0 to 1: exponents from exp(-gamma) to exp(gamma).
    whole : bool
        Moves by whole voxels, the border going on, and turns, shears and scales nothing: no value is interpolated. What is interpolated
        is smoother than what the network is shown later; of pictures of few pixels it then believes the wrong class.
    """

    translate: float = 0.06
    rotate_deg: float = 10.0
    shear: float = 0.05
    scale: float = 0.08
    flip: tuple[int, ...] = ()
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    gamma: float = 0.0
    whole: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("flip", "whole") and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"augmentation: {name} is {value}, it has to be a number not below 0")
        if self.scale >= 1:
            raise ValueError(f"augmentation: a scale of {self.scale} lets an example vanish, give less than 1")
        if self.whole and (self.rotate_deg or self.shear or self.scale):
            raise Refused("augment: whole moves by whole voxels, which needs rotate_deg, shear and scale to be 0; leave them out.")


def ranges_of(settings: Mapping[str, Any]) -> Ranges:
    """Return the ranges of a section of the configuration; what it leaves out is 0."""
    known = {field.name for field in fields(Ranges)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise Refused(f"augment has the unknown keys {', '.join(unknown)}; it knows {', '.join(sorted(known))}.")
    values = dict.fromkeys(known - {"flip", "whole"}, 0.0) | dict(settings)
    return Ranges(**{**values, "flip": tuple(settings.get("flip", ()))})


@dataclass(frozen=True, eq=False)
class Drawn:
    """One variation of an example.

    Attributes
    ----------
    matrix : (a, a) float64 array
        From places in the varied example to places in the original one, both in voxels from the middle.
    shift : (a,) float64 array
        Added to these.
    gain, offset, noise, gamma : float
        As in `Ranges`; 1, 0, 0 and 1 change nothing.
    seed : int
        Of the noise.
    whole : bool
        As in `Ranges`: the matrix only mirrors, and the shift is of whole voxels.
    """

    matrix: np.ndarray
    shift: np.ndarray
    gain: float = 1.0
    offset: float = 0.0
    noise: float = 0.0
    gamma: float = 1.0
    seed: int = 0
    whole: bool = False

    def undone(self) -> Drawn:
        """Return the geometry that brings an example back; what was changed in the values stays."""
        inverse = np.linalg.inv(self.matrix)
        return Drawn(inverse, -inverse @ self.shift, whole=self.whole)

    def only_geometry(self) -> Drawn:
        """Return this without any change of values."""
        return replace(self, gain=1.0, offset=0.0, noise=0.0, gamma=1.0)


def draw(ranges: Ranges, shape: Sequence[int], rng: np.random.Generator) -> Drawn:
    """Return a random variation of an example of a shape, (x, y) or (x, y, z)."""
    axes = len(shape)
    turn = _rotation(np.deg2rad(rng.uniform(-ranges.rotate_deg, ranges.rotate_deg, 1 if axes == 2 else 3)))
    sheared = np.eye(axes)
    sheared[np.triu_indices(axes, 1)] = rng.uniform(-ranges.shear, ranges.shear, axes * (axes - 1) // 2)
    matrix = turn @ sheared * rng.uniform(1 - ranges.scale, 1 + ranges.scale)
    for axis in ranges.flip:
        if rng.random() < 0.5:
            matrix[:, axis] *= -1
    shift = rng.uniform(-ranges.translate, ranges.translate, axes) * (np.asarray(shape) - 1) / 2
    return Drawn(
        matrix,
        np.rint(shift) if ranges.whole else shift,
        gain=float(rng.uniform(1 - ranges.gain, 1 + ranges.gain)),
        offset=float(rng.uniform(-ranges.offset, ranges.offset)),
        noise=float(rng.uniform(0, ranges.noise)),
        gamma=float(np.exp(rng.uniform(-ranges.gamma, ranges.gamma))),
        seed=int(rng.integers(2**32)),
        whole=ranges.whole,
    )


def vary_image(image: np.ndarray, drawn: Drawn, outside: float = 0.0) -> np.ndarray:
    """Return an image moved, by linear interpolation, and its values changed.

    Parameters
    ----------
    image : (x, y) or (x, y, z) array, or with a first axis of channels
        Channels are interpolated alike; values are changed in the first one only, the others being masks or class shares.
    drawn : Drawn
    outside : float
        What lies beyond the image; where voxels are whole its border goes on.

    Returns
    -------
    float32 array of the same shape
    """
    array = np.asarray(image, np.float32)
    axes = len(drawn.shift)
    channels = np.ascontiguousarray(array if array.ndim > axes else array[None])
    moved = np.stack([_by_voxels(c, drawn) for c in channels]) if drawn.whole else _moved(channels, drawn, outside)
    moved[0] = changed_values(moved[0], drawn)
    return moved.reshape(array.shape)


def vary_labels(labels: np.ndarray, drawn: Drawn, outside: int = 0) -> np.ndarray:
    """Return labels, (x, y) or (x, y, z), moved as `vary_image` moves their image; each voxel has the nearest label, of the same type."""
    from scipy.ndimage import affine_transform

    if drawn.whole:
        return _by_voxels(labels, drawn)
    middle: Any = (np.array(labels.shape) - 1) / 2
    start = middle + drawn.shift - drawn.matrix @ middle
    return np.asarray(affine_transform(labels, drawn.matrix, start, order=0, cval=outside))


def changed_values(image: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Return an image with gamma, gain, offset and noise, where it is not 0 (the background stays what it is); float32."""
    if (drawn.gain, drawn.offset, drawn.noise, drawn.gamma) == (1.0, 0.0, 0.0, 1.0):
        return image
    made = image
    if drawn.gamma != 1.0:
        made = np.sign(made) * np.abs(made) ** np.float32(drawn.gamma)
    made = made * np.float32(drawn.gain) + np.float32(drawn.offset)
    if drawn.noise:
        made = made + np.float32(drawn.noise) * np.random.default_rng(drawn.seed).standard_normal(image.shape, np.float32)
    return np.where(image != 0, made, np.float32(0))


def vary(image: np.ndarray, labels: np.ndarray, ranges: Ranges, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Drawn]:
    """Return an image and its labels varied alike, and what was drawn."""
    drawn = draw(ranges, labels.shape, rng)
    return vary_image(image, drawn), vary_labels(labels, drawn), drawn


def _moved(channels: np.ndarray, drawn: Drawn, outside: float) -> np.ndarray:
    """Return (channels, ...) by one linear interpolation."""
    shape = channels.shape[1:]
    middle: Any = (np.array(shape) - 1) / 2
    start = middle + drawn.shift - drawn.matrix @ middle
    if len(shape) == 3 and outside == 0:
        moved = np.empty_like(channels)
        resample(channels, np.ascontiguousarray(drawn.matrix), start, moved)
        return moved
    from scipy.ndimage import affine_transform

    return np.stack([affine_transform(c, drawn.matrix, start, order=1, mode="grid-constant", cval=outside) for c in channels])


def _by_voxels(array: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Return an array mirrored and moved by whole voxels."""
    for axis, (side, shift) in enumerate(zip(np.diagonal(drawn.matrix), drawn.shift, strict=True)):
        last = array.shape[axis] - 1
        places = np.arange(last + 1) if side > 0 else np.arange(last, -1, -1)
        array = np.take(array, np.clip(places + int(shift), 0, last), axis=axis)
    return array


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by one angle in the plane, or by three around the three axes (radians)."""
    return rotation_3d(angles) if len(angles) == 3 else rotation_3d(np.array([0.0, 0.0, angles[0]]))[:2, :2]


def rotation_3d(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by three angles (radians) around the three axes."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


@njit(cache=True)
def resample(volumes: np.ndarray, turn: np.ndarray, start: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with trilinear samples: voxel v of it is taken at turn @ v + start, 0 outside."""
    channels, nx, ny, nz = volumes.shape
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                u = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z + start[0]
                v = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z + start[1]
                w = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z + start[2]
                i, j, k = int(np.floor(u)), int(np.floor(v)), int(np.floor(w))
                if i < 0 or j < 0 or k < 0 or i >= nx - 1 or j >= ny - 1 or k >= nz - 1:
                    for c in range(channels):
                        out[c, x, y, z] = 0.0
                    continue
                a, b, d = np.float32(u - i), np.float32(v - j), np.float32(w - k)
                one = np.float32(1.0)
                for c in range(channels):
                    s = volumes[c]
                    low = (one - d) * s[i, j, k] + d * s[i, j, k + 1]
                    low = (one - b) * low + b * ((one - d) * s[i, j + 1, k] + d * s[i, j + 1, k + 1])
                    high = (one - d) * s[i + 1, j, k] + d * s[i + 1, j, k + 1]
                    high = (one - b) * high + b * ((one - d) * s[i + 1, j + 1, k] + d * s[i + 1, j + 1, k + 1])
                    out[c, x, y, z] = (one - a) * low + a * high
