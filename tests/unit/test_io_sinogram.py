"""Projections of the Data Exchange layout become the slices that were projected, whatever the axis, the turn and the memory."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.io import read
from cohortex.io.scratch import Scratch
from cohortex.io.series import notes_of
from cohortex.items import Image, Made
from cohortex.physics.ct import radon
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume

PIXEL_MM = 0.5
SIZE, ROWS, BINS = 41, 9, 71


def object_() -> np.ndarray:
    """Return two discs in a larger one that shrinks from row to row, attenuation in 1/mm."""
    x, y = np.meshgrid(np.arange(SIZE) - SIZE // 2, np.arange(SIZE) - SIZE // 2, indexing="ij")
    rows = [0.02 * (x**2 + y**2 < (17 - z) ** 2) + 0.03 * ((x - 6) ** 2 + y**2 < 9) for z in range(ROWS)]
    return np.stack(rows, axis=2).astype(np.float32)


def exchange(path: Path, views: int = 120, turn: float = 180.0, cut: int = 6, ends: bool = False, **change: Any) -> Path:
    """Write projections whose axis falls onto the column BINS // 2 - cut."""
    angles = np.linspace(0, turn, views, endpoint=ends)
    integrals = radon(object_(), np.radians(angles), PIXEL_MM, BINS)[:, cut:].transpose(0, 2, 1)
    dark, beam = np.float32(50), np.linspace(800, 1000, BINS - cut, dtype=np.float32)
    content: dict[str, Any] = {
        "data": dark + beam * np.exp(-integrals),
        "data_white": np.broadcast_to(dark + beam, (3, ROWS, BINS - cut)),
        "data_dark": np.full((2, ROWS, BINS - cut), dark),
        "theta": angles,
        **change,
    }
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            if values is not None:
                file[f"exchange/{key}"] = values
    return path


def code(path: Path, spacing_mm: Any = (PIXEL_MM, PIXEL_MM, 1.0)) -> str:
    with pytest.raises(BadInput) as caught:
        [volume.array() for volume in read(path, spacing_mm=spacing_mm)]
    assert path.name in caught.value.sentence
    assert ": " in caught.value.sentence
    return caught.value.code


@pytest.mark.parametrize(("turn", "ends", "cut"), [(180.0, False, 6), (180.0, True, 0), (360.0, False, 11), (-180.0, False, 6)])
def test_slices_are_those_that_were_projected(tmp_path: Path, turn: float, ends: bool, cut: int) -> None:
    (volume,) = read(exchange(tmp_path / "a.h5", 240 if abs(turn) > 180 else 120, turn, cut, ends), spacing_mm=(PIXEL_MM, PIXEL_MM, 1.0))
    assert volume.history[0]["axis_column"] == BINS // 2 - cut
    width = volume.shape[0]
    assert volume.shape == (width, width, ROWS)
    # the circle that every view sees: up to the nearer end of the detector
    assert width == 2 * (BINS // 2 - cut) + 1
    assert volume.spacing == pytest.approx((PIXEL_MM, PIXEL_MM, 1))
    inner = slice((width - SIZE) // 2, (width + SIZE) // 2)
    made, wanted = volume.array()[inner, inner], object_()
    assert made[20, 26, 2] == pytest.approx(0.02, rel=0.05)
    assert made[26, 20, 2] == pytest.approx(0.05, rel=0.1)
    assert np.corrcoef(made.ravel(), wanted.ravel())[0, 1] > 0.95


def test_a_tall_detector_is_reconstructed_a_few_rows_at_a_time_to_the_same_bytes(tmp_path: Path) -> None:
    path = exchange(tmp_path / "a.h5")
    image = Image("1_CT", "1", "", "", "image", row={"path": str(path)})
    made = []
    for plan in (Plan(), Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        with planned(plan):
            found = acquire(image, {"spacing_mm": [PIXEL_MM, PIXEL_MM, 1.0]}, None, 0)
            assert isinstance(found, Made)
            assert isinstance(found.content, Volume)
            made.append(found)
    assert isinstance(made[1].content.data, Scratch)
    assert made[0].content.sha256() == made[1].content.sha256()
    assert made[0].measures == made[1].measures
    assert made[0].code == made[1].code == "orientation-assumed"


def test_dead_pixels_are_told_and_angles_may_be_radians(tmp_path: Path) -> None:
    path = exchange(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["exchange/data_white"][:, 3, 40] = 50
        file["exchange/theta"][...] = np.radians(file["exchange/theta"][:])
        file["exchange/theta"].attrs["units"] = "radians"
    (volume,) = read(path, spacing_mm=(PIXEL_MM, PIXEL_MM, 1.0))
    assert [note for note, _ in notes_of(volume)] == ["orientation-assumed", "dead-pixels"]
    assert np.isfinite(volume.array()).all()


def test_what_cannot_be_reconstructed_is_refused(tmp_path: Path) -> None:
    assert code(exchange(tmp_path / "a.h5"), None) == "no-spacing"
    assert code(exchange(tmp_path / "a.h5"), (0.5, 0.6, 1)) == "no-spacing"
    assert code(exchange(tmp_path / "a.h5", turn=120)) == "limited-angle"
    assert code(exchange(tmp_path / "a.h5", theta=None)) == "bad-header"
    assert code(exchange(tmp_path / "a.h5", data_white=None)) == "bad-header"
    assert code(exchange(tmp_path / "a.h5", theta=np.arange(7.0))) == "bad-header"
    assert code(exchange(tmp_path / "a.h5", theta=np.sqrt(np.arange(120.0)))) == "bad-header"
    assert code(exchange(tmp_path / "a.h5", data=np.zeros((5, 6)))) == "bad-shape"
    assert code(exchange(tmp_path / "a.h5", data_white=np.ones((1, 2, 3)))) == "bad-shape"
    assert code(exchange(tmp_path / "a.h5", data_white=np.zeros((1, ROWS, BINS - 6)))) == "bad-header"
    path = exchange(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["exchange/data"][33, 4, 5] = np.nan
    assert code(path) == "non-finite"
