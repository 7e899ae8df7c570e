"""Scores raw logs of any size with a SavedModel on all cores, in flat memory."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from features.engine import LOCAL, Engine, Local
from features.errors import BadInput
from features.memory import give_back_freed_memory
from features.ordered import in_parallel
from features.output import file_appears_whole
from features.progress import Progress
from features.scan import first_of
from features.schema import Schema
from features.sources import Piece, Source, open_sources, pieces
from serving.card import read_spec
from serving.file_scorers import FileScorers
from serving.parts import Parts, parts_of, what_is_scored
from serving.scorers import Scored, Scorers

_COLUMNS = ["row", "label", "probability"]


def score_logs(model: Path, inputs: list[str], progress: Progress) -> Iterator[Scored]:
    """Scores of raw logs, a piece at a time, in order.

    Rows are encoded with the feature spec of `model`, a SavedModel folder. Raises BadInput as `open_sources` does, and
    when the model cannot be loaded.
    """
    schema = read_spec(model).schema
    with Scorers(model) as scorers:
        yield from _score(scorers, schema, open_sources(inputs, schema), progress, None)


def predict_logs(
    model: Path,
    inputs: list[str],
    out: Path,
    progress: Progress,
    say: Callable[[str], None],
    engine: Engine = LOCAL,
) -> dict[str, Any]:
    """Writes the scores of raw logs to a Parquet file, in the order of the rows.

    Rows that cannot be read are kept in `OUT.rejected.ndjson`. Until both are whole, finished parts are in `OUT.parts`,
    and a call that was killed goes on from them if model and inputs are the same, on whatever engine; `say` is told of
    that. Returns rows, rows_rejected, rows_resumed (of those parts, good and rejected), rows_per_second (the others,
    loading the model aside) and core_seconds by stage. Raises BadInput when no row could be read.
    """
    began, busy = time.monotonic(), time.process_time()
    give_back_freed_memory()
    schema = read_spec(model).schema
    rejects = _beside(out, "rejected.ndjson")
    counts = {"rows": 0, "rows_rejected": 0, "rows_resumed": 0}
    seconds: dict[str, float] = {}
    first = ""
    with ExitStack() as stack:
        if isinstance(engine, Local):
            scorers = stack.enter_context(Scorers(model))
            score = partial(_score, scorers, schema)
        else:
            scorers = FileScorers(model, engine)
            score = scorers.score
        # Lines are counted while TensorFlow is imported.
        sources = open_sources(inputs, schema, engine)
        parts, others = stack.enter_context(parts_of(_beside(out, "parts"), what_is_scored(model, sources)))
        if others:
            say(f"{parts.folder} was of another model or other inputs: all rows are scored anew")
        elif parts.finished:
            say(f"goes on from {parts.finished:,} finished parts in {parts.folder}")
        path, aside = (stack.enter_context(file_appears_whole(each)) for each in (out, rejects))
        aside_file = stack.enter_context(aside.open("wb"))
        writer: pq.ParquetWriter | None = None
        for scored in stack.enter_context(closing(score(sources, progress, parts))):
            table = scored.scores.select(_COLUMNS).to_arrow()
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)
            scored.rejected.write_ndjson(aside_file)
            counts["rows"] += scored.scores.height
            counts["rows_rejected"] += scored.rejected.height
            counts["rows_resumed"] += 0 if scored.seconds else scored.read
            first = first or first_of(scored.rejected)
            for stage, spent in scored.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + spent
        if not counts["rows"]:
            raise BadInput(
                f"none of the {counts['rows_rejected']} rows of {', '.join(inputs)} could be read; {first}; "
                "nothing was written"
            )
    if not counts["rows_rejected"]:
        rejects.unlink()
    scored_now = counts["rows"] + counts["rows_rejected"] - counts["rows_resumed"]
    return {
        **counts,
        "rows_per_second": scored_now / (time.monotonic() - began - scorers.loading),
        "core_seconds": {"reading and writing": time.process_time() - busy, **seconds},
    }


def _score(
    scorers: Scorers, schema: Schema, sources: list[Source], progress: Progress, parts: Parts | None
) -> Generator[Scored]:
    """All pieces of the sources in order, those that are not among the finished `parts` scored and added to them."""

    def score(piece: Piece) -> Scored:
        found = parts.find(piece.first_row, piece.rows) if parts else None
        if found is None:
            found = scorers.score(piece.parse)
            if parts:
                parts.keep(piece.first_row, found)
        return found

    total, done = sum(source.rows for source in sources), 0
    for scored in in_parallel(score, pieces(sources, schema)):
        yield scored
        done += scored.read
        # The rate is that of scoring: what was finished before comes at once and is not told of.
        if scored.seconds or done == total:
            progress("scoring", done, total)


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")
