"""The raw fields of requests as columns, after they have been scored: to be counted, and to be kept."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from features.parse import TIME
from features.schema import Schema
from features.times import parse_times
from serving.rows import EXAMPLES, PACKED, Inputs


def raw_frame(several: Sequence[Inputs], schema: Schema) -> pl.DataFrame:
    """The raw fields of requests, one after another: numbers Float64, others String, null where missing.

    Rows that their caller encoded have none: all of theirs are null.
    """
    columns = [_columns(inputs, schema) for inputs in several]
    series: list[pl.Series] = []
    for name in schema.number_fields:
        values: list[float] = []
        for inputs, each in zip(several, columns, strict=True):
            values += each.get(name) or [math.nan] * inputs.rows
        series.append(pl.Series(name, values, pl.Float64).fill_nan(None))
    for name in schema.text_fields:
        texts: list[str | bytes] = []
        for inputs, each in zip(several, columns, strict=True):
            texts += each.get(name) or [""] * inputs.rows
        # A text that is no UTF-8 has no place in a column; no training row had one either.
        whole = [text if isinstance(text, str) else text.decode("utf-8", "replace") for text in texts]
        series.append(pl.Series(name, whole, pl.String).replace("", None))
    return pl.DataFrame(series)


def with_times(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The same with the seconds that fields of the time come from."""
    if schema.time is None or not schema.time.derive:
        return frame
    return frame.with_columns(parse_times(frame[schema.time.name], schema.time.format).alias(TIME))


def _columns(inputs: Inputs, schema: Schema) -> dict[str, list[Any]]:
    if inputs.signature == PACKED:
        return {}
    if inputs.signature != EXAMPLES:
        return dict(inputs.columns)
    from tensorflow.core.example.example_pb2 import Example  # pyright: ignore

    rows = [Example.FromString(each).features.feature for each in inputs.columns["examples"]]
    numbers = {name: [_first(row, name, math.nan) for row in rows] for name in schema.number_fields}
    texts = {name: [_first(row, name, b"") for row in rows] for name in schema.text_fields}
    return {**numbers, **texts}


def _first(row: Any, name: str, absent: float | bytes) -> Any:
    """The value of a feature, which may be absent or empty."""
    if name not in row:
        return absent
    kind = row[name].WhichOneof("kind")
    values = getattr(row[name], kind).value if kind else ()
    return values[0] if values else absent
