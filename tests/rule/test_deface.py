"""Stage `deface` by the real rule: a head goes through, what is no head is set aside, and the page shows no face."""

import json
import re

import numpy as np
import pytest
import yaml

from cohortex.io.ozx import read_ozx
from cohortex.tables import read_table
from tests.faces import SETTINGS, head
from tests.workflow import snakemake, write_nifti

CHAIN = ["acquire", "deface", "export"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deface")
    volume, labels, _ = head("CT", 4.0)
    scans = folder / "scans"
    write_nifti(scans / "1.nii.gz", volume.array(), (4.0, 4.0, 4.0))
    write_nifti(scans / "1_labels.nii.gz", labels, (4.0, 4.0, 4.0))
    noise = np.random.default_rng(2).normal(0, 200, (24, 24, 20)).astype(np.float32)
    write_nifti(scans / "2.nii.gz", noise, (4.0, 4.0, 4.0))
    rows = ["subject\tmodality\tpath\trole\tbody_part", "1\tCT\tscans/1.nii.gz\timage\thead", "1\tCT\tscans/1_labels.nii.gz\tlabels\thead"]
    rows += ["2\tCT\tscans/2.nii.gz\timage\t", "3\tCT\tscans/2.nii.gz\timage\tchest"]
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    settings = {"stages": CHAIN, "keep": CHAIN[:-1], "deface": {"default": SETTINGS}, "quarantine": {"tolerate": 1.0}}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "--configfile", str(folder / "settings.yaml"), input=folder / "cohort.tsv")
    return folder


def told(run):
    return {row["image"]: row for row in read_table(run / "work" / "records" / "deface" / "b00001" / "manifest.tsv")}


def test_the_head_is_defaced_and_its_labels_stay(run):
    row = told(run)["1_CT"]
    assert row["status"] in ("ok", "warned") and row["defaced"]
    assert float(row["removed_brain_percent"]) < 5 and float(row["face_left_percent"]) < 25
    before, after = (read_ozx(run / "work" / stage / "b00001" / "1_CT.ozx").array() for stage in ("acquire", "deface"))
    assert 0.02 < (before != after).mean() < 0.4
    labels = [read_ozx(run / "work" / stage / "b00001" / "1_CT+labels.ozx").sha256() for stage in ("acquire", "deface")]
    assert labels[0] == labels[1]


def test_what_is_no_head_is_set_aside_and_another_body_part_skipped(run):
    rows = told(run)
    assert (rows["2_CT"]["status"], rows["2_CT"]["code"]) == ("quarantined", "head-not-found")
    assert (rows["3_CT"]["status"], rows["3_CT"]["code"]) == ("skipped", "not-a-head")


def test_the_sidecar_says_that_it_is_defaced(run):
    sidecar = json.loads(next((run / "results").rglob("sub-1*_CT.json")).read_text())
    assert sidecar["Defaced"] is True
    assert "Defaced" not in json.loads(next((run / "results").rglob("sub-3*_CT.json")).read_text())


def test_the_page_shows_the_profile_of_the_defaced_head_alone(run):
    text = (run / "results" / "report" / "index.html").read_text()
    shown = {(image, moment, stage) for image, moment, stage in re.findall(r"(\d_CT): sagittal view (before|after) (\w+)", text)}
    # the chest is shown as it is
    assert {entry for entry in shown if entry[0] == "1_CT"} == {("1_CT", "after", "deface")}
    assert not {entry for entry in shown if entry[0] == "2_CT"} and {entry for entry in shown if entry[0] == "3_CT"}
