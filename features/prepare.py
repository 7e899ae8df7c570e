"""`ctr prepare`: both passes over a log, the split, and an output folder that appears whole or not at all."""

import hashlib
import json
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.draws import mix
from features.errors import BadInput
from features.fit import fit
from features.output import appears_whole
from features.progress import Progress
from features.report import report
from features.schema import Schema
from features.shards import ShardWriter
from features.sources import ROW, Batch, Source, open_sources, read_batches
from features.spec import FeatureSpec

MANIFEST_FILE = "manifest.json"
REJECTED_FILE = "rejected.ndjson"
REPORT_FILE = "report.json"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """How rows are divided. `time` cuts by position in the log (logs are written in time order), last part test."""

    kind: str
    validation: float
    test: float
    seed: int

    def part(self, rows: pl.Series, total: int) -> pl.Series:
        """The index into PARTS of each row number."""
        numbers = rows.to_numpy()
        place = numbers / total if self.kind == "time" else mix(numbers, self.seed ^ 0x5EED) / 2.0**64
        train = 1.0 - self.validation - self.test
        # A share of 0.8 of 10 rows is 8 rows, although 1 - .1 - .1 is a little less than .8 in floating point.
        cuts = np.array([train, train + self.validation]) - 1e-9
        parts = np.zeros(len(numbers), np.int64) if self.kind == "none" else np.searchsorted(cuts, place, side="right")
        return pl.Series(parts)


def prepare(
    inputs: list[str],
    out: Path,
    *,
    schema: Schema,
    fitted: FeatureSpec | None,
    split: Split,
    shard_rows: int,
    max_reject_rate: float,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Encodes raw logs into `out`: shards by part, feature spec, manifest, rejected rows. Returns the manifest.

    With `fitted` the rows are encoded by that spec, otherwise by one fitted on the training part. Rows that cannot
    be read are kept in `rejected.ndjson` with file, line and reason. Raises BadInput when more than
    `max_reject_rate` of them are, when `out` exists, or when no row is left; nothing is left behind then.
    """
    started = time.monotonic()
    schema = schema if fitted is None else fitted.schema
    with appears_whole(out) as folder:
        sources = open_sources(inputs, schema)
        total = sum(source.rows for source in sources)
        if total == 0:
            raise BadInput(f"{', '.join(inputs)} hold no row; a click log has one row a line")
        if fitted is None and not all(source.labelled for source in sources):
            raise BadInput(
                f"{_unlabelled(sources)} has no labels to train on; encode it with --spec of a prepared folder"
            )
        rejected = _Rejects(folder / REJECTED_FILE, total, max_reject_rate)
        batches = _told(rejected.keep(read_batches(sources, schema)), "reading", total, progress)
        if fitted is None:
            training = (b.frame.filter(split.part(b.frame[ROW], total) == 0) for b in batches)
            counts = fit(training, schema)
            spec = counts.spec()
            used = {name: int((counted[:-1] > 0).sum()) for name, counted in counts.buckets.items()}
        else:
            spec, used = fitted, None
            for _ in batches:
                pass
        spec.save(folder)
        rows = total - rejected.count
        if rows == 0:
            raise BadInput(f"none of the {total} rows could be read; {rejected.first}")
        encoding = _told(read_batches(sources, schema), "encoding", total, progress)
        writers = _write(encoding, folder, spec, split, total, shard_rows, seed)
        parts = {part: _summary(writer) for part, writer in zip(PARTS, writers, strict=True)}
        described = report(spec, {part: writer.ids for part, writer in zip(PARTS, writers, strict=True)}, used)
        (folder / REPORT_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        digest = hashlib.sha256(spec.digest.encode())
        for part in parts.values():
            for name, shard in part["shards"].items():
                digest.update(f"{name} {shard['sha256']}".encode())
        manifest = {
            "version": 1,
            "digest": digest.hexdigest(),
            "spec_digest": spec.digest,
            "rows": rows,
            "rows_rejected": rejected.count,
            "features": {"ids": len(spec.id_fields), "dense": len(spec.dense_fields), "table_rows": sum(spec.sizes)},
            "sources": [_lasting(source.path) for source in sources],
            "labelled": all(source.labelled for source in sources),
            "split": {"kind": split.kind, "validation": split.validation, "test": split.test},
            "seed": seed,
            "parts": parts,
        }
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    seconds = time.monotonic() - started
    return {**manifest, "rows_per_second": total / seconds, "peak_rss_mb": _peak_rss_mb()}


def _write(
    batches: Iterator[Batch], folder: Path, spec: FeatureSpec, split: Split, total: int, shard_rows: int, seed: int
) -> list[ShardWriter]:
    shares = dict(zip(PARTS, (1 - split.validation - split.test, split.validation, split.test), strict=True))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(
                    folder / part,
                    spec=spec,
                    rows=round(total * (1 if split.kind == "none" else shares[part])),
                    shard_rows=shard_rows,
                    # Only what is trained on: the others keep the log's order, so that scores line up with rows.
                    shuffle=part == "train" and split.kind != "none",
                    seed=seed,
                )
            )
            for part in PARTS
        ]
        for batch in batches:
            parts = split.part(batch.frame[ROW], total)
            for index, writer in enumerate(writers):
                writer.write(batch.frame.filter(parts == index))
    return writers


def _summary(writer: ShardWriter) -> dict[str, Any]:
    digests = writer.digests()
    rows = sum(writer.written.values())
    return {
        "rows": rows,
        "click_rate": writer.clicks / rows if rows and writer.labelled else None,
        "shards": {name: {"rows": writer.written[name], "sha256": digests[name]} for name in sorted(digests)},
    }


class _Rejects:
    """Keeps rejected rows aside as they come, and stops the work when they are too many."""

    def __init__(self, path: Path, total: int, max_rate: float):
        self.path, self.total, self.max_rate = path, total, max_rate
        self.count = 0
        self.first = ""

    def keep(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        with self.path.open("wb") as file:
            for batch in batches:
                if batch.rejected.height:
                    if not self.first:
                        example = batch.rejected.row(0, named=True)
                        self.first = f"the first is {example['file']} line {example['line']}: {example['reason']}"
                    self.count += batch.rejected.height
                    batch.rejected.write_ndjson(file)
                yield batch
        if self.count > self.max_rate * self.total:
            raise BadInput(
                f"{self.count} of {self.total} rows cannot be read, more than max_reject_rate {self.max_rate:g}; "
                f"{self.first}; nothing was written: mend the log or raise prepare.max_reject_rate"
            )


def _told(batches: Iterator[Batch], stage: str, total: int, progress: Progress) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += batch.read
        progress(stage, done, total)


def _unlabelled(sources: list[Source]) -> str:
    return next(source.path for source in sources if not source.labelled)


def _peak_rss_mb() -> float:
    # Kilobytes on Linux, bytes on macOS.
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _lasting(path: str) -> str:
    """A path that means the same from another working folder."""
    return path if "://" in path else str(Path(path).resolve())
