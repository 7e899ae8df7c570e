"""The second pass: rows laid aside to ids and dense values, in a Parquet file a shard."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.aside import Columns, read_rows
from features.encode import DENSE_PREFIX, ID_PREFIX, scaled
from features.engine import Seen
from features.hashing import bucket_counts
from features.memory import keep_freed_memory
from features.ordered import in_parallel
from features.output import write_parquet
from features.places import ShardRows
from features.series import Followed, Groups
from features.spec import FeatureSpec


@dataclass(frozen=True)
class Shard:
    """A written shard: its part, its file's name, rows, clicks, their summed weight, and the file's SHA-256."""

    part: str
    name: str
    rows: int
    clicks: float
    weight: float
    sha256: str


@dataclass(frozen=True)
class Written:
    """Shards in order, and how the values that are followed move in them."""

    shards: list[Shard]
    rows: Groups
    clicks: Groups


def write_shards(
    wanted: Iterable[ShardRows],
    seen: Seen,
    *,
    spec: FeatureSpec,
    follow: dict[str, NDArray[np.int64]],
    total: int,
    aside: Path,
    folder: Path,
) -> Written:
    """Encodes shards into the parts' folders in `folder`, and counts the values to `follow` on the way.

    Each is written in the folder `aside` and then moved into place, so that two attempts on one do not meet.
    """
    keep_freed_memory()
    followed = Followed(follow, bucket_counts(spec.schema), total)
    ids, dense = len(spec.id_fields), len(spec.dense_fields)

    def write(shard: ShardRows) -> Shard:
        rows = read_rows(shard.spans, id_fields=ids, dense_fields=dense)
        mine = rows.take(slice(shard.skip, shard.skip + shard.rows))
        followed.add(mine.row, mine.label == 1, mine.buckets)
        target = folder / shard.part / f"shard-{shard.number:05d}.parquet"
        written = aside / f"{uuid4().hex}.parquet"
        write_parquet(_encoded(mine, spec), written)
        with written.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        written.replace(target)
        clicks, weight = (float(column.sum(dtype=np.float64)) for column in (mine.label, mine.weight))
        return Shard(shard.part, target.name, shard.rows, clicks, weight, digest)

    shards: list[Shard] = []
    for shard in in_parallel(write, wanted):
        shards.append(shard)
        seen(shard.rows)
    return Written(shards, followed.rows, followed.clicks)


def _encoded(rows: Columns, spec: FeatureSpec) -> pl.DataFrame:
    """A column a field rather than one list a row: `row`, `label`, `weight` if the log has it, `id_` and `dense_` with
    the field's name. Columns compress to about half of lists, and any tool can read them."""
    columns: dict[str, NDArray[np.generic]] = {
        "row": rows.row,
        "label": rows.label,
        **({"weight": rows.weight} if spec.schema.weight else {}),
        **{ID_PREFIX + name: spec.ids[name][rows.buckets[i]] for i, name in enumerate(spec.id_fields)},
        **{DENSE_PREFIX + name: scaled(rows.values[i], spec, name) for i, name in enumerate(spec.dense_fields)},
    }
    return pl.DataFrame(columns)
