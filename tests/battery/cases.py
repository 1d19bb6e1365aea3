"""All cases, in the order of their names."""

from tests.battery import dicom, kspace, nifti, zarr_folders

CASES = [*nifti.CASES, *dicom.CASES, *kspace.CASES, *zarr_folders.CASES]
