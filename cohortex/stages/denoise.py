"""Stage `denoise`: remove noise from an image, by shrinkage in a transform or by a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made
from cohortex.models.folder import Loaded, fits, load_used

NETWORKS = ("redcnn",)
"""The methods that need weights."""

BLOCK = (256, 256, 1)
"""Pixels of a slice that go through the network at once: at 96 channels some 150 MB."""


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Loaded]:
    """Load the models that the section's settings use, by their name in the configuration.

    Raises
    ------
    Refused
        When a network has no weights, or its folder is not one of this stage.
    """
    return load_used(section, folders, device, "denoise", NETWORKS)


def denoise(image: Image, settings: Mapping[str, Any], model: Mapping[str, Loaded] | None, seed: int) -> Made:
    """Return an image without its noise, on its own grid.

    Parameters
    ----------
    image : Image
        Any grid; (x, y, 1) for a picture.
    settings : mapping
        ``method``: transform (a redundant block DCT, `cohortex.filters.transform`), redcnn (Chen et al. 2017, slice by slice)
        or none; ``strength``, ``rician``; ``weights``. See ``schemas/stages/denoise.json``.
    model : mapping
        What `load` gave.
    seed : int
        Not used: both methods are deterministic.

    Returns
    -------
    Made
        float32 volume. Measures: ``method``; ``noise_sigma_before`` and ``noise_sigma_after``, estimated in the foreground
        in the image's units; ``residual_std``, of what was taken away there; ``model`` where one was used.

    Raises
    ------
    BadInput
        ``not-finite`` when the image has NaN or infinite values.
    Skip
        ``off`` for the method none, ``no-fit`` when the model is not for this image.
    """
    from cohortex.filters.foreground import foreground
    from cohortex.measures.image_quality import noise_sigma

    method = settings.get("method", "transform")
    if method == "none":
        raise Skip("off", "The settings turn the noise reduction off for this modality.")
    volume = image.volume
    array = volume.array(np.float32)
    if not np.isfinite(array).all():
        raise BadInput("not-finite", "The image has NaN or infinite values; mend or remove it.")
    if method in NETWORKS:
        loaded = (model or {})[settings["weights"]]
        reason = fits(loaded.card, volume)
        if reason:
            raise Skip("no-fit", f"Not denoised: {reason}.")

    inside = foreground(array)
    before = noise_sigma(array, inside)
    step: dict[str, Any] = {"step": "denoise", "method": method, "noise_sigma": before}
    measures: dict[str, Any] = {"method": method, "noise_sigma_before": before}
    if method in NETWORKS:
        cleaned, ran_on = apply_network(loaded, array, volume.modality)
        step |= {"model": loaded.card["name"], "model_sha256": loaded.card["sha256"]}
        measures["model"] = loaded.card["name"]
        if ran_on != loaded.device:
            measures["fallback"] = ran_on
    else:
        rician = is_rician(array, volume.modality, settings.get("rician", "auto"))
        strength = float(settings.get("strength", 1.0))
        cleaned = apply_transform(array, volume.spacing, before, strength, rician)
        step |= {"strength": strength, "rician": rician}
    measures["noise_sigma_after"] = noise_sigma(cleaned, inside)
    measures["residual_std"] = float(np.std((cleaned - array)[inside]))
    return Made(volume.with_data(cleaned, step=step), measures=measures)


def is_rician(array: np.ndarray, modality: str, wanted: bool | str) -> bool:
    """Tell whether noise is that of a magnitude: ``auto`` says so of MR images without negative values."""
    if wanted != "auto":
        return bool(wanted)
    magnitude = modality.endswith("w") or modality in ("FLAIR", "MR", "PD", "bold", "angio")
    return magnitude and float(array.min()) >= 0


def apply_transform(array: np.ndarray, spacing_mm: tuple[float, float, float], sigma: float, strength: float, rician: bool) -> np.ndarray:
    """Return the array cleaned by `cohortex.filters.transform.denoise_transform`; a copy where there is no noise."""
    from cohortex.filters.transform import denoise_transform

    if sigma * strength <= 0:
        return array.copy()
    return denoise_transform(array, spacing_mm, sigma, strength=strength, rician=rician)


def apply_network(model: Loaded, array: np.ndarray, modality: str) -> tuple[np.ndarray, str]:
    """Run a 2-D network over the slices along z, in the range of values of its card, or the usual one of the modality.

    Values that the card's range leaves out (implants beyond the window, padding below it) stay what they were.

    Returns
    -------
    (x, y, z) float32 array, device
        The device is the one that did the work.
    """
    from cohortex.blocks import run_network
    from cohortex.models.intensity import from_unit, to_unit, unit_range, values_for

    values = model.card.get("values") or values_for(modality)
    low, high = unit_range(array, values)
    unit = to_unit(array, low, high)
    halo = int(model.network.halo)  # pyright: ignore[reportArgumentType]
    made, device = run_network(model.network, unit, (halo, halo, 0), BLOCK, model.device, slicewise=True)
    inside = unit >= 0
    if values["kind"] == "window":
        inside &= unit <= 1
    return np.where(inside, from_unit(made, low, high), array), device
