"""Second pass: parsed rows to ids and dense values."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fit import signed_log
from features.hashing import numbers, to_buckets
from features.sources import ROW
from features.spec import FeatureSpec

ID_PREFIX, DENSE_PREFIX = "id_", "dense_"


def encode_ids(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.int32]:
    """Ids `[rows, id fields]`, numbered within a field: 0 missing, 1 rare or never seen, from 2 the kept buckets."""
    buckets = to_buckets(frame, spec.schema)
    return np.stack([spec.ids[name][buckets[name]] for name in spec.id_fields], axis=1)


def encode_dense(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.float32]:
    """Dense values `[rows, dense fields]`, standardised logs, NaN where missing."""
    columns = [(signed_log(numbers(frame, name)) - mean) / std for name, (mean, std) in spec.scales.items()]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((frame.height, 0), np.float32)


def encode(frame: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Parsed rows as a shard holds them: `row`, `label`, an `id_` column an id field, a `dense_` one a dense field.

    Columns by field rather than one list a row: they compress to about half, and any tool can read them.
    """
    ids, dense = encode_ids(frame, spec), encode_dense(frame, spec)
    arrays: dict[str, NDArray[np.generic]] = {
        "row": frame[ROW].to_numpy(),
        "label": frame[spec.schema.label].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        **{ID_PREFIX + name: ids[:, i] for i, name in enumerate(spec.id_fields)},
        **{DENSE_PREFIX + name: dense[:, i] for i, name in enumerate(spec.dense_fields)},
    }
    return pl.DataFrame({name: np.ascontiguousarray(values) for name, values in arrays.items()})
