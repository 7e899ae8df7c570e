"""Second pass: buckets and transformed numbers to ids and dense values."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fit import transformed
from features.hashing import numbers, to_buckets
from features.spec import FeatureSpec

ID_PREFIX, DENSE_PREFIX = "id_", "dense_"


def encode_ids(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.int32]:
    """Ids `[rows, id fields]` of parsed rows: 0 missing, 1 rare or never seen, from 2 the kept buckets of a field."""
    buckets = to_buckets(frame, spec.schema)
    return np.stack([spec.ids[name][buckets[name]] for name in spec.id_fields], axis=1)


def encode_dense(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.float32]:
    """Dense values `[rows, dense fields]` of parsed rows, scaled as the spec says, NaN where missing."""
    values = transformed(numbers(frame, spec.schema), spec.schema)
    columns = [scaled(column, spec, name) for name, column in values.items()]
    return np.stack(columns, axis=1) if columns else np.zeros((frame.height, 0), np.float32)


def scaled(values: NDArray[np.float64], spec: FeatureSpec, name: str) -> NDArray[np.float32]:
    """`features.fit.transformed` values of one field, scaled: min_max to 0 to 1, whatever comes after training."""
    shift, spread = spec.scales[name]
    kind = next(field.dense for field in spec.schema.numeric if field.name == name)
    with np.errstate(over="ignore"):  # what is infinitely far off is at the end of the range
        moved = (values - shift) / spread
    return (np.clip(moved, 0, 1) if kind == "min_max" else moved).astype(np.float32)
