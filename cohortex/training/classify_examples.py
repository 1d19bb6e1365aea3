"""What a classifier learns from: labelled scans as rows of features and inputs, and which of them are the same image.

Two images are the same when their voxels are, and when they are alike beyond what all images of the cohort have in common
(`cohortex.measures.leakage`): with other noise or brightness, compressed, moved a little or mirrored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import ALIGN, over_blocks
from cohortex.items import Image
from cohortex.measures.leakage import BEYOND, GRID, Leakage, check_split
from cohortex.models.classify.inputs import Input
from cohortex.models.classify.regrid import network_input
from cohortex.models.classify.scans import Grain, Vectors
from cohortex.training.team import team
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from cohortex.training.beside import Beside

MOST_COMPARED = 20_000
"""Images of which every pair is compared, some minutes' work; of more only the same voxels are found."""


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
        Of the voxels, see `digest_of`; images that are alike share that of the first (`with_likenesses`).
    looks : (n, *grid) float32 array or None
        The whole scans, small, where no network looks at `inputs`, which may then hold anything.
    beside : Beside, optional
        What a network learns beside the classes.
    """

    x: np.ndarray
    inputs: np.ndarray
    y: np.ndarray
    subjects: np.ndarray
    digests: np.ndarray
    looks: np.ndarray | None = None
    beside: Beside | None = None

    def take(self, rows: np.ndarray) -> Examples:
        """Return some of the rows."""
        looks = None if self.looks is None else self.looks[rows]
        beside = None if self.beside is None else self.beside.take(rows)
        return Examples(self.x[rows], self.inputs[rows], self.y[rows], self.subjects[rows], self.digests[rows], looks, beside)

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
    looks = None if "cnn" in settings["parts"] or not scans else np.zeros((len(scans), *_grid(scans[0])), dtype=np.float32)
    found: dict[str, str] = {}
    for row, scan in enumerate(scans):
        if row % team().size != team().rank:
            continue
        own = by_subject[scan.subject]
        if "radiomics" in settings["parts"]:
            vector = Vectors(own, grain).of_subject(scan, settings["modalities"])
            x[row] = [vector[name] for name in names]
        inputs[row] = asked.raw(scan, own)
        if looks is not None:
            whole = (*looks.shape[1:], 1)[:3]
            looks[row] = network_input(scan.volume.data, None, scan.volume.spacing, whole, None, "cohort", False).reshape(looks.shape[1:])
        found[str(row)] = digest_of(scan.volume.data)
        # The volumes of a whole cohort do not fit into memory; what was read is given back.
        for image in own:
            image.__dict__.pop("content", None)
    team().sum(x)
    team().sum(inputs)
    if looks is not None:
        team().sum(looks)
    every = {row: digest for part in team().gather(found) for row, digest in part.items()}
    digests = np.array([every[str(row)] for row in range(len(scans))], dtype=object)
    y = np.array([classes.index(scan.row["label"]) for scan in scans], dtype=np.int64)
    return Examples(x, inputs, y, np.array([scan.subject for scan in scans], dtype=object), digests, looks)


def _grid(scan: Image) -> tuple[int, ...]:
    """Return the grid on which scans like this one are compared."""
    dims = 2 if scan.volume.shape[2] == 1 else 3
    return (GRID[dims],) * dims


def digest_of(voxels: ArrayLike) -> str:
    """Return the sha256 of an array's shape and values, hexadecimal, whatever numbers they are stored as; it may be lazy."""

    def one(_: Any, block: np.ndarray) -> bytes:
        # -0 is 0
        return hashlib.sha256((block.astype(np.float64) + 0.0).tobytes()).digest()

    parts = over_blocks(one, voxels, block=(2 * ALIGN,) * 3)
    return hashlib.sha256(repr(tuple(voxels.shape)).encode() + b"".join(parts)).hexdigest()


def with_likenesses(train: Examples, held: Examples) -> tuple[Examples, Examples, Leakage | None]:
    """Let images that are copies of each other, near ones too, share a digest.

    Parameters
    ----------
    train, held : Examples
        With the values as the scans have them.

    Returns
    -------
    train, held : Examples
    found : Leakage or None
        What crosses the split; None where the images are too many to compare all pairs, and only those with the same voxels are told.
    """
    count = len(train.y)
    digests = np.concatenate([train.digests, held.digests])
    if len(digests) > MOST_COMPARED:
        return train, held, None
    images = [image for rows in (train, held) for image in (rows.inputs[:, 0] if rows.looks is None else rows.looks)]
    subjects = np.concatenate([train.subjects, held.subjects])
    part = np.repeat(["train", "validation"], [count, len(held.y)])
    found = check_split(part, images, subjects, beyond=BEYOND)
    # Two visits of one subject stay together anyway.
    copies, repeats = ([p for p in pairs if subjects[p.first] != subjects[p.second]] for pairs in (found.copies, found.repeats))
    found = replace(found, copies=copies, repeats=repeats)
    shared = {digest: digest for digest in digests}

    def first(digest: str) -> str:
        while shared[digest] != digest:
            digest = shared[digest]
        return digest

    for pair in sorted([*found.copies, *found.repeats], key=lambda pair: (pair.first, pair.second)):
        shared[first(digests[pair.second])] = first(digests[pair.first])
    digests = np.array([first(digest) for digest in digests], dtype=object)
    return replace(train, digests=digests[:count]), replace(held, digests=digests[count:]), found


def without_copies(train: Examples, held: Examples, found: Leakage | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return which training rows are neither a copy of a validation image nor of a validation subject, and what a card says of copies.

    Returns
    -------
    kept : (n,) bool array
    facts : dict
        Empty where there is no copy; ``left_out``: training subjects with an image that a validation subject has too; ``both``: subjects
        with rows in both parts, of which those for training were left out; ``together``: training subjects that have an image in common
        and so stay in one fold; ``two_labels``: how many images carry two labels; ``alike``: how many pairs of images (of all that
        `with_likenesses` found) are alike without having the same values.
    """
    both = np.isin(train.subjects, held.subjects)
    copied = np.isin(train.digests, held.digests)
    kept = ~(both | copied)
    rest = train.take(np.flatnonzero(kept))
    groups: dict[str, set[str]] = {}
    for group, subject in zip(rest.groups, rest.subjects, strict=True):
        groups.setdefault(group, set()).add(subject)
    labels: dict[str, set[int]] = {}
    for digest, label in zip(rest.digests, rest.y, strict=True):
        labels.setdefault(digest, set()).add(int(label))
    facts: dict[str, Any] = {
        "left_out": sorted(set(train.subjects[copied & ~both])),
        "both": sorted(set(train.subjects[both])),
        "together": sorted(sorted(group) for group in groups.values() if len(group) > 1),
        "two_labels": sum(len(each) > 1 for each in labels.values()),
        "alike": sum(not pair.same for pair in [*found.copies, *found.repeats]) if found else 0,
    }
    return kept, {name: value for name, value in facts.items() if value}
