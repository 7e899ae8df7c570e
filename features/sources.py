"""Opens raw click logs and hands them on in batches of parsed rows, with the rows that cannot be read set aside."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.errors import BadInput
from features.schema import Schema

BATCH_ROWS = 100_000

# Columns of ours beside those of the log, which may have any name but these.
ROW, LINE, TEXT, FIELDS = "#row", "#line", "#text", "#fields"

_TEXT = (".tsv", ".csv", ".txt", ".gz", ".zst")
_PARQUET = (".parquet", ".pq")
_NDJSON = (".ndjson", ".jsonl")


@dataclass(frozen=True)
class Batch:
    """Rows of one file, in file order.

    Attributes:
        frame: ROW (UInt64, counted over all files from 0), label (Float64; null where the file has none), numeric
            columns as Float64 and categorical ones as String, null where missing.
        rejected: `file`, `line` (from 1), `reason`, `text` of the rows that could not be read.
        read: rows read, good and rejected.
    """

    frame: pl.DataFrame
    rejected: pl.DataFrame
    read: int


@dataclass(frozen=True)
class Source:
    """One raw file. `rows` counts its rows, good and bad; `labelled` says whether it has the label column."""

    path: str
    rows: int
    labelled: bool


def open_sources(inputs: list[str], schema: Schema) -> list[Source]:
    """The files that `inputs` name (paths, globs, object-store addresses), in order, with their row counts.

    Raises BadInput for a name that matches no file, an empty file, an unknown kind of file, and columns that are not
    the schema's.
    """
    return [_open(path, schema) for path in _paths(inputs)]


def read_batches(sources: list[Source], schema: Schema) -> Iterator[Batch]:
    """All rows of `sources`, `BATCH_ROWS` at a time at most; memory does not grow with their number."""
    first_row = 0
    for source in sources:
        batches = _text_batches(source, schema) if source.path.endswith(_TEXT) else _typed_batches(source, schema)
        try:
            for raw in batches:
                yield _parse(raw, source, schema, first_row)
        except pl.exceptions.PolarsError as error:
            raise BadInput(f"input {source.path} cannot be read: {_one_line(error)}") from None
        first_row += source.rows


def _paths(inputs: list[str]) -> list[str]:
    paths: list[str] = []
    for name in inputs:
        if "://" in name:
            paths.append(name)
            continue
        found = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else [name]
        if not found:
            raise BadInput(f"no file matches {name}; nothing was read")
        for path in found:
            if not Path(path).is_file():
                kind = "is a folder" if Path(path).is_dir() else "does not exist"
                raise BadInput(f"input {path} {kind}; give one or more files or a glob")
        paths += found
    return paths


def _open(path: str, schema: Schema) -> Source:
    if path.endswith(_TEXT):
        return _open_text(path, schema)
    if not path.endswith(_PARQUET + _NDJSON):
        raise BadInput(f"input {path} has an unknown ending; known: {', '.join(_TEXT + _PARQUET + _NDJSON)}")
    try:
        scanned = _scan_typed(path)
        names = scanned.collect_schema().names()
        rows = scanned.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"input {path} cannot be read: {_one_line(error)}") from None
    missing = [name for name in schema.columns[1:] if name not in names]
    if missing:
        raise BadInput(f"input {path} has no column '{missing[0]}'; its columns: {', '.join(names)}")
    return Source(path, rows, schema.label in names)


def _open_text(path: str, schema: Schema) -> Source:
    try:
        head = pl.scan_lines(path, n_rows=1, glob=False).collect()
        rows = pl.scan_lines(path, glob=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"input {path} cannot be read: {_one_line(error)}") from None
    if rows == 0:
        raise BadInput(f"input {path} is empty; a click log has one row a line")
    columns = schema.columns
    first = head["line"][0].split(schema.separator)
    if schema.header:
        if first not in (columns, columns[1:]):
            raise BadInput(f"input {path} has the header {first}; the schema says {columns}, with or without the label")
        return Source(path, rows - 1, len(first) == len(columns))
    # A first line that is neither is a bad row like any other; a log without labels has one field less in most lines.
    return Source(path, rows, not _mostly_unlabelled(path, schema))


def _mostly_unlabelled(path: str, schema: Schema) -> bool:
    head = pl.scan_lines(path, n_rows=100, glob=False).collect()
    fields = head["line"].str.count_matches(schema.separator, literal=True) + 1
    unlabelled = (fields == len(schema.columns) - 1).sum()
    return unlabelled > (fields == len(schema.columns)).sum()


def _scan_typed(path: str) -> pl.LazyFrame:
    if path.endswith(_PARQUET):
        return pl.scan_parquet(path, glob=False)
    # All rows say what a field holds: one odd value late in a log is then a bad row, not another type.
    return pl.scan_ndjson(path, infer_schema_length=None)


def _text_batches(source: Source, schema: Schema) -> Iterator[pl.DataFrame]:
    """Batches of LINE (from 1), TEXT, FIELDS (how many the row has) and the columns, as strings."""
    columns = _columns(source, schema)
    lines = pl.scan_lines(source.path, name=TEXT, row_index_name=LINE, row_index_offset=1, glob=False)
    parts = pl.col(TEXT).str.split_exact(schema.separator, len(columns) - 1).struct.rename_fields(columns)
    fields = pl.col(TEXT).str.count_matches(schema.separator, literal=True) + 1
    batches = lines.slice(int(schema.header)).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
    for batch in batches:
        if batch.height:
            yield batch.select(LINE, TEXT, fields.alias(FIELDS), parts.alias("#parts")).unnest("#parts")


def _typed_batches(source: Source, schema: Schema) -> Iterator[pl.DataFrame]:
    """The same for files whose columns have types: every value as the text that a log would have had."""
    columns = _columns(source, schema)
    rows = _scan_typed(source.path).select(columns).with_row_index(LINE, offset=1)
    text = pl.struct(columns).struct.json_encode().alias(TEXT)
    for batch in rows.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
        if batch.height:
            fields = pl.lit(len(columns), dtype=pl.UInt32).alias(FIELDS)
            yield batch.with_columns(text, fields, pl.col(columns).cast(pl.String))


def _parse(raw: pl.DataFrame, source: Source, schema: Schema, first_row: int) -> Batch:
    """Splits a batch of strings into typed rows and rejected ones."""
    numeric = [field.name for field in schema.numeric]
    # Lines count from 1, rows from 0, and a header is a line but no row.
    first_line = 2 if schema.header and source.path.endswith(_TEXT) else 1
    typed = raw.select(
        (pl.col(LINE).cast(pl.UInt64) + pl.lit(first_row, pl.UInt64) - pl.lit(first_line, pl.UInt64)).alias(ROW),
        _label(source, schema).alias(schema.label),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in numeric),
        *(pl.col(field.name) for field in schema.categorical),
    )
    problems = {
        **({schema.label: typed[schema.label].is_null()} if source.labelled else {}),
        **{field.name: _not_a_number(typed[field.name], raw[field.name], field.kind) for field in schema.numeric},
    }
    wrong_count = raw[FIELDS] != len(_columns(source, schema))
    bad = wrong_count
    for problem in problems.values():
        bad = bad | problem
    if not bad.any():
        return Batch(typed, _rejected(raw.clear(), source, []), raw.height)
    reasons = [
        f"{row[FIELDS]} fields instead of {len(_columns(source, schema))}"
        if row[FIELDS] != len(_columns(source, schema))
        else _reason(row, {name: flags[index] for name, flags in problems.items()}, schema)
        for index, row in zip(bad.arg_true().to_list(), raw.filter(bad).iter_rows(named=True), strict=True)
    ]
    return Batch(typed.filter(~bad), _rejected(raw.filter(bad), source, reasons), raw.height)


def _label(source: Source, schema: Schema) -> pl.Expr:
    if not source.labelled:
        return pl.lit(None, dtype=pl.Float64)
    label = pl.col(schema.label).cast(pl.Float64, strict=False)
    return pl.when(label.is_in([0.0, 1.0])).then(label)


def _not_a_number(values: pl.Series, texts: pl.Series, kind: str) -> pl.Series:
    """Where there is text that is no finite number, or no whole one in a field of integers."""
    written = (texts.fill_null("") != "") & values.is_null()
    unfit = ~values.is_finite()
    if kind == "integer":
        unfit = unfit | (values != values.floor())
    return written | unfit.fill_null(False)


def _reason(row: dict[str, object], problems: dict[str, bool], schema: Schema) -> str:
    name = next(name for name, found in problems.items() if found)
    if name == schema.label:
        return f"{name} is {row[name]!r}, neither 0 nor 1"
    kind = next(field.kind for field in schema.numeric if field.name == name)
    return f"{name} is {row[name]!r}, no {'integer' if kind == 'integer' else 'finite number'}"


def _rejected(rows: pl.DataFrame, source: Source, reasons: list[str]) -> pl.DataFrame:
    return rows.select(
        pl.lit(source.path).alias("file"),
        pl.col(LINE).alias("line"),
        pl.Series("reason", reasons, dtype=pl.String),
        pl.col(TEXT).alias("text"),
    )


def _columns(source: Source, schema: Schema) -> list[str]:
    return schema.columns if source.labelled else schema.columns[1:]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
