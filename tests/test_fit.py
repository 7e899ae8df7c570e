"""Fitting: which buckets are kept, under which ids, and how numbers are scaled; worked out by hand and with numpy."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import prepare_small, small_rows, whole, write_tsv

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from features.encode import encode_dense, encode_ids
from features.errors import BadInput
from features.fit import Counts, exact_sum, fit, signed_log
from features.schema import Categorical, Cross, Numeric, Schema
from features.split import Split

import tensorflow as tf  # isort: skip

SCHEMA = Schema(
    numeric=(Numeric(name="n", min_count=2), Numeric(name="plain", token="none")),
    categorical=(Categorical(name="a", buckets=5, min_count=2), Categorical(name="b", buckets=2**20, min_count=3)),
    crosses=(Cross(fields=("a", "b"), buckets=2**20, min_count=2),),
)
TYPES = {"label": pl.Float64, "n": pl.Float64, "plain": pl.Float64, "a": pl.String, "b": pl.String}


def frame(n: list[float | None], a: list[str | None], b: list[str | None]) -> pl.DataFrame:
    """Parsed rows; `plain` is the same as `n`."""
    return pl.DataFrame({"label": [0.0] * len(n), "n": n, "plain": n, "a": a, "b": b}, schema=TYPES)


def random_frame(rows: int, seed: int) -> pl.DataFrame:
    """Parsed rows with repeated, rare and missing values."""
    random = np.random.default_rng(seed)
    n = [None if v == 0 else float(v) ** 3 - 20 for v in random.integers(0, 12, rows).tolist()]
    a = [None if v == 0 else f"a{v}" for v in random.integers(0, 9, rows).tolist()]
    b = [None if v == 0 else f"b{v}" for v in random.integers(0, 60, rows).tolist()]
    return frame(n, a, b)


def counted(*frames: pl.DataFrame) -> Counts:
    """What the first pass counts over these batches."""
    return fit(iter(frames), SCHEMA)


def bucket(text: str, buckets: int) -> int:
    """The bucket of a string, by TensorFlow."""
    return int(tf.strings.to_hash_bucket_fast(text.encode(), buckets))


def test_kept_buckets_are_renumbered_from_two() -> None:
    """Of five buckets seen 5, 0, 2, 1 and 3 times, those seen twice or more are kept, in order; the last is missing."""
    counts = Counts(SCHEMA, rows=15)
    counts.buckets["a"] = np.array([5, 0, 2, 1, 3, 4])
    spec = counts.spec()
    assert spec.ids["a"].tolist() == [2, 1, 3, 1, 4, 0]
    assert spec.sizes[spec.id_fields.index("a")] == 5


def test_missing_values_are_no_bucket_however_many_there_are() -> None:
    """Where every value is missing there are two ids, missing and rare."""
    counts = Counts(SCHEMA, rows=9)
    counts.buckets["a"] = np.array([0, 0, 0, 0, 0, 9])
    spec = counts.spec()
    assert spec.ids["a"].tolist() == [1, 1, 1, 1, 1, 0]
    assert spec.sizes[spec.id_fields.index("a")] == 2


def test_buckets_are_counted_from_rows() -> None:
    """Each value at its bucket, the missing ones at the end."""
    counts = counted(frame([None] * 5, ["x", "x", "", None, "y"], ["x"] * 5))
    expected = [0] * 6
    expected[bucket("x", 5)] += 2
    expected[bucket("y", 5)] += 1
    expected[5] = 2
    assert counts.rows == 5
    assert counts.buckets["a"].tolist() == expected


def test_values_seen_often_enough_get_ids_in_the_order_of_their_buckets() -> None:
    """Of four values of `b` only those seen three times are kept."""
    values = ["p", "p", "p", "q", "q", "r", "r", "r", "r"]
    rows = frame([None] * 9, ["x"] * 9, list(values))
    spec = counted(rows).spec()
    first, second = sorted(["p", "r"], key=lambda text: bucket(text, 2**20))
    expected = {first: 2, second: 3, "q": 1}
    found = encode_ids(rows, spec)[:, spec.id_fields.index("b")]
    assert found.tolist() == [expected[text] for text in values]


def test_tokens_of_numbers_are_kept_by_count_too() -> None:
    """3 and 4 share a token, so it is seen twice; 100 is seen once and rare, 0 twice."""
    rows = frame([3.0, 4.0, 0.0, 0.0, 100.0, None], ["x"] * 6, ["x"] * 6)
    spec = counted(rows).spec()
    assert encode_ids(rows, spec)[:, 0].tolist() == [3, 3, 2, 2, 1, 0]


def test_crosses_are_kept_by_their_own_counts() -> None:
    """The pair that comes twice is kept, each part alone being frequent does not help the other."""
    rows = frame([None] * 4, ["x", "x", "x", None], ["p", "p", "q", None])
    spec = counted(rows).spec()
    assert encode_ids(rows, spec)[:, -1].tolist() == [2, 2, 1, 0]


def test_value_never_seen_is_rare() -> None:
    """A new value gets the id of rare ones, unless it falls into a kept bucket."""
    spec = counted(frame([1.0] * 3, ["x"] * 3, ["p"] * 3)).spec()
    new = frame([1e9], ["x"], ["something else"])
    found = dict(zip(spec.id_fields, encode_ids(new, spec)[0].tolist(), strict=True))
    assert bucket("something else", 2**20) != bucket("p", 2**20)
    assert found == {"n": 1, "a": 2, "b": 1, "a_x_b": 1}


def test_signed_log_by_hand() -> None:
    """sign(x) ln(1 + |x|)."""
    found = signed_log(np.array([0.0, math.e - 1, 1 - math.e, 99.0, float("nan")]))
    np.testing.assert_allclose(found, [0.0, 1.0, -1.0, math.log(100), float("nan")], rtol=1e-15)


def test_scales_are_mean_and_deviation_of_the_logs() -> None:
    """Of the values present, as numpy works them out."""
    rows = random_frame(500, seed=2)
    present = rows["n"].drop_nulls().to_numpy()
    logs = np.sign(present) * np.log1p(np.abs(present))
    assert len(present) < 500
    np.testing.assert_allclose(counted(rows).spec().scales["n"], [logs.mean(), logs.std()], rtol=1e-12)


def test_dense_values_have_mean_zero_and_deviation_one() -> None:
    """On the rows fitted on; missing ones stay missing."""
    rows = random_frame(500, seed=3)
    dense = encode_dense(rows, counted(rows).spec())
    assert dense.dtype == np.float32
    assert np.isnan(dense[:, 0]).tolist() == rows["n"].is_null().to_list()
    np.testing.assert_allclose(np.nanmean(dense, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(dense, axis=0), 1, rtol=1e-5)


def test_field_without_values_is_not_scaled() -> None:
    """There is nothing to work out."""
    assert counted(frame([None, None], ["x"] * 2, ["x"] * 2)).spec().scales["n"] == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 3.0, 7.0, 10.0, -123.0, 1e15])
@pytest.mark.parametrize("rows", [1, 1000, 100_000])
def test_field_with_one_value_is_centred_and_not_scaled(value: float, rows: int) -> None:
    """Rounding must not pass for a deviation: another value would then be thrown millions away."""
    mean, deviation = counted(frame([value] * rows, ["x"] * rows, ["x"] * rows)).spec().scales["n"]
    assert mean == pytest.approx(math.copysign(math.log1p(abs(value)), value), rel=1e-12)
    assert deviation == 1.0


def test_fitting_on_no_row_is_refused() -> None:
    """The message says what to do."""
    with pytest.raises(BadInput, match="no training row is left to fit the features on"):
        Counts(SCHEMA).spec()


def test_merged_parts_equal_the_whole_counted_in_the_same_batches() -> None:
    """To the last bit, and so the spec."""
    batches = [random_frame(rows, seed) for seed, rows in enumerate([300, 1, 170])]
    together = counted(*batches)
    merged = Counts(SCHEMA)
    for batch in batches:
        merged.merge(counted(batch))
    assert merged.rows == together.rows == 471
    for name, expected in together.buckets.items():
        np.testing.assert_array_equal(merged.buckets[name], expected)
    assert merged.sums == together.sums
    assert merged.spec().digest == together.spec().digest


def test_merged_parts_equal_the_whole_counted_at_once() -> None:
    """To the last bit, however rows are divided into batches."""
    rows = random_frame(500, seed=8)
    whole, merged = counted(rows), counted(rows[:123])
    merged.merge(counted(rows[123:]))
    assert merged.rows == whole.rows
    for name, expected in whole.buckets.items():
        np.testing.assert_array_equal(merged.buckets[name], expected)
    assert merged.sums == whole.sums
    assert merged.spec().digest == whole.spec().digest


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_exact(seed: int) -> None:
    """As Python's whole numbers add up, each value rounded to 2^-46, however they are divided and up to the largest."""
    random = np.random.default_rng(seed)
    values = np.concatenate([random.normal(size=3000) * 10, random.uniform(-710, 710, 300), [0.0, -0.0, 5e-324, 710.0]])
    values = np.concatenate([values, np.square(values), np.full(10, 2.0**-47), np.full(7, 3 * 2.0**-47)])
    random.shuffle(values)
    expected = sum(round(Fraction(value) * 2**46) for value in values.tolist())
    assert exact_sum(values) == expected
    assert sum(exact_sum(part) for part in np.array_split(values, 7)) == expected
    most = np.full(2**20 + 3, 710.0**2 + 0.1)
    assert exact_sum(most) == len(most) * round(Fraction(float(most[0])) * 2**46)


def test_scale_of_min_max_is_the_least_training_value_and_the_spread() -> None:
    """Of 5, -3, 7 and a missing value: -3 and 10; of one value, or of none, nothing to divide by."""
    schema = Schema(numeric=(Numeric(name="n", dense="min_max", min_count=1),))
    for given, expected in (([5.0, -3.0, None, 7.0], (-3.0, 10.0)), ([4.0, 4.0], (4.0, 1.0)), ([None], (0.0, 1.0))):
        rows = pl.DataFrame({"label": [0.0] * len(given), "n": given}, schema={"label": pl.Float64, "n": pl.Float64})
        assert fit(iter([rows]), schema).spec().scales["n"] == expected


def test_merging_nothing_changes_nothing() -> None:
    """Counts of no rows are the neutral element."""
    rows = random_frame(50, seed=4)
    counts = counted(rows)
    counts.merge(Counts(SCHEMA))
    assert counts.spec().digest == counted(rows).spec().digest


def test_merging_leaves_the_other_part_as_it_was() -> None:
    """No array is shared."""
    first, second = counted(random_frame(50, seed=4)), counted(random_frame(50, seed=5))
    before = second.spec().digest
    first.merge(second)
    first.add(random_frame(50, seed=6))
    assert second.spec().digest == before


def test_batch_sizes_are_reported() -> None:
    """One call a batch."""
    sizes: list[int] = []
    fit(iter([random_frame(30, 1), random_frame(20, 2)]), SCHEMA, sizes.append)
    assert sizes == [30, 20]


def test_different_rows_give_different_digests() -> None:
    """The digest tells specs apart."""
    assert counted(random_frame(300, 1)).spec().digest != counted(random_frame(300, 2)).spec().digest


def test_shards_have_a_column_for_every_field(tmp_path: Path) -> None:
    """Row, label, ids and dense values, in this order and of these types."""
    prepare_small([write_tsv(small_rows(30), tmp_path / "log.tsv")], tmp_path / "out")
    found = whole(tmp_path / "out")
    assert found.schema == {
        "row": pl.UInt64,
        "label": pl.Float32,
        **dict.fromkeys(["id_n1", "id_n2", "id_a", "id_b"], pl.Int32),
        **dict.fromkeys(["dense_n1", "dense_n2"], pl.Float32),
    }
    assert found["row"].to_list() == list(range(30))


def test_rows_after_the_training_part_do_not_change_the_spec(tmp_path: Path) -> None:
    """Two logs that differ in the last fifth only give the same spec, and train rows encoded alike."""
    rows = small_rows(500)
    others = pl.concat([rows.head(400), small_rows(100, first=70_000)])
    first = prepare_small([write_tsv(rows, tmp_path / "first.tsv")], tmp_path / "a")
    second = prepare_small([write_tsv(others, tmp_path / "second.tsv")], tmp_path / "b")
    assert first["spec_digest"] == second["spec_digest"]
    assert first["parts"]["train"] == second["parts"]["train"]
    assert first["parts"]["test"]["shards"] != second["parts"]["test"]["shards"]


def test_rows_outside_a_random_training_part_do_not_change_the_spec(tmp_path: Path) -> None:
    """The rows of the random test part are changed, wherever they stand."""
    split = Split("random", 0.0, 0.3, seed=3)
    rows = small_rows(500)
    in_test = pl.Series(split.part(pl.Series(range(500), dtype=pl.UInt64), 500) == 2)
    changed = rows.with_columns(
        n1=pl.when(in_test).then(10**6).otherwise("n1"), a=pl.when(in_test).then(pl.lit("new")).otherwise("a")
    )
    first = prepare_small([write_tsv(rows, tmp_path / "first.tsv")], tmp_path / "a", split=split)
    second = prepare_small([write_tsv(changed, tmp_path / "second.tsv")], tmp_path / "b", split=split)
    assert first["spec_digest"] == second["spec_digest"]
    assert first["parts"]["test"]["shards"] != second["parts"]["test"]["shards"]


def test_row_of_the_training_part_does_change_the_spec(tmp_path: Path) -> None:
    """The two tests before would see a difference if there was one."""
    rows = small_rows(500)
    changed = pl.concat([rows.head(399), small_rows(1, first=70_000), rows.tail(100)])
    first = prepare_small([write_tsv(rows, tmp_path / "first.tsv")], tmp_path / "a")
    second = prepare_small([write_tsv(changed, tmp_path / "second.tsv")], tmp_path / "b")
    assert first["spec_digest"] != second["spec_digest"]
