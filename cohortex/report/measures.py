"""Numbers of the manifests by measure and modality: what is odd, what belongs together, how it is called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cohortex.report.records import Records, number

ENOUGH = 5
"""With fewer values nothing is called odd."""

WORDS = {
    "mi": "mutual information",
    "mind": "MIND difference",
    "snr": "signal to noise",
    "p01": "percentile 1",
    "p95": "percentile 95",
    "p99": "percentile 99",
    "std": "standard deviation",
    "nan": "missing values",
    "psnr": "PSNR",
    "tre": "TRE",
    "dice": "Dice",
    "csf": "CSF",
}
"""Parts of the measures' names that are abbreviations, in words."""

UNITS = {
    "mm": "mm",
    "mm2": "mm²",
    "mm3": "mm³",
    "ml": "ml",
    "db": "dB",
    "hu": "HU",
    "deg": "°",
    "percent": "%",
    "pct": "%",
    "mb": "MB",
    "s": "s",
    "voxels": "voxels",
    "vox": "voxels",
    "hz": "Hz",
    "t": "T",
}


@dataclass(frozen=True)
class Group:
    """All values of one measure of one stage in one modality and body part; `tag` names the derived thing that has it, if any."""

    stage: str
    measure: str
    modality: str
    tag: str
    images: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    body_part: str = ""


@dataclass(frozen=True)
class Odd:
    """A value far from those of its modality, and where the others lie (percentiles 5, 50 and 95).

    `beside` is the scanner whose values those are, empty where they are all of the group.
    """

    group: Group
    image: str
    value: float
    z: float
    median: float
    low: float
    high: float
    beside: str = ""


def groups_of(records: Records) -> list[Group]:
    """Return the values of every numeric measure by stage, measure, modality, tag and body part, in the order of the chain.

    Images that a rater rejected are left out.
    """
    found: dict[tuple[str, str, str, str, str], Group] = {}
    for stage in records.stages:
        for row in records.told.get(stage, []):
            if not records.counts_in(row.image):
                continue
            tag = row.image.partition("+")[2]
            for name, text in row.measures.items():
                value = number(text)
                if value is None:
                    continue
                key = (stage, name, row.modality, tag)
                group = found.setdefault((*key, row.body_part), Group(*key, body_part=row.body_part))
                group.images.append(row.image)
                group.values.append(value)
    order = {stage: position for position, stage in enumerate(records.stages)}
    return sorted(found.values(), key=lambda group: (order[group.stage], group.tag, group.measure, group.modality, group.body_part))


def part_of(group: Group, places: Iterable[int]) -> Group:
    """Return a group with some of its values only."""
    places = list(places)
    return replace(group, images=[group.images[place] for place in places], values=[group.values[place] for place in places])


def robust_z(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return how far each value is from the median, in units of the scaled median absolute deviation.

    Where more than half of the values are equal the mean absolute deviation takes its place (Iglewicz and Hoaglin, How to
    Detect and Handle Outliers, 1993). Differences below a ten-thousandth of the median count as none.
    """
    return scores_among(values, values)


def scores_among(values: Sequence[float] | np.ndarray, group: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the robust z scores (`robust_z`) that values have by the median and the deviations of a group."""
    group = np.asarray(group, dtype=np.float64)
    away = group - np.median(group)
    spread = np.median(np.abs(away)) * 1.4826
    floor = _floor(group)
    if mostly_equal(group):
        spread = np.mean(np.abs(away)) * 1.2533
    found = np.asarray(values, dtype=np.float64) - np.median(group)
    found[np.abs(found) <= floor] = 0
    return found / max(spread, floor)


def mostly_equal(values: Sequence[float] | np.ndarray) -> bool:
    """Say whether more than half of the values are equal, so that their median absolute deviation says nothing."""
    values = np.asarray(values, dtype=np.float64)
    return bool(np.median(np.abs(values - np.median(values))) * 1.4826 <= _floor(values))


def _floor(values: np.ndarray) -> float:
    return float(1e-4 * abs(np.median(values)) + 1e-12)


def stricter(threshold: float, count: int) -> float:
    """Return the threshold that few values have to pass to be as rarely beyond it as many are beyond `threshold`.

    The median absolute deviation of few values is often small by chance: of 6 normal values 3 % have a robust z score beyond 3.5, of many
    0.05 %. The factor follows the quantiles of that score in simulated normal samples of 6 to 100 values.
    """
    return threshold * (1 + 8 / count + 70 / count**2)


def limit_of(group: Group, threshold: float) -> float:
    """Return the robust z score beyond which a value of a group is odd: `stricter` where they are few, infinite where they are too few."""
    if len(group.values) < ENOUGH:
        return float("inf")
    return threshold if mostly_equal(group.values) else stricter(threshold, len(group.values))


def odd_ones(groups: Iterable[Group], threshold: float) -> list[Odd]:
    """Return the values whose robust z score is beyond the threshold (`limit_of`), farthest first."""
    found = []
    for group in groups:
        limit = limit_of(group, threshold)
        if limit == float("inf"):
            continue
        scores = robust_z(group.values)
        order = np.sort(np.asarray(group.values, dtype=np.float64))
        for position in np.flatnonzero(np.abs(scores) > limit):
            value = group.values[position]
            low, median, high = _percentiles_without(order, value, (5, 50, 95))
            found.append(Odd(group, group.images[position], value, float(scores[position]), median, low, high))
    return sorted(found, key=lambda odd: (-abs(odd.z), odd.image))


def _percentiles_without(order: np.ndarray, value: float, wanted: Sequence[float]) -> list[float]:
    """Return percentiles of sorted values once one of them is left out, without sorting them again."""
    left_out = int(np.searchsorted(order, value))
    found = []
    for percent in wanted:
        at = percent / 100 * (len(order) - 2)
        below, above = (order[place + (place >= left_out)] for place in (int(np.floor(at)), int(np.ceil(at))))
        found.append(float(below + (above - below) * (at % 1)))
    return found


def spoken(measure: str) -> tuple[str, str]:
    """Return a measure's name in words and its unit: ``tre_after_mm`` is ("TRE after", "mm"), ``x_per_mm`` ("x", "1/mm")."""
    words = measure.split("_")
    unit = UNITS.get(words[-1], "") if len(words) > 1 else ""
    if unit:
        words.pop()
    if unit and len(words) > 1 and words[-1] == "per":
        words.pop()
        unit = f"1/{unit}"
    return " ".join(WORDS.get(word, word) for word in words), unit


def without_moment(measure: str) -> tuple[str, str]:
    """Return a measure's name without ``before`` or ``after``, and which of the two it was (or "")."""
    words = measure.split("_")
    for moment in ("before", "after"):
        if moment in words and len(words) > 1:
            words.remove(moment)
            return "_".join(words), moment
    return measure, ""


def charts_of(groups: Iterable[Group]) -> dict[str, dict[tuple[str, str], list[tuple[str, str, Group]]]]:
    """Return by stage and by (measure, tag) the groups of one chart, each with its modality and moment: before, after or "".

    Where there are several body parts they are named with the modality.
    """
    charts: dict[str, dict[tuple[str, str], list[tuple[str, str, Group]]]] = defaultdict(lambda: defaultdict(list))
    groups = list(groups)
    several = len({group.body_part for group in groups}) > 1
    for group in groups:
        measure, moment = without_moment(group.measure)
        called = " ".join(filter(None, (group.modality, group.body_part if several else "")))
        charts[group.stage][measure, group.tag].append((called, moment, group))
    for by_measure in charts.values():
        for rows in by_measure.values():
            rows.sort(key=lambda row: (row[0], row[1] != "before", row[1]))
    return charts
