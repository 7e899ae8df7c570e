"""The second pass: rows laid aside to ids and dense values, in a Parquet file a shard."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.aside import Columns
from features.encode import DENSE_PREFIX, ID_PREFIX, scaled
from features.output import write_parquet
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


def write_shard(rows: Columns, folder: Path, index: int, *, spec: FeatureSpec, followed: Followed) -> Shard:
    """Encodes a shard's rows into the folder; `followed` is told of them.

    A shard has a column a field rather than one list a row: `row`, `label`, `weight` if the log has it, `id_` and
    `dense_` with the field's name. Columns compress to about half of lists, and any tool can read them.
    """
    followed.add(rows.row, rows.label == 1, rows.buckets)
    columns: dict[str, NDArray[np.generic]] = {
        "row": rows.row,
        "label": rows.label,
        **({"weight": rows.weight} if spec.schema.weight else {}),
        **{ID_PREFIX + name: spec.ids[name][rows.buckets[i]] for i, name in enumerate(spec.id_fields)},
        **{DENSE_PREFIX + name: scaled(rows.values[i], spec, name) for i, name in enumerate(spec.dense_fields)},
    }
    name = f"shard-{index:05d}.parquet"
    path = folder / name
    write_parquet(pl.DataFrame(columns), path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    clicks, weight = (float(column.sum(dtype=np.float64)) for column in (rows.label, rows.weight))
    return Shard(name, len(rows.row), clicks, weight, digest)
