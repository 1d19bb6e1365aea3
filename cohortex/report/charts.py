"""Small charts as SVG, drawn here so that the page needs no library; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from markupsafe import Markup

DOTS = 150
"""With more values than this only those in the tails are drawn as dots."""

FALLS = 20
"""Times that the largest value of a curve is the smallest one from which on its axis is logarithmic."""

SPOTS = 200
"""Values over days that are drawn."""

_LEFT, _RIGHT, _WIDTH, _ROW = 140, 14, 460, 34


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two values, about as many as asked for."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next((factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Return a number with at most four significant digits, in plain notation where that is readable."""
    if value == 0:
        return "0"
    if 1e5 <= abs(value) < 1e9:
        return f"{value / 1e6:.3g} M" if abs(value) >= 1e6 else f"{value / 1e3:.3g} k"
    if abs(value) >= 1e9 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"


def strips(rows: Sequence[tuple[str, Sequence[str], Sequence[float], Sequence[bool]]], about: str) -> Markup:
    """Return a chart with a box (quartiles, median; whiskers at the percentiles 5 and 95) and dots for each row.

    Parameters
    ----------
    rows : sequence of (label, names, values, odd)
        Names are shown when the pointer rests on a dot; odd ones are marked.
    about : str
        What the chart shows, for those who do not see it.
    """
    everything = np.concatenate([np.asarray(values, np.float64) for _, _, values, _ in rows])
    low, high = float(everything.min()), float(everything.max())
    margin = (high - low) * 0.04 or abs(low) * 0.05 or 0.5
    low, high = low - margin, high + margin

    def x(value: float) -> str:
        return f"{_LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    height = len(rows) * _ROW + 26
    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>').format(_WIDTH, height, about)]
    bottom = len(rows) * _ROW + 6
    for tick in ticks(low, high):
        parts.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="4" y2="{1}"/>').format(x(tick), bottom))
        parts.append(Markup('<text class="tick" x="{}" y="{}">{}</text>').format(x(tick), bottom + 14, short(tick)))
    for position, (label, names, values, odd) in enumerate(rows):
        middle = position * _ROW + _ROW / 2 + 4
        parts.append(_box(label, np.asarray(values, np.float64), middle, x))
        parts.append(_dots(names, values, odd, middle, x))
    return Markup("").join([*parts, Markup("</svg>")])


def _box(label: str, values: np.ndarray, middle: float, x) -> Markup:
    p5, p25, p50, p75, p95 = np.percentile(values, (5, 25, 50, 75, 95))
    text = Markup('<text class="row" x="{}" y="{}">{} <tspan class="count">n={}</tspan></text>').format(
        _LEFT - 8, middle + 4, label, len(values)
    )
    if len(values) < 3:
        return text
    return text + Markup(
        '<line class="whisker" x1="{}" x2="{}" y1="{m}" y2="{m}"/><rect class="box" x="{}" y="{}" width="{:.1f}" height="18" rx="2"/>'
        '<line class="median" x1="{q}" x2="{q}" y1="{}" y2="{}"/>'
    ).format(x(p5), x(p95), x(p25), middle - 9, max(1.0, float(x(p75)) - float(x(p25))), middle - 9, middle + 9, m=middle, q=x(p50))


def _dots(names: Sequence[str], values: Sequence[float], odd: Sequence[bool], middle: float, x) -> Markup:
    shown = range(len(values))
    if len(values) > DOTS:
        low, high = np.percentile(values, (1, 99))
        shown = [i for i in shown if odd[i] or not low <= values[i] <= high][:DOTS]
    dots = []
    for i in shown:
        # The golden ratio spreads dots evenly without chance.
        up = ((i * 0.618034) % 1 - 0.5) * 13
        kind = "dot odd" if odd[i] else "dot"
        dots.append(
            Markup('<circle class="{}" cx="{}" cy="{:.1f}" r="{}"><title>{}: {}</title></circle>').format(
                kind, x(values[i]), middle + up, 4 if odd[i] else 2.6, names[i], short(values[i])
            )
        )
    return Markup("").join(dots)


def strip_mark(value: float, low: float, median: float, high: float) -> Markup:
    """Return a line with the range of the others (percentiles 5 to 95, median) and the place of one value."""
    first, last = min(value, low), max(value, high)
    width = (last - first) or 1.0

    def x(at: float) -> str:
        return f"{8 + (at - first) / width * 124:.1f}"

    return Markup(
        '<svg class="mark" viewBox="0 0 140 18" aria-hidden="true"><line class="grid" x1="4" x2="136" y1="9" y2="9"/>'
        '<rect class="box" x="{}" y="4" width="{:.1f}" height="10" rx="2"/><line class="median" x1="{m}" x2="{m}" y1="3" y2="15"/>'
        '<circle class="dot odd" cx="{}" cy="9" r="4.5"/></svg>'
    ).format(x(low), max(1.5, float(x(high)) - float(x(low))), x(value), m=x(median))


def stacked(parts: Mapping[str, int], total: int, about: str) -> Markup:
    """Return one bar whose pieces (status to count) are as wide as their share of the total."""
    pieces, at = (
        [Markup('<svg class="bar" viewBox="0 0 300 14" preserveAspectRatio="none" role="img"><title>{}</title>').format(about)],
        0.0,
    )
    pieces.append(Markup('<rect class="none" x="0" y="0" width="300" height="14"/>'))
    for status, count in parts.items():
        width = 300 * count / total if total else 0
        if width:
            pieces.append(Markup('<rect class="s-{}" x="{:.2f}" y="0" width="{:.2f}" height="14"/>').format(status, at, width))
        at += width
    return Markup("").join([*pieces, Markup("</svg>")])


def curves(lines: Sequence[Sequence[tuple[float, float]]], about: str, until: float = 0.0) -> Markup:
    """Return a chart of one or several curves, the first value of all at the left; of values that fall a lot the axis is logarithmic.

    Parameters
    ----------
    lines : sequence of sequences of (x, y)
        At least one point.
    about : str
        What the chart shows, for those who do not see it.
    until : float
        The axis of the steps goes so far at least.
    """
    xs, ys = ([point[i] for line in lines for point in line] for i in (0, 1))
    log = min(ys) > 0 and max(ys) > FALLS * min(ys)
    low, high = (math.log10(min(ys)), math.log10(max(ys))) if log else (min(ys), max(ys))
    margin = 0.06 * (high - low) or abs(low) * 0.05 or 0.5
    low, high, last = low - margin, high + margin, max(*xs, until) or 1.0

    def x(value: float) -> float:
        return 58 + value / last * 286

    def y(value: float) -> float:
        return 112 - ((math.log10(value) if log else value) - low) / (high - low) * 106

    if log:
        inside = [
            c * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for c in (1, 2, 5) if low <= math.log10(c * 10.0**e) <= high
        ]
    else:
        inside = ticks(low, high, 4)
    grid = Markup('<line class="grid" x1="58" x2="344" y1="{0:.1f}" y2="{0:.1f}"/><text class="row" x="52" y="{1:.1f}">{2}</text>')
    scale = Markup('<text class="tick" x="{:.1f}" y="126">{}</text>')
    dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.4"><title>{}: {}</title></circle>')
    parts = [
        Markup('<svg class="chart curve" viewBox="0 0 360 148" role="img"><title>{}</title>').format(about),
        *(grid.format(y(tick), y(tick) + 4, short(tick)) for tick in inside),
        *(scale.format(x(tick), short(tick)) for tick in ticks(0, last, 4)),
        Markup('<text class="tick" x="201" y="142">{}</text>').format("steps" + (", values on a logarithmic scale" if log else "")),
    ]
    for line in lines:
        drawn = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        parts += [
            Markup('<polyline class="line" points="{}"/>').format(drawn),
            *(dot.format(x(a), y(b), short(a), short(b)) for a, b in line),
        ]
    return Markup("").join([*parts, Markup("</svg>")])


def over_days(days: Sequence[int], values: Sequence[float], lines: Sequence[tuple[float, float, float, float]], about: str) -> Markup:
    """Return values over days of the calendar, and lines through them.

    Parameters
    ----------
    days : sequence of int
        Ordinals, in order, not all the same day; of more than `SPOTS` so many are drawn, evenly over their order.
    values : sequence of float
    lines : sequence of (day, value, day, value)
    about : str
        What the chart shows, for those who do not see it.
    """
    picked = np.unique(np.linspace(0, len(days) - 1, min(len(days), SPOTS)).astype(int))
    ys = [*(float(values[place]) for place in picked), *(value for line in lines for value in (line[1], line[3]))]
    first, last = days[0], days[-1]
    margin = 0.06 * (max(ys) - min(ys)) or abs(ys[0]) * 0.05 or 0.5
    low, high = min(ys) - margin, max(ys) + margin

    def x(day: float) -> float:
        return 58 + (day - first) / (last - first) * 286

    def y(value: float) -> float:
        return 112 - (value - low) / (high - low) * 106

    grid = Markup('<line class="grid" x1="58" x2="344" y1="{0:.1f}" y2="{0:.1f}"/><text class="row" x="52" y="{1:.1f}">{2}</text>')
    spots = " ".join(f"M{x(days[place]):.1f} {y(float(values[place])):.1f}h0" for place in picked)
    parts = [
        Markup('<svg class="chart curve" viewBox="0 0 360 132" role="img"><title>{}</title>').format(about),
        *(grid.format(y(tick), y(tick) + 4, short(tick)) for tick in ticks(low, high, 4)),
        Markup('<path class="spots" d="{}"/>').format(spots),
        *(
            Markup('<polyline class="line trend" points="{:.1f},{:.1f} {:.1f},{:.1f}"/>').format(x(a), y(b), x(c), y(d))
            for a, b, c, d in lines
        ),
    ]
    for share, anchor in ((0, ""), (0.5, ""), (1, " last")):
        day = round(first + share * (last - first))
        parts.append(Markup('<text class="tick{}" x="{:.1f}" y="127">{}</text>').format(anchor, x(day), date.fromordinal(day).isoformat()))
    return Markup("").join([*parts, Markup("</svg>")])


def share(value: float, about: str) -> Markup:
    """Return a bar for a share between 0 and 1."""
    value = min(max(value, 0.0), 1.0)
    return Markup(
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"><title>{}</title>'
        '<rect class="none" x="0" y="0" width="100" height="10"/><rect class="fill" x="0" y="0" width="{:.1f}" height="10"/></svg>'
    ).format(about, 100 * value)
