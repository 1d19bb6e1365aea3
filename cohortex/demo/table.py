"""Which subjects and images the demo cohort has, without making any of them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from cohortex.errors import Refused

DEMO_VERSION = 1
"""Raised only when the bytes that the demo generator writes change."""

Diagnosis = Literal["control", "tumour", "lesions"]
DIAGNOSES: tuple[Diagnosis, ...] = ("control", "tumour", "lesions")
DEFAULTS: dict[str, Any] = {"subjects": 8, "seed": 7, "labelled": 0, "split": None, "prefix": "demo"}
COLUMNS: tuple[str, ...] = ("subject", "session", "modality", "path", "run", "acq", "body_part", "role", "site", "scanner", "pair", "split")
PATHS = {("T1w", "image"): "T1w.h5", ("T1w", "labels"): "T1w_labels.nii.gz", ("CT", "image"): "CT", ("CT", "labels"): "CT_labels.nii.gz"}
# Multiples of these modulo 1 fill the unit interval evenly, whatever the number of subjects and within each diagnosis.
GOLDEN, SILVER = 0.6180339887498949, 0.4142135623730951


def subject_index(subject: str) -> int:
    """Return the number, from 0, that the digits at the end of a demo subject's id stand for.

    Raises
    ------
    Refused
        When the id does not end in digits.
    """
    digits = subject[len(subject.rstrip("0123456789")) :]
    if not digits:
        raise Refused(f"the demo makes subjects whose ids end in a number, such as demo001; {subject!r} does not.")
    return int(digits) - 1


def traits(subject: str, seed: int) -> dict[str, Any]:
    """Return a demo subject's diagnosis, age (years) and sex; nothing depends on how many subjects there are.

    Every three subjects in a row hold each diagnosis once, in an order drawn from the seed.
    """
    index = subject_index(subject)
    order = random.Random(f"diagnosis|{seed}|{index // 3}").sample(DIAGNOSES, 3)
    own = random.Random(f"person|{seed}|{subject}")
    return {"diagnosis": order[index % 3], "age": own.randint(22, 84), "sex": own.choice("FM")}


def demo_rows(settings: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the demo cohort's images and its participants.

    Parameters
    ----------
    settings : mapping
        The configuration's section ``demo``: subjects, seed, labelled, split, prefix (`DEFAULTS` where a key is missing).

    Returns
    -------
    rows : list of dict
        One an image (and one a label map of role ``labels`` for the labelled share), with the columns `COLUMNS`;
        ``path`` is relative to the folder of the batch.
    participants : list of dict
        subject, diagnosis, age, sex.

    Raises
    ------
    Refused
        When the shares of ``split`` do not add up to 1.
    """
    chosen = {**DEFAULTS, **settings}
    seed, labelled = int(chosen["seed"]), float(chosen["labelled"])
    rows: list[dict[str, str]] = []
    participants: list[dict[str, str]] = []
    for index in range(int(chosen["subjects"])):
        subject = f"{chosen['prefix']}{index + 1:03d}"
        split = _split(index, seed, chosen["split"])
        roles = ["image"] + ["labels"] * (_even(index, seed, SILVER) < labelled)
        for modality in ("T1w", "CT"):
            for role in roles:
                row = dict.fromkeys(COLUMNS, "")
                row |= {"subject": subject, "modality": modality, "path": f"{subject}/{PATHS[modality, role]}"}
                row |= {"body_part": "head", "role": role, "site": "demo-simulator", "split": split}
                rows.append(row)
        participants.append({"subject": subject} | {key: str(value) for key, value in traits(subject, seed).items()})
    return rows, participants


def _even(index: int, seed: int, step: float) -> float:
    """Return the index-th number of a sequence that fills [0, 1) evenly, its start drawn from the seed."""
    return (random.Random(f"even|{step}|{seed}").random() + index * step) % 1.0


def _split(index: int, seed: int, shares: Mapping[str, float] | None) -> str:
    """Return train, validation or test for the index-th subject; test without shares: the demo is shown, not learned from."""
    if not shares:
        return "test"
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise Refused(f"demo: split: the shares add up to {sum(shares.values()):g}; make them add up to 1.")
    position, reached = _even(index, seed, GOLDEN), 0.0
    names = [name for name in ("train", "validation", "test") if shares.get(name)]
    for name in names:
        reached += shares[name]
        if position < reached:
            return name
    return names[-1]
