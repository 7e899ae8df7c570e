"""Rows between the two passes: records of fixed width, laid aside by place in plain files.

The first pass hashes every row once and lays it aside; the second only has to look buckets up. That takes about as
much disk, for a while, as the log itself, and saves reading and hashing it again.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

# Rows are gathered until there are so many bytes a place, so that no file is opened for a handful of rows, or in all.
_BYTES_A_PLACE = 2**16
_BYTES_IN_ALL = 2**26

# Rows turned at once from columns to records or back: few enough for the processor's second cache.
_TURNED_ROWS = 2048


def record_type(id_fields: int, dense_fields: int) -> np.dtype[np.void]:
    """A row as it is laid aside: number, label, weight, bucket of each id field, unscaled value of each dense field."""
    return np.dtype(
        [
            ("row", "<u8"),
            ("label", "<f4"),
            ("weight", "<f4"),
            ("buckets", "<u4", (id_fields,)),
            ("values", "<f8", (dense_fields,)),
        ]
    )


def to_records(
    row: NDArray[np.uint64],
    label: NDArray[np.float64],
    weight: NDArray[np.float64] | None,
    buckets: Mapping[str, NDArray[np.integer]],
    values: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.void]:
    """Columns `[rows]` as records, weight 1 where there are none."""
    records = np.empty(len(row), record_type(len(buckets), len(values)))
    records["row"], records["label"] = row, label
    records["weight"] = 1.0 if weight is None else weight
    # Turned through a small block: NumPy writes column by column into records only while it holds Python's lock.
    turned_buckets = np.empty((len(buckets), _TURNED_ROWS), np.uint32)
    turned_values = np.empty((len(values), _TURNED_ROWS), np.float64)
    for first in range(0, len(row), _TURNED_ROWS):
        some = slice(first, min(first + _TURNED_ROWS, len(row)))
        count = some.stop - first
        for i, column in enumerate(buckets.values()):
            turned_buckets[i, :count] = column[some]
        for i, column in enumerate(values.values()):
            turned_values[i, :count] = column[some]
        records["buckets"][some] = turned_buckets[:, :count].T
        records["values"][some] = turned_values[:, :count].T
    return records


def to_columns(records: NDArray[np.void], order: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Buckets `[id fields, rows]` and values `[dense fields, rows]` of records, in the given order of rows."""
    buckets = np.empty((records["buckets"].shape[1], len(records)), np.uint32)
    values = np.empty((records["values"].shape[1], len(records)), np.float64)
    for first in range(0, len(records), _TURNED_ROWS):
        some = slice(first, first + _TURNED_ROWS)
        part = np.take(records, order[some])
        buckets[:, some] = part["buckets"].T
        values[:, some] = part["values"].T
    return buckets, values


class Records:
    """Files of records, one a place, in a folder of their own. Threads may add at once, in whatever order."""

    def __init__(self, folder: Path, kind: np.dtype[np.void], places: int):
        """`places` is about how many there will be."""
        folder.mkdir()
        self.folder, self.kind = folder, kind
        self.rows = 0
        self._enough = min(places * _BYTES_A_PLACE, _BYTES_IN_ALL)
        self._places: set[int] = set()
        self._gathered: list[tuple[NDArray[np.void], NDArray[np.int64]]] = []
        self._gathering, self._writing = Lock(), Lock()

    def add(self, records: NDArray[np.void], places: NDArray[np.int64]) -> None:
        """Adds records to the places with these numbers."""
        with self._gathering:
            self._gathered.append((records, places))
            self.rows += len(records)
            if sum(records.nbytes for records, _ in self._gathered) < self._enough:
                return
            gathered, self._gathered = self._gathered, []
        self._write(gathered)

    def flush(self) -> None:
        """Writes what was gathered."""
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._write(gathered)

    def places(self) -> list[int]:
        """The places that have rows, by number."""
        return sorted(self._places)

    def take(self, place: int) -> NDArray[np.void]:
        """The records of a place, in the order in which threads happened to add them; the file is removed."""
        path = self._path(place)
        records = np.fromfile(path, self.kind)
        path.unlink()
        return records

    def _write(self, gathered: list[tuple[NDArray[np.void], NDArray[np.int64]]]) -> None:
        records, places = gathered[0]
        if len(gathered) > 1:
            records = np.concatenate([records for records, _ in gathered])
            places = np.concatenate([places for _, places in gathered])
        # NumPy sorts 16 bits ten times as fast as 64.
        order = np.argsort(places.astype(np.uint16) if places.max() < 2**16 else places, kind="stable")
        records, places = np.take(records, order), places[order]
        ends = np.flatnonzero(np.append(np.diff(places) > 0, True)) + 1
        with self._writing:
            for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                place = int(places[first])
                self._places.add(place)
                with self._path(place).open("ab") as file:
                    file.write(records[first:end].data)

    def _path(self, place: int) -> Path:
        return self.folder / f"{place}.records"
