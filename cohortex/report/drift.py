"""Measures over the day of acquisition, scanner by scanner: what drifts, what jumps. Only where the days are those of the calendar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from markupsafe import Markup

from cohortex.privacy.days import day_of
from cohortex.report.charts import over_days, short
from cohortex.report.measures import Group, mostly_equal, spoken
from cohortex.report.records import Records
from cohortex.report.scanners import machines_of

ENOUGH, DAYS = 12, 6
"""A series of fewer images, or on fewer days, is not looked at."""
ALPHA = 0.05
"""Chance that any series is told of although nothing changes, over all measures and scanners and both tests (Holm 1979)."""
LEAST = 0.5
"""A drift or jump of fewer spreads of the values around it is not told of, however sure it is."""
TOLD, DRAWN = 4, 24
"""Sentences that open the page, and charts with and without a trend, at most."""
SLOPES = 400
"""Of more images the slope is that of so many, evenly over the days."""


@dataclass(frozen=True)
class Series:
    """The values of one measure on one scanner, in the order of their days (of the calendar, as ordinals)."""

    group: Group
    machine: str
    images: Sequence[str]
    days: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Trend:
    """What a series does: ``drift`` (a straight line) or ``jump`` (two levels), the values at both ends of it and how sure that is.

    Attributes
    ----------
    series : Series
    kind : str
    day : int
        First day of the new level; of a drift the first day of the series.
    before, after : float
        Values of the line at the first and the last day, or the two levels.
    p : float
        Adjusted for all series and both tests.
    spreads : float
        How many spreads of the values around it the change is.
    """

    series: Series
    kind: str
    day: int
    before: float
    after: float
    p: float
    spreads: float


def days_told(records: Records) -> str:
    """Return what ``privacy: dates`` says of the cohort's days: ``given``, ``shifted``, or empty where no day is told."""
    said = {entry.get("dates", "") for entry in records.cohort.values()} - {"", "none"}
    return "shifted" if "shifted" in said else "given" if said else ""


def days_of(records: Records) -> dict[str, int]:
    """Return the day of acquisition by image; nothing unless days are told as they are: shifted ones have another zero for each subject."""
    if days_told(records) != "given":
        return {}
    found = {}
    for row in records.told.get(records.stages[0], []) if records.stages else []:
        day = day_of(row.measures.get("date", ""))
        if day is not None:
            found[row.image.split("+")[0]] = day.toordinal()
    return found


def series_of(groups: Iterable[Group], days: Mapping[str, int], machines: Mapping[str, str]) -> list[Series]:
    """Return the measures over the days, one series for each scanner (`cohortex.report.scanners.machines_of`) that has enough of them."""
    found = []
    for group in groups if days else ():
        places: dict[str, list[tuple[int, int]]] = {}
        for place, image in enumerate(group.images):
            image = image.split("+")[0]
            if image in days:
                places.setdefault(machines.get(image, ""), []).append((days[image], place))
        for machine in sorted(places):
            told = sorted(places[machine])
            if len(told) < ENOUGH or len({day for day, _ in told}) < DAYS:
                continue
            values = np.array([group.values[place] for _, place in told])
            if not mostly_equal(values):
                names = [group.images[place] for _, place in told]
                found.append(Series(group, machine, names, np.array([day for day, _ in told]), values))
    return found


def mann_kendall(days: np.ndarray, values: np.ndarray) -> float:
    """Return the two-sided p of a monotonic trend: Kendall's tau of values and days, with ties (Mann 1945, Kendall 1975)."""
    from scipy.stats import kendalltau

    _, p = kendalltau(days, values)
    p = float(np.asarray(p, np.float64))
    return p if np.isfinite(p) else 1.0


def pettitt(days: np.ndarray, values: np.ndarray) -> tuple[int, float]:
    """Return the place of the likeliest change of level, the first of the new one, and its p (Pettitt 1979, its approximation).

    A level changes between two days only. Days are in order.
    """
    from scipy.stats import rankdata

    count = len(values)
    sums = 2 * np.cumsum(rankdata(values)) - np.arange(1, count + 1) * (count + 1)
    between = np.flatnonzero(days[1:] > days[:-1])
    if not len(between):
        return 0, 1.0
    best = between[int(np.argmax(np.abs(sums[between])))]
    p = 2 * np.exp(-6.0 * sums[best] ** 2 / (count**3 + count**2))
    return int(best) + 1, float(min(p, 1.0))


def theil_sen(days: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return slope a day and value at the first day of the robust line: the median of the slopes of all pairs (Theil 1950, Sen 1968)."""
    if len(values) > SLOPES:
        picked = np.linspace(0, len(values) - 1, SLOPES).astype(int)
        sparse_days, sparse = days[picked], values[picked]
    else:
        sparse_days, sparse = days, values
    first, second = np.triu_indices(len(sparse), 1)
    apart = sparse_days[second] - sparse_days[first]
    slope = float(np.median((sparse[second] - sparse[first])[apart > 0] / apart[apart > 0]))
    return slope, float(np.median(values - slope * (days - days[0])))


def holm(ps: Sequence[float]) -> np.ndarray:
    """Return p values adjusted for their number (Holm 1979)."""
    values = np.asarray(ps, np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    found = np.empty(len(values))
    found[order] = adjusted
    return found


def trends_of(series: Sequence[Series]) -> list[Trend]:
    """Return the series that drift or jump, the surest first.

    Notes
    -----
    Each series is tested for a monotonic trend (`mann_kendall`) and for one change of level (`pettitt`); all those tests together are held
    to `ALPHA`. Which of the two it is called is what fits better: the robust line or the two medians, by the sum of absolute residuals.
    Images are taken as independent: of many visits of few subjects, or where the patients changed, look for that first.
    """
    steps = [pettitt(one.days, one.values) for one in series]
    adjusted = holm([*(mann_kendall(one.days, one.values) for one in series), *(p for _, p in steps)])
    found = []
    for index, one in enumerate(series):
        p = float(min(adjusted[index], adjusted[index + len(series)]))
        if p >= ALPHA:
            continue
        slope, start = theil_sen(one.days, one.values)
        place = steps[index][0]
        low, high = (float(np.median(part)) for part in (one.values[:place], one.values[place:]))
        of_line = one.values - start - slope * (one.days - one.days[0])
        of_levels = one.values - np.where(np.arange(len(one.values)) < place, low, high)
        jump = float(np.abs(of_levels).sum()) <= float(np.abs(of_line).sum())
        before, after = (low, high) if jump else (start, start + slope * float(one.days[-1] - one.days[0]))
        spread = 1.4826 * float(np.median(np.abs(of_levels if jump else of_line)))
        spreads = (after - before) / max(spread, 1e-4 * abs(before) + 1e-12)
        if abs(spreads) >= LEAST:
            found.append(Trend(one, "jump" if jump else "drift", int(one.days[place if jump else 0]), before, after, p, spreads))
    return sorted(found, key=lambda trend: (trend.p, -abs(trend.spreads), trend.series.machine))


def named(series: Series) -> str:
    """Return measure, modality, stage and scanner of a series in words."""
    name, unit = spoken(series.group.measure)
    tag = f"{series.group.tag}: " if series.group.tag else ""
    of = " ".join(filter(None, (series.group.modality, series.group.body_part)))
    where = f" on {series.machine}" if series.machine else ""
    return f"{tag}{name}{f' ({unit})' if unit else ''}{f' of {of}' if of else ''} in {series.group.stage}{where}"


def sentence(trend: Trend) -> str:
    """Return what a trend is, in one sentence."""
    up = trend.after > trend.before
    way = ("jumps up" if up else "jumps down") if trend.kind == "jump" else "rises" if up else "falls"
    first, last = (told(int(day)) for day in (trend.series.days[0], trend.series.days[-1]))
    from_to = f"from {short(trend.before)} to {short(trend.after)}"
    when = f"around {told(trend.day)}" if trend.kind == "jump" else f"between {first} and {last}"
    surely = "p < 0.001" if trend.p < 0.001 else f"p = {trend.p:.2g}"
    return f"{named(trend.series)} {way} {from_to} {when} ({len(trend.series.values)} images, {surely})."


def told(day: int) -> str:
    """Return an ordinal day as ``YYYY-MM-DD``."""
    return date.fromordinal(day).isoformat()


@dataclass(frozen=True)
class Overview:
    """What the page shows of the days: sentences of what drifts or jumps, charts, that first, and what to say where there is none."""

    sentences: Sequence[str]
    more: int
    charts: Sequence[tuple[str, Markup]]
    others: Sequence[tuple[str, Markup]]
    left: int
    series: int
    note: str


def overview(records: Records, groups: Sequence[Group]) -> Overview:
    """Return what the page shows of measures over days."""
    said = days_told(records)
    if said == "shifted":
        note = (
            "Days are shifted by a number of each subject's own (privacy: dates: shifted), so what changed over time cannot be seen "
            "and is not looked for."
        )
        return Overview([], 0, [], [], 0, 0, note)
    if not said:
        return Overview([], 0, [], [], 0, 0, "No day of acquisition is told (privacy: dates), so what changed over time is not looked for.")
    series = series_of(groups, days_of(records), machines_of(records))
    trends = trends_of(series)
    moved = {id(trend.series) for trend in trends}
    still = [one for one in series if id(one) not in moved]
    note = "" if series else f"No scanner has {ENOUGH} images on {DAYS} days, too few to look for what changed over time."
    return Overview(
        [sentence(trend) for trend in trends[:TOLD]],
        max(0, len(trends) - TOLD),
        [(named(trend.series), _chart(trend.series, trend)) for trend in trends[:DRAWN]],
        [(named(one), _chart(one, None)) for one in still[:DRAWN]],
        max(0, len(trends) - DRAWN) + max(0, len(still) - DRAWN),
        len(series),
        note,
    )


def _chart(series: Series, trend: Trend | None) -> Markup:
    first, last = int(series.days[0]), int(series.days[-1])
    about = sentence(trend) if trend else f"{named(series)} over days: no drift and no jump that chance does not explain."
    if trend and trend.kind == "jump":
        lines = [(first, trend.before, trend.day, trend.before), (trend.day, trend.after, last, trend.after)]
    else:
        slope, start = theil_sen(series.days, series.values)
        lines = [(first, start, last, start + slope * (last - first))]
    return over_days(series.days.tolist(), series.values.tolist(), lines, about)
