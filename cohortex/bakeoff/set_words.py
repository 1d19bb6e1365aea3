"""What the page of a bake-off of classification or recognition says of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PICTURES = {
    "classify": (
        "Some {split} scans of each class: a slice, its class, and what each system holds for most probable, with its "
        "probability: green where that is the truth, red where it is not. What is not for a scan says nothing of it."
    ),
    "recognize": (
        "Some {split} images: the slice through the middle of the largest thing. Boxes of the truth, in the colours of their classes; "
        "below a system's own, these are white. Of a system's boxes those are shown of which it is surest, as many as the image has "
        "things, if they meet the slice. mAP is that of the table."
    ),
}
"""Of the task, below what stands the split."""


def of_figures(task: str, images: int, subjects: str, against: str) -> str:
    """Return what the figures are of: all images together."""
    thing = "scan" if task == "classify" else "image"
    return (
        f"Figures are of {images} {thing}{'' if images == 1 else 's'} of {subjects} together: none is a mean over subjects. Differences "
        f"are those to {against} on the same {thing}s, in brackets the paired bootstrap 95 % interval, which draws whole subjects."
    )


def of_training(task: str, steps: int, minutes: str, alike: str) -> str:
    """Return what each training was given."""
    if task == "classify":
        return (
            f"Every network was trained with the same budget: {steps} steps in each fold and {steps} at the end, at most {minutes} for all "
            f"of a system's networks{alike}."
        )
    return f"Every network was trained with the same budget: {steps} steps, at most {minutes}{alike}."


def of_truth(config: Mapping[str, Any], task: str) -> list[str]:
    """Return what the truth is and what the measures mean."""
    if task == "classify":
        target = config["classify"]["default"]["target"]
        return [
            f"The truth is the column {target} of the cohort's subjects. prior tells every scan the frequencies of the classes among "
            "training scans: what can be said without looking.",
            "AUC: of more than two classes the mean over classes against the rest. The Brier score is 0 at best. The calibration error is "
            "how far the probability of the predicted class is from the share of right predictions, in ten bins. Log loss is the mean "
            "negative log-likelihood. Networks that were trained with classes weighed alike (training.balance) tell probabilities of "
            "equally frequent classes, and pay for it in these three where classes are not.",
        ]
    overlap = config["bakeoff"]["recognize"]["overlap"]
    return [
        "The truth is the boxes of the connected pieces of the cohort's labels, on the grid of each image; an image whose labels are "
        "empty counts, too. Boxes count down to a score of 0.02.",
        "mAP is the mean over classes of the average precision, a box being right from an overlap (intersection over union) of "
        f"{overlap:g}. Sensitivity is read off the FROC curve at one false positive an image, and CPM is its mean at 1/8 to 8 of them; "
        "there a box is right whose centre lies in a true one, whatever its class.",
        "blobs are the maxima of the scale-normalised Laplacian of Gaussian, as large as what is labelled in training subjects unless "
        "settings say it; all have the class that is most frequent there.",
    ]
