"""The same transforms as TensorFlow operations, so that a SavedModel takes raw rows."""

# TensorFlow has no types worth the name.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from typing import Any

import numpy as np
import tensorflow as tf

from features.hashing import CROSS_SEPARATOR, QUANTILE_BUCKETS, bucket_counts, log_square_thresholds
from features.schema import Time
from features.spec import RARE, FeatureSpec
from features.times import DERIVED, FIRST_SECOND, LAST_SECOND, UNIX, UNIX_MS, derive, pieces, seconds_of


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
        """Raw fields by name, `[batch]` each: numbers float64, NaN for missing; others strings, "" for missing.

        The time is among them where fields come from it: a string, as in the log.
        """
        schema = self.spec.schema
        return {
            **{name: tf.TensorSpec([None], tf.float64, name) for name in schema.number_fields},
            **{name: tf.TensorSpec([None], tf.string, name) for name in schema.text_fields},
        }

    def encode(self, raw: dict[str, Any]) -> tuple[Any, Any]:
        """Raw fields (`raw_signature`) to ids int32 `[batch, id fields]` and dense float32 `[batch, dense fields]`."""
        return self._ids(raw), self._dense(raw)

    def known_ids(self, ids: Any) -> Any:
        """Ids from a caller `[batch, id fields]`, with those that a field does not have taken as rare."""
        return tf.where((ids >= 0) & (ids < self._sizes), ids, RARE)

    def _ids(self, raw: dict[str, Any]) -> Any:
        buckets = {
            **self._log_squares(raw),
            **self._quantiles(raw),
            **self._of_time(raw),
            **{f.name: _hashed(raw[f.name], f.buckets) for f in self.spec.schema.categorical},
            **{cross.name: self._crossed(raw, cross.fields, cross.buckets) for cross in self.spec.schema.crosses},
        }
        places = tf.stack([buckets[name] for name in self._buckets], axis=1) + self._starts
        return tf.gather(self.bucket_ids, places)

    def _log_squares(self, raw: dict[str, Any]) -> dict[str, Any]:
        names = [field.name for field in self.spec.schema.numeric if field.token == "log_square"]
        if not names:
            return {}
        thresholds = log_square_thresholds()
        values = tf.stack([raw[name] for name in names], axis=1)
        found = tf.reshape(
            tf.searchsorted(thresholds, tf.reshape(values, [-1]), side="right", out_type=tf.int64), tf.shape(values)
        )
        tokens = tf.where(tf.math.is_nan(values), tf.constant(len(thresholds) + 1, tf.int64), found)
        return dict(zip(names, tf.unstack(tokens, axis=1), strict=True))

    def _quantiles(self, raw: dict[str, Any]) -> dict[str, Any]:
        """As features.hashing.quantile_buckets."""
        names = [field.name for field in self.spec.schema.numeric if field.token == "quantile"]
        if not names:
            return {}
        values = tf.stack([raw[name] for name in names], axis=1)
        short = tf.cast(values, tf.float32)
        short = tf.where(tf.abs(short) < np.finfo(np.float32).tiny, tf.constant(0, tf.float32), short)
        bits = tf.cast(tf.bitcast(short, tf.int32), tf.int64)
        rising = tf.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + 2**31
        tokens = tf.where(tf.math.is_nan(values), tf.constant(QUANTILE_BUCKETS, tf.int64), rising // 2**16)
        return dict(zip(names, tf.unstack(tokens, axis=1), strict=True))

    def _of_time(self, raw: dict[str, Any]) -> dict[str, Any]:
        time = self.spec.schema.time
        if time is None or not time.derive:
            return {}
        seconds, real = _seconds(raw[time.name], time)
        return {name: tf.where(real, derive(name, seconds), DERIVED[name]) for name in time.derive}

    def _crossed(self, raw: dict[str, Any], fields: tuple[str, ...], buckets: int) -> Any:
        parts = [raw[name] for name in fields]
        anything = tf.reduce_any(tf.stack([part != "" for part in parts]), axis=0)
        return _hashed(tf.where(anything, tf.strings.join(parts, separator=CROSS_SEPARATOR), ""), buckets)

    def _dense(self, raw: dict[str, Any]) -> Any:
        names = list(self.spec.scales)
        if not names:
            some = next(iter(raw.values()))
            return tf.zeros([tf.shape(some)[0], 0], tf.float32)
        kinds = {field.name: field.dense for field in self.spec.schema.numeric}
        ranged = np.array([kinds[name] == "min_max" for name in names])
        values = tf.stack([raw[name] for name in names], axis=1)
        logs = tf.sign(values) * tf.math.log1p(tf.abs(values))
        shifts, spreads = (np.array(column) for column in zip(*self.spec.scales.values(), strict=True))
        scaled = (tf.where(ranged, values, logs) - shifts) / spreads
        # A maximum of NaN and 0 may be either; where a value is missing the unclipped one is kept.
        clipped = tf.where(tf.math.is_nan(scaled), scaled, tf.clip_by_value(scaled, 0.0, 1.0))
        return tf.cast(tf.where(ranged, clipped, scaled), tf.float32)


def _hashed(values: Any, buckets: int) -> Any:
    return tf.where(values == "", tf.constant(buckets, tf.int64), tf.strings.to_hash_bucket_fast(values, buckets))


def _seconds(texts: Any, time: Time) -> tuple[Any, Any]:
    """Seconds since 1970 of texts, and whether they are times of the format; as features.times.parse_times."""
    if time.format in {UNIX, UNIX_MS}:
        real = tf.strings.regex_full_match(texts, "[+-]?[0-9]{1,18}")
        whole = tf.strings.to_number(tf.where(real, texts, "0"), tf.int64)
        seconds = whole // 1000 if time.format == UNIX_MS else whole
        return seconds, real & (seconds >= FIRST_SECOND) & (seconds <= LAST_SECOND)
    pattern, places = pieces(time.format)
    fits = tf.strings.regex_full_match(texts, pattern)
    # Any text of the right length does where the pattern has not matched, since what it gives is not used.
    some = tf.where(fits, texts, "0" * max(start + length for start, length in places.values()))
    parts = {
        name: tf.strings.to_number(tf.strings.substr(some, start, length), tf.int64)
        for name, (start, length) in places.items()
    }
    seconds, real = seconds_of(parts)
    return seconds, fits & real
