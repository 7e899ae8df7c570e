"""From raw logs to prepared folders: formats, rejected rows, splits, shards, digests, whole folders or none."""

import gzip
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from helpers import (
    SMALL,
    SMALL_CSV,
    prepare_small,
    rows_of,
    shards_of,
    small_log,
    small_rows,
    whole,
    write_tsv,
)
from polars.testing import assert_frame_equal

import features
from features import blocks, sources
from features.draws import mix
from features.errors import BadInput
from features.parse import ROW
from features.schema import Categorical, Numeric, Schema
from features.sources import open_sources, read_batches
from features.spec import FeatureSpec, load_spec
from features.split import Split

UNLABELLED = SMALL.columns[1:]


def write_gzip(rows: pl.DataFrame, path: Path) -> Path:
    """A tab-separated log, compressed by Python's own gzip."""
    path.write_bytes(gzip.compress(rows.write_csv(separator="\t", include_header=False).encode()))
    return path


def write_zstd(rows: pl.DataFrame, path: Path) -> Path:
    """A tab-separated log, compressed by Arrow."""
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(rows.write_csv(separator="\t", include_header=False).encode())
    return path


def write_header_csv(rows: pl.DataFrame, path: Path) -> Path:
    """A comma-separated log with a header."""
    rows.write_csv(path)
    return path


def write_parquet(rows: pl.DataFrame, path: Path) -> Path:
    """A Parquet file whose columns stand in another order than the schema's."""
    rows.select(reversed(rows.columns)).write_parquet(path)
    return path


def write_ndjson(rows: pl.DataFrame, path: Path) -> Path:
    """A JSON object a line."""
    rows.write_ndjson(path)
    return path


FORMATS: dict[str, tuple[Callable[[pl.DataFrame, Path], Path], Schema]] = {
    "tsv": (write_tsv, SMALL),
    "txt": (write_tsv, SMALL),
    "tsv.gz": (write_gzip, SMALL),
    "tsv.zst": (write_zstd, SMALL),
    "csv": (write_header_csv, SMALL_CSV),
    "parquet": (write_parquet, SMALL),
    "pq": (write_parquet, SMALL),
    "ndjson": (write_ndjson, SMALL),
    "jsonl": (write_ndjson, SMALL),
}


def written_in(ending: str, rows: pl.DataFrame, folder: Path) -> tuple[Path, Schema]:
    """The rows in a file of this kind, and the schema to read it with."""
    write, schema = FORMATS[ending]
    return write(rows, folder / f"log.{ending}"), schema


def parsed(inputs: list[Path], schema: Schema = SMALL) -> pl.DataFrame:
    """All good rows as the feature line sees them, an empty category as null, which means the same."""
    opened = open_sources([str(path) for path in inputs], schema)
    return without_empty(pl.concat([batch.frame for batch in read_batches(opened, schema)]))


def without_empty(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows with null for every empty string."""
    return frame.with_columns(pl.col(pl.String).replace("", None))


def expected_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """What parsing must make of rows that are numbered from 0."""
    numbers = pl.col("label", "n1", "n2").cast(pl.Float64)
    return rows.with_columns(numbers).with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.UInt64))


def small_batches(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Makes batches of about so many rows of the small schema, which take some 15 to 20 bytes of text, 50 of JSON."""
    monkeypatch.setattr(sources, "BATCH_ROWS", rows)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 15 * rows)


def log_of(path: Path, lines: list[str]) -> Path:
    """A file of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def good_lines(count: int) -> list[str]:
    """Lines of a tab-separated log of `small_rows`."""
    return small_rows(count).write_csv(separator="\t", include_header=False).splitlines()


def with_bad_lines(path: Path, bad: dict[int, str], good: int) -> Path:
    """A log in which the lines with these numbers, from 1, are these texts and the others good ones."""
    lines = good_lines(good)
    for number, text in sorted(bad.items()):
        lines.insert(number - 1, text)
    return log_of(path, lines)


def rejected_in(folder: Path) -> list[dict[str, Any]]:
    """What was kept aside."""
    return [json.loads(line) for line in (folder / "rejected.ndjson").read_text(encoding="utf-8").splitlines()]


def left_in(folder: Path) -> list[str]:
    """The names of all that is in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def id_column(folder: Path, field: str) -> list[int]:
    """The ids of one field in the order of the log."""
    return whole(folder)[f"id_{field}"].to_list()


# Formats


@pytest.mark.parametrize("ending", list(FORMATS))
def test_every_format_is_parsed_to_the_same_rows(ending: str, tmp_path: Path) -> None:
    """Rows are numbered from 0, numbers are floats, and what is missing is null."""
    rows = small_rows(250)
    path, schema = written_in(ending, rows, tmp_path)
    assert_frame_equal(parsed([path], schema), expected_rows(rows))


@pytest.mark.parametrize("ending", list(FORMATS))
def test_every_format_gives_the_same_shards(ending: str, tmp_path: Path) -> None:
    """The same rows in the same parts with the same ids, labels and dense values."""
    rows = small_rows(250)
    path, schema = written_in(ending, rows, tmp_path)
    prepare_small([write_tsv(rows, tmp_path / "reference.tsv")], tmp_path / "reference")
    prepare_small([path], tmp_path / "out", schema=schema)
    for part in ("train", "validation", "test"):
        for found, expected in zip(
            shards_of(tmp_path / "out", part), shards_of(tmp_path / "reference", part), strict=True
        ):
            assert_frame_equal(found, expected)


@pytest.mark.parametrize("ending", list(FORMATS))
def test_every_format_may_lack_the_label(ending: str, tmp_path: Path) -> None:
    """The label is null then, and the rest as it is."""
    rows = small_rows(30)
    path, schema = written_in(ending, rows.select(UNLABELLED), tmp_path)
    (source,) = open_sources([str(path)], schema)
    assert (source.rows, source.labelled) == (30, False)
    expected = expected_rows(rows).with_columns(label=pl.lit(None, dtype=pl.Float64))
    assert_frame_equal(parsed([path], schema), expected)


@pytest.mark.parametrize("ending", list(FORMATS))
def test_batches_together_are_all_rows(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are, and numbered through."""
    small_batches(monkeypatch, 7)
    rows = small_rows(50)
    path, schema = written_in(ending, rows, tmp_path)
    batches = list(read_batches(open_sources([str(path)], schema), schema))
    assert len(batches) >= 8
    assert sum(batch.read for batch in batches) == 50
    assert_frame_equal(without_empty(pl.concat([batch.frame for batch in batches])), expected_rows(rows))


def test_last_line_may_lack_its_end(tmp_path: Path) -> None:
    """A file that was cut after its last value is whole."""
    path = tmp_path / "log.tsv"
    path.write_text("\n".join(good_lines(20)), encoding="utf-8")
    assert_frame_equal(parsed([path]), expected_rows(small_rows(20)))


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    """The carriage return is no part of the last value."""
    path = tmp_path / "log.tsv"
    path.write_bytes("".join(f"{line}\r\n" for line in good_lines(20)).encode())
    assert_frame_equal(parsed([path]), expected_rows(small_rows(20)))


def test_negative_huge_and_decimal_numbers_are_read(tmp_path: Path) -> None:
    """`n1` is a field of integers, `n2` of any finite numbers."""
    path = log_of(tmp_path / "log.tsv", ["0\t-7\t-2.5\tx\ty", "1\t12345678901234567890\t1e-3\tx\ty", "0\t0\t\t\t"])
    frame = parsed([path])
    assert frame["n1"].to_list() == [-7.0, 12345678901234567890.0, 0.0]
    assert frame["n2"].to_list() == [-2.5, 0.001, None]


@pytest.mark.parametrize("name", ["row", "line", "text", "fields", "parts", "file", "reason"])
def test_field_may_have_any_name(name: str, tmp_path: Path) -> None:
    """Also one that the reader uses for itself."""
    schema = Schema(categorical=(Categorical(name=name, min_count=1), Categorical(name="other", min_count=1)))
    lines = [f"{i % 2}\tv{i % 5}\tw" for i in range(20)]
    manifest = prepare_small(
        [log_of(tmp_path / "log.tsv", lines)], tmp_path / "out", schema=schema, split=Split("none", 0, 0, 0)
    )
    assert manifest["rows"] == 20
    ids = id_column(tmp_path / "out", name)
    assert ids == ids[:5] * 4
    assert sorted(ids[:5]) == [2, 3, 4, 5, 6]


def test_globs_name_their_files_in_order(tmp_path: Path) -> None:
    """Rows are numbered over all files, in the order of the names."""
    for number in (2, 0, 1):
        small_log(tmp_path / f"day_{number}.tsv", 40, first=40 * number)
    assert_frame_equal(parsed([tmp_path / "day_*.tsv"]), expected_rows(small_rows(120)))


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    """Several inputs, of several formats."""
    second = write_gzip(small_rows(40, first=30), tmp_path / "a.gz")
    third = write_parquet(small_rows(20, first=70), tmp_path / "0.parquet")
    first = small_log(tmp_path / "z.tsv", 30)
    assert_frame_equal(parsed([first, second, third]), expected_rows(small_rows(90)))


def test_rows_of_several_files_with_headers_are_numbered_through(tmp_path: Path) -> None:
    """Header lines are no rows."""
    first = write_header_csv(small_rows(30), tmp_path / "a.csv")
    second = write_header_csv(small_rows(40, first=30), tmp_path / "b.csv")
    assert_frame_equal(parsed([first, second], SMALL_CSV), expected_rows(small_rows(70)))


def test_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    """A file that is called like a pattern can be named."""
    path = small_log(tmp_path / "log[1].tsv", 10)
    assert parsed([path]).height == 10


def test_sources_are_listed_by_paths_that_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths would mean something else from another folder."""
    path = small_log(tmp_path / "log.tsv", 30)
    monkeypatch.chdir(tmp_path)
    manifest = prepare_small(["log.tsv"], tmp_path / "out")
    assert manifest["sources"] == [str(path.resolve())]


# Logs without labels


def test_log_without_labels_is_refused_for_fitting(tmp_path: Path) -> None:
    """The message says how it is encoded."""
    labelled = small_log(tmp_path / "a.tsv", 30)
    path = write_tsv(small_rows(30).select(UNLABELLED), tmp_path / "b.tsv")
    with pytest.raises(BadInput, match=r"b\.tsv has no labels to train on; encode it with --spec"):
        prepare_small([labelled, path], tmp_path / "out")
    assert left_in(tmp_path) == ["a.tsv", "b.tsv"]


def test_log_without_labels_is_encoded_with_a_fitted_spec(tmp_path: Path) -> None:
    """Ids and dense values are those of the labelled log; labels are not numbers."""
    rows = small_rows(60)
    prepare_small([write_tsv(rows, tmp_path / "log.tsv")], tmp_path / "a", split=Split("none", 0, 0, 0))
    path = write_tsv(rows.select(UNLABELLED), tmp_path / "bare.tsv")
    manifest = prepare_small([path], tmp_path / "b", fitted=load_spec(tmp_path / "a"), split=Split("none", 0, 0, 0))
    assert manifest["labelled"] is False
    assert whole(tmp_path / "b")["label"].is_nan().all()
    assert_frame_equal(whole(tmp_path / "b").drop("label"), whole(tmp_path / "a").drop("label"))


def test_log_without_labels_has_no_click_rate(tmp_path: Path) -> None:
    """A rate of zero would say that nobody clicked."""
    prepare_small([small_log(tmp_path / "log.tsv", 60)], tmp_path / "a")
    path = write_tsv(small_rows(60).select(UNLABELLED), tmp_path / "bare.tsv")
    manifest = prepare_small([path], tmp_path / "b", fitted=load_spec(tmp_path / "a"), split=Split("none", 0, 0, 0))
    assert manifest["parts"]["train"]["rows"] == 60
    assert manifest["parts"]["train"]["click_rate"] is None


# Rejected rows


def test_bad_rows_are_kept_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Each with its file, its line from 1, the reason and its text."""
    bad = {
        1: "1\t2\t3",
        4: "1\t1.5\t0\tx\ty",
        5: "1\tseven\t0\tx\ty",
        9: "2\t1\t1\tx\ty",
        10: "\t1\t1\tx\ty",
        11: "1\t1\tmuch\tx\ty",
        12: "1\t1\tnan\tx\ty",
        13: "1\tinf\t1\tx\ty",
        14: "1\t1\t1\tx\ty\tz",
        15: "",
    }
    path = with_bad_lines(tmp_path / "log.tsv", bad, good=30)
    manifest = prepare_small([path], tmp_path / "out", max_reject_rate=0.5)
    reasons = {
        1: "3 fields instead of 5",
        4: "n1 is '1.5', no integer",
        5: "n1 is 'seven', no integer",
        9: "label is '2', neither 0 nor 1",
        10: "label is '', neither 0 nor 1",
        11: "n2 is 'much', no finite number",
        12: "n2 is 'nan', no finite number",
        13: "n1 is 'inf', no integer",
        14: "6 fields instead of 5",
        15: "1 fields instead of 5",
    }
    assert rejected_in(tmp_path / "out") == [
        {"file": str(path), "line": line, "reason": reasons[line], "text": text} for line, text in bad.items()
    ]
    assert (manifest["rows"], manifest["rows_rejected"]) == (30, 10)
    assert whole(tmp_path / "out")["row"].to_list() == [row for row in range(40) if row + 1 not in bad]


def test_lines_of_rejected_rows_are_counted_in_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the bounds of batches too."""
    small_batches(monkeypatch, 4)
    first = with_bad_lines(tmp_path / "a.tsv", {3: "?"}, good=20)
    second = with_bad_lines(tmp_path / "b.tsv", {2: "?", 18: "?"}, good=20)
    prepare_small([first, second], tmp_path / "out", max_reject_rate=0.5)
    found = [(Path(entry["file"]).name, entry["line"]) for entry in rejected_in(tmp_path / "out")]
    assert found == [("a.tsv", 3), ("b.tsv", 2), ("b.tsv", 18)]
    assert whole(tmp_path / "out")["row"].to_list() == [i for i in range(43) if i not in {2, 22, 38}]


def test_line_of_a_rejected_row_counts_the_header(tmp_path: Path) -> None:
    """It is the line that an editor shows."""
    path = log_of(tmp_path / "log.csv", ["label,n1,n2,a,b", "1,1,1,x,y", "7,1,1,x,y", "0,1,1,x,y"])
    prepare_small([path], tmp_path / "out", schema=SMALL_CSV, max_reject_rate=0.5, split=Split("none", 0, 0, 0))
    (entry,) = rejected_in(tmp_path / "out")
    assert (entry["line"], entry["reason"]) == (3, "label is '7', neither 0 nor 1")


def test_bad_rows_of_a_compressed_log_are_kept_aside(tmp_path: Path) -> None:
    """Lines are those of the uncompressed text."""
    plain = with_bad_lines(tmp_path / "log.tsv", {13: "not a row"}, good=30)
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    prepare_small([path], tmp_path / "out", max_reject_rate=0.5)
    assert rejected_in(tmp_path / "out") == [
        {"file": str(path), "line": 13, "reason": "1 fields instead of 5", "text": "not a row"}
    ]


def test_bad_rows_of_parquet_are_kept_aside(tmp_path: Path) -> None:
    """Rows count as lines."""
    rows = small_rows(30).with_columns(label=pl.when(pl.col("b") == "b6").then(5).otherwise("label"))
    manifest = prepare_small([write_parquet(rows, tmp_path / "log.parquet")], tmp_path / "out", max_reject_rate=0.5)
    (entry,) = rejected_in(tmp_path / "out")
    assert (entry["line"], entry["reason"]) == (7, "label is 5, neither 0 nor 1")
    assert manifest["rows"] == 29


@pytest.mark.parametrize("place", [3, 250])
@pytest.mark.parametrize("value", ["1.5", '"many"'])
def test_bad_rows_of_json_lines_are_kept_aside(place: int, value: str, tmp_path: Path) -> None:
    """A value that is no integer rejects its own row, wherever in the file it stands."""
    rows = small_rows(300)
    lines = rows.write_ndjson().splitlines()
    lines[place - 1] = f'{{"label":1,"n1":{value},"n2":1.0,"a":"x","b":"y"}}'
    manifest = prepare_small([log_of(tmp_path / "log.ndjson", lines)], tmp_path / "out", max_reject_rate=0.5)
    (entry,) = rejected_in(tmp_path / "out")
    assert entry["line"] == place
    assert entry["reason"] == "n1 is '{}', no integer".format(value.strip('"'))
    assert manifest["rows"] == 299


def test_file_of_rejected_rows_is_empty_where_there_are_none(tmp_path: Path) -> None:
    """It is there all the same."""
    manifest = prepare_small([small_log(tmp_path / "log.tsv", 30)], tmp_path / "out")
    assert rejected_in(tmp_path / "out") == []
    assert manifest["rows_rejected"] == 0


def test_too_many_bad_rows_end_the_work_and_leave_nothing(tmp_path: Path) -> None:
    """The message says how many, of how many, and shows the first."""
    path = with_bad_lines(tmp_path / "log.tsv", {2: "?", 7: "?", 9: "?"}, good=17)
    with pytest.raises(BadInput) as caught:
        prepare_small([path], tmp_path / "out", max_reject_rate=0.1)
    said = str(caught.value)
    assert "3 of 20 rows cannot be read" in said
    assert f"the first is {path} line 2: 1 fields instead of 5" in said
    assert left_in(tmp_path) == ["log.tsv"]


def test_too_many_bad_rows_end_the_work_with_a_fitted_spec_too(tmp_path: Path) -> None:
    """Nothing is fitted then, but the rows are read first all the same."""
    prepare_small([small_log(tmp_path / "log.tsv", 30)], tmp_path / "a")
    path = with_bad_lines(tmp_path / "bad.tsv", {2: "?", 7: "?", 9: "?"}, good=17)
    with pytest.raises(BadInput, match="3 of 20 rows cannot be read"):
        prepare_small([path], tmp_path / "out", fitted=load_spec(tmp_path / "a"), max_reject_rate=0.1)
    assert left_in(tmp_path) == ["a", "bad.tsv", "log.tsv"]


def test_bad_rows_up_to_the_rate_are_borne(tmp_path: Path) -> None:
    """Exactly a tenth is not more than a tenth."""
    path = with_bad_lines(tmp_path / "log.tsv", {2: "?", 7: "?"}, good=18)
    manifest = prepare_small([path], tmp_path / "out", max_reject_rate=0.1)
    assert (manifest["rows"], manifest["rows_rejected"]) == (18, 2)


def test_log_of_bad_rows_only_is_refused_at_any_rate(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    path = log_of(tmp_path / "log.tsv", ["?"] * 9)
    with pytest.raises(BadInput):
        prepare_small([path], tmp_path / "out", max_reject_rate=1.0)
    assert left_in(tmp_path) == ["log.tsv"]


# Inputs and outputs that cannot be


def test_empty_file_is_refused(tmp_path: Path) -> None:
    """Beside a good one, too."""
    good = small_log(tmp_path / "a.tsv", 20)
    empty = log_of(tmp_path / "b.tsv", [])
    with pytest.raises(BadInput, match=r"b\.tsv is empty"):
        prepare_small([good, empty], tmp_path / "out")
    assert left_in(tmp_path) == ["a.tsv", "b.tsv"]


def test_file_with_a_header_only_is_refused(tmp_path: Path) -> None:
    """It has no row."""
    path = log_of(tmp_path / "log.csv", [",".join(SMALL.columns)])
    with pytest.raises(BadInput, match=r"log\.csv hold no row"):
        prepare_small([path], tmp_path / "out", schema=SMALL_CSV)


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    """It has columns and no row."""
    path = write_parquet(small_rows(0), tmp_path / "log.parquet")
    with pytest.raises(BadInput, match=r"log\.parquet hold no row"):
        prepare_small([path], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.tsv", "does not exist"),
        ("day_*.tsv", "no file matches"),
        ("folder", "is a folder"),
        ("log.xlsx", "unknown ending; known: .tsv"),
        ("text.parquet", "cannot be read"),
        ("text.ndjson", "cannot be read"),
        ("cut.tsv.gz", "cannot be read"),
    ],
)
def test_input_that_cannot_be_read_is_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    """In one line, with nothing left behind."""
    (tmp_path / "folder").mkdir()
    small_log(tmp_path / "log.xlsx", 9)
    small_log(tmp_path / "text.parquet", 9)
    small_log(tmp_path / "text.ndjson", 9)
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(b"1\t1\t1\tx\ty\n" * 1000)[:-30])
    before = left_in(tmp_path)
    with pytest.raises(BadInput) as caught:
        prepare_small([tmp_path / name], tmp_path / "out")
    assert name in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == before


def test_columns_below_a_header_may_stand_in_any_order_with_others_among_them(tmp_path: Path) -> None:
    """They are found by name."""
    lines = ["id,a,n2,b,label,n1", "7,x,2.5,y,1,3", "8,,0.5,z,0,"]
    frame = parsed([log_of(tmp_path / "log.csv", lines)], SMALL_CSV)
    assert frame.rows(named=True) == [
        {ROW: 0, "label": 1.0, "n1": 3.0, "n2": 2.5, "a": "x", "b": "y"},
        {ROW: 1, "label": 0.0, "n1": None, "n2": 0.5, "a": None, "b": "z"},
    ]


def test_header_of_another_schema_is_refused(tmp_path: Path) -> None:
    """The column that is not there is named, and those that are."""
    path = log_of(tmp_path / "log.csv", ["label,n2,a,b", "1,1,x,y"])
    with pytest.raises(BadInput, match=r"log.csv has no column 'n1'; its columns: label, n2, a, b"):
        prepare_small([path], tmp_path / "out", schema=SMALL_CSV)


def test_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    """Nobody could say which of the two is meant."""
    path = log_of(tmp_path / "log.csv", ["label,n1,n2,a,a,b", "1,1,1,x,x,y"])
    with pytest.raises(BadInput, match=r"log.csv has two columns 'a' in its header"):
        prepare_small([path], tmp_path / "out", schema=SMALL_CSV)


def test_parquet_without_a_column_is_refused(tmp_path: Path) -> None:
    """The column is named."""
    path = write_parquet(small_rows(9).drop("n2"), tmp_path / "log.parquet")
    with pytest.raises(BadInput, match="has no column 'n2'"):
        prepare_small([path], tmp_path / "out")


def test_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """Nobody's data are overwritten."""
    path = small_log(tmp_path / "log.tsv", 30)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match="out exists already and is left as it is"):
        prepare_small([path], tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text(encoding="utf-8") == "mine"
    assert left_in(tmp_path) == ["log.tsv", "out"]


def test_existing_folder_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    """Not after hours of work."""
    told: list[str] = []
    (tmp_path / "out").mkdir()
    log = small_log(tmp_path / "log.tsv", 30)
    with pytest.raises(BadInput, match="exists already"):
        prepare_small([log], tmp_path / "out", progress=lambda stage, done, total: told.append(stage))
    assert told == []


def test_failure_in_mid_work_leaves_nothing(tmp_path: Path) -> None:
    """Whatever it is that fails."""

    def fail(stage: str, done: int, total: int) -> None:
        if stage == "encoding":
            raise OSError("the disk is full")

    path = small_log(tmp_path / "log.tsv", 30)
    with pytest.raises(OSError, match="the disk is full"):
        prepare_small([path], tmp_path / "out", progress=fail)
    assert left_in(tmp_path) == ["log.tsv"]


def test_output_folder_may_be_deep(tmp_path: Path) -> None:
    """Folders on the way are made."""
    path = small_log(tmp_path / "log.tsv", 30)
    prepare_small([path], tmp_path / "x" / "y" / "out")
    assert left_in(tmp_path / "x" / "y") == ["out"]


# Splits


@pytest.mark.parametrize(
    ("total", "validation", "test", "cuts"),
    [
        (10, 0.1, 0.1, (8, 9)),
        (10, 0.0, 0.2, (8, 8)),
        (10, 0.2, 0.0, (8, 10)),
        (10, 0.2, 0.1, (7, 9)),
        (20, 0.1, 0.3, (12, 14)),
        (7, 0.1, 0.1, (6, 7)),
        (3, 0.1, 0.1, (3, 3)),
        (100, 0.25, 0.25, (50, 75)),
        (1000, 0.1, 0.2, (700, 800)),
        (1000, 0.15, 0.15, (700, 850)),
    ],
)
def test_time_split_cuts_by_position(
    total: int, validation: float, test: float, cuts: tuple[int, int], tmp_path: Path
) -> None:
    """Row r of n is in the training part while r / n is below its share; the last rows are the test part."""
    split = Split("time", validation, test, seed=0)
    prepare_small([small_log(tmp_path / "log.tsv", total)], tmp_path / "out", split=split)
    assert sorted(rows_of(tmp_path / "out", "train")) == list(range(cuts[0]))
    assert rows_of(tmp_path / "out", "validation") == list(range(cuts[0], cuts[1]))
    assert rows_of(tmp_path / "out", "test") == list(range(cuts[1], total))


def test_time_split_of_a_log_with_a_header_cuts_at_the_same_rows(tmp_path: Path) -> None:
    """The header is no position."""
    path = write_header_csv(small_rows(10), tmp_path / "log.csv")
    manifest = prepare_small([path], tmp_path / "out", schema=SMALL_CSV)
    assert {name: part["rows"] for name, part in manifest["parts"].items()} == {"train": 8, "validation": 1, "test": 1}


def test_random_split_has_the_shares_asked_for() -> None:
    """Within four standard deviations of 20,000 draws."""
    parts = Split("random", 0.1, 0.2, seed=1).part(pl.Series(range(20_000), dtype=pl.UInt64), 20_000)
    found = np.bincount(parts, minlength=3)
    shares = np.array([0.7, 0.1, 0.2])
    assert (np.abs(found - 20_000 * shares) < 4 * np.sqrt(20_000 * shares * (1 - shares))).all()


def test_random_split_takes_from_everywhere() -> None:
    """Every tenth of the log has about its share of test rows."""
    parts = Split("random", 0.1, 0.2, seed=1).part(pl.Series(range(20_000), dtype=pl.UInt64), 20_000)
    tested = (parts == 2).reshape(10, 2000).mean(axis=1)
    assert (np.abs(tested - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)).all()


def test_random_split_depends_on_the_seed_and_on_nothing_else() -> None:
    """Not on which rows are asked for together, nor on how many there are."""
    rows = pl.Series(range(1000), dtype=pl.UInt64)
    first, again, other = (Split("random", 0.2, 0.2, seed).part(rows, 1000) for seed in (4, 4, 5))
    assert first.tolist() == again.tolist()
    assert (first != other).sum() > 300
    assert Split("random", 0.2, 0.2, 4).part(rows[300:400], 5000).tolist() == first[300:400].tolist()


def test_no_split_keeps_all_rows_in_one_part_in_order(tmp_path: Path) -> None:
    """Shards follow one another, each full but the last."""
    manifest = prepare_small(
        [small_log(tmp_path / "log.tsv", 250)], tmp_path / "out", split=Split("none", 0.1, 0.1, 0), shard_rows=100
    )
    assert [shard["row"].to_list() for shard in shards_of(tmp_path / "out", "train")] == [
        list(range(100)),
        list(range(100, 200)),
        list(range(200, 250)),
    ]
    assert {name: part["rows"] for name, part in manifest["parts"].items()} == {
        "train": 250,
        "validation": 0,
        "test": 0,
    }


@pytest.mark.parametrize("kind", ["time", "random", "none"])
def test_every_good_row_is_in_exactly_one_part_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bad rows among them, in several files and many batches."""
    small_batches(monkeypatch, 37)
    first = with_bad_lines(tmp_path / "a.tsv", {1: "?", 50: "?"}, good=298)
    second = with_bad_lines(tmp_path / "b.tsv", {300: "?"}, good=299)
    prepare_small([first, second], tmp_path / "out", split=Split(kind, 0.2, 0.2, 0), max_reject_rate=0.1)
    found = [row for part in ("train", "validation", "test") for row in rows_of(tmp_path / "out", part)]
    assert sorted(found) == [row for row in range(600) if row not in {0, 49, 599}]


@pytest.mark.parametrize("kind", ["time", "random"])
def test_validation_and_test_keep_the_order_of_the_log(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over shards and batches; training rows do not."""
    small_batches(monkeypatch, 100)
    log = small_log(tmp_path / "log.tsv", 1000)
    prepare_small([log], tmp_path / "out", split=Split(kind, 0.3, 0.3, 0), shard_rows=50)
    for part in ("validation", "test"):
        rows = rows_of(tmp_path / "out", part)
        assert rows == sorted(rows)
        assert [shard.height for shard in shards_of(tmp_path / "out", part)][:-1] == [50] * ((len(rows) - 1) // 50)
    train = rows_of(tmp_path / "out", "train")
    assert train != sorted(train)


def test_training_rows_are_spread_over_all_shards(tmp_path: Path) -> None:
    """Each of eight shards has about an eighth of the rows, from everywhere in the log."""
    prepare_small([small_log(tmp_path / "log.tsv", 4000)], tmp_path / "out", shard_rows=400)
    shards = [shard["row"].to_numpy() for shard in shards_of(tmp_path / "out", "train")]
    assert len(shards) == 8
    assert sum(len(rows) for rows in shards) == 3200
    for rows in shards:
        assert abs(len(rows) - 400) < 4 * np.sqrt(3200 / 8 * 7 / 8)
        assert abs(rows.mean() - 1599.5) < 4 * 3200 / np.sqrt(12 * len(rows))
        assert (np.diff(np.sort(rows)) == 1).mean() < 0.25


def test_draws_are_even_and_without_pattern() -> None:
    """All 64 bits are set in half of the draws, whatever the seed; neighbours share no more."""
    for seed in (0, 1, 2**31):
        draws = mix(np.arange(10_000, dtype=np.uint64), seed)
        assert len(np.unique(draws)) == 10_000
        bits = (draws[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        assert (np.abs(bits.mean(axis=0) - 0.5) < 5 * 0.5 / 100).all()
        assert (np.abs((bits[1:] == bits[:-1]).mean(axis=0) - 0.5) < 5 * 0.5 / 100).all()


# The same again


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """And so the same digest."""
    log = small_log(tmp_path / "log.tsv", 1000)
    first, second = (prepare_small([log], tmp_path / name) for name in ("a", "b"))
    assert first["digest"] == second["digest"]
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) >= 8
    assert {file: (tmp_path / "a" / file).read_bytes() for file in files} == {
        file: (tmp_path / "b" / file).read_bytes() for file in files
    }


def test_another_seed_gives_another_order(tmp_path: Path) -> None:
    """The rows of each part are the same, and the spec, but not the shards."""
    log = small_log(tmp_path / "log.tsv", 1000)
    first, second = (prepare_small([log], tmp_path / f"out{seed}", seed=seed) for seed in (0, 1))
    assert first["digest"] != second["digest"]
    assert first["spec_digest"] == second["spec_digest"]
    assert rows_of(tmp_path / "out0", "train") != rows_of(tmp_path / "out1", "train")
    assert_frame_equal(whole(tmp_path / "out0"), whole(tmp_path / "out1"))


def test_other_rows_give_another_digest(tmp_path: Path) -> None:
    """A single label makes the difference."""
    rows = small_rows(200)
    changed = rows.with_columns(label=pl.when(pl.col("b") == "b150").then(1 - pl.col("label")).otherwise("label"))
    first = prepare_small([write_tsv(rows, tmp_path / "a.tsv")], tmp_path / "a")
    second = prepare_small([write_tsv(changed, tmp_path / "b.tsv")], tmp_path / "b")
    assert first["spec_digest"] == second["spec_digest"]
    assert first["digest"] != second["digest"]


def test_manifest_tells_what_is_there(tmp_path: Path) -> None:
    """Rows, click rates and SHA-256 of every shard, as worked out from the files."""
    returned = prepare_small([small_log(tmp_path / "log.tsv", 600)], tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == {key: returned[key] for key in manifest}
    labels = small_rows(600)["label"]
    rates = {"train": labels[:480].mean(), "validation": labels[480:540].mean(), "test": labels[540:].mean()}
    for name, part in manifest["parts"].items():
        assert part["click_rate"] == pytest.approx(rates[name])
        assert sorted(part["shards"]) == sorted(path.name for path in (tmp_path / "out" / name).iterdir())
        for shard, about in part["shards"].items():
            path = tmp_path / "out" / name / shard
            assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert about["rows"] == pl.read_parquet(path).height


def test_progress_reaches_the_end_of_both_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never goes back."""
    small_batches(monkeypatch, 50)
    told: list[tuple[str, int, int]] = []
    log = small_log(tmp_path / "log.tsv", 200)
    prepare_small([log], tmp_path / "out", progress=lambda stage, done, total: told.append((stage, done, total)))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["reading", "encoding"]
    for wanted in ("reading", "encoding"):
        done = [done for stage, done, _ in told if stage == wanted]
        assert len(done) >= 3
        assert done == sorted(set(done))
        assert done[-1] == 200
    assert {total for _, _, total in told} == {200}


# The spec


def test_fitted_spec_encodes_other_logs(tmp_path: Path) -> None:
    """Values seen in fitting keep their ids, new ones are rare, missing ones missing."""
    none = Split("none", 0, 0, 0)
    prepare_small([log_of(tmp_path / "a.tsv", ["1\t1\t1\tx\tp", "0\t2\t2\ty\tq"])], tmp_path / "a", split=none)
    new = log_of(tmp_path / "b.tsv", ["1\t1\t1\ty\tnew", "0\t999999\t1\t\tp", "0\t\t1\tx\tq"])
    manifest = prepare_small([new], tmp_path / "b", fitted=load_spec(tmp_path / "a"), split=none)
    x, y = id_column(tmp_path / "a", "a")
    p, q = id_column(tmp_path / "a", "b")
    assert sorted([x, y]) == sorted([p, q]) == [2, 3]
    assert id_column(tmp_path / "b", "a") == [y, 0, x]
    assert id_column(tmp_path / "b", "b") == [1, p, q]
    assert id_column(tmp_path / "b", "n1") == [2, 1, 0]
    assert manifest["spec_digest"] == load_spec(tmp_path / "a").digest == load_spec(tmp_path / "b").digest


def test_dense_values_of_a_fitted_spec_use_its_scales(tmp_path: Path) -> None:
    """By hand: 0 and e^2 - 1 have logs 0 and 2, so mean 1 and deviation 1; e - 1 becomes 0 and 3 ln 2 - 1."""
    schema = Schema(numeric=(Numeric(name="x", kind="float", min_count=1),))
    none = Split("none", 0, 0, 0)
    log = log_of(tmp_path / "a.tsv", ["1\t0", f"0\t{math.exp(2) - 1!r}"])
    prepare_small([log], tmp_path / "a", schema=schema, split=none)
    new = log_of(tmp_path / "b.tsv", [f"1\t{math.e - 1!r}", "0\t7", "0\t"])
    prepare_small([new], tmp_path / "b", schema=schema, fitted=load_spec(tmp_path / "a"), split=none)
    found = whole(tmp_path / "b")["dense_x"].to_numpy()
    np.testing.assert_allclose(found, [0.0, 3 * math.log(2) - 1, math.nan], atol=1e-6)


def test_spec_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    """Schema, scales, ids and digest."""
    prepare_small([small_log(tmp_path / "log.tsv", 300)], tmp_path / "out")
    spec = load_spec(tmp_path / "out")
    (tmp_path / "copy").mkdir()
    spec.save(tmp_path / "copy")
    copy = load_spec(tmp_path / "copy")
    assert (copy.schema, copy.scales, copy.digest) == (spec.schema, spec.scales, spec.digest)
    assert copy.sizes == spec.sizes
    for name in spec.id_fields:
        np.testing.assert_array_equal(copy.ids[name], spec.ids[name])


def changed_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change of what spec.json says."""

    def apply(folder: Path) -> None:
        path = folder / "spec.json"
        readable = json.loads(path.read_text(encoding="utf-8"))
        change(readable)
        path.write_text(json.dumps(readable), encoding="utf-8")

    return apply


def changed_ids(folder: Path) -> None:
    """Puts ids that another spec would have beside spec.json."""
    spec = load_spec(folder)
    ids = {name: values.copy() for name, values in spec.ids.items()}
    ids["a"][[0, 1]] = ids["a"][[1, 0]] + 1
    said = (folder / "spec.json").read_text(encoding="utf-8")
    FeatureSpec(spec.schema, spec.scales, ids).save(folder)
    (folder / "spec.json").write_text(said, encoding="utf-8")


def without_ids_of_a_field(folder: Path) -> None:
    """Puts the ids of a schema with one field less beside spec.json."""
    spec = load_spec(folder)
    schema = SMALL.model_copy(update={"categorical": SMALL.categorical[:1]})
    said = (folder / "spec.json").read_text(encoding="utf-8")
    FeatureSpec(schema, spec.scales, {name: spec.ids[name] for name in ("n1", "n2", "a")}).save(folder)
    (folder / "spec.json").write_text(said, encoding="utf-8")


def cut(name: str) -> Callable[[Path], None]:
    """Cuts a file to its first half."""

    def apply(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return apply


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(changed_json(lambda said: said["scales"]["n1"].update(mean=0.5)), id="another mean"),
        pytest.param(changed_json(lambda said: said["scales"]["n1"].pop("std")), id="no deviation"),
        pytest.param(changed_json(lambda said: said["scales"].pop("n1")), id="no scale"),
        pytest.param(changed_json(lambda said: said["schema"].update(separator=",")), id="another schema"),
        pytest.param(changed_json(lambda said: said["schema"].update(seperator=",")), id="an unknown key"),
        pytest.param(changed_json(lambda said: said.pop("schema")), id="no schema"),
        pytest.param(changed_json(lambda said: said.update(version=99)), id="another version"),
        pytest.param(changed_json(lambda said: said.update(digest="0" * 64)), id="another digest"),
        pytest.param(changed_json(lambda said: said.pop("digest")), id="no digest"),
        pytest.param(lambda folder: (folder / "spec.json").write_text("[]", encoding="utf-8"), id="a list"),
        pytest.param(lambda folder: (folder / "spec.json").unlink(), id="no spec.json"),
        pytest.param(lambda folder: (folder / "spec.safetensors").unlink(), id="no ids"),
        pytest.param(changed_ids, id="other ids"),
        pytest.param(without_ids_of_a_field, id="ids of fewer fields"),
        pytest.param(cut("spec.json"), id="half of spec.json"),
        pytest.param(cut("spec.safetensors"), id="half of the ids"),
    ],
)
def test_spec_that_was_tampered_with_is_refused(tamper: Callable[[Path], None], tmp_path: Path) -> None:
    """As bad input that names the folder, not with a fault of the program's own."""
    prepare_small([small_log(tmp_path / "log.tsv", 100)], tmp_path / "out")
    tamper(tmp_path / "out")
    with pytest.raises(BadInput, match=str(tmp_path / "out")):
        load_spec(tmp_path / "out")


# Killed processes

WORK = """
import sys, time
from pathlib import Path
from features.prepare import Split, prepare
from features.schema import Schema

def stop(stage, done, total):
    if stage == sys.argv[3]:
        print(stage, flush=True)
        time.sleep(600)

prepare([sys.argv[1]], Path(sys.argv[2]), schema=Schema.model_validate_json(sys.argv[4]), fitted=None,
        split=Split("time", 0.1, 0.1, 0), shard_rows=100, max_reject_rate=0.01, seed=0, progress=stop)
"""


@pytest.mark.processes
@pytest.mark.parametrize("stage", ["reading", "encoding"])
def test_killed_process_leaves_no_output_and_the_next_run_clears_up(stage: str, tmp_path: Path) -> None:
    """The process gets no chance to tidy; what it leaves is hidden, and gone after the next run."""
    log = small_log(tmp_path / "log.tsv", 300)
    root = str(Path(features.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(log), str(tmp_path / "out"), stage, SMALL.model_dump_json()],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline().strip() == stage
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert left_in(tmp_path) == [f".out.{process.pid}.partial", "log.tsv"]
    assert any((tmp_path / f".out.{process.pid}.partial").iterdir())
    manifest = prepare_small([log], tmp_path / "out")
    assert manifest["rows"] == 300
    assert left_in(tmp_path) == ["log.tsv", "out"]
    assert whole(tmp_path / "out").height == 300


def test_partial_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    """Somebody else is at work on it."""
    theirs = tmp_path / f".out.{os.getppid()}.partial"
    theirs.mkdir()
    prepare_small([small_log(tmp_path / "log.tsv", 30)], tmp_path / "out")
    assert left_in(tmp_path) == [theirs.name, "log.tsv", "out"]
