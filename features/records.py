"""Rows between the two passes: records of fixed width, laid aside by shard in plain files.

The first pass hashes every row once and lays it aside; the second only has to look buckets up. That takes about as
much disk, for a while, as the log itself, and saves reading and hashing it again.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Rows are gathered until there are so many bytes a shard, so that no file is opened for a handful of rows, or in all.
_BYTES_A_SHARD = 2**16
_BYTES_IN_ALL = 2**26

# Rows filled in at once: columns are written across rows, so few enough for the processor's second cache.
_FILLED_ROWS = 2048


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
    """Columns `[rows]` as records, NaN for a missing label, weight 1 where there are none."""
    records = np.empty(len(row), record_type(len(buckets), len(values)))
    for first in range(0, len(row), _FILLED_ROWS):
        some = slice(first, first + _FILLED_ROWS)
        part = records[some]
        part["row"], part["label"] = row[some], label[some]
        part["weight"] = 1.0 if weight is None else weight[some]
        for i, column in enumerate(buckets.values()):
            part["buckets"][:, i] = column[some]
        for i, column in enumerate(values.values()):
            part["values"][:, i] = column[some]
    return records


class Records:
    """Files of records, one a shard, in a folder of their own; rows keep the order in which they are added."""

    def __init__(self, folder: Path, kind: np.dtype[np.void], shards: int):
        """`shards` is about how many there will be."""
        folder.mkdir()
        self.folder, self.kind = folder, kind
        self._enough = min(shards * _BYTES_A_SHARD, _BYTES_IN_ALL)
        self.rows = 0
        self._shards: set[int] = set()
        self._gathered: list[tuple[NDArray[np.void], NDArray[np.int64]]] = []
        self._bytes = 0

    def add(self, records: NDArray[np.void], shards: NDArray[np.int64]) -> None:
        """Adds records to the shards with these numbers."""
        self._gathered.append((records, shards))
        self.rows += len(records)
        self._bytes += records.nbytes
        if self._bytes >= self._enough:
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered."""
        if not self._gathered:
            return
        shards = np.concatenate([shards for _, shards in self._gathered])
        records = np.concatenate([records for records, _ in self._gathered])
        self._gathered, self._bytes = [], 0
        # NumPy sorts 16 bits ten times as fast as 64.
        order = np.argsort(shards.astype(np.uint16) if shards.max() < 2**16 else shards, kind="stable")
        records, shards = np.take(records, order), shards[order]
        ends = np.flatnonzero(np.append(np.diff(shards) > 0, True)) + 1
        for first, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            number = int(shards[first])
            self._shards.add(number)
            with self._path(number).open("ab") as file:
                file.write(records[first:end].data)

    def shards(self) -> list[int]:
        """The shards that have rows, by number."""
        return sorted(self._shards)

    def take(self, shard: int) -> NDArray[np.void]:
        """The records of a shard, whose file is removed."""
        path = self._path(shard)
        records = np.fromfile(path, self.kind)
        path.unlink()
        return records

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard}.records"
