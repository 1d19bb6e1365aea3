"""NRRD files with the data attached, through SimpleITK; its LPS world becomes RAS."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import check_affine, lps_to_ras
from cohortex.io.paths import check_file, shown_name, what_it_is
from cohortex.io.series import Frames, chosen_frames, framed, read_step
from cohortex.volume import Volume

BYTES = {"float": 4, "double": 8, "block": 0}
ORIENTED = ("left", "right", "las", "lps", "ras")
MAX_RATIO = 1032


def read_nrrd(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Read an attached NRRD file.

    Raises
    ------
    BadInput
        ``not-nrrd``, ``bad-header``, ``detached-data``, ``no-affine`` (no space, or none that is anatomical),
        ``unsupported-type``, ``truncated``, ``corrupt``, those of `check_affine`.
    Skip
        ``four-d`` by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    size = check_file(path, name)
    fields = _fields(path, name)
    sizes = _checked_sizes(fields, size, name)
    image, components = _image(path, name)
    dimension = image.GetDimension()
    if dimension not in (2, 3) or (components == 1 and len(sizes) > 3):
        raise BadInput("bad-header", f"{name} has {len(sizes)} axes in an order that is no series of volumes: write it as NIfTI.")
    chosen_frames(components, frames, name)

    import SimpleITK

    # the view stays valid because `image` outlives it: every frame is copied out below
    view = SimpleITK.GetArrayViewFromImage(image)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    affine[:dimension, :dimension] = direction * np.array(image.GetSpacing())
    affine[:dimension, 3] = image.GetOrigin()
    affine = check_affine(lps_to_ras(affine), name)

    def frame(index: int) -> np.ndarray:
        array = np.array(view[..., index] if components > 1 else view).T
        return array if dimension == 3 else array[:, :, None]

    return framed(frame, components, frames, affine, role, name, read_step("nrrd"))


def _fields(path: Path, name: str) -> dict[str, str]:
    with path.open("rb") as file:
        start = file.read(2**20)
    if not start.startswith(b"NRRD000"):
        raise BadInput("not-nrrd", f"{name} is {what_it_is(start)}, not NRRD: give an attached .nrrd file.")
    head, blank, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not blank:
        raise BadInput("truncated", f"{name} ends inside its header or is detached from its data: copy it again from its source.")
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
    return fields


def _checked_sizes(fields: dict[str, str], size: int, name: str) -> list[int]:
    if "data file" in fields or "datafile" in fields:
        raise BadInput("detached-data", f"{name} keeps its voxels in another file: write it with the data attached.")
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
        kind = fields["type"].lower()
        encoding = fields["encoding"].lower()
    except (KeyError, ValueError):
        raise BadInput("bad-header", f"{name} lacks sizes, type or encoding in its header: write it again.") from None
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise BadInput("bad-header", f"{name} declares the shape {'x'.join(map(str, sizes))}: write it again.")
    if fields.get("space", "").split("-")[0].lower() not in ORIENTED and fields.get("space", "").lower() not in ORIENTED:
        raise BadInput("no-affine", f"{name} does not say where its voxels lie (no anatomical `space`): write its geometry.")
    if "space directions" not in fields or "space origin" not in fields:
        raise BadInput("no-affine", f"{name} does not say where its voxels lie (no `space directions` or origin): write its geometry.")
    least = prod(sizes) * next((n for word, n in BYTES.items() if kind == word), 8 if "64" in kind or "long long" in kind else 1)
    if least > size * (1 if encoding == "raw" else MAX_RATIO):
        raise BadInput("truncated", f"{name} declares more voxels than the file can hold: copy it again from its source.")
    return sizes


def _image(path: Path, name: str) -> tuple[Any, int]:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = reader.Execute()
    except RuntimeError:
        raise BadInput("corrupt", f"{name} cannot be read as NRRD (damaged or truncated data): copy it again from its source.") from None
    if "complex" in image.GetPixelIDTypeAsString():
        raise BadInput("unsupported-type", f"{name} holds complex values: convert it to real numbers.")
    return image, image.GetNumberOfComponentsPerPixel()
