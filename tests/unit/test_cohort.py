"""The table of images."""

import os
import shutil

import pytest

from cohortex.cohort import batch_sizes
from cohortex.errors import Refused
from cohortex.report.records import read_records
from cohortex.tables import read_table
from tests.cohorts import HEADER, bids, state, table, touch


def test_zarr_folders_and_tiff_stacks_are_images_and_never_dicom(make, tmp_path):
    data = bids(tmp_path / "data", ["1"])
    image = data / "sub-1" / "micr" / "sub-1_sample-A_SPIM.ome.zarr"
    for name in (".zattrs", "0/.zarray", "0/0/0/0"):
        touch(image / name, b"x" * 1000)
    touch(data / "sub-1" / "micr" / "sub-1_sample-A_uCT.tif")
    select = {"suffix": ["T1w", "SPIM", "uCT"]}
    rows = make(data, select=select)
    assert set(rows) == {"1_T1w", "1_SampleA_SPIM", "1_SampleA_uCT"}
    assert rows["1_SampleA_SPIM"]["path"].endswith("sub-1_sample-A_SPIM.ome.zarr")
    before = rows["1_SampleA_SPIM"]["fingerprint"]
    (tmp_path / "new").write_bytes(b"other")
    (tmp_path / "new").replace(image / "0" / ".zarray")
    assert make(data, select=select)["1_SampleA_SPIM"]["fingerprint"] != before
    shutil.copytree(image, tmp_path / "dicom" / "p1" / "a.zarr")
    touch(tmp_path / "dicom" / "p2" / "CT" / "1")
    assert set(make(tmp_path / "dicom")) == {"p2_CT"}


# --- BIDS ---------------------------------------------------------------------------------------------------------


def test_ids_001_and_1_are_both_kept(make, tmp_path):
    rows = make(bids(tmp_path / "bids", ["001", "1", "01"]))
    assert set(rows) == {"001_T1w", "1_T1w", "01_T1w"}
    assert rows["001_T1w"]["subject"] == "001"


def test_sessions_and_runs_of_a_subject_are_kept_apart(make, tmp_path):
    data = tmp_path / "bids"
    for session in ("pre", "post"):
        for run in ("1", "2"):
            touch(data / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_acq-fast_run-{run}_T1w.nii.gz")
    touch(data / "sub-01/ses-pre/anat/sub-01_ses-pre_FLAIR.nii")
    rows = make(data)
    assert set(rows) == {"01_pre_FLAIR", *(f"01_{s}_fast_{r}_T1w" for s in ("pre", "post") for r in "12")}
    row = rows["01_post_fast_2_T1w"]
    assert (row["session"], row["acq"], row["run"], row["modality"]) == ("post", "fast", "2", "T1w")
    assert row["path"] == str(data / "sub-01/ses-post/anat/sub-01_ses-post_acq-fast_run-2_T1w.nii.gz")
    assert row["root"] == str(data)


def test_images_that_bids_tells_apart_otherwise_are_told_apart_by_acq_and_phases_left_out(make, tmp_path):
    anat = tmp_path / "bids/sub-01/anat"
    for name in ("acq-a_echo-1", "acq-a_echo-2", "ce-gad", "part-mag", "part-phase"):
        touch(anat / f"sub-01_{name}_T1w.nii.gz")
    assert set(make(tmp_path / "bids")) == {"01_aEcho1_T1w", "01_aEcho2_T1w", "01_Cegad_T1w", "01_T1w"}


def test_derivatives_sidecars_and_other_suffixes_are_not_taken_and_the_latter_are_told(make, tmp_path, folder, capsys):
    data = bids(tmp_path / "bids", ["01"], ("T1w", "PDT2", "CT"))
    touch(data / "sub-01/anat/sub-01_T1w.json")
    touch(data / "sub-01/func/sub-01_task-rest_bold.nii.gz")
    touch(data / "derivatives/x/sub-01/anat/sub-01_T2w.nii.gz")
    touch(data / "sub-01/anat/.sub-01_T2w.nii.gz")
    assert set(make(data)) == {"01_T1w", "01_CT"}
    sentence = "Images that were not taken, as select: suffix: does not name theirs: 1 PDT2, 1 bold."
    assert sentence in capsys.readouterr().err
    assert read_records(folder.parent, ["acquire"]).notes[0] == sentence


def test_select_takes_suffixes_sessions_and_subjects(make, tmp_path):
    data = bids(tmp_path / "bids", ["01", "02"], ("T1w", "FLAIR"))
    assert set(make(data, select={"suffix": ["FLAIR"], "subject": ["02"]})) == {"02_FLAIR"}
    with pytest.raises(Refused, match="No image is left once select: session: 9 is applied"):
        make(data, select={"session": ["9"]})


def test_a_file_whose_name_says_another_subject_is_refused(make, tmp_path):
    data = bids(tmp_path / "bids", ["01"])
    touch(data / "sub-01/anat/sub-02_T1w.nii.gz")
    with pytest.raises(Refused, match=r"sub-02_T1w.nii.gz lies in sub-01 but its name says sub-02"):
        make(data)


def test_two_files_with_one_id_are_refused_naming_both(make, tmp_path):
    data = bids(tmp_path / "bids", ["01"])
    touch(data / "sub-01/anat/sub-01_T1w.nii")
    with pytest.raises(Refused, match=r"sub-01_T1w.nii and .*sub-01_T1w.nii.gz are both 01_T1w"):
        make(data)


def test_subjects_that_differ_in_case_only_are_refused(make, tmp_path):
    with pytest.raises(Refused, match="differ in case only"):
        make(table(tmp_path, HEADER + "A\tT1w\ta\na\tT1w\tb\n"))


def test_a_subject_that_is_no_id_is_refused(make, tmp_path):
    data = bids(tmp_path / "bids", ["01"])
    (data / "sub-a;touch P").mkdir()
    with pytest.raises(Refused, match="after sub- stand letters and digits only"):
        make(data)


def test_missing_and_empty_input_are_refused_in_a_sentence(make, tmp_path):
    with pytest.raises(Refused, match="is not there; name demo, a folder or a table"):
        make(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="an empty folder; name a BIDS dataset"):
        make(tmp_path / "empty")
    touch(tmp_path / "full/notes.txt")
    with pytest.raises(Refused, match=r"neither a BIDS dataset .* nor"):
        make(tmp_path / "full")
    with pytest.raises(Refused, match=r"without images of the suffixes CT.*it has 1 T1w"):
        make(bids(tmp_path / "bids", ["01"]), select={"suffix": ["CT"]})
    with pytest.raises(Refused, match=r"is a file but no \.tsv table"):
        make(table(tmp_path, "x", "cohort.csv"))
    with pytest.raises(Refused, match="has no rows"):
        make(table(tmp_path, HEADER))


def test_a_link_without_its_content_stays_in_the_table(make, tmp_path):
    data = bids(tmp_path / "bids", ["01"])
    (data / "sub-01/anat/sub-01_FLAIR.nii.gz").symlink_to("../../.git/annex/none")
    assert make(data)["01_FLAIR"]["fingerprint"] == "missing"


def test_a_dataset_with_odd_characters_in_its_path_works(make, tmp_path):
    rows = make(bids(tmp_path / "a b'é;$x", ["01"]))
    assert rows["01_T1w"]["path"].endswith("a b'é;$x/sub-01/anat/sub-01_T1w.nii.gz")


# --- DICOM folders ------------------------------------------------------------------------------------------------


def test_a_folder_of_dicom_folders_has_one_row_a_series_folder(make, tmp_path):
    data = tmp_path / "dicom"
    touch(data / "LIDC-0314" / "1.dcm")
    touch(data / "P_2" / "study" / "series" / "IM0001")
    touch(data / "P_3" / "CT" / "1.dcm")
    touch(data / "P_3" / "T1w" / "1.dcm")
    touch(data / "P_4" / "s1" / "1.dcm")
    touch(data / "P_4" / "s2" / "1.dcm")
    touch(data / "README.md")
    touch(data / "P_2" / "study" / "notes.txt")
    rows = make(data)
    assert set(rows) == {"LIDC0314_dicom", "P2_dicom", "P3_CT", "P3_T1w", "P4_s1_dicom", "P4_s2_dicom"}
    assert rows["P2_dicom"]["path"] == str(data / "P_2/study/series")
    assert rows["P2_dicom"]["modality"] == ""
    assert rows["P3_CT"]["modality"] == "CT"


def test_folders_that_become_one_id_are_refused(make, tmp_path):
    for name in ("A-1", "A_1"):
        touch(tmp_path / "dicom" / name / "1.dcm")
    with pytest.raises(Refused, match="A_1 and A-1"):
        make(tmp_path / "dicom")


def test_folders_of_nifti_that_are_no_bids_are_refused_with_what_to_do(make, tmp_path):
    touch(tmp_path / "data" / "patient07" / "t1.nii.gz")
    with pytest.raises(Refused, match="no DICOM files; name them after BIDS"):
        make(tmp_path / "data")


def test_a_slice_that_comes_goes_or_is_replaced_changes_the_fingerprint_of_its_folder(make, tmp_path):
    slices = [touch(tmp_path / "dicom" / "A" / "s" / f"{i}.dcm") for i in range(3)]
    for path in (*slices, slices[0].parent, slices[0].parent.parent):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = make(tmp_path / "dicom")["A_dicom"]["fingerprint"]
    assert make(tmp_path / "dicom")["A_dicom"]["fingerprint"] == first
    slices[1].unlink()
    second = make(tmp_path / "dicom")["A_dicom"]["fingerprint"]
    touch(slices[1], b"longer")
    third = make(tmp_path / "dicom")["A_dicom"]["fingerprint"]
    assert len({first, second, third}) == 3


def test_a_link_back_to_its_own_folder_gives_no_series_twice(make, tmp_path):
    touch(tmp_path / "dicom" / "A" / "s" / "1.dcm")
    (tmp_path / "dicom" / "A" / "s" / "again").symlink_to(tmp_path / "dicom" / "A")
    touch(tmp_path / "elsewhere" / "1.dcm")
    (tmp_path / "dicom" / "B").symlink_to(tmp_path / "elsewhere")
    assert set(make(tmp_path / "dicom")) == {"A_dicom", "B_dicom"}


def test_by_content_a_slice_that_was_overwritten_in_its_place_is_noticed(make, tmp_path):
    slices = [touch(tmp_path / "dicom" / "A" / f"{i}.dcm") for i in range(3)]
    for path in (*slices, slices[0].parent):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    first = make(tmp_path / "dicom", fingerprint="sha256")["A_dicom"]["fingerprint"]
    slices[1].write_bytes(b"y")
    os.utime(slices[1], (1_000_000_005, 1_000_000_005))
    assert make(tmp_path / "dicom", fingerprint="sha256")["A_dicom"]["fingerprint"] != first
    slices[1].write_bytes(b"x")
    assert make(tmp_path / "dicom", fingerprint="sha256")["A_dicom"]["fingerprint"] == first


def test_a_slice_that_is_replaced_changes_the_fingerprint_of_a_list_of_files(make, tmp_path):
    slices = [touch(tmp_path / "flat" / f"{i}.dcm") for i in range(3)]
    listing = touch(tmp_path / "lists" / "a.series", b"../flat/0.dcm\n../flat/1.dcm\n")
    for path in (*slices, slices[0].parent, listing):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    source = table(tmp_path, HEADER + "01\tCT\tlists/a.series\n")
    first = make(source)["01_CT"]["fingerprint"]
    assert make(source)["01_CT"]["fingerprint"] == first
    slices[1].unlink()
    touch(slices[1], b"longer")
    second = make(source)["01_CT"]["fingerprint"]
    slices[2].unlink()
    assert second != first and make(source)["01_CT"]["fingerprint"] == second


# --- tables -------------------------------------------------------------------------------------------------------


def test_a_table_gives_roles_covariates_and_ids_as_text(make, tmp_path, folder):
    text = (
        "\ufeffsubject\tsession\tmodality\tpath\trole\tage\tpair\r\n"
        "001\t\tT1w\tsub/a.nii.gz\t\t61\tx\r\n001\t\tT1w\tsub/m.nii.gz\tmask\t\tx\r\n\r\n1\t02\tCT\t/abs/ct\timage\t1e3\t\r\n"
    )
    rows = make(table(tmp_path, text))
    assert set(rows) == {"001_T1w", "001_T1w+mask", "1_02_CT"}
    assert rows["001_T1w+mask"]["role"] == "mask"
    assert rows["001_T1w"]["path"] == str(tmp_path / "sub/a.nii.gz")
    assert rows["1_02_CT"]["path"] == "/abs/ct"
    assert rows["001_T1w"]["pair"] == "x"
    assert read_table(folder / "participants.tsv") == [{"subject": "001", "age": "61"}, {"subject": "1", "age": "1e3"}]
    assert batch_sizes(folder.parent)["b00001"].images == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEADER + "01\tT1w\ta\n01\tT1w\tb\n", "lines 2 and 3 are both 01_T1w; tell them apart by session, acq or run"),
        (HEADER + "01\tT1w\ta\textra\n", "line 2 has 4 cells, expected 3"),
        (HEADER + "01\tT1w\n", "line 2 has 2 cells, expected 3"),
        (HEADER + "0-1\tT1w\ta\n", "line 2: subject is '0-1', expected letters and digits"),
        (HEADER + "../x\tT1w\ta\n", "line 2: subject is '../x', expected letters and digits"),
        (HEADER + "é\tT1w\ta\n", "line 2: subject is 'é', expected letters and digits"),
        (HEADER + "a" * 65 + "\tT1w\ta\n", "expected letters and digits, 1 to 64 of them"),
        (HEADER + "01\tT1w\t\n", "line 2: path is '', expected a file or a folder"),
        (HEADER + "01\tt1w\ta\n", "line 2: the modality t1w is not known; did you mean T1w?"),
        (HEADER + "01\tXyzzy\ta\n", "line 2: the modality Xyzzy is not known; to use it all the same, name it in select: suffix:"),
        ("subject,modality,path\n01,T1w,a\n", "commas or semicolons"),
        ("subject\tmodality\n01\tT1w\n", "has no column path"),
        ("subject\tmodality\tpath\trole\n01\tT1w\ta\tmaks\n", "line 2: role is 'maks', expected image, mask, labels or boxes"),
        ("subject\tmodality\tpath\tsplit\n01\tT1w\ta\tval\n", "line 2: split is 'val', expected train, validation or test"),
        ("subject\tmodality\tpath\tpath\n01\tT1w\ta\tb\n", "two columns are called path"),
        ("subject\tmodality\tpath\tSession\n01\tT1w\ta\tb\n", "the column Session is written session"),
        ("subject\tmodality\tpath\tsplit\n01\tT1w\ta\ttrain\n01\tCT\ta\ttest\n", "Subject 01 is in the splits train and test"),
        (HEADER.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (HEADER.encode() + b"01\tT1w\tM\xfcller\n", "line 2 is not UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_naming_the_line(make, tmp_path, text, sentence):
    with pytest.raises(Refused) as caught:
        make(table(tmp_path, text))
    assert sentence in str(caught.value)
    assert "cohort.tsv" in str(caught.value) or "Subject 01" in str(caught.value)


def test_masks_and_labels_without_any_image_are_no_cohort(make, tmp_path):
    with pytest.raises(Refused, match="masks, labels or boxes but no image"):
        make(table(tmp_path, "subject\tmodality\tpath\trole\n01\tT1w\ta\tmask\n"))


def test_the_order_of_a_table_changes_nothing(make, tmp_path, folder):
    lines = [f"{subject}\t{modality}\t{subject}{modality}.nii\n" for subject in ("3", "01", "2") for modality in ("T1w", "CT")]
    make(table(tmp_path, HEADER + "".join(lines)), batch_size=2)
    before = state(folder)
    make(table(tmp_path, HEADER + "".join(reversed(lines))), batch_size=2)
    assert state(folder) == before


def test_a_modality_that_the_configuration_names_is_accepted(make, tmp_path):
    path = table(tmp_path, HEADER + "01\tXyzzy\ta\n")
    assert set(make(path, denoise={"default": {}, "Xyzzy": {}})) == {"01_Xyzzy"}
    assert set(make(path, select={"suffix": ["Xyzzy"]})) == {"01_Xyzzy"}


def test_a_missing_file_stays_in_the_table(make, tmp_path):
    assert make(table(tmp_path, HEADER + "01\tT1w\tnone.nii.gz\n"))["01_T1w"]["fingerprint"] == "missing"


def test_labels_come_over_the_covariates_of_the_dataset(make, tmp_path, folder, capsys):
    data = bids(tmp_path / "bids", ["01", "02"])
    (data / "participants.tsv").write_text("participant_id\tage\tgroup\nsub-01\t50\tn/a\nsub-02\t60\tb\nsub-03\t70\tb\n")
    labels = table(tmp_path, "subject\tgroup\tscore\n01\ta\t3\n99\tz\t1\n", "labels.tsv")
    make(data, labels=str(labels))
    assert "labels.tsv: 1 of its 2 subjects have no image here, left out: 99." in capsys.readouterr().err
    assert read_table(folder / "participants.tsv") == [
        {"subject": "01", "age": "50", "group": "a", "score": "3"},
        {"subject": "02", "age": "60", "group": "b", "score": ""},
    ]
    labels.write_text("subject\tgroup\n77\ta\n")
    with pytest.raises(Refused, match="names no subject of the cohort"):
        make(data, labels=str(labels))
    labels.write_text("subject\tgroup\n01\ta\nsub-01\tb\n")
    with pytest.raises(Refused, match="lines 2 and 3 are both of subject 01"):
        make(data, labels=str(labels))


def test_editing_an_age_changes_only_the_participants(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["01", "02"])
    people = data / "participants.tsv"
    people.write_text("participant_id\tage\nsub-01\t50\nsub-02\t51\n")
    make(data)
    before = state(folder)
    people.write_text("participant_id\tage\nsub-01\t52\nsub-02\t51\n")
    make(data)
    after = state(folder)
    assert [name for name in after if after[name] != before[name]] == ["participants.tsv"]


# --- subjects that are only half there ------------------------------------------------------------------------------


def test_subjects_without_an_image_a_folder_or_a_row_are_told_and_the_others_go_on(make, tmp_path, capsys):
    data = bids(tmp_path / "bids", ["01", "02", "05"])
    touch(data / "sub-03/func/sub-03_bold.nii.gz")
    (data / "sub-04").mkdir()
    (data / "participants.tsv").write_text("participant_id\tage\nsub-01\t61\nsub-02\t62\nsub-03\t63\nsub-09\t69\n")
    assert set(make(data)) == {"01_T1w", "02_T1w", "05_T1w"}
    sentences = [
        "Subjects named in participants.tsv but without a folder here (1): 09.",
        "Subjects with a folder but no image that select: suffix: names (2): 03, 04.",
        "Subjects with images but no row in participants.tsv (1): 05.",
    ]
    said = capsys.readouterr().err
    notes = read_records(tmp_path / "work", ["acquire"]).notes
    for sentence in sentences:
        assert sentence in said
        assert sentence in notes
    (data / "participants.tsv").unlink()
    for name in ("sub-03", "sub-04"):
        shutil.rmtree(data / name)
    make(data)
    assert "Subjects" not in capsys.readouterr().err
