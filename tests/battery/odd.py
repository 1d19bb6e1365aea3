"""Odd files of other people: those that pydicom and nibabel ship, and those of the optional folder of test data.

`odd_files.tsv` lists every one with what must come of it, and for a file that is read the sum of its voxels; ``python -m
tests.battery.odd`` writes the list anew, to be read before it is kept.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.tables import read_table, write_table

LIST = Path(__file__).with_name("odd_files.tsv")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "dicom-odd"
OURS = (".py", ".rst", ".md", ".txt", ".tsv", ".gitignore", ".pyc", ".json")
"""Files beside the data."""


def places() -> dict[str, Path]:
    """Return the folders of odd files that are here."""
    import nibabel
    import pydicom

    found = {
        "nibabel": Path(str(nibabel.__file__)).parent / "tests" / "data",
        "pydicom": Path(str(pydicom.__file__)).parent / "data" / "test_files",
        "shared": SHARED,
    }
    return {name: folder for name, folder in found.items() if folder.is_dir()}


def odd_files() -> dict[str, Path]:
    """Return every odd file that is here, and every folder of several, by its name in the list."""
    found = {}
    for place, folder in places().items():
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(OURS)]
        files = [path for path in files if "__pycache__" not in path.parts]
        held = Counter(path.parent for path in files)
        series = [path for path, count in sorted(held.items()) if count > 1 and path != folder]
        found |= {f"{place}/{path.relative_to(folder).as_posix()}": path for path in files}
        found |= {f"{place}/{path.relative_to(folder).as_posix()}/": path for path in series}
    return found


def came_of(path: Path) -> tuple[str, str]:
    """Return what comes of a file: ``read`` and the sum of shapes, affines and voxels, or ``set aside`` or ``skipped`` and the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            digest = hashlib.sha256()
            for volume in read(path, frames="each"):
                # to six digits, for decoders of lossy pictures differ in the last ones
                values = np.round(np.asarray(volume.data[...], dtype=np.float64), 3)
                digest.update(f"{volume.shape} {np.round(volume.affine, 4).tolist()} {values.mean():.6g} {values.std():.6g}".encode())
        except BadInput as bad:
            return "set aside", bad.code
        except Skip as skip:
            return "skipped", skip.code
    return "read", digest.hexdigest()[:12]


def expected() -> dict[str, tuple[str, str]]:
    """Return the list: name of the file to verdict and code."""
    return {row["file"]: (row["verdict"], row["code"]) for row in read_table(LIST)}


if __name__ == "__main__":
    rows = [dict(zip(("file", "verdict", "code"), (name, *came_of(path)), strict=True)) for name, path in odd_files().items()]
    write_table(LIST, ["file", "verdict", "code"], rows)
