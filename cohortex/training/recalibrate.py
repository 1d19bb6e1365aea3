"""Give a classifier the temperature that subjects ask for which it never saw: those of one's own site, or further simulated heads.

    python -m cohortex.training.recalibrate FOLDER WORK

FOLDER is the model's, WORK the work folder of a run whose stage classify used it on subjects of known class (participants.tsv, or
``labels``). In cross-validation the temperature comes from networks that saw fewer subjects than the one that is kept, so its
probabilities can be too cautious; at another site they are often too sure. Everything but the temperature stays: what is most probable
hardly changes, only how sure the model says to be. Sets and the operating point of the card, which are thresholds of probabilities, are
chosen anew on the same subjects.

References
----------
Guo et al., On calibration of modern neural networks, ICML 2017.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.measures.classification import brier, calibration_error
from cohortex.measures.evaluation import evaluation, rule_out_of, sets_of
from cohortex.models.classify.classifier import load_classifier
from cohortex.models.classify.fusion import fit_temperature, log_softmax
from cohortex.models.folder import SHOWN, read_model, write_model
from cohortex.tables import read_table

LOG = logging.getLogger("cohortex.training")
ON = "further subjects, seen by no training"
FEWEST = 10
"""Subjects of each class; with fewer the temperature is mostly chance."""
FOLDS = 5
"""In which the sets of the other folds are tried."""


def recalibrate(folder: Path, work: Path, seed: int = 0) -> tuple[float, int]:
    """Write a model folder anew with the temperature that a run's subjects ask for.

    Parameters
    ----------
    folder : Path
        Of a model of the task classify; replaced in one step.
    work : Path
        Of a run that used it.
    seed : int
        Of bootstraps.

    Returns
    -------
    factor : float
        What the temperature was multiplied by; below 1 the probabilities were too cautious.
    subjects : int

    Raises
    ------
    Refused
        When the run used other weights, a subject trained the model, a class has too few subjects, or the model expects other shares of
        the classes than it was calibrated on.
    """
    classifier = load_classifier(folder)
    card, tensors = read_model(folder)
    if classifier.fusion.shift is not None:
        raise Refused(
            f"The model {card['name']} expects shares of classes of its own (training.expected); train it again with more subjects."
        )
    y, probability, subjects = told(card, work)
    factor = fit_temperature(np.log(np.clip(probability, 1e-12, None)), y)
    temperature = classifier.fusion.temperature * factor
    after = np.exp(log_softmax(np.log(np.clip(probability, 1e-12, None)) / factor))
    on = f"{len(np.unique(subjects))} {ON}"
    card = {key: value for key, value in card.items() if key != "sha256"}
    card["recipe"] = {**card["recipe"], "temperature": {"factor": factor, "on": on}}
    measures = {"brier": brier, "calibration_error": calibration_error}
    card["metrics"] = [each for each in card["metrics"] if not str(each.get("on")).endswith(ON)]
    for when, p in (("before", probability), ("after", after)):
        # one number was chosen on them, so what is told of after is hardly too good
        card["metrics"] += [{"name": f"{name} {when}", "value": float(of(y, p)), "n": len(y), "on": on} for name, of in measures.items()]
    extra = dict(card["extra"])
    if "evaluation" in extra:
        extra["evaluation"] = _evaluated(extra["evaluation"], y, after, subjects, card["classes"], on, seed)
    card["extra"] = extra
    beside = {SHOWN: (folder / SHOWN).read_bytes()} if (folder / SHOWN).is_file() else None
    write_model(folder, card, {**tensors, "fusion.temperature": np.array([temperature])}, beside)
    return factor, len(np.unique(subjects))


def told(card: Mapping[str, Any], work: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the classes (n,), probabilities (n, classes) and subjects (n,) of the scans that a run's model spoke of.

    Raises
    ------
    Refused
        See `recalibrate`.
    """
    classes, target = [str(name) for name in card["classes"]], card["extra"]["target"]
    records = sorted((work / "records" / "classify").glob("*/manifest.tsv"))
    if not records:
        raise Refused(
            f"{work} has no records of the stage classify: name the work folder of a run that has ended, with classify among its stages."
        )
    people = work / "cohort" / "participants.tsv"
    known = {row["subject"]: row.get(target, "") for row in read_table(people)} if people.is_file() else {}
    found: list[tuple[int, list[float], str]] = []
    for path in records:
        used = json.loads((path.parent / "numbers.json").read_text(encoding="utf-8"))["models"]
        if card["sha256"] not in {model["sha256"] for model in used.values()}:
            raise Refused(f"the run in {work} did not use the weights of the model {card['name']}: run it with this model folder.")
        rows = [row for row in read_table(path) if row.get(f"p_{classes[0]}") and known.get(row["subject"]) in classes]
        found += [(classes.index(known[row["subject"]]), [float(row[f"p_{name}"]) for name in classes], row["subject"]) for row in rows]
    y, subjects = np.array([each[0] for each in found], dtype=np.int64), np.array([each[2] for each in found])
    seen = {subject for of in card.get("subjects", {}).values() for subject in of} & set(subjects)
    if seen:
        raise Refused(
            f"{len(seen)} of the run's subjects, such as {min(seen)}, trained or chose the model: leave them out (select.subject)."
        )
    for number, name in enumerate(classes):
        if (cases := len(np.unique(subjects[y == number]))) < FEWEST:
            raise Refused(f"{cases} subjects of the run are {name} in the column {target}; at least {FEWEST} of each class are needed.")
    return y, np.array([each[1] for each in found]), subjects


def _evaluated(
    before: Mapping[str, Any], y: np.ndarray, p: np.ndarray, subjects: np.ndarray, classes: Sequence[str], on: str, seed: int
) -> dict[str, Any]:
    """Return the card's evaluation on these subjects, with sets and an operating point where the card had them."""
    rule = before.get("rule_out")
    found = {"on": on, **evaluation(y, p, subjects, classes, rule and rule["class"], seed=seed)}
    if "sets" in before:
        _, who = np.unique(subjects, return_inverse=True)
        found["sets"] = sets_of(y, p, subjects, who % FOLDS, classes, before["sets"]["level"], seed)
    if rule:
        k = list(classes).index(rule["class"])
        found["rule_out"] = rule_out_of(y == k, p[:, k], subjects, rule["class"], rule["sensitivity"], rule["sure"], seed)
        found["rule_out"]["chosen"] = rule["chosen"]
    return found


def main() -> None:
    """Recalibrate what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model folder, replaced")
    parser.add_argument("work", type=Path, help="the work folder of a run that used it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        factor, subjects = recalibrate(options.folder, options.work, options.seed)
    except Refused as error:
        parser.exit(2, f"{error}\n")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    LOG.info("%s: the temperature is %.3f of what it was, from %d subjects.", options.folder, factor, subjects)


if __name__ == "__main__":
    main()
