"""Names of every kind that the export can give, before the BIDS validator."""

import numpy as np
import pytest

from benchmarks.report_validator import bids_errors
from cohortex.io.bids import ANAT, DATATYPES
from cohortex.stages.export import export, write_dataset
from cohortex.volume import Volume
from tests.unit.test_export import AFFINE, SHAPE, item

MODALITIES = sorted([*ANAT, *DATATYPES, "CT", "US", "XR", "spect", "myOwn"])
TAGS = {
    "": "image",
    "seg": "labels",
    "mask": "labels",
    "warped": "image",
    "uncertainty": "image",
    "features": "table",
    "affine": "transform",
}


def things(session, row):
    """Return everything that a subject can have, of every modality."""
    made = []
    for modality in MODALITIES:
        image = Volume(np.ones(SHAPE, "f4"), AFFINE, modality)
        labels = Volume(np.ones(SHAPE, "u1"), AFFINE, modality, "labels")
        contents = {"labels": labels, "table": {"a": ["1"]}, "transform": np.eye(4), "image": image}
        for tag, kind in TAGS.items():
            entities = {"space": "T1w", "desc": "warped"} if tag == "warped" else {"desc": tag} if tag == "uncertainty" else {}
            name = "_".join(filter(None, ["001", session, row["acq"], row["run"], modality])) + ("+" + tag if tag else "")
            further = {"role": "mask"} if tag == "mask" else {}
            made.append(item(name, contents[kind], modality, kind, session=session, row=row, entities=entities, **further))
    return made


@pytest.mark.parametrize(("session", "row"), [("", {"acq": "", "run": ""}), ("02", {"acq": "fast", "run": "2"})])
def test_no_name_that_the_export_gives_is_an_error(session, row, tmp_path):
    made = export(things(session, row), {"default": {}, "results": str(tmp_path)}, None, 0)
    assert len(made) == len(MODALITIES) * len(TAGS)
    write_dataset(tmp_path, {"input": "demo", "work": str(tmp_path / "none"), "stages": ["acquire", "export"]})
    assert bids_errors(tmp_path) == []


def test_what_bids_has_is_not_ignored(tmp_path):
    export(
        [each for each in things("", {"acq": "", "run": ""}) if each.modality == "T1w"], {"default": {}, "results": str(tmp_path)}, None, 0
    )
    write_dataset(tmp_path, {"input": "demo", "work": str(tmp_path / "none"), "stages": ["acquire", "export"]})
    ignored = (tmp_path / ".bidsignore").read_text().splitlines()
    assert not any(word in line for line in ignored for word in ("T1w", "dseg", "mask", "anat"))
    (tmp_path / "sub-001" / "anat" / "sub-001_T1w_wrong.nii.gz").write_bytes(b"")
    assert bids_errors(tmp_path) != []
