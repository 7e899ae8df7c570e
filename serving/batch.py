"""Scores raw logs of any size with a SavedModel, in flat memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features.encode import encode_dense, encode_ids
from features.errors import BadInput
from features.output import file_appears_whole
from features.parse import ROW, Batch
from features.progress import Progress
from features.scan import first_of
from features.sources import open_sources, read_batches
from serving.model import ServedModel

# Rows a call of the model: large enough to be fast, small enough to stay in the processor's cache.
_CALL_ROWS = 4096


def score_logs(model: ServedModel, inputs: list[str], progress: Progress) -> Iterator[tuple[pl.DataFrame, Batch]]:
    """Scores of raw logs, a batch at a time, in order: `row`, `label` (null where the log has none), `probability`.

    Rows are encoded with the model's own feature spec. Raises BadInput as `open_sources` does.
    """
    sources = open_sources(inputs, model.spec.schema)
    total = sum(source.rows for source in sources)
    done = 0
    for batch in read_batches(sources, model.spec.schema):
        ids, dense = encode_ids(batch.frame, model.spec), encode_dense(batch.frame, model.spec)
        cuts = range(0, len(ids), _CALL_ROWS)
        scores = [model.from_packed(ids[i : i + _CALL_ROWS], dense[i : i + _CALL_ROWS]) for i in cuts]
        scored = batch.frame.select(
            pl.col(ROW).alias("row"), pl.col(model.spec.schema.label).alias("label")
        ).with_columns(
            pl.Series("probability", np.concatenate(scores) if scores else np.zeros(0, np.float32), dtype=pl.Float32)
        )
        yield scored, batch
        done += batch.read
        progress("scoring", done, total)


def predict_logs(model: ServedModel, inputs: list[str], out: Path, progress: Progress) -> dict[str, Any]:
    """Writes the scores of raw logs to a Parquet file, in the order of the rows; returns rows and rows_rejected.

    Rows that cannot be read are kept in `OUT.rejected.ndjson`. Raises BadInput when none could be read.
    """
    rows = rejected = 0
    first = ""
    rejects = out.with_name(out.name + ".rejected.ndjson")
    with file_appears_whole(out) as path, file_appears_whole(rejects) as aside:
        writer: pq.ParquetWriter | None = None
        with aside.open("wb") as aside_file:
            for scored, batch in score_logs(model, inputs, progress):
                table = scored.to_arrow()
                writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                writer.write_table(table)
                batch.rejected.write_ndjson(aside_file)
                rows += scored.height
                rejected += batch.rejected.height
                first = first or first_of(batch.rejected)
        if writer:
            writer.close()
        if not rows:
            raise BadInput(
                f"none of the {rejected} rows of {', '.join(inputs)} could be read; {first}; nothing was written"
            )
    if not rejected:
        rejects.unlink()
    return {"rows": rows, "rows_rejected": rejected}
