"""Harmonised values of the cohort's measures (`report: harmonise`): ComBat over scanners or sites, with covariates whose effect stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from cohortex.report.combat import CannotHarmonise, combat
from cohortex.report.measures import Group
from cohortex.report.records import Records, number

MEASURES = ("regseg.volume_*",)
"""Measures (``stage.measure``) that are harmonised where nothing else is said."""
LEVELS = 12
"""A covariate of words with more values than this is not one of groups."""


@dataclass(frozen=True)
class Part:
    """The measures of one stage, modality, body part and tag: values as measured and harmonised (images, measures), NaN where none is."""

    stage: str
    modality: str
    tag: str
    images: list[str]
    batches: list[str]
    measures: list[str]
    raw: np.ndarray
    values: np.ndarray


@dataclass
class Harmonised:
    """What was harmonised, how it is said, and what could not be."""

    parts: list[Part] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def columns(self, stage: str) -> list[str]:
        """Return the measures of a stage that were harmonised, in the order of their names."""
        return sorted({measure for part in self.parts if part.stage == stage for measure in part.measures})


def harmonised(records: Records, groups: Iterable[Group], config: Mapping[str, Any]) -> Harmonised:
    """Return the harmonised measures that the configuration asks for, and why any cannot be.

    Parameters
    ----------
    records : Records
    groups : iterable of Group
        Measures of the images that count; those of one stage, modality, body part and tag are harmonised together.
    config : mapping
        ``report.harmonise``: null, or ``batch`` (a column), ``covariates`` (columns), ``measures`` (patterns of ``stage.measure``). Columns
        are those of the cohort table, else of what is known of the subjects.

    Notes
    -----
    An image without a batch or a covariate is left out and counted.
    """
    asked = (config.get("report") or {}).get("harmonise")
    found = Harmonised()
    if not asked:
        return found
    batch, covariates = str(asked["batch"]), [str(name) for name in asked.get("covariates") or ()]
    patterns = [str(name) for name in asked.get("measures") or MEASURES]
    unknown = [name for name in (batch, *covariates) if not any(records.cell(image, name) for image in records.images)]
    if unknown:
        found.refused.append(f"Nothing was harmonised: no image has a value of {' or '.join(unknown)} (report: harmonise).")
        return found
    together: dict[tuple[str, str, str, str], list[Group]] = defaultdict(list)
    for group in groups:
        if any(fnmatchcase(f"{group.stage}.{group.measure}", pattern) for pattern in patterns):
            together[group.stage, group.modality, group.body_part, group.tag].append(group)
    if not together:
        found.refused.append(f"Nothing was harmonised: no measure is called {' or '.join(patterns)} (report: harmonise: measures).")
    for (stage, modality, body_part, tag), several in together.items():
        _add(found, records, (stage, modality, body_part, tag), several, batch, covariates)
    return found


def _add(
    found: Harmonised, records: Records, key: tuple[str, str, str, str], several: Sequence[Group], batch: str, covariates: Sequence[str]
) -> None:
    stage, modality, body_part, tag = key
    of = " ".join(filter(None, (tag, modality, body_part)))
    images = sorted({image for group in several for image in group.images})
    place = {image: index for index, image in enumerate(images)}
    raw = np.full((len(images), len(several)), np.nan)
    for column, group in enumerate(several):
        raw[[place[image] for image in group.images], column] = group.values
    cells = [[records.cell(image, name) for name in (batch, *covariates)] for image in images]
    whole = [index for index, row in enumerate(cells) if all(row)]
    left = len(images) - len(whole)
    without = f" {_images(left)} without {' or '.join((batch, *covariates))} {'is' if left == 1 else 'are'} left out." if left else ""
    images, raw, cells = [images[index] for index in whole], raw[whole], [cells[index] for index in whole]
    batches = np.array([row[0] for row in cells])
    usable = [column for column in range(len(several)) if _varies(raw[:, column], batches)]
    if len(usable) < len(several) and len(images) >= 3:
        dull = [group.measure for column, group in enumerate(several) if column not in usable]
        found.refused.append(f"{stage} of {of}: {', '.join(dull)} not harmonised, for want of two different values in each {batch}.")
    several, raw = [several[column] for column in usable], raw[:, usable]
    if not several:
        return
    if len(images) < 3:
        found.refused.append(
            f"{stage} of {of}: not harmonised, because fewer than 3 images have {' and '.join((batch, *covariates))}.{without}"
        )
        return
    try:
        design = _design([row[1:] for row in cells], covariates)
        values, _ = combat(raw, batches, design)
    except CannotHarmonise as reason:
        found.refused.append(f"{stage} of {of}: not harmonised over {batch}, because {reason}.{without}")
        return
    found.parts.append(Part(stage, modality, tag, images, [str(one) for one in batches], [group.measure for group in several], raw, values))
    many = len(set(batches.tolist()))
    kept = f", keeping what {' and '.join(covariates)} explain{'s' if len(covariates) == 1 else ''}" if covariates else ""
    words = f"{len(several)} measure{'s' if len(several) > 1 else ''} of {_images(len(images))} ({of}) in {stage}"
    if many == 1:
        found.said.append(f"{words}: all are of one {batch}, so they stay as they are.{without}")
    else:
        found.said.append(f"{words}, over {many} values of {batch}{kept}.{without}")


def _varies(values: np.ndarray, batches: np.ndarray) -> bool:
    """Say whether a measure has two different values in every batch that has two images."""
    of_batches = [values[batches == name] for name in np.unique(batches)]
    return all(len(np.unique(part[np.isfinite(part)])) > 1 for part in of_batches if len(part) > 1)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _design(cells: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Return covariates as columns: numbers less their mean, of words one column for each value but the first."""
    columns: list[np.ndarray] = []
    for place, name in enumerate(names):
        words = [row[place] for row in cells]
        numbers = [number(word) for word in words]
        if all(value is not None for value in numbers):
            values = np.array(numbers, np.float64)
            columns.append(values - values.mean())
            continue
        levels = sorted(set(words))
        if len(levels) > LEVELS:
            raise CannotHarmonise(f"{name} has {len(levels)} values that are no numbers, more than {LEVELS}")
        columns += [np.array([float(word == level) for word in words]) for level in levels[1:]]
    return np.stack(columns, axis=1) if columns else np.zeros((len(cells), 0))
