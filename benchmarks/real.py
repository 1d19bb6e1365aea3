"""The pipeline on real scans: each folder of ../shared/data alone, then all as one cohort with three broken files.

    python -m benchmarks.real [--folder DIR] [--only brain-ms-multimodal,...]

Prints wall time, peak memory and what was set aside; the reports stay in the folder to be looked at. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
from pathlib import Path

from benchmarks.workflow import ROOT, command, measured
from cohortex.items import SET_ASIDE
from cohortex.tables import read_table

COLUMNS = ("subject", "session", "modality", "path", "body_part", "role", "acq")
Row = tuple[str, str, str, str, str, str, str]


def rows_of(data: Path) -> dict[str, list[Row]]:
    """Return the rows of each real cohort by its name; paths are absolute."""

    def row(subject: str, session: str, modality: str, path: str, body_part: str, role: str = "image", acq: str = "") -> Row:
        return (subject, session, modality, str(data / path), body_part, role, acq)

    multimodal = [
        row("ms07", "", suffix, f"brain-ms-multimodal/patient07/{file}.nii.gz", "head")
        for suffix, file in (("FLAIR", "FLAIR"), ("T1w", "T1"), ("T2w", "T2"))
    ]
    longitudinal = [
        row(subject, session, suffix, f"brain-ms-longitudinal/{patient}/raw/study{session}_{file}.nii.gz", "head")
        for subject, patient, visits in (("ms01", "patient01", "12"), ("ms20", "patient20", "2"))
        for session in visits
        for suffix, file in (("FLAIR", "FLAIR"), ("T1w", "T1W"), ("T2w", "T2W"))
        if (data / f"brain-ms-longitudinal/{patient}/raw/study{session}_{file}.nii.gz").is_file()
    ]
    prostate = []
    for case in range(6):
        for suffix, kind in (("T2w", "mr"), ("US", "us")):
            name = f"case{case:06d}.nii.gz"
            prostate.append(row(f"prostate{case}", "", suffix, f"prostate-mr-us/{kind}_images/{name}", "prostate"))
    return {
        "brain-ms-multimodal": multimodal,
        "brain-ms-longitudinal": longitudinal,
        "chest-ct-dicom": [row("lidc0314", "", "CT", "chest-ct-dicom/LIDC-IDRI-0314", "chest")],
        "abdomen-ct-mr": [
            row("abdct", "", "CT", "abdomen-ct-mr/example_ct_sm.nii.gz", "abdomen"),
            row("abdct", "", "CT", "abdomen-ct-mr/example_seg.nii.gz", "abdomen", "labels"),
            row("abdmr", "", "T1w", "abdomen-ct-mr/example_mr_sm.nii.gz", "abdomen"),
            row("abdmr", "", "T1w", "abdomen-ct-mr/example_seg_mr.nii.gz", "abdomen", "labels"),
        ],
        "spinal-cord-mr": [
            row("cord", "", "T1w", "spinal-cord-mr/t1/t1w.nii.gz", "spine"),
            row("cord", "", "T2w", "spinal-cord-mr/t2/t2.nii.gz", "spine"),
            row("cord", "", "MTw", "spinal-cord-mr/mt/mt1.nii.gz", "spine"),
            row("cord", "", "dwi", "spinal-cord-mr/dmri/dmri.nii.gz", "spine"),
        ],
        "prostate-mr-us": prostate,
        "lesion-nrrd": [
            row("nrrdbrain", "", "T1w", "lesion-nrrd/brain1_image.nrrd", "head"),
            row("nrrdbrain", "", "T1w", "lesion-nrrd/brain1_label.nrrd", "head", "mask"),
            row("nrrdbreast", "", "T1w", "lesion-nrrd/breast1_image.nrrd", "breast"),
            row("nrrdbreast", "", "T1w", "lesion-nrrd/breast1_label.nrrd", "breast", "mask"),
        ],
    }


def broken_rows(data: Path, folder: Path) -> list[Row]:
    """Make three broken scans: cut in half, a slice missing, not an image at all."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = (data / "spinal-cord-mr/t2/t2.nii.gz").read_bytes()
    (folder / "cut_T2w.nii.gz").write_bytes(whole[: len(whole) // 2])
    series = folder / "gap"
    shutil.copytree(data / "chest-ct-dicom/LIDC-IDRI-0314", series, dirs_exist_ok=True, copy_function=shutil.copyfile)
    positions = sorted(series.iterdir(), key=lambda path: _height(path))
    for path in positions[10:12]:
        path.unlink()
    (folder / "page_T1w.nii.gz").write_bytes(gzip.compress(b"<html>404 not found</html>"))
    return [
        ("broken1", "", "T2w", str(folder / "cut_T2w.nii.gz"), "spine", "image", ""),
        ("broken2", "", "CT", str(series), "chest", "image", ""),
        ("broken3", "", "T1w", str(folder / "page_T1w.nii.gz"), "head", "image", ""),
    ]


def _height(path: Path) -> float:
    import pydicom

    return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def write_rows(table: Path, rows: list[Row]) -> Path:
    """Write a cohort table."""
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join("\t".join(line) for line in [COLUMNS, *rows]) + "\n")
    return table


def set_aside(work_results: Path) -> list[str]:
    """Return the images that a run set aside, with their codes."""
    return [f"{row['image']}:{row['code']}" for row in read_table(work_results / "manifest.tsv") if row["status"] in SET_ASIDE]


def main() -> None:
    """Run the cohorts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cohortex-real")
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    data = ROOT.parent / "shared" / "data"
    cohorts = rows_of(data)
    cohorts["all"] = [row for rows in cohorts.values() for row in rows] + broken_rows(data, given.folder / "broken")
    figures = []
    for name, rows in cohorts.items():
        if given.only and name not in given.only.split(","):
            continue
        folder = given.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        table = write_rows(folder / "cohort.tsv", rows)
        cost = measured([*command(), "--config", f"input={table}"], folder)
        print(
            f"{name:24s} {cost.wall_s:6.1f} s {cost.peak_mb / 1000:5.2f} GB  set aside: {set_aside(folder / 'results') or 'none'}",
            flush=True,
        )
        figures.append(f"{name.replace('-', '_')}_s={cost.wall_s:.1f}")
    print("FIGURE", *figures)


if __name__ == "__main__":
    main()
