"""Networks that segment and register, small enough that a core trains each in about a minute: candidates of the bake-offs of the zoo."""

from __future__ import annotations

from typing import Any

from cohortex.models import registry

SEGMENT: dict[str, dict[str, Any]] = {
    "planned_unet": {"features": [12, 24, 48, 64], "kernels": [], "strides": []},
    "unet": {"features": [16, 32, 64, 128], "valid": False, "norm": "batch"},
    "unetplusplus": {"features": [12, 24, 48, 96], "norm": "batch", "deep_supervision": True},
    "attention_unet": {"features": [8, 16, 32, 64]},
    "vnet": {"features": [4, 8, 16, 32], "depths": [1, 2, 2, 2], "norm": "batch"},
    "unet3d": {"features": [6, 12, 24, 48]},
    "unet3d_small": {},
    "segnet": {"features": [16, 32, 64, 64]},
    "fcn": {"features": [16, 32, 64, 64, 64], "hidden": 128, "norm": "batch"},
    "deeplab_v1": {"features": [16, 32, 64, 64, 64], "hidden": 64, "norm": "batch"},
    "deeplab_v2": {"depth": [2, 2, 2, 2], "width": 16},
    "deeplab_v3": {"depth": [2, 2, 2, 3], "width": 16, "stride": 8, "filters": 64},
    "enet": {"width": 16},
    "pspnet": {"depth": [2, 2, 2, 2], "width": 16},
    "frrn": {"width": 16, "lane": 12, "factor": 0.2},
    "r2unet": {"features": [12, 24, 48, 96]},
    "bcdunet": {"features": [12, 24, 48, 96]},
    "unetr": {"size": 48, "features": 8, "width": 96, "hidden": 192, "heads": 6, "layers": 4},
    "swin_unetr": {"features": 12, "depths": [2, 2, 2], "heads": [3, 6, 12], "window": 4},
    "triplanar": {"layers": 8, "features": 12, "hidden": 48},
}
"""Options of each; one that is not here is taken as it is."""

SEEN = {2: {"patch": [64, 64], "batch": 8}, 3: {"patch": [48, 48, 24], "batch": 2}}
"""Patch and batch by the dimensions of a network: about as many voxels in a step."""

TAUGHT = {"rate": 2e-3, "objective": "dice_cross_entropy"}
"""The same for all."""

JOINT = {
    "segment_network": {"name": "unet3d_small", "options": {}},
    "training": {"steps": 20, "segment_steps": 40, "turn": 6, "rounds": 1},
}
"""Of a joint training."""


def segmenters() -> list[dict[str, Any]]:
    """Return every network of the registry as a candidate of the bake-off of segmentation."""
    found: list[dict[str, Any]] = []
    for entry in registry.entries("segment"):
        options = SEGMENT.get(entry.name, {})
        seen = SEEN[registry.expected(entry, options).dimensions]
        found.append({entry.name: {"network": entry.name, "training": {**TAUGHT, **seen, "options": options}}})
    return found


def registrations() -> list[dict[str, Any]]:
    """Return every network of the registry as a candidate of the bake-off of registration."""
    return [{entry.name: {"network": {"name": entry.name}, **JOINT}} for entry in registry.entries("regseg")]
