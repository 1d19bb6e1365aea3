"""Write simulated scans as scanners do: raw k-space in HDF5, a DICOM series, NIfTI for the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.demo.scans import CTScan, MRScan
from cohortex.demo.tissues import FLIP_DEG, TE_MS, TR_MS
from cohortex.physics.xray import PointSource

_HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <acquisitionSystemInformation>
    <systemVendor>simulated</systemVendor>
    <receiverChannels>{coils}</receiverChannels>
  </acquisitionSystemInformation>
  <experimentalConditions>
    <H1resonanceFrequency_Hz>127740000</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>{space}</encodedSpace>
    <reconSpace>{space}</reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>0</minimum><maximum>{last_line}</maximum><center>{centre_line}</center></kspace_encoding_step_1>
      <slice><minimum>0</minimum><maximum>{last_slice}</maximum><center>0</center></slice>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
  <sequenceParameters>
    <TR>{tr}</TR>
    <TE>{te}</TE>
    <flipAngle_deg>{flip}</flipAngle_deg>
  </sequenceParameters>
</ismrmrdHeader>
"""
_SPACE = "<matrixSize><x>{nx}</x><y>{ny}</y><z>1</z></matrixSize><fieldOfView_mm><x>{x:g}</x><y>{y:g}</y><z>{z:g}</z></fieldOfView_mm>"


def write_kspace(path: Path, scan: MRScan) -> None:
    """Write an MR's k-space in fastMRI's layout.

    ``kspace`` is (slice, coil, ky, kx) complex64, ``mask`` (ky,) 1 where measured, ``ismrmrd_header`` XML without names. The
    attribute ``cohortex_affine`` is the voxel-to-world affine of the reconstructed (x = kx, y = ky, z = slice) grid, RAS mm.
    """
    import h5py

    slices, coils, ny, nx = scan.kspace.shape
    spacing = np.linalg.norm(scan.affine[:3, :3], axis=0)
    space = _SPACE.format(nx=nx, ny=ny, x=nx * spacing[0], y=ny * spacing[1], z=spacing[2])
    header = _HEADER.format(
        coils=coils, space=space, last_line=ny - 1, centre_line=ny // 2, last_slice=slices - 1, tr=TR_MS, te=TE_MS, flip=FLIP_DEG
    )
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=scan.kspace)
        file.create_dataset("mask", data=scan.mask.astype(np.float32))
        file.create_dataset("ismrmrd_header", data=header.encode())
        file.attrs["acquisition"] = "AXT1"
        file.attrs["simulated"] = True
        file.attrs["cohortex_affine"] = scan.affine


def write_dicom(folder: Path, scan: CTScan, subject: str, seed: int, person: Mapping[str, Any]) -> None:
    """Write a CT as a DICOM series, one file a slice, the files' names not in the order of the slices.

    The volume's axes along R and A become columns and rows along L and P, as a scanner stores them. Identifiers are derived from
    seed and subject, dates are left empty, there is no name.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    flipped = scan.image[::-1, ::-1].transpose(2, 1, 0)
    nx, ny, nz = scan.image.shape
    affine = scan.affine @ np.array([[-1, 0, 0, nx - 1], [0, -1, 0, ny - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's world has x to the left and y to the back
    spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def uid(what: str) -> Any:
        return generate_uid(entropy_srcs=["cohortex demo", str(seed), subject, what])

    names = np.random.default_rng([seed, *subject.encode()]).permutation(nz)
    for index, pixels in enumerate(flipped):
        slice_ = Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.SpecificCharacterSet = "ISO_IR 192"
        slice_.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = uid(f"slice {index}")
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame")
        slice_.StudyDate = slice_.StudyTime = slice_.AccessionNumber = slice_.ReferringPhysicianName = slice_.StudyID = ""
        slice_.Modality, slice_.Manufacturer, slice_.SeriesDescription = "CT", "simulated", "Simulated low-dose head"
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate = "", subject, ""
        slice_.PatientSex, slice_.PatientAge = str(person["sex"]), f"{int(person['age']):03d}Y"
        slice_.BodyPartExamined, slice_.PatientPosition, slice_.PositionReferenceIndicator = "HEAD", "HFS", ""
        slice_.KVP, slice_.ConvolutionKernel = "120", "HANN"
        slice_.SeriesNumber, slice_.InstanceNumber = 1, index + 1
        slice_.ImageOrientationPatient = [_decimal(v) for v in (*affine[:3, 0] / spacing[0], *affine[:3, 1] / spacing[1])]
        slice_.ImagePositionPatient = [_decimal(v) for v in affine[:3, 3] + index * affine[:3, 2]]
        slice_.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
        slice_.SliceThickness = _decimal(spacing[2])
        slice_.RescaleSlope, slice_.RescaleIntercept, slice_.RescaleType = 1, -1024, "HU"
        slice_.WindowCenter, slice_.WindowWidth = 40, 100
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.Rows, slice_.Columns = pixels.shape
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.PixelData = (pixels.astype(np.int16) + np.int16(1024)).astype("<i2").tobytes()
        slice_.save_as(folder / f"IM{int(names[index]) + 1:04d}.dcm", enforce_file_format=True)


def write_radiograph(path: Path, line_integrals: np.ndarray, source: PointSource, subject: str, seed: int) -> None:
    """Write a simulated radiograph as DICOM (Digital X-Ray Image, for processing), as a flat detector stores it.

    Parameters
    ----------
    path : Path
    line_integrals : (columns, rows) array
        Of `cohortex.physics.xray`, stored in steps of 1 / 4096 with the slope in the header; negative ones become 0.
    source : PointSource
        Its pixel sizes are those at the detector (Imager Pixel Spacing), its distances stand in the header.
    subject : str
    seed : int
        Identifiers are derived from seed and subject; there is no name and no date.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForProcessing, ExplicitVRLittleEndian, generate_uid

    def uid(what: str) -> Any:
        return generate_uid(entropy_srcs=["cohortex demo", str(seed), subject, what])

    pixels = np.clip(np.rint(np.asarray(line_integrals, np.float64).T * 4096), 0, 65535).astype("<u2")
    picture = Dataset()
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    picture.SpecificCharacterSet = "ISO_IR 192"
    picture.ImageType = ["ORIGINAL", "PRIMARY"]
    picture.SOPClassUID, picture.SOPInstanceUID = DigitalXRayImageStorageForProcessing, uid("radiograph")
    picture.StudyInstanceUID, picture.SeriesInstanceUID = uid("study"), uid("radiographs")
    picture.StudyDate = picture.StudyTime = picture.AccessionNumber = picture.ReferringPhysicianName = picture.StudyID = ""
    picture.Modality, picture.PresentationIntentType, picture.Manufacturer = "DX", "FOR PROCESSING", "simulated"
    picture.SeriesDescription = "Simulated radiograph"
    picture.PatientName, picture.PatientID, picture.PatientBirthDate, picture.PatientSex = "", subject, "", ""
    picture.SeriesNumber, picture.InstanceNumber = 1, 1
    picture.ImagerPixelSpacing = [_decimal(source.pixel_mm[1]), _decimal(source.pixel_mm[0])]
    picture.DistanceSourceToDetector, picture.DistanceSourceToPatient = _decimal(source.detector_mm), _decimal(source.object_mm)
    picture.EstimatedRadiographicMagnificationFactor = _decimal(source.magnification)
    picture.PixelIntensityRelationship, picture.PixelIntensityRelationshipSign = "LOG", -1
    picture.RescaleSlope, picture.RescaleIntercept, picture.RescaleType = _decimal(1 / 4096), "0", "US"
    picture.SamplesPerPixel, picture.PhotometricInterpretation = 1, "MONOCHROME2"
    picture.Rows, picture.Columns = pixels.shape
    picture.BitsAllocated, picture.BitsStored, picture.HighBit, picture.PixelRepresentation = 16, 16, 15, 0
    picture.PixelData = pixels.tobytes()
    picture.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as .nii.gz, the same data as the same bytes."""
    import nibabel as nib

    image = nib.Nifti1Image(np.ascontiguousarray(data), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    nib.save(image, path)


def write_landmarks(path: Path, in_mr: np.ndarray, in_ct: np.ndarray) -> None:
    """Write corresponding points, RAS mm, one a row."""
    lines = ["\t".join(["landmark", "x_t1w", "y_t1w", "z_t1w", "x_ct", "y_ct", "z_ct"])]
    for number, point in enumerate(np.hstack([in_mr, in_ct]), 1):
        lines.append("\t".join([f"p{number:02d}", *(f"{value:.4f}" for value in point)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _decimal(value: float) -> str:
    """Return a number as a DICOM decimal string of at most 16 characters."""
    return f"{value:.10f}"[:16]
