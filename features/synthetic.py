"""A Criteo-shaped click log whose true click probabilities are known: `world.py` as `readings.py` tells of it.

A row depends on nothing but the seed, its number and its time, so chunks are made side by side, in any sizes, and the
log is the same; only a few chunks are in memory at a time.
"""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from features.draws import stream, uniform
from features.ordered import in_parallel
from features.output import file_appears_whole
from features.progress import Progress
from features.readings import read
from features.world import draw_all, intercept, logit, sigmoid

CHUNK_ROWS = 50_000

_TRUTH = pa.schema([("row", pa.uint64()), ("probability", pa.float64()), ("click", pa.int8())])


class _Chunk(NamedTuple):
    """Rows as text, and the truth of them."""

    text: bytes
    truth: pl.DataFrame


def synth(
    out: Path,
    *,
    rows: int,
    days: int,
    seed: int,
    truth: Path | None,
    progress: Progress,
    interactions: float = 1.0,
) -> dict[str, Any]:
    """Writes `rows` rows in Criteo's layout, in time order over `days` days; the same bytes for the same arguments.

    `truth` gets `row`, `probability` and `click` as Parquet. Returns rows, click_rate and oracle_log_loss, the log
    loss (nats) of the true probabilities on the clicks drawn: no model can be expected to do better. `interactions`
    scales what takes two of user, ad and page to know, so that a model with a weight a value cannot learn it.
    """
    start = intercept(seed, interactions=interactions)

    def chunk_at(first: int) -> _Chunk:
        return _chunk(first, rows, days, seed, interactions, start)

    clicks, loss = 0, 0.0
    with ExitStack() as stack:
        file = stack.enter_context(stack.enter_context(file_appears_whole(out)).open("wb"))
        known = None
        if truth is not None:
            path = stack.enter_context(file_appears_whole(truth))
            known = stack.enter_context(pq.ParquetWriter(path, _TRUTH, compression="zstd"))
        for chunk in in_parallel(chunk_at, range(0, rows, CHUNK_ROWS)):
            file.write(chunk.text)
            if known is not None:
                known.write_table(chunk.truth.to_arrow())
            click, chance = chunk.truth["click"].to_numpy(), chunk.truth["probability"].to_numpy()
            clicks += int(click.sum())
            loss -= float(np.log(np.where(click == 1, chance, 1 - chance)).sum())
            progress("generating", int(chunk.truth["row"][-1]) + 1, rows)
    return {"rows": rows, "click_rate": clicks / rows, "oracle_log_loss": loss / rows}


def _chunk(first: int, rows: int, days: int, seed: int, interactions: float, start: float) -> _Chunk:
    numbers = np.arange(first, min(first + CHUNK_ROWS, rows), dtype=np.uint64)
    time = numbers / rows * days
    drawn = draw_all(numbers, time, seed)
    chance = sigmoid(start + logit(drawn, time, seed, interactions=interactions)).astype(np.float64)
    click = (uniform(numbers, stream(seed, "click")) < chance).astype(np.int8)
    text = BytesIO()
    frame = pl.DataFrame({"label": click, **read(drawn, numbers, seed)})
    frame.write_csv(text, separator="\t", include_header=False, quote_style="never")
    return _Chunk(text.getvalue(), pl.DataFrame({"row": numbers, "probability": chance, "click": click}))
