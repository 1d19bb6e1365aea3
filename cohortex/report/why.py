"""Why scans were classified as they were: words under the pictures and the features that spoke for the class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from cohortex.report.records import Records, Row, number

TITLE = "why this class"
"""What the pictures of the stage are called, without view and moment."""
METHODS = {
    "grad_cam": "Grad-CAM (Selvaraju et al. 2017)",
    "occlusion": "occlusion (Zeiler and Fergus 2014)",
    "integrated_gradients": "integrated gradients (Sundararajan et al. 2017)",
}
VERDICTS = {
    "passed": "the maps are gone once the weights of the network are random, as they should be",
    "failed": "the maps stay although the weights of the network are random, so they show the picture more than the network: "
    "do not read a reason out of them",
    "not checked": "whether the maps depend on what the network learned was not checked when it was trained",
}
"""What the check of Adebayo et al. 2018 found."""


def caption(row: Row | None) -> str:
    """Return what stands under the pictures of a scan; empty where it was not classified."""
    if row is None or "class" not in row.measures:
        return ""
    probability = number(row.measures.get("probability"))
    sure = "" if probability is None else f" {100 * probability:.0f} %"
    return f"{row.image}: {row.measures['class']}{sure}"


def told(records: Records, stage: str, most: int) -> dict[str, Any]:
    """Return what the report says of the reasons that a stage gave.

    Returns
    -------
    dict
        ``about``: sentences on methods and the randomisation check; ``rows``: subject, session, image, class, and the strongest
        features with what they add to the logit; ``more``: how many rows were left out.
    """
    rows = [row for row in records.told.get(stage, []) if "why_method" in row.measures or "why_features" in row.measures]
    methods = Counter(
        (row.measures["why_method"], row.measures.get("randomisation_check", "")) for row in rows if "why_method" in row.measures
    )
    about = [_sentence(method, verdict) for method, verdict in sorted(methods)]
    listed = [_entry(row, records) for row in rows if row.measures.get("why_features")]
    return {"about": about, "rows": listed[:most], "more": max(0, len(listed) - most)}


def _sentence(method: str, verdict: str) -> str:
    how = METHODS.get(method, method)
    check = f" Randomisation check (Adebayo et al. 2018): {VERDICTS[verdict]}." if verdict in VERDICTS else ""
    return f"Orange, the denser the more, is what speaks for the class of the scan by {how}, in slices through its strongest place.{check}"


def _entry(row: Row, records: Records) -> Mapping[str, Any]:
    features = []
    for word in row.measures["why_features"].split(", "):
        name, _, share = word.rpartition(" ")
        features.append({"name": name.replace("_", " "), "share": share})
    return {
        "subject": row.subject,
        "session": row.session,
        "image": row.image,
        "class": row.measures.get("class", ""),
        "features": features,
        "simulated": row.image.split("+")[0] in records.simulated,
    }
