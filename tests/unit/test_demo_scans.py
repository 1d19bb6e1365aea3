"""The demo's files are what a scanner writes, and the truth beside them is true of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from cohortex.demo.make import TRUTH, _finished, make_demo
from cohortex.demo.table import demo_rows
from cohortex.physics.fourier import centred_ifft, root_sum_of_squares

SEED = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(demo_rows({"subjects": 1, "seed": SEED, "labelled": 1})[0], folder, SEED)
    return folder


def truth(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(folder / TRUTH / "demo001" / f"{name}.nii.gz")
    return np.asarray(image.dataobj), image.affine


def ct_slices(folder: Path) -> list[pydicom.Dataset]:
    slices = [pydicom.dcmread(path) for path in sorted((folder / "demo001" / "CT").iterdir())]
    normal = np.cross(slices[0].ImageOrientationPatient[:3], slices[0].ImageOrientationPatient[3:])
    return sorted(slices, key=lambda s: float(np.dot(normal, s.ImagePositionPatient)))


def sums(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_kspace_reconstructs_to_the_clean_image_with_the_stated_noise(made: Path) -> None:
    clean, affine = truth(made, "T1w_clean")
    with h5py.File(made / "demo001" / "T1w.h5") as file:
        kspace, header, mask = file["kspace"][()], file["ismrmrd_header"][()], file["mask"][()]
        np.testing.assert_allclose(file.attrs["cohortex_affine"], affine)
    assert kspace.dtype == np.complex64 and kspace.shape == (62, 4, 160, 128) and b"<x>192</x><y>240</y><z>3</z>" in header
    assert b"atient" not in header and not kspace[:, :, mask == 0].any()
    image = root_sum_of_squares(centred_ifft(kspace, (-2, -1)), 1).transpose(2, 1, 0)
    labels, _ = truth(made, "labels_T1w")
    white = ndimage.binary_erosion(labels == 3)
    known = json.loads((made / TRUTH / "demo001" / "truth.json").read_text())
    error = (image - clean)[white]
    assert 0.02 < error.std() / clean[white].mean() < 0.065
    assert abs(error.mean()) < 0.01 * clean[white].mean()
    assert known["mr"]["acceleration"] == pytest.approx(1.4, rel=0.01) and 0.03 <= known["mr"]["noise_of_white_matter"] <= 0.05
    air = (labels == 0) & (np.indices(labels.shape)[1] < 8)
    assert image[air].mean() > 5 * clean[air].mean() + 1  # the noise of a magnitude does not vanish in air


def test_the_isotropic_truth_is_the_clean_image_with_thinner_slices(made: Path) -> None:
    clean, affine = truth(made, "T1w_clean")
    fine, affine_iso = truth(made, "T1w_truth")
    np.testing.assert_allclose(affine[:3, 3], (affine_iso @ [0, 0, 0.5, 1])[:3], atol=1e-5)
    pairs = fine.reshape(*clean.shape, 2).mean(-1)
    assert np.corrcoef(pairs.ravel(), clean.ravel())[0, 1] > 0.995
    assert np.abs(pairs - clean).mean() < 0.05 * clean[clean > 50].mean()


def test_the_dicom_series_has_its_geometry_and_no_name(made: Path) -> None:
    slices = ct_slices(made)
    clean, affine = truth(made, "CT_clean")
    assert len(slices) == 64 and not any(str(s.PatientName) for s in slices) and {s.PatientID for s in slices} == {"demo001"}
    names = [Path(s.filename).name for s in slices]
    assert names != sorted(names) and names != sorted(names, reverse=True)
    assert len({s.SOPInstanceUID for s in slices}) == 64 and len({s.SeriesInstanceUID for s in slices}) == 1
    assert [s.InstanceNumber for s in slices] == list(range(1, 65))
    # a bright voxel of the series lies where the truth says that this place of the world is bright
    rng = np.random.default_rng(0)
    to_truth = np.linalg.inv(affine)
    for _ in range(200):
        row, column, index = (int(v) for v in rng.integers((0, 0, 0), (160, 160, 64)))
        s = slices[index]
        across, down = np.array(s.ImageOrientationPatient[:3], float), np.array(s.ImageOrientationPatient[3:], float)
        left = np.array(s.ImagePositionPatient, float) + column * s.PixelSpacing[1] * across + row * s.PixelSpacing[0] * down
        voxel = to_truth @ [-left[0], -left[1], left[2], 1]
        np.testing.assert_allclose(voxel[:3], np.round(voxel[:3]), atol=1e-4)
        hu = s.pixel_array[row, column] * float(s.RescaleSlope) + float(s.RescaleIntercept)
        assert abs(hu - clean[tuple(np.round(voxel[:3]).astype(int))]) < 300


def test_the_ct_is_in_hounsfield_units_with_the_stated_noise(made: Path) -> None:
    clean, _ = truth(made, "CT_clean")
    labels, _ = truth(made, "labels_CT")
    noisy = np.stack([s.pixel_array.T[::-1, ::-1].astype(float) - 1024 for s in ct_slices(made)], axis=-1)
    known = json.loads((made / TRUTH / "demo001" / "truth.json").read_text())["ct"]
    assert 25 <= known["noise_hu"] <= 40
    middle = np.zeros(labels.shape, bool)
    middle[65:95, 65:95, 24:40] = True
    brain = ndimage.binary_erosion((labels >= 1) & (labels <= 3), iterations=2) & middle
    assert (noisy - clean)[brain].std() == pytest.approx(known["noise_hu"], rel=0.2)
    grey, white = (clean[brain & (labels == label)].mean() for label in (2, 3))
    assert 20 < white < grey < 55 and abs(clean[:, 3, :].mean() + 1000) < 30 and clean[labels == 4].mean() > 400


def test_landmarks_and_labels_of_both_scans_show_the_same_anatomy(made: Path) -> None:
    points = np.genfromtxt(made / TRUTH / "demo001" / "landmarks.tsv", delimiter="\t", skip_header=1)[:, 1:]
    assert points.shape == (60, 6)
    (mr, mr_affine), (ct, ct_affine) = truth(made, "labels_T1w_iso"), truth(made, "labels_CT")

    def around(labels: np.ndarray, affine: np.ndarray, world: np.ndarray) -> set[int]:
        index = np.round((np.linalg.inv(affine) @ np.append(world, 1))[:3]).astype(int)
        return set(np.unique(labels[tuple(slice(max(i - 1, 0), i + 2) for i in index)]))

    agree = [mr[tuple(np.round((np.linalg.inv(mr_affine) @ [*p[:3], 1])[:3]).astype(int))] in around(ct, ct_affine, p[3:]) for p in points]
    assert np.mean(agree) > 0.95
    assert np.linalg.norm(points[:, :3] - points[:, 3:], axis=1).mean() > 2  # doing nothing is wrong
    spread = np.linalg.norm(points[:, None, :3] - points[None, :, :3], axis=-1) + 1e9 * np.eye(60)
    assert spread.min() > 10


def test_a_finished_subject_is_left_alone_and_a_half_made_one_is_made_again_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if "demo001" in str(path)}
    rows = demo_rows({"subjects": 1, "seed": SEED, "labelled": 1})[0]
    make_demo(rows, made, SEED)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*") if "demo001" in str(path)}
    assert not _finished(made, "demo001", SEED + 1, True) and not _finished(made, "demo001", SEED, False)  # another person, other files
    half = tmp_path / ".demo001.part"
    half.mkdir()
    (half / "T1w.h5").write_text("half")
    make_demo(rows, tmp_path, SEED, threads=2)
    assert sums(tmp_path) == sums(made)
    assert {row["path"] for row in rows} == {
        p for p in ("demo001/T1w.h5", "demo001/T1w_labels.nii.gz", "demo001/CT", "demo001/CT_labels.nii.gz") if (tmp_path / p).exists()
    }
