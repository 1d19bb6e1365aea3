"""Acquisition: canonical axes, honest values, and a word for everything that is odd."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cohortex.errors import BadInput, Skip
from cohortex.io.geometry import check_affine, to_ras
from cohortex.io.nifti import write_nifti
from cohortex.items import Image, Made
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume

SHAPE = (11, 12, 13)


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, size=shape).astype(np.float32)


def run(path: Path, modality: str = "T1w", role: str = "image", volume: str = "skip", **row: str) -> Any:
    image = Image("001_T1w", "001", "", modality, "image" if role == "image" else "labels", role, "head", row={"path": str(path), **row})
    return acquire(image, {"volume": volume}, None, 0)


def written(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    write_nifti(path, Volume(data, np.eye(4) if affine is None else affine))
    return path


def code(path: Path, **how: Any) -> str:
    with pytest.raises(BadInput) as caught:
        run(path, **how)
    assert path.name in caught.value.sentence
    assert str(path) not in caught.value.sentence
    return caught.value.code


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), flips=st.tuples(*[st.sampled_from([-1, 1])] * 3))
@settings(max_examples=80, deadline=None)
def test_every_voxel_stays_where_it_is_when_axes_become_canonical(angles: Any, flips: Any) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [1, 2, 3] * flips
    affine[:3, 3] = [5, -7, 11]
    data = np.arange(24).reshape(2, 3, 4)
    out, new = to_ras(data, affine)
    index = np.argwhere(out == 17)[0]
    assert np.allclose(new @ [*index, 1], affine @ [*np.argwhere(data == 17)[0], 1], atol=1e-9)
    axes = new[:3, :3] / np.linalg.norm(new[:3, :3], axis=0)
    # no other order or direction of the axes is closer to R, A, S
    assert (np.diag(axes) > 0).all()
    for order in [(0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)]:
        assert np.trace(axes) >= np.abs(axes[:, list(order)].diagonal()).sum() - 1e-9


def test_an_image_arrives_as_float32_with_what_the_table_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii.gz", noise().astype(np.int16), np.diag([-1.0, -1, 2, 1]))
    made = run(path)
    volume = made.content
    assert volume.array().dtype == np.float32
    assert np.array_equal(volume.array(), noise().astype(np.int16)[::-1, ::-1].astype(np.float32))
    assert np.array_equal(np.diag(volume.affine), [1, 1, 2, 1])
    assert (volume.modality, volume.body_part, volume.kind, made.status) == ("T1w", "head", "image", "ok")
    assert made.measures["voxels"] == np.prod(SHAPE)
    assert made.measures["intensity_p01"] == pytest.approx(np.percentile(volume.array(), 1))
    assert [step["step"] for step in volume.history] == ["read", "acquire"]


def test_the_same_scan_stored_in_another_orientation_is_acquired_the_same(tmp_path: Path) -> None:
    data = noise()
    plain = run(written(tmp_path / "a.nii.gz", data)).content
    stored = np.ascontiguousarray(data.transpose(2, 0, 1)[::-1])
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, SHAPE[2] - 1], [0, 0, 0, 1]], float)
    turned = run(written(tmp_path / "b.nii.gz", stored, affine)).content
    assert plain.sha256() == turned.sha256()


def test_messages_name_a_file_relative_to_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    path = tmp_path / "sub-01" / "anat" / "x_T1w.nii.gz"
    path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"^sub-01/anat/x_T1w.nii.gz is empty"):
        run(path, root=str(tmp_path))
    with pytest.raises(BadInput, match=r"^anat/x_T1w.nii.gz is empty"):
        run(path)


def test_nan_voxels_are_counted_and_anything_worse_is_refused(tmp_path: Path) -> None:
    data = noise()
    data[1, 2, 3] = np.nan
    made = run(written(tmp_path / "one.nii.gz", data))
    assert (made.status, made.code, made.measures["nan_voxels"]) == ("warned", "nan-voxels", 1)
    assert made.content.data[1, 2, 3] == 0
    assert code(written(tmp_path / "all.nii.gz", data * np.nan)) == "all-nan"
    data[1, 2, 3] = -np.inf
    assert code(written(tmp_path / "inf.nii.gz", data)) == "infinite"
    assert code(written(tmp_path / "flat.nii.gz", np.full(SHAPE, 7, np.float32))) == "constant"


def test_an_image_that_is_too_small_is_refused_but_a_slice_is_not(tmp_path: Path) -> None:
    assert code(written(tmp_path / "a.nii.gz", noise((30, 7, 7)))) == "too-small"
    assert code(written(tmp_path / "b.nii.gz", noise((2, 1, 1)))) == "too-small"
    assert run(written(tmp_path / "c.nii.gz", noise((64, 64, 1)))).status == "ok"


def test_a_ct_must_look_like_hounsfield_units(tmp_path: Path) -> None:
    hounsfield = noise() * 10 - 2000
    assert run(written(tmp_path / "a.nii.gz", hounsfield), modality="CT").status == "ok"
    made = run(written(tmp_path / "b.nii.gz", np.abs(noise())), modality="CT")
    assert (made.status, made.code) == ("warned", "not-hu")
    assert code(written(tmp_path / "c.nii.gz", hounsfield * 1e3), modality="CT") == "hu-range"


def test_labels_become_small_unsigned_integers(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.float64)
    labels[2:5], labels[6:8] = 3, 200
    made = run(written(tmp_path / "a.nii.gz", labels), role="labels")
    assert made.content.kind == "labels"
    assert made.content.data.dtype == np.uint8
    assert made.measures["labels"] == 2
    labels[8] = 1024
    assert run(written(tmp_path / "b.nii.gz", labels), role="labels").content.data.dtype == np.uint16


@pytest.mark.parametrize("value", [70000, 1.5, -1, np.nan])
def test_impossible_labels_are_refused_and_listed(tmp_path: Path, value: float) -> None:
    labels = np.zeros(SHAPE)
    labels[0, 0, 0] = value
    path = written(tmp_path / "a.nii.gz", labels)
    with pytest.raises(BadInput, match=f"{value:g}") as caught:
        run(path, role="labels")
    assert caught.value.code == "bad-labels"


def test_a_mask_of_two_values_becomes_0_and_1(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6] = 255
    assert set(np.unique(run(written(tmp_path / "a.nii.gz", mask), role="mask").content.data)) == {0, 1}
    empty = run(written(tmp_path / "b.nii.gz", mask * 0), role="mask")
    assert (empty.status, empty.code) == ("warned", "empty-labels")


def test_a_series_is_skipped_or_taken_apart(tmp_path: Path) -> None:
    import nibabel as nib

    data = noise((*SHAPE, 3))
    nib.save(nib.nifti1.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(Skip) as caught:
        run(tmp_path / "a.nii.gz")
    assert caught.value.code == "four-d"
    series, *each = run(tmp_path / "a.nii.gz", volume="each")
    assert (series.of, series.tag, series.content, series.measures) == ("001_T1w", "", None, {"volumes": 3})
    assert [(made.tag, made.of) for made in each] == [("t000", "001_T1w"), ("t001", "001_T1w"), ("t002", "001_T1w")]
    assert np.array_equal(each[2].content.array(), data[..., 2])
    mean = run(tmp_path / "a.nii.gz", volume="mean")
    assert isinstance(mean, Made)
    assert np.allclose(mean.content.array(), data.mean(axis=3), rtol=1e-5)
    first = run(tmp_path / "a.nii.gz", volume="first")
    assert np.array_equal(first.content.array(), data[..., 0])


def test_a_field_is_no_image(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", Volume(noise((*SHAPE, 3)), np.eye(4), kind="field"))
    assert code(tmp_path / "a.nii.gz") == "not-an-image"


def test_a_sheared_or_absurd_grid_is_refused() -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    for affine, expected in [
        (sheared, "sheared-affine"),
        (np.diag([1000.0, 1, 1, 1]), "bad-spacing"),
        (np.diag([1.0, 1, 0, 1]), "singular-affine"),
    ]:
        with pytest.raises(BadInput) as caught:
            check_affine(affine, "x")
        assert caught.value.code == expected


def test_the_settings_that_are_shipped_fit_their_schema(root: Path) -> None:
    import json

    import yaml
    from jsonschema import Draft202012Validator

    schema = json.loads((root / "schemas/stages/acquire.json").read_text())
    section = yaml.safe_load((root / "config.yaml").read_text())["acquire"]
    for mapping in section.values():
        assert not list(Draft202012Validator(schema).iter_errors(mapping))
    assert list(Draft202012Validator(schema).iter_errors({"volume": "all"}))


def test_the_history_holds_the_code_of_an_oddity_and_no_name_of_a_file(tmp_path: Path) -> None:
    import nibabel as nib

    from cohortex.io.ozx import write_ozx

    odd = nib.nifti1.Nifti1Image(noise(), np.eye(4))
    odd.set_sform(np.diag([1, 1, 1, 1.0]), 1)
    odd.set_qform(np.diag([1, 1, 2, 1.0]), 1)
    nib.save(odd, tmp_path / "DOE_JANE.nii.gz")
    made = run(tmp_path / "DOE_JANE.nii.gz")
    assert (made.status, made.code) == ("warned", "two-affines") and "DOE_JANE" in made.reason
    assert made.content.history[0]["notes"] == ["two-affines"]
    assert "JANE" not in str(made.content.history)
    write_ozx(tmp_path / "again.ozx", made.content)
    assert run(tmp_path / "again.ozx").status == "ok"
