"""All cases, in the order of their names."""

from tests.battery import dicom, kspace, models, nifti, tables, zarr_folders

CASES = [case for kind in (nifti, dicom, kspace, zarr_folders, tables, models) for case in sorted(kind.CASES, key=lambda case: case.id)]
