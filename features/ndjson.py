"""Blocks of JSON objects, one a line, to rows."""

import io
import json

import polars as pl

from features.blocks import Block
from features.parse import LINE, TEXT, Batch, Origin, parse_texts, rejects, split_off
from features.schema import Schema


def parse_objects(block: Block, origin: Origin, schema: Schema) -> Batch:
    """The rows of a block; a number and its text mean the same, and true is 1 where a label stands."""
    values = _values(block.content, origin)
    lines = pl.int_range(block.first_line, block.first_line + block.lines, dtype=pl.UInt64, eager=True)
    if values is not None and values.height == block.lines:
        batch = parse_texts(_with_label(values.with_columns(lines.alias(LINE)), schema), origin, schema)
        return Batch(batch.frame, batch.rejected, block.lines)
    texts, reasons = _examined(block.content)
    told = pl.DataFrame({LINE: lines, TEXT: texts}, schema={LINE: pl.UInt64, TEXT: pl.String})
    good, bad = split_off(told, pl.Series(reasons, dtype=pl.String))
    values = _values("\n".join(good[TEXT]).encode(), origin) if good.height else None
    if values is None or values.height != good.height:
        values = pl.DataFrame(schema=dict.fromkeys(origin.columns, pl.String))
        bad, good = told.with_columns(reason=pl.lit("cannot be read as JSON objects")), good.clear()
    rows = _with_label(pl.concat([good, values], how="horizontal"), schema)
    batch = parse_texts(rows, origin, schema)
    return Batch(batch.frame, pl.concat([rejects(bad, origin), batch.rejected]).sort("line"), block.lines)


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


def _examined(content: bytes) -> tuple[list[str], list[str | None]]:
    """Every line as text, and why it is no JSON object, or None."""
    texts: list[str] = []
    reasons: list[str | None] = []
    for line in content.removesuffix(b"\n").split(b"\n"):
        texts.append(line.decode(errors="backslashreplace").removesuffix("\r"))
        try:
            found = json.loads(line.decode())
            reasons.append(None if isinstance(found, dict) else f"a JSON {type(found).__name__}, not an object")
        except UnicodeDecodeError as error:
            reasons.append(f"byte {error.start + 1} of the line, {line[error.start]:#04x}, is not UTF-8")
        except ValueError as error:
            reasons.append(f"no JSON: {error}")
    return texts, reasons
