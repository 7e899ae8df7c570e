"""Rows between the two passes, laid aside by place in plain files, columns first.

The first pass hashes every row once and lays it aside; the second only has to look buckets up. That takes about as
much disk, for a while, as the log itself, and saves reading and hashing it again.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Rows are gathered until there are so many a shuffled place, or in all: what is copied at once is then long enough.
_ROWS_A_PLACE = 128
_ROWS_IN_ALL = 2**18


class Columns(NamedTuple):
    """Rows as they are laid aside: number uint64, label and weight float32, `[rows]` each; bucket of every id field
    uint32 `[id fields, rows]`; unscaled value of every dense field float64 `[dense fields, rows]`."""

    row: NDArray[np.uint64]
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    buckets: NDArray[np.uint32]
    values: NDArray[np.float64]

    def take(self, chosen: NDArray[np.int64] | slice) -> "Columns":
        """Some of the rows, in the order given."""
        return Columns(*(column[..., chosen] for column in self))  # pyright: ignore[reportArgumentType]


def to_columns(
    row: NDArray[np.uint64],
    label: NDArray[np.float64],
    weight: NDArray[np.float64] | None,
    buckets: Mapping[str, NDArray[np.integer]],
    values: Mapping[str, NDArray[np.float64]],
    order: NDArray[np.int64],
) -> Columns:
    """Rows in the given order, weight 1 where there are none."""
    ids = np.empty((len(buckets), len(row)), np.uint32)
    for i, column in enumerate(buckets.values()):
        ids[i] = column[order]
    numbers = np.empty((len(values), len(row)), np.float64)
    for i, column in enumerate(values.values()):
        numbers[i] = column[order]
    weights = np.ones(len(row), np.float32) if weight is None else weight[order].astype(np.float32)
    return Columns(row[order], label[order].astype(np.float32), weights, ids, numbers)


def joined(pieces: Sequence[Columns]) -> Columns:
    """Rows of several pieces, one after another."""
    if len(pieces) == 1:
        return pieces[0]
    return Columns(*(np.concatenate(columns, axis=-1) for columns in zip(*pieces, strict=True)))


class AsideFile(NamedTuple):
    """A file of rows: the number of the first that was added, and where each place starts, `[places + 1]`."""

    first_row: int
    path: Path
    starts: NDArray[np.uint32]


class Span(NamedTuple):
    """All rows of a file that have the same place: from which, and before which."""

    path: Path
    first: int
    stop: int


class Aside:
    """Files of rows, sorted by place, in a folder of their own. Threads may add at once, in whatever order."""

    def __init__(self, folder: Path, *, shuffled: int, places: int):
        """`places` is how many there are; the first `shuffled` of them get rows from everywhere."""
        self.folder, self.files = folder, list[AsideFile]()
        self._places = places
        self._enough = min(shuffled * _ROWS_A_PLACE, _ROWS_IN_ALL)
        self._gathered: list[tuple[Columns, NDArray[np.int64]]] = []
        self._lock = Lock()

    def add(self, columns: Columns, places: NDArray[np.int64]) -> None:
        """Adds rows, which are sorted by place, of these places."""
        with self._lock:
            self._gathered.append((columns, places))
            if sum(len(places) for _, places in self._gathered) < self._enough:
                return
            gathered, self._gathered = self._gathered, []
        self._write(gathered)

    def flush(self) -> None:
        """Writes what was gathered."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._write(gathered)

    def _write(self, gathered: list[tuple[Columns, NDArray[np.int64]]]) -> None:
        columns, places = gathered[0]
        if len(gathered) > 1:
            places = np.concatenate([places for _, places in gathered])
            order = np.argsort(places, kind="stable")
            columns, places = joined([columns for columns, _ in gathered]).take(order), places[order]
        first = int(columns.row.min())
        starts = np.searchsorted(places, np.arange(self._places + 1)).astype(np.uint32)
        path = self.folder / f"{first}.columns"
        with path.open("wb") as file:
            # Place by place, so that what is read together lies together.
            for place in np.flatnonzero(np.diff(starts)).tolist():
                some = columns.take(slice(int(starts[place]), int(starts[place + 1])))
                file.writelines(np.ascontiguousarray(column).data for column in some)
        with self._lock:
            self.files.append(AsideFile(first, path, starts))


class Index:
    """Where the rows of each place lie, in files that one or several have laid aside."""

    def __init__(self, files: Sequence[AsideFile], places: int):
        self._files = sorted(files, key=lambda file: file.first_row)
        self.place_rows = np.zeros(places, np.int64)  # how many rows each place has
        for file in files:
            self.place_rows += np.diff(file.starts.astype(np.int64))

    @property
    def rows(self) -> int:
        """In all."""
        return int(self.place_rows.sum())

    def spans(self, place: int) -> list[Span]:
        """The rows of a place."""
        found = [Span(file.path, int(file.starts[place]), int(file.starts[place + 1])) for file in self._files]
        return [span for span in found if span.stop > span.first]


def read_rows(spans: Sequence[Span], *, id_fields: int, dense_fields: int) -> Columns:
    """Rows that were laid aside, in order."""
    rows = sum(span.stop - span.first for span in spans)
    columns = Columns(
        np.empty(rows, np.uint64),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32),
        np.empty((id_fields, rows), np.uint32),
        np.empty((dense_fields, rows), np.float64),
    )
    at = 0
    for span in spans:
        end = at + span.stop - span.first
        _read(span, columns.take(slice(at, end)))
        at = end
    # Files overlap where batches were gathered.
    in_order = bool((columns.row[1:] > columns.row[:-1]).all())
    return columns if in_order else columns.take(np.argsort(columns.row, kind="stable"))


def _read(span: Span, into: Columns) -> None:
    """Reads a span into columns of its length."""
    rows = span.stop - span.first
    row_bytes = sum(column.nbytes for column in into) // rows
    with span.path.open("rb", buffering=0) as file:
        content = os.pread(file.fileno(), rows * row_bytes, span.first * row_bytes)
    at = 0
    for column in into:
        column[...] = np.frombuffer(content, column.dtype, column.size, at).reshape(column.shape)
        at += column.nbytes
