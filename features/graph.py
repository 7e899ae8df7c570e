"""The same transforms as TensorFlow operations, so that a SavedModel takes raw rows."""

# TensorFlow has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from typing import Any

import numpy as np
import tensorflow as tf

from features.hashing import CROSS_SEPARATOR, bucket_counts, log_square_thresholds
from features.spec import RARE, FeatureSpec


class FeatureGraph(tf.Module):
    """Raw fields to ids and dense values, equal to `features.encode` bit for bit in the ids.

    The ids of all buckets stand in one vector, a field's after another's: one gather looks up all fields. It is a
    variable, not a constant, so that it travels in the SavedModel's variables and not in its graph.
    """

    def __init__(self, spec: FeatureSpec):
        super().__init__(name="features")
        self.spec = spec
        self._buckets = bucket_counts(spec.schema)
        lengths = [count + 1 for count in self._buckets.values()]
        self._starts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
        flat = np.concatenate([spec.ids[name] for name in spec.id_fields])
        self.bucket_ids = tf.Variable(tf.constant(flat), trainable=False, name="bucket_ids")
        self._sizes = np.array(spec.sizes, np.int32)

    @property
    def raw_signature(self) -> dict[str, tf.TensorSpec]:
        """Raw fields by name, `[batch]` each: numbers float64, NaN for missing; categories strings, "" for missing."""
        schema = self.spec.schema
        return {
            **{field.name: tf.TensorSpec([None], tf.float64, field.name) for field in schema.numeric},
            **{field.name: tf.TensorSpec([None], tf.string, field.name) for field in schema.categorical},
        }

    def encode(self, raw: dict[str, Any]) -> tuple[Any, Any]:
        """Raw fields (`raw_signature`) to ids int32 `[batch, id fields]` and dense float32 `[batch, dense fields]`."""
        return self._ids(raw), self._dense(raw)

    def known_ids(self, ids: Any) -> Any:
        """Ids from a caller `[batch, id fields]`, with those that a field does not have taken as rare."""
        return tf.where((ids >= 0) & (ids < self._sizes), ids, RARE)

    def _ids(self, raw: dict[str, Any]) -> Any:
        buckets = {
            **self._number_tokens(raw),
            **{f.name: _hashed(raw[f.name], f.buckets) for f in self.spec.schema.categorical},
            **{cross.name: self._crossed(raw, cross.fields, cross.buckets) for cross in self.spec.schema.crosses},
        }
        places = tf.stack([buckets[name] for name in self._buckets], axis=1) + self._starts
        return tf.gather(self.bucket_ids, places)

    def _number_tokens(self, raw: dict[str, Any]) -> dict[str, Any]:
        names = [field.name for field in self.spec.schema.numeric if field.token != "none"]
        if not names:
            return {}
        thresholds = log_square_thresholds()
        values = tf.stack([raw[name] for name in names], axis=1)
        found = tf.reshape(
            tf.searchsorted(thresholds, tf.reshape(values, [-1]), side="right", out_type=tf.int64), tf.shape(values)
        )
        tokens = tf.where(tf.math.is_nan(values), tf.constant(len(thresholds) + 1, tf.int64), found)
        return dict(zip(names, tf.unstack(tokens, axis=1), strict=True))

    def _crossed(self, raw: dict[str, Any], fields: tuple[str, ...], buckets: int) -> Any:
        parts = [raw[name] for name in fields]
        anything = tf.reduce_any(tf.stack([part != "" for part in parts]), axis=0)
        return _hashed(tf.where(anything, tf.strings.join(parts, separator=CROSS_SEPARATOR), ""), buckets)

    def _dense(self, raw: dict[str, Any]) -> Any:
        names = list(self.spec.scales)
        if not names:
            some = next(iter(raw.values()))
            return tf.zeros([tf.shape(some)[0], 0], tf.float32)
        values = tf.stack([raw[name] for name in names], axis=1)
        logs = tf.sign(values) * tf.math.log1p(tf.abs(values))
        means, stds = (np.array(column) for column in zip(*self.spec.scales.values(), strict=True))
        return tf.cast((logs - means) / stds, tf.float32)


def _hashed(values: Any, buckets: int) -> Any:
    return tf.where(values == "", tf.constant(buckets, tf.int64), tf.strings.to_hash_bucket_fast(values, buckets))
