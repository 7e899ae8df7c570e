"""Rows as requests give them, checked against the schema; missing fields and nulls are missing values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from features.errors import BadInput, did_you_mean
from features.schema import Schema


def check_row(row: object, schema: Schema, place: str) -> dict[str, Any]:
    """A row by field name, as a client sent it: numbers as float, categories as text, missing ones left out.

    Raises BadInput for an unknown field, naming the nearest, and for a value of the wrong type. `place` says which row.
    """
    if not isinstance(row, Mapping):
        raise BadInput(f"{place} is {type(row).__name__}, not an object of fields by name")
    numbers, texts = set(schema.number_fields), set(schema.text_fields)
    time = schema.time.name if schema.time else None
    checked: dict[str, Any] = {}
    for name, value in row.items():
        if name in numbers:
            checked[name] = _number(value, name, place)
        elif name in texts:
            bare = _scalar(value)
            # A time such as 14102100 is a whole number to JSON.
            checked[name] = _text(str(bare) if name == time and type(bare) is int else bare, name, place)
        else:
            raise BadInput(f"{place} has unknown field '{name}': {did_you_mean(str(name), [*numbers, *texts])}")
    return checked


def to_columns(rows: Sequence[Mapping[str, Any]], schema: Schema) -> dict[str, list[Any]]:
    """Checked rows as columns `[rows]`: NaN and "" where a field is missing."""
    numbers = {name: [row.get(name, math.nan) for row in rows] for name in schema.number_fields}
    texts = {name: [row.get(name, "") for row in rows] for name in schema.text_fields}
    return {**numbers, **texts}


def _number(value: object, name: str, place: str) -> float:
    value = _scalar(value)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{place}: field '{name}' is {value!r}, not a number")
    try:
        return float(value)
    except OverflowError:
        raise BadInput(f"{place}: field '{name}' is larger than any floating-point number") from None


def _text(value: object, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{place}: field '{name}' is {value!r}, not a string")
    return value


def _scalar(value: object) -> object:
    # TensorFlow Serving's clients often wrap a scalar in a list of one.
    return value[0] if isinstance(value, list) and len(value) == 1 else value
