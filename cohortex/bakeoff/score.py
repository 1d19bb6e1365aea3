"""Scores one system of a bake-off on the validation and test subjects: measures, cost, planted lesions, a picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from cohortex.bakeoff.kinds import KINDS
from cohortex.bakeoff.pairs import Pair
from cohortex.errors import Refused, Skip
from cohortex.measures import honesty
from cohortex.measures.image_quality import psnr, ssim
from cohortex.measures.multiscale import WINDOW, ms_ssim
from cohortex.measures.texture import LOG_WIDTH, hfen, noise_power_spectrum, spectrum_distance

LOG = logging.getLogger("cohortex.bakeoff")

MEASURES = KINDS["denoise"].measures
"""Those of both restorations."""

LONG_S = 5.0
"""CPU seconds of an image beside which those of a first time are nothing."""

LESION_COLUMNS = ("subject", "image", "split", "diameter_mm", "contrast", "recovery")


def measured(pair: Pair, result: np.ndarray) -> dict[str, float]:
    """Return the measures of a result against the truth of its pair, in the foreground and in the range of the pair.

    The spectrum's distance compares what was changed with what should have been: for noise reduction what was removed with the noise, for
    super-resolution what was added to straight lines with what they lack.

    Raises
    ------
    Refused
        When the result has NaN or infinite values, or another grid.
    """
    if result.shape != pair.truth.shape:
        raise Refused(f"its result has the shape {result.shape}, the truth {pair.truth.shape}")
    wrong = int(np.count_nonzero(~np.isfinite(result)))
    if wrong:
        raise Refused(f"its result has {wrong} voxels that are NaN or infinite")
    truth, made, start = (pair.unit(array) for array in (pair.truth, result, pair.start))
    found = {"psnr": psnr(truth, made, 1.0, pair.inside), "ssim": ssim(truth, made, 1.0, pair.inside)}
    longest = max(pair.truth.shape)
    if longest >= WINDOW:
        found["ms_ssim"] = ms_ssim(truth, made, 1.0)
    if longest >= LOG_WIDTH:
        found["hfen"] = hfen(truth, made, pair.inside)
    plane = (0, 1) if pair.axis < 0 else (min((pair.axis + 1) % 3, pair.axis), max((pair.axis + 1) % 3, pair.axis))
    try:
        wanted, changed = (noise_power_spectrum(each - start, pair.spacing, pair.inside, plane) for each in (truth, made))
        found["nps_distance"] = spectrum_distance(wanted, changed)
    except ValueError:
        LOG.info("%s: the foreground is too small for a spectrum", pair.image.id)
    structure = honesty.residual_structure(start, made, pair.inside)
    found |= {key: structure[key] for key in ("image_correlation", "edge_correlation")}
    if pair.axis < 0:
        found |= honesty.noise_agreement(start, made, pair.noise / (pair.high - pair.low), pair.inside)
    else:
        found["slice_error"] = honesty.slice_agreement(result, pair.image.volume.array(np.float32), pair.axis)
    return found


def lesion_rows(
    pair: Pair, restore: Callable[[np.ndarray], np.ndarray], plain: np.ndarray, asked: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Return how much of each planted lesion's contrast a system kept; `plain` is its result without lesions."""
    lesions = asked["lesions"]
    planted = honesty.plant_lesions(
        pair.truth, pair.spacing, pair.inside, pair.noise, lesions["diameters_mm"], lesions["contrasts"], lesions["each"], seed
    )
    kept = honesty.contrast_recovery(planted, restore(pair.degrade(planted.image)), plain)
    about = {"subject": pair.image.subject, "image": pair.image.id, "split": pair.split}
    return [
        {**about, "diameter_mm": lesion.diameter_mm, "contrast": lesion.contrast, "recovery": share}
        for lesion, share in zip(planted.lesions, kept, strict=True)
    ]


def score(
    pairs: Sequence[Pair], for_pair: Callable[[Pair], Callable[[np.ndarray], np.ndarray]], asked: Mapping[str, Any], seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray], dict[str, str]]:
    """Return a system's rows, its rows of lesions, its pictures, and the images that it is not for.

    Parameters
    ----------
    pairs : sequence of Pair
    for_pair : callable
        See `cohortex.bakeoff.restore.restorer`.
    asked : mapping
        The task's section of ``bakeoff``.
    seed : int
        Where the lesions lie depends on it.

    Returns
    -------
    rows, lesions : list of dict
        Columns of the kind (`cohortex.bakeoff.kinds`) and `LESION_COLUMNS`; lesions are planted in the images of test subjects (of
        all, where there are none).
    pictures : dict
        ``truth``, ``start`` and ``result``: the middle slice of the first test pair (of another modality than CT where there is one)
        in the range of the pair, (rows, columns).
    left_out : dict
        Image to the reason why the system does not do it (a model for other modalities or voxels).

    Raises
    ------
    CohortexError
        What the system raised, and Refused when it is for no image at all.
    """
    rows: list[dict[str, Any]] = []
    lesions: list[dict[str, Any]] = []
    pictures: dict[str, np.ndarray] = {}
    tested = [pair for pair in pairs if pair.split == "test"] or list(pairs)
    left_out: dict[str, str] = {}
    # Soft tissue is flat in the range of values of CT: another modality shows more.
    pictured = next((pair for pair in tested if pair.image.modality != "CT"), tested[0] if tested else None)
    given = ((number, pair, for_pair(pair), pair.image.volume.array(np.float32)) for number, pair in enumerate(pairs))
    for (number, pair, restore, _), result, cpu_s in each_answer(
        given, lambda case: case[2](case[3]), lambda case: case[1].image.id, "image", left_out
    ):
        about = {"subject": pair.image.subject, "image": pair.image.id, "modality": pair.image.modality, "split": pair.split}
        rows.append({**about, **measured(pair, result), "cpu_s": cpu_s, "megavoxels": result.size / 1e6})
        if any(pair is each for each in tested):
            lesions += lesion_rows(pair, restore, result, asked, seed + number)
        if pair is pictured:
            pictures = {name: shown(pair, array) for name, array in (("truth", pair.truth), ("start", pair.start), ("result", result))}
        LOG.info("%s (%s): PSNR %.2f dB, %.2f CPU s", pair.image.id, pair.split, rows[-1]["psnr"], cpu_s)
    return rows, lesions, pictures, left_out


Case = TypeVar("Case")
Answer = TypeVar("Answer")


def each_answer(
    cases: Iterable[Case],
    ask: Callable[[Case], Answer],
    name_of: Callable[[Case], str],
    thing: str,
    left_out: dict[str, str],
    long_s: float | None = None,
) -> Iterator[tuple[Case, Answer, float]]:
    """Ask a system about each case; yield the case, what it said, and its CPU seconds (`timed`).

    Parameters
    ----------
    cases : iterable
    ask : callable
        From a case to the answer; raises Skip where the system is not for it.
    name_of : callable
        From a case to its image's name.
    thing : str
        What a case is, in the singular.
    left_out : dict
        Gets the names of those that it is not for, with the reason.
    long_s : float, optional
        See `timed`.

    Raises
    ------
    Refused
        When it is for none.
    """
    answered = False
    for case in cases:
        try:
            answer, cpu_s = timed(lambda case=case: ask(case), not answered, long_s)
        except Skip as reason:
            left_out[name_of(case)] = str(reason)
            continue
        answered = True
        yield case, answer, cpu_s
    if left_out and not answered:
        raise Refused(f"it is for none of the {len(left_out)} {thing}s: {next(iter(left_out.values()))}")


def timed(work: Callable[[], Any], first: bool, long_s: float | None = None) -> tuple[Any, float]:
    """Return a result, and the CPU seconds that it took; the first time does not count if it took less than `long_s` (`LONG_S`).

    Then kernels are compiled and memory is taken.
    """
    started = time.process_time()
    result = work()
    took = time.process_time() - started
    return timed(work, False) if first and took < (LONG_S if long_s is None else long_s) else (result, took)


def shown(pair: Pair, array: np.ndarray) -> np.ndarray:
    """Return a slice through the middle of the foreground as it is shown: upright, in the range of the pair, with square pixels.

    Of a pair with a slice axis it is one that holds this axis, upright in the picture.
    """
    across = 2 if pair.axis < 0 else next(axis for axis in (2, 1, 0) if axis != pair.axis)
    filled = np.flatnonzero(pair.inside.any(axis=tuple({0, 1, 2} - {across})))
    middle = int(filled[len(filled) // 2]) if filled.size else array.shape[across] // 2
    plane = np.take(pair.unit(array), middle, axis=across)
    spacing = [step for axis, step in enumerate(pair.spacing) if axis != across]
    ratio = spacing[1] / spacing[0]
    picture = np.repeat(plane, max(1, round(1 / ratio)), 0) if ratio < 1 else np.repeat(plane, max(1, round(ratio)), 1)
    return np.ascontiguousarray(picture.T[::-1, ::-1], dtype=np.float32)
