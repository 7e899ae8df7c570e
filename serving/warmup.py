"""Warm-up requests in a SavedModel: TensorFlow Serving answers them before its first client comes.

All values are made up: no row of anybody's log is in a model.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from features.schema import Schema, Time
from features.spec import FeatureSpec
from features.times import HOUR, UNIX, UNIX_MS

# Where TensorFlow Serving looks for it in a SavedModel's folder.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# Of a request alone, and of a full batch: TensorFlow prepares for each shape when it first comes.
ROWS = (1, 64)

_NUMBERS = (3.0, 0.0, float("nan"), 120.0, 1.0)
_SOME_SECOND = 1_700_000_000


def write_warmup(folder: Path, spec: FeatureSpec, name: str = "ctr") -> None:
    """Writes a request of each size in `ROWS` for each signature into the SavedModel `folder`, to the model `name`."""
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for rows in ROWS:
            for signature, inputs in _requests(spec, rows).items():
                writer.write(_prediction_log(name, signature, inputs))


def made_up_columns(schema: Schema, rows: int) -> dict[str, list[Any]]:
    """Raw fields by name, `[rows]` each: made-up values, of which about one in five is missing (NaN, "")."""
    columns: dict[str, list[Any]] = {}
    for i, field in enumerate(schema.number_fields):
        columns[field] = [_NUMBERS[(row + i) % len(_NUMBERS)] for row in range(rows)]
    for i, field in enumerate(schema.text_fields):
        columns[field] = ["" if (row + i) % 5 == 4 else f"value {(row + i) % 7}" for row in range(rows)]
    if schema.time and schema.time.name in columns:
        columns[schema.time.name] = [_time(schema.time, row) for row in range(rows)]
    return columns


def _time(time: Time, row: int) -> str:
    second = _SOME_SECOND + row * HOUR
    if time.format in (UNIX, UNIX_MS):
        return str(second * 1000 if time.format == UNIX_MS else second)
    return datetime.fromtimestamp(second, UTC).strftime(time.format)


def _requests(spec: FeatureSpec, rows: int) -> dict[str, dict[str, Any]]:
    """The inputs of each signature by name."""
    columns = made_up_columns(spec.schema, rows)
    numbers = {name: np.array(columns[name], np.float64) for name in spec.schema.number_fields}
    texts = {name: np.array([value.encode() for value in columns[name]]) for name in spec.schema.text_fields}
    integers = {field.name for field in spec.schema.numeric if field.kind == "integer"}
    examples = [_example(dict(zip(columns, row, strict=True)), integers) for row in zip(*columns.values(), strict=True)]
    ids = np.arange(rows)[:, None] % np.array(spec.sizes)
    return {
        "serving_default": {**numbers, **texts},
        "serialize": {"examples": np.array(examples, object)},
        "packed": {"ids": ids.astype(np.int32), "dense": np.zeros((rows, len(spec.dense_fields)), np.float32)},
    }


def _example(row: dict[str, Any], integers: set[str]) -> bytes:
    """A serialised tf.Example, in which a value that is missing has no feature."""
    features: dict[str, Any] = {}
    for name, value in row.items():
        if value == "" or (isinstance(value, float) and np.isnan(value)):
            continue
        if isinstance(value, str):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        elif name in integers:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def _prediction_log(name: str, signature: str, inputs: dict[str, Any]) -> bytes:
    """A serialised PredictionLog, without the classes of tensorflow-serving-api, which serving can do without.

    PredictionLog{predict_log = 6 {request = 1 {model_spec = 1 {name = 1, signature_name = 3}, inputs = 2: a map}}}
    """
    request = _field(1, _field(1, name.encode()) + _field(3, signature.encode()))
    for key, values in inputs.items():
        tensor = tf.make_tensor_proto(values).SerializeToString(deterministic=True)
        request += _field(2, _field(1, key.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, or of a message, in protobuf's wire format: number and type 2, length, content."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
