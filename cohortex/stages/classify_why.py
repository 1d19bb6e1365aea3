"""Why a scan was classified as it was: the map of where the network looked, and what every feature added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import new_array
from cohortex.errors import Refused
from cohortex.items import Image, Made, settings_for
from cohortex.lazy import Elementwise
from cohortex.volume import Volume

if TYPE_CHECKING:
    from cohortex.models.classify.classifier import Classifier
    from cohortex.models.classify.scans import Vectors

TAGS = {"grad_cam": "gradcam", "occlusion": "occlusion", "integrated_gradients": "integratedgradients"}
"""What the map of a method is called behind the id of its scan."""
PICTURES = "why_this_class"
"""Beginning of the names of the pictures: the scan before, the map over it after."""
STRONGEST = 3
"""So many features stand in the measures; the table has all."""


@dataclass(frozen=True)
class Reasons:
    """What explains one classification: things beside the scan, and what is added to its own row."""

    made: list[Made] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)
    previews: dict[str, np.ndarray] = field(default_factory=dict)


def check_methods(section: Mapping[str, Any], models: Mapping[str, Classifier]) -> None:
    """Refuse Grad-CAM for a classifier whose network has no convolutional layers to look at, before any scan is touched.

    Raises
    ------
    Refused
    """
    for modality in section:
        settings = settings_for(section, modality)
        model = models.get(settings.get("weights") or "")
        if settings.get("why") == "grad_cam" and model is not None and model.network is not None:
            from cohortex.models.classify.why import feature_layer

            try:
                feature_layer(model.network, np.zeros(_input_shape(model), np.float32))
            except Refused as refused:
                raise Refused(f"classify.{modality}.why: grad_cam does not suit the model {model.card['name']}. {refused}") from None


def reasons(scan: Image, images: Sequence[Image], classifier: Classifier, best: int, vectors: Vectors, method: str) -> Reasons:
    """Explain the class that a classifier gave to a scan.

    Parameters
    ----------
    scan, images, classifier, vectors
        As `cohortex.models.classify.classifier.ask` has them.
    best : int
        The class.
    method : {"grad_cam", "occlusion", "integrated_gradients"}
        Of the network; features are added up exactly, whatever the method.

    Returns
    -------
    Reasons
        Of a network the map ``+gradcam`` (``+occlusion``, ``+integratedgradients``) on the scan's grid, float32 of half precision: 0, or
        speaks against the class, to 1, where most speaks for it; 0 outside what the network sees. Of a regression the table
        ``+importance``: every term with its value and what it adds to the logit of each class, the strongest first. Measures
        ``why_method``, ``randomisation_check`` (verdict of the randomisation check in the model's card) and ``why_features``.
    """
    found = Reasons()
    if classifier.network is not None:
        _where(found, scan, images, classifier, best, method)
    if classifier.logistic is not None:
        _what(found, scan, classifier, best, vectors)
    return found


def _where(found: Reasons, scan: Image, images: Sequence[Image], classifier: Classifier, best: int, method: str) -> None:
    """Add the map of the network, its pictures and its measures."""
    from cohortex.models.classify.regrid import input_affine
    from cohortex.models.classify.scans import labels_of
    from cohortex.models.classify.why import explain
    from cohortex.models.regseg.grid import Grid, resample

    volume, asked = scan.volume, classifier.input
    coarse = explain(classifier.network, asked.shown(scan, images), best, method).reshape(asked.space)
    affine = input_affine(volume.data, labels_of(scan, images) if asked.labels else None, volume.affine, asked.space, asked.spacing_mm)
    fine = resample(coarse, affine, Grid(volume.shape, volume.affine), outside=0.0, out=new_array(volume.shape))
    # Single numbers hold no more than three digits; cut to these the file is a third.
    share = Elementwise(lambda block: block.astype(np.float16).astype(np.float32), fine)
    name = classifier.classes[best]
    whole = volume.with_data(share, volume.affine, {"step": "why", "method": method, "class": name, "model": classifier.card["name"]})
    found.made.append(Made(whole, of=scan.id, tag=TAGS[method], entities={"desc": TAGS[method]}, sources=(scan.id,)))
    sane = classifier.card["extra"].get("sanity", {}).get(method, {}).get("verdict", "not checked")
    found.measures.update({"why_method": method, "randomisation_check": sane})
    peak = np.linalg.inv(volume.affine) @ affine @ [*np.unravel_index(int(coarse.argmax()), coarse.shape), 1]
    found.previews.update(_pictures(scan, whole, np.clip(np.rint(peak[:3]), 0, np.array(volume.shape) - 1).astype(int).tolist()))


def _pictures(scan: Image, share: Volume, peak: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the slices through the strongest place of the scan, and of the map over it."""
    from cohortex.report.previews import orthogonal_views, overlaid

    views = orthogonal_views(scan.volume, at=peak)
    # Squared: what speaks a little for the class, over large parts of the picture, would hide it.
    over = overlaid(views, replace(share, data=Elementwise(np.square, share.data)), at=peak, most=0.8)
    return {f"{PICTURES}_{view}_before": picture for view, picture in views.items()} | {
        f"{PICTURES}_{view}_after": picture for view, picture in over.items()
    }


def _what(found: Reasons, scan: Image, classifier: Classifier, best: int, vectors: Vectors) -> None:
    """Add the table of the features, and the strongest ones to the measures; nothing where features are missing."""
    from cohortex.models.classify.classifier import feature_row
    from cohortex.models.classify.why_features import contributions, term_names

    assert classifier.logistic is not None
    names = list(classifier.card["extra"]["features"])
    row = feature_row(classifier, scan, vectors)
    model = classifier.logistic
    if np.isnan(row[0, model.columns[model.complete]]).any():
        return
    shares = contributions(model, row)[0][0]
    values = [*row[0, model.columns], *np.isnan(row[0, model.indicators]).astype(float)]
    terms = term_names(model, names)
    order = np.argsort(-np.abs(shares[best]), kind="stable")
    table: dict[str, list[Any]] = {"feature": [terms[i] for i in order], "value": [float(values[i]) for i in order]}
    table |= {f"adds_to_{name}": [float(shares[k, i]) + 0.0 for i in order] for k, name in enumerate(classifier.classes)}
    found.made.append(Made(table, of=scan.id, tag="importance"))
    found.measures["why_features"] = ", ".join(f"{terms[i]} {shares[best, i]:+.2f}" for i in order[:STRONGEST])


def _input_shape(classifier: Classifier) -> tuple[int, ...]:
    options = classifier.card["parts"]["cnn"].get("options", {})
    return int(options.get("channels", 5)), *classifier.input.size
