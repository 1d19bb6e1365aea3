"""Stage `superresolve`: thick slices become a finer grid, by a spline or by a network on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made
from cohortex.models.folder import Loaded, fits, load_used
from cohortex.volume import Volume

NETWORKS = ("srcnn3d",)
"""The methods that need weights."""

AIR_HU = -1024.0
"""Lowest value of CT."""

BLOCK = (32, 48, 48)
"""Voxels that go through the network at once: at 64 channels some 40 MB, the fastest of the sizes tried on a CPU."""


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Loaded]:
    """Load the models that the section's settings use, by their name in the configuration.

    Raises
    ------
    Refused
        When a network has no weights, or its folder is not one of this stage.
    """
    return load_used(section, folders, device, "superresolve", NETWORKS)


def superresolve(image: Image, settings: Mapping[str, Any], model: Mapping[str, Loaded] | None, seed: int) -> Made:
    """Return a volume of thick slices on a finer grid along the slice axis.

    The axis with the largest spacing is cut finer, the others stay; the field of view keeps its outer faces. Where the model is
    not for the image, the spline's result is given, and the reason says so.

    Parameters
    ----------
    image : Image
    settings : mapping
        ``method``: srcnn3d (Pham et al. 2017, on the spline's result), spline (cubic) or none; ``min_anisotropy``, ``factor``,
        ``max_factor``, ``consistency``, ``profile``, ``weights``. See ``schemas/stages/superresolve.json``.
    model : mapping
        What `load` gave.
    seed : int
        Not used: all methods are deterministic.

    Returns
    -------
    Made
        float32 volume; nothing (``isotropic``, ``picture``) where there are no thick slices. Measures: ``method`` that was used,
        ``factor``, ``detail_std`` (what the network added in the foreground, in the image's units), ``slice_error`` (root mean square
        difference of slice means and measured slices before they were made to agree, as a share of the foreground's mean
        absolute value), ``model``.

    Raises
    ------
    BadInput
        ``not-finite`` when the image has NaN or infinite values.
    Skip
        ``off`` for the method none.
    """
    from cohortex.filters.foreground import foreground
    from cohortex.models.superresolve import throughplane as through

    method = settings.get("method", "spline")
    if method == "none":
        raise Skip("off", "The settings turn super-resolution off for this modality.")
    volume = image.volume
    if min(volume.shape) == 1:
        return Made(status="skipped", code="picture", reason="A single slice has no neighbours to be resolved from.")
    axis, factor = slice_axis(volume.spacing, settings)
    slices = volume.shape[axis]
    count = through.fine_count(slices, factor)
    if count == slices:
        spacings = " x ".join(f"{s:.3g}" for s in volume.spacing)
        return Made(
            status="skipped", code="isotropic", reason=f"The voxels of {spacings} mm are not thick slices; the image stays as it is."
        )
    array = volume.array(np.float32)
    if not np.isfinite(array).all():
        raise BadInput("not-finite", "The image has NaN or infinite values; mend or remove it.")

    profile = settings.get("profile", "box")
    factor = count / slices
    measures: dict[str, Any] = {"method": method, "factor": factor}
    step: dict[str, Any] = {"step": "superresolve", "factor": factor, "axis": "xyz"[axis], "profile": profile}
    code, reason = "", ""
    inside = foreground(array)
    fine = through.upsample(array, count, axis)
    if method in NETWORKS:
        loaded = (model or {})[settings["weights"]]
        why = misfit(loaded.card, volume, factor)
        if why:
            method = measures["method"] = "spline"
            code, reason = "no-fit", f"Interpolated by the spline only: {why}."
        else:
            fine = through.agreeing_spline(array, count, axis, profile)
            detailed, ran_on = apply_network(loaded, array, fine, axis, volume.modality)
            measures["model"] = loaded.card["name"]
            step |= {"model": loaded.card["name"], "model_sha256": loaded.card["sha256"]}
            if ran_on != loaded.device:
                measures["fallback"] = ran_on
            nearest = (np.arange(count) * slices) // count
            measures["detail_std"] = float(np.std((detailed - fine)[np.take(inside, nearest, axis=axis)]))
            fine = detailed
    error = through.average(fine, slices, axis, profile) - array
    level = float(np.abs(array[inside]).mean())
    measures["slice_error"] = float(np.sqrt(np.mean(error[inside] ** 2))) / level if level > 0 else 0.0
    consistent = bool(settings.get("consistency", True))
    if consistent:
        fine = through.agree(fine, array, axis, profile)
        lowest = floor(array, volume.modality)
        if lowest is not None:
            fine = through.above(fine, array, axis, lowest, profile)
    step |= {"method": method, "consistency": consistent}
    made = volume.with_data(fine, through.fine_affine(volume.affine, slices, count, axis), step)
    return Made(made, measures=measures, status="warned" if code else "ok", code=code, reason=reason)


def floor(array: np.ndarray, modality: str) -> float | None:
    """Return the lowest value that a finer image can have: air in CT, zero in magnitudes, nothing known where values go well below zero.

    What preprocessing and noise reduction left slightly below zero (a tenth of the largest value) is still a magnitude.
    """
    low = float(array.min())
    if modality == "CT":
        return min(low, AIR_HU)
    return min(low, 0.0) if low > -0.1 * float(array.max()) else None


def slice_axis(spacing_mm: tuple[float, float, float], settings: Mapping[str, Any]) -> tuple[int, float]:
    """Return the slice axis and how many fine voxels a slice becomes; 1.0 where the voxels are not anisotropic enough.

    ``factor: auto`` aims at the smallest spacing and stops at ``max_factor``.
    """
    axis = int(np.argmax(spacing_mm))
    ratio = max(spacing_mm) / min(spacing_mm)
    # Spacings carry the rounding of their headers: 1.5000001 is not more than 1.5.
    if ratio <= float(settings.get("min_anisotropy", 1.5)) * 1.001:
        return axis, 1.0
    wanted = settings.get("factor", "auto")
    return axis, min(ratio, float(settings.get("max_factor", 4.0))) if wanted == "auto" else float(wanted)


def misfit(card: Mapping[str, Any], volume: Volume, factor: float) -> str | None:
    """Return why a model is not for a volume and a factor, as the end of a sentence, or None when it is."""
    reason = fits(card, volume)
    low, high = card.get("extra", {}).get("factors", (1.0, np.inf))
    if reason is None and not low * 0.99 <= factor <= high * 1.01:
        return f"the model {card['name']} is for factors of {low:g} to {high:g}, not for {factor:.3g}"
    return reason


def apply_network(model: Loaded, array: np.ndarray, fine: np.ndarray, axis: int, modality: str) -> tuple[np.ndarray, str]:
    """Run a network on interpolated slices, in the range of values of its card.

    Parameters
    ----------
    array : (x, y, z) array
        The measured slices, from which the range is taken.
    fine : (x, y, z) array
        The interpolated ones, by the spline that agrees with the slices.
    axis : int
        Slice axis; the network sees it as its last one.
    modality : str
        Decides about the range where the card does not.

    Returns
    -------
    (x, y, z) float32 array, device
        The device is the one that did the work.
    """
    from cohortex.blocks import run_network
    from cohortex.models.intensity import from_unit, to_unit, unit_range, values_for

    values = model.card.get("values") or values_for(modality)
    low, high = unit_range(array, values)
    halo = int(model.network.halo)  # pyright: ignore[reportArgumentType]
    turned = np.moveaxis(to_unit(fine, low, high), axis, 2)
    made, device = run_network(model.network, turned, (halo, halo, halo), BLOCK, model.device)
    return from_unit(np.ascontiguousarray(np.moveaxis(made, 2, axis)), low, high), device
