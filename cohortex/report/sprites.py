"""Slices of a volume as one PNG, what changed between two of them in diverging colours, and shares as a layer over them."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cohortex.report.pictures import Gallery, colour, png
from cohortex.report.previews import OVERLAY, VIEWS
from cohortex.report.records import STACK, STACK_WINDOW

LEVELS = 7
"""Steps of colour on either side of no change: with 16 colours a picture takes half a byte a pixel at most."""
SHARES = 15
"""Steps of a layer from clear to full."""
COLD, WARM = ((30, 90, 200), (170, 215, 255)), ((190, 80, 0), (255, 225, 160))
"""Colours of a small and of a large fall, and of a small and a large rise, on black."""
LINES = ((86, 180, 233), (230, 159, 0), (199, 125, 255), (240, 228, 66), (18, 184, 134), (255, 59, 48), (255, 158, 207), (176, 190, 197))
"""Colours of labels, those of the style sheet."""
OVERLAP = 0.5
"""Two grey windows that share so much of what both span are of one unit; a normalisation parts them by far more."""
CROPPED = 0.03
"""Fields of view whose sides differ by a larger share are not laid over each other."""


@dataclass(frozen=True)
class Shown:
    """Pictures (slices, rows, columns) uint8 of one plane of a volume; `window`: what is black and white in them, where that is known."""

    pixels: np.ndarray
    window: tuple[float, float] | None = None

    @property
    def values(self) -> np.ndarray:
        """The pixels as values of the volume, or as shares of the grey window."""
        low, high = self.window or (0.0, 1.0)
        return low + self.pixels.astype(np.float32) / 255 * (high - low)


@dataclass(frozen=True)
class Change:
    """A picture of what changed: its name in the gallery, the value at the ends of its scale, and their unit."""

    picture: str
    most: float
    unit: str


def planes_of(pictures: Mapping[str, np.ndarray]) -> dict[str, Shown]:
    """Return what the previews of one id show, by plane: ``slices`` (else ``axial``), ``coronal``, ``sagittal``."""
    found = {}
    if STACK in pictures:
        window = pictures.get(STACK_WINDOW)
        found["slices"] = Shown(pictures[STACK], None if window is None else (float(window[0]), float(window[1])))
    for view in ("axial", "coronal", "sagittal"):
        if view in VIEWS and view in pictures and pictures[view].ndim == 2 and not (view == "axial" and found):
            found[view] = Shown(pictures[view][None])
    return found


def fitted(before: Shown, after: Shown) -> Shown | None:
    """Return `before` on the pixels and, where both are of one unit, in the grey window of `after`; None where fields of view differ."""
    (n, rows, columns), (depth, height, width) = after.pixels.shape, before.pixels.shape
    if abs(width * rows / (height * columns) - 1) > CROPPED or (n > 1) != (depth > 1):
        return None
    places = [((np.arange(to) + 0.5) * there / to).astype(int) for to, there in ((n, depth), (rows, height), (columns, width))]
    moved = Shown(before.pixels[np.ix_(*places)], before.window)
    if moved.window is None or after.window is None or not one_unit(moved.window, after.window):
        return moved
    low, high = after.window
    grey = np.rint(255 * np.clip((moved.values - low) / (high - low), 0, 1)).astype(np.uint8)
    return Shown(grey, after.window)


def one_unit(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Say whether two grey windows overlap so much that the values in them can be subtracted."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    return shared >= OVERLAP * (max(first[1], second[1]) - min(first[0], second[0]))


def sprite(gallery: Gallery, pixels: np.ndarray) -> str:
    """Add slices below each other to the pictures of a page and return their name."""
    count, rows, columns = pixels.shape
    return _added(gallery, pixels, "p", lambda: png(pixels.reshape(count * rows, columns)))


def change(gallery: Gallery, before: Shown, after: Shown, modality: str) -> Change | None:
    """Add the picture of `after` minus `before` (`fitted`), blue where values fell and orange where they rose; None where nothing changed.

    The scale ends at the percentile 99.5 of the changes. Values beyond the grey window are not seen, so neither is what changed there.
    """
    known = before.window is not None and before.window == after.window
    difference = after.values - before.values if known else (after.pixels.astype(np.float32) - before.pixels) / 2.55
    least = (after.window[1] - after.window[0]) / 255 if known and after.window else 0.4
    sizes = np.abs(difference)
    if not (sizes > least / 2).any():
        return None
    most = max(float(np.percentile(sizes[sizes > 0], 99.5)), 2 * least)
    steps = np.clip(np.rint(difference / most * LEVELS), -LEVELS, LEVELS).astype(np.int8) + LEVELS
    name = _added(gallery, steps, f"d{most:.4g}-", lambda: _indexed(steps.astype(np.uint8), diverging()))
    return Change(name, most, ("HU" if modality == "CT" else "") if known else "% of the grey window")


def layer(gallery: Gallery, share: Shown) -> str:
    """Add shares from 0 to 1 as orange that is the denser the higher they are, and return its name.

    It hides the square of the share: what is a little unsure, or speaks a little, does not hide the picture.
    """
    steps = np.rint(np.clip(share.values, 0, 1) * SHARES).astype(np.uint8)
    clear = bytes(round(255 * (step / SHARES) ** 2) for step in range(SHARES + 1))
    return _added(gallery, steps, "o", lambda: _indexed(steps, [OVERLAY] * (SHARES + 1), clear))


def contours(gallery: Gallery, labels: np.ndarray) -> str:
    """Add the outlines of label slices, as lines of half a pixel, and return their name; empty where there is no label.

    As pictures they are made a hundred times faster than as paths, of which the page of a subject would need hundreds.
    """
    if not labels.any():
        return ""
    return _added(gallery, labels, "c", lambda: _indexed(outlines(labels), [(0, 0, 0), *LINES], b"\0"))


def outlines(labels: np.ndarray) -> np.ndarray:
    """Return the outlines of labels (slices, rows, columns) on twice as many rows and columns, as numbers of colours (0: none)."""
    from scipy.ndimage import gaussian_filter

    fine = labels.repeat(2, axis=1).repeat(2, axis=2)
    found = np.zeros(fine.shape, np.uint8)
    for value in np.unique(labels[labels > 0]):
        inside = fine == value
        # Slightly smoothed, so that the line does not follow the corners of pixels; small regions stay as they are.
        smooth = gaussian_filter(inside.astype(np.float32), (0, 1.2, 1.2)) > 0.5
        inside = np.where(inside.sum(axis=(1, 2), keepdims=True) > 120, smooth, inside)
        padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
        within = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
        found[inside & ~within] = colour(int(value))
    return found


def diverging() -> list[tuple[int, int, int]]:
    """Return the colours of `change` from the largest fall over black to the largest rise."""

    def mixed(pair: tuple[tuple[int, ...], tuple[int, ...]], share: float) -> tuple[int, int, int]:
        r, g, b = (round(small + share * (large - small)) for small, large in zip(*pair, strict=True))
        return r, g, b

    # from 0.25 on, so that the smallest step is told from none but does not shout
    steps = [step / LEVELS for step in range(1, LEVELS + 1)]
    cold = [mixed(((8, 24, 52), COLD[0]), s / 0.5) if s < 0.5 else mixed(COLD, 2 * s - 1) for s in steps]
    warm = [mixed(((50, 22, 4), WARM[0]), s / 0.5) if s < 0.5 else mixed(WARM, 2 * s - 1) for s in steps]
    return [*reversed(cold), (0, 0, 0), *warm]


def _added(gallery: Gallery, pixels: np.ndarray, prefix: str, address) -> str:
    count, rows, columns = pixels.shape
    name = f"{prefix}{_digest(pixels)}"
    if name not in gallery.pictures:
        gallery.pictures[name] = (address(), columns, count * rows)
    return name


def _indexed(steps: np.ndarray, colours: list[tuple[int, int, int]], alpha: bytes | None = None) -> str:
    """Return steps as a PNG of at most 16 colours, four bits a pixel."""
    from PIL import Image

    count, rows, columns = steps.shape
    image = Image.frombytes("P", (columns, count * rows), np.ascontiguousarray(steps).tobytes())
    image.putpalette([value for colour in colours for value in colour])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, bits=4, **({} if alpha is None else {"transparency": alpha}))
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()[:12]
