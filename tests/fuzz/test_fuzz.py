"""A few hundred spoiled files of every format in the tests; `python -m benchmarks.robustness` tries 100,000 each."""

from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.spoil import GOOD, read_spoiled, spoil

COUNT = {"zarr": 40, "zarr 2": 40, "hdf5": 60, "dicom": 60, "model": 60, "tiff": 60, "table": 200, "config": 100}
FEW = 100
FOUND = {
    "dicom": (87038,),
    "zarr 2": (24730,),
    "png": (15894, 17010),
    "metaimage": (55138,),
    "nrrd": (80617,),
    "tiff": (11360, 11659, 12010),
    "hdf5": (10404, 10936, 27270, 52793, 91124),
}
"""Seeds of files that the long run has found to end as something else once."""


@pytest.mark.parametrize("form", GOOD)
def test_a_good_file_is_taken(form: str, tmp_path: Path) -> None:
    assert read_spoiled(form, GOOD[form](tmp_path)) == "taken"


@pytest.mark.parametrize("form", GOOD)
def test_whatever_comes_a_reader_gives_an_image_or_a_sentence(form: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good = GOOD[form](tmp_path / "good")
    for seed in (*range(COUNT.get(form, FEW)), *FOUND.get(form, ())):
        spoil(good, tmp_path / good.name, np.random.default_rng([7, seed]))
        try:
            read_spoiled(form, tmp_path / good.name)
        except Exception as error:
            error.add_note(f"{form}, seed {seed}")
            raise
