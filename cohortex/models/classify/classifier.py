"""A classifier as it lies in a model folder: regression on radiomics, networks, fusion; loaded and asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.decided import check_decisions
from cohortex.models.classify.estimators import Estimator, from_tensors, predict_logits
from cohortex.models.classify.fusion import Fusion, fuse
from cohortex.models.classify.inputs import Input
from cohortex.models.classify.logistic import Logistic
from cohortex.models.classify.scans import Grain, Vectors


@dataclass(frozen=True)
class Classifier:
    """What a model folder of the task ``classify`` holds.

    Attributes
    ----------
    card : mapping
        Its ``extra`` has: modalities (the first is the scan that is classified), features (names, in order), grain
        (spacing_mm, bins, families, pictures), input (see `Input`), needs_labels, parts (radiomics and/or cnn), cohort, committee,
        evaluation (see `cohortex.training.classify_evaluation`; older cards have none).
    logistic : Logistic or Estimator or None
        What learned from the features; a regression unless another estimator was asked for.
    network : torch module or None
        A `cohortex.models.classify.committee.Committee` where there are several.
    fusion : Fusion
        Of the parts in the order of ``parts``.
    device : str
    """

    card: Mapping[str, Any]
    logistic: Logistic | Estimator | None
    network: Any
    fusion: Fusion
    device: str = "cpu"

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return [str(each) for each in self.card["classes"]]

    @property
    def modalities(self) -> list[str]:
        """Modalities that are looked at; the first one is the scan that is classified."""
        return list(self.card["extra"]["modalities"])

    @property
    def grain(self) -> Grain:
        """How fine the texture features are."""
        return Grain(**self.card["extra"]["grain"])

    @property
    def input(self) -> Input:
        """What its networks see of a scan."""
        return Input.of(self.card["extra"]["input"])


@dataclass(frozen=True)
class Opinion:
    """What a classifier says of a scan.

    Attributes
    ----------
    probability : (classes,) array
        Fused and calibrated; NaN when no part could say anything.
    parts : mapping of str to (classes,) array
        The calibrated probabilities of ``radiomics`` and ``cnn``; NaN where a part could say nothing.
    """

    probability: np.ndarray
    parts: Mapping[str, np.ndarray]


def load_classifier(folder: Path, device: str = "cpu") -> Classifier:
    """Read a model folder.

    Raises
    ------
    Refused
        When the folder is broken (see `cohortex.models.folder`), of another task, or lacks what a classifier needs.
    """
    from cohortex.models.folder import load_network, read_model

    card, tensors = read_model(folder)
    if card["task"] != "classify":
        raise Refused(
            f"The model {card['name']} is for the task {card['task']}, not for classify; name another folder under classify.weights."
        )
    extra = card.get("extra", {})
    missing = [key for key in ("modalities", "features", "grain", "input", "needs_labels", "parts") if key not in extra]
    if missing or not card.get("classes"):
        raise Refused(f"The card of the model {card['name']} has no {missing[0] if missing else 'classes'}; train the model again.")
    check_decisions(card)
    prefixes = ("logistic.", "estimator.")
    part = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(prefixes)}
    fusion = {name.removeprefix("fusion."): value for name, value in tensors.items() if name.startswith("fusion.")}
    try:
        logistic = from_tensors(part) if "radiomics" in extra["parts"] else None
        mix = Fusion(fusion["weights"], fusion["temperatures"], float(fusion["temperature"].item()), fusion.get("shift"))
    except KeyError as error:
        raise Refused(f"The weights of the model {card['name']} have no tensor for {error.args[0]}; train the model again.") from error
    network = None
    if "cnn" in extra["parts"]:
        from cohortex.models.classify.committee import as_one

        members = [load_network(folder, device, part=name) for name in sorted(card.get("parts", {"cnn": {}})) if name.startswith("cnn")]
        network = as_one(members, **extra.get("committee", {})).requires_grad_(False)
    return Classifier(card, logistic, network, mix, device)


def part_names(members: int) -> list[str]:
    """Return what the networks of a classifier are called in its card, and how the names of their tensors begin."""
    return ["cnn", *(f"cnn{number:03d}" for number in range(2, members + 1))]


def save_classifier(folder: Path, classifier: Classifier, members: Sequence[Any] = ()) -> None:
    """Write a model folder: tensors ``logistic.*`` (``estimator.*``), ``cnn.*`` (further networks ``cnn002.*``), ``fusion.*``, the card.

    Parameters
    ----------
    folder : Path
    classifier : Classifier
    members : sequence of torch module
        Its networks; its own network where none are given.

    Raises
    ------
    Refused
        When the card does not hold to its schema or a tensor is not finite.
    """
    from cohortex.models.folder import write_model

    mix = classifier.fusion
    tensors: dict[str, Any] = {
        "fusion.weights": mix.weights,
        "fusion.temperatures": mix.temperatures,
        "fusion.temperature": np.array([mix.temperature]),
        **({} if mix.shift is None else {"fusion.shift": mix.shift}),
    }
    if classifier.logistic is not None:
        prefix = "logistic" if isinstance(classifier.logistic, Logistic) else "estimator"
        tensors |= {f"{prefix}.{name}": value for name, value in classifier.logistic.tensors().items()}
    networks = members or ([] if classifier.network is None else [classifier.network])
    for part, network in zip(part_names(len(networks)), networks, strict=False):
        tensors |= {f"{part}.{name}": value for name, value in network.state_dict().items()}
    write_model(folder, classifier.card, tensors)


def ask(classifier: Classifier, scan: Image, images: Sequence[Image], vectors: Vectors) -> Opinion:
    """Return a classifier's opinion of a scan.

    Parameters
    ----------
    classifier : Classifier
    scan : Image
        Of the first of the classifier's modalities.
    images : sequence of Image
        Everything of the subject.
    vectors : Vectors
        Of the same images; with another grain than the classifier's the features are computed anew.
    """
    logs: list[np.ndarray] = []
    extra = classifier.card["extra"]
    for part in extra["parts"]:
        if part == "radiomics":
            assert classifier.logistic is not None
            logs.append(predict_logits(classifier.logistic, feature_row(classifier, scan, vectors)))
        else:
            shown = classifier.input.shown(scan, images)
            logs.append(network_logits(classifier.network, shown[None], classifier.device))
    fused, parts = fuse(logs, classifier.fusion)
    return Opinion(fused[0], {name: p[0] for name, p in zip(extra["parts"], parts, strict=True)})


def feature_row(classifier: Classifier, scan: Image, vectors: Vectors) -> np.ndarray:
    """Return the features of a scan as a classifier wants them, (1, features) float64; NaN where one is missing."""
    own = vectors if vectors.grain == classifier.grain else replace(vectors, grain=classifier.grain, known={})
    vector = own.of_subject(scan, classifier.modalities)
    return np.array([[vector.get(name, np.nan) for name in classifier.card["extra"]["features"]]], dtype=np.float64)


def network_logits(network: Any, inputs: np.ndarray, device: str) -> np.ndarray:
    """Return the log-probabilities of a network for inputs (n, channels, *space), float64."""
    import torch

    with torch.inference_mode():
        logits = network(torch.from_numpy(np.ascontiguousarray(inputs)).to(device)).double()
        return torch.log_softmax(logits, dim=1).cpu().numpy()
