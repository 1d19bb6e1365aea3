"""What a classifier's network sees of a scan: how large, how fine, with which values, with or without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.regrid import TISSUES, network_input
from cohortex.models.classify.scans import labels_of
from cohortex.models.registry import entry, expected


@dataclass(frozen=True)
class Input:
    """The input of a network, as the card says it.

    Attributes
    ----------
    size : tuple of int
        Voxels along x, y and z; along x and y for a network of pictures.
    spacing_mm : float or None
        Isotropic spacing; None: the whole scan is scaled to the size.
    labels : bool
        Whether there are channels of labels.
    values : str
        robust | whole | unit | cohort, see `cohortex.models.classify.regrid.network_input`.
    mean, deviation : float
        Of all training scans, where values is ``cohort``.
    """

    size: tuple[int, ...]
    spacing_mm: float | None
    labels: bool = True
    values: str = "robust"
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def channels(self) -> int:
        """Channels: the image and one for each kind of tissue."""
        return 1 + (len(TISSUES) if self.labels else 0)

    @property
    def space(self) -> tuple[int, int, int]:
        """Voxels along x, y and z, one slice of a picture."""
        x, y, z = (*self.size, 1)[:3]
        return x, y, z

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Input:
        """Return what a card (or the settings, once nothing in them is ``auto``) tells."""
        return cls(**{**told, "size": tuple(told["size"])})

    def told(self) -> dict[str, Any]:
        """Return it for a card; what is as it always was goes without saying."""
        found: dict[str, Any] = {"size": list(self.size), "spacing_mm": self.spacing_mm}
        plain = Input(self.size, self.spacing_mm)
        own = {name: getattr(self, name) for name in ("labels", "values", "mean", "deviation")}
        return found | {name: value for name, value in own.items() if value != getattr(plain, name)}

    def raw(self, scan: Image, images: Sequence[Image]) -> np.ndarray:
        """Return the input of a scan, (channels, *size) float32; of ``cohort`` before mean and deviation are taken.

        Raises
        ------
        Refused
            When the network looks at pictures and the scan has several slices.
        """
        if len(self.size) == 2 and scan.volume.shape[2] > 1:
            raise Refused(
                f"The network looks at pictures, but {scan.id} has {scan.volume.shape[2]} slices: "
                "name a 3-D network under classify.default.network, such as smallcnn3d."
            )
        found = network_input(
            scan.volume.data,
            labels_of(scan, images) if self.labels else None,
            scan.volume.spacing,
            self.space,
            self.spacing_mm,
            self.values,
            self.labels,
        )
        return found.reshape(self.channels, *self.size)

    def standard(self, inputs: np.ndarray) -> np.ndarray:
        """Return what `raw` gave, (..., channels, *size), with the cohort's mean and deviation taken out of its first channel."""
        if self.values != "cohort":
            return inputs
        found = inputs.copy()
        axis = found.ndim - len(self.size) - 1
        image = found[(slice(None),) * axis + (0,)]
        image -= np.float32(self.mean)
        image /= np.float32(self.deviation)
        return found

    def shown(self, scan: Image, images: Sequence[Image]) -> np.ndarray:
        """Return what the network sees of a scan, (channels, *size) float32."""
        return self.standard(self.raw(scan, images))

    def of_cohort(self, inputs: np.ndarray) -> Input:
        """Return this with the mean and the deviation of training scans, (n, channels, *size), where they are asked for."""
        if self.values != "cohort":
            return self
        values = inputs[:, 0].astype(np.float64)
        return replace(self, mean=float(values.mean()), deviation=float(values.std()) or 1.0)


def input_for(settings: Mapping[str, Any], scans: Sequence[Image], images: Sequence[Image]) -> Input:
    """Return the input that the settings ask for, with what is ``auto`` in them decided.

    Parameters
    ----------
    settings : mapping
        ``network`` (name, options) and ``input`` (size, spacing_mm, labels, values).
    scans : sequence of Image
        Those that are learned from.
    images : sequence of Image
        Everything of their subjects.

    Raises
    ------
    Refused
        When the size is not of the network's dimensions.
    """
    asked, name = settings["input"], settings["network"]["name"]
    size = tuple(asked["size"])
    dimensions = network_dimensions(settings, size)
    if dimensions == 2 and (len(size) == 2 or size[2] == 1):
        size = size[:2]
    elif dimensions == 2 or len(size) == 2:
        raise Refused(
            f"The network {name} looks at {dimensions}-D images, but classify.default.input.size is {list(size)}: give "
            + ("two numbers, [x, y], or name a 3-D network." if dimensions == 2 else "three numbers, [x, y, z], or name a 2-D network.")
        )
    labels, values = asked["labels"], asked["values"]
    if labels == "auto":
        named = {f"{scan.id}+seg" for scan in scans}
        labels = any(image.id in named and image.kind == "labels" for image in images)
    if values == "auto":
        wanted = entry("classify", name).expects.values
        values = "unit" if wanted == "0..1" else "cohort" if dimensions == 2 else "robust"
    return Input(size, asked["spacing_mm"], bool(labels), values)


def network_dimensions(settings: Mapping[str, Any], size: Sequence[int]) -> int:
    """Return the spatial axes of the network's input; one that can have both has those of the size, unless its options say it."""
    found, options = entry("classify", settings["network"]["name"]), settings["network"].get("options", {})
    if "dimensions" in found.options and "dimensions" not in options:
        return 2 if len(size) == 2 or size[2] == 1 else 3
    return expected(found, options).dimensions


def network_options(settings: Mapping[str, Any], asked: Input, classes: int) -> dict[str, Any]:
    """Return the options with which the settings' network is built: the user's, channels and classes.

    Raises
    ------
    Refused
        When the network gives no classes, or takes no channels.
    """
    name = settings["network"]["name"]
    found = entry("classify", name)
    lacking = [option for option in ("channels", "classes") if option not in found.options]
    if lacking:
        raise Refused(
            f"The network {name} has no option {lacking[0]}, so it cannot learn the classes of a cohort; "
            "name another under classify.default.network."
        )
    dimensions = {"dimensions": len(asked.size)} if "dimensions" in found.options else {}
    return {**dimensions, **settings["network"].get("options", {}), "channels": asked.channels, "classes": classes}
