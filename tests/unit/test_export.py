"""The BIDS derivatives of a subject and of the dataset."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cohortex.io.bids import build_name, folder, parse_name
from cohortex.io.itk import read_affine, write_affine
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.items import Image
from cohortex.stages.export import export, write_dataset
from cohortex.volume import Volume

AFFINE = np.eye(4)
AFFINE[:3] = np.column_stack([Rotation.from_euler("xyz", [10, -5, 20], degrees=True).as_matrix() * [1.5, 1.4, 2], [-10, -12, 5]])
MODEL = {"zoo/denoise/a": "ab" * 32}
SHAPE = (8, 9, 7)


def volume(modality, kind="image", seed=0, **further):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 4, SHAPE).astype("u1") if kind == "labels" else rng.normal(size=SHAPE).astype("f4")
    if kind == "field":
        data = rng.normal(size=(*SHAPE, 3)).astype("f4")
    history = ({"step": "read", "file": "/data/NAME^OF/x.nii"}, {"stage": "denoise", "models": MODEL, "sigma": np.float32(2)})
    return Volume(data, AFFINE, modality, kind, "head", history, **further)


def item(name, content, modality, kind, subject="001", session="", **further):
    row = further.pop("row", {"acq": "", "run": "", "path": "/data/SECRET/sub-001/anat/sub-001_T1w.nii.gz", "root": "/data/SECRET"})
    return Image(name, subject, session, modality, kind, body_part="head", row=row, opener=lambda: content, **further)


@pytest.fixture
def images():
    pair = {"entities": {"from": "CT", "to": "T1w"}, "sources": ("001_CT", "001_T1w")}
    return [
        item("001_T1w", volume("T1w"), "T1w", "image"),
        item("001_CT", volume("CT", seed=1), "CT", "image"),
        item("001_T1w+mask", volume("T1w", "labels"), "T1w", "labels", role="mask"),
        item("001_T1w+seg", volume("T1w", "labels"), "T1w", "labels", sources=("001_T1w",)),
        item("001_CT+warped", volume("CT", seed=2), "CT", "image", entities={"space": "T1w", "desc": "warped"}, sources=pair["sources"]),
        item("001_CT+affine", np.array([[1, 0, 0, 3], [0, 0, -1, 4], [0, 1, 0, 5], [0, 0, 0, 1.0]]), "CT", "transform", **pair),
        item("001_CT+field", volume("CT", "field"), "CT", "field", **pair),
        item("001_T1w+features", {"name": ["a", "=b"], "value": [1.5, float("nan")]}, "T1w", "table"),
    ]


def run(images, results, **default):
    return export(images, {"default": default, "results": str(results)}, None, 0)


def files(results):
    return sorted(path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file())


def sidecar(results, name):
    return json.loads((results / name).read_text())


def test_everything_of_a_subject_is_written_under_its_bids_name_with_a_sidecar(images, tmp_path):
    made = run(images, tmp_path)
    names = [thing.measures["exported"] for thing in made]
    assert names == [
        "sub-001/anat/sub-001_desc-cohortex_T1w.nii.gz",
        "sub-001/ct/sub-001_desc-cohortex_CT.nii.gz",
        "sub-001/anat/sub-001_space-T1w_desc-mask_mask.nii.gz",
        "sub-001/anat/sub-001_space-T1w_desc-seg_dseg.nii.gz",
        "sub-001/ct/sub-001_space-T1w_desc-warped_CT.nii.gz",
        "sub-001/ct/sub-001_from-CT_to-T1w_mode-image_xfm.txt",
        "sub-001/ct/sub-001_from-CT_to-T1w_mode-image_xfm.nii.gz",
        "sub-001/anat/sub-001_desc-features_table.tsv",
    ]
    assert [thing.of for thing in made] == [image.id for image in images]
    assert all(thing.content is None for thing in made)
    data = [name for name in files(tmp_path) if not name.startswith(".cohortex") and not name.endswith(".json")]
    assert data == sorted(names)


def test_what_was_written_is_what_was_given(images, tmp_path):
    made = run(images, tmp_path)
    found = nib.load(tmp_path / made[0].measures["exported"])
    assert np.array_equal(np.asarray(found.dataobj), images[0].volume.array())
    assert np.abs(found.affine - AFFINE).max() < 1e-6
    labels = nib.load(tmp_path / made[3].measures["exported"])
    assert labels.get_data_dtype() == np.uint8


def test_a_sidecar_says_where_an_image_comes_from_and_what_was_done(images, tmp_path):
    run(images, tmp_path)
    own = sidecar(tmp_path, "sub-001/anat/sub-001_desc-cohortex_T1w.json")
    assert own["Sources"] == ["bids:raw:sub-001/anat/sub-001_T1w.nii.gz"]
    assert own["SkullStripped"] is False
    assert own["SpatialReference"] == "orig"
    assert own["Cohortex"]["Models"] == MODEL
    assert own["Cohortex"]["History"][1]["sigma"] == 2
    seg = sidecar(tmp_path, "sub-001/anat/sub-001_space-T1w_desc-seg_dseg.json")
    assert seg["Sources"] == [seg["SpatialReference"]] == ["bids::sub-001/anat/sub-001_desc-cohortex_T1w.nii.gz"]
    warped = sidecar(tmp_path, "sub-001/ct/sub-001_space-T1w_desc-warped_CT.json")
    assert warped["SpatialReference"] == "bids::sub-001/anat/sub-001_desc-cohortex_T1w.nii.gz"
    assert warped["Sources"][0] == "bids::sub-001/ct/sub-001_desc-cohortex_CT.nii.gz"


def test_paths_of_the_machine_and_names_in_them_stay_out_of_the_results(images, tmp_path):
    row = {"acq": "", "run": "", "path": "/data/DOE^JANE/scan.nii", "root": "/data"}
    run([item("001_T1w", volume("T1w"), "T1w", "image", row=row), *images[1:]], tmp_path)
    assert sidecar(tmp_path, "sub-001/anat/sub-001_desc-cohortex_T1w.json")["Sources"] == []
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in (b"SECRET", b"JANE", b"OF/x", b"/data")), path.name


def test_sessions_acq_and_run_stand_in_the_name(tmp_path):
    row = {"acq": "fast", "run": "2"}
    (made,) = run([item("001_02_fast_2_T1w", volume("T1w"), "T1w", "image", session="02", row=row)], tmp_path)
    assert made.measures["exported"] == "sub-001/ses-02/anat/sub-001_ses-02_acq-fast_run-2_desc-cohortex_T1w.nii.gz"


def test_a_mask_whose_image_was_set_aside_keeps_its_acq(tmp_path):
    masks = [item(f"001_{acq}_T1w+mask", volume("T1w", "labels"), "T1w", "labels", role="mask", row={}) for acq in ("a", "b")]
    names = [made.measures["exported"] for made in run(masks, tmp_path)]
    assert names == [f"sub-001/anat/sub-001_acq-{acq}_space-T1w_desc-mask_mask.nii.gz" for acq in ("a", "b")]


def test_labels_of_two_images_on_one_grid_are_told_apart(tmp_path):
    both = [
        item(f"001_{m}+warpedseg", volume(m, "labels"), m, "labels", entities={"space": "PDw"}, sources=(f"001_{m}",))
        for m in ("T1w", "T2w")
    ]
    names = [made.measures["exported"] for made in run(both, tmp_path)]
    assert names == [f"sub-001/anat/sub-001_space-PDw_desc-{m}warpedseg_dseg.nii.gz" for m in ("T1w", "T2w")]


def test_an_export_with_other_settings_deletes_what_it_no_longer_makes(images, tmp_path):
    run(images, tmp_path)
    (tmp_path / "sub-001/anat/mine.txt").write_text("the user's own")
    run(images[:1], tmp_path, desc="other")
    assert files(tmp_path) == [
        ".cohortex/subjects/001.json",
        "sub-001/anat/mine.txt",
        "sub-001/anat/sub-001_desc-other_T1w.json",
        "sub-001/anat/sub-001_desc-other_T1w.nii.gz",
    ]
    assert not (tmp_path / "sub-001/ct").exists()


def test_what_a_killed_export_left_half_written_is_removed(images, tmp_path):
    run(images, tmp_path / "whole")
    left = tmp_path / "results" / "sub-001" / "anat" / ".sub-001_desc-cohortex_T1w.nii.gz.0123456789abcdef.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    other = tmp_path / "results" / "sub-002" / "anat" / ".sub-002_desc-cohortex_T1w.nii.gz.0123456789abcdef.tmp"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another job is at it")
    run(images, tmp_path / "results")
    assert not left.exists() and other.exists()
    assert [name for name in files(tmp_path / "results") if "sub-002" not in name] == files(tmp_path / "whole")


def test_a_list_that_was_tampered_with_deletes_nothing_elsewhere(images, tmp_path):
    results = tmp_path / "results"
    other = tmp_path / "keep.txt"
    other.write_text("x")
    run(images[:1], results)
    (results / "sub-002").mkdir()
    (results / "sub-002/keep.txt").write_text("x")
    names = ["../keep.txt", str(other), "sub-001/../../keep.txt", "sub-002/keep.txt"]
    (results / ".cohortex/subjects/001.json").write_text(json.dumps({"files": dict.fromkeys(names, ""), "labels": {}}))
    run(images[:1], results)
    assert other.exists()
    assert (results / "sub-002/keep.txt").exists()


def test_the_same_things_give_the_same_bytes(images, tmp_path):
    run(images, tmp_path / "a")
    run(images, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files(tmp_path / "a"))


def test_results_are_for_the_owner_and_the_group_only(images, tmp_path):
    results = tmp_path / "results"
    run(images, results)
    write_dataset(results, {"input": "demo", "work": str(tmp_path / "work"), "stages": ["acquire", "export"]})
    for path in results.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def test_a_volume_above_the_limit_is_linked_as_ome_zarr(tmp_path):
    write_ozx(tmp_path / "work.ozx", volume("T1w"))
    stored = read_ozx(tmp_path / "work.ozx")
    (made,) = run([item("001_T1w", stored, "T1w", "image")], tmp_path / "results", nifti_limit_mb=0.001)
    path = tmp_path / "results" / made.measures["exported"]
    assert path.name == "sub-001_desc-cohortex_T1w.ozx"
    assert path.stat().st_ino == (tmp_path / "work.ozx").stat().st_ino
    (made,) = run([item("002_T1w", volume("T1w"), "T1w", "image", subject="002")], tmp_path / "results", nifti_limit_mb=0.001)
    assert np.array_equal(read_ozx(tmp_path / "results" / made.measures["exported"]).array(), volume("T1w").array())


def test_a_table_holds_no_formula(images, tmp_path):
    run(images, tmp_path)
    assert (tmp_path / "sub-001/anat/sub-001_desc-features_table.tsv").read_text() == "name\tvalue\na\t1.5\n'=b\tn/a\n"


def test_itk_reads_the_affine_transform_and_maps_fixed_points_to_moving_ones(images, tmp_path):
    run(images, tmp_path)
    matrix = images[5].content
    transform = SimpleITK.ReadTransform(str(tmp_path / "sub-001/ct/sub-001_from-CT_to-T1w_mode-image_xfm.txt"))
    point = np.array([10.0, -20.0, 30.0])
    expected = (matrix @ [*point, 1])[:3]
    found = np.array(transform.TransformPoint((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    assert np.allclose(found, expected, atol=1e-9)


def test_itk_reads_the_displacement_field(images, tmp_path):
    run(images, tmp_path)
    image = SimpleITK.ReadImage(str(tmp_path / "sub-001/ct/sub-001_from-CT_to-T1w_mode-image_xfm.nii.gz"), SimpleITK.sitkVectorFloat64)
    transform = SimpleITK.DisplacementFieldTransform(image)
    index = np.array([3, 4, 2])
    point = (AFFINE @ [*index, 1])[:3]
    expected = point + images[6].volume.array()[tuple(index)]
    found = np.array(transform.TransformPoint((point * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    assert np.allclose(found, expected, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-180, 180), min_size=3, max_size=3), st.lists(st.floats(-500, 500), min_size=3, max_size=3), st.floats(0.5, 2))
def test_an_affine_transform_comes_back_as_it_was_written(tmp_path_factory, angles, shift, scale):
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    path = tmp_path_factory.mktemp("itk") / "a.txt"
    write_affine(path, matrix)
    assert np.allclose(read_affine(path), matrix, rtol=0, atol=1e-12)


LABEL = st.text("0123456789abcXYZ+", min_size=1, max_size=8)


@given(st.dictionaries(st.sampled_from(["ses", "acq", "run", "space", "res", "desc", "from", "to"]), LABEL), LABEL)
def test_a_name_is_taken_apart_as_it_was_put_together(entities, subject):
    whole = {"sub": subject.replace("+", "0"), **entities}
    name = build_name(whole, "T1w", ".nii.gz")
    assert parse_name(name) == (whole, "T1w", ".nii.gz")
    assert "desc" not in entities or name.endswith(f"_desc-{entities['desc']}_T1w.nii.gz")


@pytest.mark.parametrize("name", ["T1w.nii.gz", "sub-01", "sub-0 1_T1w.nii", "sub_T1w.nii", "sub-01__T1w.nii", "a/sub-01_T1w.nii\n"])
def test_a_name_that_is_not_bids_is_none(name):
    assert parse_name(name) is None


def test_a_name_with_a_wrong_value_is_not_made():
    with pytest.raises(ValueError, match="letters, digits"):
        build_name({"sub": "../x"}, "T1w", ".nii")
    with pytest.raises(ValueError, match="no entity model"):
        build_name({"sub": "1", "model": "x"}, "T1w", ".nii")
    assert folder("1", "", "CT") == "sub-1/ct"
    assert folder("1", "2", "FLAIR") == "sub-1/ses-2/anat"


def dataset(results, tmp_path, source):
    write_dataset(results, {"input": str(source), "work": str(tmp_path / "work"), "stages": ["acquire", "denoise", "export"]})
    return json.loads((results / "dataset_description.json").read_text())


def test_the_dataset_says_what_it_was_made_of(images, tmp_path):
    source, results = tmp_path / "bids", tmp_path / "results"
    source.mkdir()
    (source / "dataset_description.json").write_text(json.dumps({"Name": "Mine", "License": "CC0", "DatasetDOI": "doi:10.1/x"}))
    run(images, results)
    told = dataset(results, tmp_path, source)
    assert told["DatasetType"] == "derivative"
    assert told["GeneratedBy"][0]["Name"] == "Cohortex"
    assert told["DatasetLinks"] == {"raw": "../bids"}
    assert told["SourceDatasets"] == [{"URL": "../bids", "DOI": "doi:10.1/x"}]
    assert "**/ct" in (results / ".bidsignore").read_text().splitlines()
    assert (results / "desc-seg_dseg.tsv").read_text() == "index\tname\n0\tbackground\n1\tCSF\n2\tgrey matter\n3\twhite matter\n"


def test_the_participants_of_the_results_are_those_with_results(images, tmp_path):
    cohort = tmp_path / "work" / "cohort"
    cohort.mkdir(parents=True)
    (cohort / "participants.tsv").write_text("subject\tage\tnote\n001\t-5\t=cmd\n002\t6\t\n")
    run(images[:1], tmp_path / "results")
    assert dataset(tmp_path / "results", tmp_path, "demo")["SourceDatasets"] == [{"Version": "simulated"}]
    assert (tmp_path / "results/participants.tsv").read_text() == "participant_id\tage\tnote\nsub-001\t-5\t'=cmd\n"


def test_what_a_label_means_is_taken_from_the_history(tmp_path):
    labels = volume("T1w", "labels").with_data(volume("T1w", "labels").array(), step={"label_names": {"1": "gland", "2": "zone"}})
    run([item("001_T1w+seg", labels, "T1w", "labels")], tmp_path)
    dataset(tmp_path, tmp_path, "demo")
    assert (tmp_path / "desc-seg_dseg.tsv").read_text().splitlines()[2:] == ["1\tgland", "2\tzone", "3\tlabel 3"]


def test_a_subject_of_whom_nothing_is_left_loses_what_an_earlier_run_exported(images, tmp_path):
    results = tmp_path / "results"
    run(images[:1], results)
    run([item("002_T1w", volume("T1w"), "T1w", "image", subject="002")], results)
    path = "sub-001/anat/sub-001_desc-cohortex_T1w.nii.gz"
    told = f"subject\timage\tstatus\texport.exported\n001\t001_T1w\tok\t{path}\n002\t002_T1w\tquarantined\t\n"
    (results / "manifest.tsv").write_text(told)
    dataset(results, tmp_path, "demo")
    assert (results / path).exists()
    assert not (results / "sub-002").exists()
    assert [file.stem for file in (results / ".cohortex/subjects").iterdir()] == ["001"]


def test_what_was_exported_and_deleted_is_exported_again(images, tmp_path):
    from cohortex.job import Job
    from cohortex.stage import done_record
    from cohortex.worker import Item

    results, running = tmp_path / "results", tmp_path / "running"
    (made,) = run(images[:1], results)
    running.mkdir()
    rows = [{"image": made.of, "status": "ok", "exported": made.measures["exported"]}]
    (running / "001.done.json").write_text(json.dumps({"key": "k", "rows": rows}))
    section = {"default": {}, "results": str(results)}
    job = Job("export", "b00001", tmp_path, None, None, None, tmp_path, running, None, section, {}, 0, "cpu", 1)
    done = Item("001", (images[0],), "k", 0)
    assert done_record(job, done) is not None
    (results / made.measures["exported"]).unlink()
    assert done_record(job, done) is None
