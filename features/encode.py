"""Second pass: parsed rows to ids and dense values, and those into Parquet shards."""

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.fit import signed_log
from features.hashing import numbers, to_buckets
from features.spec import FeatureSpec

ID_PREFIX, DENSE_PREFIX = "id_", "dense_"


def encode_ids(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.int32]:
    """Ids `[rows, id fields]`, numbered within each field: 0 missing, 1 rare or never seen, from 2 on the kept buckets."""
    buckets = to_buckets(frame, spec.schema)
    return np.stack([spec.ids[name][buckets[name]] for name in spec.id_fields], axis=1)


def encode_dense(frame: pl.DataFrame, spec: FeatureSpec) -> NDArray[np.float32]:
    """Dense values `[rows, dense fields]`, standardised logs, NaN where missing."""
    columns = [(signed_log(numbers(frame, name)) - mean) / std for name, (mean, std) in spec.scales.items()]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((frame.height, 0), np.float32)


def encode(frame: pl.DataFrame, spec: FeatureSpec) -> pa.Table:
    """Parsed rows as a shard holds them: `row`, `label`, an `id_` column an id field, a `dense_` one a dense field.

    Columns by field rather than one list a row: they compress to about half, and any tool can read them.
    """
    ids, dense = encode_ids(frame, spec), encode_dense(frame, spec)
    arrays: dict[str, NDArray[np.generic]] = {
        "row": frame["row"].to_numpy(),
        "label": frame[spec.schema.label].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        **{ID_PREFIX + name: ids[:, i] for i, name in enumerate(spec.id_fields)},
        **{DENSE_PREFIX + name: dense[:, i] for i, name in enumerate(spec.dense_fields)},
    }
    return pa.table({name: pa.array(np.ascontiguousarray(values)) for name, values in arrays.items()})


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
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, frame: pl.DataFrame) -> None:
        """Encodes and appends a batch of parsed rows."""
        if frame.height == 0:
            return
        table = encode(frame, self.spec)
        self.clicks += float(frame[self.spec.schema.label].sum())
        rows = frame["row"].to_numpy()
        if not self.shuffle:
            self._write_in_order(table)
            return
        draws = mix(rows, self.seed)
        order = np.argsort(draws, kind="stable")
        shard = (draws[order] % np.uint64(self.shards)).astype(np.int64)
        for index in range(self.shards):
            chosen = order[shard == index]
            if len(chosen):
                self._append(index, table.take(pa.array(chosen)))

    def digests(self) -> dict[str, str]:
        """SHA-256 of every finished shard, by file name."""
        return {name: _digest(self.folder / name) for name in sorted(self.written)}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write_in_order(self, table: pa.Table) -> None:
        done = 0
        while done < table.num_rows:
            total = sum(self.written.values())
            room = self.shard_rows - total % self.shard_rows
            self._append(total // self.shard_rows, table.slice(done, room))
            done += room

    def _append(self, index: int, table: pa.Table) -> None:
        name = f"shard-{index:05d}.parquet"
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(self.folder / name, table.schema, compression="zstd")
        self._writers[name].write_table(table)
        self.written[name] = self.written.get(name, 0) + table.num_rows


def mix(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit draw for every row number, the same on every machine (the finaliser of SplitMix64, Steele et al. 2014)."""
    golden = 0x9E3779B97F4A7C15
    start = np.uint64((seed * golden + golden) % 2**64)
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(golden) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
