"""Which images of a subject are brought together, by the rules of the section."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cohortex.items import Image
from cohortex.tables import natural

TEMPLATE = "template"
TEMPLATE_SPACE = "MNI152NLin2009aSym"


@dataclass(frozen=True)
class Pair:
    """A moving image, what it is brought to (None: the template), its freedom (rigid | affine), and whether it may be deformed."""

    moving: Image
    fixed: Image | None
    freedom: str
    deform: bool = True


def pairs_of(images: Sequence[Image], rules: Sequence[Mapping[str, Any]], missing: str = "skip") -> list[Pair]:
    """Return the pairs of a subject.

    Parameters
    ----------
    images : sequence of Image
        Of one subject; only those of kind image with the role image are looked at.
    rules : sequence of mappings
        Tried in order; an image moves by the first rule that finds it a fixed image, and only once. Keys: ``moving``
        (list of modalities, or ``any``), ``fixed`` (list of modalities in order of preference, ``same`` for an earlier visit of the same
        modality, or ``template``), ``within`` (``session``: both from one session; ``subject``, the default: the same session is
        preferred), ``affine`` (rigid | affine; affine for the template, else rigid), ``deform`` (true).
    missing : {"skip", "template"}
        What becomes of an image whose rule names modalities of which the subject has none.

    Returns
    -------
    list of Pair
        Sorted by the moving image's id. Where the column ``pair`` of either image is filled, both must have the same value.
    """
    scans = sorted((i for i in images if i.kind == "image" and i.role == "image"), key=lambda i: (natural(i.session), i.id))
    found: dict[str, Pair] = {}
    for rule in rules:
        for moving in scans:
            wanted = rule["moving"]
            if moving.id in found or (wanted != "any" and moving.modality not in wanted):
                continue
            to_template = rule["fixed"] == TEMPLATE
            fixed = None if to_template else _fixed_for(moving, scans, rule, found)
            if fixed is not None or to_template:
                freedom = rule.get("affine", "affine" if to_template else "rigid")
                found[moving.id] = Pair(moving, fixed, freedom, bool(rule.get("deform", True)))
    if missing == TEMPLATE:
        alone = without_partner(images, rules, list(found.values()))
        found |= {i.id: Pair(i, None, "affine") for i in scans if i.id in alone}
    return [found[k] for k in sorted(found)]


def without_partner(images: Sequence[Image], rules: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the images that a rule would move to other modalities, of which the subject has none, and what these are.

    An image that others of the pairs move to is not among them: the subject's common space is its own.
    """
    taken = {i.id for p in pairs for i in (p.moving, p.fixed) if i is not None}
    found: dict[str, str] = {}
    for image in images:
        for rule in rules:
            meant = rule["moving"] == "any" or image.modality in rule["moving"]
            if meant and not isinstance(rule["fixed"], str) and image.id not in taken:
                others = [m for m in rule["fixed"] if m != image.modality]
                if others and image.id not in found and image.kind == "image" and image.role == "image":
                    found[image.id] = " or ".join(others)
    return found


def kind_of(pair: Pair) -> tuple[str, str, str]:
    """Return the fixed and the moving modality of a pair, and the body part of its fixed image."""
    assert pair.fixed is not None
    return pair.fixed.modality, pair.moving.modality, pair.fixed.body_part


def most_common_kind(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs of the kind (`kind_of`) that most of them have, the first by the alphabet where several have as many."""
    kinds = [kind_of(pair) for pair in pairs]
    best = max(sorted(set(kinds)), key=kinds.count, default=None)
    return [pair for pair, kind in zip(pairs, kinds, strict=True) if kind == best]


def names_of(images: Sequence[Image]) -> dict[str, str]:
    """Return a short name of every image for tags and spaces: its modality, or with session, acquisition and run where others share it."""
    scans = [i for i in images if i.kind == "image"]
    shared = [i.modality for i in scans]
    return {i.id: i.modality if shared.count(i.modality) == 1 else _within_subject(i) for i in scans}


def _fixed_for(moving: Image, scans: Sequence[Image], rule: Mapping[str, Any], found: Mapping[str, Pair]) -> Image | None:
    column = moving.row.get("pair", "")
    candidates = [i for i in scans if i.id != moving.id and i.row.get("pair", "") == column and i.body_part == moving.body_part]
    if rule["fixed"] == "same":
        same = [i for i in candidates if i.modality == moving.modality and natural(i.session) < natural(moving.session)]
        first = min(same, key=lambda i: (natural(i.session), i.id), default=None)
        return first if first is not None and not _leads_to(first, moving, found) else None
    if rule.get("within") == "session":
        candidates = [i for i in candidates if i.session == moving.session]
    for modality in rule["fixed"]:
        ranked = sorted(
            (i for i in candidates if i.modality == modality), key=lambda i: (i.session != moving.session, natural(i.session), i.id)
        )
        for fixed in ranked:
            # Two images that move to each other would have no common space.
            if fixed.modality != moving.modality and not _leads_to(fixed, moving, found):
                return fixed
    return None


def _leads_to(start: Image, target: Image, found: Mapping[str, Pair]) -> bool:
    here: Image | None = start
    while here is not None and here.id in found:
        here = found[here.id].fixed
        if here is not None and here.id == target.id:
            return True
    return False


def _within_subject(image: Image) -> str:
    inside = image.id.removeprefix(image.subject)
    return re.sub(r"[^0-9A-Za-z]", "", inside) or image.modality
