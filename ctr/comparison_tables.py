"""The tables of a comparison's page, as people read them: a row an arm, or a segment."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from features.html import count

# What is shown where there is no number.
DASH = "\N{EN DASH}"
_CALIBRATIONS: Mapping[str, str] = {"isotonic": "isotonic regression", "platt": "Platt's"}


class Column(NamedTuple):
    """A column of a table with a row an arm: what it says of one, or a dash."""

    group: str
    name: str
    meaning: str
    cell: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Table:
    """Columns that say something, and what they say: a row an arm."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[str]]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings above the columns' own, and how many columns each spans."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def comparison_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The comparison as a table for people: columns, rows."""
    columns = ["arm", "log loss", "95 %", "normalised entropy", "AUC", "ECE", "churn", "models served"]
    rows: list[list[str]] = []
    for arm, about in result["arms"].items():
        loss, changed = about["log_loss"], about["churn"]
        rows.append(
            [
                arm,
                f"{loss['mean']:.5f}",
                f"{loss['low']:.5f} to {loss['high']:.5f}",
                f"{about['normalized_entropy']:.4f}",
                f"{about['auc']:.4f}",
                f"{about['ece']:.4f}",
                "-" if changed is None else f"{changed:.4f}",
                str(about.get("models_served", "-")),
            ]
        )
    return columns, rows


def nats(value: float | None, sign: str = "") -> str:
    """Log loss or a difference of two with five decimals; `sign` is + where those above 0 have theirs."""
    return DASH if value is None or not math.isfinite(value) else f"{value:{sign}.5f}"


def size(number: float | None) -> str:
    """Bytes in a unit that leaves one to three digits before the point."""
    if number is None:
        return DASH
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:.0f} B"


def _number(*keys: str, form: Callable[[float | None], str]) -> Callable[[Mapping[str, Any]], str]:
    """A cell of the number that stands under these keys, one in the other."""

    def cell(about: Mapping[str, Any]) -> str:
        value: Any = about
        for key in keys:
            value = (value or {}).get(key)
        return form(value)

    return cell


def _decimals(digits: int) -> Callable[[float | None], str]:
    return lambda value: DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(about: Mapping[str, Any]) -> str:
    return f"{nats(about['log_loss']['low'])} to {nats(about['log_loss']['high'])}"


def _over_click_rate(about: Mapping[str, Any]) -> str:
    predicted, rate = about.get("mean_prediction"), about.get("click_rate")
    return _decimals(3)(predicted / rate if predicted is not None and rate else None)


_COLUMNS = (
    Column("Log loss", "mean", "nats a row, mean over retrainings", _number("log_loss", "mean", form=nats)),
    Column("Log loss", "95 %", "what other rows would have given the same models", _interval),
    Column("Log loss", "spread", "standard deviation over retrainings", _number("log_loss", "spread", form=nats)),
    Column(
        "",
        "NE",
        "normalized entropy: log loss over that of predicting the click rate for every row",
        _number("normalized_entropy", form=_decimals(4)),
    ),
    Column("", "AUC", "chance that a click scores above another row", _number("auc", form=_decimals(4))),
    Column("", "GAUC", "AUC within the values of a field", _number("gauc", form=_decimals(4))),
    Column("Calibration", "ECE", "expected calibration error, 20 bins", _number("ece", form=_decimals(4))),
    Column("Calibration", "pred / rate", "mean prediction over click rate", _over_click_rate),
    Column("Churn", "mean", "mean |p1 - p2| of two retrainings", _number("churn", form=_decimals(4))),
    Column("Churn", "relative", "mean 2 |p1 - p2| / (p1 + p2)", _number("relative_churn", form=_decimals(4))),
    Column("Churn", "logit", "mean |logit p1 - logit p2|", _number("logit_churn", form=_decimals(4))),
    Column("Training", "seconds", "groups train at the same time", _number("costs", "seconds", form=_decimals(1))),
    Column("Training", "core-s", "core-seconds of all models", _number("costs", "core_seconds", form=_decimals(1))),
    Column("Training", "rows/s", "of all models together", _number("costs", "rows_per_second", form=count)),
    Column("Serving", "models", "that answer", _number("models_served", form=count)),
    Column("Serving", "tables", "size of the embedding tables", _number("costs", "table_bytes", form=size)),
    Column(
        "Serving",
        "µs/row",
        "microseconds a row, in large batches by one thread",
        _number("costs", "microseconds_per_row", form=_decimals(2)),
    ),
)


def figures(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    """All figures of each arm."""
    return _told(_COLUMNS, arms)


def _told(columns: Sequence[Column], arms: Mapping[str, Mapping[str, Any]]) -> Table:
    told = [column for column in columns if any(column.cell(about) != DASH for about in arms.values())]
    return Table(told, [(arm, [column.cell(about) for column in told]) for arm, about in arms.items()])


def calibration(arms: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Log loss and calibration error as trained, and after each way to calibrate."""
    known = {arm: about for arm, about in arms.items() if about.get("calibration")}
    if not known:
        return None
    methods: list[str] = list(dict.fromkeys(method for about in known.values() for method in about["calibration"]))
    columns = [
        Column("as trained", "log loss", "nats", _number("log_loss", "mean", form=nats)),
        Column("as trained", "ECE", "", _number("ece", form=_decimals(4))),
    ]
    for method in methods:
        group = _CALIBRATIONS.get(method, method)
        columns.append(Column(group, "log loss", "nats", _number("calibration", method, "log_loss", form=nats)))
        columns.append(Column(group, "ECE", "", _number("calibration", method, "ece", form=_decimals(4))))
    return _told(columns, known)


def settings(arms: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """The best settings that each arm's search found."""
    known = {arm: about for arm, about in arms.items() if about.get("search")}
    if not known:
        return None

    def setting(key: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda about: _setting_text(about["search"]["settings"].get(key))

    keys = list(dict.fromkeys(key for about in known.values() for key in about["search"]["settings"]))
    columns = [Column("", key, "", setting(key)) for key in keys]
    columns += [
        Column("search", "tried", "settings that were trained", _number("search", "trials", form=count)),
        Column("search", "log loss", "nats, on the validation part", _number("search", "log_loss", form=nats)),
    ]
    return _told(columns, known)


def _setting_text(value: object) -> str:
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def segments(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, list[str]]]:
    """Of each segment its name, its rows, and each arm's log loss."""
    known = [about["segments"] for about in arms.values() if about.get("segments")]
    names = list(dict.fromkeys(name for segments in known for name in segments))
    found: list[tuple[str, int, list[str]]] = []
    for name in names:
        rows = next(segments[name]["rows"] for segments in known if name in segments)
        found.append((name, rows, [nats(segments.get(name, {}).get("log_loss")) for segments in known]))
    return found
