"""DICOM: a series becomes the volume that it is, or is refused with the files that are wrong."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import iter_pixels
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from cohortex.errors import BadInput, Skip
from cohortex.io.dicom import read_dicom
from cohortex.io.dicom_pixels import number, numbers, plain_pixels, tag_of, text
from cohortex.io.series import notes_of, settled

ROWS, COLUMNS = 12, 10
SECRET = "ZZPHI9"


def voxels(count: int = 6) -> np.ndarray:
    """Whole numbers with axes (slice, row, column)."""
    return np.random.default_rng(1).integers(0, 2000, (count, ROWS, COLUMNS)).astype(np.uint16)


def dataset(pixels: np.ndarray, position: Any, orientation: Any = (1, 0, 0, 0, 1, 0), series: str = "1.2.3", **tags: Any) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.PatientID, made.PatientName = series, SECRET, f"{SECRET}^A"
    made.Modality, made.BodyPartExamined = "CT", "CHEST"
    made.Rows, made.Columns = pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.RescaleSlope, made.RescaleIntercept = 1, -1024
    made.PixelSpacing = [0.5, 0.25]
    if position is not None:
        made.ImagePositionPatient, made.ImageOrientationPatient = [float(v) for v in position], [float(v) for v in orientation]
    made.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def series(
    folder: Path, heights: Any = range(6), change: Callable[[int, FileDataset], None] | None = None, prefix: str = "s", **tags: Any
) -> Path:
    """Write a series whose files are named in reverse of the order of the slices."""
    folder.mkdir(exist_ok=True)
    heights = list(heights)
    data = voxels(len(heights))
    for i, z in enumerate(heights):
        made = dataset(data[i], (-10, -20, z), **{"InstanceNumber": i + 1, **tags})
        if change is not None:
            change(i, made)
        made.save_as(folder / f"{prefix}{len(heights) - 1 - i:03d}.dcm", enforce_file_format=True)
    return folder


def refused(path: Path, frames: Any = "skip", role: str = "image") -> BadInput:
    with pytest.raises(BadInput) as caught:
        [volume.array() for volume in read_dicom(path, role, frames)]
    assert SECRET not in caught.value.sentence
    assert str(path) not in caught.value.sentence
    return caught.value


def test_a_series_is_sorted_by_position_and_rescaled(tmp_path: Path) -> None:
    volume = read_dicom(series(tmp_path / "a", [2.5 * i for i in range(6)]))[0]
    assert np.array_equal(volume.array(), voxels().transpose(2, 1, 0).astype(np.float32) - 1024)
    assert volume.spacing == pytest.approx((0.25, 0.5, 2.5))
    # LPS (-10, -20, 0) is RAS (10, 20, 0); columns run to the left, rows to the back
    assert np.allclose(volume.affine, [[-0.25, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    assert (volume.modality, volume.body_part) == ("CT", "chest")
    assert not notes_of(volume)


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), spacing=st.floats(0.4, 8), origin=st.tuples(*[st.floats(-500, 500)] * 3))
@settings(max_examples=15, deadline=None)
def test_every_voxel_of_an_oblique_series_lies_where_its_tags_say(tmp_path_factory: Any, angles: Any, spacing: float, origin: Any) -> None:
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    folder = tmp_path_factory.mktemp("oblique")
    data = voxels(4)
    for i in range(4):
        position = np.array(origin) + axes[:, 2] * spacing * i
        dataset(data[i], position.round(6), np.concatenate([axes[:, 0], axes[:, 1]]).round(9)).save_as(
            folder / f"{9 - i}", enforce_file_format=True
        )
    volume = read_dicom(folder)[0]
    column, row, k = 3, 7, 2
    lps = np.array(origin) + axes[:, 0] * 0.25 * column + axes[:, 1] * 0.5 * row + axes[:, 2] * spacing * k
    assert np.allclose((volume.affine @ [column, row, k, 1])[:3], lps * [-1, -1, 1], atol=1e-4)
    assert volume.array()[column, row, k] == float(data[k, row, column]) - 1024


def test_a_missing_slice_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    error = refused(series(tmp_path / "a", [0, 1, 2, 5, 6, 7]))
    assert error.code == "missing-slices"
    assert "lacks 2 of 8 slices" in error.sentence
    assert "between s003.dcm and s002.dcm they are 3 mm apart, elsewhere 1 mm" in error.sentence


@pytest.mark.parametrize(
    ("heights", "change", "code"),
    [
        ([0, 1, 2, 4.5], None, "varying-spacing"),
        ([0, 1], None, "too-few-slices"),
        (range(6), lambda i, d: setattr(d, "ImagePositionPatient", [-10, -20 + i * np.tan(np.radians(15)), i]), "gantry-tilt"),
        (range(6), lambda i, d: setattr(d, "ImagePositionPatient", [-10 + 3 * (i == 3), -20, i]), "mixed-geometry"),
        (range(6), lambda i, d: setattr(d, "PixelSpacing", [0.5, 0.25 + 0.1 * (i == 3)]), "mixed-geometry"),
        (
            range(6),
            lambda i, d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 0, 1] if i % 2 else [1, 0, 0, 0, 1, 0]),
            "mixed-geometry",
        ),
        (range(6), lambda i, d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "bad-tag"),
        (range(6), lambda i, d: delattr(d, "ImagePositionPatient") if i == 2 else None, "no-affine"),
        (range(6), lambda i, d: delattr(d, "RescaleSlope") if i == 2 else None, "no-hu"),
        (range(6), lambda i, d: setattr(d, "PatientID", str(i)), "mixed-patients"),
        (range(6), lambda i, d: delattr(d, "PixelData") if i == 2 else None, "truncated"),
        (range(6), lambda i, d: setattr(d, "PixelData", d.PixelData[:100]) if i == 2 else None, "truncated"),
        (range(6), lambda i, d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535)), "truncated"),
        (range(6), lambda i, d: setattr(d, "Modality", "SEG"), "not-an-image"),
        (range(6), lambda i, d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(tmp_path: Path, heights: Any, change: Any, code: str) -> None:
    assert refused(series(tmp_path / "a", heights, change)).code == code


def test_slices_of_different_sizes_are_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", range(5))
    dataset(np.zeros((8, 8), np.uint16), (-10, -20, 5)).save_as(folder / "small.dcm", enforce_file_format=True)
    error = refused(folder)
    assert error.code == "mixed-geometry"
    assert "10x12" in error.sentence
    assert "8x8 (small.dcm)" in error.sentence


def test_a_rescale_of_each_slice_is_its_own(tmp_path: Path) -> None:
    def change(i: int, made: FileDataset) -> None:
        made.Modality, made.RescaleSlope, made.RescaleIntercept = "PT", 0.5 + i, 0

    values = read_dicom(series(tmp_path / "a", range(6), change))[0].array()
    expected = voxels().transpose(2, 1, 0) * (0.5 + np.arange(6))
    assert np.abs(values - expected).max() <= 1e-6 * expected.max()


def test_a_copied_slice_is_left_out_and_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    copy = pydicom.dcmread(folder / "s003.dcm")
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    copy.save_as(folder / "copy.dcm")
    volume = read_dicom(folder)[0]
    assert volume.shape == (10, 12, 6)
    assert notes_of(volume)[0][0] == "duplicate-slices"
    copy.PixelData = bytes(len(copy.PixelData))
    copy.save_as(folder / "copy.dcm")
    error = refused(folder)
    assert error.code == "duplicate-slices"
    assert "copy.dcm" in error.sentence


def test_of_two_series_the_longer_one_is_taken_and_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    series(folder, [0, 100], series="9.9", prefix="scout")
    (folder / "notes.txt").write_text("hello")
    volume = read_dicom(folder)[0]
    assert volume.shape == (10, 12, 6)
    assert notes_of(volume) == [
        ("several-series", "a/a holds 2 series; the one with most slices (6) was used.".replace("a/a", f"{tmp_path.name}/a"))
    ]


def test_a_scout_in_the_same_series_is_left_out_and_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    dataset(voxels(1)[0], (0, 0, 0), (0, 1, 0, 0, 0, -1)).save_as(folder / "scout.dcm", enforce_file_format=True)
    volume = read_dicom(folder)[0]
    assert volume.shape == (10, 12, 6)
    assert notes_of(volume)[0][0] == "scouts"


def test_files_that_are_not_dicom_are_left_out_and_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    (folder / "unknown").write_bytes(b"x" * 500)
    assert notes_of(read_dicom(folder)[0])[0] == (
        "not-dicom",
        f"{tmp_path.name}/a holds files that are not DICOM and were left out (unknown).",
    )
    (tmp_path / "b").mkdir()
    assert refused(tmp_path / "b").code == "not-dicom"
    assert refused(folder / "unknown").code == "not-dicom"


def test_an_object_without_pixels_or_class_beside_a_series_is_left_alone(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    other = dataset(np.zeros((2, 2), np.uint16), None, Rows=None, Columns=None, PixelData=None, Modality="SR")
    del other.file_meta.MediaStorageSOPClassUID
    other.save_as(folder / "report.dcm", enforce_file_format=False)
    assert read_dicom(folder)[0].shape == (10, 12, 6)


def test_a_cut_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    whole = (folder / "s003.dcm").read_bytes()
    for length in (140, 400, 500, 700, len(whole) // 2, len(whole) - 20):
        (folder / "s003.dcm").write_bytes(whole[:length])
        error = refused(folder)
        assert error.code == "truncated", length
        assert "s003.dcm" in error.sentence
    (folder / "s003.dcm").write_bytes(b"")
    assert refused(folder).code == "empty"


def test_too_much_pixel_data_is_told(tmp_path: Path) -> None:
    volume = read_dicom(series(tmp_path / "a", change=lambda i, d: setattr(d, "PixelData", d.PixelData + b"\0" * 488)))[0]
    assert not notes_of(volume)
    volume.array()
    assert [code for code, _ in notes_of(settled(volume))] == ["extra-bytes"] * 6


def test_broken_tags_that_nobody_needs_are_ignored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = series(tmp_path / "a")
    for path in folder.iterdir():
        data = path.read_bytes()
        # an LO of 80 characters and a thickness that is no number, put where pydicom would not write them
        extra = b"\x18\x00\x50\x00DS\x06\x00ZZPHI9" + b"\x18\x00\x30\x10LO\x50\x00" + b"ZZPHI9  " * 10
        at = data.index(b"\x20\x00\x0d\x00") if b"\x20\x00\x0d\x00" in data else data.index(b"\x20\x00\x0e\x00")
        path.write_bytes(data[:at] + extra + data[at:])
    assert read_dicom(folder)[0].shape == (10, 12, 6)
    assert SECRET not in "".join(capfd.readouterr())


def test_a_nested_header_does_not_end_the_program(tmp_path: Path) -> None:
    folder = series(tmp_path / "a")
    data = (folder / "s003.dcm").read_bytes()
    at = data.index(b"\x20\x00\x0e\x00")
    item = b"\x19\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (folder / "s003.dcm").write_bytes(data[:at] + item * 5000 + data[at:])
    assert refused(folder).code in ("corrupt", "truncated")


def test_monochrome1_is_inverted_for_pictures_but_not_for_hounsfield_units(tmp_path: Path) -> None:
    for modality, inverted in (("MR", True), ("CT", False)):
        folder = series(tmp_path / modality, PhotometricInterpretation="MONOCHROME1", Modality=modality, RescaleIntercept=0)
        stored = voxels().transpose(2, 1, 0).astype(np.float32)
        assert np.array_equal(read_dicom(folder)[0].array(), 4095 - stored if inverted else stored)


def test_padding_outside_the_field_of_view_becomes_air(tmp_path: Path) -> None:
    folder = series(
        tmp_path / "a",
        RescaleIntercept=-2048,
        PixelPaddingValue=0,
        change=lambda i, d: setattr(d, "PixelData", b"\0\0" * 5 + d.PixelData[10:]),
    )
    values = read_dicom(folder)[0].array()
    assert (values[:5, 0] == -1024).all()
    assert values.min() < -1024


def test_a_compressed_series_is_read_like_a_plain_one(tmp_path: Path) -> None:
    plain = read_dicom(series(tmp_path / "plain"))[0]
    packed = read_dicom(series(tmp_path / "rle", change=lambda i, d: d.compress(RLELossless)))[0]
    assert np.array_equal(plain.array(), packed.array())


@pytest.mark.parametrize("packed", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian"])
def test_slices_of_any_lossless_syntax_are_the_plain_ones(tmp_path: Path, packed: str) -> None:
    read_from = {}
    for name in ("MR_small", packed):
        source = pydicom.dcmread(str(get_testdata_file(f"{name}.dcm")))
        (tmp_path / name).mkdir()
        for i in range(3):
            source.ImagePositionPatient, source.ImageOrientationPatient = [0, 0, 2 * i], [1, 0, 0, 0, 1, 0]
            source.save_as(tmp_path / name / f"{i}.dcm")
        read_from[name] = read_dicom(tmp_path / name)[0]
    assert np.array_equal(read_from["MR_small"].array(), read_from[packed].array())
    assert np.ptp(read_from[packed].array()) > 100


def jpeg_baseline(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=98)
    return buffer.getvalue()


def test_a_lossy_jpeg_series_is_read_to_a_few_grey_values(tmp_path: Path) -> None:
    """As old CT and CR archives have it: 8 bits, baseline JPEG."""
    picture = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 3
    for i in range(3):
        made = dataset(np.zeros((32, 40), np.uint16), (0, 0, 2 * i), Modality="MR", RescaleIntercept=0)
        made.BitsAllocated, made.BitsStored, made.HighBit, made.Rows, made.Columns = 8, 8, 7, 32, 40
        made.PixelData = encapsulate([jpeg_baseline(picture)])
        made["PixelData"].VR = "OB"
        made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        made.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
    volume = read_dicom(tmp_path)[0]
    assert np.abs(volume.array()[:, :, 1].T - picture).max() <= 4


def test_junk_in_a_compressed_stream_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    source = pydicom.dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    for i in range(4):
        source.ImagePositionPatient = [0, 0, i]
        source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        source.save_as(folder / f"{i}.dcm")
    assert read_dicom(folder)[0].shape == (64, 64, 4)
    data = bytearray((folder / "2.dcm").read_bytes())
    start = data.index(b"\xff\x4f\xff\x51")
    data[start + 4 : start + 400] = os.urandom(396)
    (folder / "2.dcm").write_bytes(data)
    assert refused(folder).code in ("corrupt-pixels", "truncated")


def test_time_points_at_one_place_are_a_series_of_volumes(tmp_path: Path) -> None:
    folder = series(tmp_path / "a", range(5), TemporalPositionIdentifier=2)
    for path in sorted(folder.iterdir()):
        made = pydicom.dcmread(path)
        made.TemporalPositionIdentifier, made.PixelData = 1, bytes(len(made.PixelData))
        made.save_as(folder / f"t{path.name}")
    with pytest.raises(Skip, match="2 volumes"):
        read_dicom(folder)
    first, second = read_dicom(folder, frames="each")
    assert (first.array() == -1024).all()
    assert np.array_equal(second.array(), voxels(5).transpose(2, 1, 0) - 1024.0)


def enhanced(heights: Any) -> FileDataset:
    heights = list(heights)
    made = dataset(voxels(len(heights)), None, NumberOfFrames=len(heights), PixelSpacing=None, RescaleSlope=None, RescaleIntercept=None)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [0.5, 0.25]
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for z in heights:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, z]
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return made


def test_an_enhanced_multiframe_file_is_checked_like_a_series(tmp_path: Path) -> None:
    enhanced([5, 4, 3, 2, 1, 0]).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = read_dicom(tmp_path / "a.dcm")[0]
    assert np.array_equal(volume.array(), voxels()[::-1].transpose(2, 1, 0) - 1024.0)
    assert np.allclose(volume.affine, [[-0.25, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 1, 0], [0, 0, 0, 1]])
    enhanced([0, 1, 2, 4, 5, 6]).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    error = refused(tmp_path / "b.dcm")
    assert error.code == "missing-slices"
    assert "frame 3" in error.sentence
    assert "frame 4" in error.sentence


def test_a_radiograph_becomes_a_picture(tmp_path: Path) -> None:
    made = dataset(
        voxels(1)[0], None, Modality="DX", PixelSpacing=None, RescaleSlope=None, RescaleIntercept=None, ImagerPixelSpacing=[0.2, 0.1]
    )
    made.PhotometricInterpretation = "MONOCHROME1"
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    picture = read_dicom(tmp_path / "a.dcm")[0]
    assert picture.shape == (10, 12, 1)
    assert picture.spacing == pytest.approx((0.1, 0.2, 1))
    assert picture.modality == "XR"
    assert np.array_equal(picture.array()[:, :, 0].T, 4095.0 - voxels(1)[0])


@pytest.mark.parametrize("file", ["examples_rgb_color.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm", "ExplVR_BigEnd.dcm"])
def test_coloured_ultrasound_becomes_grey(file: str) -> None:
    path = Path(str(get_testdata_file(file)))
    with pytest.raises(BadInput, match="BurnedInAnnotation NO"):
        read_dicom(path)
    picture = read_dicom(path, burned_in="take")[0]
    assert picture.modality == "US"
    assert picture.array().ndim == 3
    assert picture.array().std() > 0


def test_colours_are_no_labels() -> None:
    from cohortex.items import Image
    from cohortex.stages.acquire import acquire

    path = str(get_testdata_file("examples_rgb_color.dcm"))
    with pytest.raises(BadInput, match="no whole numbers"):
        acquire(Image("1_US", "1", "", "US", "labels", "labels", row={"path": path}), {"burned_in": "take"}, None, 0)


def test_every_file_of_pydicom_is_read_or_refused() -> None:
    folder = Path(str(get_testdata_file("CT_small.dcm"))).parent
    for path in sorted(folder.glob("*.dcm")):
        try:
            [volume.array() for volume in read_dicom(path, frames="first")]
        except BadInput as error:
            assert path.name in error.sentence


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("stored", [0, 1, 4])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_plain_pixels_are_those_that_pydicom_decodes(tmp_path: Path, bits: int, stored: int, signed: int, syntax: Any) -> None:
    rng = np.random.default_rng(bits + stored)
    values = rng.integers(0, 2**bits, (5, 7), dtype=np.uint64).astype(f"<u{bits // 8}").tobytes()
    made = dataset(np.zeros((5, 7), np.uint16), (0, 0, 0))
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - stored, bits - stored - 1, signed
    made.PixelData, made.file_meta.TransferSyntaxUID = values + b"\0" * (len(values) % 2), syntax
    made["PixelData"].VR = "OW"
    pydicom.dcmwrite(tmp_path / "a.dcm", made, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=True)
    with (tmp_path / "a.dcm").open("rb") as file:
        header, end = pydicom.dcmread(file, stop_before_pixels=True), file.tell()
    ours, theirs = plain_pixels(tmp_path / "a.dcm", header, end), next(iter_pixels(pydicom.dcmread(tmp_path / "a.dcm")))
    assert ours is not None
    assert np.array_equal(ours[0], theirs)
    assert (ours[0].dtype, ours[1]) == (theirs.dtype, 0)


def test_values_of_tags_are_found_by_keyword_and_what_is_unreadable_is_none() -> None:
    one = Dataset()
    one.PixelSpacing, one.Rows, one.Modality = [0.5, 2.0], 7, "MR"
    assert numbers(one, "PixelSpacing", 2) == (0.5, 2.0) and numbers(one, "PixelSpacing", 3) is None
    assert number(one, "Rows") == 7 and number(one, "Columns") is None
    assert text(one, "Modality") == "MR" and text(one, "BodyPartExamined") == ""
    one.EchoTime = "1e999"
    assert number(one, "EchoTime") is None
    with pytest.raises(AssertionError):
        tag_of("NoSuchKeyword")
