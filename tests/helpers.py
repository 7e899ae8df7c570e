"""What several test files share: a small log, prepared folders, and what was written read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from features.prepare import prepare
from features.schema import Categorical, Numeric, Schema
from features.split import Split

SMALL = Schema(
    numeric=(Numeric(name="n1", min_count=1), Numeric(name="n2", kind="float", min_count=1)),
    categorical=(Categorical(name="a", buckets=1000, min_count=1), Categorical(name="b", buckets=2**20, min_count=1)),
)
SMALL_CSV = SMALL.model_copy(update={"separator": ",", "header": True})


def ignore(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def small_rows(count: int, first: int = 0) -> pl.DataFrame:
    """Rows `first` to `first + count` of an endless log in the small schema; `b` tells each row from all others."""
    rows = range(first, first + count)
    return pl.DataFrame(
        {
            "label": [int(i % 3 == 0) for i in rows],
            "n1": [None if i % 11 == 5 else i - 5 for i in rows],
            "n2": [None if i % 13 == 6 else i / 4 for i in rows],
            "a": [None if i % 10 == 9 else f"{i % 17:08x}" for i in rows],
            "b": [f"b{i}" for i in rows],
        },
        schema={"label": pl.Int64, "n1": pl.Int64, "n2": pl.Float64, "a": pl.String, "b": pl.String},
    )


def write_tsv(rows: pl.DataFrame, path: Path) -> Path:
    """Writes rows as a tab-separated log without a header."""
    rows.write_csv(path, separator="\t", include_header=False)
    return path


def small_log(path: Path, count: int, first: int = 0) -> Path:
    """A tab-separated log of `small_rows`."""
    return write_tsv(small_rows(count, first), path)


def prepare_small(inputs: list[Path] | list[str], out: Path, **changes: Any) -> dict[str, Any]:
    """Runs `prepare` with settings that suit the small schema, and the given changes; returns the manifest."""
    seed: int = changes.get("seed", 0)
    settings: dict[str, Any] = {
        "schema": SMALL,
        "fitted": None,
        "split": Split("time", 0.1, 0.1, seed),
        "shard_rows": 100,
        "max_reject_rate": 0.01,
        "seed": 0,
        "progress": ignore,
        **changes,
    }
    run: Callable[..., dict[str, Any]] = prepare
    return run([str(path) for path in inputs], out, **settings)


def shards_of(folder: Path, part: str) -> list[pl.DataFrame]:
    """The shards of one part of a prepared folder, in the order of their names."""
    return [pl.read_parquet(path) for path in sorted((folder / part).glob("*.parquet"))]


def rows_of(folder: Path, part: str) -> list[int]:
    """The row numbers of one part of a prepared folder, in the order in which they are written."""
    return [row for shard in shards_of(folder, part) for row in shard["row"].to_list()]


def whole(folder: Path) -> pl.DataFrame:
    """Every row of all three parts of a prepared folder, in the order of the log."""
    shards = [shard for part in ("train", "validation", "test") for shard in shards_of(folder, part)]
    return pl.concat(shards).sort("row")
