"""The stage `preprocess`: bias field, intensities, a chain of filters, grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.errors import BadInput
from cohortex.items import Image, Made
from cohortex.survey import Survey, survey
from cohortex.volume import ArrayLike, Volume

SHADED = frozenset(
    (
        *("FLAIR", "MR", "PD", "PDT2", "T2star", "inplaneT1", "inplaneT2", "angio", "cine", "LGE", "DCE"),
        *("dwi", "VFA", "MEGRE", "MESE", "IRT1", "MTS", "SWI", "swi"),
    )
)
"""Suffixes of MR magnitudes, besides those that end in w, which `auto` corrects for the shading of coils."""

MAPS = frozenset(
    (
        *("T1map", "T2map", "T2starmap", "PDmap", "MTRmap", "MTsat", "MTR", "R1map", "R2map", "R2starmap", "Chimap", "phase"),
        *("phasediff", "fieldmap", "ADC", "FA", "cbv", "CT", "CBCT", "CTA", "PET", "pet", "PT", "SPECT", "spect", "NM"),
    )
)
"""Suffixes of images whose values mean something by themselves (HU, ms, SUV): `auto` keeps them."""

_LARGEST_GRID = 2**31
"""Voxels; a spacing given in the wrong unit asks for more."""


def preprocess(image: Image, settings: Mapping[str, Any], model: Any, seed: int) -> Made:
    """Bring an image to a common scale, and to a common grid where one is asked for.

    In this order: division by the bias field, normalisation, filters, resampling. By default the grid is kept and nothing is
    filtered, so no detail is lost.

    Parameters
    ----------
    image : Image
        Any modality and grid, pictures (x, y, 1) as well.
    settings : mapping
        The section `preprocess` for the modality: `bias_field`, `n4`, `normalise`, `percentiles`, `window`, `filters`, `resample`,
        `magnitude` (schemas/stages/preprocess.json describes them).
    model, seed
        Not used.

    Returns
    -------
    Made
        The volume in float32, with the measures

        - foreground_share: share of the voxels that belong to the patient
        - noise_sigma: noise of the scan in units of the result, before filters (median of the finest wavelet band)
        - noise_air_sigma: the same from the air around the patient (Rayleigh), for magnitudes that have air
        - snr: median of the foreground above the air, over noise_sigma
        - sharpness_per_mm: steep gradients over the range of the intensities
        - bias_field_range: 95th over 5th percentile of the field in the foreground, where it was divided out
        - edge_loss_share: share of sharpness_per_mm that the filters took, where there are filters

    Raises
    ------
    BadInput
        ``not-finite``, ``constant``, ``empty-foreground`` or ``grid-too-large``.

    References
    ----------
    Gudbjartsson and Patz, Magnetic Resonance in Medicine 34 (1995) 910-914 (noise of the air of magnitude images).
    """
    from cohortex.filters.blockwise import run_chain
    from cohortex.measures.image_quality import sharpness

    volume = image.volume
    look = survey(volume)
    _refuse_what_cannot_be_scaled(image.id, look)
    data, measures = look.data, {}
    shaded = decided(settings.get("bias_field", "auto"), volume.modality in SHADED or volume.modality.endswith("w"))
    if shaded and _has_plane(look):
        options = dict(settings.get("n4", {}))
        data, measures["bias_field_range"] = _without_bias(look, volume.spacing, options)
        volume = volume.with_data(data, step={"step": "bias_field", "method": "N4", **options})
    method = settings.get("normalise", "auto")
    if method == "auto":
        method = "none" if volume.modality in MAPS else "percentile"
    data, step = _normalised(image.id, look, data, method, settings)
    if step:
        volume = volume.with_data(data, step=step)
    array = look.of(data)
    measures |= _quality(array, look, volume.spacing, decided(settings.get("magnitude", "auto"), shaded))
    chain = settings.get("filters") or []
    if chain:
        data = run_chain(data, volume.spacing, chain)
        before, after = measures["sharpness_per_mm"], sharpness(look.of(data), volume.spacing, look.sample_inside)
        measures["edge_loss_share"] = 1 - after / before if before > 0 else 0.0
        volume = volume.with_data(data, step={"step": "filters", "filters": chain})
    volume = volume.with_data(data)
    # where the image lies in a scratch file, that one goes before there are more
    del look
    if settings.get("resample"):
        volume = _on_grid(image.id, volume, settings["resample"])
    return Made(volume, measures=measures)


def decided(setting: bool | str, automatic: bool) -> bool:
    """Return a setting that may be left to the modality by ``auto``."""
    return automatic if setting == "auto" else bool(setting)


def _refuse_what_cannot_be_scaled(name: str, look: Survey) -> None:
    """Raise what makes an image useless for every later step."""
    if look.wrong:
        raise BadInput(
            "not-finite",
            f"{name} has {look.wrong} voxels that are NaN or infinite: replace them in the source, or leave the scan out of the cohort.",
        )
    if not look.high > look.low:
        raise BadInput(
            "constant", f"{name} has the value {look.low:g} in every voxel: export the scan again, or leave it out of the cohort."
        )


def _has_plane(look: Survey) -> bool:
    """Tell whether there is enough of an image to fit a field to."""
    return bool(sorted(look.data.shape)[1] >= 4 and np.count_nonzero(look.sample_inside & (look.of(look.data) > 0)) >= 64)


def _without_bias(look: Survey, spacing_mm: tuple[float, float, float], options: Mapping[str, Any]) -> tuple[Any, float]:
    """Return the image without its bias field, and the field's range in the foreground."""
    from cohortex.filters.bias_field import correct_bias

    data, field = correct_bias(look.data, spacing_mm, look.inside, **options)
    low, high = np.percentile(look.of(field)[look.sample_inside], [5, 95])
    return data, float(high / low)


def _normalised(name: str, look: Survey, data: ArrayLike, method: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the scaled data and the step of its history; `look` is of the image as it came, so that its foreground is."""
    from cohortex.filters import normalise

    if method == "none":
        return data, {}
    if method == "window":
        centre, width = settings["window"]
        return map_blocks(lambda block: normalise.window(block, centre, width), data), {
            "step": "normalise",
            "method": method,
            "window": [centre, width],
        }
    values = look.of(data)[look.sample_inside]
    if values.size == 0 or not float(values.max()) > float(values.min()):
        raise BadInput(
            "empty-foreground",
            f"{name} has no foreground with contrast to scale by: look at the scan, or set preprocess: normalise: none for its modality.",
        )
    step: dict[str, Any] = {"step": "normalise", "method": method}
    if method == "zscore":
        zero, unit = normalise.zscore_map(values)
    else:
        low, high = settings.get("percentiles", (None, 99.5))
        if low is None and float(np.percentile(values, high)) <= 0:
            # No magnitude: nothing is special about the value 0.
            low = 1.0
        zero, unit = normalise.percentile_map(values, low, high)
        step["percentiles"] = [low, high]
    return map_blocks(lambda block: normalise.mapped(block, zero, unit), data), step


def _quality(array: np.ndarray, look: Survey, spacing_mm: tuple[float, float, float], magnitude: bool) -> dict[str, Any]:
    """Measure what the scan is like before filters."""
    from cohortex.measures.image_quality import noise_sigma, sharpness

    mask, outside = look.sample_inside, look.sample_outside
    air = array[outside]
    level = float(np.median(air)) if air.size else float(min(array.min(), 0.0))
    noise = noise_sigma(array, mask)
    found: dict[str, Any] = {
        "foreground_share": float(look.of(look.inside).mean()),
        "noise_sigma": noise,
        "sharpness_per_mm": sharpness(array, spacing_mm, mask),
    }
    if noise > 0:
        found["snr"] = (float(np.median(array[mask])) - level) / noise
    if magnitude and air.size > 0.01 * array.size:
        low, high = (float(value) for value in np.percentile(air, [25, 75]))
        sigma = level / float(np.sqrt(2 * np.log(2)))
        # The quartiles of Rayleigh noise are in the ratio 2.2, and it differs from voxel to voxel by 0.66 sigma; what is not
        # near that is dark tissue, padding or ghosts.
        if low > 0 and 1.6 < high / low < 3.0 and noise_sigma(array, outside) > 0.4 * sigma:
            found["noise_air_sigma"] = sigma
    return found


def _on_grid(name: str, volume: Volume, wanted: Mapping[str, Any]) -> Volume:
    """Resample to the wanted spacing."""
    from cohortex.filters.resample import grid_of_spacing, resample

    _, shape = grid_of_spacing(volume, wanted["spacing_mm"])
    if np.prod([float(size) for size in shape]) > _LARGEST_GRID:
        raise BadInput(
            "grid-too-large",
            f"{name} would have {' x '.join(map(str, shape))} voxels by preprocess: resample: spacing_mm: check its unit, mm.",
        )
    return resample(volume, wanted["spacing_mm"], order=wanted.get("order", "linear"))
