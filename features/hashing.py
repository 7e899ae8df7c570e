"""From a raw value to its bucket: FarmHash64 for strings, a table for numbers, arithmetic for times.

A field with n buckets has one more place, n, for a missing value, so that everything after is one gather.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.farmhash import farmhash64
from features.parse import TIME
from features.schema import Numeric, Schema
from features.times import DERIVED, derive

# Between the values of a cross. Not a character that logs use, so ("a", "bc") and ("ab", "c") stay apart.
CROSS_SEPARATOR = "\x1f"

# The first 16 bits of a float32: its sign, its exponent and 7 bits of its digits, so neighbours are 0.8 % apart.
QUANTILE_BUCKETS = 2**16

# floor(ln(x)^2) of every integer up to 2^31 takes 462 values; what is larger shares the last one.
_LARGEST_TOKEN_INPUT = 2**31

# Numbers below this have their token looked up in a table, in a sixth of the time that a search takes.
_TABLE_END = 2**16
_TABLE_START = -2


@lru_cache
def log_square_thresholds() -> NDArray[np.float64]:
    """Integers at which the token of a number changes, ascending; a number's token is how many are <= it.

    Below 3 every integer from -1 has a token of its own; from 3 on the token follows floor(ln(x)^2), the
    tokenisation of the Criteo challenge's winners and of the BARS benchmark's x4 setting.
    """
    small = [-1, 0, 1, 2, 3]
    last = int(math.log(_LARGEST_TOKEN_INPUT) ** 2)
    # The least integer x with ln(x)^2 >= k. 3 and 4 share k = 1, so the jumps start at k = 2.
    jumps = [math.ceil(math.exp(math.sqrt(k))) for k in range(2, last + 1)]
    thresholds = np.array(sorted({*small, *jumps}), dtype=np.float64)
    thresholds.flags.writeable = False  # all callers share it
    return thresholds


def bucket_counts(schema: Schema) -> dict[str, int]:
    """Buckets of every field that gets an id, by name, in the order of the ids.

    These are the tokens of numbers, the fields that the time gives, the categories, and the crosses.
    """
    tokens = {"log_square": len(log_square_thresholds()) + 1, "quantile": QUANTILE_BUCKETS}
    return {
        **{field.name: tokens[field.token] for field in schema.numeric if field.token != "none"},
        **{name: DERIVED[name] for name in schema.derived},
        **{field.name: field.buckets for field in schema.categorical},
        **{cross.name: cross.buckets for cross in schema.crosses},
    }


def to_buckets(
    frame: pl.DataFrame, schema: Schema, values: Mapping[str, NDArray[np.float64]] | None = None
) -> dict[str, NDArray[np.integer]]:
    """The bucket of every value, `[rows]` for each field that gets an id; a missing value's is the bucket count.

    `frame` has numeric columns as Float64 and categorical ones as String, null where missing, and TIME if need be;
    `values` are its `numbers`, if they are known already.
    """
    values = numbers(frame, schema) if values is None else values
    buckets: dict[str, NDArray[np.integer]] = {}
    for field in schema.numeric:
        if field.token != "none":
            buckets[field.name] = _token(values[field.name], field)
    for name in schema.derived:
        seconds = frame[TIME].fill_null(0).to_numpy()
        missing = frame[TIME].is_null().to_numpy()
        buckets[name] = np.where(missing, DERIVED[name], derive(name, seconds))
    return buckets | _hashed(frame, schema)


def numbers(frame: pl.DataFrame, schema: Schema) -> dict[str, NDArray[np.float64]]:
    """The numeric columns by name, float64 `[rows]`, NaN where missing."""
    columns = frame.select(pl.col(schema.number_fields).cast(pl.Float64).fill_null(float("nan")))
    values = {name: columns[name].to_numpy() for name in schema.number_fields}
    for name, column in values.items():
        # TensorFlow takes numbers below the smallest normal one, 2e-308, for zero; so that tokens agree, so does this.
        small = (np.abs(column) < np.finfo(np.float64).tiny) & (column != 0)
        if small.any():
            values[name] = np.where(small, 0.0, column)
    return values


def quantile_buckets(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first 16 bits of each number as a float32, as an integer that rises with it; NaN gives QUANTILE_BUCKETS."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    # Those too small for a normal float32 are zero, and zero has one sign, as in TensorFlow.
    short = np.where(np.abs(short) < np.finfo(np.float32).tiny, np.float32(0), short)
    bits = short.view(np.int32).astype(np.int64)
    # Negative numbers have bits that rise with their size.
    rising = np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits) + 2**31
    return np.where(np.isnan(values), QUANTILE_BUCKETS, rising >> 16)


def quantile_edge(bucket: int) -> float:
    """The least number of a bucket of `quantile_buckets`."""
    rising = (bucket << 16) - 2**31
    bits = rising if rising >= 0 else (-1 - rising) | -(2**31)
    return float(np.array([bits], np.int64).astype(np.int32).view(np.float32)[0])


def _token(values: NDArray[np.float64], field: Numeric) -> NDArray[np.int64]:
    if field.token == "quantile":
        return quantile_buckets(values)
    # fmin takes the end of the table for NaN too, where it says that a value is missing.
    places = np.maximum(np.floor(np.fmin(values, _TABLE_END)), _TABLE_START).astype(np.int64)
    tokens = _token_table()[places - _TABLE_START]
    large = np.flatnonzero(values >= _TABLE_END)
    tokens[large] = np.searchsorted(log_square_thresholds(), values[large], side="right")
    return tokens


@lru_cache
def _token_table() -> NDArray[np.int64]:
    thresholds = log_square_thresholds()
    tokens = np.searchsorted(thresholds, np.arange(_TABLE_START, _TABLE_END), side="right")
    return np.append(tokens, len(thresholds) + 1)


def _hashed(frame: pl.DataFrame, schema: Schema) -> dict[str, NDArray[np.integer]]:
    texts = frame.select(
        *(pl.col(field.name) for field in schema.categorical),
        *(joined(cross.fields).alias(cross.name) for cross in schema.crosses),
    )
    if not texts.width:
        return {}
    counts = {name: n for name, n in bucket_counts(schema).items() if name in texts.columns}
    lengths = texts.select(
        pl.min_horizontal(pl.all().str.len_bytes().min()).alias("least"),
        pl.max_horizontal(pl.all().str.len_bytes().max()).alias("most"),
    ).row(0, named=True)
    # An empty string means the same as an absent one, in a log as in a request.
    if lengths["least"] == 0:
        texts = texts.with_columns(pl.all().replace("", None))
    codes = farmhash64(texts, longest=lengths["most"] or 0)
    places = codes.select((pl.col(name) % n).cast(pl.UInt32).fill_null(n) for name, n in counts.items())
    return {name: places[name].to_numpy() for name in counts}


def joined(fields: tuple[str, ...], separator: str = CROSS_SEPARATOR) -> pl.Expr:
    """The text of a cross of fields, "" where all of them are missing."""
    # A present part beside a missing one is a fact worth an id.
    parts = [pl.col(name).fill_null("") for name in fields]
    anything = pl.any_horizontal([part != "" for part in parts])
    return pl.when(anything).then(pl.concat_str(parts, separator=separator)).otherwise(pl.lit(""))
