"""What is measured in the bake-off of each task: measures, what systems are ranked by, what a second of work is counted for.

The leaderboard and the page are made from this, so that they are the same for all tasks. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measure:
    """A column of the leaderboard: its heading, whether more is better, digits after the point."""

    heading: str
    more: bool
    digits: int = 3


@dataclass(frozen=True)
class Kind:
    """What the bake-off of a task measures.

    Attributes
    ----------
    title : str
    thing : str
        What a row of a system's measures is of, in the singular: image, scan, pair.
    measures : mapping
        Columns of the leaderboard, each held against the baseline.
    ranked_by : tuple of str
        Systems are ranked by the first of these measures that validation subjects have; of all of them more is better.
    further : tuple of str
        What stands in a table of its own, and is held against nothing.
    each : {"megavoxels", "thing"}
        What the CPU seconds are counted for.
    labels : bool
        Whether it has figures of each label, and pictures of labels.
    of_each : mapping
        What is told of each label or class, the first of it on the page.
    of_set : bool
        Whether its measures are of all images of a split together (an area under a curve has no value of one image), by
        `cohortex.bakeoff.sets`, and not means over subjects.
    """

    title: str
    thing: str
    measures: Mapping[str, Measure]
    ranked_by: tuple[str, ...]
    further: tuple[str, ...] = ()
    each: str = "thing"
    labels: bool = False
    of_each: Mapping[str, Measure] = field(default_factory=dict)
    of_set: bool = False

    @property
    def cost(self) -> str:
        """Return the heading of the CPU seconds."""
        return "CPU s / megavoxel" if self.each == "megavoxels" else f"CPU s / {self.thing}"

    @property
    def cost_column(self) -> str:
        """Return the column of the CPU seconds in the table."""
        return "cpu_s_megavoxel" if self.each == "megavoxels" else f"cpu_s_{self.thing}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of what the scoring of a system leaves."""
        measures = () if self.of_set else tuple(self.measures)
        return ("subject", "image", "modality", "split", *measures, "cpu_s", "megavoxels", *self.further)


_IMAGE = {
    "psnr": Measure("PSNR dB", True, 2),
    "ssim": Measure("SSIM", True, 4),
    "ms_ssim": Measure("MS-SSIM", True, 4),
    "hfen": Measure("HFEN", False),
    "nps_distance": Measure("NPS distance", False),
}

_STRUCTURE = ("image_correlation", "edge_correlation")

LABEL_MEASURES = {"dice": Measure("Dice", True), "iou": Measure("IoU", True), "hd95": Measure("HD95 mm", False, 2)}
"""What is told of each label of a segmentation."""

KINDS: dict[str, Kind] = {
    "denoise": Kind(
        "Bake-off: noise reduction",
        "image",
        _IMAGE,
        ("psnr",),
        ("removed_share", "whiteness", *_STRUCTURE),
        "megavoxels",
    ),
    "superresolve": Kind(
        "Bake-off: super-resolution",
        "image",
        _IMAGE,
        ("psnr",),
        ("slice_error", *_STRUCTURE),
        "megavoxels",
    ),
    "segment": Kind(
        "Bake-off: segmentation",
        "scan",
        {
            "dice": Measure("mean Dice", True),
            "iou": Measure("mean IoU", True),
            "hd95": Measure("HD95 mm", False, 2),
            "asd": Measure("surface distance mm", False, 2),
            "recall": Measure("recall", True),
            "precision": Measure("precision", True),
            "missed": Measure("labels missed", False, 2),
        },
        ("dice",),
        labels=True,
        of_each=LABEL_MEASURES,
    ),
    "regseg": Kind(
        "Bake-off: registration and segmentation",
        "pair",
        {
            "labels_dice": Measure("Dice of labels carried over", True),
            "fixed_dice": Measure("Dice of the fixed image's segmentation", True),
            "moving_dice": Measure("Dice of the moving image's segmentation", True),
            "agreement": Measure("Dice of both segmentations", True),
            "mi": Measure("mutual information", True),
            "folding_percent": Measure("folding %", False),
            "jacobian_min": Measure("smallest Jacobian", True, 2),
            "consistency_mm": Measure("inverse-consistency mm", False),
        },
        ("labels_dice", "mi"),
        ("labels_dice_before", "displacement_p95_mm"),
        labels=True,
        of_each=LABEL_MEASURES,
    ),
    "classify": Kind(
        "Bake-off: classification",
        "scan",
        {
            "auc": Measure("AUC", True),
            "accuracy": Measure("accuracy", True),
            "balanced_accuracy": Measure("balanced accuracy", True),
            "brier": Measure("Brier score", False),
            "calibration_error": Measure("calibration error", False),
            "log_loss": Measure("log loss", False),
        },
        ("auc", "accuracy"),
        of_each={"auc": Measure("AUC", True), "sensitivity": Measure("sensitivity", True), "specificity": Measure("specificity", True)},
        of_set=True,
    ),
    "recognize": Kind(
        "Bake-off: recognition",
        "image",
        {
            "map": Measure("mAP", True),
            "sensitivity_at_1": Measure("sensitivity at 1 false positive", True),
            "cpm": Measure("CPM", True),
        },
        ("map",),
        of_each={"ap": Measure("average precision", True)},
        of_set=True,
    ),
}
"""By task."""
