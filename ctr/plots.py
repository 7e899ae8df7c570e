"""The plots of a comparison, each an SVG picture that stands alone and, on a page, takes on the page's colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctr.metrics import Reliability, Roc
from features.html import cut, render
from features.plots import scale, tick_label

Array = NDArray[np.float64]
Point = tuple[float, float]

# By light and by dark; every second four arms are dashed. Told apart by nearly all eyes.
COLOURS = (("#0072b2", "#56b4e9"), ("#c04f00", "#f0a030"), ("#007a5a", "#3cc79b"), ("#9b3f86", "#e294cf"))

_TEMPLATE = Path(__file__).parent / "plot.svg.jinja"
_WIDTH, _PANEL = 420, 250
# Room left of the panel for numbers and right of it for half a label, above for the title and each line of legend, and
# below for the axis.
_LEFT, _RIGHT, _HEAD, _LINE, _FOOT = 52, 20, 26, 16, 40
# What a letter takes at most, and a name.
_LETTER, _NAME = 6.3, 24
# As in log loss, off 0 and 1.
_TINY = 1e-7
_BINS = 40
# Of predictions, when at least three lie within the axis.
_DECADES = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


class _Style(NamedTuple):
    name: str
    colour: str
    dash: str = ""


# The page's names and colours of clicks, and of what else is counted.
_CLICK, _SHARE = _Style("click", "#c04f00"), _Style("share", "#0072b2")


@dataclass(frozen=True)
class _Axis:
    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class _Mark:
    """Points that a line joins, or dots, or both; a filled one closes at the axis below."""

    style: _Style
    points: Sequence[Point]
    line: bool = True
    dots: bool = False
    filled: bool = False


def reliability_plot(arms: Mapping[str, Reliability]) -> str:
    """Click rate by mean prediction, of each arm's bins; on the diagonal predictions are what happens."""
    high = max(float(each.max()) for one in arms.values() for each in (one.mean_prediction, one.click_rate))
    axis = _numbers("mean prediction", [0.0, high], percent=True)
    marks = [
        _Mark(style, _points(one.mean_prediction, one.click_rate), dots=True)
        for one, style in zip(arms.values(), _styles(len(arms)), strict=True)
    ]
    end = axis.high
    return _draw("Reliability: click rate by prediction", axis, axis, marks, list(arms), [[(0.0, 0.0), (end, end)]])


def score_histogram(labels: Array, predictions: Array, weights: Array | None = None) -> str:
    """How predictions of clicks and of other rows are spread, as shares of either, on an axis even in log odds.

    Args:
        labels: of 0 and 1, `[rows]`, like `predictions` and the rows' `weights`, if any.
    """
    one = np.ones(len(labels)) if weights is None else weights
    odds = _log_odds(predictions)
    low, high = float(odds.min()), float(odds.max())
    if high - low < 1e-3:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    shown: list[tuple[str, _Mark]] = []
    for name, style, mass in (("other rows", _SHARE, (1 - labels) * one), ("clicks", _CLICK, labels * one)):
        if whole := float(mass.sum()):
            shares = np.histogram(odds, _BINS, (low, high), weights=mass)[0] / whole
            steps = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
            shown.append((name, _Mark(style, _points(np.repeat(edges, 2), steps), filled=True)))
    across = _Axis("prediction, even in log odds", low, high, _odds_ticks(low, high))
    up = _numbers("", [0.0, *(y for _, mark in shown for _, y in mark.points)], percent=True)
    marks, names = [mark for _, mark in shown], [name for name, _ in shown]
    return _draw("Share of clicks and of other rows by prediction", across, up, marks, names)


def roc_plot(arms: Mapping[str, Roc], aucs: Mapping[str, float]) -> str:
    """The share of clicks against that of other rows at or above each threshold, with each arm's AUC."""
    axis = _numbers("share of other rows", [0.0, 1.0])
    marks = [
        _Mark(style, _points(one.false_positive_rate, one.true_positive_rate))
        for one, style in zip(arms.values(), _styles(len(arms)), strict=True)
    ]
    names = [f"{cut(arm, _NAME)}, AUC {aucs[arm]:.4f}" for arm in arms]
    title = "ROC: share of clicks by share of other rows"
    return _draw(title, axis, axis, marks, names, [[(0.0, 0.0), (1.0, 1.0)]])


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Log loss (nats) by step; an arm without points keeps its colour for itself, and is left out.

    Raises ValueError if no arm has any point.
    """
    shown = [
        (arm, _Mark(style, [(float(step), loss) for step, loss in each], line=len(each) > 1, dots=True))
        for (arm, each), style in zip(curves.items(), _styles(len(curves)), strict=True)
        if each
    ]
    if not shown:
        raise ValueError(f"none of the {len(curves)} learning curves has a point to draw; leave the plot out")
    steps, losses = zip(*(point for _, mark in shown for point in mark.points), strict=True)
    across, up = _numbers("step", [0.0, *steps]), _numbers("", losses)
    title = "Validation log loss (nats) by step"
    return _draw(title, across, up, [mark for _, mark in shown], [arm for arm, _ in shown])


def differences_plot(base: str, differences: Sequence[Mapping[str, Any]]) -> str:
    """Each arm's log loss minus that of `base`, nats, with its 95 % intervals; left of 0 it is better.

    Args:
        differences: each the `arm`, its `mean`, and low and high over `rows` and `retrainings` (None without).
    """
    shown: list[_Mark] = []
    names: list[tuple[float, str]] = []
    ends = [0.0]
    for place, each in enumerate(reversed(differences)):
        height = place + 0.5
        names.append((height, cut(each["arm"], _NAME)))
        for style, lift, interval in ((_SHARE, 0.12, each["rows"]), (_CLICK, -0.12, each["retrainings"])):
            if interval is not None:
                low, high = interval
                shown.append(_Mark(style, [(low, height + lift), (high, height + lift)]))
                shown.append(_Mark(style, [(each["mean"], height + lift)], line=False, dots=True))
                ends += [low, high, each["mean"]]
    across = _numbers("nats; left of 0 is better", ends)
    up = _Axis("", 0.0, float(len(names)), names)
    legend = ["95 % over rows"]
    if any(each["retrainings"] is not None for each in differences):
        legend.append("over retrainings")
    left = max(_LEFT, math.ceil(12 + _LETTER * max(len(name) for _, name in names)))
    title = f"Log loss minus that of {cut(base, _NAME)}"
    zero = [(0.0, 0.0), (0.0, up.high)]
    height = 34 * len(names)
    return _draw(title, across, up, shown, legend, [zero], styles=[_SHARE, _CLICK], left=left, panel=height)


def _draw(
    title: str,
    across: _Axis,
    up: _Axis,
    marks: Sequence[_Mark],
    legend: Sequence[str],
    references: Sequence[Sequence[Point]] = (),
    *,
    styles: Sequence[_Style] | None = None,
    left: int = _LEFT,
    panel: int = _PANEL,
) -> str:
    """The picture; `styles` are those of the legend's entries when they are not one a mark."""
    right = _WIDTH - _RIGHT
    entries, lines = _legend(legend, styles or [mark.style for mark in marks])
    top = _HEAD + _LINE * lines + 10
    bottom = top + panel

    def place(point: Point) -> Point:
        x = left + (point[0] - across.low) / (across.high - across.low) * (right - left)
        y = bottom - (point[1] - up.low) / (up.high - up.low) * panel
        return round(x, 1), round(y, 1)

    def joined(points: Sequence[Point]) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in map(place, points))

    return render(
        _TEMPLATE,
        title=title,
        axis=across.title,
        width=_WIDTH,
        height=bottom + _FOOT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        legend=entries,
        rows=[(place((across.low, at))[1], label) for at, label in up.ticks],
        columns=[(place((at, up.low))[0], label) for at, label in across.ticks],
        references=[joined(points) for points in references],
        marks=[
            {
                "style": mark.style,
                "filled": mark.filled,
                "line": mark.line,
                "points": joined(mark.points),
                "dots": [place(point) for point in mark.points] if mark.dots else [],
            }
            for mark in marks
        ],
    )


def _legend(names: Sequence[str], styles: Sequence[_Style]) -> tuple[list[tuple[float, float, str, _Style]], int]:
    """Where each entry stands, and how many lines they take."""
    entries: list[tuple[float, float, str, _Style]] = []
    x, line = 4.0, 1
    for name, style in zip(names, styles, strict=False):
        text = cut(name, _NAME + len(", AUC 0.0000"))
        needed = 21 + _LETTER * len(text)
        if x > 4 and x + needed > _WIDTH:
            x, line = 4.0, line + 1
        entries.append((round(x, 1), _HEAD - 12 + _LINE * line + 4, text, style))
        x += needed + 14
    return entries, line


def _styles(count: int) -> list[_Style]:
    """One an arm."""
    kinds = len(COLOURS)
    return [_Style(f"arm-{at % kinds}", COLOURS[at % kinds][0], "5 3" * (at // kinds % 2)) for at in range(count)]


def _numbers(title: str, values: Sequence[float], *, percent: bool = False) -> _Axis:
    """An axis of round numbers that holds all values."""
    marks = scale(min(values), max(values), 5)
    ticks = [(mark, tick_label(mark, marks[1] - marks[0], percent=percent)) for mark in marks]
    return _Axis(title, marks[0], marks[-1], ticks)


def _odds_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round predictions within an axis of log odds."""
    least, most = (1 / (1 + math.exp(-end)) for end in (low, high))
    decades = [p for p in _DECADES if least <= p <= most]
    round_ones = [p for p in scale(least, most, 4) if max(least, _TINY) <= p <= min(most, 1 - _TINY)]
    return [(float(_log_odds(np.array([p]))[0]), f"{p:g}") for p in (decades if len(decades) > 2 else round_ones)]


def _log_odds(predictions: Array) -> Array:
    p = np.clip(predictions, _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p)


def _points(xs: Array, ys: Array) -> list[Point]:
    return list(zip(xs.tolist(), ys.tolist(), strict=True))
