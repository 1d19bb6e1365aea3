"""The DICOM tags that are read, all of them, and what of each may leave: the one list that docs/privacy.md and the tests hold.

Every other tag, public or private, is skipped when a header is read. The decoder of compressed and coloured pixels goes through the whole
file, and nothing but the pixels comes back from it.
"""

from __future__ import annotations

from typing import NamedTuple


class Tag(NamedTuple):
    """A tag that is read.

    Attributes
    ----------
    keyword : str
        As pydicom calls it.
    use : str
        What it is read for.
    leaves : str
        As what it leaves: in a table, a sidecar or a message; ``nothing`` where it only decides something.
    within : str
        The keyword of the sequence that it is read in; empty for the file itself.
    """

    keyword: str
    use: str
    leaves: str = "nothing"
    within: str = ""


# fmt: off
READ = (
    Tag("SOPClassUID", "captures of screens are set aside", "the code `burned-in`"),
    Tag("BurnedInAnnotation", "pictures with text in them are set aside", "the code `burned-in`"),
    Tag("SeriesInstanceUID", "slices of one series are brought together", "how many series a folder holds"),
    Tag("PatientID", "a folder with files of several patients is set aside", "the code `mixed-patients`"),
    Tag("Modality", "what made the image", "a word of the list of modalities"),
    Tag("BodyPartExamined", "which models fit", "a word of the list of body parts"),
    Tag("ImageType", "mosaics are set aside", "the code `mosaic`"),
    Tag("Rows", "grid", "shape"),
    Tag("Columns", "grid", "shape"),
    Tag("NumberOfFrames", "grid", "shape, number of volumes"),
    Tag("SamplesPerPixel", "decoding"),
    Tag("PhotometricInterpretation", "decoding"),
    Tag("BitsAllocated", "decoding"),
    Tag("BitsStored", "decoding"),
    Tag("HighBit", "decoding"),
    Tag("PixelRepresentation", "decoding"),
    Tag("PixelPaddingValue", "voxels outside a CT's field of view", "voxel values"),
    Tag("RescaleSlope", "units", "voxel values"),
    Tag("RescaleIntercept", "units", "voxel values"),
    Tag("ModalityLUTSequence", "units in a table are refused", "the code `unsupported-type`"),
    Tag("ImagePositionPatient", "geometry", "affine"),
    Tag("ImageOrientationPatient", "geometry", "affine"),
    Tag("PixelSpacing", "geometry", "affine, spacing"),
    Tag("ImagerPixelSpacing", "pixel size of a radiograph", "spacing"),
    Tag("NominalScannedPixelSpacing", "pixel size of a scanned film", "spacing"),
    Tag("InstanceNumber", "order"),
    Tag("TemporalPositionIdentifier", "volumes of a series are told apart"),
    Tag("EchoTime", "volumes of a series are told apart"),
    Tag("DiffusionBValue", "volumes of a series are told apart"),
    Tag("TriggerTime", "volumes of a series are told apart"),
    Tag("AcquisitionNumber", "volumes of a series are told apart"),
    Tag("AcquisitionDate", "the day of the image", "`date`, as `privacy.dates` says"),
    Tag("SeriesDate", "the same where AcquisitionDate is empty", "`date`, as `privacy.dates` says"),
    Tag("StudyDate", "the same where both are empty", "`date`, as `privacy.dates` says"),
    Tag("SequenceOfUltrasoundRegions", "pixel size of ultrasound"),
    Tag("PhysicalDeltaX", "pixel size of ultrasound", "spacing", "SequenceOfUltrasoundRegions"),
    Tag("PhysicalDeltaY", "pixel size of ultrasound", "spacing", "SequenceOfUltrasoundRegions"),
    Tag("PhysicalUnitsXDirection", "pixel size of ultrasound", "nothing", "SequenceOfUltrasoundRegions"),
    Tag("PhysicalUnitsYDirection", "pixel size of ultrasound", "nothing", "SequenceOfUltrasoundRegions"),
    Tag("SharedFunctionalGroupsSequence", "what all frames of a file share"),
    Tag("PerFrameFunctionalGroupsSequence", "what a frame of a file has of its own"),
    Tag("ImagePositionPatient", "geometry of a frame", "affine", "PlanePositionSequence"),
    Tag("ImageOrientationPatient", "geometry of a frame", "affine", "PlaneOrientationSequence"),
    Tag("PixelSpacing", "geometry of a frame", "affine, spacing", "PixelMeasuresSequence"),
    Tag("RescaleSlope", "units of a frame", "voxel values", "PixelValueTransformationSequence"),
    Tag("RescaleIntercept", "units of a frame", "voxel values", "PixelValueTransformationSequence"),
    Tag("TemporalPositionIndex", "volumes of a file are told apart", "nothing", "FrameContentSequence"),
    Tag("EffectiveEchoTime", "volumes of a file are told apart", "nothing", "MREchoSequence"),
    Tag("DiffusionBValue", "volumes of a file are told apart", "nothing", "MRDiffusionSequence"),
    Tag("NominalCardiacTriggerDelayTime", "volumes of a file are told apart", "nothing", "CardiacSynchronizationSequence"),
)
"""What the reader of images reads."""

META = (
    Tag("TransferSyntaxUID", "decoding", "the name of a compression that cannot be decoded"),
    Tag("MediaStorageSOPClassUID", "a file that is cut in its header is told from a report", "the code `truncated`"),
)
"""What is read of the group in front of a file."""

SCANNER = (
    Tag("Manufacturer", "the scanner's name", "`scanner`: its letters and digits"),
    Tag("ManufacturerModelName", "the scanner's name", "`scanner`: its letters and digits"),
    Tag("MagneticFieldStrength", "the scanner's name", "`scanner`: tesla"),
)
"""What the head of a run reads of one file of each DICOM folder."""

INDEXED = (
    Tag("PatientID", "series of one patient are brought together", "a running number, and a keyed hash in a file of mode 0600"),
    Tag("StudyInstanceUID", "visits are told apart"),
    Tag("SeriesInstanceUID", "series are told apart"),
    Tag("StudyDate", "order of visits"),
    Tag("StudyTime", "order of visits"),
    Tag("SeriesNumber", "series of one visit are told apart", "`acq`, such as `s003`"),
    Tag("Modality", "what made the image", "a word of the list of modalities"),
    Tag("BodyPartExamined", "which models fit", "a word of the list of body parts"),
    Tag("SeriesDescription", "contrast of MR", "a BIDS suffix"),
    Tag("EchoTime", "contrast of MR", "a BIDS suffix"),
    Tag("RepetitionTime", "contrast of MR", "a BIDS suffix"),
    Tag("InversionTime", "contrast of MR", "a BIDS suffix"),
    Tag("ScanningSequence", "contrast of MR", "a BIDS suffix"),
    Tag("Rows", "objects without pixels are left out"),
    *SCANNER,
)
"""What `cohortex index` reads."""

EXPORTED = (
    Tag("SOPClassUID", "what is referred to", "the same, in DICOM objects"),
    Tag("SOPInstanceUID", "what is referred to", "the same, in DICOM objects"),
    Tag("SeriesInstanceUID", "what is referred to", "the same, in DICOM objects"),
    Tag("StudyInstanceUID", "the study that the objects join", "the same, in DICOM objects"),
    Tag("FrameOfReferenceUID", "the space that the objects lie in", "the same, in DICOM objects"),
)
"""What the stage export reads of a scan's own files under ``export: dicom_uids: source``, beside what places its slices."""
# fmt: on

READ_KEYWORDS = tuple(tag.keyword for tag in READ if not tag.within)
SCANNER_KEYWORDS = tuple(tag.keyword for tag in SCANNER)
INDEXED_KEYWORDS = tuple(tag.keyword for tag in INDEXED)
DAYS = ("AcquisitionDate", "SeriesDate", "StudyDate")
"""Where the day of an image stands, the best first."""
ORDER = ("TemporalPositionIdentifier", "EchoTime", "DiffusionBValue", "TriggerTime", "AcquisitionNumber", "InstanceNumber")
FRAME_ORDER = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
)


def tag_rows(tags: tuple[Tag, ...]) -> list[str]:
    """Return the rows of the table of docs/privacy.md."""
    return [f"| {tag.within + ' / ' if tag.within else ''}{tag.keyword} | {tag.use} | {tag.leaves} |" for tag in tags]
