"""Rows of Criteo's layout as each protocol has them."""

import base64
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]


def fields_of(values: Sequence[str]) -> dict[str, Any]:
    """A row by field, missing fields left out, from the values of a line without its label."""
    named = zip(NUMBERS + CATEGORIES, values, strict=True)
    return {name: int(value) if name in NUMBERS else value for name, value in named if value}


def example(row: dict[str, Any]) -> tf.train.Example:
    """As TensorFlow has it; whole numbers are integers there."""
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        if name in NUMBERS
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        for name, value in row.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def b64(row: dict[str, Any]) -> dict[str, str]:
    """The same, serialised, as JSON has it."""
    return {"b64": base64.b64encode(example(row).SerializeToString()).decode()}


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column by column, None for missing."""
    return {name: [row.get(name) for row in rows] for name in NUMBERS + CATEGORIES}


def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the Open Inference Protocol has them."""
    return [
        {"name": name, "shape": [len(rows)], "datatype": "FP64" if name in NUMBERS else "BYTES", "data": values}
        for name, values in columns(rows).items()
    ]
