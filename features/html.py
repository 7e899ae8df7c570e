"""The reports as pages that people open: one file each, with its plots inside, that needs nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.drift import MOVED
from features.plots import Interval, Plot, Series, draw
from features.times import DAY

_HERE = Path(__file__).parent

# A click rate of fewer rows says more of chance than of clicks, and is not drawn.
_FEW_ROWS = 30
# Rows that are worked out from a share may be off by rounding.
_ENOUGH = _FEW_ROWS - 0.5

# Characters of a value or name: in tables, below an axis, and where the whole text is asked for.
_SHORT, _TICK, _LONG = 32, 11, 500

# What is shown where there is no number.
_DASH = "\N{EN DASH}"

# Labels below the axis of a plot of values, where each may have its own or not.
_TICKS = 20

_RATE = "Click rate"

# What is shown of a moment like 2014-10-21 09:00:00.
_DATE, _CLOCK, _DATE_AND_CLOCK = slice(5, 10), slice(11, 16), slice(5, 16)

# Characters that draw nothing or break lines are shown by their pictures.
_PICTURES = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}


def write_html(described: dict[str, Any], path: Path, *, title: str) -> None:
    """Writes the page of a report by `features.report.report`; `title` names the log."""
    fields: dict[str, dict[str, Any]] = described["fields"]
    rows = sum(described["rows"].values())
    click_rate = _overall(described)
    first = next(iter(fields.values()), None)
    compared: list[str] = list(first["stability"]) if first else []
    moves = [
        {"name": name, "part": part, **about["stability"][part]}
        for name, about in fields.items()
        for part in compared
        if about["stability"][part]["moved"]
    ]
    write_page(
        path,
        _HERE / "report.html.jinja",
        title=title,
        report=described,
        rows=rows,
        click_rate=click_rate,
        parts=list(described["rows"]),
        compared=compared,
        moves=_farthest_first(moves),
        over_time=_log_over_time(described["over_time"], click_rate),
        values={name: _values(about, rows, click_rate) for name, about in fields.items()},
        followed={name: _field_over_time(about, described["over_time"], click_rate) for name, about in fields.items()},
        few_rows=_FEW_ROWS,
    )


def write_drift_html(found: dict[str, Any], path: Path, *, title: str) -> None:
    """Writes the page of how two logs differ, as `features.drift.drift` found; `title` names both."""
    fields = [{"name": name, **about} for name, about in found["fields"].items()]
    write_page(path, _HERE / "drift.html.jinja", title=title, found=found, fields=_farthest_first(fields))


def write_page(path: Path, template: Path, **figures: Any) -> None:
    """Writes the page that a template makes of figures; it may extend or import those beside this file."""
    # Names of files need not be proper text.
    path.write_text(render(template, **figures), encoding="utf-8", errors="replace")


def render(template: Path, **figures: Any) -> str:
    """The text that a template makes of figures, all of it escaped; one that it wants and does not get is an error."""
    # Only commands that write a page should pay for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment: Any = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({"percent": percent, "count": count, "index": index, "cut": cut})
    environment.globals.update({"SHORT": _SHORT, "TICK": _TICK, "LONG": _LONG, "MOVED": MOVED})
    return environment.get_template(template.name).render(**figures)


def percent(share: float | None) -> str:
    """A share for people: three digits or so, and never 0% or 100% unless it is."""
    if share is None or not math.isfinite(share):
        return _DASH
    if share in {0.0, 1.0}:
        return f"{share:.0%}"
    hundredths = 100 * share
    if hundredths < 0.001:
        return "<0.001%"
    if share < 1 and hundredths >= 99.95:
        return ">99.9%"
    return f"{hundredths:.{1 if hundredths >= 10 else 2 if hundredths >= 1 else 3}f}%"


def count(number: float | None) -> str:
    """A whole number with its thousands set apart."""
    return _DASH if number is None or not math.isfinite(number) else f"{number:,.0f}"


def index(number: float | None) -> str:
    """A stability index with three decimals."""
    if number is None or not math.isfinite(number):
        return _DASH
    return "<0.001" if 0 < number < 0.0005 else f"{number:.3f}"


def cut(text: str, most: int = _SHORT) -> str:
    """The text, or its beginning and an ellipsis, with line breaks and the like made visible."""
    kept = text if len(text) <= most else text[: most - 1] + "…"
    return kept.translate(_PICTURES)


def _farthest_first(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By stability index, those that have none last."""
    return sorted(fields, key=lambda about: math.inf if (far := about["stability_index"]) is None else -far)


def _overall(described: dict[str, Any]) -> float | None:
    """Click rate of all parts together."""
    counted = [(rate, described["rows"][part]) for part, rate in described["click_rate"].items() if rate is not None]
    rows = sum(n for _, n in counted)
    return sum(rate * n for rate, n in counted) / rows if rows else None


def _log_over_time(log: dict[str, Any], click_rate: float | None) -> list[Plot]:
    if not log["rows"]:
        return []
    ends = log["last"] or [None] * len(log["rows"])
    whole = [_moment(end) if end is not None else f"slice {at + 1}" for at, end in zip(log["slice"], ends, strict=True)]
    tips = [f"{when}: {count(n)} rows" for when, n in zip(whole, log["rows"], strict=True)]
    series = [Series("Rows of each slice", log["rows"], "bars", percent=False, tips=tips)]
    if log["click_rate"] is not None:
        series += _rates(log["click_rate"], log["rows"], click_rate, "line and dots")
    ticks, axis = _time_axis(log, 4)
    name = "over the log"
    return [draw([one], log["slice"], log["slices"], ticks, name=f"{one.label} {name}", axis=axis) for one in series]


def _values(about: dict[str, Any], rows: int, click_rate: float | None) -> Plot | None:
    """Shares and click rates of a field's values."""
    values: list[dict[str, Any]] = about["values"]
    if not values:
        return None
    tips = [f"{cut(v['value'])}: {percent(v['share'])}, click rate {percent(v['click_rate'])}" for v in values]
    series = [Series("Share of rows", [v["share"] for v in values], "bars", tips=tips)]
    series += _rates([v["click_rate"] for v in values], [v["share"] * rows for v in values], click_rate, "dots")
    every = -(-len(values) // _TICKS)
    in_order = about["kind"] in {"number", "time"}
    starts = [value["value"].split(" to ")[0] if in_order else value["value"] for value in values]
    labels = [((i + 0.5) / len(values), cut(starts[i], _TICK)) for i in range((every - 1) // 2, len(values), every)]
    axis = "value, or where its range begins" if in_order else "value, the most frequent first"
    name = "Share of rows and click rate by value"
    return draw(series, range(len(values)), len(values), labels, name=name, axis=axis, slanted=True)


def _field_over_time(
    about: dict[str, Any], log: dict[str, Any], click_rate: float | None
) -> list[tuple[str | None, Plot]]:
    """A small plot over the log for missing values, if there are any, and for each value that is followed."""
    ticks, axis = _time_axis(log, 2)
    plots: list[tuple[str | None, Plot]] = []
    for followed in about["over_time"]:
        shares: list[float | None] = followed["share"]
        if any(shares):
            rows = [(share or 0.0) * n for share, n in zip(shares, log["rows"], strict=True)]
            series = [Series("Share of rows", shares, "line")]
            # A line of a few scattered points says nothing.
            if followed["click_rate"] and 2 * sum(n > _ENOUGH for n in rows) > len(rows):
                series += _rates(followed["click_rate"], rows, click_rate, "line", margins=False)
            plot = draw(
                series, log["slice"], log["slices"], ticks, name="Over the log", axis=axis, width=180, height=42
            )
            plots.append((followed["value"], plot))
    return plots


def _rates(
    rates: Sequence[float | None], rows: Sequence[float], reference: float | None, shape: Any, *, margins: bool = True
) -> list[Series]:
    """The series of click rates that are of enough rows to be drawn; none if there is none."""
    enough = [rate if n > _ENOUGH else None for rate, n in zip(rates, rows, strict=True)]
    if not any(rate is not None for rate in enough):
        return []
    intervals = [None if rate is None else _interval(rate, n) for rate, n in zip(enough, rows, strict=True)]
    return [Series(_RATE, enough, shape, reference=reference, intervals=intervals if margins else ())]


def _interval(rate: float, rows: float) -> Interval:
    """The 95% confidence interval of a click rate (Wilson 1927), which stays within 0 and 1 for few clicks too."""
    z = 1.96
    middle = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    margin = z / (1 + z * z / rows) * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return max(middle - margin, 0.0), min(middle + margin, 1.0)


def _time_axis(log: dict[str, Any], most: int) -> tuple[list[tuple[float, str]], str]:
    """Ticks and name of an axis along the log: times where it has some, else how far into the log."""
    places, slices, seconds = log["slice"], log["slices"], log["last"]
    if seconds is None:
        return [(at / most, f"{at / most:.0%}") for at in range(most + 1)], "share of the log read"
    if not seconds:
        return [], "time"
    # Ticks stand away from both ends of the axis, where their labels have room.
    chosen = sorted({len(places) * (2 * at + 1) // (2 * most) for at in range(most)})
    days = max(seconds) // DAY - min(seconds) // DAY
    shown = _CLOCK if days == 0 else _DATE_AND_CLOCK if days < 5 and most > 2 else _DATE
    ticks = [((places[i] + 1) / slices, _moment(seconds[i])[shown]) for i in chosen]
    return ticks, f"time, {_moment(min(seconds))[:10]} and on" if most > 2 else "time"


def _moment(second: int) -> str:
    """A readable time of seconds since 1970, however far they are from it."""
    return str(np.datetime64(second, "s")).replace("T", " ")
