"""Polars and TensorFlow encode the same rows to the same ids and dense values, whatever is in them."""

import datetime
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import ignore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from features.encode import encode_dense, encode_ids
from features.fit import Counts
from features.graph import FeatureGraph
from features.hashing import quantile_edge
from features.parse import TIME
from features.schema import Categorical, Cross, Numeric, Schema, Time, load_schema
from features.sources import open_sources, read_batches
from features.spec import FeatureSpec
from features.synthetic import synth
from features.times import parse_times

import tensorflow as tf  # isort: skip

SCHEMA = Schema(
    numeric=(
        Numeric(name="both", min_count=3),
        Numeric(name="decimal", kind="float", min_count=1),
        Numeric(name="dense_only", token="none"),
        Numeric(name="token_only", dense="none", min_count=20),
    ),
    categorical=(
        Categorical(name="few", buckets=7, min_count=1),
        Categorical(name="some", buckets=1000, min_count=2),
        Categorical(name="many", buckets=2**18, min_count=30),
    ),
    crosses=(
        Cross(fields=("few", "some"), buckets=500, min_count=3),
        Cross(fields=("many", "few", "some"), buckets=2**16, min_count=1),
    ),
)
NUMBERS = [field.name for field in SCHEMA.numeric]
CATEGORIES = [field.name for field in SCHEMA.categorical]
TYPES = {**dict.fromkeys(NUMBERS, pl.Float64), **dict.fromkeys(CATEGORIES, pl.String)}

Row = dict[str, float | str | None]


def generated_frame(count: int) -> pl.DataFrame:
    """Rows to fit on: some values often, some once, some missing."""
    random = np.random.default_rng(1)
    counts = np.floor(np.exp(random.normal(2, 3, (count, len(NUMBERS)))))
    choices = np.floor(40 * random.random((count, len(CATEGORIES))) ** 3).astype(int)
    numbers = {
        name: pl.Series([None if v < 1 else v - 3 for v in counts[:, i].tolist()], dtype=pl.Float64)
        for i, name in enumerate(NUMBERS)
    }
    texts = {
        name: [None if v == 5 else f"{v:08x}" for v in choices[:, i].tolist()] for i, name in enumerate(CATEGORIES)
    }
    return pl.DataFrame({**numbers, **texts}, schema=TYPES)


@cache
def fitted() -> FeatureSpec:
    """A spec fitted on generated rows."""
    counts = Counts(SCHEMA)
    counts.add(generated_frame(2000))
    return counts.spec()


@cache
def served() -> Any:
    """The encoder as a TensorFlow function of raw rows, as a SavedModel has it."""
    graph = FeatureGraph(fitted())
    return tf.function(graph.encode, input_signature=[graph.raw_signature])


def raw(frame: pl.DataFrame, schema: Schema) -> dict[str, Any]:
    """Parsed rows as a request has them: NaN and the empty string where something is missing."""
    numbers = {
        f.name: tf.constant([float("nan") if v is None else v for v in frame[f.name].to_list()], tf.float64)
        for f in schema.numeric
    }
    texts = {
        f.name: tf.constant([(v or "").encode() for v in frame[f.name].to_list()], tf.string)
        for f in schema.categorical
    }
    return {**numbers, **texts}


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Equal within a millionth, relative where values are large; missing in the same places."""
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


numbers = st.one_of(
    st.none(),
    st.integers(-6, 60).map(float),
    st.integers(-(10**30), 10**30).map(float),
    st.sampled_from([0.0, -0.0, 2.0**31, 2.0**31 - 1, -(2.0**63), 2.0**64, 1.7e308, -1.7e308]),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
)
texts = st.one_of(
    st.none(),
    st.just(""),
    st.integers(0, 45).map(lambda value: f"{value:08x}"),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    # 10 kB, of one to four bytes a character.
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).map(
        lambda part: part * (10_000 // len(part))
    ),
)
rows = st.fixed_dictionaries({**dict.fromkeys(NUMBERS, numbers), **dict.fromkeys(CATEGORIES, texts)})


def test_the_spec_under_test_has_kept_and_rare_buckets() -> None:
    """So that ids of all three sorts are compared."""
    spec = fitted()
    seen = encode_ids(generated_frame(2000), spec)
    assert spec.id_fields == ["both", "decimal", "token_only", *CATEGORIES, "few_x_some", "many_x_few_x_some"]
    assert min(spec.sizes) > 3
    for field in ("token_only", "many", "few_x_some"):
        assert {0, 1, 2} <= set(seen[:, spec.id_fields.index(field)].tolist())


@settings(
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(st.lists(rows, min_size=1, max_size=8))
def test_arbitrary_rows_are_encoded_alike(batch: list[Row]) -> None:
    """Ids are equal, dense values as close as float32 allows."""
    frame = pl.DataFrame(batch, schema=TYPES)
    ids, dense = served()(raw(frame, SCHEMA))
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, fitted()))
    assert_close(dense.numpy(), encode_dense(frame, fitted()))


def test_rows_seen_in_fitting_are_encoded_alike() -> None:
    """Kept ids, which arbitrary rows seldom have, are equal too."""
    frame = generated_frame(2000)
    ids, dense = served()(raw(frame, SCHEMA))
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, fitted()))
    assert_close(dense.numpy(), encode_dense(frame, fitted()))


@pytest.mark.parametrize("length", [64, 128, 192, 256, 640, 9984])
def test_values_of_whole_64_byte_blocks_are_encoded_alike(length: int) -> None:
    """The hash works in blocks of 64 bytes; arbitrary values seldom end with one."""
    texts = [("0123456789abcdefg" * 600)[start : start + length] for start in range(20)]
    schema = Schema(categorical=(Categorical(name="some", buckets=2**20, min_count=1),))
    frame = pl.DataFrame({"some": texts})
    counts = Counts(schema)
    counts.add(frame)
    ids, _ = FeatureGraph(counts.spec()).encode(raw(frame, schema))
    assert min(encode_ids(frame, counts.spec())[:, 0]) == 2
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, counts.spec()))


@pytest.mark.parametrize("tiny", [5e-324, -5e-324, -1e-310])
def test_subnormal_numbers_are_encoded_alike(tiny: float) -> None:
    """Numbers so near to zero that TensorFlow's threads take them for zero get the same ids on both sides."""
    frame = pl.DataFrame({name: [tiny] * 3 if name in NUMBERS else ["x"] * 3 for name in TYPES}, schema=TYPES)
    ids, dense = served()(raw(frame, SCHEMA))
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, fitted()))
    assert_close(dense.numpy(), encode_dense(frame, fitted()))


def test_batch_of_no_rows_is_encoded_alike() -> None:
    """Nothing in, nothing out, in the right shape."""
    frame = generated_frame(0)
    ids, dense = served()(raw(frame, SCHEMA))
    assert tuple(ids.shape) == encode_ids(frame, fitted()).shape == (0, 8)
    assert tuple(dense.shape) == encode_dense(frame, fitted()).shape == (0, 3)


def test_row_is_encoded_alike_alone_and_among_others() -> None:
    """A row's values depend on that row only."""
    frame = generated_frame(50)
    ids, dense = served()(raw(frame, SCHEMA))
    alone = [served()(raw(frame[i], SCHEMA)) for i in (0, 17, 49)]
    np.testing.assert_array_equal(np.concatenate([one[0].numpy() for one in alone]), ids.numpy()[[0, 17, 49]])
    np.testing.assert_array_equal(np.concatenate([one[1].numpy() for one in alone]), dense.numpy()[[0, 17, 49]])


def test_schema_without_dense_fields_is_encoded_alike() -> None:
    """Dense values of no field are no columns, for as many rows."""
    schema = Schema(categorical=(Categorical(name="some", buckets=100, min_count=1),))
    counts = Counts(schema)
    counts.add(generated_frame(100).select("some"))
    frame = generated_frame(300).select("some")
    ids, dense = FeatureGraph(counts.spec()).encode(raw(frame, schema))
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, counts.spec()))
    assert tuple(dense.shape) == encode_dense(frame, counts.spec()).shape == (300, 0)


def test_generated_log_is_encoded_alike(tmp_path: Path) -> None:
    """Rows of a log in Criteo's layout, parsed as they are for shards, with crosses."""
    log = tmp_path / "log.tsv"
    synth(log, rows=600, days=2, seed=5, truth=None, progress=ignore)
    schema = load_schema("criteo", buckets=5000, min_count=2, crosses=(("C1", "C2"), ("C6", "C9", "C14")))
    (batch,) = read_batches(open_sources([str(log)], schema), schema)
    counts = Counts(schema)
    counts.add(batch.frame.head(400))
    spec = counts.spec()
    ids, dense = FeatureGraph(spec).encode(raw(batch.frame, schema))
    np.testing.assert_array_equal(ids.numpy(), encode_ids(batch.frame, spec))
    assert_close(dense.numpy(), encode_dense(batch.frame, spec))


@pytest.mark.parametrize(("given_id", "taken"), [(-1, 1), (0, 0), (2, 2), (10**6, 1)])
def test_ids_that_a_field_does_not_have_are_taken_as_rare(given_id: int, taken: int) -> None:
    """A caller may send ids of another time."""
    ids = np.full((3, 8), given_id, np.int32)
    assert FeatureGraph(fitted()).known_ids(ids).numpy().tolist() == np.full((3, 8), taken).tolist()


# Quantiles, ranges and times

ALL_NUMBERS = (
    Numeric(name="ranked", kind="float", token="quantile", dense="min_max", quantiles=10),
    Numeric(name="ranked_log", kind="float", token="quantile", dense="log_standard", quantiles=3),
    Numeric(name="ranged", kind="float", dense="min_max", token="none"),
    Numeric(name="counted", dense="min_max", min_count=2),
)
TIME_FORMATS = ["unix", "unix_ms", "%y%m%d%H", "%Y-%m-%d %H:%M:%S", "[%d.%m.%Y] %Hh"]
FIRST_MOMENT, LAST_MOMENT = -(10**7), 3 * 10**9


def full_schema(format_: str) -> Schema:
    """Every kind of field that there is."""
    return Schema(
        time=Time(name="t", format=format_, derive=("day_of_week", "hour_of_day")),
        numeric=ALL_NUMBERS,
        categorical=(Categorical(name="few", buckets=7, min_count=2), Categorical(name="many", buckets=10**6)),
        crosses=(Cross(fields=("many", "few"), buckets=100, min_count=1),),
    )


def as_text(second: int, format_: str) -> str:
    """A moment as a log of this format has it."""
    if format_.startswith("unix"):
        return str(second * (1000 if format_ == "unix_ms" else 1))
    return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=second)).strftime(format_)


def full_frame(batch: list[Row], format_: str) -> pl.DataFrame:
    """Rows as they are parsed, with the time as text and as seconds."""
    types = {"t": pl.String, **dict.fromkeys([f.name for f in ALL_NUMBERS], pl.Float64), "few": pl.String}
    frame = pl.DataFrame(batch, schema={**types, "many": pl.String})
    return frame.with_columns(parse_times(frame["t"], format_).alias(TIME))


@cache
def full_fitted(format_: str) -> FeatureSpec:
    """A spec fitted on 2,000 rows, with weekdays and hours of 300 moments."""
    random = np.random.default_rng(2)
    seconds = random.integers(FIRST_MOMENT, LAST_MOMENT, 300).tolist()
    rows: list[Row] = [
        {
            "t": as_text(seconds[i % 300], format_),
            **{f.name: None if i % 9 == 0 else round(random.lognormal(1, 3)) * (-1.0) ** i for f in ALL_NUMBERS},
            "few": f"f{i % 5}",
            "many": f"m{i % 700}",
        }
        for i in range(2000)
    ]
    counts = Counts(full_schema(format_))
    counts.add(full_frame(rows, format_))
    return counts.spec()


@cache
def full_served(format_: str) -> Any:
    """Its graph, as in a SavedModel."""
    graph = FeatureGraph(full_fitted(format_))
    return tf.function(graph.encode, input_signature=[graph.raw_signature])


def assert_full_parity(batch: list[Row], format_: str) -> None:
    """Both paths give the same for these rows."""
    frame, spec = full_frame(batch, format_), full_fitted(format_)
    times = tf.constant([(text or "").encode() for text in frame["t"].to_list()], tf.string)
    ids, dense = full_served(format_)({**raw(frame, spec.schema), "t": times})
    np.testing.assert_array_equal(ids.numpy(), encode_ids(frame, spec))
    with np.errstate(over="ignore"):
        assert_close(dense.numpy(), encode_dense(frame, spec))


SLOW = [HealthCheck.data_too_large, HealthCheck.too_slow, HealthCheck.filter_too_much]
TINIEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
HARD_NUMBERS = [
    *(0.0, -0.0, math.nan, 5e-324, -5e-324, 1e-310, 2.3e-308, 1e-45, -1e-45, 1e-40, -1e-40, 1e-39),
    *(TINIEST, -TINIEST, np.nextafter(TINIEST, 0), TINIEST * 0.999, LARGEST, -LARGEST, LARGEST * (1 + 1e-8)),
    *(1e39, -1e39, 1e300, -1e300, 1.7e308, -1.7e308, 2.0**24, 2.0**24 + 1, -(2.0**63), 0.1, -0.1, 1 / 3),
]
hard_numbers = st.one_of(
    numbers,
    st.sampled_from(HARD_NUMBERS).map(float),
    st.floats(width=32, allow_infinity=False),
    # Where a bucket of quantiles ends, and next to it.
    st.tuples(st.integers(0, 2**16 - 1), st.integers(-1, 1)).map(lambda at: near_edge(*at)),
)


def near_edge(bucket: int, steps: int) -> float:
    """A number at the edge of a quantile bucket, or one float32 beside it; 0 where there is no such number."""
    edge = np.float32(quantile_edge(bucket))
    with np.errstate(over="ignore"):
        value = float(edge if steps == 0 else np.nextafter(edge, np.float32(math.copysign(math.inf, steps))))
    return value if math.isfinite(value) else 0.0


def times_of(format_: str) -> st.SearchStrategy[str | None]:
    """Good ones, some with characters changed, and any text."""
    good = st.integers(FIRST_MOMENT, LAST_MOMENT).map(lambda second: as_text(second, format_))
    return st.one_of(
        good,
        good,
        st.tuples(good, st.integers(0, 18), st.sampled_from("0139 -+x\n\x00é٣")).map(
            lambda change: change[0][: change[1]] + change[2] + change[0][change[1] + 1 :]
        ),
        st.none(),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.from_regex(r"[+-]?[0-9]{1,20}", fullmatch=True),
    )


@pytest.mark.parametrize("format_", TIME_FORMATS)
@settings(deadline=None, max_examples=25, database=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_arbitrary_rows_with_times_and_quantiles_are_encoded_alike(format_: str, data: st.DataObject) -> None:
    """Whatever is in any of their fields."""
    row = {**{f.name: hard_numbers for f in ALL_NUMBERS}, "few": texts, "many": texts, "t": times_of(format_)}
    assert_full_parity(data.draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=8)), format_)


def test_hard_numbers_are_encoded_alike() -> None:
    """Each by itself in every field, and all of them together; many times over, so that threads and vectors come in."""
    for value in map(float, HARD_NUMBERS):
        assert_full_parity([{f.name: value for f in ALL_NUMBERS} | {"t": "0", "few": "f1", "many": None}], "unix")
    batch: list[Row] = [
        {f.name: float(value) for f in ALL_NUMBERS} | {"t": "60", "few": None, "many": "m1"} for value in HARD_NUMBERS
    ]
    assert_full_parity(batch * 100, "unix")


def test_every_edge_between_quantile_buckets_is_seen_alike() -> None:
    """And the number on either side of it."""
    values = [near_edge(bucket, steps) for bucket in range(0, 2**16, 5) for steps in (-1, 0, 1)]
    assert_full_parity(
        [{f.name: value for f in ALL_NUMBERS} | {"t": "0", "few": None, "many": None} for value in values], "unix"
    )


@pytest.mark.parametrize("format_", TIME_FORMATS)
def test_every_hour_of_the_week_is_encoded_alike(format_: str) -> None:
    """With the ids that Python's calendar gives; a missing time has the missing id in both fields."""
    blank: Row = {**{f.name: 1.0 for f in ALL_NUMBERS}, "few": "f1", "many": "m1"}
    seconds = [1_600_000_000 + 3600 * hour for hour in range(168)]
    assert_full_parity([*({**blank, "t": as_text(s, format_)} for s in seconds), {**blank, "t": None}], format_)
    spec = full_fitted(format_)
    frame = full_frame([*({**blank, "t": as_text(s, format_)} for s in seconds), {**blank, "t": None}], format_)
    found = encode_ids(frame, spec)[:, [spec.id_fields.index(name) for name in ("day_of_week", "hour_of_day")]]
    moments = [datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=s) for s in seconds]
    assert found.tolist() == [*([2 + moment.weekday(), 2 + moment.hour] for moment in moments), [0, 0]]
