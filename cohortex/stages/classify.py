"""The stage classify: radiomic features of every labelled scan, and a class with its probability where a model fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import over_blocks
from cohortex.errors import BadInput
from cohortex.items import DEMO_SITE, Image, Made, settings_for
from cohortex.stages.classify_why import check_methods, reasons
from cohortex.tables import column_word

if TYPE_CHECKING:
    from cohortex.models.classify.classifier import Classifier, Opinion
    from cohortex.models.classify.scans import Grain, Vectors


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Classifier]:
    """Return the classifiers by the values of ``weights`` in the section.

    Raises
    ------
    Refused
        When a folder is broken or not a classifier, or its network cannot be explained as ``why`` asks.
    """
    from cohortex.models.classify.classifier import load_classifier

    models = {name: load_classifier(folder, device) for name, folder in folders.items()}
    check_methods(section, models)
    return models


def classify(images: Sequence[Image], section: Mapping[str, Any], model: Mapping[str, Classifier] | None, seed: int) -> list[Made]:
    """Classify the scans of a subject and write their features.

    Parameters
    ----------
    images : sequence of Image
        Everything of the subject. Labels are ``<id>+seg`` with 1 CSF, 2 grey matter, 3 white matter, 6 lesion;
        registered partners ``<id>+warped``.
    section : mapping
        See ``schemas/stages/classify.json``.
    model : mapping of str to Classifier
        What `load` gave.
    seed : int
        Not used: nothing is random here.

    Returns
    -------
    list of Made
        For each scan with labels the table ``features`` (feature, value; n/a where there is none); for each scan that
        was classified the table ``class`` (class, probability, and those of the parts) and the measures class,
        probability, p_<class>, probability_<part>_<class>; every other scan is ``skipped`` with the reason. Where the model's card
        has them: set (the classes that cannot be left out at its level, with | between, never empty), set_size, unlike_training
        (the scan is as usual for no class; its set holds the most likely one) and ruled_out (whether the class that the model
        rules out is less likely than its threshold). With ``why`` also what explains the class (`cohortex.stages.classify_why`).

    Raises
    ------
    BadInput
        When labels do not lie on the grid of their scan; ``bad-result`` when the network gives NaN or infinite values.

    References
    ----------
    Zwanenburg et al., Radiology 2020, doi:10.1148/radiol.2020191145 (features); Guo et al., ICML 2017 (calibration);
    Sadinle et al., JASA 2019 (sets).
    """
    from cohortex.models.classify.scans import Vectors, plain_scans

    scans = plain_scans(images)
    shared: dict[Grain, Vectors] = {}
    made: list[Made] = []
    opinions: dict[str, tuple[Classifier, Opinion]] = {}
    refused: dict[str, tuple[str, str]] = {}
    without: dict[str, tuple[str, str]] = {}
    for scan in scans:
        settings = settings_for(section, scan.modality)
        grain = _grain(settings)
        vectors = shared.setdefault(grain, Vectors(images, grain))
        classifier = (model or {}).get(settings.get("weights") or "")
        if settings.get("features", True):
            made.extend(_feature_table(scan, vectors))
        found = _decide(scan, images, classifier, vectors)
        if scan.id in vectors.refused and (isinstance(found, tuple) or "radiomics" in found.parts):
            without[scan.id] = (vectors.refused[scan.id].code, vectors.refused[scan.id].sentence)
        if isinstance(found, tuple):
            refused[scan.id] = without.get(scan.id, found)
        else:
            assert classifier is not None
            opinions[scan.id] = (classifier, found)
    # A CT that helped to classify its T1w was not skipped: the model used it.
    helped = {
        (scan.session, modality)
        for scan in scans
        if scan.id in opinions
        for modality in (opinions[scan.id][0].modalities if "radiomics" in opinions[scan.id][1].parts else ())
    }
    for scan in scans:
        if scan.id in opinions:
            table, word = _verdict(scan, *opinions[scan.id], without.get(scan.id))
            settings = settings_for(section, scan.modality)
            made += [table, *_with_reasons(word, scan, images, *opinions[scan.id], shared[_grain(settings)], settings.get("why"))]
        elif scan.id in without or (scan.session, scan.modality) not in helped:
            code, reason = refused[scan.id]
            made.append(Made(of=scan.id, status="skipped", code=code, reason=reason))
    return made


def _with_reasons(
    word: Made, scan: Image, images: Sequence[Image], classifier: Classifier, opinion: Opinion, vectors: Vectors, method: str | None
) -> list[Made]:
    """Return a scan's own row, and before it what explains its class where that is asked for."""
    if method is None:
        return [word]
    found = reasons(scan, images, classifier, int(opinion.probability.argmax()), vectors, method)
    return [*found.made, replace(word, measures={**word.measures, **found.measures}, previews={**word.previews, **found.previews})]


def _grain(settings: Mapping[str, Any]) -> Grain:
    from cohortex.models.classify.scans import Grain

    return Grain(**settings.get("texture", {}))


def _decide(scan: Image, images: Sequence[Image], classifier: Classifier | None, vectors: Vectors) -> Opinion | tuple[str, str]:
    """Return a classifier's opinion of a scan, or the code and the sentence that say why there is none."""
    if classifier is None:
        return "no-model", "No classifier is configured: name a model folder (or train) under classify.default.weights."
    from cohortex.models.classify.classifier import ask
    from cohortex.models.classify.scans import labels_of
    from cohortex.models.folder import fits

    extra = classifier.card["extra"]
    if extra.get("cohort") == "demo" and scan.row.get("site") != DEMO_SITE:
        return "demo-only", (
            f"The model {classifier.card['name']} knows simulated heads only and gives no probability for a real scan: "
            "train a classifier on your own cohort (classify.default.weights: train)."
        )
    misfit = fits(classifier.card, replace(scan.volume, modality=scan.modality, body_part=scan.body_part or scan.volume.body_part))
    if misfit is not None:
        return "no-fit", f"{misfit[:1].upper()}{misfit[1:]}."
    labels = labels_of(scan, images) if extra["needs_labels"] else None
    if extra["needs_labels"] and (labels is None or not any(over_blocks(lambda _, block: bool(block.any()), labels))):
        return "no-labels", f"The model {classifier.card['name']} needs a segmentation of the scan, and regseg made none (see its reason)."
    opinion = ask(classifier, scan, images, vectors)
    if any(part != "radiomics" and not np.isfinite(probability).all() for part, probability in opinion.parts.items()):
        raise BadInput(
            "bad-result",
            f"The network of the model {classifier.card['name']} gives values that are not finite for {scan.id}: train it on such images, "
            "or name no model (classify: weights: null).",
        )
    if opinion.probability[0] != opinion.probability[0]:
        return "features-missing", (
            f"Features that the model {classifier.card['name']} needs are missing: "
            f"it was trained on subjects with {' and '.join(classifier.modalities)}."
        )
    return opinion


def _feature_table(scan: Image, vectors: Vectors) -> list[Made]:
    """Return the table of a scan's features, and of its registered partners under its labels; nothing without labels."""
    own = vectors.of_scan(scan)
    if own is None:
        return []
    values = {f"{scan.modality}_{name}": value for name, value in own.items()} | vectors.of_partners(scan)
    return [Made({"feature": list(values), "value": list(values.values())}, of=scan.id, tag="features")]


def _verdict(scan: Image, classifier: Classifier, opinion: Opinion, why: tuple[str, str] | None) -> list[Made]:
    """Return the table of probabilities and the scan's own row with its measures; `why` tells code and reason of missing features."""
    from cohortex.models.classify.decided import decided

    classes, best = classifier.classes, int(opinion.probability.argmax())
    table: dict[str, list[Any]] = {"class": classes, "probability": [float(p) for p in opinion.probability]}
    measures: dict[str, Any] = {"class": classes[best], "probability": float(opinion.probability[best])}
    measures |= {f"p_{column_word(name)}": float(p) for name, p in zip(classes, opinion.probability, strict=True)}
    measures |= decided(classifier.card, classes, opinion.probability)
    silent = []
    for part, probability in opinion.parts.items():
        table[f"probability_{part}"] = [float(p) for p in probability]
        if probability[0] != probability[0]:
            silent.append(part)
            continue
        measures |= {f"probability_{part}_{column_word(name)}": float(p) for name, p in zip(classes, probability, strict=True)}
    status, code, reason = "ok", "", ""
    if silent:
        status, code = "warned", "features-missing"
        reason = f"Features that the {silent[0]} part of the model {classifier.card['name']} needs are missing; the rest decided alone."
        code, reason = why or (code, reason)
    return [
        Made(table, of=scan.id, tag="class"),
        Made(of=scan.id, measures=measures, status=status, code=code, reason=reason),
    ]
