"""Label maps as DICOM segmentations and maps of real values as parametric maps, through highdicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from cohortex import __version__
from cohortex.io.dicom_codes import Code, named, printable
from cohortex.io.dicom_objects import MAKER, Placed, settle, uid
from cohortex.volume import Volume

MOST_SEGMENTS = 65535
LEARNED = Code("123110", "DCM", "Artificial Intelligence")
MAKER_WORDS: dict[str, Any] = {
    "manufacturer": MAKER["Manufacturer"],
    "manufacturer_model_name": MAKER["ManufacturerModelName"],
    "software_versions": MAKER["SoftwareVersions"],
    "device_serial_number": MAKER["DeviceSerialNumber"],
}


@dataclass(frozen=True)
class Origin:
    """The image that an object was made from, as DICOM, and the grid on which objects of it are written.

    Attributes
    ----------
    images : sequence of Dataset
        One multi-frame image or the slices of a series, with identifiers and geometry; pixels are not looked at.
    """

    images: Sequence[Dataset]
    frame_uid: str


def concept(code: Code) -> CodedConcept:
    """Return a code as highdicom takes it."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def segmentation(
    labels: Volume, grid: Placed, names: Mapping[int, str], origin: Origin, seed: str, number: int, description: str, by_hand: bool = False
) -> Segmentation:
    """Return a label map as a binary segmentation, one segment a label that occurs.

    Parameters
    ----------
    labels : Volume
        Of unsigned integers.
    grid : Placed
        How its voxels lie in frames.
    names : mapping
        Name by value; the value itself stands in the segment's tracking id, ``label-7``, since segments are numbered from 1 on.
    origin : Origin
        The image that was segmented.
    seed : str
        What the identifiers follow from.
    by_hand : bool
        The labels are the user's.

    Raises
    ------
    ValueError
        There is no label, or more than 65535.
    """
    data = grid.turned(labels.array())
    values = [int(value) for value in np.unique(data) if value]
    if not values:
        raise ValueError("it holds no label, and a segmentation has at least one segment")
    if len(values) > MOST_SEGMENTS:
        raise ValueError(f"it holds {len(values)} labels, and a segmentation has at most {MOST_SEGMENTS} segments")
    numbers = np.zeros(values[-1] + 1, np.uint16)
    numbers[values] = np.arange(1, len(values) + 1)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "Cohortex", concept(Code("123110", "DCM", "Artificial Intelligence")), __version__
    )
    segments = []
    for segment, value in enumerate(values, 1):
        name = names.get(value, f"label {value}")
        category, kind = named(name)
        further: dict[str, Any] = {"tracking_id": f"label-{value}", "tracking_uid": uid(seed, "label", str(value))}
        if not by_hand:
            further["algorithm_identification"] = algorithm
        segments.append(
            SegmentDescription(
                segment,
                printable(name)[:64] or f"label {value}",
                concept(category),
                concept(kind),
                "MANUAL" if by_hand else "AUTOMATIC",
                **further,
            )
        )
    found = Segmentation(
        source_images=origin.images,
        pixel_array=_volume(numbers[data], grid, origin.frame_uid),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=uid(seed, "series"),
        series_number=number,
        sop_instance_uid=uid(seed, "instance"),
        instance_number=1,
        content_label="SEGMENTATION",
        content_description=printable(description)[:64],
        series_description=printable(description)[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        **MAKER_WORDS,
    )
    settle(found, seed, origin.images)
    return found


def parametric_map(
    volume: Volume, grid: Placed, quantity: Code, meaning: str, origin: Origin, seed: str, number: int, description: str
) -> ParametricMap:
    """Return a map of real values (a probability, an uncertainty, a distance) as float32 frames.

    Parameters
    ----------
    volume : Volume
        Of float32 values without NaN.
    quantity : Code
        What its values are.
    meaning : str
        The same in a sentence.
    """
    values = grid.turned(volume.array(np.float32))
    low, high = float(values.min()), float(values.max())
    mapping = RealWorldValueMapping(
        lut_label="VALUES",
        lut_explanation=printable(meaning)[:64],
        unit=concept(Code("1", "UCUM", "no units")),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concept(quantity),
    )
    found = ParametricMap(
        source_images=origin.images,
        pixel_array=_volume(values, grid, origin.frame_uid),
        series_instance_uid=uid(seed, "series"),
        series_number=number,
        sop_instance_uid=uid(seed, "instance"),
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[highdicom.VOILUTTransformation((low + high) / 2, max(high - low, 1e-6), voi_lut_function="LINEAR_EXACT")],
        content_label="MAP",
        content_description=printable(description)[:64],
        series_description=printable(description)[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        **MAKER_WORDS,
    )
    found.Laterality = ""
    settle(found, seed, origin.images)
    return found


def _volume(values: np.ndarray, grid: Placed, frame_uid: str) -> highdicom.Volume:
    return highdicom.Volume(values, grid.affine, coordinate_system="PATIENT", frame_of_reference_uid=frame_uid)


def label_of(segment: Dataset) -> int:
    """Return the value that a segment has in the label map."""
    return int(str(segment.TrackingID).removeprefix("label-"))
