"""What a classifier learns from: labelled scans as rows of features and inputs, and which of them are the same image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.blocks import ALIGN, over_blocks
from cohortex.items import Image
from cohortex.models.classify.inputs import Input
from cohortex.models.classify.scans import Grain, Vectors
from cohortex.training.beside import Beside
from cohortex.training.team import team
from cohortex.volume import ArrayLike


@dataclass(frozen=True)
class Examples:
    """What is learned from: one row a scan.

    Attributes
    ----------
    x : (n, features) float64 array
        NaN where missing.
    inputs : (n, channels, *space) float32 array
    y : (n,) int64 array
    subjects : (n,) array of str
    digests : (n,) array of str
        Of the voxels, see `digest_of`.
    beside : Beside, optional
        What a network learns beside the classes.
    """

    x: np.ndarray
    inputs: np.ndarray
    y: np.ndarray
    subjects: np.ndarray
    digests: np.ndarray
    beside: Beside | None = None

    def take(self, rows: np.ndarray) -> Examples:
        """Return some of the rows."""
        beside = None if self.beside is None else self.beside.take(rows)
        return Examples(self.x[rows], self.inputs[rows], self.y[rows], self.subjects[rows], self.digests[rows], beside)

    @property
    def groups(self) -> np.ndarray:
        """What may not be cut apart, (n,) array of str: a subject, with every other that has one of its images; called by the first."""
        root = {subject: subject for subject in self.subjects}

        def first(subject: str) -> str:
            while root[subject] != subject:
                subject = root[subject]
            return subject

        owner: dict[str, str] = {}
        for subject, digest in zip(self.subjects, self.digests, strict=True):
            a, b = sorted((first(subject), first(owner.setdefault(digest, subject))))
            root[b] = a
        return np.array([first(subject) for subject in self.subjects], dtype=object)


def examples_of(
    scans: Sequence[Image], images: Sequence[Image], classes: Sequence[str], settings: Mapping[str, Any], asked: Input
) -> Examples:
    """Return features and network inputs of scans; each process of the training computes some of the rows.

    Parameters
    ----------
    scans : sequence of Image
        With the column ``label``, one of `classes`.
    images : sequence of Image
        Everything of their subjects.
    settings : mapping
        ``parts`` (without ``radiomics`` no feature is computed), ``modalities`` and ``texture`` are looked at.
    asked : Input
        Values are those before the cohort's mean and deviation are taken (`Input.raw`).
    """
    grain = Grain(**settings["texture"])
    names = grain.vector_names(settings["modalities"])
    by_subject: dict[str, list[Image]] = {}
    for image in images:
        by_subject.setdefault(image.subject, []).append(image)
    x = np.zeros((len(scans), len(names))) if "radiomics" in settings["parts"] else np.full((len(scans), len(names)), np.nan)
    inputs = np.zeros((len(scans), asked.channels, *asked.size), dtype=np.float32)
    found: dict[str, str] = {}
    for row, scan in enumerate(scans):
        if row % team().size != team().rank:
            continue
        own = by_subject[scan.subject]
        if "radiomics" in settings["parts"]:
            vector = Vectors(own, grain).of_subject(scan, settings["modalities"])
            x[row] = [vector[name] for name in names]
        inputs[row] = asked.raw(scan, own)
        found[str(row)] = digest_of(scan.volume.data)
        # The volumes of a whole cohort do not fit into memory; what was read is given back.
        for image in own:
            image.__dict__.pop("content", None)
    team().sum(x)
    team().sum(inputs)
    every = {row: digest for part in team().gather(found) for row, digest in part.items()}
    digests = np.array([every[str(row)] for row in range(len(scans))], dtype=object)
    y = np.array([classes.index(scan.row["label"]) for scan in scans], dtype=np.int64)
    return Examples(x, inputs, y, np.array([scan.subject for scan in scans], dtype=object), digests)


def digest_of(voxels: ArrayLike) -> str:
    """Return the sha256 of an array's shape and values, hexadecimal, whatever numbers they are stored as; it may be lazy."""

    def one(_: Any, block: np.ndarray) -> bytes:
        # -0 is 0
        return hashlib.sha256((block.astype(np.float64) + 0.0).tobytes()).digest()

    parts = over_blocks(one, voxels, block=(2 * ALIGN,) * 3)
    return hashlib.sha256(repr(tuple(voxels.shape)).encode() + b"".join(parts)).hexdigest()


def without_copies(train: Examples, held: Examples) -> tuple[np.ndarray, dict[str, Any]]:
    """Return which training rows are no copy of a validation image, and what a card says of copies.

    Returns
    -------
    kept : (n,) bool array
    facts : dict
        Empty where there is no copy; ``left_out``: training subjects with an image that a validation subject has too; ``together``:
        training subjects that have an image in common and so stay in one fold; ``two_labels``: how many images carry two labels.
    """
    kept = ~np.isin(train.digests, held.digests)
    rest = train.take(np.flatnonzero(kept))
    groups: dict[str, set[str]] = {}
    for group, subject in zip(rest.groups, rest.subjects, strict=True):
        groups.setdefault(group, set()).add(subject)
    labels: dict[str, set[int]] = {}
    for digest, label in zip(rest.digests, rest.y, strict=True):
        labels.setdefault(digest, set()).add(int(label))
    facts: dict[str, Any] = {
        "left_out": sorted(set(train.subjects[~kept])),
        "together": sorted(sorted(group) for group in groups.values() if len(group) > 1),
        "two_labels": sum(len(each) > 1 for each in labels.values()),
    }
    return kept, {name: value for name, value in facts.items() if value}
