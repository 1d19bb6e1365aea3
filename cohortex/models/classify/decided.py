"""What a classifier's card lets one decide from the probabilities of a scan: its set of classes, and whether a class is ruled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.measures.conformal import prediction_sets
from cohortex.measures.evaluation import conformal_of

BETWEEN = "|"
"""Stands between the classes of a set; in a name of a class it is written as /."""


def check_decisions(card: Mapping[str, Any]) -> None:
    """Check that what a card tells of sets and of ruling out suits its classes.

    Raises
    ------
    Refused
        When it does not.
    """
    told, classes = card.get("extra", {}).get("evaluation") or {}, [str(name) for name in card["classes"]]
    sets, rule = told.get("sets"), told.get("rule_out")
    try:
        good = sets is None or len(conformal_of(sets).threshold) == len(classes)
        good = good and (rule is None or (rule["class"] in classes and (rule["threshold"] is None or float(rule["threshold"]) <= 1)))
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise Refused(
            f"The card of the model {card['name']} tells of sets or of ruling out what does not suit its classes: train the model again."
        )


def decided(card: Mapping[str, Any], classes: Sequence[str], probability: np.ndarray) -> dict[str, Any]:
    """Return what can be decided of one scan.

    Parameters
    ----------
    card : mapping
        ``extra.evaluation`` (see `cohortex.measures.evaluation`) may lack ``sets``, ``rule_out`` or be absent.
    classes : sequence of str
    probability : (classes,) array
        Finite.

    Returns
    -------
    dict
        With sets: ``set`` (classes in their order, `BETWEEN` them; never empty), ``set_size``, and ``unlike_training``: whether
        no class was as usual as the calibration cases of that class, so that the set has the most likely one after all. With an operating
        point: ``ruled_out`` (whether its class is; never where there were too few subjects to be sure).
    """
    told = card.get("extra", {}).get("evaluation") or {}
    found: dict[str, Any] = {}
    if told.get("sets"):
        sets = prediction_sets(conformal_of(told["sets"]), probability[None])
        members = [name.replace(BETWEEN, "/") for name, inside in zip(classes, sets.member[0], strict=True) if inside]
        found |= {"set": BETWEEN.join(members), "set_size": len(members), "unlike_training": bool(sets.empty[0])}
    if told.get("rule_out"):
        rule = told["rule_out"]
        threshold = -np.inf if rule["threshold"] is None else float(rule["threshold"])
        found["ruled_out"] = bool(probability[list(classes).index(rule["class"])] < threshold)
    return found
