"""The first pass over a log: hash, count, divide into parts, and lay rows aside."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.aside import Columns, to_columns
from features.errors import BadInput
from features.fit import Counts, Moments, moments, transformed
from features.hashing import numbers, to_buckets
from features.parse import ROW, TIME, WEIGHT, Batch
from features.profile import Profile, starts_slice, value_names
from features.schema import Schema
from features.series import Length
from features.sources import Source, map_batches

# Gives the part of each row of a parsed batch.
Divide = Callable[[pl.DataFrame], NDArray[np.int64]]

# Takes row numbers and parts `[rows]`, and what gives the columns of these rows in another order.
LayAside = Callable[[NDArray[np.uint64], NDArray[np.int64], Callable[[NDArray[np.int64]], Columns]], None]


@dataclass(frozen=True)
class Scanned:
    """What is left to tell of a batch once it is counted: rows read, those rejected, names of some values."""

    read: int
    rejected: pl.DataFrame
    names: dict[str, dict[int, str]]
    unlabelled: bool


def scan(
    sources: Iterable[Source],
    schema: Schema,
    profile: Profile,
    divide: Divide,
    *,
    total: int,
    lay_aside: LayAside | None,
    seen: Callable[[Scanned], None],
) -> None:
    """Counts the rows of the sources, of `total` in all, into the profile's parts, with all cores at work.

    Batches are counted in whatever order they get ready, and `seen` is told of them in the order of the log; the
    result is the same. `lay_aside` gets every good row.
    """
    length = Length(total)
    counts = list(profile.parts.values())
    counting = Lock()

    def work(batch: Batch) -> Scanned:
        frame = batch.frame
        if not frame.height:
            return Scanned(batch.read, batch.rejected, {}, False)
        rows, label, parts = (
            frame[ROW].to_numpy(),
            frame[schema.label].fill_null(float("nan")).to_numpy(),
            divide(frame),
        )
        clicked = label == 1
        values = numbers(frame, schema)
        buckets = to_buckets(frame, schema, values)
        dense = transformed(values, schema)
        seconds = frame[TIME].to_numpy() if schema.time else None
        # Added up before, since only one thread counts at a time.
        chosen = [parts == part for part in range(len(counts))]
        # Only the training part's are ever looked at.
        training = dense if chosen[0].all() else {name: column[chosen[0]] for name, column in dense.items()}
        sums = [moments(training, schema), *({} for _ in chosen[1:])]
        with counting:
            length.add(rows, clicked, seconds)
            _count(buckets, sums, clicked, chosen, counts)
        if lay_aside:
            weight = frame[WEIGHT].to_numpy() if schema.weight else None
            lay_aside(rows, parts, partial(to_columns, rows, label, weight, buckets, dense))
        names = value_names(frame, buckets, schema) if starts_slice(rows, total) else {}
        return Scanned(batch.read, batch.rejected, names, bool(np.isnan(label).any()))

    for scanned in map_batches(sources, schema, work):
        profile.name(scanned.names)
        profile.labelled = profile.labelled and not scanned.unlabelled
        seen(scanned)
    profile.length = length


def _count(
    buckets: dict[str, NDArray[np.integer]],
    sums: list[dict[str, Moments]],
    clicked: NDArray[np.bool_],
    parts: list[NDArray[np.bool_]],
    counts: list[Counts],
) -> None:
    for counted, chosen, summed in zip(counts, parts, sums, strict=True):
        if chosen.all():
            counted.add_buckets(buckets, clicked=clicked, sums=summed)
        elif chosen.any():
            counted.add_buckets(
                {name: column[chosen] for name, column in buckets.items()},
                clicked=clicked[chosen],
                sums=summed,
            )


def first_of(rejected: pl.DataFrame) -> str:
    """Where the first of some rejected rows is and what is wrong with it; nothing if there is none."""
    if not rejected.height:
        return ""
    example = rejected.row(0, named=True)
    return f"the first is {example['file']} line {example['line']}: {example['reason']}"


class Rejects:
    """Keeps rejected rows in a file as they come: how many there are, and where the first is and why."""

    def __init__(self, path: Path):
        self.path, self.count, self.first = path, 0, ""

    def __enter__(self) -> "Rejects":
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def keep(self, rejected: pl.DataFrame) -> None:
        """Writes rejected rows, one JSON object a line."""
        self.first = self.first or first_of(rejected)
        self.count += rejected.height
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected.iter_rows(named=True))


def check_rejects(count: int, total: int, max_rate: float, first: str) -> None:
    """Raises BadInput if more of `total` rows were rejected than may be, or if none is left; `first` says why."""
    if count > max_rate * total:
        raise BadInput(
            f"{count} of {total} rows cannot be read, more than max_reject_rate {max_rate:g}; "
            f"{first}; nothing was written: mend the log, name its layout in features.layout, or raise "
            "prepare.max_reject_rate"
        )
    if count == total:
        raise BadInput(f"none of the {total} rows could be read; {first}")
