"""Figures of a classifier as SVG: ROC, reliability and decision curves, drawn for readers of papers; colours come from the style sheet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from cohortex.report.charts import short, ticks

_LEFT, _TOP, _SIDE_X, _SIDE_Y = 52, 8, 268, 212
"""Margins and size of the field in which curves lie."""
COLOURS = 8
"""Kinds of lines in the style sheet (``c1``, ...); of more curves the first have one."""


def roc(curves: Sequence[tuple[str, Sequence[Sequence[float]]]], about: str) -> Markup:
    """Return ROC curves over the diagonal of chance.

    Parameters
    ----------
    curves : sequence of (name, points)
        Points are (1 - specificity, sensitivity).
    about : str
        What the chart shows, for those who do not see it.
    """
    field = _Field((0, 1), (0, 1))
    lines = [field.line(points, f"line c{number}") for number, (_, points) in enumerate(curves[:COLOURS], 1)]
    chance = field.line([(0, 0), (1, 1)], "line chance")
    return field.drawn([chance, *lines], "1 − specificity", "sensitivity", about)


def reliability(bins: Sequence[Sequence[float]], about: str, axis: str = "predicted probability") -> Markup:
    """Return a reliability diagram: how often what was told with a probability came true (exact 95 % intervals).

    Parameters
    ----------
    bins : sequence of (told, seen, low, high, cases)
    about, axis : str
    """
    field = _Field((0, 1), (0, 1))
    parts = [field.line([(0, 0), (1, 1)], "line chance")]
    for told, _, low, high, _ in bins:
        parts.append(field.line([(told, low), (told, high)], "line range"))
    parts.append(field.line([(row[0], row[1]) for row in bins], "line c1"))
    for told, seen, low, high, cases in bins:
        words = f"told {short(told)}, came true {short(seen)} ({short(low)} to {short(high)}) of {cases:g}"
        parts.append(field.dot(told, seen, words))
    return field.drawn(parts, axis, "share that came true", about)


def decision(curve: Mapping[str, Sequence[float]], about: str) -> Markup:
    """Return a decision curve: the net benefit of a model beside those of treating everyone and no one.

    Parameters
    ----------
    curve : mapping
        ``threshold``, ``model``, ``everyone``, ``low`` and ``high`` (interval of the model's gain over the better of the two; None where
        there is none).
    about : str
    """
    at = curve["threshold"]
    best = [max(value, 0.0) for value in curve["everyone"]]
    top = max([*curve["model"], *best, 0.02])
    # Treating everyone soon costs more than it is worth: how much is not of interest.
    bottom = -0.25 * top
    field = _Field((0, 1), (bottom, 1.08 * top))
    band = [(x, b + low, b + high) for x, b, low, high in zip(at, best, curve["low"], curve["high"], strict=True) if low is not None]
    parts = [field.band(band)] if len(band) > 1 else []
    parts += [
        field.line([(0, 0), (1, 0)], "line chance"),
        field.line(list(zip(at, curve["everyone"], strict=True)), "line everyone"),
        field.line(list(zip(at, curve["model"], strict=True)), "line c1"),
    ]
    return field.drawn(parts, "probability from which on one would act", "net benefit (true positives per case)", about)


class _Field:
    """A field with axes from `xs` to `ys`."""

    def __init__(self, xs: tuple[float, float], ys: tuple[float, float]) -> None:
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        low, high = self.xs
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * _SIDE_X

    def y(self, value: float) -> float:
        low, high = self.ys
        return _TOP + _SIDE_Y - (min(max(value, low), high) - low) / (high - low) * _SIDE_Y

    def line(self, points: Iterable[Sequence[float]], kind: str) -> Markup:
        inside = list(points)
        low = self.ys[0]
        # A curve that leaves the field below ends there.
        end = next((k for k, point in enumerate(inside) if point[1] < low), len(inside))
        if 0 < end < len(inside):
            (x0, y0), (x1, y1) = inside[end - 1], inside[end]
            inside = [*inside[:end], (x0 + (low - y0) / (y1 - y0) * (x1 - x0), low)]
        drawn = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in inside[: end + 1])
        return Markup('<polyline class="{}" points="{}"/>').format(kind, drawn)

    def band(self, rows: Sequence[tuple[float, float, float]]) -> Markup:
        edge = [(x, high) for x, _, high in rows] + [(x, low) for x, low, _ in reversed(rows)]
        return Markup('<polygon class="band" points="{}"/>').format(" ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in edge))

    def dot(self, x: float, y: float, words: str) -> Markup:
        return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.2"><title>{}</title></circle>').format(self.x(x), self.y(y), words)

    def drawn(self, parts: Sequence[Markup], below: str, beside: str, about: str) -> Markup:
        right, bottom = _LEFT + _SIDE_X, _TOP + _SIDE_Y
        grid = [
            Markup(
                '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/><text class="tick" x="{0:.1f}" y="{3}">{4}</text>'
            ).format(self.x(value), _TOP, bottom, bottom + 14, short(value))
            for value in ticks(*self.xs)
        ]
        grid += [
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/><text class="row" x="{3}" y="{4:.1f}">{5}</text>'
            ).format(_LEFT, right, self.y(value), _LEFT - 6, self.y(value) + 4, short(value))
            for value in ticks(*self.ys)
        ]
        words = Markup(
            '<text class="tick" x="{}" y="{}">{}</text><text class="tick" transform="translate(12 {}) rotate(-90)">{}</text>'
        ).format((_LEFT + right) / 2, bottom + 30, below, (_TOP + bottom) / 2, beside)
        head = Markup('<svg class="chart plot" viewBox="0 0 {} {}" role="img"><title>{}</title>').format(right + 10, bottom + 36, about)
        return Markup("").join([head, *grid, *parts, words, Markup("</svg>")])
