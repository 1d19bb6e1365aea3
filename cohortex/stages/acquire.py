"""Acquisition: read what the user has, put it on canonical axes and units, refuse what is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import Box, at_hand
from cohortex.errors import BadInput
from cohortex.io import read
from cohortex.io.geometry import FINEST_MICROSCOPY_MM, check_affine, to_ras
from cohortex.io.paths import confined, shown_name
from cohortex.io.series import Note, notes_of, settled
from cohortex.items import Image, Made
from cohortex.lazy import Elementwise
from cohortex.survey import sample_of
from cohortex.volume import ArrayLike, Volume

SMALLEST = 8
HU_RANGE = (-32768.0, 32767.0)
HU_AIR = -200.0
MEASURED_VOXELS = 2**20
MAX_LABEL = 65535


def acquire(image: Image, settings: Mapping[str, Any], model: Any, seed: int) -> Made | list[Made]:
    """Read one row of the cohort table and make it a volume that every later stage can rely on.

    Parameters
    ----------
    image : Image
        ``row["path"]`` is a file, a folder of DICOM files or an OME-Zarr folder, ``row["root"]`` (optional) the dataset's folder, to which
        messages name it. Its role says whether it is an image, a mask, labels or boxes (a table; the image is their sibling).
    settings : mapping
        ``volume``: what to do with a series of volumes (skip | first | mean | each). The others are
        those of `cohortex.io.read`: ``spacing_mm``, ``missing_chunks``, ``burned_in``; and ``links``:
        whether a link may lead out of the dataset's folder (refuse | follow).
    model, seed
        Not used.

    Returns
    -------
    Made
        In memory or in a scratch file, by the plan of `cohortex.blocks`, with the same bytes. Axes closest to R, A, S, mm. Images are
        float32 (CT in HU); masks and labels are unsigned integers, 8 bits where they fit. Status ``warned`` with the first oddity as its
        reason. Boxes are a table, see `cohortex.io.boxes.read_boxes`.
        For ``each`` a list: a word on the series, then its volumes with tags t000, t001, ...

    Raises
    ------
    BadInput
        The file cannot be read or what it holds cannot be trusted; the codes are those of the readers and of
        `checked_image` and `checked_labels`.
    Skip
        ``four-d``: a series, and the policy is to skip it.
    """
    if image.role == "boxes":
        return _made_boxes(image, settings)
    path = Path(image.row["path"])
    root = image.row.get("root")
    name = shown_name(path, Path(root) if root else None)
    volumes = _read(path, root, image.role, settings.get("volume", "skip"), name, settings)
    finish = _made_image if image.role == "image" else _made_labels
    if len(volumes) == 1:
        return finish(volumes[0], image, name)
    # all of them are held until they are written
    each = [
        replace(finish(volume, image, f"{name}, volume {i}", len(volumes)), tag=f"t{i:03d}", of=image.id)
        for i, volume in enumerate(volumes)
    ]
    # a word on the series itself, or the report would miss it
    return [Made(of=image.id, measures={"volumes": len(each)}), *each]


def _read(path: Path, root: str | None, role: str, frames: Any, name: str, settings: Mapping[str, Any]) -> list[Volume]:
    """Read a path of a dataset, with what the settings say of voxel sizes, lost chunks, burned-in text and links."""
    missing, burned_in = settings.get("missing_chunks", "refuse"), settings.get("burned_in", "refuse")
    with _kept_inside(root, settings):
        return read(path, role, frames, name, settings.get("spacing_mm"), missing, burned_in)


def _kept_inside(root: str | None, settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Let no link lead out of the dataset's folder, unless the settings have links followed."""
    return confined(Path(root) if root and settings.get("links", "refuse") == "refuse" else None)


def _made_image(volume: Volume, image: Image, name: str, beside: int = 1) -> Made:
    modality = image.modality or volume.modality
    canonical = _canonical(volume, image, modality, name)
    found: list[Note] = []
    data, lost = checked_image(canonical.data, modality, name, found, beside)
    step = {"step": "acquire", "orientation": "RAS", "dtype": "float32", **({"nan_voxels_set_to_0": lost} if lost else {})}
    # a strided sample: percentiles of a large volume need no full sort
    seen = sample_of(data)
    sample = seen.reshape(-1)[:: max(1, seen.size // MEASURED_VOXELS)]
    low, high = np.percentile(sample, (1, 99))
    measures = {
        "voxels": prod(data.shape),
        "intensity_p01": float(low),
        "intensity_p99": float(high),
        "nan_voxels": lost,
        **_day(image, volume),
    }
    # what was odd is known when all was read
    volume = settled(volume)
    notes = notes_of(volume)
    if image.modality and volume.modality and not _agree(image.modality, volume.modality):
        notes.append(("modality", f"{name} says that it is {volume.modality}, the table says {image.modality}; the table was followed."))
    made = replace(canonical, date="", history=_without_sentences(volume.history)).with_data(data, step=step)
    return _with_notes(Made(made, measures=measures | _day(image, volume)), [*notes, *found])


def _day(image: Image, volume: Volume) -> dict[str, str]:
    """Return the day of an image where days are told: the one of a table, or else of the file, shifted as all of its subject's are."""
    if not image.row.get("dates"):
        return {}
    from cohortex.privacy.days import told_day

    return {"date": image.row.get("date") or told_day(volume.date, int(image.row.get("days") or 0))}


def _made_labels(volume: Volume, image: Image, name: str, beside: int = 1) -> Made:
    canonical = _canonical(volume, image, image.modality or volume.modality, name)
    found: list[Note] = []
    data, labels = checked_labels(canonical.data, image.role, name, found, beside)
    step = {"step": "acquire", "orientation": "RAS", "dtype": data.dtype.name}
    volume = settled(volume)
    made = replace(canonical, history=_without_sentences(volume.history)).with_data(data, step=step, kind="labels")
    return _with_notes(Made(made, measures={"voxels": prod(data.shape), "labels": labels}), [*notes_of(volume), *found])


def _made_boxes(image: Image, settings: Mapping[str, Any]) -> Made:
    """Return the boxes beside an image, which is its sibling, as a table in voxels of the acquired image and in mm."""
    from cohortex.io.boxes import read_boxes

    path, root = Path(image.row["path"]), image.row.get("root")
    name = shown_name(path, Path(root) if root else None)
    if not image.siblings:
        raise BadInput("no-image", f"{name} holds boxes of an image that the table does not have: add it, or take them out.")
    scan = Path(image.siblings[0].row["path"])
    volumes = _read(scan, root, "image", "skip", image.siblings[0].id, settings)
    affine = check_affine(volumes[0].affine, image.siblings[0].id, FINEST_MICROSCOPY_MM)
    with _kept_inside(root, settings):
        table = read_boxes(path, volumes[0].shape, affine, name)
    return Made(table, measures={"boxes": len(table["label"])})


def _canonical(volume: Volume, image: Image, modality: str, name: str) -> Volume:
    if volume.kind == "field":
        raise BadInput("not-an-image", f"{name} is a displacement field: give an image.")
    if sum(n >= SMALLEST for n in volume.shape) < 2:
        shape = "x".join(map(str, volume.shape))
        raise BadInput("too-small", f"{name} has {shape} voxels; at least two axes need {SMALLEST}: take it out of the table.")
    data, affine = to_ras(volume.data, check_affine(volume.affine, name, FINEST_MICROSCOPY_MM))
    return replace(volume, data=data, affine=affine, modality=modality, body_part=image.body_part or volume.body_part)


def _without_sentences(history: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return a history with the codes of notes alone: their sentences name files, which may be called after a patient."""
    return tuple(
        {**step, "notes": [note["code"] if isinstance(note, Mapping) else note for note in step["notes"]]}
        if step.get("step") == "read" and "notes" in step
        else step
        for step in history
    )


def checked_image(data: ArrayLike, modality: str, name: str, notes: list[Note], beside: int = 1) -> tuple[ArrayLike, int]:
    """Return an image as float32 without NaN, at hand (`cohortex.blocks.at_hand`), and the number of voxels that were NaN.

    Parameters
    ----------
    data : (x, y, z) array-like
        May be lazy; it is read once, in blocks where it does not fit into memory.
    notes : list
        What is odd is appended.
    beside : int
        So many images are held together.

    Raises
    ------
    BadInput
        ``all-nan``, ``infinite``, ``constant``, ``hu-range`` (a CT beyond 16 bits).
    """
    holes: list[int] = []

    def without_nan(block: np.ndarray) -> np.ndarray:
        # in whatever order it came: it is turned once, where it is kept
        values = block.astype(np.float32, order="K", copy=False)
        if np.isnan(values.sum()):
            nan = np.isnan(values)
            holes.append(int(np.count_nonzero(nan)))
            values = np.where(nan, np.float32(0), values)
        return values

    def look(_: Box, block: np.ndarray) -> tuple[float, float, int]:
        low, high = float(block.min()), float(block.max())
        return low, high, 0 if np.isfinite([low, high]).all() else int(np.count_nonzero(np.isinf(block)))

    clean, found = at_hand(Elementwise(without_nan, data), look=look, beside=beside)
    lost, infinite = sum(holes), sum(count for *_, count in found)
    low, high = min(low for low, *_ in found), max(high for _, high, _ in found)
    if lost == prod(data.shape):
        raise BadInput("all-nan", f"{name} holds nothing but NaN: make it again.")
    if infinite:
        raise BadInput("infinite", f"{name} holds {infinite} infinite voxels: make it again.")
    if lost:
        notes.append(("nan-voxels", f"{name} holds {lost} NaN voxels; they were set to 0."))
    if low == high:
        raise BadInput("constant", f"{name} has the same value ({low:g}) everywhere: it holds no image.")
    if modality == "CT":
        if low < HU_RANGE[0] or high > HU_RANGE[1]:
            raise BadInput(
                "hu-range", f"{name} is a CT with values from {low:g} to {high:g}, which are no Hounsfield units: convert it again."
            )
        if low > HU_AIR:
            notes.append(
                (
                    "not-hu",
                    f"{name} is a CT without values below {HU_AIR:g}, so they are probably not Hounsfield units ({low:g} to {high:g}).",
                )
            )
    return clean, lost


def checked_labels(data: ArrayLike, role: str, name: str, notes: list[Note], beside: int = 1) -> tuple[ArrayLike, int]:
    """Return labels as uint8 or uint16, at hand, and how many there are besides 0; a mask of two values becomes 0 and 1.

    Parameters
    ----------
    data : (x, y, z) array-like
        May be lazy; it is read once, in blocks where it does not fit into memory.
    notes, beside
        As in `checked_image`.

    Raises
    ------
    BadInput
        ``bad-labels``: NaN, fractions, negative numbers or labels above 65535.
    """
    fractions: set[float] = set()
    outside: set[float] = set()

    def whole_numbers(block: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(block) | (block != np.round(block)) if block.dtype.kind == "f" else np.zeros((), bool)
        fractions.update(_distinct(block[bad]) if bad.any() else ())
        beyond = (block < 0) | (block > MAX_LABEL)
        outside.update(_distinct(block[beyond & ~bad]) if beyond.any() else ())
        return np.where(bad | beyond, 0, block).astype(kept) if bad.any() or beyond.any() else block.astype(kept, order="K", copy=False)

    def look(_: Box, block: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.bincount(block.ravel(order="K")))

    kept = np.dtype(np.uint8 if data.dtype in (np.uint8, np.bool_) else np.uint16)
    there, found = at_hand(Elementwise(whole_numbers, data, kept), kept, look, beside)
    if fractions:
        raise BadInput("bad-labels", f"{name} holds values that are no whole numbers ({_some(fractions)}): save the labels as integers.")
    if outside:
        raise BadInput("bad-labels", f"{name} holds labels outside 0 to {MAX_LABEL} ({_some(outside)}): renumber them.")
    present = np.unique(np.concatenate(found))
    labels, largest = int(np.count_nonzero(present)), int(present[-1])
    if not labels:
        notes.append(("empty-labels", f"{name} holds nothing but 0."))
    if labels == 1 and largest > 1 and role == "mask":
        return _mapped(lambda block: (block != 0).astype(np.uint8), there, np.uint8), 1
    return (_mapped(partial(np.asarray, dtype=np.uint8), there, np.uint8) if largest < 256 and kept != np.uint8 else there), labels


def _mapped(function: Callable[[np.ndarray], np.ndarray], data: ArrayLike, dtype: Any) -> ArrayLike:
    """Apply a function to what is in memory, or later to what is not."""
    return function(data) if isinstance(data, np.ndarray) else Elementwise(function, data, dtype)


def _distinct(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.unique(values[:100000])[:6]]


def _some(values: set[float]) -> str:
    # one NaN is as good as several
    distinct = sorted({value for value in values if not np.isnan(value)}) + [np.nan] * any(np.isnan(value) for value in values)
    return ", ".join(f"{value:g}" for value in distinct[:5]) + (", ..." if len(distinct) > 5 else "")


def _agree(table: str, file: str) -> bool:
    """Tell whether the table's modality may be what a DICOM file says of itself (MR has many suffixes)."""
    single = {"CT", "US", "XR", "MG", "PT"}
    known = {"CR": "XR", "DX": "XR", "pet": "PT"}
    table, file = known.get(table, table), known.get(file, file)
    return table == file or (table not in single and file not in single)


def _with_notes(made: Made, notes: list[Note]) -> Made:
    if not notes:
        return made
    others = f" (and {len(notes) - 1} more)" if len(notes) > 1 else ""
    return replace(made, status="warned", code=notes[0][0], reason=notes[0][1] + others)
