"""Where everything of a plot stands: scales, ticks, bars, lines and dots in the coordinates of an SVG picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

# Room beside and above the panels, and between them, where their labels stand; and below them, for the axis, which
# is more for each letter of slanted labels.
_LEFT, _RIGHT, _HEAD, _GAP = 46, 20, 26, 36
_FOOT, _FOOT_BY_LETTER = 34, 5.2

Interval = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """What one panel shows: a number, or None, for each place.

    Attributes:
        shape: bars stand on zero, a line joins neighbours, dots stand alone.
        reference: a number that all others are compared with.
        intervals: how far from it the truth may be, by place.
        tips: what a bar says when pointed at.
    """

    label: str
    values: Sequence[float | None]
    shape: Literal["bars", "line", "dots", "line and dots"]
    percent: bool = True
    reference: float | None = None
    intervals: Sequence[Interval | None] = ()
    tips: Sequence[str] = ()


@dataclass
class Panel:
    """One series as drawn; heights grow downwards, as in SVG."""

    label: str
    top: float
    bottom: float
    ticks: list[tuple[float, str]]
    reference: float | None
    bars: list[tuple[float, float, float, float, str]] = field(
        default_factory=list[tuple[float, float, float, float, str]]
    )
    lines: list[str] = field(default_factory=list[str])
    dots: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    whiskers: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])


@dataclass
class Plot:
    """Panels above each other that share the axis below the last one."""

    name: str
    axis: str
    width: int
    height: int
    left: int
    right: int
    panels: list[Panel]
    ticks: list[tuple[float, str]]
    slanted: bool


def draw(
    series: Sequence[Series],
    at: Sequence[int],
    places: int,
    ticks: Sequence[tuple[float, str]],
    *,
    name: str,
    axis: str,
    width: int = 380,
    height: int = 90,
    slanted: bool = False,
) -> Plot:
    """A plot of some series over `places` places of equal width; `at` are those that the values belong to.

    `ticks` are labels below the axis, by their share of its length; `height` is that of one panel.
    """
    left, right = _LEFT, width - _RIGHT
    step = (right - left) / max(places, 1)
    panels: list[Panel] = []
    for one in series:
        top = _HEAD + len(panels) * (height + _GAP)
        panels.append(_panel(one, [left + (place + 0.5) * step for place in at], step, top, top + height))
    longest = max((len(label) for _, label in ticks), default=0)
    return Plot(
        name=name,
        axis=axis,
        width=width,
        height=math.ceil(panels[-1].bottom + _FOOT + (_FOOT_BY_LETTER * longest if slanted else 0)),
        left=left,
        right=right,
        panels=panels,
        ticks=[(round(left + share * (right - left), 1), label) for share, label in ticks],
        slanted=slanted,
    )


def scale(low: float, high: float, steps: int) -> list[float]:
    """Round numbers at equal steps from `low` or less to `high` or more, about so many."""
    size = (high - low) / steps if high > low else 1.0
    power = 10.0 ** math.floor(math.log10(size))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= size * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, max(last, first + 1) + 1)]


def tick_label(number: float, step: float, *, percent: bool) -> str:
    """A number of a scale in few characters, with as many decimals as its step needs."""
    if percent:
        return f"{100 * number:.{_decimals(100 * step)}f}%"
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.{_decimals(step / size)}f}{letter}"
    return f"{number:.{_decimals(step)}f}"


def _decimals(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _panel(series: Series, xs: list[float], step: float, top: float, bottom: float) -> Panel:
    numbers = [number for number in series.values if number is not None]
    numbers += [end for interval in series.intervals if interval for end in interval]
    numbers += [] if series.reference is None else [series.reference]
    # A scale of counts has no use for halves.
    high = max(numbers if series.percent else [4, *numbers], default=0.0)
    # Bars stand on zero; lines and dots only where that does not press all of them together.
    low = min(numbers, default=0.0)
    low = 0.0 if series.shape == "bars" or low < high / 2 else low
    marks = scale(low, high, 4 if bottom - top > 60 else 2)

    def y(number: float) -> float:
        return round(bottom - (number - marks[0]) / (marks[-1] - marks[0]) * (bottom - top), 1)

    panel = Panel(
        series.label,
        top,
        bottom,
        [(y(mark), tick_label(mark, marks[1] - marks[0], percent=series.percent)) for mark in marks],
        None if series.reference is None else y(series.reference),
    )
    points = [(round(x, 1), None if number is None else y(number)) for x, number in zip(xs, series.values, strict=True)]
    if series.shape == "bars":
        tips = series.tips or [""] * len(points)
        panel.bars = [
            (round(x - 0.4 * step, 1), top_, round(0.8 * step, 1), round(bottom - top_, 1), tip)
            for (x, top_), tip in zip(points, tips, strict=True)
            if top_ is not None
        ]
        return panel
    if "dots" in series.shape:
        panel.dots = [(x, y_) for x, y_ in points if y_ is not None]
    if "line" in series.shape:
        for run in _runs(points, step):
            if len(run) > 1:
                panel.lines.append(" ".join(f"{x:g},{y_:g}" for x, y_ in run))
            elif series.shape == "line":
                panel.dots += run
    panel.whiskers = [
        (x, y(interval[1]), y(interval[0]))
        for (x, _), interval in zip(points, series.intervals, strict=False)
        if interval is not None
    ]
    return panel


def _runs(points: list[tuple[float, float | None]], step: float) -> list[list[tuple[float, float]]]:
    """Points that follow each other without a gap, together."""
    runs: list[list[tuple[float, float]]] = []
    before = -math.inf
    for x, y in points:
        if y is not None:
            if x - before > 1.5 * step:
                runs.append([])
            runs[-1].append((x, y))
            before = x
    return runs
