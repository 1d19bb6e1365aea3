"""The stage `preprocess`: bias field, intensities, a chain of filters, grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.items import Image, Made
from cohortex.volume import Volume

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
    from cohortex.filters.bias_field import correct_bias
    from cohortex.filters.chain import apply_chain
    from cohortex.filters.foreground import foreground
    from cohortex.measures.image_quality import sharpness

    volume = image.volume
    array = volume.array(np.float32)
    _refuse_what_cannot_be_scaled(image.id, array)
    measures: dict[str, Any] = {}
    mask = foreground(array)
    shaded = decided(settings.get("bias_field", "auto"), volume.modality in SHADED or volume.modality.endswith("w"))
    if shaded and _has_plane(array, mask):
        options = dict(settings.get("n4", {}))
        array, field = correct_bias(array, volume.spacing, mask, **options)
        low, high = np.percentile(field[mask], [5, 95])
        measures["bias_field_range"] = float(high / low)
        volume = volume.with_data(array, step={"step": "bias_field", "method": "N4", **options})
    method = settings.get("normalise", "auto")
    if method == "auto":
        method = "none" if volume.modality in MAPS else "percentile"
    array, step = _normalised(image.id, array, mask, method, settings)
    if step:
        volume = volume.with_data(array, step=step)
    measures |= _quality(array, mask, volume.spacing, decided(settings.get("magnitude", "auto"), shaded))
    chain = settings.get("filters") or []
    if chain:
        array = apply_chain(array, volume.spacing, chain)
        before, after = measures["sharpness_per_mm"], sharpness(array, volume.spacing, mask)
        measures["edge_loss_share"] = 1 - after / before if before > 0 else 0.0
        volume = volume.with_data(array, step={"step": "filters", "filters": chain})
    volume = volume.with_data(array)
    if settings.get("resample"):
        volume = _on_grid(image.id, volume, settings["resample"])
    return Made(volume, measures=measures)


def decided(setting: bool | str, automatic: bool) -> bool:
    """Return a setting that may be left to the modality by ``auto``."""
    return automatic if setting == "auto" else bool(setting)


def _refuse_what_cannot_be_scaled(name: str, array: np.ndarray) -> None:
    """Raise what makes an image useless for every later step."""
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    if wrong:
        raise BadInput(
            "not-finite",
            f"{name} has {wrong} voxels that are NaN or infinite: replace them in the source, or leave the scan out of the cohort.",
        )
    low, high = float(array.min()), float(array.max())
    if not high > low:
        raise BadInput("constant", f"{name} has the value {low:g} in every voxel: export the scan again, or leave it out of the cohort.")


def _has_plane(array: np.ndarray, mask: np.ndarray) -> bool:
    """Tell whether there is enough of an image to fit a field to."""
    return bool(sorted(array.shape)[1] >= 4 and np.count_nonzero(mask & (array > 0)) >= 64)


def _normalised(
    name: str, array: np.ndarray, mask: np.ndarray, method: str, settings: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the scaled image and the step of its history."""
    from cohortex.filters import normalise

    if method == "none":
        return array, {}
    if method == "window":
        centre, width = settings["window"]
        return normalise.window(array, centre, width), {"step": "normalise", "method": method, "window": [centre, width]}
    values = array[mask]
    if values.size == 0 or not float(values.max()) > float(values.min()):
        raise BadInput(
            "empty-foreground",
            f"{name} has no foreground with contrast to scale by: look at the scan, or set preprocess: normalise: none for its modality.",
        )
    if method == "zscore":
        return normalise.zscore(array, mask), {"step": "normalise", "method": method}
    low, high = settings.get("percentiles", (None, 99.5))
    if low is None and float(np.percentile(values, high)) <= 0:
        # No magnitude: nothing is special about the value 0.
        low = 1.0
    return normalise.percentile(array, mask, low, high), {"step": "normalise", "method": method, "percentiles": [low, high]}


def _quality(array: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], magnitude: bool) -> dict[str, Any]:
    """Measure what the scan is like before filters."""
    from cohortex.measures.image_quality import noise_sigma, sharpness

    air = array[~mask]
    level = float(np.median(air)) if air.size else float(min(array.min(), 0.0))
    noise = noise_sigma(array, mask)
    found: dict[str, Any] = {
        "foreground_share": float(mask.mean()),
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
        if low > 0 and 1.6 < high / low < 3.0 and noise_sigma(array, ~mask) > 0.4 * sigma:
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
