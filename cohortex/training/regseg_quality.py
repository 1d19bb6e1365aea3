"""The calibrations of a jointly trained model: what Dice is to be expected of the labels of either modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cohortex.models.regseg.segment import class_probabilities
from cohortex.training.quality import Judged, calibrated, volumes_of
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

    from cohortex.training.regseg_losses import Run


def quality_of(run: Run, spacing_mm: float, seed: int) -> dict[str, Any]:
    """Return by modality the calibration of its segmentation (`cohortex.training.quality`), where there is one to be trusted.

    Parameters
    ----------
    run : Run
        Trained. Calibrated is on its validation images with labels, on their fine grids; volumes are those of training images.
    spacing_mm : float
        Of the fine grids.
    seed : int
    """
    material, found = run.material, {}
    names, voxel_ml = [str(i) for i in range(material.classes)], spacing_mm**3 / 1000
    for modality, network in run.nets.segment.items():
        own = [item for item in material.labelled if item.modality == modality]
        volumes = volumes_of((i.labels for i in own if i.split == "train"), material.classes, voxel_ml)

        def look(values: ArrayLike, network: nn.Module = network) -> ArrayLike:
            return class_probabilities(network, values, material.classes, run.device)[0]

        cases = [Judged(i.subject, i.image, i.labels) for i in own if i.split == "validation"]
        fit = calibrated(cases, look, names, voxel_ml, volumes, seed)
        if fit is not None:
            found[modality] = fit
    return found
