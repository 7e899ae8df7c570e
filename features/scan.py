"""The first pass over a log: hash, count, divide into parts, and lay rows aside by shard."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import BadInput
from features.fit import Counts, Moments, moments, transformed
from features.hashing import numbers, to_buckets
from features.parse import ROW, TIME, WEIGHT, Batch
from features.profile import SLICES, Profile, value_names, wants_names
from features.records import Records, to_records
from features.schema import Schema
from features.sources import Source, map_batches


@dataclass(frozen=True)
class Hashed:
    """A batch after everything that needs no other batch. Columns are `[rows]`, rows the good ones in order."""

    rows: NDArray[np.uint64]
    parts: NDArray[np.int64]
    seconds: NDArray[np.int64] | None
    clicked: NDArray[np.bool_]
    weights: NDArray[np.float64] | None
    buckets: dict[str, NDArray[np.integer]]
    training_sums: dict[str, Moments]
    records: NDArray[np.void] | None
    names: dict[str, dict[int, str]]
    rejected: pl.DataFrame
    read: int
    unlabelled: bool


def hashed_batches(
    sources: list[Source], schema: Schema, divide: Callable[[pl.DataFrame], NDArray[np.int64]], *, lay_aside: bool
) -> Iterator[Hashed]:
    """Every batch of the sources, hashed, in order, with all cores at work; `divide` gives the part of each row."""

    def work(batch: Batch) -> Hashed:
        frame = batch.frame
        parts = divide(frame)
        values = numbers(frame, schema)
        buckets = to_buckets(frame, schema, values)
        values = transformed(values, schema)
        label = frame[schema.label].fill_null(float("nan")).to_numpy()
        weight = frame[WEIGHT].to_numpy() if schema.weight else None
        rows = frame[ROW].to_numpy()
        training = parts == 0
        return Hashed(
            rows=rows,
            parts=parts,
            seconds=frame[TIME].to_numpy() if schema.time else None,
            clicked=label == 1,
            weights=weight,
            buckets=buckets,
            training_sums=moments({name: column[training] for name, column in values.items()}, schema),
            records=to_records(rows, label, weight, buckets, values) if lay_aside else None,
            names=value_names(frame, buckets, schema) if len(rows) and wants_names(int(rows[0]), len(rows)) else {},
            rejected=batch.rejected,
            read=batch.read,
            unlabelled=bool(np.isnan(label).any()),
        )

    yield from map_batches(sources, schema, work)


def profile_of(batches: Iterator[Hashed], schema: Schema, parts: tuple[str, ...], total: int) -> Profile:
    """Counts every batch, of `total` rows in all; the parts are those that the batches' numbers mean, in order."""
    profile = Profile(schema, {part: Counts(schema) for part in parts})
    counts = list(profile.parts.values())
    for batch in batches:
        profile.name(batch.names)
        profile.labelled = profile.labelled and not batch.unlabelled
        slices = (batch.rows * np.uint64(SLICES) // np.uint64(max(total, 1))).astype(np.int64)
        ends = np.flatnonzero(np.append(np.diff(slices) > 0, True)) + 1 if len(slices) else np.zeros(0, np.int64)
        for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False):
            _count(batch, slice(first, end), counts)
            profile.mark(int(slices[first]), None if batch.seconds is None else int(batch.seconds[end - 1]))
        for name, sums in batch.training_sums.items():
            counts[0].sums[name].add(sums)
    return profile


def _count(batch: Hashed, some: slice, counts: list[Counts]) -> None:
    parts = batch.parts[some]
    for part, counted in enumerate(counts):
        chosen = parts == part
        here = slice(None) if chosen.all() else chosen
        if chosen.any():
            buckets = {name: column[some][here] for name, column in batch.buckets.items()}
            counted.add_buckets(buckets, clicked=batch.clicked[some][here], sums={})


def laid_aside(
    batches: Iterator[Hashed], records: Records, shard_of: Callable[[Hashed], NDArray[np.int64]]
) -> Iterator[Hashed]:
    """The same batches, with their records written to the shards that `shard_of` says."""
    for batch in batches:
        if batch.records is not None and len(batch.records):
            records.add(batch.records, shard_of(batch))
        yield batch
    records.flush()


class Rejects:
    """Keeps rejected rows aside as they come, and stops the work when they are too many."""

    def __init__(self, path: Path, total: int, max_rate: float):
        self.path, self.total, self.max_rate = path, total, max_rate
        self.count = 0
        self.first = ""

    def keep(self, batches: Iterator[Hashed]) -> Iterator[Hashed]:
        """The same batches; raises BadInput after the last if more rows were rejected than may be."""
        with self.path.open("w", encoding="utf-8") as file:
            for batch in batches:
                if batch.rejected.height:
                    if not self.first:
                        example = batch.rejected.row(0, named=True)
                        self.first = f"the first is {example['file']} line {example['line']}: {example['reason']}"
                    self.count += batch.rejected.height
                    file.writelines(
                        json.dumps(row, ensure_ascii=False) + "\n" for row in batch.rejected.iter_rows(named=True)
                    )
                yield batch
        if self.count > self.max_rate * self.total:
            raise BadInput(
                f"{self.count} of {self.total} rows cannot be read, more than max_reject_rate {self.max_rate:g}; "
                f"{self.first}; nothing was written: mend the log or raise prepare.max_reject_rate"
            )
