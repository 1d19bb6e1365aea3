"""What the export writes for a PACS, read again with pydicom and highdicom and looked at by dciodvfy."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.sr._concepts_dict import concepts

from cohortex.io import read
from cohortex.io.dicom_codes import LABELS, SAME, named, private, region
from cohortex.io.dicom_objects import Study, image_object, placed, uid
from cohortex.io.dicom_seg import label_of
from cohortex.io.geometry import to_ras
from cohortex.volume import Volume
from tests.battery.case import SECRET
from tests.battery.dicom import SLICES, series
from tests.unit.test_export import AFFINE, SHAPE, files, item, run, sidecar, volume

ALL = {"dicom": ["seg", "map", "sr"]}
CHECKER = Path(sys.executable).with_name("dciodvfy")
CSF = "65216001"


def labels(values=(0, 1, 2, 5), shape=SHAPE, names=None, affine=AFFINE, dtype="u1", modality="T1w"):
    """Return a label map without any symmetry."""
    data = np.random.default_rng(3).choice(np.array(values), shape).astype(dtype)
    history = ({"label_names": names},) if names else ()
    return Volume(data, affine, modality, "labels", "head", history)


@pytest.fixture
def images():
    share = Volume(np.random.default_rng(4).uniform(0, 1, SHAPE).astype("f4"), AFFINE, "T1w", body_part="head")
    beside = {"sources": ("001_T1w",)}
    box = {"label": ["lesion"], "score": [0.9], "longest_mm": [4.2]} | {key: [1.0] for key in ("x_low", "y_low", "z_low")}
    return [
        item("001_T1w", volume("T1w"), "T1w", "image"),
        item("001_CT", volume("CT", seed=1), "CT", "image"),
        item("001_T1w+seg", labels(), "T1w", "labels", **beside),
        item("001_T1w+uncertainty", share, "T1w", "image", entities={"desc": "uncertainty"}, **beside),
        item("001_T1w+class", {"class": ["control", "lesions"], "probability": ["0.25", "0.75"]}, "T1w", "table"),
        item("001_T1w+boxes", {**box, "x_high": [3.0], "y_high": [4.0], "z_high": [6.0]}, "T1w", "table"),
        item("001_T1w+mask", labels((0, 1)), "T1w", "labels", role="mask"),
    ]


def objects(results):
    """Return the DICOM objects of a subject by their names."""
    return {name: pydicom.dcmread(results / name) for name in files(results) if name.endswith(".dcm")}


def at_points(found, affine, indices):
    """Return values of (frame, row, column) data at voxels of a NIfTI image."""
    world = (affine @ np.c_[indices, np.ones(len(indices))].T)[:3] * [[-1], [-1], [1]]
    places = np.linalg.inv(found.affine) @ np.vstack([world, np.ones(len(indices))])
    exact = np.rint(places[:3]).astype(int)
    assert np.abs(places[:3] - exact).max() < 1e-3
    return found.array[tuple(exact)]


def every_voxel(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)


def labels_in(path):
    """Return a segmentation as a label map, with the values that its segments had."""
    found = highdicom.seg.segread(path)
    back = found.get_volume(combine_segments=True, dtype=np.uint16)
    values = np.zeros(len(found.SegmentSequence) + 1, np.uint32)
    for segment in found.SegmentSequence:
        values[segment.SegmentNumber] = label_of(segment)
    return found, back.with_array(values[back.array])


def test_without_the_setting_there_is_no_dicom(images, tmp_path):
    assert not any("dicom" in made.measures for made in run(images, tmp_path))
    assert not objects(tmp_path)


def test_labels_lie_in_the_segmentation_where_they_lie_in_the_nifti_file(images, tmp_path):
    made = run(images, tmp_path, **ALL)
    nifti = nib.load(tmp_path / made[2].measures["exported"])
    found, back = labels_in(tmp_path / made[2].measures["dicom"])
    points = every_voxel(SHAPE)
    assert np.array_equal(at_points(back, nifti.affine, points), np.asarray(nifti.dataobj)[tuple(points.T)])
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == ["CSF", "grey matter", "other soft tissue"]
    assert found.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == CSF
    assert [segment.SegmentAlgorithmType for segment in found.SegmentSequence] == ["AUTOMATIC"] * 3
    mask, _ = labels_in(tmp_path / made[6].measures["dicom"])
    assert mask.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"


def test_a_map_has_the_values_of_the_nifti_file_and_says_what_they_are(images, tmp_path):
    made = run(images, tmp_path, **ALL)
    found = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(tmp_path / made[3].measures["dicom"]))
    points = every_voxel(SHAPE)
    assert np.array_equal(
        at_points(found.get_volume(apply_real_world_transform=False), AFFINE, points), images[3].volume.array()[tuple(points.T)]
    )
    mapping = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Entropy of the label"


def test_the_image_that_objects_refer_to_is_there_and_is_read_back_where_it_was(images, tmp_path):
    run(images, tmp_path, **ALL)
    name = "sub-001/anat/sub-001_desc-cohortex_T1w.dcm"
    found = objects(tmp_path)
    image = found[name]
    for other in found.values():
        assert other.StudyInstanceUID == image.StudyInstanceUID
    segmentation = found["sub-001/anat/sub-001_space-T1w_desc-seg_dseg.dcm"]
    referred = segmentation.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == image.SeriesInstanceUID
    assert referred.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert segmentation.FrameOfReferenceUID == image.FrameOfReferenceUID
    (back,) = read(tmp_path / name)
    data, affine = to_ras(back.data, back.affine)
    values = images[0].volume.array()
    assert np.abs(affine - AFFINE).max() < 1e-4 and back.body_part == "" and back.modality == "MR"
    assert np.abs(data[...] - values).max() <= np.ptp(values) / 65535


def test_a_ct_is_stored_as_whole_hounsfield_units(tmp_path):
    ct = Volume(np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype("f4"), AFFINE, "CT", body_part="head")
    found = image_object(ct, Study("1", "", uid("s")), uid("f"), "seed", 1, "CT")
    found.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    (back,) = read(tmp_path / "ct.dcm")
    assert back.modality == "CT" and np.array_equal(to_ras(back.data, back.affine)[0][...], ct.array())


def test_the_report_holds_volumes_classes_and_boxes(images, tmp_path):
    run(images, tmp_path, **ALL)
    found = highdicom.sr.srread(tmp_path / "sub-001/sr/sub-001_desc-measures_sr.dcm")
    groups = found.content.get_volumetric_roi_measurement_groups()
    voxel = abs(np.linalg.det(AFFINE[:3, :3]))
    volumes = {}
    boxes = []
    for group in groups:
        values = {one.name.meaning: one.value for one in group.get_measurements()}
        if group.reference_type.meaning == "Referenced Segment":
            volumes[group.tracking_identifier] = values["Volume"]
        else:
            boxes.append((group, values))
    count = np.bincount(images[2].volume.array().ravel())
    assert volumes["001_T1w+seg CSF"] == pytest.approx(count[1] * voxel, rel=1e-4)
    assert volumes["001_T1w+seg other soft tissue"] == pytest.approx(count[5] * voxel, rel=1e-4)
    ((box, values),) = boxes
    assert values == {"Probability": 0.9, "Length": 4.2}
    expected = (np.array([[1, 1, 1], [3, 4, 6]]) - 0.5) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    corners = np.concatenate(box.roi.graphic_data)
    for corner in expected * [-1, -1, 1]:
        assert np.abs(corners - corner).sum(axis=1).min() < 1e-3
    (verdict,) = found.content.get_image_measurement_groups()
    assert {one.name.meaning: one.value for one in verdict.get_measurements()} == {
        "probability of control": 0.25,
        "probability of lesions": 0.75,
    }
    assert verdict.get_qualitative_evaluations()[0].value.meaning == "lesions"


def test_a_report_without_segmentations_refers_to_the_image_alone(images, tmp_path):
    run(images, tmp_path, dicom=["sr"])
    assert [name.rpartition("_")[2] for name in objects(tmp_path)] == ["T1w.dcm", "sr.dcm"]
    found = highdicom.sr.srread(tmp_path / "sub-001/sr/sub-001_desc-measures_sr.dcm")
    assert len(found.content.get_image_measurement_groups()) == 5


def test_dciodvfy_finds_no_error_in_any_object(images, tmp_path):
    pictures = [
        item("002_XR", Volume(volume("XR").array()[..., :1], AFFINE, "XR", body_part="chest"), "XR", "image", subject="002"),
        item("002_XR+seg", labels(shape=(*SHAPE[:2], 1), modality="XR"), "XR", "labels", subject="002", sources=("002_XR",)),
        item("002_US", volume("US"), "US", "image", subject="002"),
        item("002_US+seg", labels(modality="US"), "US", "labels", subject="002", sources=("002_US",)),
        item("002_CT", volume("CT"), "CT", "image", subject="002"),
        item("002_CT+seg", labels(modality="CT"), "CT", "labels", subject="002", sources=("002_CT",)),
    ]
    run(images, tmp_path, **ALL)
    run(pictures, tmp_path, **ALL)
    found = objects(tmp_path)
    assert len(found) == 12
    for name in found:
        said = subprocess.run([CHECKER, tmp_path / name], capture_output=True, text=True, check=False)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")], name


def test_the_same_things_give_the_same_objects_and_verify_knows_them(images, tmp_path):
    from cohortex.verify import verify

    for folder in ("a", "b"):
        run(images, tmp_path / folder, **ALL)
    names = list(objects(tmp_path / "a"))
    assert len(names) == 5 and all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert verify(tmp_path / "a")[1] == []
    assert all((tmp_path / "a" / name).stat().st_mode & 0o777 == 0o640 for name in names)
    run(images, tmp_path / "a")
    assert not objects(tmp_path / "a")


def test_other_data_have_other_identifiers(images, tmp_path):
    run(images, tmp_path / "a", **ALL)
    run([item("001_T1w", volume("T1w", seed=9), "T1w", "image"), *images[1:]], tmp_path / "b", **ALL)
    mine, other = ({str(each.StudyInstanceUID) for each in objects(tmp_path / name).values()} for name in "ab")
    assert len(mine) == len(other) == 1 and mine != other


def uids(found):
    text = "\n".join(str(each) + str(each.file_meta) for each in found.values())
    return set(re.findall(r"\b\d+(?:\.\d+){3,}\b", text))


def test_identifiers_are_derived_and_the_patient_is_an_id_alone(images, tmp_path):
    run(images, tmp_path, **ALL)
    found = objects(tmp_path)
    for each in found.values():
        assert (each.PatientID, each.PatientName, each.PatientBirthDate, each.PatientSex) == ("001", "", "", "")
        assert not each.StudyDate and each.PatientIdentityRemoved == "YES" and "InstanceCreationDate" not in each
        assert each.get("ContentDate", "20000101") == "20000101"
        assert all(str(own).startswith("2.25.") for own in (each.SOPInstanceUID, each.SeriesInstanceUID, each.StudyInstanceUID))
    drawn = [one for one in uids(found) if one.startswith(("1.2.826.0.1.3680043.10.511.3", "1.2.826.0.1.3680043.8.498."))]
    assert [one for one in drawn if len(one) > 40] == []  # the short one is pydicom's own


@pytest.fixture
def scanned(tmp_path):
    """Return a series of a scanner, the image that acquisition makes of it, and labels on its grid."""
    (tmp_path / "in").mkdir()
    path = series(
        tmp_path / "in", FrameOfReferenceUID="1.2.3.4.5", StudyInstanceUID="1.2.3.4.6", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]
    )
    for i, file in enumerate(sorted(path.iterdir())):
        each = pydicom.dcmread(file)
        each.ImagePositionPatient = [3 * i, 0, 0]
        each.save_as(file)
    (raw,) = read(path)
    data, affine = to_ras(raw.data, raw.affine)
    image = replace(raw, data=np.asarray(data[...]), affine=affine, modality="CT")
    row = {"acq": "", "run": "", "path": str(path), "root": str(tmp_path / "in")}
    seg = Volume(np.random.default_rng(8).integers(0, 3, image.shape).astype("u1"), affine, "CT", "labels", "head")
    return path, [item("001_CT", image, "CT", "image", row=row), item("001_CT+seg", seg, "CT", "labels", row=row, sources=("001_CT",))]


def test_a_segmentation_with_the_sources_identifiers_lies_on_its_slices(scanned, tmp_path):
    path, images = scanned
    made = run(images, tmp_path / "out", dicom=["seg", "sr"], dicom_uids="source")
    slices = [pydicom.dcmread(file) for file in path.iterdir()]
    found, back = labels_in(tmp_path / "out" / made[1].measures["dicom"])
    assert len(objects(tmp_path / "out")) == 2, "the image itself is the series"
    assert (found.StudyInstanceUID, found.FrameOfReferenceUID, found.PatientID) == ("1.2.3.4.6", "1.2.3.4.5", "001")
    referred = {one.ReferencedSOPInstanceUID for one in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {each.SOPInstanceUID for each in slices} and len(referred) == SLICES
    # frames are those of the series, voxel by voxel
    assert (found.Rows, found.Columns) == (slices[0].Rows, slices[0].Columns)
    points = every_voxel(images[1].volume.shape)
    assert np.array_equal(at_points(back, images[1].volume.affine, points), images[1].volume.array()[tuple(points.T)])
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize("wrong", ["DOE^JANE", "", "1.2.840." + "9" * 80])
def test_what_stands_in_the_place_of_an_identifier_and_is_none_is_not_passed_on(scanned, tmp_path, wrong):
    path, images = scanned
    for file in path.iterdir():
        each = pydicom.dcmread(file)
        each.StudyInstanceUID = wrong
        each.save_as(file)
    run(images, tmp_path / "out", dicom=["seg"], dicom_uids="source")
    found = objects(tmp_path / "out")
    assert len(found) == 2 and all(each.StudyInstanceUID.startswith("2.25.") for each in found.values())


def test_what_was_resampled_stays_in_the_sources_study_and_brings_its_image(scanned, tmp_path):
    _, images = scanned
    fine = images[0].volume.affine @ np.diag([0.5, 1, 1, 1])
    double = [replace(each.volume, data=np.repeat(each.volume.array(), 2, axis=0), affine=fine) for each in images]
    again = [item(each.id, one, "CT", each.kind, row=each.row, sources=each.sources) for each, one in zip(images, double, strict=True)]
    run(again, tmp_path / "out", dicom=["seg"], dicom_uids="source")
    found = objects(tmp_path / "out")
    assert len(found) == 2
    assert {(str(each.StudyInstanceUID), str(each.FrameOfReferenceUID)) for each in found.values()} == {("1.2.3.4.6", "1.2.3.4.5")}


def test_scans_of_two_studies_give_a_report_in_each(scanned, tmp_path):
    path, images = scanned
    other = tmp_path / "in" / "b"
    shutil.copytree(path, other)
    for file in other.iterdir():
        each = pydicom.dcmread(file)
        each.StudyInstanceUID = "1.2.3.4.99"
        each.save_as(file)
    row = {**images[0].row, "acq": "b", "path": str(other)}
    images += [item(each.id.replace("_CT", "_b_CT"), each.content, "CT", each.kind, row=row, sources=("001_b_CT",)) for each in images]
    run(images, tmp_path / "out", dicom=["seg", "sr"], dicom_uids="source")
    reports = {name: str(each.StudyInstanceUID) for name, each in objects(tmp_path / "out").items() if each.Modality == "SR"}
    assert reports == {
        "sub-001/sr/sub-001_desc-measures_sr.dcm": "1.2.3.4.6",
        "sub-001/sr/sub-001_desc-measures2_sr.dcm": "1.2.3.4.99",
    }


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_map_of_one_value_is_written(value, tmp_path):
    flat = Volume(np.full(SHAPE, value, "f4"), AFFINE, "T1w")
    scans = [item("001_T1w", volume("T1w"), "T1w", "image"), item("001_T1w+uncertainty", flat, "T1w", "image", sources=("001_T1w",))]
    made = run(scans, tmp_path, dicom=["map"])
    back = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(tmp_path / made[1].measures["dicom"]))
    assert (back.get_volume(apply_real_world_transform=False).array == value).all()


def test_derived_identifiers_lead_nowhere(scanned, tmp_path):
    path, images = scanned
    run(images, tmp_path / "out", dicom=["seg", "sr"])
    theirs = {"1.2.3.4.5", "1.2.3.4.6", *(str(pydicom.dcmread(file).SOPInstanceUID) for file in path.iterdir())}
    found = objects(tmp_path / "out")
    assert len(found) == 3 and not uids(found) & theirs
    shutil.rmtree(path)
    run(images, tmp_path / "gone", dicom=["seg", "sr"], dicom_uids="source")
    assert not uids(objects(tmp_path / "gone")) & theirs, "a series that is not there any more gives no identifiers"


def test_labels_without_a_name_and_more_than_255_of_them_keep_their_values(tmp_path):
    values = [0, *range(300, 900, 2)]
    many = labels(values, (12, 13, 11), dtype="u2", names={"300": "left\\thing =1", "302": "left\\thing =2"})
    image = Volume(np.random.default_rng(0).normal(size=(12, 13, 11)).astype("f4"), AFFINE, "T1w")
    scans = [item("001_T1w", image, "T1w", "image"), item("001_T1w+seg", many, "T1w", "labels", sources=("001_T1w",))]
    made = run(scans, tmp_path, dicom=["seg"])
    found, back = labels_in(tmp_path / made[1].measures["dicom"])
    points = every_voxel((12, 13, 11))
    assert len(found.SegmentSequence) > 255
    assert np.array_equal(at_points(back, AFFINE, points), many.array()[tuple(points.T)])
    codes = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in found.SegmentSequence]
    assert len({code.CodeValue for code in codes}) == len(codes) and {code.CodingSchemeDesignator for code in codes} == {"99COHORTEX"}
    assert codes[0].CodeMeaning == "left thing =1" and all(len(code.CodeValue) <= 16 for code in codes)


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ((volume("T1w"), labels((0,))), "holds no label"),
        ((None, labels()), "no image"),
        (
            (Volume(np.ones(SHAPE, "f4"), AFFINE @ [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "T1w"), labels()),
            "right angles",
        ),
    ],
)
def test_what_dicom_cannot_hold_is_told_and_everything_else_is_written(volumes, words, tmp_path):
    image, seg = volumes
    scans = [item("001_T1w+seg", seg, "T1w", "labels", sources=("001_T1w",))]
    scans += [item("001_T1w", image, "T1w", "image")] if image is not None else []
    made = run(scans, tmp_path, dicom=["seg"])
    assert (made[0].status, made[0].code) == ("warned", "no-dicom") and words in made[0].reason
    assert (tmp_path / made[0].measures["exported"]).is_file() and "dicom" not in made[0].measures
    assert sidecar(tmp_path, "sub-001/anat/sub-001_space-T1w_desc-seg_dseg.json")


def test_codes_are_those_of_the_standard():
    known = {code: {meaning for meaning, _ in [words]} for each in concepts["SCT"].values() for code, words in each.items()}
    for name, (category, kind) in LABELS.items():
        assert category.value in known and kind.value in known, name
    meanings = {meaning for each in concepts["SCT"].values() for code, (meaning, *_) in each.items()}
    assert {kind.meaning for _, kind in LABELS.values()} <= meanings
    assert set(SAME.values()) <= set(LABELS) and not set(SAME) & set(LABELS)
    assert named("Gray  matter") == named("grey_matter") and region("head").value == "69536005" and region("").meaning == "Entire body"
    assert private("a b") != private("a-b") and private("x" * 70).value != private("x" * 71).value


def test_a_grid_for_frames_runs_left_and_back(tmp_path):
    grid = placed(volume("T1w"))
    rows, columns = np.array(grid.orientation[:3]), np.array(grid.orientation[3:])
    assert rows[0] > 0.8 and columns[1] > 0.8 and np.cross(rows, columns)[2] > 0.8
