"""The one list of DICOM tags that are read: nothing else is asked for, and nothing else leaves."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.datadict import keyword_dict

import cohortex
from cohortex.errors import BadInput
from cohortex.io.dicom_tags import DAYS, EXPORTED, INDEXED, META, READ, SCANNER, tag_rows
from cohortex.io.ozx import write_ozx
from cohortex.items import Image, Made
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume
from tests.battery.case import SECRET
from tests.battery.dicom import SLICES, STORED, dataset
from tests.battery.planted import plant, seen, text_tags

SOURCES = Path(cohortex.__file__).parent
LISTED = {tag.keyword for tag in (*READ, *META)} | {tag.within for tag in READ}


def words(file: Path) -> set[str]:
    """Return the texts and attributes of a module that are keywords of DICOM."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    found = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return (found | {node.attr for node in nodes if isinstance(node, ast.Attribute)}) & set(keyword_dict) - {""}


@pytest.mark.parametrize("name", ["dicom", "dicom_pixels", "dicom_geometry", "dicom_deflated"])
def test_the_reader_names_no_tag_that_is_not_listed(name):
    assert words(SOURCES / "io" / f"{name}.py") <= LISTED


def test_the_index_names_no_tag_that_is_not_listed():
    assert words(SOURCES / "cohort" / "index.py") <= {tag.keyword for tag in (*INDEXED, *META)}


def test_the_name_of_a_scanner_is_made_of_the_listed_tags():
    assert words(SOURCES / "cohort" / "scanners.py") <= {tag.keyword for tag in SCANNER}
    assert [tag.keyword for tag in SCANNER] == ["Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"]


def test_export_asks_a_scan_for_no_tag_that_is_not_listed():
    source = SOURCES / "io" / "dicom_source.py"
    # worked out of the positions, not read
    written = {"SliceThickness"}
    assert words(source) - written <= LISTED | {tag.keyword for tag in EXPORTED}


def test_every_listed_tag_is_one_of_dicom_and_the_page_has_them_all(root):
    assert set(keyword_dict) >= LISTED - {""}
    page = (root / "docs" / "privacy.md").read_text(encoding="utf-8")
    for tags in (READ, META, SCANNER, INDEXED, EXPORTED):
        assert "\n".join(tag_rows(tags)) in page


def planted(folder: Path, spoil: bool = False) -> Path:
    (folder / "a").mkdir()
    for i in range(SLICES):
        made = dataset(STORED[i], (0, 0, i), InstanceNumber=i + 1)
        count = plant(made, within=i == 0)
        assert count > 500
        made.PatientID, made.ImageType, made.BodyPartExamined = SECRET, ["ORIGINAL", "PRIMARY", SECRET], SECRET
        for keyword in DAYS:
            setattr(made, keyword, "18880101")
        if spoil and i == 4:
            made.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
        made.save_as(folder / "a" / f"{i}.dcm", enforce_file_format=True)
    assert seen((folder / "a" / "0.dcm").read_bytes())
    return folder / "a"


def image(path: Path, **row: str) -> Image:
    return Image("001_CT", "001", "", "CT", "image", row={"path": str(path), "root": str(path.parent), **row})


def test_there_are_texts_of_all_kinds_to_plant_in():
    assert {vr for _, vr, _ in text_tags()} >= {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}


def test_nothing_of_what_is_planted_in_every_other_tag_comes_out(tmp_path, capfd, caplog, recwarn):
    made = acquire(image(planted(tmp_path), dates="given"), {}, None, 0)
    assert isinstance(made, Made)
    volume = made.content
    assert isinstance(volume, Volume)
    assert np.ptp(volume.array()) > 0
    write_ozx(tmp_path / "a.ozx", volume)
    assert not seen((tmp_path / "a.ozx").read_bytes())
    told = json.dumps([made.measures, made.code, made.reason, volume.history, volume.body_part, volume.modality, volume.date], default=str)
    assert SECRET not in told
    # a day before 1900 is no day, and is not told
    assert (made.measures["date"], made.status) == ("", "ok")
    assert "1888" not in told
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text + "".join(str(each.message) for each in recwarn)


def test_what_is_wrong_with_a_slice_is_told_without_a_word_of_its_tags(tmp_path, capfd, caplog):
    with pytest.raises(BadInput) as caught:
        acquire(image(planted(tmp_path, spoil=True)), {}, None, 0)
    assert "4.dcm" in caught.value.sentence
    assert SECRET not in caught.value.sentence + "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize(
    ("tags", "day"),
    [
        ({"AcquisitionDate": "20240301", "SeriesDate": "20240302", "StudyDate": "20240303"}, "2024-03-01"),
        ({"AcquisitionDate": "", "StudyDate": "20240303"}, "2024-03-03"),
        ({"SeriesDate": "20240302"}, "2024-03-02"),
        ({"AcquisitionDate": "00000000"}, ""),
        ({}, ""),
    ],
)
def test_the_day_of_a_series_is_told_where_days_are_and_shifted_by_the_days_of_its_row(tmp_path, tags, day):
    (tmp_path / "a").mkdir()
    for i in range(SLICES):
        dataset(STORED[i], (0, 0, i), InstanceNumber=i + 1, **tags).save_as(tmp_path / "a" / f"{i}.dcm", enforce_file_format=True)

    def measures(**row: str) -> dict[str, object]:
        made = acquire(image(tmp_path / "a", **row), {}, None, 0)
        assert isinstance(made, Made)
        assert isinstance(made.content, Volume)
        assert made.content.date == ""
        return dict(made.measures)

    assert measures(dates="given")["date"] == day
    assert "date" not in measures()
    assert measures(dates="shifted", days="-1")["date"] == (day and f"2024-{'02-29' if day == '2024-03-01' else f'03-0{int(day[-1]) - 1}'}")
    assert measures(dates="given", date="2020-01-01")["date"] == "2020-01-01"


def test_a_day_that_is_no_date_of_dicom_sets_nothing_aside(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(SLICES):
        made = dataset(STORED[i], (0, 0, i), InstanceNumber=i + 1, StudyDate="20240301")
        path = tmp_path / "a" / f"{i}.dcm"
        made.save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes().replace(b"20240301", b"ZZPHI9??"))
    made = acquire(image(tmp_path / "a", dates="given"), {}, None, 0)
    assert isinstance(made, Made)
    assert (made.status, made.measures["date"]) == ("ok", "")
