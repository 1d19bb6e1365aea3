"""What was measured on a subject as one structured report: TID 1500 in a comprehensive 3-D SR, through highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset

from cohortex import __version__
from cohortex.io.dicom_codes import Code, printable
from cohortex.io.dicom_objects import MAKER, settle, uid
from cohortex.io.dicom_seg import concept

NO_UNIT, MM3, MM = Code("1", "UCUM", "no units"), Code("mm3", "UCUM", "cubic millimeter"), Code("mm", "UCUM", "mm")
VOLUME, PROBABILITY, LENGTH = Code("118565006", "SCT", "Volume"), Code("122157", "DCM", "Probability"), Code("410668003", "SCT", "Length")
PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
DEVICE = Code("121007", "DCM", "Device")
TITLE = Code("126000", "DCM", "Imaging Measurement Report")


@dataclass(frozen=True)
class Group:
    """What was measured of one thing.

    Attributes
    ----------
    name : str
        How the thing is called, of at most 64 characters.
    images : sequence of Dataset
        What it was measured on.
    finding : Code
        What it is.
    measures : sequence of (name, value, unit)
        Values that are not finite are left out.
    words : sequence of (name, value)
    segment : (Dataset, int), optional
        A segmentation and the number of a segment of it.
    box : (n, 2, 4, 3) array, optional
        Not given with a segment: the lower and the upper face, LPS mm, corners in a circle.
    """

    name: str
    images: Sequence[Dataset]
    finding: Code
    measures: Sequence[tuple[Code, float, Code]] = ()
    words: Sequence[tuple[Code, Code]] = ()
    segment: tuple[Dataset, int] | None = None
    box: np.ndarray | None = None


def report(groups: Sequence[Group], seed: str, number: int, description: str) -> sr.Comprehensive3DSR:
    """Return the report on a subject; every group refers to images (and segmentations) of one study.

    Raises
    ------
    ValueError
        There is nothing to report.
    """
    if not groups:
        raise ValueError("there is nothing to report")
    used = [each for group in groups for each in (*group.images, *(group.segment or ())[:1])]
    evidence = {str(each.SOPInstanceUID): each for each in used}
    observer = sr.ObserverContext(
        concept(DEVICE),
        sr.DeviceObserverIdentifyingAttributes(
            uid=uid("device", __version__), name=MAKER["Manufacturer"], manufacturer_name=MAKER["Manufacturer"]
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=concept(PROCEDURE),
        imaging_measurements=[_measured(group, seed, place) for place, group in enumerate(groups)],
        title=concept(TITLE),
    )
    found = sr.Comprehensive3DSR(
        evidence=list(evidence.values()),
        content=content,
        series_instance_uid=uid(seed, "series"),
        series_number=number,
        sop_instance_uid=uid(seed, "instance"),
        instance_number=1,
        manufacturer=MAKER["Manufacturer"],
        manufacturer_model_name=MAKER["ManufacturerModelName"],
        software_versions=MAKER["SoftwareVersions"],
        device_serial_number=MAKER["DeviceSerialNumber"],
        is_complete=True,
        series_description=printable(description)[:64],
        specific_character_set="ISO_IR 192",
    )
    settle(found, seed, used)
    return found


def _measured(group: Group, seed: str, place: int) -> Any:
    tracking = sr.TrackingIdentifier(uid(seed, "group", str(place)), printable(group.name)[:64])
    measures = [sr.Measurement(concept(name), float(value), concept(unit)) for name, value, unit in group.measures if np.isfinite(value)]
    words = [sr.QualitativeEvaluation(concept(name), concept(value)) for name, value in group.words]
    shared: dict[str, Any] = {"finding_type": concept(group.finding), "measurements": measures, "qualitative_evaluations": words}
    if group.segment is None and group.box is None:
        images = [sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in group.images]
        return sr.MeasurementsAndQualitativeEvaluations(tracking, source_images=images, **shared)
    sources = [sr.SourceImageForSegmentation(each.SOPClassUID, each.SOPInstanceUID) for each in group.images]
    if group.segment is not None:
        found, number = group.segment
        segment = sr.ReferencedSegment(found.SOPClassUID, found.SOPInstanceUID, number, source_images=sources)
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(tracking, referenced_segment=segment, **shared)
    assert group.box is not None
    faces = [np.concatenate([face, face[:1]]) for face in group.box]
    surface = sr.VolumeSurface("POLYGON", faces, group.images[0].FrameOfReferenceUID, source_images=sources)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(tracking, referenced_volume_surface=surface, **shared)


def box_faces(low: np.ndarray, high: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the two faces of a box across the last axis of its grid, (2, 4, 3) in LPS mm.

    Parameters
    ----------
    low, high : (3,) array
        Its corners in voxels, half open: over voxels 3 to 5 it goes from 3 to 6.
    affine : (4, 4) array
        Voxel indices to RAS mm.
    """
    corners = [
        [(x, y, z) for x, y in ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1]))] for z in (low[2], high[2])
    ]
    # an edge lies half a voxel before the voxel's centre, which is what the affine speaks of
    places = (np.array(corners) - 0.5) @ affine[:3, :3].T + affine[:3, 3]
    return places * [-1.0, -1.0, 1.0]
