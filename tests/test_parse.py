"""Lines, JSON objects and Parquet rows to typed rows and rejected ones, wherever the blocks that they come in end."""

import csv
import datetime
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features import blocks
from features.blocks import read_blocks
from features.errors import BadInput
from features.parse import ROW, TIME, WEIGHT, Batch
from features.schema import Categorical, Numeric, Schema, Time
from features.sources import Source, open_sources, read_batches

TSV = Schema(numeric=(Numeric(name="n"), Numeric(name="x", kind="float")), categorical=(Categorical(name="c"),))
CSV = TSV.model_copy(update={"separator": ","})
HEADED = CSV.model_copy(update={"header": True})
TIMED = Schema(
    time=Time(name="t", derive=("hour_of_day",)),
    weight="w",
    numeric=(Numeric(name="n"),),
    categorical=(Categorical(name="c"),),
)

Parsed = tuple[list[tuple[Any, ...]], list[tuple[int, str]]]


def written(folder: Path, content: bytes, name: str = "log.tsv") -> Path:
    """A file with these bytes."""
    path = folder / name
    path.write_bytes(content)
    return path


def outcome(batches: list[Batch]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Good rows and rejected ones of all batches."""
    return pl.concat([batch.frame for batch in batches]), pl.concat([batch.rejected for batch in batches])


def read(path: Path, schema: Schema = TSV) -> Parsed:
    """Good rows (number, label, values; "" as None) and rejected ones (line, reason) of a file."""
    frame, rejected = outcome(list(read_batches(open_sources([str(path)], schema), schema)))
    rows = frame.with_columns(pl.col(pl.String).replace("", None)).rows()
    return rows, [(row["line"], row["reason"]) for row in rejected.iter_rows(named=True)]


def rows_of_text(content: bytes, folder: Path, schema: Schema = TSV, name: str = "log.tsv") -> Parsed:
    """The same of a file with these bytes."""
    return read(written(folder, content, name), schema)


GOOD = [(0, 1.0, 3.0, 1.5, "a"), (1, 0.0, None, -2.0, "b"), (2, 1.0, 4.0, None, None)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"1\t3\t1.5\ta\n0\t\t-2\tb\n1\t4\t\t\n", id="plain"),
        pytest.param(b"1\t3\t1.5\ta\n0\t\t-2\tb\n1\t4\t\t", id="last line without end"),
        pytest.param(b"\xef\xbb\xbf1\t3\t1.5\ta\n0\t\t-2\tb\n1\t4\t\t\n", id="byte-order mark"),
        pytest.param(b"1\t3\t1.5\ta\r\n0\t\t-2\tb\r\n1\t4\t\t\r\n", id="ends of lines as on Windows"),
        pytest.param(b"1\t3\t1.5\ta\r\n0\t\t-2\tb\n1\t4\t\t\r\n", id="both ends of lines"),
        pytest.param(b"\xef\xbb\xbf1\t3\t1.5\ta\r\n0\t\t-2\tb\r\n1\t4\t\t", id="all of it"),
    ],
)
def test_same_rows_however_the_file_was_written(content: bytes, tmp_path: Path) -> None:
    """Also beside a line that is bad."""
    assert rows_of_text(content, tmp_path) == (GOOD, [])
    end = b"" if content.endswith(b"\n") else b"\n"
    assert rows_of_text(content + end + b"bad\n", tmp_path) == (GOOD, [(4, "1 fields instead of 4")])


@pytest.mark.parametrize("content", [b"1\t3\t1\ta\rb\n0\t1\t2\tc\r\r\n", b"1\t3\t1\ta\rb\n0\t1\t2\tc\r\r"])
def test_one_carriage_return_ends_a_line_and_others_are_part_of_the_value(content: bytes, tmp_path: Path) -> None:
    """In a block with a bad line, too."""
    assert rows_of_text(content, tmp_path)[0] == [(0, 1.0, 3.0, 1.0, "a\rb"), (1, 0.0, 1.0, 2.0, "c\r")]
    assert rows_of_text(b"bad\n" + content, tmp_path)[0] == [(1, 1.0, 3.0, 1.0, "a\rb"), (2, 0.0, 1.0, 2.0, "c\r")]


def test_blank_lines_are_rejected_and_counted(tmp_path: Path) -> None:
    """The numbers of the lines after them are right."""
    rows, rejected = rows_of_text(b"\n1\t3\t1.5\ta\n\n\n0\t1\t1\tb\n\n", tmp_path)
    assert rows == [(1, 1.0, 3.0, 1.5, "a"), (4, 0.0, 1.0, 1.0, "b")]
    assert rejected == [(line, "1 fields instead of 4") for line in (1, 3, 4, 6)]


def test_field_too_few_and_one_too_many_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    """The block has as many separators as it should have; both rows are rejected, in either order."""
    for bad in ([b"1\t3\t1", b"0\t1\t2\tc\td"], [b"0\t1\t2\tc\td", b"1\t3\t1"], [b"", b"0\t1\t2\tc\td\te\tf\t"]):
        content = b"\n".join([b"1\t1\t1\tz", *bad, b"0\t1\t1\ty", b""])
        rows, rejected = rows_of_text(content, tmp_path)
        assert [row[0] for row in rows] == [0, 3]
        assert rejected == [(2 + i, f"{line.count(9) + 1} fields instead of 4") for i, line in enumerate(bad)]


@pytest.mark.parametrize("line", [1, 2, 500, 999, 1000])
@pytest.mark.parametrize("size", [64, 1000, 2**20])
def test_row_of_no_utf8_is_rejected_alone(line: int, size: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Of 1,000, in whichever block it is; its bytes are kept as escapes."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    lines = [f"{i % 2}\t{i}\t0.5\tü{i}".encode() for i in range(1000)]
    lines[line - 1] = b"1\t7\t0.5\tab\xff\xfecd"
    path = written(tmp_path, b"".join(text + b"\n" for text in lines))
    frame, rejected = outcome(list(read_batches(open_sources([str(path)], TSV), TSV)))
    assert frame[ROW].to_list() == [i for i in range(1000) if i != line - 1]
    assert frame["c"].to_list() == [f"ü{i}" for i in range(1000) if i != line - 1]
    assert rejected.row(0, named=True) == {
        "file": str(path),
        "line": line,
        "reason": "byte 11 of the line, 0xff, is not UTF-8",
        "text": "1\t7\t0.5\tab\\xff\\xfecd",
    }
    assert rejected.height == 1


def test_nul_bytes_are_part_of_a_value_and_of_no_number(tmp_path: Path) -> None:
    """They end nothing."""
    rows, rejected = rows_of_text(b"1\t1\t1\ta\x00b\n0\t1\x00\t1\tc\n0\t2\t1\t\x00\n", tmp_path)
    assert rows == [(0, 1.0, 1.0, 1.0, "a\x00b"), (2, 0.0, 2.0, 1.0, "\x00")]
    assert rejected == [(2, "n is '1\\x00', no integer")]


@pytest.mark.parametrize("bad", [False, True])
def test_line_longer_than_many_blocks_is_one_line(bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in it."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    value = "lüng" * 50_000
    label = "2" if bad else "1"
    content = f"1\t1\t1\ta\n{label}\t1\t1\t{value}\n0\t1\t1\tb\n".encode()
    rows, rejected = rows_of_text(content, tmp_path)
    assert [row[0] for row in rows] == ([0, 2] if bad else [0, 1, 2])
    assert rows[-1][-1] == "b"
    assert rejected == ([(2, "label is '2', neither 0 nor 1")] if bad else [])
    assert bad or rows[1][-1] == value


NUMBERS: dict[str, float | None] = {
    "3": 3,
    "+3": 3,
    "-3": -3,
    " 3": 3,
    "   -3": -3,
    "": None,
    " ": None,
    "007": 7,
    "1e3": 1000,
    "2.0": 2,
    "9223372036854775807": 2.0**63,
    "9223372036854775808": 2.0**63,
    "9007199254740993": 2.0**53,
    "123456789012345678901234567890": 123456789012345678901234567890.0,
    "-99999999999999999999": -1e20,
    "1e300": 1e300,
}
NO_INTEGERS = ["1.5", "3 ", "x", "0x10", "1_000", "1,000", "nan", "inf", "-inf", "1e400", "--3", "3-", "1e", "٣", "-"]


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("text", NUMBERS)
def test_ways_to_write_an_integer(text: str, dirty: bool, tmp_path: Path) -> None:
    """Each gives the same number in a block with a bad line as in one without."""
    content = f"1\t{text}\t{text}\ta\n0\t1\t1\tb\n{'bad' * dirty}\n"[: None if dirty else -1].encode()
    rows, rejected = rows_of_text(content, tmp_path)
    assert rows == [(0, 1.0, NUMBERS[text], NUMBERS[text], "a"), (1, 0.0, 1.0, 1.0, "b")]
    assert [line for line, _ in rejected] == [3] * dirty


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("text", NO_INTEGERS)
def test_what_is_no_integer(text: str, dirty: bool, tmp_path: Path) -> None:
    """The row is rejected with its value, and the one beside it is not."""
    content = f"1\t{text}\t1\ta\n0\t1\t1\tb\n{'bad' * dirty}\n"[: None if dirty else -1].encode()
    rows, rejected = rows_of_text(content, tmp_path)
    assert rows == [(1, 0.0, 1.0, 1.0, "b")]
    assert rejected[0] == (1, f"n is {text!r}, no integer")


@pytest.mark.parametrize("dirty", [False, True])
def test_minus_zero_is_zero_in_a_field_of_integers(dirty: bool, tmp_path: Path) -> None:
    """A sign that depended on the rows beside would change the bytes of a shard."""
    rows, _ = rows_of_text(b"1\t-0\t-0.0\ta\n0\t1\t1\tb\n" + b"bad\n" * dirty, tmp_path)
    assert [math.copysign(1, value) for value in rows[0][2:4]] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("text", "label"),
    [("1", 1.0), ("0", 0.0), ("1.0", 1.0), ("0.0", 0.0), (" 1", 1.0), ("+1", 1.0), ("1e0", 1.0)]
    + [(text, None) for text in ("true", "True", "false", "", "2", "-1", "0.5", "nan", "yes", "1 ", "01x", "-")],
)
@pytest.mark.parametrize("dirty", [False, True])
def test_labels(text: str, label: float | None, dirty: bool, tmp_path: Path) -> None:
    """0 and 1 as numbers; in text without types, `true` is none."""
    rows, rejected = rows_of_text(f"{text}\t1\t1\ta\n0\t1\t1\tb\n".encode() + b"bad\n" * dirty, tmp_path)
    assert [row[1] for row in rows] == ([0.0] if label is None else [label, 0.0])
    assert [line for line, _ in rejected] == [1] * (label is None) + [3] * dirty


@pytest.mark.parametrize("text", ["-1", "", "nan", "inf", "x", "1e999"])
def test_weights_that_are_none(text: str, tmp_path: Path) -> None:
    """Only finite numbers of 0 or more."""
    rows, rejected = rows_of_text(f"1\t{text}\t5\t3\ta\n0\t0\t5\t3\ta\n1\t2.5\t5\t3\ta\n".encode(), tmp_path, TIMED)
    assert [row[3] for row in rows] == [0.0, 2.5]
    assert rejected == [(1, f"w is {text!r}, no weight of 0 or more")]


def test_first_thing_wrong_with_a_row_is_named_in_the_order_of_the_checks(tmp_path: Path) -> None:
    """One reason a row, the label's before the weight's before the time's before the numbers'."""
    lines = ["9\t-1\tsoon\tx\ta", "1\t-1\tsoon\tx\ta", "1\t1\tsoon\tx\ta", "1\t1\t5\tx\ta", "1\t1\t5\t3\ta"]
    rows, rejected = rows_of_text("\n".join(lines).encode(), tmp_path, TIMED)
    assert rows == [(4, 1.0, 5, 1.0, 3.0, "5", "a")]
    assert [reason.split(" is ")[0] for _, reason in rejected] == ["label", "w", "t", "n"]


# Quotes


def test_quotes(tmp_path: Path) -> None:
    """They may hold separators and, doubled, themselves; where they do not pair the row is rejected."""
    lines = [
        '1,3,1,"a,b"',
        '0,1,2,"c""d"',
        '1,1,1,"un',
        '1,1,1,e"f',
        '1,1,1,"a"b',
        '"1","2","0.5","q"',
        '1,1,"1,5",z',
        '1,1,1,""',
        '1,1,1,"a","b"',
        "1,1,1,plain",
    ]
    rows, rejected = rows_of_text("\n".join(lines).encode(), tmp_path, CSV, "log.csv")
    values = {row[0]: row[-1] for row in rows}
    assert values == {0: "a,b", 1: 'c"d', 3: 'e"f', 5: "q", 7: None, 9: "plain"}
    reasons = dict(rejected)
    assert sorted(reasons) == [3, 5, 7, 9]
    assert all(reasons[line].startswith("quotes do not pair") for line in (3, 5))
    assert (reasons[7], reasons[9]) == ("x is '1,5', no finite number", "5 fields instead of 4")


def test_quote_in_one_line_changes_nothing_for_another(tmp_path: Path) -> None:
    """Values longer than the csv module takes, and carriage returns in a value, are borne beside a quote."""
    long = "x" * 200_000
    rows, rejected = rows_of_text(f"1,1,1,{long}\n0,1,1,a\rb\n".encode(), tmp_path, CSV, "log.csv")
    assert ([row[-1] for row in rows], rejected) == ([long, "a\rb"], [])
    rows, rejected = rows_of_text(f'1,1,1,{long}\n0,1,1,a\rb\n1,1,1,"q"\n'.encode(), tmp_path, CSV, "log.csv")
    assert ([row[-1] for row in rows], rejected) == ([long, "a\rb", "q"], [])


def test_long_quoted_value_is_read(tmp_path: Path) -> None:
    """Like one without quotes."""
    long = "x," * 100_000
    rows, rejected = rows_of_text(f'1,1,1,"{long}"\n'.encode(), tmp_path, CSV, "log.csv")
    assert ([row[-1] for row in rows], rejected) == ([long], [])


def test_quotes_are_plain_characters_where_values_do_not_stand_in_them(tmp_path: Path) -> None:
    """In tab-separated logs, and in others where the schema says so."""
    rows, rejected = rows_of_text(b'1\t1\t1\t"a\n0\t1\t1\tb"c"\n', tmp_path)
    assert ([row[-1] for row in rows], rejected) == (['"a', 'b"c"'], [])
    bare = CSV.model_copy(update={"quoted": False})
    rows, rejected = rows_of_text(b'1,1,1,"a\n0,1,1,"b,c"\n', tmp_path, bare, "log.csv")
    assert ([row[-1] for row in rows], rejected) == (['"a'], [(2, "5 fields instead of 4")])
    quoted = TSV.model_copy(update={"quoted": True})
    assert rows_of_text(b'1\t1\t1\t"a\tb"\n', tmp_path, quoted)[0] == [(0, 1.0, 1.0, 1.0, "a\tb")]


@pytest.mark.parametrize("labelled", [True, False])
def test_separators_in_quotes_do_not_hide_whether_there_are_labels(labelled: bool, tmp_path: Path) -> None:
    """A log without a header has them if its lines have as many values."""
    lines = ['1,2,"a,b"', '3,4,"c,d"']
    content = "\n".join(f"{i},{line}" if labelled else line for i, line in enumerate(lines)).encode()
    rows, rejected = rows_of_text(content, tmp_path, CSV, "log.csv")
    assert [row[1] for row in rows] == ([0.0, 1.0] if labelled else [None, None])
    assert [row[-1] for row in rows] == ["a,b", "c,d"]
    assert rejected == []


def test_header_may_stand_in_quotes_behind_a_byte_order_mark(tmp_path: Path) -> None:
    """As spreadsheets write it."""
    content = b'\xef\xbb\xbf"x","label","c","n"\r\n1.5,1,"a",3\r\n'
    assert rows_of_text(content, tmp_path, HEADED, "log.csv") == ([(0, 1.0, 3.0, 1.5, "a")], [])


@pytest.mark.parametrize("content", [b"label,n,x,c", b"label,n,x,c\n", b"label,n,x,c\r\n"])
def test_header_alone_has_no_rows(content: bytes, tmp_path: Path) -> None:
    """With an end of line or without."""
    (source,) = open_sources([str(written(tmp_path, content, "log.csv"))], HEADED)
    assert source.rows == 0
    assert list(read_batches([source], HEADED)) == []


@pytest.mark.parametrize("size", [1, 7, 64])
def test_header_longer_than_a_block_is_a_header(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it ends."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    content = b"label,n,x,c\n1,3,1.5,a\n0,,-2,b\n1,4,,\nbad\n"
    assert rows_of_text(content, tmp_path, HEADED, "log.csv") == (GOOD, [(5, "1 fields instead of 4")])


# Every line once, wherever blocks end


def reference(line: bytes, separator: str, quoted: bool) -> tuple[Any, ...] | None:
    """What a line is by the rules, read by Python alone; None if it is to be rejected."""
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        return None
    values = text.split(separator)
    if quoted and '"' in text:
        try:
            values = next(csv.reader([text], delimiter=separator, strict=True))
        except csv.Error:
            return None
    if len(values) != 4:
        return None
    label, n, x = (number(value) for value in values[:3])
    if label is False or label not in {0.0, 1.0} or n is False or x is False or (n is not None and n != math.floor(n)):
        return None
    return (label, n, x, values[3] or None)


def number(text: str) -> float | bool | None:
    """The finite number that a text is, None for an empty one, False for anything else."""
    text = text.removesuffix("\r")
    if not text.strip(" \t"):
        return None
    written = re.fullmatch(r"[ \t]*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)", text)
    return float(written[1]) if written and math.isfinite(float(written[1])) else False


some_number = st.sampled_from(
    [
        *(b"3", b"-7", b"0", b"+3", b" 4", b"", b"2.5", b"1e3", b"99999999999999999999", b"-0", b".5", b"5.", b"\t1"),
        *(
            b"x",
            b"3 ",
            b" ",
            b"nan",
            b"inf",
            b"1e400",
            b"\x00",
            b"0x1",
            b"\xff",
            b"1\r",
            b'"2"',
            b"9223372036854775807",
        ),
    ]
)
some_text = st.one_of(
    st.sampled_from([b"a", b"", b"b\r", b"\xff", b"\xc3\xbc", b'"q"', b'"', b'a"b', b'""', b"\x00", b" ", b"z" * 70]),
    st.text(max_size=6).map(lambda text: text.replace("\n", "").encode(errors="replace")),
)
good_line = st.tuples(st.sampled_from([b"0", b"1"]), st.sampled_from([b"3", b"-7", b""]), st.just(b"0.5"), some_text)
some_label = st.sampled_from([b"0", b"1", b"1.0", b" 1", b"2", b"", b"true"])
any_line = st.tuples(some_label, some_number, some_number, some_text)
bad_line = st.lists(some_text, max_size=6)
a_line = st.one_of(good_line, good_line, any_line, bad_line)


@settings(
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    lines=st.lists(a_line, min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
    schema=st.sampled_from([TSV, CSV]),
)
def test_every_line_is_kept_or_rejected_once_whatever_the_blocks(
    lines: list[tuple[bytes, ...]], sizes: list[int], end: bytes, last: bool, schema: Schema, tmp_path: Path
) -> None:
    """As Python alone reads each line by itself; the same rows, reasons and texts for every size of block."""
    content = end.join(schema.separator.encode().join(line) for line in lines) + (end if last else b"")
    if not content or content.startswith(b"\xef\xbb\xbf"):
        return
    whole = content.split(b"\n")[: -1 if content.endswith(b"\n") else None]
    path = written(tmp_path, content)
    source = Source(str(path), "text", len(whole), True, tuple(schema.columns))
    found: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for size in (2**20, *sizes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_BYTES", size)
            batches = list(read_batches([source], schema))
        assert sum(batch.read for batch in batches) == len(whole)
        found.append(outcome(batches))
    expected = {i: reference(line, schema.separator, schema.quote is not None) for i, line in enumerate(whole)}
    frame, rejected = found[0]
    rows = frame.with_columns(pl.col(pl.String).replace("", None)).rows()
    assert {row[0]: row[1:] for row in rows} == {i: row for i, row in expected.items() if row is not None}
    assert rejected["line"].to_list() == [i + 1 for i, row in expected.items() if row is None]
    for kept, aside in found[1:]:
        empty_as_null = pl.col("c").replace("", None)
        assert_frame_equal(kept.with_columns(empty_as_null), frame.with_columns(empty_as_null))
        assert_frame_equal(aside, rejected)


# JSON


def object_line(**values: Any) -> bytes:
    """A good object with these values changed; `...` leaves a key out."""
    whole = {"label": 1, "n": 3, "x": 1.5, "c": "a", **values}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (object_line(), (1.0, 3.0, 1.5, "a")),
        (object_line(n=..., x=..., c=...), (1.0, None, None, None)),
        (object_line(n=None, x=None, c=None), (1.0, None, None, None)),
        (object_line(label="0", n="7", x="-2.5", c=5), (0.0, 7.0, -2.5, "5")),
        (object_line(label=True, c=True), (1.0, 3.0, 1.5, "true")),
        (object_line(label=False, c=""), (0.0, 3.0, 1.5, None)),
        (object_line(label=1.0, n=1000.0, x=2), (1.0, 1000.0, 2.0, "a")),
        (object_line(n=18446744073709551615), (1.0, 2.0**64, 1.5, "a")),
        (object_line(c="ü\n\t\u0000\u2028", other=[1, {"deep": None}]), (1.0, 3.0, 1.5, "ü\n\t\u0000\u2028")),
        (b' {"c":"\\u00fc","x":1e-3,"n":-0,"label":0} \r', (0.0, 0.0, 0.001, "ü")),
    ],
)
@pytest.mark.parametrize("bad", [b"", b"{\n", b"\n", b"[]\n", b'{"label": 1, "n": NaN}\n', b"\xff\n"])
def test_json_objects(line: bytes, row: tuple[Any, ...], bad: bytes, tmp_path: Path) -> None:
    """Keys may be absent, numbers may be text and text numbers; broken lines beside change nothing."""
    content = object_line() + b"\n" + bad + line + b"\n" + object_line(c="z") + b"\n"
    rows, rejected = rows_of_text(content, tmp_path, TSV, "log.ndjson")
    assert [found[1:] for found in rows] == [(1.0, 3.0, 1.5, "a"), row, (1.0, 3.0, 1.5, "z")]
    assert [line for line, _ in rejected] == [2] * bool(bad)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (object_line(n=1.5), "n is '1.5', no integer"),
        (object_line(n=True), "n is 'true', no integer"),
        (object_line(n=[1]), "n is '[1]', no integer"),
        (object_line(n={"a": 1}), "no integer"),
        (object_line(x="much"), "x is 'much', no finite number"),
        (object_line(label=...), "label is None, neither 0 nor 1"),
        (object_line(label="yes"), "label is 'yes', neither 0 nor 1"),
        (b"{}", "label is None, neither 0 nor 1"),
        (b"", "no JSON"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b'"text"', "a JSON str, not an object"),
        (b"null", "a JSON NoneType, not an object"),
        (b'{"label": 1', "no JSON"),
        (object_line() + object_line(), "no JSON: Extra data"),
        (object_line()[:-1] + b', "c": "\xff"}', "0xff, is not UTF-8"),
        (b'{"label": 1, "x": NaN}', "JSON"),
        (b'{"label": 1, "x": Infinity}', "JSON"),
        (b'{"label": 1, "x": 1e999}', "JSON"),
        (b'{"label": 1, "c": "a\tb"}', "no JSON: Invalid control character"),
    ],
)
@pytest.mark.parametrize("size", [2**20, 60])
def test_json_lines_that_are_rejected(line: bytes, reason: str, size: int, tmp_path: Path, monkeypatch: Any) -> None:
    """The line alone, whichever block it is in, with the text that it has in the file."""
    content = b"".join(text + b"\n" for text in (object_line(), line, object_line(c="b")))
    path = written(tmp_path, content, "log.ndjson")
    sources = open_sources([str(path)], TSV)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    frame, rejected = outcome(list(read_batches(sources, TSV)))
    assert frame[ROW].to_list() == [0, 2]
    assert frame["c"].to_list() == ["a", "b"]
    (row,) = rejected.iter_rows(named=True)
    assert row["line"] == 2
    assert reason in row["reason"]
    assert row["text"] == line.decode(errors="backslashreplace")


json_line = st.one_of(
    st.builds(
        object_line,
        label=st.sampled_from([0, 1, True, "1", 2, None]),
        n=st.one_of(st.integers(-(10**25), 10**25), st.sampled_from([1.5, "x", "4", True, [1], None])),
        x=st.one_of(st.floats(width=32), st.sampled_from(["1", "y", None])),
        c=st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(), st.none()),
        extra=st.recursive(st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=2), max_leaves=3),
    ),
    st.builds(object_line),
    st.builds(object_line),
    st.sampled_from([b"", b"{", b"[]", b"1", b"\xff", b"{}", object_line() * 2, b'{"label":1,"x":1e999}', b"}"]),
)


@settings(
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lines=st.lists(json_line, min_size=1, max_size=15), sizes=st.lists(st.integers(1, 500), max_size=3))
def test_every_json_line_is_kept_or_rejected_once_whatever_the_blocks(
    lines: list[bytes], sizes: list[int], tmp_path: Path
) -> None:
    """The same rows, lines, reasons and texts for every size of block, and as many as there are lines."""
    path = written(tmp_path, b"".join(line + b"\n" for line in lines), "log.ndjson")
    source = Source(str(path), "ndjson", len(lines), True, tuple(TSV.columns))
    found: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for size in (2**20, 1, *sizes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_BYTES", size)
            found.append(outcome(list(read_batches([source], TSV))))
    frame, rejected = found[0]
    bad = [line - 1 for line in rejected["line"].to_list()]
    assert sorted([*frame[ROW].to_list(), *bad]) == list(range(len(lines)))
    assert rejected["text"].to_list() == [lines[i].decode(errors="backslashreplace") for i in bad]
    for kept, aside in found[1:]:
        assert_frame_equal(kept, frame)
        assert_frame_equal(aside, rejected)


# Parquet


def parquet(folder: Path, **columns: Any) -> Path:
    """A file with these columns."""
    path = folder / "log.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_parquet_of_other_types_and_another_order(tmp_path: Path) -> None:
    """Labels as truth values, integer categories, numbers as text, columns that no field has."""
    path = parquet(tmp_path, c=[5, None], more=[[1], []], x=["1.5", None], n=[3, -4], label=[True, False])
    assert read(path) == ([(0, 1.0, 3.0, 1.5, "5"), (1, 0.0, -4.0, None, None)], [])


MOMENT = datetime.datetime(2024, 2, 29, 13, 5, 6)


@pytest.mark.parametrize(
    ("format_", "text", "seconds"),
    [
        ("unix", "1709211906", 1709211906),
        ("unix_ms", "1709211906000", 1709211906),
        ("%Y-%m-%d %H:%M:%S", "2024-02-29 13:05:06", 1709211906),
        ("%y%m%d%H", "24022913", 1709211600),
    ],
)
def test_parquet_with_a_column_of_moments(format_: str, text: str, seconds: int, tmp_path: Path) -> None:
    """They are taken for what a log in text would have there; a missing one rejects its row."""
    schema = TIMED.model_copy(update={"time": Time(name="t", format=format_, derive=("hour_of_day",))})
    path = parquet(tmp_path, t=[MOMENT, None], w=[1, 2], n=[3, 3], c=["a", "a"], label=[1, 0])
    rows, rejected = read(path, schema)
    assert rows == [(0, 1.0, seconds, 1.0, 3.0, text, "a")]
    assert rejected == [(2, f"t is None, no time of the format {format_}")]


@pytest.mark.parametrize("format_", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "unix"])
def test_parquet_with_a_column_of_days(format_: str, tmp_path: Path) -> None:
    """A day begins at midnight."""
    schema = TIMED.model_copy(update={"time": Time(name="t", format=format_)})
    path = parquet(tmp_path, t=[MOMENT.date()], w=[1], n=[3], c=["a"], label=[1])
    frame, rejected = outcome(list(read_batches(open_sources([str(path)], schema), schema)))
    assert (frame[TIME].to_list(), rejected.height) == ([1709164800], 0)


def test_parquet_with_bad_rows(tmp_path: Path) -> None:
    """Numbers that are not finite, no whole ones, labels and weights out of range: each with its row from 1."""
    path = parquet(
        tmp_path,
        label=[1, 2, None, 0, 1, 1, 0],
        w=[1.0, 1.0, 1.0, -1.0, math.nan, 1.0, 0.0],
        t=[1, 2, 3, 4, 5, 6, 7],
        n=[1.0, 1.0, 1.0, 1.0, 1.0, 1.5, -2.0],
        c=["a"] * 7,
    )
    rows, rejected = read(path, TIMED)
    assert [row[0] for row in rows] == [0, 6]
    assert [(line, reason.split(" is ")[0]) for line, reason in rejected] == [
        (2, "label"),
        (3, "label"),
        (4, "w"),
        (5, "w"),
        (6, "n"),
    ]


@pytest.mark.parametrize("column", ["label", "n", "c"])
def test_parquet_with_a_column_of_lists_is_refused(column: str, tmp_path: Path) -> None:
    """As bad input that names the file, not as a fault of the program's own."""
    columns: dict[str, Any] = {"label": [1], "n": [1], "x": [1.0], "c": ["a"]}
    with pytest.raises(BadInput, match=r"log\.parquet cannot be read"):
        read(parquet(tmp_path, **{**columns, column: [[1]]}))


# Compressed files


def zstd(content: bytes) -> bytes:
    """One frame."""
    return pa.compress(content, "zstd", asbytes=True)


@pytest.mark.parametrize(("ending", "pack"), [("tsv.gz", gzip.compress), ("tsv.zst", zstd)])
@pytest.mark.parametrize("size", [3, 50, 2**20])
def test_several_members_are_one_file(ending: str, pack: Any, size: int, tmp_path: Path, monkeypatch: Any) -> None:
    """As `cat` makes them; also where a line, or a byte-order mark, begins in one and ends in the next."""
    content = b"\xef\xbb\xbf1\t3\t1.5\ta\n0\t\t-2\tb\n1\t4\t\t\n"
    path = written(tmp_path, pack(content[:9]) + pack(b"") + pack(content[9:12]) + pack(content[12:]), f"log.{ending}")
    (source,) = open_sources([str(path)], TSV)
    assert source.rows == 3
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    frame, rejected = outcome(list(read_batches([source], TSV)))
    assert frame.with_columns(pl.col("c").replace("", None)).rows() == GOOD
    assert rejected.height == 0


@pytest.mark.parametrize(("ending", "pack"), [("tsv.gz", gzip.compress), ("tsv.zst", zstd)])
@pytest.mark.parametrize("missing", [1, 5, 12])
def test_cut_compressed_files_are_refused(ending: str, pack: Any, missing: int, tmp_path: Path) -> None:
    """Whether it is their only member or their last."""
    content = "".join(f"1\t{i * i}\t1.5\ta{i * 7919 % 997}\n" for i in range(500)).encode()
    for whole in (pack(content), pack(content) + pack(content)):
        path = written(tmp_path, whole[:-missing], f"log.{ending}")
        with pytest.raises(BadInput, match=rf"log\.{ending} cannot be read"):
            open_sources([str(path)], TSV)


def test_files_of_all_kinds_are_read_together(tmp_path: Path) -> None:
    """Rows are numbered through, lines and names of rejected ones are each file's own."""
    plain = written(tmp_path, b"1\t1\t1\ta\nbad\n", "1.tsv")
    packed = written(tmp_path, gzip.compress(b"bad\n0\t2\t1\tb"), "2.tsv.gz")
    squeezed = written(tmp_path, zstd(b"1\t3\t1\tc\n"), "3.tsv.zst")
    objects = written(tmp_path, object_line(n=4, c="d") + b"\n{\n", "4.ndjson")
    table = parquet(tmp_path, label=[1, 5], n=[5, 5], x=[1.0, 1.0], c=["e", "f"])
    paths = [str(path) for path in (plain, packed, squeezed, objects, table)]
    frame, rejected = outcome(list(read_batches(open_sources(paths, TSV), TSV)))
    assert frame.select(ROW, "n", "c").rows() == [(0, 1, "a"), (3, 2, "b"), (4, 3, "c"), (5, 4, "d"), (7, 5, "e")]
    assert rejected.select("file", "line").rows() == [(paths[0], 2), (paths[1], 1), (paths[3], 2), (paths[4], 2)]


def test_unlabelled_rows_need_no_weight(tmp_path: Path) -> None:
    """What is only to be scored counts as 1, in JSON and Parquet."""
    for path in (
        parquet(tmp_path, t=[5], n=[3], c=["a"]),
        written(tmp_path, b'{"t": 5, "n": 3, "c": "a"}\n', "log.ndjson"),
    ):
        frame, _ = outcome(list(read_batches(open_sources([str(path)], TIMED), TIMED)))
        assert (frame["label"].to_list(), frame[WEIGHT].to_list()) == ([None], [1.0])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_blocks_together_are_the_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole lines each, numbered from 1, none of them empty."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    content = b"\n\na\nbcdefghij\n\nk\r\nlast"
    found = list(read_blocks(str(written(tmp_path, content))))
    assert b"".join(block.content for block in found) == content
    assert [block.lines for block in found] == [len(block.content.splitlines()) for block in found]
    assert all(block.content.endswith(b"\n") for block in found[:-1])
    line = 1
    for block in found:
        assert (block.first_line, block.lines > 0) == (line, True)
        line += block.lines
