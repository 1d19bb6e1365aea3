"""What a card says of a network that recognises: average precision, sensitivity at few false boxes, the score to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.measures.detection import detection_summary, match
from cohortex.models.recognize.findings import Findings
from cohortex.training.recognize_data import Known

SCORE = 0.3
"""Asked for where nothing was found that tells a better one."""


def best_score(found: Sequence[Findings], truth: Sequence[Findings], overlap: float) -> float:
    """Return the score from which boxes should count: the one with the largest harmonic mean of precision and sensitivity (F1).

    Parameters
    ----------
    found, truth : sequence of Findings
        Of each image.
    overlap : float
        From which a box of its class is right.
    """
    labels = sorted({int(k) for each in truth for k in each.labels})
    matched = [match(found, truth, overlap, k) for k in labels]
    total = sum(int(m.objects.sum()) for m in matched)
    scores = np.concatenate([m.scores for m in matched]) if matched else np.zeros(0)
    hits = np.concatenate([m.hit for m in matched]) if matched else np.zeros(0, bool)
    if not hits.any():
        return SCORE
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    quality = 2 * right / (total + np.arange(1, len(scores) + 1))
    # of equal scores all or none count
    last = np.append(scores[1:] < scores[:-1], True)
    best = int(np.argmax(np.where(last, quality, -1)))
    # half-way to the next box, so that rounding decides nothing
    below = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float(f"{(scores[best] + below) / 2:.3g}")


def metrics_of(
    known: Sequence[Known], found: Sequence[Findings], classes: Sequence[str], overlap: float, score: float, on: str
) -> list[dict[str, Any]]:
    """Return the metrics of a card, with intervals over subjects.

    Parameters
    ----------
    known : sequence of Known
    found : sequence of Findings
        With scores down to far below `score`.
    classes : sequence of str
    overlap : float
        From which a box is right.
    score : float
        From which boxes count for sensitivity and false boxes.
    on : str
        Split.
    """
    truth, subjects = [each.truth for each in known], [each.image.subject for each in known]
    told = detection_summary(found, truth, len(classes), subjects, overlap, rule=overlap)
    names = {"map": f"mAP at overlap {overlap:g}", "cpm": f"CPM at overlap {overlap:g}"}
    names |= {f"ap_{k}": f"AP of {text}" for k, text in enumerate(classes) if len(classes) > 1}
    count = len(set(subjects))
    where = f"{on} subjects"
    rows = [
        {"name": text, **dict(zip(("value", "low", "high"), map(_short, told[key]), strict=True)), "n": count, "on": where}
        for key, text in names.items()
    ]
    matched = [match([each.some(each.scores >= score) for each in found], truth, overlap, k) for k in range(len(classes))]
    objects, hits = sum(int(m.objects.sum()) for m in matched), sum(int(m.hit.sum()) for m in matched)
    false = sum(len(m.hit) for m in matched) - hits
    rows.append(
        {"name": f"sensitivity from score {score:g}", "value": _short(hits / objects if objects else np.nan), "n": count, "on": where}
    )
    rows.append({"name": f"false boxes an image from score {score:g}", "value": _short(false / len(known)), "n": count, "on": where})
    return rows


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
