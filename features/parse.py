"""Text to typed rows, and the rows that cannot be read set aside with the reason.

A block of lines is first read as a whole, with types, which is fast and fails at anything odd. Only a block that has
something odd in it is gone through line by line.
"""

import csv
import sys
from dataclasses import dataclass

import polars as pl

from features.blocks import Block, count_byte
from features.schema import Schema
from features.times import parse_times

# A value may be as long as a line; the module's own limit is 128 kB.
csv.field_size_limit(sys.maxsize)

# Columns of ours beside those of the log, which may have any name but these.
ROW, TIME, WEIGHT, LINE, TEXT = "#row", "#time", "#weight", "#line", "#text"


@dataclass(frozen=True)
class Batch:
    """Rows of one file, in file order.

    Attributes:
        frame: ROW (UInt64, counted over all files from 0), label (Float64; null where the file has none), TIME (Int64,
            seconds) and WEIGHT (Float64) where the schema has them, numeric columns as Float64, categorical ones and
            the time, if fields come from it, as String, null where missing.
        rejected: `file`, `line` (from 1), `reason`, `text` of the rows that could not be read.
        read: rows read, good and rejected.
    """

    frame: pl.DataFrame
    rejected: pl.DataFrame
    read: int


@dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Attributes:
        columns: of the file, in order.
        first_row: the number of the file's first row.
        first_line: the line of the file's first row: 2 below a header.
    """

    path: str
    columns: tuple[str, ...]
    first_row: int
    first_line: int


def parse_lines(block: Block, origin: Origin, schema: Schema) -> Batch:
    """The rows of a block of separated values."""
    frame = _read_whole(block, origin, schema)
    if frame is not None:
        first = origin.first_row + block.first_line - origin.first_line
        rows = pl.int_range(first, first + frame.height, dtype=pl.UInt64, eager=True)
        # Put in front as it is: an expression would copy all the columns beside it.
        return Batch(frame.insert_column(0, rows.alias(ROW)), _no_rejects(), block.lines)
    lines = pl.DataFrame(
        {LINE: range(block.first_line, block.first_line + block.lines), TEXT: _lines(block.content)},
        schema={LINE: pl.UInt64, TEXT: pl.Binary},
    )
    decoded, rejected = _decode(lines)
    texts, miscounted = _split(decoded, origin, schema)
    batch = parse_texts(texts, origin, schema)
    aside = pl.concat([rejects(rejected, origin), rejects(miscounted, origin), batch.rejected])
    return Batch(batch.frame, aside.sort("line"), block.lines)


def parse_texts(texts: pl.DataFrame, origin: Origin, schema: Schema) -> Batch:
    """Rows with values that are texts or numbers: LINE, TEXT (the row as it was, if known) and the columns."""
    typed, problems = _typed(texts, schema)
    bad = pl.Series([False]).new_from_index(0, texts.height)
    for problem in problems.values():
        bad = bad | problem
    reasons = pl.Series([None], dtype=pl.String).new_from_index(0, texts.height)
    if bad.any():
        found = [
            _reason(row, next(name for name, flags in problems.items() if flags[at]), schema)
            for at, row in zip(bad.arg_true().to_list(), texts.filter(bad).iter_rows(named=True), strict=True)
        ]
        reasons = reasons.scatter(bad.arg_true(), found)
    rejected = split_off(texts, reasons)[1]
    if TEXT not in rejected.columns:
        rejected = rejected.with_columns(pl.struct(origin.columns).struct.json_encode().alias(TEXT))
    return Batch(_placed(typed.filter(~bad), origin), rejects(rejected, origin), texts.height)


def _read_whole(block: Block, origin: Origin, schema: Schema) -> pl.DataFrame | None:
    """A block's rows, typed but for their numbers; None if there is anything in it that has to be looked at."""
    content, columns = block.content, origin.columns
    # Polars takes a row with too few fields for one that ends with empty ones, so they are counted; a row with too
    # many it refuses.
    if count_byte(content, schema.separator) != block.lines * (len(columns) - 1) or len(columns) == 1:
        return None
    if schema.quote and schema.quote.encode() in content:
        return None
    types = _types(schema)
    known = {name: types.get(name, pl.String()) for name in columns}
    try:
        rows = pl.read_csv(content, separator=schema.separator, has_header=False, quote_char=None, schema=known)
    except pl.exceptions.PolarsError:
        return None
    if rows.height != block.lines:
        return None
    typed, problems = _typed(rows, schema)
    flags = pl.DataFrame([flags.alias(name) for name, flags in problems.items()])
    return None if flags.width and any(flags.select(pl.all().any()).row(0)) else typed


def _types(schema: Schema) -> dict[str, pl.DataType]:
    numbers = {f.name: pl.Int64() if f.kind == "integer" else pl.Float64() for f in schema.numeric}
    return {schema.label: pl.Float64(), **({schema.weight: pl.Float64()} if schema.weight else {}), **numbers}


def _typed(rows: pl.DataFrame, schema: Schema) -> tuple[pl.DataFrame, dict[str, pl.Series]]:
    """Rows of texts, or of what was read as numbers already, with types; and by field, where a value is unfit."""
    there = set(rows.columns)
    numbers = {name: dtype for name, dtype in _types(schema).items() if name in there}
    typed = rows.with_columns(_number(name, rows.schema[name], wanted) for name, wanted in numbers.items())
    problems: dict[str, pl.Series] = {}
    if schema.label in there:
        problems[schema.label] = ~typed[schema.label].is_in([0.0, 1.0]).fill_null(False)
    else:
        typed = typed.with_columns(pl.lit(None, dtype=pl.Float64).alias(schema.label))
    if schema.weight:
        # How much a row counts is not asked of rows that are only to be scored.
        known = schema.weight in there and schema.label in there
        weight = typed[schema.weight] if known else pl.repeat(1.0, rows.height, eager=True)
        problems[schema.weight] = ~(weight.is_finite() & (weight >= 0)).fill_null(False)
        typed = typed.with_columns(weight.alias(WEIGHT))
    if schema.time:
        texts = rows[schema.time.name].cast(pl.String)
        times = parse_times(texts, schema.time.format)
        problems[schema.time.name] = times.is_null()
        typed = typed.with_columns(times.alias(TIME), texts.alias(schema.time.name))
    for field in schema.numeric:
        if rows.schema[field.name] != pl.Int64:  # what was read as whole numbers is fit
            problems[field.name] = _unfit(typed[field.name], rows[field.name], field.kind)
    ours = [name for name in (LINE, TEXT, schema.label, TIME, WEIGHT) if name in typed.columns]
    return typed.select(*ours, *schema.number_fields, *schema.text_fields), problems


def _number(name: str, dtype: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    value = (_bare(pl.col(name)) if dtype == pl.String else pl.col(name)).cast(pl.Float64, strict=False)
    # What is read as a whole number has no -0, so there is none here either.
    return (
        pl.when(value == 0).then(0.0).otherwise(value).alias(name)
        if wanted.is_integer() and dtype != pl.Int64
        else value
    )


def _bare(text: pl.Expr) -> pl.Expr:
    # The reader of whole blocks passes over spaces before a number and a carriage return after it, so this does too.
    return text.str.strip_suffix("\r").str.strip_chars_start(" \t")


def _unfit(values: pl.Series, given: pl.Series, kind: str) -> pl.Series:
    """Where there is text that is no finite number, or no whole one in a field of integers."""
    unfit = ~values.is_finite()
    if kind == "integer":
        unfit = unfit | (values != values.floor())
    if given.dtype == pl.String:
        empty = given.to_frame().select(_bare(pl.first()).fill_null("") == "").to_series()
        unfit = unfit.fill_null(False) | (~empty & values.is_null())
    return unfit.fill_null(False)


def _reason(row: dict[str, object], name: str, schema: Schema) -> str:
    value = row.get(name)
    if name == schema.label:
        return f"{name} is {value!r}, neither 0 nor 1"
    if name == schema.weight:
        return f"{name} is {value!r}, no weight of 0 or more"
    if schema.time and name == schema.time.name:
        return f"{name} is {value!r}, no time of the format {schema.time.format}"
    kind = next(field.kind for field in schema.numeric if field.name == name)
    return f"{name} is {value!r}, no {'integer' if kind == 'integer' else 'finite number'}"


def _lines(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines[:-1] if content.endswith(b"\n") else lines)]


def _decode(lines: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines of bytes as text, and those that are no UTF-8, written with escapes."""
    texts: list[str] = []
    reasons: list[str | None] = []
    for line in lines[TEXT]:
        try:
            texts.append(line.decode())
            reasons.append(None)
        except UnicodeDecodeError as error:
            texts.append(line.decode(errors="backslashreplace"))
            reasons.append(no_utf8(error, line))
    decoded = lines.with_columns(pl.Series(TEXT, texts, dtype=pl.String))
    return split_off(decoded, pl.Series(reasons, dtype=pl.String))


def _split(lines: pl.DataFrame, origin: Origin, schema: Schema) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines with their values as texts, "" where empty; and those that have not the right number of them."""
    columns = origin.columns
    if schema.quote and lines[TEXT].str.contains(schema.quote, literal=True).any():
        rows, reasons = _split_quoted(lines[TEXT].to_list(), len(columns), schema.separator)
        good, bad = split_off(lines, pl.Series(reasons, dtype=pl.String))
        values = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
        return pl.concat([good, values], how="horizontal"), bad
    fields = lines[TEXT].str.count_matches(schema.separator, literal=True) + 1
    right = pl.when(fields != len(columns)).then(pl.format(f"{{}} fields instead of {len(columns)}", fields))
    good, bad = split_off(lines, pl.select(right).to_series())
    if len(columns) == 1:
        return good.with_columns(pl.col(TEXT).alias(columns[0])), bad
    if not good.height:
        return good.with_columns(pl.lit("").alias(name) for name in columns), bad
    texts = dict.fromkeys(columns, pl.String())
    # With the ends that the reader takes off, so that it takes no more.
    content = "".join(f"{line}\r\n" for line in good[TEXT]).encode()
    values = pl.read_csv(content, separator=schema.separator, has_header=False, quote_char=None, schema=texts)
    return pl.concat([good, values.with_columns(pl.all().fill_null(""))], how="horizontal"), bad


def _split_quoted(lines: list[str], wanted: int, separator: str) -> tuple[list[list[str]], list[str | None]]:
    """Values of the lines that have the right number of them, and for every line why not, or None.

    A line without quotes is not shown to the csv module, which refuses some that are read where no line has quotes.
    """
    rows: list[list[str]] = []
    reasons: list[str | None] = []
    for line in lines:
        try:
            values = split_values(line, separator, strict=True)
        except csv.Error as error:
            reasons.append(f"quotes do not pair: {error}")
            continue
        right = len(values) == wanted
        reasons.append(None if right else f"{len(values)} fields instead of {wanted}")
        rows += [values] if right else []
    return rows, reasons


def split_values(line: str, separator: str, *, strict: bool) -> list[str]:
    """The values of a line, which may stand in quotes; raises csv.Error, if strict, where these do not pair."""
    if '"' not in line:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator, strict=strict))


def no_utf8(error: UnicodeDecodeError, line: bytes) -> str:
    """Why a line is no text."""
    return f"byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8"


def split_off(rows: pl.DataFrame, reasons: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows without a reason, and those with one, with it."""
    told = rows.with_columns(reasons.alias("reason"))
    return rows.filter(reasons.is_null()), told.filter(reasons.is_not_null())


def rejects(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Bad rows as they are kept aside, of LINE, TEXT and `reason`."""
    line = pl.col(LINE).cast(pl.UInt64).alias("line")
    return rows.select(pl.lit(origin.path).alias("file"), line, "reason", pl.col(TEXT).cast(pl.String).alias("text"))


def _placed(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Rows with their number over all files in place of their line."""
    row = pl.col(LINE).cast(pl.UInt64) + pl.lit(origin.first_row, pl.UInt64) - pl.lit(origin.first_line, pl.UInt64)
    return rows.select(row.alias(ROW), pl.all().exclude(LINE, TEXT))


def _no_rejects() -> pl.DataFrame:
    return pl.DataFrame(schema={"file": pl.String, "line": pl.UInt64, "reason": pl.String, "text": pl.String})
