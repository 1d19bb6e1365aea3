"""OME-Zarr folders, versions 0.4 (Zarr format 2) and 0.5 (format 3), as volumes that are read when they are indexed.

Moore et al., OME-Zarr: a cloud-optimized bioimaging file format, Histochemistry and Cell Biology 160, 2023;
https://ngff.openmicroscopy.org/0.5. Such a folder says how large its voxels are and where they begin, but nothing of the patient, unless
its axes carry the anatomical orientation of the format's RFC 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import FINEST_MICROSCOPY_MM, check_affine
from cohortex.io.ozx import volume_of
from cohortex.io.paths import shown_name, shown_text
from cohortex.io.series import Frames, Note, framed, read_step
from cohortex.io.stored import Stored
from cohortex.io.zarr_arrays import complete, open_array, read_json
from cohortex.volume import Volume

_SHORT = {"nm": 1e-6, "um": 1e-3, "\N{MICRO SIGN}m": 1e-3, "\N{GREEK SMALL LETTER MU}m": 1e-3, "micron": 1e-3, "mm": 1.0, "cm": 10.0}
_METRIC = {"angstrom": 1e-7, "nanometer": 1e-6, "micrometer": 1e-3, "millimeter": 1.0, "centimeter": 10.0, "meter": 1000.0, "inch": 25.4}
UNITS_MM = {**_METRIC, **_SHORT}
"""The names that the format wants, and what other tools write."""
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
ANATOMICAL = {
    "left-to-right": (0, 1),
    "right-to-left": (0, -1),
    "posterior-to-anterior": (1, 1),
    "anterior-to-posterior": (1, -1),
    "inferior-to-superior": (2, 1),
    "superior-to-inferior": (2, -1),
}
"""World axis (R, A, S) and sign."""


def is_ome_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr hierarchy."""
    return any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")) or path.suffix.lower() == ".zarr"


def read_ome_zarr(
    path: Path,
    role: str = "image",
    frames: Frames = "skip",
    name: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    missing_chunks: str = "refuse",
) -> list[Volume]:
    """Open the largest resolution of an OME-Zarr image, a folder with the metadata ``multiscales``; parameters as in `cohortex.io.read`.

    Returns
    -------
    list of Volume
        Axes (x, y, z); without an anatomical orientation in the metadata x, y and z run to R, A and S, which a note says. A folder that
        Cohortex wrote has its whole affine.

    Raises
    ------
    BadInput
        ``not-an-image``, ``old-version``, ``bad-metadata``, ``no-spacing``, ``channels``, ``bad-axes``, those of `open_array`,
        `complete` and `check_affine`; while chunks are read ``corrupt`` and ``missing-chunks``.
    Skip
        ``four-d``: several points of time, by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    attributes, version = _attributes(path, name)
    scales = attributes.get("multiscales")
    if not isinstance(scales, list) or not scales or not isinstance(scales[0], dict):
        raise _no_image(path, attributes, name)
    image = scales[0]
    axes = _axes(image, name)
    key, scale, shift = _placed(image, axes, name)
    array = open_array(path, key, name)
    if len(array.shape) != len(axes):
        raise BadInput("bad-axes", f"{name} names {len(axes)} axes but stores {len(array.shape)}: write its metadata again.")
    letters = [axis["name"] for axis in axes]
    lengths = dict(zip(letters, array.shape, strict=True))
    fill = missing_chunks == "fill"

    own = attributes.get("cohortex")
    if isinstance(own, dict):
        stored = [letters.index(letter) for letter in "xyz"] + ([letters.index("c")] if own.get("kind") == "field" else [])
        return [volume_of(Stored(complete(array, {}), stored), own, name)]
    if lengths.get("c", 1) > 1:
        raise BadInput("channels", f"{name} holds {lengths['c']} channels{_channel_names(attributes)}: give each as an image of its own.")

    affine, notes = _affine(axes, scale, shift, lengths, spacing_mm, name)
    positions = [letters.index(letter) if letter in letters else None for letter in "xyz"]

    def frame(index: int) -> Any:
        wanted = {letters.index(letter): index if letter == "t" else 0 for letter in "tc" if letter in letters}
        return Stored(complete(array, wanted, fill), positions, wanted)

    step = read_step("ome-zarr", notes, version=version, **({"missing_chunks": "fill value"} if fill else {}))
    return framed(frame, lengths.get("t", 1), frames, check_affine(affine, name, FINEST_MICROSCOPY_MM), role, name, step)


def _attributes(path: Path, name: str) -> tuple[dict[str, Any], str]:
    """Return the metadata of the group, ``ome`` of version 0.5 opened up, and the version."""
    group = read_json(path / "zarr.json", name)
    if group is not None:
        attributes = group.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        ome = attributes.get("ome")
        if isinstance(ome, dict):
            return {**attributes, **ome}, str(ome.get("version", ""))[:8]
        return attributes, ""
    attributes = read_json(path / ".zattrs", name)
    if attributes is None:
        raise BadInput("not-an-image", f"{name} is no OME-Zarr image (no zarr.json or .zattrs in it): give the folder of the image.")
    scales = attributes.get("multiscales")
    version = scales[0].get("version", "") if isinstance(scales, list) and scales and isinstance(scales[0], dict) else ""
    return attributes, str(version)[:8]


def _no_image(path: Path, attributes: Mapping[str, Any], name: str) -> BadInput:
    if "plate" in attributes or "well" in attributes:
        return BadInput("not-an-image", f"{name} is a plate or a well of many images: name one of its images, such as {name}/A/1/0.")
    if "bioformats2raw.layout" in attributes or (path / "0" / ".zattrs").is_file():
        return BadInput("not-an-image", f"{name} is a collection of images: name one of them, such as {name}/0.")
    return BadInput("not-an-image", f"{name} has no OME-Zarr metadata (multiscales), so nobody knows its voxels: write it as OME-Zarr 0.5.")


def _axes(image: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    axes = image.get("axes")
    if not isinstance(axes, list) or not all(isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in axes):
        found = str(image.get("version", "unknown"))[:8]
        raise BadInput("old-version", f"{name} is OME-Zarr of version {found}, whose axes have no units: convert it to 0.4 or 0.5.")
    letters = [axis["name"] for axis in axes]
    known = all(TYPES.get(letter) == axis.get("type", TYPES.get(letter)) for letter, axis in zip(letters, axes, strict=True))
    if not known or len(set(letters)) != len(letters) or not {"x", "y"} <= set(letters):
        shown = shown_text(", ".join("".join(c for c in letter[:12] if c.isalnum()) for letter in letters[:8]))
        raise BadInput("bad-axes", f"{name} has the axes {shown}; known are t, c, z, y and x: write it with those.")
    return [dict(axis) for axis in axes]


def _placed(image: Mapping[str, Any], axes: Sequence[Any], name: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the array of the largest resolution, and scale and translation of its indices along every axis."""
    sets = image.get("datasets")
    first = sets[0] if isinstance(sets, list) and sets and isinstance(sets[0], dict) else {}
    key = first.get("path")
    if not isinstance(key, str) or PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts or "\0" in key:
        raise BadInput("bad-metadata", f"{name} does not say which array holds its image (datasets, path): write its metadata again.")
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    for steps in (first.get("coordinateTransformations"), image.get("coordinateTransformations", [])):
        if not isinstance(steps, list):
            raise BadInput("no-spacing", f"{name} does not say how large its voxels are (coordinateTransformations): write them.")
        for step in steps:
            form = step.get("type") if isinstance(step, dict) else None
            if form == "identity":
                continue
            values = np.array(_numbers(step.get(form), len(axes)) if form in ("scale", "translation") else [])
            if values.shape != (len(axes),):
                raise BadInput("bad-metadata", f"{name} has a coordinate transformation that is no scale or translation: write it again.")
            if form == "scale":
                scale, shift = scale * values, shift * values
            else:
                shift = shift + values
    return key, scale, shift


def _numbers(values: Any, count: int) -> list[float]:
    good = isinstance(values, list) and len(values) == count and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return [float(v) for v in values] if good else []


def _affine(
    axes: Sequence[Mapping[str, Any]],
    scale: np.ndarray,
    shift: np.ndarray,
    lengths: Mapping[str, int],
    spacing_mm: Sequence[float] | None,
    name: str,
) -> tuple[np.ndarray, list[Note]]:
    """Return the affine of (x, y, z) and what had to be assumed."""
    places = {axis["name"]: (i, axis) for i, axis in enumerate(axes)}
    affine, notes = np.eye(4), []
    turned = [_orientation(places[letter][1]) if letter in places else None for letter in "xyz"]
    found = [each for each in turned if each is not None]
    known = len({axis for axis, _ in found}) == 3
    for column, letter in enumerate("xyz"):
        if letter not in places:
            continue
        i, axis = places[letter]
        unit = axis.get("unit")
        factor = UNITS_MM.get(unit) if isinstance(unit, str) else None
        if factor is None and isinstance(unit, str) and unit:
            shown = shown_text("".join(c for c in unit[:20] if c.isalnum()))
            raise BadInput("no-spacing", f"{name} measures its axis {letter} in {shown}, no known unit of length: write micrometer.")
        if factor is None:
            if spacing_mm is None:
                raise BadInput(
                    "no-spacing",
                    f"{name} gives no unit of length for its axis {letter}: write one or set `acquire: spacing_mm`.",
                )
            factor, scale[i], shift[i] = 1.0, float(spacing_mm[column]), 0.0
        row, sign = found[column] if known else (column, 1)
        affine[:3, column] = 0.0
        affine[row, column] = sign * scale[i] * factor
        affine[row, 3] = sign * shift[i] * factor
    if min(scale) <= 0 and np.isfinite(scale).all():
        raise BadInput("bad-spacing", f"{name} has voxels that are not larger than 0 (scale): write its metadata again.")
    if not known and lengths.get("z", 1) > 1:
        notes.append(("orientation-assumed", f"{name} does not say how it lies in the body; x, y and z were taken as right, front and up."))
    return affine, notes


def _orientation(axis: Mapping[str, Any]) -> tuple[int, int] | None:
    told = axis.get("orientation")
    value = told.get("value") if isinstance(told, Mapping) else told
    return ANATOMICAL.get(value) if isinstance(value, str) else None


def _channel_names(attributes: Mapping[str, Any]) -> str:
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    names = [str(c.get("label", ""))[:20] for c in channels if isinstance(c, Mapping)] if isinstance(channels, list) else []
    clean = ["".join(letter for letter in each if letter.isalnum() or letter in " -_") for each in names[:6]]
    return f" ({shown_text(', '.join(filter(None, clean)))})" if any(clean) else ""
