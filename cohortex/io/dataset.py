"""The files of the results that are about the whole dataset (BIDS derivatives)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cohortex import __version__
from cohortex.io.bids import ANAT, NOT_ALONE
from cohortex.privacy.conceal import HIDDEN
from cohortex.publish import write_json, write_text
from cohortex.report.records import safe_cell
from cohortex.report.tables import FOLDER, write_parquet
from cohortex.tables import read_columns, read_table, write_table

LISTS = Path(".cohortex/subjects")
"""Where in the results the list of each subject's files lies."""

IGNORED = (".cohortex", "report", "tables", "manifest.tsv", "manifest.json", "*_xfm.*", "*_table.*", "*.ozx", "*.dcm", "verdict.txt")
"""What BIDS does not have; folders without a slash at the end, with which the validator looks into them but not over them."""

README = """# Derivatives by Cohortex

Every image of the cohort as it left the chain of stages, with a JSON file beside it that says what was done to it, by which model, and
from which source. `report/index.html` shows the whole cohort, first of all what was set aside and why; `manifest.tsv` has the last
word on every image.

- `_desc-cohortex_`: an image after all stages. `_space-X_`: on the grid of X. `_dseg`: labels; what the values mean stands in
  `desc-*_dseg.tsv`.
- `_from-X_to-Y_mode-image_xfm`: affine transforms (ITK text) and displacement fields (ITK vector images), in LPS mm.
- `*.ozx`: a volume too large for NIfTI, as one zipped OME-Zarr file.
- `*.dcm`, where they were asked for: DICOM segmentations (`_dseg`, `_mask`), maps, reports (`_sr`), and the images that they refer to.
- `tables/`: the measures of every stage, and all tables as Parquet; the `.json` beside a table says what its columns mean.

Not for diagnosis.
"""


def write_dataset(results: str | Path, config: Mapping[str, Any]) -> None:
    """Write the files about the whole dataset: description, README, participants, names of labels, what a validator ignores.

    Parameters
    ----------
    results : path
        The folder that the subjects were exported to.
    config : mapping
        As run: ``input``, ``work`` and ``stages`` are looked at.

    Notes
    -----
    By ``manifest.tsv``, which the report writes before: what an earlier run exported of a subject whose images are all set aside now
    is deleted.
    """
    results = Path(results)
    results.mkdir(parents=True, exist_ok=True, mode=0o750)
    _withdraw(results)
    write_json(results / "dataset_description.json", _description(results, config))
    write_text(results / "README.md", README)
    lists = _lists(results)
    write_text(results / ".bidsignore", "\n".join([*IGNORED, *_not_bids(lists)]) + "\n")
    _write_participants(results, config)
    _write_labels(results, lists)
    for path in results.glob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o640)


def remove_files(results: Path, subject: str, names: Iterable[str]) -> None:
    """Delete files of a subject, and the folders that are empty then."""
    for name in sorted(names):
        # A list that was tampered with must not reach beyond the subject's own folder.
        if name.startswith(f"sub-{subject}/") and ".." not in Path(name).parts:
            (results / name).unlink(missing_ok=True)
            for empty in list((results / name).parents)[:3]:
                if empty == results or not empty.is_dir() or any(empty.iterdir()):
                    break
                empty.rmdir()


def _withdraw(results: Path) -> None:
    """Delete what an earlier run exported of subjects of whom nothing is left now: they never came to the export of this one."""
    manifest = results / "manifest.tsv"
    rows = set(read_columns(manifest, ("subject", "export.exported"))) if manifest.is_file() else set()
    exported = {subject for subject, file in rows if file}
    for subject in sorted({subject for subject, _ in rows} - exported):
        file = results / LISTS / f"{subject}.json"
        if file.is_file():
            remove_files(results, subject, json.loads(file.read_text(encoding="utf-8"))["files"])
            file.unlink()


def _description(results: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    source = Path(config["input"])
    content: dict[str, Any] = {
        "Name": "Derivatives by Cohortex",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "Cohortex", "Version": __version__, "Description": f"Stages: {', '.join(config['stages'])}"}],
    }
    if config["input"] == "demo":
        content["SourceDatasets"] = [{"Version": "simulated"}]
        content["Name"] = "Derivatives by Cohortex of a simulated cohort"
        return content
    if config["input"] == HIDDEN:
        return content
    try:
        told = json.loads((source / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return content
    content["Name"] = f"Derivatives by Cohortex of {told.get('Name') or source.name}"
    content["DatasetLinks"] = {"raw": Path(os.path.relpath(source, results)).as_posix()}
    origin: dict[str, str] = {"URL": content["DatasetLinks"]["raw"]}
    if told.get("DatasetDOI"):
        origin["DOI"] = told["DatasetDOI"]
    content["SourceDatasets"] = [origin]
    for key in ("License", "EthicsApprovals"):
        if key in told:
            content[key] = told[key]
    return content


def _lists(results: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / LISTS).glob("*.json"))}


def _not_bids(lists: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return patterns for what BIDS does not have as derivatives: folders such as ct, and files by what the validator says of them.

    One volume of a time series is none (func), a diffusion image without its gradients is none, and labels belong to anat, dwi and func.
    """
    found: set[str] = set()
    for content in lists.values():
        for name in content["files"]:
            folder = name.rsplit("/", 2)[-2]
            suffix = name.rpartition("_")[2].partition(".")[0]
            if folder not in ("anat", "dwi", "perf", "pet"):
                # The first form is what today's validator takes, the second what older ones and gitignore take.
                found |= {f"**/{folder}", f"**/{folder}/**"}
            elif folder == "anat" and suffix not in {*ANAT, "dseg", "mask", "xfm", "table"} - NOT_ALONE:
                found.add(f"*_{suffix}.*")
            elif folder == "dwi" and suffix == "dwi":
                found.add("*_dwi.*")
            elif folder in ("perf", "pet") and suffix in ("dseg", "mask"):
                found.add(f"**/{folder}/*_{suffix}.*")
            elif folder == "pet" and "_acq-" in name:
                found.add("**/pet/*_acq-*")
    return sorted(found)


def _write_participants(results: Path, config: Mapping[str, Any]) -> None:
    path = Path(config["work"]) / "cohort" / "participants.tsv"
    people = read_table(path) if path.is_file() else []
    rows = []
    for person in people:
        subject = person.pop("subject")
        if (results / f"sub-{subject}").is_dir():
            rows.append({"participant_id": f"sub-{subject}", **{key: safe_cell(value) or "n/a" for key, value in person.items()}})
    path, parquet = results / "participants.tsv", results / FOLDER / "participants.parquet"
    if rows:
        write_table(path, list(rows[0]), rows)
        write_json(path.with_suffix(".json"), _told_of_participants(list(rows[0]), Path(config["input"])))
        parquet.parent.mkdir(exist_ok=True, mode=0o750)
        write_parquet(path, parquet, lambda name: "word" if name == "participant_id" else "")
        parquet.chmod(0o640)
    else:
        for each in (path, path.with_suffix(".json"), parquet):
            each.unlink(missing_ok=True)


def _told_of_participants(columns: Iterable[str], source: Path) -> dict[str, Any]:
    """Return what columns of the participants mean: what a BIDS input says of them, for others where they come from."""
    try:
        told = json.loads((source / "participants.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    found: dict[str, Any] = {}
    for name in columns:
        own = told.get(name) if isinstance(told, dict) else None
        plain = {"Description": f"Column {name} of what the cohort's tables say of a subject"}
        found[name] = (
            {key: own[key] for key in ("LongName", "Description", "Levels", "Units") if key in own} if isinstance(own, dict) else plain
        )
    return {**found, "participant_id": {"Description": "The subject: sub- and its id in the cohort"}}


def _write_labels(results: Path, lists: Mapping[str, Mapping[str, Any]]) -> None:
    """Write for each ``desc`` of label maps a table of what their values mean."""
    names: dict[str, dict[str, str]] = {}
    for content in lists.values():
        for desc, labels in content["labels"].items():
            names.setdefault(desc, {}).update(labels)
    for path in results.glob("desc-*_dseg.tsv"):
        if path.name[5:-9] not in names:
            path.unlink()
    for desc, labels in names.items():
        lines = [f"{value}\t{labels[value]}" for value in sorted(labels, key=int)]
        write_text(results / f"desc-{desc}_dseg.tsv", "\n".join(["index\tname", "0\tbackground", *lines]) + "\n")
