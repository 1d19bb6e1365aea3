"""The measures of one image beside those of the cohort: median, where it lies among the others, how far it is from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cohortex.report.charts import short
from cohortex.report.classes import is_probability
from cohortex.report.measures import Group, Odd, limit_of, scores_among, spoken
from cohortex.report.records import Row, number

DRAWN = 80
"""So many values of a group are drawn, evenly over their order; of more the others lie between."""
ENOUGH_DRAWN = 3
"""With fewer values there is no group to lie in."""
_LEFT, _WIDTH = 5, 150


@dataclass(frozen=True)
class Measure:
    """One value of an image; `z` is None where there are too few others, or none that it could be compared with."""

    stage: str
    name: str
    unit: str
    value: str
    median: str = ""
    count: int = 0
    z: float | None = None
    odd: bool = False
    strip: str = ""


@dataclass(frozen=True)
class _Known:
    """What is worked out once for all pages."""

    median: float
    low: float
    high: float
    limit: float
    rug: str


class Cohort:
    """The groups of a cohort's measures, as the pages of subjects ask for them; those of an image that was left out are not among them.

    Parameters
    ----------
    groups : iterable of Group
    threshold : float
    odd : iterable of Odd, optional
        What the report calls odd; without it, what is odd beside its whole group.
    """

    def __init__(self, groups: Iterable[Group], threshold: float, odd: Iterable[Odd] | None = None):
        self.groups = {(g.stage, g.measure, g.modality, g.tag, g.body_part): g for g in groups}
        self.threshold = threshold
        self.odd = None if odd is None else {(one.group.stage, one.group.measure, one.image): one for one in odd}
        self.known: dict[tuple[str, str, str, str, str], _Known] = {}

    def measures_of(self, rows: Iterable[Row]) -> list[Measure]:
        """Return the numbers of an image's rows, odd ones first, then in the order of the chain."""
        found = [
            self._measure(row, name, value) for row in rows for name, text in row.measures.items() if (value := number(text)) is not None
        ]
        return sorted(found, key=lambda one: (not one.odd, -abs(one.z or 0) if one.odd else 0))

    def _measure(self, row: Row, measure: str, value: float) -> Measure:
        tag = row.image.partition("+")[2]
        words, unit = spoken(measure)
        name = f"{tag}: {words}" if tag else words
        key = (row.stage, measure, row.modality, tag, row.body_part)
        group = self.groups.get(key)
        if group is None or len(group.values) < ENOUGH_DRAWN or is_probability(measure):
            return Measure(row.stage, name, unit, short(value))
        known = self.known.get(key)
        if known is None:
            known = self.known[key] = _known(group, self.threshold)
        z = float(scores_among([value], group.values)[0]) if known.limit < float("inf") else None
        odd, median = z is not None and abs(z) > known.limit, known.median
        if self.odd is not None:
            found = self.odd.get((row.stage, measure, row.image))
            odd = found is not None
            if found is not None and found.beside:
                z, median, name = found.z, found.median, f"{name}, beside {found.beside}"
        about = f"{short(value)}, median of {len(group.values)} {short(known.median)}"
        return Measure(row.stage, name, unit, short(value), short(median), len(group.values), z, odd, _strip(value, known, odd, about))


def _known(group: Group, threshold: float) -> _Known:
    order = np.sort(np.asarray(group.values, np.float64))
    low, high = float(order[0]), float(order[-1])
    picked = order[np.unique(np.linspace(0, len(order) - 1, DRAWN).astype(int))]
    places = dict.fromkeys(_at(value, low, high) for value in picked)
    return _Known(float(np.median(order)), low, high, limit_of(group, threshold), "".join(f"M{x} 5v8" for x in places))


def _at(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.5
    return f"{_LEFT + min(max(share, 0), 1) * (_WIDTH - 2 * _LEFT):.1f}"


def _strip(value: float, known: _Known, odd: bool, about: str) -> Markup:
    """Return the values of a group as short lines, their median and one value as a dot."""
    return Markup(
        '<svg class="strip" viewBox="0 0 {} 18" role="img"><title>{}</title><line class="grid" x1="{}" x2="{}" y1="9" y2="9"/>'
        '<path class="rug" d="{}"/><line class="median" x1="{m}" x2="{m}" y1="2" y2="16"/>'
        '<circle class="dot{}" cx="{}" cy="9" r="4"/></svg>'
    ).format(
        _WIDTH,
        about,
        _LEFT,
        _WIDTH - _LEFT,
        known.rug,
        " odd" if odd else "",
        _at(value, known.low, known.high),
        m=_at(known.median, known.low, known.high),
    )
