"""Every real scan that the pipeline must take is acquired, with the right grid and place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made
from cohortex.stages.acquire import acquire

FILES = {
    "brain-ms-multimodal/patient07/FLAIR.nii.gz": ("FLAIR", (182, 218, 182), (1, 1, 1)),
    "brain-ms-multimodal/patient07/T1.nii.gz": ("T1w", (182, 218, 182), (1, 1, 1)),
    "brain-ms-multimodal/patient07/T2.nii.gz": ("T2w", (182, 218, 182), (1, 1, 1)),
    "brain-ms-longitudinal/patient01/raw/study1_FLAIR.nii.gz": ("FLAIR", (320, 320, 36), (0.71875, 0.71875, 4)),
    "brain-ms-longitudinal/patient01/raw/study2_T2W.nii.gz": ("T2w", (348, 384, 44), (0.5989583, 0.5989583, 3.3)),
    "chest-ct-dicom/LIDC-IDRI-0314": ("CT", (512, 512, 24), (0.78125, 0.78125, 1)),
    "abdomen-ct-mr/example_ct_dicom": ("CT", (512, 512, 20), (0.9765625, 0.9765625, 2)),
    "abdomen-ct-mr/example_ct.nii.gz": ("CT", (122, 101, 112), (3, 3, 3)),
    "abdomen-ct-mr/example_mr_sm.nii.gz": ("T1w", (117, 91, 20), (3, 3, 3)),
    "spinal-cord-mr/t1/t1w.nii.gz": ("T1w", (42, 76, 77), (1, 1, 1)),
    "spinal-cord-mr/t2/t2.nii.gz": ("T2w", (52, 60, 55), (1, 1, 1)),
    "spinal-cord-mr/mt/mt1.nii.gz": ("MTw", (40, 40, 5), (0.84375, 0.84375, 17)),
    "prostate-mr-us/mr_images/case000000.nii.gz": ("T2w", (64, 64, 60), (0.4, 0.4, 0.4)),
    "prostate-mr-us/us_images/case000000.nii.gz": ("US", (44, 59, 41), (0.4, 0.4, 0.4)),
    "lesion-nrrd/brain1_image.nrrd": ("T1w", (256, 256, 25), (0.78125, 0.78125, 6.5)),
    "lesion-nrrd/breast1_image.nrrd": ("T1w", (45, 120, 21), (0.664062, 0.664062, 2.1)),
}


def acquired(path: Path, modality: str, role: str = "image", **settings: Any) -> Made:
    row = {"path": str(path), "root": str(path.parents[1])}
    made = acquire(Image("1_x", "1", "", modality, "image" if role == "image" else "labels", role, row=row), settings, None, 0)
    assert isinstance(made, Made)
    return made


@pytest.mark.parametrize("file", FILES)
def test_a_real_scan_is_acquired_on_canonical_axes(shared_data: Path, file: str) -> None:
    modality, shape, spacing = FILES[file]
    made = acquired(shared_data / file, modality)
    volume = made.content
    assert (made.status, made.reason) == ("ok", "")
    assert volume.shape == shape
    assert volume.spacing == pytest.approx(spacing, abs=2e-3)
    assert volume.data.dtype == np.float32
    assert (np.diag(volume.affine)[:3] > 0).all()
    if modality == "CT":
        assert made.measures["intensity_p01"] < -900


def test_all_images_of_the_real_folders_are_acquired_without_a_warning(shared_data: Path) -> None:
    folders = ["brain-ms-longitudinal/patient*/raw/study*.nii.gz", "spinal-cord-mr/mt/mt[01].nii.gz", "prostate-mr-us/*_images/*.nii.gz"]
    files = [file for folder in folders for file in sorted(shared_data.glob(folder))]
    assert len(files) > 15
    for file in files:
        assert acquired(file, "T2w").status == "ok", file.name


def test_a_real_label_map_keeps_its_labels(shared_data: Path) -> None:
    made = acquired(shared_data / "abdomen-ct-mr/example_seg.nii.gz", "CT", "labels")
    assert made.content.data.dtype == np.uint8
    assert made.measures["labels"] == len(np.unique(made.content.data)) - 1 > 30
    mask = acquired(shared_data / "brain-ms-multimodal/patient07/lesions.nii.gz", "FLAIR", "mask")
    assert set(np.unique(mask.content.data)) == {0, 1}


def test_an_nrrd_mask_lies_on_its_image(shared_data: Path) -> None:
    image, mask = (
        acquired(shared_data / f"lesion-nrrd/brain1_{what}.nrrd", "T1w", role) for what, role in (("image", "image"), ("label", "mask"))
    )
    assert np.array_equal(image.content.affine, mask.content.affine)
    assert mask.content.data.any()


def test_a_dicom_series_and_its_nifti_labels_share_a_grid(shared_data: Path) -> None:
    series = acquired(shared_data / "abdomen-ct-mr/example_ct_dicom", "CT").content
    labels = acquired(shared_data / "abdomen-ct-mr/example_seg_dicom.nii.gz", "CT", "labels").content
    assert labels.shape == series.shape
    assert np.allclose(series.affine, labels.affine, atol=1e-3)


def test_the_real_four_d_series_is_skipped_by_default_and_averaged_on_demand(shared_data: Path) -> None:
    file = shared_data / "spinal-cord-mr/dmri/dmri.nii.gz"
    with pytest.raises(Skip, match=r"dmri/dmri\.nii\.gz holds 7 volumes"):
        acquired(file, "dwi", volume="skip")
    assert acquired(file, "dwi", volume="mean").content.shape == (40, 42, 5)


def test_a_real_ratio_map_with_infinite_voxels_is_refused(shared_data: Path) -> None:
    with pytest.raises(BadInput, match="633 infinite voxels"):
        acquired(shared_data / "spinal-cord-mr/mt/mtr.nii.gz", "MTR")


def test_real_multi_coil_k_space_becomes_a_picture(shared_data: Path) -> None:
    made = acquired(shared_data / "mr-kspace/cartesian_ksp.npy", "T1w")
    assert made.content.shape == (180, 230, 1)
    assert made.measures["intensity_p99"] > 10 * made.measures["intensity_p01"]


def test_real_projections_become_slices_of_a_tooth(shared_data: Path) -> None:
    made = acquired(shared_data / "ct-sinograms/tooth.h5", "CBCT", spacing_mm=[0.01, 0.01, 0.01])
    # the column that the README of the collection names
    assert made.content.history[0]["axis_column"] == pytest.approx(296, abs=1)
    values = made.content.array()
    assert values[200:400, 200:400].mean() > 5 * abs(values[30:60, 280:310].mean())
