"""Class probabilities of the records, one row a subject."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

from cohortex.report import charts
from cohortex.report.records import Records, Row, number
from cohortex.tables import column_word

_PROBABILITY = re.compile(r"^p_(.+)$")
_PREDICTED = ("class", "predicted")


def is_probability(measure: str) -> bool:
    """Whether a measure is a probability of a class, or of a part of a classifier."""
    return bool(re.match(r"^(p|probability)(_|$)", measure))


def table(records: Records, most: int, seen: Collection[str] = ()) -> dict[str, Any]:
    """Return the classes and, by subject, their probabilities, the predicted class and the known one where there is one.

    The least certain subjects come first where not all of them fit. Images in `seen` were known to the model's training, so whether they
    are right is not counted; those that a rater rejected are left out.
    """
    found: list[dict[str, Any]] = []
    for stage in records.stages:
        for row in records.told.get(stage, []):
            probabilities = {match[1]: number(value) for name, value in row.measures.items() if (match := _PROBABILITY.match(name))}
            known = {name: value for name, value in probabilities.items() if value is not None}
            if len(known) > 1 and records.counts_in(row.image):
                found.append(_entry(records, stage, row, known))
    names = list(dict.fromkeys(name for entry in found for name in entry["probabilities"]))
    told = Counter(entry["predicted"] for entry in found)
    for entry in found:
        entry["seen"] = entry["image"] in seen
    right = [entry["right"] for entry in found if entry["known"] and not entry["seen"]]
    if len(found) > most:
        found = sorted(found, key=lambda entry: entry["certainty"])[:most]
    for entry in found:
        entry["bars"] = {
            name: {"value": value, "svg": charts.share(value, f"{entry['subject']}: {name} {100 * value:.0f} %")}
            for name, value in entry["probabilities"].items()
        }
    return {
        "stage": found[0]["stage"] if found else "",
        "names": names,
        "rows": sorted(found, key=lambda entry: (entry["subject"], entry["image"])),
        "counts": told.most_common(),
        "total": sum(told.values()),
        "shown": any(entry["known"] for entry in found),
        "seen": sum(bool(entry["known"]) and entry["seen"] for entry in found),
        "known": len(right),
        "right": sum(right),
    }


def _entry(records: Records, stage: str, row: Row, probabilities: dict[str, float]) -> dict[str, Any]:
    best = max(probabilities, key=lambda name: probabilities[name])
    predicted = next((column_word(row.measures[name]) for name in _PREDICTED if name in row.measures), best)
    covariates = records.participants.get(row.subject, {})
    truth = next(
        (column_word(value) for column, value in covariates.items() if column != "subject" and column_word(value) in probabilities), ""
    )
    return {
        "stage": stage,
        "subject": row.subject,
        "session": row.session,
        "image": row.image,
        "predicted": predicted,
        "known": truth,
        "right": truth == predicted,
        "certainty": probabilities[best],
        "simulated": row.image.split("+")[0] in records.simulated,
        "probabilities": probabilities,
    }
