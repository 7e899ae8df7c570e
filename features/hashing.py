"""From a raw value to its bucket: FarmHash64 for strings, a sorted search for numbers.

A field with n buckets has one more place, n, for a missing value, so that everything after is one gather.
"""

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.farmhash import farmhash64
from features.schema import Schema

# Between the values of a cross. Not a character that logs use, so ("a", "bc") and ("ab", "c") stay apart.
CROSS_SEPARATOR = "\x1f"

# floor(ln(x)^2) of every integer up to 2^31 takes 462 values; what is larger shares the last one.
_LARGEST_TOKEN_INPUT = 2**31


def log_square_thresholds() -> NDArray[np.float64]:
    """Integers at which the token of a number changes, ascending; a number's token is how many are <= it.

    Below 3 every integer from -1 has a token of its own; from 3 on the token follows floor(ln(x)^2), the
    tokenisation of the Criteo challenge's winners and of the BARS benchmark's x4 setting.
    """
    small = [-1, 0, 1, 2, 3]
    last = int(math.log(_LARGEST_TOKEN_INPUT) ** 2)
    # The least integer x with ln(x)^2 >= k. 3 and 4 share k = 1, so the jumps start at k = 2.
    jumps = [math.ceil(math.exp(math.sqrt(k))) for k in range(2, last + 1)]
    return np.array(sorted({*small, *jumps}), dtype=np.float64)


def bucket_counts(schema: Schema) -> dict[str, int]:
    """Buckets of every field that gets an id, by name, in the order of the ids: numeric tokens, categories, crosses."""
    tokens = len(log_square_thresholds()) + 1
    return {
        **{field.name: tokens for field in schema.numeric if field.token != "none"},
        **{field.name: field.buckets for field in schema.categorical},
        **{cross.name: cross.buckets for cross in schema.crosses},
    }


def to_buckets(frame: pl.DataFrame, schema: Schema) -> dict[str, NDArray[np.int64]]:
    """The bucket of every value, `[rows]` for each field that gets an id; a missing value's is the bucket count.

    `frame` has numeric columns as Float64 and categorical ones as String, null where missing.
    """
    texts = frame.select(
        *(pl.col(field.name) for field in schema.categorical),
        *(_joined(cross.fields).alias(cross.name) for cross in schema.crosses),
    )
    codes = farmhash64(texts)
    thresholds = log_square_thresholds()
    buckets: dict[str, NDArray[np.int64]] = {}
    for field in schema.numeric:
        if field.token != "none":
            values = numbers(frame, field.name)
            found = np.searchsorted(thresholds, values, side="right")
            buckets[field.name] = np.where(np.isnan(values), len(thresholds) + 1, found)
    counts = bucket_counts(schema)
    for name in texts.columns:
        # An empty string means the same as an absent one, in a log as in a request.
        missing = texts[name].is_null() | (texts[name] == "")
        code = (codes[name] % counts[name]).cast(pl.Int64)
        buckets[name] = code.set(missing, counts[name]).fill_null(counts[name]).to_numpy()
    return buckets


def numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column as float64 `[rows]`, NaN where missing."""
    values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    # TensorFlow takes numbers below the smallest normal one, 2e-308, for zero; so that tokens agree, so does this.
    return np.where(np.abs(values) < np.finfo(np.float64).tiny, 0.0, values)


def _joined(fields: tuple[str, ...]) -> pl.Expr:
    # Missing only when all parts are: a present part beside a missing one is a fact worth an id.
    parts = [pl.col(name).fill_null("") for name in fields]
    anything = pl.any_horizontal([part != "" for part in parts])
    return pl.when(anything).then(pl.concat_str(parts, separator=CROSS_SEPARATOR)).otherwise(pl.lit(""))
