"""The splits of a cohort, its cut into batches, and the demo as a cohort."""

import json
import os
import shutil

import pytest

from cohortex.cohort import batch_sizes, read_batches, run_batches
from cohortex.cohort.cut import cut, split_of
from cohortex.errors import Refused
from cohortex.tables import read_table
from tests.cohorts import bids, state, table, touch

# --- splits -------------------------------------------------------------------------------------------------------


def test_a_split_is_of_the_subject_and_the_table_may_say_it(make, tmp_path):
    text = "subject\tmodality\tpath\tsplit\n" + "a\tT1w\tx\ttest\na\tCT\ty\t\nb\tT1w\tz\t\n"
    rows = make(table(tmp_path, text))
    assert rows["a_T1w"]["split"] == rows["a_CT"]["split"] == "test"
    assert rows["b_T1w"]["split"] == split_of("b")


def test_the_split_by_hash_is_70_15_15():
    counts = dict.fromkeys(("train", "validation", "test"), 0)
    for i in range(4000):
        counts[split_of(f"s{i:05d}")] += 1
    assert abs(counts["train"] / 4000 - 0.70) < 0.03
    assert abs(counts["validation"] / 4000 - 0.15) < 0.02


# --- the cut ------------------------------------------------------------------------------------------------------


def test_adding_two_subjects_opens_a_new_batch_and_leaves_the_others_untouched(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["03", "05", "07"])
    make(data, batch_size=2)
    before = state(folder / "batches")
    bids(data, ["01", "06"])
    make(data, batch_size=2)
    after = state(folder / "batches")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"b00003.tsv"}
    assert read_batches(folder.parent) == ["b00001", "b00002", "b00003"]
    assert [row["subject"] for row in read_table(folder / "batches/b00003.tsv")] == ["01", "06"]


def test_nothing_is_written_when_nothing_has_changed(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["01", "02", "03"])
    make(data, batch_size=2)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    make(data, batch_size=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_replaced_file_changes_the_table_of_its_batch_only(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["01", "02"])
    make(data, batch_size=1)
    before = state(folder / "batches")
    touch(data / "sub-02/anat/sub-02_T1w.nii.gz", b"another")
    make(data, batch_size=1)
    after = state(folder / "batches")
    assert [name for name in after if after[name] != before[name]] == ["b00002.tsv"]


def test_another_batch_size_is_for_new_subjects_and_said(make, tmp_path, folder, capsys):
    data = bids(tmp_path / "bids", ["01", "02", "03"])
    make(data, batch_size=2)
    capsys.readouterr()
    bids(data, ["04", "05", "06"])
    make(data, batch_size=3)
    assert "batch_size 3 is for new subjects" in capsys.readouterr().err
    batches = {row["subject"]: row["batch"] for row in read_table(folder / "batches.tsv")}
    assert batches == {"01": "b00001", "02": "b00001", "03": "b00002", "04": "b00003", "05": "b00003", "06": "b00003"}


def test_a_removed_subject_leaves_its_batch_and_numbers_are_not_used_again(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["01", "02", "03"])
    make(data, batch_size=1)
    shutil.rmtree(data / "sub-03")
    make(data, batch_size=1)
    assert read_batches(folder.parent) == ["b00001", "b00002"]
    assert not (folder / "batches/b00003.tsv").exists()
    bids(data, ["04"])
    make(data, batch_size=1)
    assert read_batches(folder.parent) == ["b00001", "b00002", "b00004"]


def test_only_names_a_part_of_the_cohort_and_leaves_the_cut_as_it_is(make, tmp_path, folder, capsys):
    data = bids(tmp_path / "bids", ["01", "02", "03", "04", "05"])
    make(data, batch_size=2)
    before = state(folder / "batches")
    make(data, batch_size=2, only={"subject": ["04", "05"]})
    assert state(folder / "batches") == before and read_batches(folder.parent) == ["b00001", "b00002", "b00003"]
    assert run_batches(folder.parent) == ["b00002", "b00003"]
    assert "only: its 2 batches are run, 3 of 5 subjects" in capsys.readouterr().err
    make(data, batch_size=2)
    assert run_batches(folder.parent) == ["b00001", "b00002", "b00003"]


def test_only_refuses_what_the_cohort_does_not_have(make, tmp_path):
    data = bids(tmp_path / "bids", ["01", "02"])
    with pytest.raises(Refused, match="only: subject: the cohort has no subject 17"):
        make(data, only={"subject": ["01", "17"]})
    with pytest.raises(Refused, match="only: session: the cohort has no session 02"):
        make(data, only={"session": ["02"]})


def test_a_cut_keeps_every_subject_once():
    batches, following = cut([f"{i}" for i in range(7)], {"3": "b00001", "gone": "b00002"}, 2, 3)
    assert batches["3"] == "b00001"
    assert sorted(batches) == [f"{i}" for i in range(7)]
    assert following == 6


@pytest.mark.parametrize("how", ["size", "sha256"])
def test_a_file_that_was_only_touched_is_the_same_by_size_and_by_sum(make, tmp_path, how):
    data = bids(tmp_path / "bids", ["01"])
    file = data / "sub-01/anat/sub-01_T1w.nii.gz"
    first = make(data, fingerprint=how)["01_T1w"]["fingerprint"]
    os.utime(file, (1, 1))
    assert make(data, fingerprint=how)["01_T1w"]["fingerprint"] == first
    file.write_bytes(b"y")
    os.utime(file, (2, 2))
    assert (make(data, fingerprint=how)["01_T1w"]["fingerprint"] == first) == (how == "size")


def test_sizes_are_estimated_from_the_files(make, tmp_path, folder):
    data = bids(tmp_path / "bids", ["01"], ("T1w", "CT"))
    touch(data / "sub-01/anat/sub-01_T1w.nii.gz", b"0" * 1_000_000)
    make(data)
    size = batch_sizes(folder.parent)["b00001"]
    assert (size.largest_mb, size.total_mb, size.images) == (4.0, 4.0, 2)


# --- the demo -----------------------------------------------------------------------------------------------------


def test_the_demo_is_a_cohort_like_any_other(make, folder, tmp_path):
    rows = make("demo", demo={"subjects": 3}, batch_size=2)
    assert len(rows) == 6
    row = next(iter(rows.values()))
    assert row["path"].startswith(f"{tmp_path}/work/demo/{row['batch']}/")
    first = state(folder / "batches")
    make("demo", demo={"subjects": 4}, batch_size=2)
    assert {name: value for name, value in state(folder / "batches").items() if name in first} == first
    make("demo", demo={"subjects": 4, "seed": 9}, batch_size=2)
    assert all(state(folder / "batches")[name] != first[name] for name in first)


def test_job_processes_read_one_small_file(make, tmp_path, folder):
    make(bids(tmp_path / "bids", ["01"]))
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "index.json":
            path.unlink()
    assert read_batches(str(folder.parent)) == ["b00001"]
    assert json.loads((folder / "index.json").read_text())["batches"]["b00001"][2] == 1


def test_a_training_forgets_a_batch_that_left_the_cohort(tmp_path):
    from cohortex.training.frozen import frozen_batches

    work = str(tmp_path)
    assert frozen_batches(work, "denoise", ["b00001", "b00002"], retrain=False) == ["b00001", "b00002"]
    assert frozen_batches(work, "denoise", ["b00001", "b00002", "b00003"], retrain=False) == ["b00001", "b00002"]
    assert frozen_batches(work, "denoise", ["b00002", "b00003"], retrain=False) == ["b00002"]
    assert frozen_batches(work, "denoise", ["b00003"], retrain=False) == ["b00003"]
    assert frozen_batches(work, "denoise", ["b00003", "b00004"], retrain=True) == ["b00003", "b00004"]
