"""Make the scans of demo subjects and the truth about them, one subject at a time, each complete or not there."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.demo.table import DEMO_VERSION, traits
from cohortex.tables import read_table

TRUTH = "derivatives/truth"
LANDMARKS = 60


def make_batch(table: str | Path, folder: str | Path, seed: int, threads: int = 1, log: str | Path | None = None) -> None:
    """Make the subjects of a batch's table.

    Parameters
    ----------
    table : path
        Tab-separated, as the cohort's batches are.
    folder : path
        Receives ``<subject>/`` and ``derivatives/truth/<subject>/``.
    seed : int
        The same seed and subject give the same bytes.
    threads : int
        Subjects made at a time.
    log : path, optional
        Receives the progress, too.
    """
    make_demo(read_table(table), folder, seed, threads, log)


def make_demo(rows: Sequence[Mapping[str, str]], folder: str | Path, seed: int, threads: int = 1, log: str | Path | None = None) -> None:
    """Make all subjects that rows of the demo's table name; those that are there already are left as they are.

    Parameters
    ----------
    rows : sequence of mappings
        Of `cohortex.demo.table.demo_rows`.
    folder : path
        Receives ``<subject>/`` and ``derivatives/truth/<subject>/``; each appears with all its files at once.
    seed : int
        The same seed and subject give the same bytes.
    threads : int
        Subjects made at a time.
    log : path, optional
        Receives the progress, too.
    """
    from cohortex.threads import set_threads

    set_threads(1)  # the threads go to subjects
    folder = Path(folder)
    labelled = {row["subject"]: False for row in rows}
    for row in rows:
        labelled[row["subject"]] |= row.get("role") == "labels"
    truth = folder / TRUTH
    truth.mkdir(parents=True, exist_ok=True)
    described = {
        "Name": "Truth of the simulated demo cohort",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cohortex demo", "Version": str(DEMO_VERSION), "Description": f"simulated, seed {seed}"}],
    }
    _write_json(truth / "dataset_description.json", described)
    todo = [subject for subject in labelled if not _finished(folder, subject, seed, labelled[subject])]
    say = _teller(log)
    say(f"{len(todo)} of {len(labelled)} simulated heads to make")
    if todo:
        from cohortex.demo.template import template

        template()  # before the threads, which would each make it
    with ThreadPoolExecutor(max(1, threads)) as pool:
        jobs = [(subject, pool.submit(_make_one, subject, seed, folder, labelled[subject])) for subject in todo]
        for number, (subject, job) in enumerate(jobs, 1):
            say(f"[{number}/{len(jobs)}] {subject} {job.result():.1f} s")


def make_subject(subject: str, seed: int, folder: Path, truth: Path, labelled: bool = False) -> None:
    """Write one subject's scans into `folder` and what is true about them into `truth`; both are empty folders.

    The scans are ``T1w.h5`` and ``CT/`` and, when `labelled`, ``T1w_labels.nii.gz`` and ``CT_labels.nii.gz``. The
    truth is described in its ``truth.json``.
    """
    from cohortex.demo import write
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.scans import ct_scan, landmarks, mr_scan

    def stream(what: str) -> np.random.Generator:
        return np.random.default_rng([seed, *what.encode(), *subject.encode()])

    person = traits(subject, seed)
    head = make_head(person, stream("head"))
    mr, ct = mr_scan(head, stream("mr")), ct_scan(head, stream("ct"))
    write.write_kspace(folder / "T1w.h5", mr)
    write.write_dicom(folder / "CT", ct, subject, seed, person)
    volumes = {
        "T1w_clean": (mr.clean, mr.affine, "fully sampled and free of noise, on the acquired grid"),
        "T1w_truth": (mr.truth, mr.affine_iso, "free of noise at 1.5 mm isotropic: the object before slice selection"),
        "CT_clean": (ct.clean, ct.affine, "reconstructed from rays without noise, on the acquired grid, HU"),
        "labels_T1w": (mr.labels, mr.affine, "labels on the acquired grid of the T1w"),
        "labels_T1w_iso": (mr.labels_iso, mr.affine_iso, "labels at 1.5 mm isotropic in the T1w's world"),
        "labels_CT": (ct.labels, ct.affine, "labels on the acquired grid of the CT"),
    }
    for name, (data, affine, _) in volumes.items():
        write.write_nifti(truth / f"{name}.nii.gz", data, affine)
    if labelled:
        shutil.copyfile(truth / "labels_T1w.nii.gz", folder / "T1w_labels.nii.gz")
        shutil.copyfile(truth / "labels_CT.nii.gz", folder / "CT_labels.nii.gz")
    write.write_landmarks(truth / "landmarks.tsv", *landmarks(mr, ct, LANDMARKS, stream("landmarks")))
    known = {
        "simulated": True,
        "version": DEMO_VERSION,
        "seed": seed,
        "subject": subject,
        **person,
        "lesions": head.lesions,
        "labels": {"1": "CSF", "2": "grey matter", "3": "white matter", "4": "bone", "5": "other soft tissue", "6": "lesion"},
        "files": {f"{name}.nii.gz": meaning for name, (_, _, meaning) in volumes.items()}
        | {"landmarks.tsv": "the same points of the anatomy in the T1w's and the CT's world, RAS mm"},
        "mr": {
            "acceleration": mr.mask.size / int(mr.mask.sum()),
            "noise_of_white_matter": mr.noise,
            "head_to_world": mr.pose.tolist(),
            "distortion": {
                "meaning": "image point p shows p + cubic p |p|^2 / (100 mm)^2 + bump exp(-|p - centre|^2 / (2 width^2)) along y",
                "cubic": mr.bend.cubic,
                "bump_mm": mr.bend.bump_mm,
                "bump_centre_mm": mr.bend.bump_centre_mm,
                "bump_width_mm": mr.bend.bump_width_mm,
            },
        },
        "ct": {"photons": ct.photons, "noise_hu": ct.noise_hu, "head_to_world": ct.pose.tolist()},
    }
    _write_json(truth / "truth.json", known)


def _finished(folder: Path, subject: str, seed: int, labelled: bool) -> bool:
    """Return whether a subject is there, from this seed and generator, with its labels where they are wanted."""
    known = folder / TRUTH / subject / "truth.json"
    if not (folder / subject).is_dir() or not known.is_file():
        return False
    truth = json.loads(known.read_text(encoding="utf-8"))
    return (truth["seed"], truth["version"]) == (seed, DEMO_VERSION) and (folder / subject / "T1w_labels.nii.gz").is_file() == labelled


def _make_one(subject: str, seed: int, folder: Path, labelled: bool) -> float:
    """Make a subject in temporary neighbours and rename them, the truth first; return the seconds it took."""
    started = time.perf_counter()
    scans, truth = folder / f".{subject}.part", folder / TRUTH / f".{subject}.part"
    for part in (scans, truth):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    make_subject(subject, seed, scans, truth, labelled)
    for old in (folder / subject, folder / TRUTH / subject):
        shutil.rmtree(old, ignore_errors=True)
    truth.rename(folder / TRUTH / subject)
    scans.rename(folder / subject)
    return time.perf_counter() - started


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _teller(log: str | Path | None) -> Callable[[str], None]:
    """Return a function that shows a line on standard error and, when there is a log, appends it there."""
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
    return partial(_tell, Path(log) if log else None)


def _tell(log: Path | None, line: str) -> None:
    sys.stderr.write(f"demo: {line}\n")
    sys.stderr.flush()
    if log:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
