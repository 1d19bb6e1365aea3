"""Stage `denoise`: remove noise from an image, by shrinkage in a transform or by any network of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.blocks import Box, read_block
from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made, told
from cohortex.lazy import Elementwise
from cohortex.models import registry
from cohortex.models.folder import Loaded, fits, load_used
from cohortex.survey import Survey, survey
from cohortex.volume import ArrayLike

NETWORKS = tuple(entry.name for entry in registry.entries("denoise"))
"""The methods that need weights: the networks of the registry."""

OUTSIDE, MOST_OUTSIDE = 0.02, 0.5
"""Share of the foreground beyond a model's window of intensities from which an image is warned of, and from which it is not for it."""

LEAST_SPAN = 0.01
"""An image whose intensities span less than this share of a model's window is in other units."""

NOISE_SLACK = 1.5
"""Noise may be so many times below or above what a model was trained on before an image is warned of."""

FLAT, CLIPPED, TOO_MUCH = 0.02, 0.1, 1.0
"""What a network makes is set aside when: its foreground varies by less than this share of the image's; more than this share of the
foreground lies at the lowest or highest value, though the image's does not; what it took away varies by more than this multiple of the
image itself."""


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
        ``method``: transform (a redundant block DCT, `cohortex.filters.transform`), a network of the registry
        or none; ``strength``, ``rician``; ``weights``, ``precision``. See ``schemas/stages/denoise.json``.
    model : mapping
        What `load` gave.
    seed : int
        Not used: all methods are deterministic.

    Returns
    -------
    Made
        float32 volume. Measures: ``method``; ``noise_sigma_before`` and ``noise_sigma_after``, estimated in the foreground
        in the image's units; ``residual_std``, of what was taken away there; ``model`` where one was used. ``warned`` where the noise, or
        some intensities, are not those that the model was trained on.

    Raises
    ------
    BadInput
        ``not-finite`` when the image has NaN or infinite values; ``bad-result`` when a network's result cannot be an image of the
        same thing.
    Skip
        ``off`` for the method none, ``constant`` when the image shows nothing, ``no-fit`` when the model is not for this image.
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
        if look.low == look.high:
            raise Skip("constant", f"Not denoised: all voxels are {look.low:g}, there is nothing to restore.")

    sample, inside = look.of(look.data), look.sample_inside
    before = noise_sigma(sample, inside)
    step: dict[str, Any] = {"step": "denoise", "method": method, "noise_sigma": before}
    measures: dict[str, Any] = {"method": method, "noise_sigma_before": before}
    odd = ""
    if method in NETWORKS:
        odd = beyond_training(loaded.card, look, volume.modality, before)
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
    if method in NETWORKS:
        reason = implausible(sample, after, inside)
        if reason:
            raise BadInput("bad-result", f"The result of the model {loaded.card['name']} was set aside: {reason}; {REMEDY}.")
    made = Made(volume.with_data(cleaned, step=step), measures=measures)
    return replace(made, status="warned", code="beyond-training", reason=odd) if odd else made


REMEDY = "train the model on such images, or take the method transform"


def beyond_training(card: Mapping[str, Any], look: Survey, modality: str, sigma: float) -> str:
    """Return in a sentence how an image differs from what a model was trained on; nothing where it does not.

    Parameters
    ----------
    card : mapping
        ``values``, else the usual ones of the modality; ``extra.noise``, the range of noise of the training in the network's range.
    look : Survey
    modality : str
    sigma : float
        Noise of the image, in its units.

    Raises
    ------
    Skip
        ``no-fit`` when most of the foreground lies beyond a model's window, or all of the image within a hundredth of it: the image is in
        other units, or of something else.
    """
    from cohortex.models.intensity import unit_range_of, values_for

    values = card.get("values") or values_for(modality)
    low, high = unit_range_of(look, values)
    words = []
    if values["kind"] == "window":
        if look.high - look.low < LEAST_SPAN * (high - low):
            raise Skip(
                "no-fit",
                f"Not denoised: the values of the image lie between {look.low:g} and {look.high:g}, but the model {card['name']} is for "
                f"{low:g} to {high:g}; check the units of the image.",
            )
        inside = look.of(look.data)[look.sample_inside]
        beyond = float(np.mean((inside < low) | (inside > high))) if inside.size else 0.0
        if beyond > MOST_OUTSIDE:
            raise Skip(
                "no-fit",
                f"Not denoised: {100 * beyond:.0f} % of the foreground lies outside the {low:g} to {high:g} that the model {card['name']} "
                "is for; check the units of the image.",
            )
        if beyond > OUTSIDE:
            words.append(
                f"{100 * beyond:.0f} % of its foreground lies outside the {low:g} to {high:g} of the training and was left as it was"
            )
    known = (card.get("extra") or {}).get("noise")
    if isinstance(known, Mapping) and sigma > 0:
        level = sigma / (high - low)
        if not known["min"] / NOISE_SLACK <= level <= known["max"] * NOISE_SLACK:
            words.append(
                f"its noise is {100 * level:.2g} % of the range of intensities, that of the training was {100 * known['min']:.2g} to "
                f"{100 * known['max']:.2g} %"
            )
    return f"The model {card['name']} was trained on other images: {'; '.join(words)}." if words else ""


def implausible(before: np.ndarray, after: np.ndarray, inside: np.ndarray) -> str:
    """Return why what a network made cannot be the same image without noise, or nothing.

    Parameters
    ----------
    before, after : arrays of one shape
    inside : bool array
        The foreground.
    """
    image, made = (array[inside].astype(np.float64) for array in (before, after))
    if image.size < 2 or image.std() == 0:
        return ""
    if made.std() < FLAT * image.std():
        return "it is nearly constant where the image is not"
    for word, percent in (("lowest", 50 * CLIPPED), ("highest", 100 - 50 * CLIPPED)):
        # Of a clipped image much is equal to a value near the end; at the end itself may lie what was passed on as it was.
        share, own = (float(np.mean(each == np.percentile(each, percent, method="nearest"))) for each in (made, image))
        if share > CLIPPED and share > 2 * own:
            return f"{100 * share:.0f} % of its foreground is clipped to its {word} value"
    if (made - image).std() > TOO_MUCH * image.std():
        return "what it took away varies more than the image itself"
    return ""


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
    """Run a network over a volume (`cohortex.inference.way_of`), in the range of values of its card, or the usual one of the modality.

    One whose card says units of the noise is 3-D, see `cohortex.stages.denoise_units`.

    Values that the card's range leaves out (implants beyond the window, padding below it) stay what they were; blocks with nothing
    else are not looked at.

    Returns
    -------
    (x, y, z) float32 array-like, precision, fallback
        See `cohortex.inference.choose_precision` (`wanted` is the setting); what was said where a GPU's memory did not suffice.

    Raises
    ------
    BadInput
        ``bad-result`` when the network gives NaN or infinite values.
    """
    from cohortex.inference import choose_precision, run_network, same_image, way_of
    from cohortex.models.intensity import from_unit, to_unit, unit_range_of, values_for

    values = model.card.get("values") or values_for(modality)
    if values["kind"] == "noise":
        from cohortex.stages.denoise_units import apply_in_noise_units

        return apply_in_noise_units(model, look, wanted)
    low, high = unit_range_of(look, values)
    expects = registry.expected(registry.entry("denoise", model.card["network"]), model.card.get("options", {}))
    way = way_of(model.network, expects, look.data.shape)

    def known(unit: np.ndarray) -> np.ndarray:
        return (unit >= 0) & (unit <= 1) if values["kind"] == "window" else unit >= 0

    def empty(unit: np.ndarray) -> float | None:
        return None if known(unit).any() else 0.0

    def finish(made: np.ndarray, box: Box) -> np.ndarray:
        if not np.isfinite(made).all():
            raise BadInput("bad-result", f"The model {model.card['name']} gives values that are not finite for this image; {REMEDY}.")
        array = read_block(look.data, box, (0, 0, 0))
        return np.where(known(to_unit(array, low, high)), from_unit(made, low, high), array)

    unit = Elementwise(lambda block: to_unit(block, low, high), look.data)
    words: list[str] = []
    precision = choose_precision(wanted, model.network, unit, model.device, same_image, way=way)
    made, _ = run_network(
        model.network, unit, way.halo, way.block, model.device, empty=empty, finish=finish, precision=precision, say=words.append, way=way
    )
    return made, precision, "; ".join(words)
