"""Blocks of JSON objects, one a line, to rows."""

import io
import json

import polars as pl

from features.blocks import Block
from features.parse import LINE, TEXT, Batch, Origin, no_utf8, parse_texts, rejects, split_off
from features.schema import Schema


def parse_objects(block: Block, origin: Origin, schema: Schema) -> Batch:
    """The rows of a block; a number and its text mean the same, and true is 1 where a label stands."""
    lines = pl.int_range(block.first_line, block.first_line + block.lines, dtype=pl.UInt64, eager=True)
    values = _values(block.content, origin)
    reasons = pl.Series([None], dtype=pl.String).new_from_index(0, block.lines)
    if values is None or values.height != block.lines:
        values, reasons = _one_by_one(block.content, origin)
    good, bad = split_off(pl.DataFrame({LINE: lines}), reasons)
    rows = _with_label(pl.concat([good, values], how="horizontal"), schema)
    batch = parse_texts(rows, origin, schema)
    aside = pl.concat([rejects(bad.with_columns(pl.lit("").alias(TEXT)), origin), batch.rejected]).sort("line")
    return Batch(batch.frame, _with_text(aside, block), block.lines)


def _values(content: bytes, origin: Origin) -> pl.DataFrame | None:
    """The fields of JSON objects as texts, null where absent; None if a line is none."""
    try:
        return pl.read_ndjson(io.BytesIO(content), schema=dict.fromkeys(origin.columns, pl.String))
    except pl.exceptions.PolarsError:
        return None


def _with_label(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    if schema.label not in rows.columns:
        return rows
    return rows.with_columns(pl.col(schema.label).replace({"true": "1", "false": "0"}))


def _with_text(rejected: pl.DataFrame, block: Block) -> pl.DataFrame:
    """Rejected rows with the lines as they are in the file."""
    if not rejected.height:
        return rejected
    lines = block.content.split(b"\n")
    numbers: list[int] = rejected["line"].to_list()
    texts = [lines[number - block.first_line].decode(errors="backslashreplace") for number in numbers]
    return rejected.with_columns(pl.Series("text", [text.removesuffix("\r") for text in texts], dtype=pl.String))


def _one_by_one(content: bytes, origin: Origin) -> tuple[pl.DataFrame, pl.Series]:
    """The fields of the lines that are JSON objects, and for every line why it is none, or null."""
    lines = content.removesuffix(b"\n").split(b"\n")
    reasons = [_problem(line) for line in lines]
    found = _readable([line for line, reason in zip(lines, reasons, strict=True) if reason is None], origin)
    frames = [pl.DataFrame(schema=dict.fromkeys(origin.columns, pl.String))]
    at = (place for place, reason in enumerate(reasons) if reason is None)
    for frame in found:
        if frame is None:
            reasons[next(at)] = "cannot be read as a JSON object"
        else:
            frames.append(frame)
            for _ in range(frame.height):
                next(at)
    return pl.concat(frames), pl.Series(reasons, dtype=pl.String)


def _readable(lines: list[bytes], origin: Origin) -> list[pl.DataFrame | None]:
    """The fields of lines, in as few pieces as may be; None stands for one line that Polars does not take."""
    if not lines:
        return []
    values = _values(b"\n".join(lines), origin)
    if values is not None and values.height == len(lines):
        return [values]
    if len(lines) == 1:
        return [None]
    middle = len(lines) // 2
    return [*_readable(lines[:middle], origin), *_readable(lines[middle:], origin)]


def _problem(line: bytes) -> str | None:
    """Why a line is no JSON object, or None."""
    try:
        found = json.loads(line.decode(), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        return no_utf8(error, line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    return None if isinstance(found, dict) else f"a JSON {type(found).__name__}, not an object"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
