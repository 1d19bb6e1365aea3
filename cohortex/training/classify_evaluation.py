"""What a classifier's card says beyond its metrics: sets of classes, ruling out, reliability, worth of decisions, groups, copies.

All of it comes from the out-of-fold probabilities of the nested cross-validation, each said by models that did not learn from that case.
The thresholds are then used with a model that was fitted on all of them, as in cross-conformal prediction: what is promised holds as far as
that model's probabilities are like those of the folds; validation subjects, where there are some, show it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.measures.attributes import attributes
from cohortex.measures.conformal import coverage, prediction_sets
from cohortex.measures.evaluation import conformal_of, evaluation, looked_at, plain, rule_out_of, sets_of
from cohortex.measures.intervals import proportion_interval
from cohortex.measures.leakage import Leakage
from cohortex.training.classify_examples import Examples

LOG = logging.getLogger("cohortex.training")
ON = "grouped nested cross-validation on training subjects"
_TABLE = ("site", "scanner")
"""Columns of the cohort's table that are groups of people; those of the participants come along with a prefix."""
_PREFIX = "participants."


def check_settings(settings: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Refuse a class to rule out that is not there.

    Raises
    ------
    Refused
        With the classes that there are.
    """
    named = (settings["rule_out"] or {}).get("class")
    if named is not None and named not in classes:
        raise Refused(
            f"classify.default.rule_out.class is {named}, but the column {settings['target']} has the classes {', '.join(classes)}: "
            "name one of them, or null."
        )


def told_copies(copies: Mapping[str, Any], found: Leakage | None) -> None:
    """Warn of images and subjects that were found twice."""
    if found is None:
        LOG.warning("there are too many images to compare every pair: copies that are not the same to the voxel were not looked for")
    if copies:
        LOG.warning("the same image was found in several subjects: %s", dict(copies))
    for sentence in found.sentences() if found and copies else []:
        LOG.warning("%s (Done here.)", sentence)


def evaluation_of(
    train: Examples,
    probability: np.ndarray,
    fold: np.ndarray,
    scans: Sequence[Image],
    classes: Sequence[str],
    settings: Mapping[str, Any],
    seed: int,
    held: Examples,
    judged: np.ndarray | None,
) -> dict[str, Any]:
    """Return the card's ``extra.evaluation``.

    Parameters
    ----------
    train : Examples
    probability : (n, classes) array
        Out of fold; rows of NaN, where no part could say anything, are left out.
    fold : (n,) integer array
    scans : sequence of Image
        With what is known of their subjects in their rows (`cohortex.training.run.training_images`).
    classes : sequence of str
    settings : mapping
        ``sets``, ``rule_out``, ``audit`` and ``target`` are looked at.
    seed : int
    held, judged : Examples and (m, classes) array or None
        The validation subjects, and what the whole model says of them.

    Returns
    -------
    dict
        What `cohortex.measures.evaluation.evaluation` tells, with ``on``; ``sets`` and ``rule_out`` where they were asked for (with
        ``validation``: how they did there); ``audit.left_out``: columns that were not audited, with the reason. Empty but for ``on`` and
        ``reason`` where too few scans have a probability.
    """
    known = np.isfinite(probability).all(axis=1)
    y, p, subjects, fold = train.y[known], probability[known], train.subjects[known].astype(str), fold[known]
    if len(np.unique(y)) < len(classes):
        return {"on": ON, "reason": "too few of the training scans have a probability"}
    rule = settings["rule_out"]
    cases = {name: len(set(subjects[y == k])) for k, name in enumerate(classes)}
    named = (rule or {}).get("class")
    chosen = named if named is not None else looked_at(cases, None)[0] if len(classes) == 2 else None
    columns, left_out = {}, {}
    if settings["audit"]:
        about = about_subjects(scans, settings["target"])
        columns, left_out = attributes([about.get(subject, {}) for subject in subjects], subjects, y, settings["audit"])
    found = {"on": ON, **evaluation(y, p, subjects, classes, chosen, columns, seed)}
    if left_out:
        found.setdefault("audit", {})["left_out"] = left_out
    if settings["sets"] is not None:
        found["sets"] = sets_of(y, p, subjects, fold, classes, settings["sets"], seed)
    if rule is not None and chosen is not None:
        k = list(classes).index(chosen)
        found["rule_out"] = rule_out_of(y == k, p[:, k], subjects, chosen, rule["sensitivity"], rule["sure"], seed)
        found["rule_out"]["chosen"] = "named" if named is not None else "the rarer of two classes"
    if judged is not None:
        _on_validation(found, held, judged, classes)
    tell(found, rule, len(classes))
    return found


def about_subjects(scans: Sequence[Image], target: str) -> dict[str, dict[str, str]]:
    """Return what is known of subjects: site and scanner (empty where their scans differ), and the participants' columns but the target."""
    found: dict[str, dict[str, str]] = {}
    for scan in scans:
        row = {name: str(scan.row.get(name) or "") for name in _TABLE}
        row |= {name.removeprefix(_PREFIX): str(cell) for name, cell in scan.row.items() if name.startswith(_PREFIX)}
        before = found.setdefault(scan.subject, row)
        for name in _TABLE:
            before[name] = before[name] if before[name] == row[name] else ""
    return {subject: {name: cell for name, cell in row.items() if name != target} for subject, row in found.items()}


def _on_validation(found: dict[str, Any], held: Examples, judged: np.ndarray, classes: Sequence[str]) -> None:
    """Add how sets and the operating point did on validation subjects."""
    known = np.isfinite(judged).all(axis=1)
    y, p = held.y[known], judged[known]
    if not len(y):
        return
    if "sets" in found:
        done = coverage(prediction_sets(conformal_of(found["sets"]), p), y)
        found["sets"]["validation"] = {"covered": plain([done.covered, done.low, done.high]), "size": plain(done.size), "scans": len(y)}
    if "rule_out" in found:
        told = found["rule_out"]
        k = list(classes).index(told["class"])
        called = p[:, k] >= (told["threshold"] if told["threshold"] is not None else -np.inf)
        rate = proportion_interval(int(called[y == k].sum()), int((y == k).sum()))
        told["validation"] = {"sensitivity": plain(rate), "ruled_out": plain(float((~called).mean())), "scans": len(y)}


def tell(found: Mapping[str, Any], rule: Mapping[str, Any] | None, classes: int) -> None:
    """Log what was chosen and what was found, in sentences."""
    always = [name for name, limit in zip(found["cases"], found.get("sets", {}).get("threshold", []), strict=False) if limit is None]
    if always:
        LOG.warning("sets: too few training subjects of %s to promise %g: always in the set", ", ".join(always), found["sets"]["level"])
    level, checked = found.get("sets", {}).get("level", 0.0), found.get("sets", {}).get("checked", {}).get("covered", [1.0] * 3)
    if checked[2] is not None and checked[2] < level:
        words = (100 * checked[0], 100 * level)
        LOG.warning("sets: thresholds of some folds cover %.0f %% of the others, not %.0f: the models of the folds differ too much", *words)
    told = found.get("rule_out")
    if told:
        LOG.info("ruling out: %s (%s)", told["class"], told["chosen"])
        if told["threshold"] is None:
            words = (told["class"], told["cases"], told["needed"], told["sensitivity"], told["sure"])
            LOG.warning("ruling out %s: %d training subjects, %s needed for a sensitivity of %g, sure at %g; no one is ruled out", *words)
    elif rule is not None:
        LOG.info("ruling out: there are %d classes and classify.default.rule_out.class names none, so none is ruled out", classes)
    for gap in found.get("audit", {}).get("gaps", []):
        if gap["alarm"]:
            words = (gap["column"], gap["group"], gap["measure"], gap["class"], gap["value"], gap["corrected"])
            LOG.warning("groups: %s %s differs from the others in %s of %s by %+.3f (corrected p %.4f)", *words)
