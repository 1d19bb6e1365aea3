"""The identifiers of the DICOM series that a scan came as, for objects that a PACS is to show over it.

Nothing keeps them between acquisition and export: they are read from the scan's own files, when `export.default.dicom_uids` asks for them,
and stand in the DICOM objects alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from cohortex.errors import BadInput
from cohortex.io.dicom import placed_slices
from cohortex.io.dicom_geometry import Slice
from cohortex.io.dicom_objects import Placed, arranged
from cohortex.io.dicom_pixels import UNREADABLE, quiet
from cohortex.io.dicom_tags import EXPORTED
from cohortex.volume import Volume

IDENTIFIERS = tuple(tag.keyword for tag in EXPORTED)
VALID = re.compile(r"[0-9.]{1,64}\Z")
"""What may be passed on; whatever else stands in the place of an identifier may be a name."""
SAME_MM = 1e-2
"""Grids whose corners are as close as this are one grid."""


@dataclass(frozen=True)
class Source:
    """A DICOM series as it is referred to.

    Attributes
    ----------
    study_uid, frame_uid : str
        Of the study and of the frame of reference.
    slices : sequence of Dataset
        Identifiers and place of every slice, in order; empty where all are frames of one file.
    affine : (4, 4) array
        Indices (column, row, slice) to RAS mm.
    """

    study_uid: str
    frame_uid: str
    slices: Sequence[Dataset]
    affine: np.ndarray
    shape: tuple[int, int, int]

    def grid_of(self, volume: Volume) -> Placed | None:
        """Return how the voxels of a volume lie in the slices, None where its grid is not that of the series."""
        step = np.linalg.inv(self.affine) @ volume.affine
        turn = np.rint(step[:3, :3])
        order = np.abs(turn).argmax(axis=1)
        if not self.slices or sorted(order) != [0, 1, 2] or np.abs(turn).sum() != 3 or not np.isin(turn, (-1, 0, 1)).all():
            return None
        signs = [turn[row, axis] for row, axis in enumerate(order)]
        column, row, line = ((int(axis), bool(sign < 0)) for axis, sign in zip(order, signs, strict=True))
        axes = (line, row, column)
        grid = arranged(volume, (axes[0][0], axes[1][0], axes[2][0]), (axes[0][1], axes[1][1], axes[2][1]))
        theirs = np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine[:, [2, 1, 0, 3]]
        corners = np.array([[i, j, k, 1] for i in (0, self.shape[2]) for j in (0, self.shape[1]) for k in (0, self.shape[0])])
        apart = np.abs((grid.affine - theirs) @ corners.T).max()
        return grid if grid.shape == self.shape[::-1] and apart < SAME_MM else None


def read_source(row: Mapping[str, str]) -> Source | None:
    """Read the identifiers of the series at a cohort row's path.

    Returns
    -------
    Source, or None where the scan is no DICOM series with a place in the patient, or is not there any more.
    """
    path = Path(row.get("path", ""))
    if not row.get("path") or not path.exists():
        return None
    files = [path.parent / line for line in path.read_text("utf-8").splitlines() if line] if path.suffix.lower() == ".series" else path
    if isinstance(files, Path) and files.is_file() and not _is_dicom(files):
        return None
    try:
        slices, affine = placed_slices(files, path.name)
        with quiet():
            found = [_identified(one, affine) for one in slices]
    except (BadInput, OSError, *UNREADABLE):
        return None
    if not all(VALID.match(str(each.get(keyword, ""))) for each in found for keyword in IDENTIFIERS):
        return None
    shape = (slices[0].columns, slices[0].rows, len(slices))
    alone = len({str(each.SOPInstanceUID) for each in found}) == len(found)
    return Source(str(found[0].StudyInstanceUID), str(found[0].FrameOfReferenceUID), found if alone else [], affine, shape)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _identified(one: Slice, affine: np.ndarray) -> Dataset:
    """Return a slice as highdicom takes a source: identifiers and place, nothing of the patient."""
    header = dcmread(one.data.path, stop_before_pixels=True, specific_tags=[*IDENTIFIERS, "Modality"])
    found = Dataset()
    for keyword in (*IDENTIFIERS, "Modality"):
        if header.get(keyword):
            setattr(found, keyword, header[keyword].value)
    found.Rows, found.Columns = one.rows, one.columns
    found.ImagePositionPatient, found.ImageOrientationPatient = one.position.tolist(), one.orientation.tolist()
    found.PixelSpacing = list(one.pixel)
    found.SliceThickness = float(np.linalg.norm(affine[:3, 2]))
    return found
