"""Stage `denoise`: remove noise from an image, by shrinkage in a transform or by a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import Box, read_block
from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made, told
from cohortex.lazy import Elementwise
from cohortex.models.folder import Loaded, fits, load_used
from cohortex.survey import Survey, survey
from cohortex.volume import ArrayLike

NETWORKS = ("redcnn", "frame_unet")
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
        ``method``: transform (a redundant block DCT, `cohortex.filters.transform`), redcnn (Chen et al. 2017, slice by slice),
        frame_unet (3-D, for magnitudes) or none; ``strength``, ``rician``; ``weights``, ``precision``.
        See ``schemas/stages/denoise.json``.
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
    from cohortex.measures.image_quality import noise_sigma

    method = settings.get("method", "transform")
    if method == "none":
        raise Skip("off", "The settings turn the noise reduction off for this modality.")
    volume = image.volume
    look = survey(volume)
    if look.wrong:
        raise BadInput("not-finite", "The image has NaN or infinite values; mend or remove it.")
    if method in NETWORKS:
        loaded = (model or {})[settings["weights"]]
        reason = fits(loaded.card, volume)
        if reason:
            raise Skip("no-fit", f"Not denoised: {reason}.")

    sample, inside = look.of(look.data), look.sample_inside
    before = noise_sigma(sample, inside)
    step: dict[str, Any] = {"step": "denoise", "method": method, "noise_sigma": before}
    measures: dict[str, Any] = {"method": method, "noise_sigma_before": before}
    if method in NETWORKS:
        cleaned, precision, fallback = apply_network(loaded, look, volume.modality, settings.get("precision", "float32"))
        step |= {"model": loaded.card["name"], "model_sha256": loaded.card["sha256"]}
        measures |= {"model": loaded.card["name"], **told(precision, fallback)}
    else:
        rician = is_rician(look.low, volume.modality, settings.get("rician", "auto"))
        strength = float(settings.get("strength", 1.0))
        cleaned = apply_transform(look.data, volume.spacing, before, strength, rician)
        step |= {"strength": strength, "rician": rician}
    after = look.of(cleaned)
    measures["noise_sigma_after"] = noise_sigma(after, inside)
    measures["residual_std"] = float(np.std((after - sample)[inside]))
    return Made(volume.with_data(cleaned, step=step), measures=measures)


def is_rician(lowest: float, modality: str, wanted: bool | str) -> bool:
    """Tell whether noise is that of a magnitude: ``auto`` says so of MR images without negative values."""
    if wanted != "auto":
        return bool(wanted)
    magnitude = modality.endswith("w") or modality in ("FLAIR", "MR", "PD", "bold", "angio")
    return magnitude and lowest >= 0


def apply_transform(data: ArrayLike, spacing_mm: tuple[float, float, float], sigma: float, strength: float, rician: bool) -> Any:
    """Return the data cleaned by `cohortex.filters.transform.denoise_transform`, block by block; as they are where there is no noise."""
    from cohortex.filters.blockwise import run_filter

    if sigma * strength <= 0:
        return data
    return run_filter("transform", data, spacing_mm, {"sigma": sigma, "strength": strength, "rician": rician})


def apply_network(model: Loaded, look: Survey, modality: str, wanted: str = "float32") -> tuple[Any, str, str]:
    """Run a 2-D network over the slices along z, in the range of values of its card, or the usual one of the modality.

    One whose card says units of the noise is 3-D, see `cohortex.stages.denoise_units`.

    Values that the card's range leaves out (implants beyond the window, padding below it) stay what they were; blocks with nothing
    else are not looked at.

    Returns
    -------
    (x, y, z) float32 array-like, precision, fallback
        See `cohortex.inference.choose_precision` (`wanted` is the setting); what was said where a GPU's memory did not suffice.
    """
    from cohortex.inference import choose_precision, run_network, same_image
    from cohortex.models.intensity import from_unit, to_unit, unit_range_of, values_for

    values = model.card.get("values") or values_for(modality)
    if values["kind"] == "noise":
        from cohortex.stages.denoise_units import apply_in_noise_units

        return apply_in_noise_units(model, look, wanted)
    low, high = unit_range_of(look, values)
    halo = int(model.network.halo)  # pyright: ignore[reportArgumentType]

    def known(unit: np.ndarray) -> np.ndarray:
        return (unit >= 0) & (unit <= 1) if values["kind"] == "window" else unit >= 0

    def empty(unit: np.ndarray) -> float | None:
        return None if known(unit).any() else 0.0

    def finish(made: np.ndarray, box: Box) -> np.ndarray:
        array = read_block(look.data, box, (0, 0, 0))
        return np.where(known(to_unit(array, low, high)), from_unit(made, low, high), array)

    unit = Elementwise(lambda block: to_unit(block, low, high), look.data)
    words: list[str] = []
    reach = (halo, halo, 0)
    precision = choose_precision(wanted, model.network, unit, model.device, same_image, reach, slicewise=True)
    made, _ = run_network(
        model.network,
        unit,
        reach,
        BLOCK,
        model.device,
        slicewise=True,
        empty=empty,
        finish=finish,
        precision=precision,
        say=words.append,
    )
    return made, precision, "; ".join(words)
