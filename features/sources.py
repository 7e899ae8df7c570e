"""Names of raw click logs to files, and files to batches of parsed rows."""

import glob
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import polars as pl

from features.blocks import Block, head_and_count, matching, read_blocks, unreadable
from features.engine import LOCAL, Engine, Seen, ignore
from features.errors import BadInput
from features.ndjson import parse_objects
from features.ordered import in_parallel
from features.parse import LINE, Batch, Origin, parse_lines, parse_texts, split_values
from features.schema import Schema
from features.times import UNIX, UNIX_MS

# Rows of Parquet at once.
BATCH_ROWS = 32_768

# JSON objects may leave out what is missing; a field that none of so many has is not there.
_HEAD_ROWS = 1000

_COMPRESSED = (".gz", ".zst")
_TEXT = (".tsv", ".csv", ".txt")
_PARQUET = (".parquet", ".pq")
_NDJSON = (".ndjson", ".jsonl")

Out = TypeVar("Out")


@dataclass(frozen=True)
class Source:
    """One raw file.

    Attributes:
        kind: text, ndjson or parquet.
        rows: how many it has, good and bad.
        labelled: whether it has the label column.
        columns: that it has, in order; of JSON and Parquet, those that the schema knows.
        first_row: the number of its first row, counted over all files from 0.
    """

    path: str
    kind: str
    rows: int
    labelled: bool
    columns: tuple[str, ...]
    first_row: int = 0


@dataclass(frozen=True)
class Piece:
    """Rows that are parsed together, in whatever process: the number of the first, how many, good and bad, and what
    parses them."""

    first_row: int
    rows: int
    parse: Callable[[], Batch]


def open_sources(inputs: list[str], schema: Schema, engine: Engine = LOCAL) -> list[Source]:
    """The files that `inputs` name (paths, globs, object-store addresses), in order, with their row counts.

    Raises BadInput for a name that matches no file, an empty file, an unknown kind of file, columns that are not the
    schema's, and a file that a node of the engine does not see.
    """
    paths = _paths(inputs)
    engine.check_seen(paths)
    opened: list[Source] = []
    first_row = 0
    for some in engine.run(partial(_open_all, schema=schema), paths, ignore):
        for source in some:
            opened.append(replace(source, first_row=first_row))
            first_row += source.rows
    return opened


def read_batches(sources: Iterable[Source], schema: Schema) -> Iterator[Batch]:
    """All rows of `sources`, a block at a time; memory does not grow with their number."""
    yield from map_batches(sources, schema, lambda batch: batch)


def map_batches(sources: Iterable[Source], schema: Schema, function: Callable[[Batch], Out]) -> Iterator[Out]:
    """`function` of every batch, in order, with all cores at work."""
    yield from in_parallel(lambda piece: function(piece.parse()), pieces(sources, schema))


def pieces(sources: Iterable[Source], schema: Schema) -> Iterator[Piece]:
    """All rows of `sources`, in order and always cut alike; read here, and parsed by whoever asks a piece to.

    A piece can be pickled.
    """
    for source in sources:
        header = schema.header and source.kind == "text"
        first_row = source.first_row
        origin = Origin(source.path, source.columns, first_row, 2 if header else 1)
        if source.kind == "parquet":
            for texts in _parquet_batches(source, schema):
                yield Piece(first_row, texts.height, partial(parse_texts, texts, origin, schema))
                first_row += texts.height
        else:
            parse = parse_lines if source.kind == "text" else parse_objects
            for block in _below_header(source.path) if header else read_blocks(source.path):
                yield Piece(first_row, block.lines, partial(parse, block, origin, schema))
                first_row += block.lines


def _open_all(paths: Iterable[str], seen: Seen, *, schema: Schema) -> list[Source]:
    opened: list[Source] = []
    for path in paths:
        opened.append(_open(path, schema))
        seen(1)
    return opened


def _paths(inputs: list[str]) -> list[str]:
    paths: list[str] = []
    for name in inputs:
        if "://" in name:
            found = matching(name) if glob.has_magic(name) else [name]
            if not found:
                raise BadInput(f"no file matches {name}; nothing was read")
            paths += found
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
    bare = path
    for ending in _COMPRESSED:
        bare = bare.removesuffix(ending)
    if bare.endswith(_PARQUET) and bare == path:
        return _open_parquet(path, schema)
    if bare.endswith(_NDJSON):
        return _open_ndjson(path, schema)
    if bare.endswith(_TEXT) or bare != path:
        return _open_text(path, schema)
    known = (*_TEXT, *_NDJSON, *_COMPRESSED, *_PARQUET)
    raise BadInput(f"input {path} has an unknown ending; known: {', '.join(known)}")


def _open_text(path: str, schema: Schema) -> Source:
    head, rows = _head_and_count(path)
    columns = schema.columns
    unlabelled = [name for name in columns if name != schema.label]
    if not schema.header:
        # Lines with another number of fields are bad rows; a log without labels has one field less in most lines.
        fields = [len(_values(line, schema)) for line in head[:100]]
        labelled = fields.count(len(unlabelled)) <= fields.count(len(columns))
        return Source(path, "text", rows, labelled, tuple(columns if labelled else unlabelled))
    names = _values(head[0], schema)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadInput(f"input {path} has two columns '{twice[0]}' in its header; give each a name of its own")
    _check_columns(path, names, schema)
    return Source(path, "text", rows - 1, schema.label in names, tuple(names))


def _values(line: str, schema: Schema) -> list[str]:
    return split_values(line, schema.separator, strict=False) if schema.quote else line.split(schema.separator)


def _open_ndjson(path: str, schema: Schema) -> Source:
    head, rows = _head_and_count(path)
    names: dict[str, None] = {}
    for line in head:
        try:
            read = json.loads(line)
        except ValueError:
            continue
        names.update(dict.fromkeys(cast(dict[str, Any], read) if isinstance(read, dict) else ()))
    if not names:
        raise unreadable(path, ValueError(f"none of its first {len(head)} lines is a JSON object"))
    return _typed_source(path, "ndjson", rows, list(names), schema)


def _open_parquet(path: str, schema: Schema) -> Source:
    try:
        scanned = pl.scan_parquet(path, glob=False)
        types = scanned.collect_schema()
        rows = scanned.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None
    for name in (schema.label, *schema.inputs):
        if name in types and types[name].is_nested():
            raise unreadable(path, ValueError(f"its column '{name}' holds {types[name]}, not single values"))
    return _typed_source(path, "parquet", rows, types.names(), schema)


def _typed_source(path: str, kind: str, rows: int, names: list[str], schema: Schema) -> Source:
    _check_columns(path, names, schema, f" in its first {_HEAD_ROWS:,} lines" if kind == "ndjson" else "")
    known = [name for name in (schema.label, *schema.inputs) if name in names]
    return Source(path, kind, rows, schema.label in names, tuple(known))


def _check_columns(path: str, names: list[str], schema: Schema, where: str = "") -> None:
    for name in schema.inputs:
        # How much a row counts is not asked of rows that are only to be scored.
        if name not in names and not (name == schema.weight and schema.label not in names):
            raise BadInput(f"input {path} has no column '{name}'{where}; its columns: {', '.join(names)}")


def _head_and_count(path: str) -> tuple[list[str], int]:
    head, rows = head_and_count(path, _HEAD_ROWS)
    if rows == 0:
        raise BadInput(f"input {path} is empty; a click log has one row a line")
    return head, rows


def _below_header(path: str) -> Iterator[Block]:
    for block in read_blocks(path):
        if block.first_line > 1:
            yield block
        elif block.lines > 1:
            yield Block(block.content.split(b"\n", 1)[1], 2, block.lines - 1)


def _parquet_batches(source: Source, schema: Schema) -> Iterator[pl.DataFrame]:
    texts = [field.name for field in schema.categorical]
    rows = pl.scan_parquet(source.path, glob=False).select(source.columns).with_row_index(LINE, offset=1)
    if schema.time:
        time, dtype = pl.col(schema.time.name), rows.collect_schema()[schema.time.name]
        if dtype.is_temporal():
            time = time.cast(pl.Datetime("us")) if dtype == pl.Date else time
            as_unix = {UNIX: time.dt.epoch("s"), UNIX_MS: time.dt.epoch("ms")}
            time = as_unix.get(schema.time.format, time.dt.strftime(schema.time.format))
        rows = rows.with_columns(time.alias(schema.time.name))
    try:
        for batch in rows.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
            if batch.height:
                yield batch.with_columns(pl.col(texts).cast(pl.String))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(source.path, error) from None
