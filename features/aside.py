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


class Aside:
    """Files of rows, sorted by place, in a folder of their own. Threads may add at once, in whatever order."""

    def __init__(self, folder: Path, *, id_fields: int, dense_fields: int, shuffled: int, places: int):
        """`places` is how many there are; the first `shuffled` of them get rows from everywhere."""
        folder.mkdir()
        self.folder, self.rows = folder, 0
        self._id_fields, self._dense_fields, self._places = id_fields, dense_fields, places
        self._enough = min(shuffled * _ROWS_A_PLACE, _ROWS_IN_ALL)
        self._files: dict[int, NDArray[np.uint32]] = {}  # by the first row added: where each place starts
        self.place_rows = np.zeros(places, np.int64)  # how many rows each place has
        self._gathered: list[tuple[Columns, NDArray[np.int64]]] = []
        self._lock = Lock()

    def add(self, columns: Columns, places: NDArray[np.int64]) -> None:
        """Adds rows, which are sorted by place, of these places."""
        with self._lock:
            self.rows += len(places)
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

    def take(self, place: int) -> Columns:
        """The rows of a place, in order."""
        columns = self._empty(int(self.place_rows[place]))
        at = 0
        for first, starts in sorted(self._files.items()):
            some = slice(int(starts[place]), int(starts[place + 1]))
            if some.stop > some.start:
                end = at + some.stop - some.start
                self._read(first, some, columns.take(slice(at, end)))
                at = end
        # Files overlap where batches were gathered.
        in_order = bool((columns.row[1:] > columns.row[:-1]).all())
        return columns if in_order else columns.take(np.argsort(columns.row, kind="stable"))

    def clear(self) -> None:
        """Removes the files and their folder."""
        for first in self._files:
            self._path(first).unlink()
        self.folder.rmdir()

    def _write(self, gathered: list[tuple[Columns, NDArray[np.int64]]]) -> None:
        columns, places = gathered[0]
        if len(gathered) > 1:
            places = np.concatenate([places for _, places in gathered])
            order = np.argsort(places, kind="stable")
            columns, places = joined([columns for columns, _ in gathered]).take(order), places[order]
        first = int(columns.row.min())
        starts = np.searchsorted(places, np.arange(self._places + 1)).astype(np.uint32)
        with self._path(first).open("wb") as file:
            # Place by place, so that what is read together lies together.
            for place in np.flatnonzero(np.diff(starts)).tolist():
                some = columns.take(slice(int(starts[place]), int(starts[place + 1])))
                file.writelines(np.ascontiguousarray(column).data for column in some)
        with self._lock:
            self._files[first] = starts
            self.place_rows += np.diff(starts.astype(np.int64))

    def _read(self, first: int, some: slice, into: Columns) -> None:
        """Reads some of a file's rows, all of one place, into columns of that length."""
        rows = some.stop - some.start
        row_bytes = sum(column.nbytes for column in into) // rows
        with self._path(first).open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), rows * row_bytes, some.start * row_bytes)
        at = 0
        for column in into:
            column[...] = np.frombuffer(content, column.dtype, column.size, at).reshape(column.shape)
            at += column.nbytes

    def _empty(self, rows: int) -> Columns:
        return Columns(
            np.empty(rows, np.uint64),
            np.empty(rows, np.float32),
            np.empty(rows, np.float32),
            np.empty((self._id_fields, rows), np.uint32),
            np.empty((self._dense_fields, rows), np.float64),
        )

    def _path(self, first: int) -> Path:
        return self.folder / f"{first}.columns"
