"""Encoded shards as batches: an order that (seed, epoch) decides, any position reachable at once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.encode import DENSE_PREFIX, ID_PREFIX
from features.errors import BadInput
from features.prepare import MANIFEST_FILE
from features.spec import FeatureSpec, load_spec
from features.split import PARTS

# Decoded shards kept: 8 of 131,072 rows of Criteo are 220 MB.
_CACHED_SHARDS = 8

_COLUMN_ROWS = 65_536


class Rows(NamedTuple):
    """Encoded rows: `row` numbers uint64 `[batch]`, `label` float32 `[batch, 1]`, `ids` int32, `dense` float32.

    `weight`, float32 `[batch, 1]`, is 1 for the mean training row, and for all where the log has no weights.
    """

    row: NDArray[np.uint64]
    label: NDArray[np.float32]
    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    weight: NDArray[np.float32]

    def take(self, chosen: NDArray[np.int64] | slice) -> "Rows":
        return Rows(self.row[chosen], self.label[chosen], self.ids[chosen], self.dense[chosen], self.weight[chosen])


@dataclass(frozen=True)
class Part:
    """One part of a prepared folder.

    Attributes:
        shards: path and number of rows of each.
        mean_weight: of the training rows, by which weights are divided; None where the log has no weights.
        division: which rows of each shard belong to it; None for all.
    """

    name: str
    shards: tuple[tuple[Path, int], ...]
    click_rate: float | None
    mean_weight: float | None = None
    division: "Division | None" = None

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.shards)


@dataclass(frozen=True)
class Division:
    """The rows that one of several groups reads: a share that all read, and an even part of the rest."""

    group: int
    groups: int
    overlap: float
    seed: int

    def rows(self, shard: int, rows: int) -> NDArray[np.int64]:
        """Row numbers of this group in a shard of so many rows, ascending."""
        order = np.random.default_rng([self.seed, shard]).permutation(rows)
        common = round(rows * self.overlap)
        first, last = (common + (rows - common) * i // self.groups for i in (self.group, self.group + 1))
        return np.sort(np.concatenate([order[:common], order[first:last]]))


@dataclass(frozen=True)
class Data:
    """A folder that `ctr prepare` made."""

    folder: Path
    manifest: dict[str, Any]
    spec: FeatureSpec
    parts: dict[str, Part]

    @property
    def digest(self) -> str:
        return cast(str, self.manifest["digest"])


def is_data(folder: Path) -> bool:
    """Whether `folder` is one that `ctr prepare` made."""
    return (folder / MANIFEST_FILE).is_file()


def open_data(folder: Path) -> Data:
    """The prepared folder at `folder`.

    Raises BadInput if it is none, if a shard is missing, or if its shards were encoded by another spec.
    """
    if not is_data(folder):
        what = "does not exist" if not folder.exists() else f"has no {MANIFEST_FILE}"
        raise BadInput(f"{folder} is no prepared data: it {what}; make it with `ctr prepare`")
    spec = load_spec(folder)
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        encoded_by = manifest["spec_digest"]
        mean_weight = _mean_weight(manifest["parts"]["train"]) if spec.schema.weight else None
        parts = {name: _part(folder, name, manifest["parts"][name], mean_weight) for name in PARTS}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise BadInput(f"{folder / MANIFEST_FILE} is damaged ({problem}); prepare the data again") from None
    if spec.digest != encoded_by:
        raise BadInput(f"{folder} was encoded by the spec {encoded_by} but holds {spec.digest}; prepare it again")
    for part in parts.values():
        for path, _ in part.shards:
            if not path.is_file():
                raise BadInput(f"shard {path} is missing from prepared data; prepare it again")
    return Data(folder, manifest, spec, parts)


def _mean_weight(training: dict[str, Any]) -> float:
    return training["weight"] / training["rows"] if training["weight"] else 1.0


def _part(folder: Path, name: str, entry: dict[str, Any], mean_weight: float | None) -> Part:
    shards = tuple((folder / name / shard, int(about["rows"])) for shard, about in entry["shards"].items())
    return Part(name, shards, entry["click_rate"], mean_weight)


def divided(part: Part, *, group: int, groups: int, overlap: float, seed: int) -> Part:
    """One group's rows of a part: with `overlap` 1 all of them, with 0 as many as others', none of them theirs.

    `seed` decides which rows; every group has to give the same.
    """
    if overlap == 1 or groups == 1:
        return part
    division = Division(group, groups, overlap, seed)
    shards = tuple((path, len(division.rows(i, rows))) for i, (path, rows) in enumerate(part.shards))
    return replace(part, shards=shards, division=division)


def labels_of(part: Part) -> NDArray[np.float64]:
    """The labels of a part `[rows]`, in order."""
    columns = [rows.label[:, 0] for rows in in_order(part, _COLUMN_ROWS)]
    return np.concatenate(columns).astype(np.float64) if columns else np.zeros(0)


def weights_of(part: Part) -> NDArray[np.float64] | None:
    """The weights of a part's rows `[rows]`, in order; None where the log has none."""
    if part.mean_weight is None:
        return None
    columns = [rows.weight[:, 0] for rows in in_order(part, _COLUMN_ROWS)]
    return np.concatenate(columns).astype(np.float64) if columns else np.zeros(0)


def in_order(part: Part, batch_size: int) -> Iterator[Rows]:
    """All rows of a part in the order of the shards, the last batch smaller where they do not divide."""
    for index, (_, rows) in enumerate(part.shards):
        shard = _shard(part, index)
        for first in range(0, rows, batch_size):
            yield shard.take(slice(first, first + batch_size))


def training_batches(
    part: Part, *, batch_size: int, seed: int, first_step: int, worker: int, workers: int
) -> Iterator[Rows]:
    """Batches without end, from step `first_step` on: one worker's even share of each batch of `batch_size`.

    Epoch follows epoch without a gap, so a batch may hold the end of one and the start of the next; each row comes
    once an epoch, in an order that `seed` and the epoch's number decide. The first batch costs the same at any step.
    """
    share = batch_size // workers
    step = first_step
    while True:
        first = step * batch_size + worker * share
        yield _at(part, first, share, seed)
        step += 1


def _at(part: Part, first: int, count: int, seed: int) -> Rows:
    """`count` rows from position `first` of the endless sequence of epochs."""
    pieces: list[Rows] = []
    while count:
        epoch, offset = divmod(first, part.rows)
        for shard in _shard_order(seed, epoch, len(part.shards)):
            _, rows = part.shards[shard]
            if offset < rows:
                order = _row_order(seed, epoch, shard, rows)
                chosen = order[offset : offset + count]
                pieces.append(_shard(part, shard).take(chosen))
                first, count = first + len(chosen), count - len(chosen)
                offset = 0
            else:
                offset -= rows
            if not count:
                break
    return pieces[0] if len(pieces) == 1 else Rows(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))


@lru_cache(maxsize=4)
def _shard_order(seed: int, epoch: int, shards: int) -> list[int]:
    return cast(list[int], np.random.default_rng([seed, epoch]).permutation(shards).tolist())


@lru_cache(maxsize=_CACHED_SHARDS)
def _row_order(seed: int, epoch: int, shard: int, rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, shard]).permutation(rows)


def _shard(part: Part, index: int) -> Rows:
    return _load(part.shards[index][0], part.mean_weight, part.division, index)


@lru_cache(maxsize=_CACHED_SHARDS)
def _load(path: Path, mean_weight: float | None, division: Division | None, index: int) -> Rows:
    frame = pl.read_parquet(path)
    ids = [name for name in frame.columns if name.startswith(ID_PREFIX)]
    dense = [name for name in frame.columns if name.startswith(DENSE_PREFIX)]
    weight = np.ones(frame.height) if mean_weight is None else frame["weight"].to_numpy() / mean_weight
    rows = Rows(
        frame["row"].to_numpy(),
        frame["label"].to_numpy()[:, None],
        frame.select(ids).to_numpy(order="c"),
        frame.select(dense).to_numpy(order="c") if dense else np.zeros((frame.height, 0), np.float32),
        weight.astype(np.float32)[:, None],
    )
    return rows if division is None else rows.take(division.rows(index, frame.height))
