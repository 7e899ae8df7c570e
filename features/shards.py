"""The second pass: records of a shard to ids and dense values, in a Parquet file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.draws import mix
from features.encode import DENSE_PREFIX, ID_PREFIX, scaled
from features.records import to_columns
from features.series import Followed
from features.spec import FeatureSpec


@dataclass(frozen=True)
class Shard:
    """A written shard: its file's name, rows, clicks, their summed weight, and the file's SHA-256."""

    name: str
    rows: int
    clicks: float
    weight: float
    sha256: str


def write_shard(
    records: NDArray[np.void],
    folder: Path,
    index: int,
    *,
    spec: FeatureSpec,
    shuffle_seed: int | None,
    followed: Followed,
) -> Shard:
    """Encodes a shard's records into the folder; `followed` is told of them.

    With a seed they are shuffled, by draws that row numbers and the seed decide. A shard has a column a field rather
    than one list a row: `row`, `label`, `weight` if the log has it, `id_` and `dense_` with the field's name. Columns
    compress to about half of lists, and any tool can read them.
    """
    rows, labels = records["row"], records["label"]
    order = np.arange(len(rows)) if shuffle_seed is None else np.argsort(mix(rows, shuffle_seed), kind="stable")
    buckets, values = to_columns(records, order)
    followed.add(rows[order], labels[order] == 1, buckets)
    plain = ["row", "label", "weight"] if spec.schema.weight else ["row", "label"]
    columns: dict[str, NDArray[np.generic]] = {
        **{name: records[name][order] for name in plain},
        **{ID_PREFIX + name: spec.ids[name][buckets[i]] for i, name in enumerate(spec.id_fields)},
        **{DENSE_PREFIX + name: scaled(values[i], spec, name) for i, name in enumerate(spec.dense_fields)},
    }
    name = f"shard-{index:05d}.parquet"
    path = folder / name
    # Fast settings: the default level is a third slower and saves 3 %, statistics of ids are of no use.
    pl.DataFrame(columns).write_parquet(path, compression="zstd", compression_level=1, statistics=False)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    weight = float(records["weight"].sum(dtype=np.float64))
    return Shard(name, len(rows), float(labels.sum(dtype=np.float64)), weight, digest)
