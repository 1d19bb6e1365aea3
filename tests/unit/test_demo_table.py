"""What the demo cohort consists of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortex.demo.table import COLUMNS, DEFAULTS, demo_rows, subject_index, traits
from cohortex.errors import Refused


def test_every_subject_has_an_mr_and_a_ct_and_is_a_test_subject_by_default() -> None:
    rows, participants = demo_rows({})
    assert len(participants) == 8 and len(rows) == 16
    assert all(tuple(row) == COLUMNS and all(isinstance(value, str) for value in row.values()) for row in rows)
    assert {row["split"] for row in rows} == {"test"}
    assert {(row["modality"], row["path"].split("/")[1]) for row in rows} == {("T1w", "T1w.h5"), ("CT", "CT")}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_more_subjects_leave_the_first_ones_as_they_were(few: int, more: int, seed: int) -> None:
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    rows, people = demo_rows({"subjects": few, "seed": seed, "labelled": 0.5, "split": shares})
    longer, more_people = demo_rows({"subjects": few + more, "seed": seed, "labelled": 0.5, "split": shares})
    assert longer[: len(rows)] == rows and more_people[:few] == people


@given(st.integers(0, 10_000))
def test_diagnoses_splits_and_labels_are_balanced_for_any_seed(seed: int) -> None:
    rows, people = demo_rows({"subjects": 60, "seed": seed, "labelled": 0.5, "split": {"train": 0.7, "validation": 0.15, "test": 0.15}})
    assert set(Counter(person["diagnosis"] for person in people).values()) == {20}
    splits = Counter({row["subject"]: row["split"] for row in rows}.values())
    assert abs(splits["train"] - 42) <= 3 and abs(splits["validation"] - 9) <= 3 and abs(splits["test"] - 9) <= 3
    labelled = {row["subject"] for row in rows if row["role"] == "labels"}
    assert abs(len(labelled) - 30) <= 3


def test_labels_come_along_only_when_asked_for() -> None:
    assert not [row for row in demo_rows({"subjects": 30})[0] if row["role"] == "labels"]
    rows, _ = demo_rows({"subjects": 2, "labelled": 1})
    assert [row["path"] for row in rows[:4]] == ["demo001/T1w.h5", "demo001/T1w_labels.nii.gz", "demo001/CT", "demo001/CT_labels.nii.gz"]


def test_shares_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(Refused, match=r"add up to 0\.9"):
        demo_rows({"split": {"train": 0.9}})


def test_an_id_without_a_number_is_refused() -> None:
    assert subject_index("demo012") == 11
    with pytest.raises(Refused, match="end in a number"):
        traits("somebody", 7)


def test_the_schema_knows_exactly_the_keys_of_the_table() -> None:
    schema = json.loads((Path(__file__).parents[2] / "schemas/demo.json").read_text())
    assert set(schema["properties"]) == set(DEFAULTS)


def test_the_table_imports_nothing_heavy() -> None:
    code = "import sys, cohortex.demo.table; print(sorted({'numpy', 'scipy', 'nibabel', 'numba', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
