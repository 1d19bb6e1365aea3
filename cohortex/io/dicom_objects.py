"""DICOM objects out: identifiers that follow from the data, and an image as one multi-frame file.

Everything is derived from hashes, nothing from the clock or from a patient, so the same data give the same bytes. Geometry is LPS mm:
frames lie along the last axis of a volume, rows run to the patient's left and columns to the back.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian

from cohortex import __version__
from cohortex.io.dicom_codes import Code, printable, region
from cohortex.publish import atomic_path
from cohortex.volume import Volume

DATE, TIME = "20000101", "000000"
"""Where DICOM demands a date: no scan's, no run's."""

MAKER = {"Manufacturer": "Cohortex", "ManufacturerModelName": "Cohortex", "DeviceSerialNumber": "0", "SoftwareVersions": __version__}

CT, MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
OTHER = "1.2.840.10008.5.1.4.1.1.7.3"
"""Enhanced CT, enhanced MR, and for all else multi-frame grayscale word secondary capture, which may lie in the patient, too."""

NOT_MR = {"XR", "CR", "DX", "US", "MG", "pet", "PT", "spect", "NM", "micr", "SPIM", "OCT", "photo"}
MODALITY = {"CT": "CT", "US": "US", "XR": "OT", "MG": "OT", "pet": "PT", "PT": "PT", "spect": "NM", "NM": "NM"}
RANDOM = ("1.2.826.0.1.3680043.10.511.3.", "1.2.826.0.1.3680043.8.498.")
"""Beginnings of the UIDs that highdicom and pydicom draw by chance."""


def uid(*words: str) -> str:
    """Return a UID that follows from words: 2.25 and a version-5 UUID out of their sha256 (DICOM PS3.5, annex B.2).

    Examples
    --------
    >>> uid("a") == uid("a") and uid("a") != uid("a", "")
    True
    """
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


@dataclass(frozen=True)
class Study:
    """To what an object belongs.

    Attributes
    ----------
    patient, session : str
        Ids of the cohort.
    uid : str
        Study instance UID.
    """

    patient: str
    session: str
    uid: str


@dataclass(frozen=True)
class Placed:
    """A grid as DICOM has it.

    Attributes
    ----------
    order : tuple of int
        Axes of a volume (x, y, z) that are frames, rows and columns here.
    flipped : tuple of bool
        Whether each of these runs the other way than in the volume.
    affine : (4, 4) array
        Indices (frame, row, column) to LPS mm.
    shape : tuple of int
        Frames, rows, columns.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    affine: np.ndarray
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between frames, rows and columns."""
        frame, row, column = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(frame), float(row), float(column)

    @property
    def orientation(self) -> list[float]:
        """Cosines along a row and along a column."""
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return [float(value) for value in (*unit[:, 2], *unit[:, 1])]

    def position(self, frame: int) -> list[float]:
        """Middle of the first pixel of a frame."""
        return [float(value) for value in (self.affine @ [frame, 0, 0, 1])[:3]]

    def turned(self, data: np.ndarray) -> np.ndarray:
        """Return the data of a volume (x, y, z) as (frame, row, column), contiguous."""
        return np.ascontiguousarray(data.transpose(self.order)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)])


def placed(volume: Volume) -> Placed:
    """Return the grid of a volume for DICOM: frames along z, rows along y to the back, columns along x to the left.

    Raises
    ------
    ValueError
        The axes are not at right angles (a cosine above 1e-3), which no frame of DICOM can be.
    """
    unit = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-3:
        raise ValueError("its voxel axes are not at right angles, which DICOM cannot say")
    return arranged(volume, (2, 1, 0), (False, True, True))


def arranged(volume: Volume, order: tuple[int, int, int], flipped: tuple[bool, bool, bool]) -> Placed:
    """Return the grid of a volume with its axes in another order and some of them reversed."""
    shape = tuple(volume.shape[axis] for axis in order)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for index, (axis, flip) in enumerate(zip(order, flipped, strict=True)):
        turn[axis, index] = -1 if flip else 1
        turn[axis, 3] = volume.shape[axis] - 1 if flip else 0
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine @ turn
    return Placed(order, flipped, affine, shape)  # pyright: ignore[reportArgumentType]


def header(study: Study, sop_class: str, seed: str, modality: str, number: int, description: str) -> Dataset:
    """Return a dataset with patient, study, series, equipment and itself identified; the patient is an id without name and dates."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    found.file_meta.MediaStorageSOPInstanceUID = UID(uid(seed, "instance"))
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID, found.SOPInstanceUID = sop_class, uid(seed, "instance")
    found.StudyInstanceUID, found.SeriesInstanceUID = study.uid, uid(seed, "series")
    found.PatientID, found.PatientName = study.patient, ""
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"):
        setattr(found, keyword, "")
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", "only ids of the cohort"
    found.StudyID = study.session
    found.Modality, found.SeriesNumber, found.InstanceNumber = modality, number, 1
    found.SeriesDescription = printable(description)[:64]
    for keyword, value in MAKER.items():
        setattr(found, keyword, value)
    return found


def coded(code: Code) -> Dataset:
    """Return a code as an item of a sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def image_object(volume: Volume, study: Study, frame_uid: str, seed: str, number: int, description: str) -> Dataset:
    """Return a volume as one multi-frame image: enhanced CT or MR, for other modalities a secondary capture that lies in the patient.

    Parameters
    ----------
    volume : Volume
        CT is stored as whole HU; other values as 16 bits with a slope, so to 1/65535 of their range.
    frame_uid : str
        Frame of reference.
    seed : str
        What the identifiers follow from.
    """
    grid = placed(volume)
    stored, slope, intercept = _stored(grid.turned(volume.array(np.float32)), volume.modality == "CT")
    sop_class = CT if volume.modality == "CT" else OTHER if volume.modality in NOT_MR else MR
    found = header(study, sop_class, seed, MODALITY.get(volume.modality, "OT" if sop_class == OTHER else "MR"), number, description)
    found.FrameOfReferenceUID, found.PositionReferenceIndicator = frame_uid, ""
    found.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    found.ContentDate, found.ContentTime = DATE, TIME
    found.ContentQualification, found.BurnedInAnnotation, found.LossyImageCompression = "RESEARCH", "NO", "00"
    found.PresentationLUTShape = "IDENTITY"
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.NumberOfFrames, found.Rows, found.Columns = grid.shape
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 16, 15
    found.PixelRepresentation = int(stored.dtype.kind == "i")
    kind = "HU" if volume.modality == "CT" else "US"
    shared = _shared(volume, grid, slope, intercept, kind, (float(stored.min()), float(stored.max())))
    if sop_class == OTHER:
        _captured(found, shared)
    else:
        _enhanced(found, shared, sop_class == CT, uid(seed, "irradiation"))
    found.SharedFunctionalGroupsSequence = Items([shared])
    found.PerFrameFunctionalGroupsSequence = Items([_frame(grid, number) for number in range(grid.shape[0])])
    _dimensions(found, uid(seed, "dimensions"))
    found.PixelData = stored.tobytes()
    found["PixelData"].VR = "OW"
    return found


def _stored(values: np.ndarray, hounsfield: bool) -> tuple[np.ndarray, float, float]:
    """Return whole numbers of 16 bits with the slope and intercept that make them the values again."""
    if hounsfield:
        return np.rint(values).clip(-32768, 32767).astype("<i2"), 1.0, 0.0
    low, high = float(values.min()), float(values.max())
    # as it will stand in the file, in 16 characters
    slope, intercept = float(_decimal((high - low) / 65535 or 1.0)), float(_decimal(low))
    return np.rint((values.astype(np.float64) - intercept) / slope).clip(0, 65535).astype("<u2"), slope, intercept


def _decimal(value: float) -> str:
    """Return a number as DICOM's decimal string, which has at most 16 characters."""
    return next(text for digits in range(16, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _shared(volume: Volume, grid: Placed, slope: float, intercept: float, kind: str, extent: tuple[float, float]) -> Dataset:
    shared = Dataset()
    measures, orientation, anatomy, transform, window = (Dataset() for _ in range(5))
    frame_mm, row_mm, column_mm = grid.spacing
    measures.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    measures.SliceThickness = measures.SpacingBetweenSlices = _decimal(frame_mm)
    orientation.ImageOrientationPatient = [_decimal(value) for value in grid.orientation]
    anatomy.AnatomicRegionSequence = Items([coded(region(volume.body_part))])
    anatomy.FrameLaterality = "U"
    transform.RescaleIntercept, transform.RescaleSlope, transform.RescaleType = _decimal(intercept), _decimal(slope), kind
    low, high = (value * slope + intercept for value in extent)
    window.WindowCenter, window.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, 1e-6))
    window.VOILUTFunction = "LINEAR_EXACT"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    shared.FrameAnatomySequence, shared.PixelValueTransformationSequence = Items([anatomy]), Items([transform])
    shared.FrameVOILUTSequence = Items([window])
    return shared


def _captured(found: Dataset, shared: Dataset) -> None:
    """Say for the whole file what a secondary capture cannot say by frame."""
    transform, window = shared.PixelValueTransformationSequence[0], shared.FrameVOILUTSequence[0]
    for keyword, item in (("RescaleIntercept", transform), ("RescaleSlope", transform), ("RescaleType", transform)):
        setattr(found, keyword, item[keyword].value)
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        setattr(found, keyword, window[keyword].value)
    for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence", "FrameAnatomySequence"):
        delattr(shared, keyword)
    found.ConversionType, found.PatientOrientation, found.Laterality = "WSD", "", ""
    if found.NumberOfFrames > 1:
        found.FrameIncrementPointer = 0x52009230  # one frame after the other, as the functional groups have them


def _enhanced(found: Dataset, shared: Dataset, is_ct: bool, irradiation: str) -> None:
    """Add what the enhanced CT and MR objects ask for beside the pixels."""
    found.AcquisitionContextSequence = Items([])
    found.PatientPosition = ""  # not known once a scan was turned to canonical axes
    kind = Dataset()
    kind.FrameType = found.ImageType
    for each in (found, kind):
        each.PixelPresentation, each.VolumetricProperties, each.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
        if not is_ct:
            each.ComplexImageComponent, each.AcquisitionContrast = "MAGNITUDE", "UNKNOWN"
    if is_ct:
        event = Dataset()
        event.IrradiationEventUID = irradiation
        shared.CTImageFrameTypeSequence, shared.IrradiationEventIdentificationSequence = Items([kind]), Items([event])
    else:
        found.ApplicableSafetyStandardAgency = "IEC"
        shared.MRImageFrameTypeSequence = Items([kind])


def _frame(grid: Placed, number: int) -> Dataset:
    item, content, position = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", number + 1, [1, number + 1]
    position.ImagePositionPatient = [_decimal(value) for value in grid.position(number)]
    item.FrameContentSequence, item.PlanePositionSequence = Items([content]), Items([position])
    return item


def _dimensions(found: Dataset, name: str) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = name
    found.DimensionOrganizationSequence = Items([organization])
    indices = []
    for tag, label in ((0x00209056, "Stack ID"), (0x00209057, "In-Stack Position Number")):
        index = Dataset()
        index.DimensionIndexPointer, index.FunctionalGroupPointer = tag, 0x00209111
        index.DimensionOrganizationUID, index.DimensionDescriptionLabel = name, label
        indices.append(index)
    found.DimensionIndexSequence = Items(indices)


def settle(found: Dataset, seed: str, sources: Iterable[Dataset]) -> Dataset:
    """Take chance and clock out of an object: random UIDs become derived ones, dates and times those of no day.

    Parameters
    ----------
    sources : iterable of Dataset
        What it refers to, whose UIDs stay, whoever drew them.
    """
    replaced: dict[str, str] = {}
    kept = {str(element.value) for source in sources for element in source if element.VR == "UI"}

    def derived(value: str) -> str:
        if str(value) in kept or not str(value).startswith(RANDOM):
            return value
        return replaced.setdefault(str(value), uid(seed, "further", str(len(replaced))))

    def visit(_: Dataset, element: Any) -> None:
        if element.VR == "UI" and element.value:
            element.value = derived(element.value) if isinstance(element.value, str) else [derived(each) for each in element.value]
        elif element.VR in ("DA", "TM", "DT") and element.value:
            element.value = {"DA": DATE, "TM": TIME, "DT": DATE + TIME}[element.VR]

    found.walk(visit)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in found:
            delattr(found, keyword)
    found.PatientIdentityRemoved, found.DeidentificationMethod = "YES", "only ids of the cohort"
    return found


def write_object(path: Path, found: Dataset) -> None:
    """Write an object, atomically."""
    with atomic_path(path) as temporary:
        found.save_as(temporary, enforce_file_format=True)
