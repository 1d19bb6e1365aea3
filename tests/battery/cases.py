"""All cases, in the order of their names."""

from tests.battery import dicom, kspace, models, nifti, tables, zarr_folders

CASES = [*nifti.CASES, *dicom.CASES, *kspace.CASES, *zarr_folders.CASES, *tables.CASES, *models.CASES]
