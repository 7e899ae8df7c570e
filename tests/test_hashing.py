"""Hashes against values kept in a file and against TensorFlow's, tokens of numbers worked out with `math`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars_hash import NonCryptographicHashingNameSpace

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from features.hashing import bucket_counts, log_square_thresholds, to_buckets
from features.schema import Categorical, Cross, Numeric, Schema

import tensorflow as tf  # isort: skip

# FarmHash64 fingerprints. Those of "1footrue", "2applefalse" and "3true" are in the manual of a SQL database that
# has the function; all are also what TensorFlow's Fingerprint operation gives.
GOLDEN: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden_hashes.json").read_text(encoding="utf-8"))
TEXTS: list[str] = [entry["text"] * entry["repeat"] for entry in GOLDEN]
HASHES: list[int] = [int(entry["farmhash64"]) for entry in GOLDEN]
BUCKET_COUNTS = (2, 97, 1000, 2**18, 2**20 + 7, 2**30)

CROSSED = Schema(
    numeric=(Numeric(name="n"), Numeric(name="plain", token="none")),
    categorical=(Categorical(name="a", buckets=10), Categorical(name="b", buckets=1000), Categorical(name="c")),
    crosses=(Cross(fields=("a", "b"), buckets=5000), Cross(fields=("c", "a", "b"), buckets=2**30)),
)


def of_whole_blocks(text: str) -> bool:
    """Whether a string is two or more blocks of 64 bytes, which libraries are known to hash in different ways."""
    length = len(text.encode())
    return length > 64 and length % 64 == 0


def crossed_frame(a: str | None, b: str | None, c: str | None) -> pl.DataFrame:
    """One parsed row with these categories."""
    columns = {"n": [1.0], "plain": [1.0], "a": [a], "b": [b], "c": [c]}
    types = {"n": pl.Float64, "plain": pl.Float64, "a": pl.String, "b": pl.String, "c": pl.String}
    return pl.DataFrame(columns, schema=types)


def token_finder() -> Callable[[float], int]:
    """The token that the feature line gives to a number."""
    schema = Schema(numeric=(Numeric(name="n"),))

    def token(value: float) -> int:
        return int(to_buckets(pl.DataFrame({"n": [value]}, schema={"n": pl.Float64}), schema)["n"][0])

    return token


def test_golden_values_cover_short_long_and_unicode_strings() -> None:
    """The file has what it is meant to have, each once."""
    lengths = {len(text.encode()) for text in TEXTS}
    assert len(set(TEXTS)) == len(TEXTS) >= 20
    assert {1, 8, 64, 128, 200, 10_000} <= lengths
    assert any(len(text) != len(text.encode()) for text in TEXTS)


def test_published_fingerprints_are_among_the_golden_values() -> None:
    """As signed 64-bit integers they stand in the manual's example."""
    published = {"1footrue": -1541654101129638711, "2applefalse": 2794438866806483259, "3true": -4880158226897771312}
    kept = dict(zip(TEXTS, HASHES, strict=True))
    assert {text: kept[text] for text in published} == {text: code % 2**64 for text, code in published.items()}


def test_polars_hash_gives_the_golden_values() -> None:
    """All 64 bits; strings of whole 64-byte blocks are `features.hashing`'s to get right and are in the tests below."""
    known = {text: code for text, code in zip(TEXTS, HASHES, strict=True) if not of_whole_blocks(text)}
    found = pl.DataFrame({"text": list(known)}).select(NonCryptographicHashingNameSpace(pl.col("text")).farmhash64())
    assert len(known) >= 25
    assert found["text"].to_list() == list(known.values())


@pytest.mark.parametrize("buckets", BUCKET_COUNTS)
def test_tensorflow_gives_the_golden_values(buckets: int) -> None:
    """Its bucket is the unsigned remainder."""
    found = tf.strings.to_hash_bucket_fast([text.encode() for text in TEXTS], buckets)
    assert found.numpy().tolist() == [code % buckets for code in HASHES]


@pytest.mark.parametrize("buckets", BUCKET_COUNTS)
def test_bucket_of_a_category_is_the_remainder_of_its_hash(buckets: int) -> None:
    """In the feature line as in the libraries."""
    schema = Schema(categorical=(Categorical(name="a", buckets=buckets),))
    found = to_buckets(pl.DataFrame({"a": TEXTS}), schema)["a"]
    assert found.tolist() == [code % buckets for code in HASHES]


@pytest.mark.parametrize("length", [63, 64, 65, 127, 128, 129, 191, 192, 256, 1024, 10_240])
def test_strings_around_whole_blocks_have_tensorflows_bucket(length: int) -> None:
    """FarmHash works in blocks of 64 bytes, and the last one is where implementations slip."""
    schema = Schema(categorical=(Categorical(name="a", buckets=2**30),))
    texts = [("0123456789abcdefg" * 700)[start : start + length] for start in range(5)]
    found = to_buckets(pl.DataFrame({"a": texts}), schema)["a"]
    assert found.tolist() == tf.strings.to_hash_bucket_fast(texts, 2**30).numpy().tolist()


def test_cross_of_whole_blocks_has_tensorflows_bucket() -> None:
    """63 bytes, the separator and 64 more are two blocks."""
    found = to_buckets(crossed_frame("a" * 63, "b" * 64, None), CROSSED)
    assert int(found["a_x_b"][0]) == int(tf.strings.to_hash_bucket_fast(b"a" * 63 + b"\x1f" + b"b" * 64, 5000))


def test_empty_and_absent_categories_have_the_place_after_the_buckets() -> None:
    """The two mean the same."""
    schema = Schema(categorical=(Categorical(name="a", buckets=17),))
    found = to_buckets(pl.DataFrame({"a": ["", None, "05db9164"]}), schema)["a"]
    assert found.tolist() == [17, 17, HASHES[TEXTS.index("05db9164")] % 17]


def test_tokens_of_small_numbers_are_those_worked_out_by_hand() -> None:
    """Every integer from -1 to 3 has one of its own; what is below -1 shares the first."""
    token = token_finder()
    found = {value: token(value) for value in (-5, -2, -1, 0, 1, 2, 3)}
    assert found == {-5: 0, -2: 0, -1: 1, 0: 2, 1: 3, 2: 4, 3: 5}


def test_tokens_follow_the_squared_logarithm() -> None:
    """From 3, whose floor(ln(x)^2) is 1, on the token grows as floor(ln(x)^2) does."""
    numbers = np.arange(3, 100_001, dtype=np.float64)
    found = np.searchsorted(log_square_thresholds(), numbers, side="right")
    expected = [5 + math.floor(math.log(x) ** 2) - 1 for x in range(3, 100_001)]
    assert found.tolist() == expected


def test_thresholds_are_whole_distinct_and_ascending() -> None:
    """A sorted search needs them so."""
    thresholds = log_square_thresholds()
    assert (np.diff(thresholds) > 0).all()
    assert (thresholds == np.floor(thresholds)).all()


def test_numbers_beyond_two_to_the_31_share_the_last_token() -> None:
    """The last jump lies below 2^31, so nothing that follows has a token of its own."""
    token = token_finder()
    last = len(log_square_thresholds())
    assert [token(2.0**31), token(1e30), token(1.7e308)] == [last, last, last]
    assert token(1000.0) < last


def test_missing_number_has_the_place_after_the_tokens() -> None:
    """The missing token is none that a number can have."""
    schema = Schema(numeric=(Numeric(name="n"),))
    found = to_buckets(pl.DataFrame({"n": [None, 1e300]}, schema={"n": pl.Float64}), schema)["n"]
    assert found.tolist() == [bucket_counts(schema)["n"], bucket_counts(schema)["n"] - 1]


def test_fields_are_listed_as_numbers_then_categories_then_crosses() -> None:
    """Fields without a token get no id."""
    tokens = len(log_square_thresholds()) + 1
    expected = {"n": tokens, "a": 10, "b": 1000, "c": 2**18, "a_x_b": 5000, "c_x_a_x_b": 2**30}
    counted = bucket_counts(CROSSED)
    assert counted == expected
    assert list(counted) == list(expected)


def test_cross_is_the_hash_of_its_parts_joined_by_a_unit_separator() -> None:
    """As TensorFlow hashes the joined text."""
    found = to_buckets(crossed_frame("x", "y", "z"), CROSSED)
    assert int(found["a_x_b"][0]) == int(tf.strings.to_hash_bucket_fast(b"x\x1fy", 5000))
    assert int(found["c_x_a_x_b"][0]) == int(tf.strings.to_hash_bucket_fast(b"z\x1fx\x1fy", 2**30))


def test_cross_tells_apart_where_its_parts_end() -> None:
    """("a", "bc") and ("ab", "c") are two values."""
    one, other = to_buckets(crossed_frame("a", "bc", "z"), CROSSED), to_buckets(crossed_frame("ab", "c", "z"), CROSSED)
    assert one["c_x_a_x_b"][0] != other["c_x_a_x_b"][0]


@pytest.mark.parametrize("nothing", [None, ""])
def test_cross_is_missing_when_all_its_parts_are(nothing: str | None) -> None:
    """The third part is present, so only the cross of the two others is missing."""
    found = to_buckets(crossed_frame(nothing, nothing, "z"), CROSSED)
    assert int(found["a_x_b"][0]) == 5000
    assert int(found["c_x_a_x_b"][0]) == int(tf.strings.to_hash_bucket_fast(b"z\x1f\x1f", 2**30))


@pytest.mark.parametrize(("a", "b", "joined"), [("x", None, b"x\x1f"), (None, "y", b"\x1fy"), ("", "y", b"\x1fy")])
def test_cross_with_one_part_present_is_not_missing(a: str | None, b: str | None, joined: bytes) -> None:
    """Which part is missing makes a difference."""
    found = to_buckets(crossed_frame(a, b, None), CROSSED)
    assert int(found["a_x_b"][0]) == int(tf.strings.to_hash_bucket_fast(joined, 5000))
