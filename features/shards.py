"""Encoded rows into numbered Parquet shards, spread over them at random or in order."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from features.draws import mix
from features.encode import ID_PREFIX, encode
from features.report import IdCounts
from features.sources import ROW
from features.spec import FeatureSpec


class ShardWriter:
    """Writes one part of a data set (training, validation, test) into numbered shards.

    With `shuffle`, each row goes to a shard that its row number and the seed choose, so rows that were neighbours in
    the log are spread over all shards; without, rows keep their order and shards follow one another.
    """

    def __init__(self, folder: Path, *, spec: FeatureSpec, rows: int, shard_rows: int, shuffle: bool, seed: int):
        """`rows` is how many are expected; there will be about `rows / shard_rows` shards, at least one."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.spec = spec
        self.shards = max(1, round(rows / shard_rows))
        self.shard_rows = shard_rows
        self.shuffle = shuffle
        self.seed = seed
        self.written: dict[str, int] = {}
        self.clicks = 0.0
        self.labelled = True
        self.ids = IdCounts(spec)
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, frame: pl.DataFrame) -> None:
        """Encodes and appends a batch of parsed rows."""
        if frame.height == 0:
            return
        table = encode(frame, self.spec)
        self.ids.add({name: table[ID_PREFIX + name].to_numpy() for name in self.spec.id_fields})
        labels = frame[self.spec.schema.label]
        self.labelled = self.labelled and labels.null_count() == 0
        self.clicks += float(labels.sum())
        rows = frame[ROW].to_numpy()
        if not self.shuffle:
            self._write_in_order(table)
            return
        draws = mix(rows, self.seed)
        order = np.argsort(draws, kind="stable")
        shard = (draws[order] % np.uint64(self.shards)).astype(np.int64)
        for index in range(self.shards):
            chosen = order[shard == index]
            if len(chosen):
                self._append(index, table[chosen])

    def digests(self) -> dict[str, str]:
        """SHA-256 of every finished shard, by file name."""
        return {name: _digest(self.folder / name) for name in sorted(self.written)}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write_in_order(self, table: pl.DataFrame) -> None:
        done = 0
        while done < table.height:
            total = sum(self.written.values())
            room = self.shard_rows - total % self.shard_rows
            self._append(total // self.shard_rows, table.slice(done, room))
            done += room

    def _append(self, index: int, table: pl.DataFrame) -> None:
        name = f"shard-{index:05d}.parquet"
        rows = table.to_arrow()
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self.folder / name, rows.schema, compression="zstd")
        self._writers[name].write_table(rows)
        self.written[name] = self.written.get(name, 0) + table.height


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
