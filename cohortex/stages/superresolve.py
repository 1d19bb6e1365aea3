"""Stage `superresolve`: thick slices become a finer grid, by a spline or by a network on top of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import Box, map_columns, new_array
from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made, told
from cohortex.lazy import Elementwise, Turned
from cohortex.models.folder import Loaded, fits, load_used
from cohortex.models.registry import entries
from cohortex.survey import Survey, survey
from cohortex.volume import Volume

if TYPE_CHECKING:
    from cohortex.models.superresolve.fitted import Fitted
    from cohortex.models.superresolve.throughplane import Profile

NETWORKS = tuple(entry.name for entry in entries("superresolve"))
"""The methods that need weights."""

OTHERS = ("view", "reference")
"""Further inputs that a network may have (`cohortex.models.registry.Expects.inputs`)."""

FINER = 0.75
"""A reference has voxels of at most this share of the slices' distance."""

NEEDED = {"view": "a second view, whose slices lie across these", "reference": "a reference contrast with finer slices"}
SETTING = {"view": "second_view", "reference": "reference"}
"""What the further inputs are, and where they are named."""

AIR_HU = -1024.0
"""Lowest value of CT."""

ROUNDING = 1e-6
"""What single precision leaves of an error of zero, as a share of the slices' mean."""

FAR = 10.0
"""What a network gives is not believed so far beyond the range that it was made for."""


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
        ``method``: a network of the registry, spline (cubic) or none; ``min_anisotropy``, ``factor``, ``max_factor``, ``consistency``,
        ``profile``, ``weights``, ``precision``, ``second_view``, ``reference``. See ``schemas/stages/superresolve.json``.
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
        ``not-finite`` when the image has NaN or infinite values; ``network-failed`` when the network gives such values, or some far
        beyond the range of the image.
    Skip
        ``off`` for the method none.
    """
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
    look = survey(volume)
    if look.wrong:
        raise BadInput("not-finite", "The image has NaN or infinite values; mend or remove it.")

    profile = settings.get("profile", "box")
    factor = count / slices
    measures: dict[str, Any] = {"method": method, "factor": factor}
    step: dict[str, Any] = {"step": "superresolve", "factor": factor, "axis": "xyz"[axis], "profile": profile}
    code, reason = "", ""
    start = fine = None
    if method in NETWORKS:
        loaded = (model or {})[settings["weights"]]
        fed = fed_by(loaded)
        why = misfit(loaded.card, volume, factor)
        others = {} if why else further_images(image, image.siblings, settings, fed.inputs)
        lacks = [] if why else [name for name in fed.inputs[1:] if name not in others]
        if why or lacks:
            method = measures["method"] = "spline"
            code = f"no-{lacks[0]}" if lacks else "no-fit"
            why = why or f"the model {loaded.card['name']} needs {NEEDED[lacks[0]]}, and there is none (setting {SETTING[lacks[0]]})"
            reason = f"Interpolated by the spline only: {why}."
        else:
            start = fine_columns(through.agreeing_spline, look, count, axis, profile)
            wanted = settings.get("precision", "float32")
            affine = through.fine_affine(volume.affine, slices, count, axis)
            theirs = {name: on_fine_grid(other, affine, start.shape) for name, other in others.items()}
            fine, precision, fallback = apply_network(loaded, look, start, axis, volume.modality, wanted, theirs)
            measures |= {"model": loaded.card["name"], **told(precision, fallback)}
            if others:
                step["others"] = {name: other.id for name, other in others.items()}
            step |= {"model": loaded.card["name"], "model_sha256": loaded.card["sha256"]}
    if fine is None:
        fine = fine_columns(through.upsample, look, count, axis)
    consistent = bool(settings.get("consistency", True))
    lowest = floor(look.low, look.high, volume.modality) if consistent else None
    made, found = finished(look, start, fine, axis, profile, consistent, lowest)
    measures |= found
    step |= {"method": method, "consistency": consistent}
    result = volume.with_data(made, through.fine_affine(volume.affine, slices, count, axis), step)
    return Made(result, measures=measures, status="warned" if code else "ok", code=code, reason=reason)


def fine_columns(interpolate: Callable[..., np.ndarray], look: Survey, count: int, axis: int, *options: Any) -> Any:
    """Return the slices interpolated to `count` voxels along an axis, column by column."""

    def one(block: np.ndarray) -> tuple[np.ndarray, None]:
        return interpolate(block, count, axis, *options), None

    return map_columns(one, look.data, axis=axis, count=count)[0]


def finished(
    look: Survey, start: Any, fine: Any, axis: int, profile: Profile, consistent: bool, lowest: float | None
) -> tuple[Any, dict[str, float]]:
    """Return the fine volume, made to agree with the slices where that is wanted, and the measures that compare them.

    Parameters
    ----------
    look : Survey
        Of the measured slices.
    start, fine : (x, y, z) array-likes
        What the network was given, None where there was none; the fine volume.
    lowest : float or None
        What the agreeing volume may not be below, None where that is not known.
    """
    from cohortex.models.superresolve import throughplane as through

    slices, count = look.data.shape[axis], fine.shape[axis]
    nearest = (np.arange(count) * slices) // count

    def one(
        block: np.ndarray, array: np.ndarray, inside: np.ndarray, before: np.ndarray | None = None
    ) -> tuple[np.ndarray, tuple[float, ...]]:
        error = (through.average(block, slices, axis, profile) - array)[inside].astype(np.float64)
        detail = np.zeros(0) if before is None else (block - before)[np.take(inside, nearest, axis=axis)].astype(np.float64)
        level = np.abs(array[inside]).sum(dtype=np.float64)
        sums = (error.size, np.square(error).sum(), level, detail.size, detail.sum(), np.square(detail).sum())
        if not consistent:
            return block, sums
        agreed = through.agree(block, array, axis, profile)
        return agreed if lowest is None else through.above(agreed, array, axis, lowest, profile), sums

    arrays = [fine, look.data, look.inside, *([] if start is None else [start])]
    made, sums = map_columns(one, *arrays, axis=axis, count=count)
    size, errors, level, fine_size, detail, details = np.sum(sums, axis=0)
    found = {}
    if start is not None:
        found["detail_std"] = float(np.sqrt(max(details / fine_size - (detail / fine_size) ** 2, 0.0))) if fine_size else 0.0
    share = float(np.sqrt(errors / size) / (level / size)) if level > 0 else 0.0
    # Less than this is rounding, which differs between scans and says nothing of them.
    found["slice_error"] = share if share > ROUNDING else 0.0
    return made, found


def floor(low: float, high: float, modality: str) -> float | None:
    """Return the lowest value that a finer image can have: air in CT, zero in magnitudes, nothing known where values go well below zero.

    `low` and `high` are the smallest and the largest value of the slices. What preprocessing and noise reduction left slightly below
    zero (a tenth of the largest value) is still a magnitude.
    """
    if modality == "CT":
        return min(low, AIR_HU)
    return min(low, 0.0) if low > -0.1 * high else None


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


def fed_by(model: Loaded) -> Fitted:
    """Return how the network of a model is fed."""
    from cohortex.models.superresolve.fitted import fitted

    return fitted(model.card["network"], model.card.get("options", {}), model.network)


def further_images(
    image: Image, images: Sequence[Image], settings: Mapping[str, Any], inputs: Sequence[str], thickness_mm: float | None = None
) -> dict[str, Image]:
    """Return the further images that a network looks at, by the name of its input; those that are not there are left out.

    Parameters
    ----------
    image : Image
    images : sequence of Image
        Of the subject, at least.
    settings : mapping
        ``second_view``: another image of the same modality whose slices lie across this one's (by more than 45 degrees).
        ``reference``: the modality of another contrast; its voxels are finer along this image's slice axis.
    inputs : sequence of str
        Of the network.
    thickness_mm : float, optional
        Of slices that a training makes of the image along any axis; the image's own otherwise.
    """
    found: dict[str, Image] = {}
    same = [i for i in images if (i.subject, i.session, i.kind, i.role) == (image.subject, image.session, "image", "image")]
    others = sorted((i for i in same if i.id != image.id and min(i.volume.shape) > 1), key=lambda i: i.id)
    normal, thickness = thick_direction(image.volume)
    if "view" in inputs and settings.get("second_view"):
        across = [i for i in others if i.modality == image.modality and abs(thick_direction(i.volume)[0] @ normal) < 0.5**0.5]
        found.update(zip(["view"], across, strict=False))
    if "reference" in inputs and settings.get("reference"):
        theirs = [i for i in others if i.modality == settings["reference"]]
        if thickness_mm is None:
            finer = [i for i in theirs if spacing_along(i.volume, normal) < FINER * thickness]
        else:
            finer = [i for i in theirs if max(i.volume.spacing) < FINER * thickness_mm]
        found.update(zip(["reference"], finer, strict=False))
    return found


def thick_direction(volume: Volume) -> tuple[np.ndarray, float]:
    """Return the unit vector across a volume's slices in the world, and their spacing in mm."""
    axis = int(np.argmax(volume.spacing))
    return volume.affine[:3, axis] / volume.spacing[axis], volume.spacing[axis]


def spacing_along(volume: Volume, direction: np.ndarray) -> float:
    """Return the spacing in mm of the axis that is nearest to a direction of the world."""
    turned = np.abs(volume.affine[:3, :3].T @ direction) / np.array(volume.spacing)
    return volume.spacing[int(np.argmax(turned))]


def on_fine_grid(other: Image, affine: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Return another image of the subject on a grid, in a network's range, lazily.

    Raises
    ------
    BadInput
        ``not-finite`` when it has NaN or infinite values.
    """
    from cohortex.filters.resample import resample
    from cohortex.models.intensity import to_unit, unit_range_of, values_for

    look = survey(other.volume)
    if look.wrong:
        raise BadInput("not-finite", f"The further image {other.id} has NaN or infinite values; mend or remove it.")
    low, high = unit_range_of(look, values_for(other.modality))
    moved = resample(other.volume, affine=affine, shape=shape, order="linear", antialias=False)
    return Elementwise(lambda block: to_unit(block, low, high), moved.data)


def apply_network(
    model: Loaded,
    look: Survey,
    fine: Any,
    axis: int,
    modality: str,
    wanted: str = "float32",
    others: Mapping[str, Any] | None = None,
) -> tuple[Any, str, str]:
    """Run a network on slices, in the range of values of its card.

    Parameters
    ----------
    look : Survey
        Of the measured slices, from which the range is taken.
    fine : (x, y, z) array-like
        The interpolated ones, by the spline that agrees with the slices.
    axis : int
        Slice axis; the network sees it as its last one.
    modality : str
        Decides about the range where the card does not.
    wanted : {"float32", "auto"}
        The setting ``precision``, see `cohortex.inference.choose_precision`; networks on the slices' grid and those with further inputs
        compute in float32.
    others : mapping, optional
        Further inputs by name, in the network's range on the grid of `fine`.

    Returns
    -------
    (x, y, z) float32 array-like, precision, fallback
        What was said where a GPU's memory did not suffice, else nothing.

    Raises
    ------
    BadInput
        ``network-failed`` when the network gives NaN or infinite values, or some far beyond its range.
    """
    from cohortex.inference import choose_precision, same_image
    from cohortex.models.intensity import from_unit, to_unit, unit_range_of, values_for
    from cohortex.models.superresolve.apply import run_fine

    low, high = unit_range_of(look, model.card.get("values") or values_for(modality))
    fed = fed_by(model)
    order = [*(a for a in range(3) if a != axis), axis]
    unit, slices = (Turned(Elementwise(lambda block: to_unit(block, low, high), array), order) for array in (fine, look.data))
    further = {name: Turned(array, order) for name, array in (others or {}).items()}
    out = new_array(fine.shape)
    words: list[str] = []
    alone = fed.grid == "fine" and not further
    precision = choose_precision(wanted, model.network, unit, model.device, same_image, fed.halo) if alone else "float32"
    most = FAR * max(1.0, float(np.abs(to_unit(np.array([look.low, look.high]), low, high)).max()))

    def finish(made: np.ndarray, _: Box) -> np.ndarray:
        # A comparison with NaN is false.
        if not (np.abs(made) <= most).all():
            raise BadInput(
                "network-failed",
                f"The network of the model {model.card['name']} gives values that are not finite or far beyond those of the image; "
                "train it again, or set method: spline for this modality.",
            )
        return from_unit(made, low, high)

    run_fine(
        model.network,
        fed,
        slices,
        unit,
        further,
        model.device,
        out=Turned(out, order),
        finish=finish,
        precision=precision,
        say=words.append,
    )
    return out, precision, "; ".join(words)
