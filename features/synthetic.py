"""A Criteo-shaped click log whose true click probabilities are known.

Every row is a user who is shown an ad on a page. The three have hidden traits; the click probability comes from their
main effects, from products of their traits (so that what is learned of one value holds for others like it) and from
the day. The 26 categories are the three's own ids, coarser groups of them, and groupings by their traits; the 13
counts are noisy readings of the traits, missing more often where a trait is low.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.draws import mix
from features.output import file_appears_whole
from features.progress import Progress
from features.schema import criteo

CHUNK_ROWS = 100_000
TRAITS = 6

# How many of each there are at the first day, the share of new ones a day, and how heavy the tail is (Zipf's exponent).
_ENTITIES = {"user": (60_000, 0.10, 1.05), "ad": (12_000, 0.08, 1.10), "page": (4_000, 0.02, 1.15)}


@dataclass(frozen=True)
class _Column:
    """A category: the entity that it tells of, how many values it has (0: the entity's own id), by traits or by id."""

    entity: str
    values: int
    by_traits: bool
    missing: float = 0.0


_CATEGORIES = (
    _Column("ad", 1_400, True), _Column("page", 550, True), _Column("user", 0, False),
    _Column("ad", 0, False), _Column("page", 300, True), _Column("user", 16, True, 0.1),
    _Column("ad", 11_000, False), _Column("page", 600, True), _Column("user", 3, True),
    _Column("user", 20_000, False), _Column("ad", 5_000, False), _Column("user", 0, False, 0.2),
    _Column("ad", 3_000, True), _Column("page", 26, True), _Column("page", 0, False),
    _Column("ad", 0, False, 0.1), _Column("user", 10, True), _Column("ad", 4_500, True),
    _Column("page", 2_000, True, 0.4), _Column("page", 4, True, 0.4), _Column("user", 30_000, False),
    _Column("user", 17, True, 0.7), _Column("page", 15, True), _Column("ad", 8_000, False),
    _Column("user", 90, True, 0.4), _Column("page", 3_500, False, 0.4),
)  # fmt: skip


@dataclass(frozen=True)
class _World:
    """What does not change from chunk to chunk, drawn once from the seed."""

    traits: dict[str, NDArray[np.float64]]  # entity -> [count, TRAITS]
    main: dict[str, NDArray[np.float64]]  # entity -> [count]
    popularity: dict[str, NDArray[np.float64]]  # entity -> [count], ascending, ends at 1
    born: dict[str, NDArray[np.int64]]  # entity -> [count], ids by popularity rank
    labels: list[pl.Series]  # category -> its values as text
    groups: list[NDArray[np.int64]]  # category -> [count of its entity], which value
    readings: NDArray[np.float64]  # [13, 3 * TRAITS], how a count reads the traits


def synth(
    out: Path,
    *,
    rows: int,
    days: int,
    seed: int,
    truth: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Writes `rows` rows in Criteo's layout, in time order over `days` days; the same bytes for the same arguments.

    `truth` gets `row`, `probability` and `click` as Parquet. Returns rows, click_rate and oracle_log_loss, the log
    loss (nats) of the true probabilities on the clicks drawn: no model can be expected to do better.
    """
    world = _world(seed, days)
    truths: list[pl.DataFrame] = []
    with file_appears_whole(out) as path, path.open("wb") as file:
        for first in range(0, rows, CHUNK_ROWS):
            frame, probability = _chunk(world, first, min(CHUNK_ROWS, rows - first), rows, days, seed)
            frame.write_csv(file, separator="\t", include_header=False)
            numbered = pl.int_range(first, first + frame.height, eager=True, dtype=pl.UInt64)
            truths.append(pl.DataFrame({"row": numbered, "probability": probability, "click": frame["label"]}))
            progress("generating", first + frame.height, rows)
    known = pl.concat(truths)
    if truth is not None:
        with file_appears_whole(truth) as path:
            known.write_parquet(path)
    chance = pl.when(pl.col("click") == 1).then(pl.col("probability")).otherwise(1 - pl.col("probability"))
    return {
        "rows": rows,
        "click_rate": float(known["click"].cast(pl.Float64).sum()) / rows,
        "oracle_log_loss": float(known.select(-chance.log().mean()).item()),
    }


def _world(seed: int, days: int) -> _World:
    random = np.random.default_rng([seed, 0])
    traits: dict[str, NDArray[np.float64]] = {}
    main: dict[str, NDArray[np.float64]] = {}
    popularity: dict[str, NDArray[np.float64]] = {}
    born: dict[str, NDArray[np.int64]] = {}
    for entity, (count, new, exponent) in _ENTITIES.items():
        in_all = int(count * (1 + new * max(days - 1, 0)))
        traits[entity] = random.normal(size=(in_all, TRAITS))
        main[entity] = random.normal(size=in_all)
        weights = np.arange(1, count + 1) ** -exponent
        popularity[entity] = np.cumsum(weights) / weights.sum()
        born[entity] = random.permutation(in_all)
    groups = [_grouping(column, traits[column.entity], random) for column in _CATEGORIES]
    labels = [_labels(index, int(group.max()) + 1, seed) for index, group in enumerate(groups)]
    readings = random.normal(size=(13, 3 * TRAITS)) * (random.random((13, 3 * TRAITS)) < 0.25)
    return _World(traits, main, popularity, born, labels, groups, readings)


def _grouping(column: _Column, traits: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Which of the column's values each entity has."""
    count = len(traits)
    if column.values == 0:
        return np.arange(count)
    if not column.by_traits:
        return random.integers(0, column.values, count)
    # Entities whose traits lie alike along a random direction share a value; squares keep the values' sizes uneven.
    along = np.argsort(np.argsort(traits @ random.normal(size=TRAITS))) / count
    return (along**2 * column.values).astype(np.int64)


def _labels(index: int, count: int, seed: int) -> pl.Series:
    codes = mix(np.arange(count, dtype=np.uint64), seed * 1000 + index) & np.uint64(0xFFFFFFFF)
    return pl.Series([f"{code:08x}" for code in codes.tolist()])


def _chunk(
    world: _World, first: int, size: int, rows: int, days: int, seed: int
) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    random = np.random.default_rng([seed, 1, first])
    time = (first + np.arange(size)) / rows * days
    chosen = {entity: _choose(world, entity, time, days, random) for entity in _ENTITIES}
    traits = {entity: world.traits[entity][ids] for entity, ids in chosen.items()}
    probability = 1 / (1 + np.exp(-_logit(world, chosen, traits, time)))
    click = (random.random(size) < probability).astype(np.int8)
    columns: dict[str, Any] = {"label": click}
    schema = criteo()
    together = np.concatenate([traits[entity] for entity in _ENTITIES], axis=1)
    for index, field in enumerate(schema.numeric):
        columns[field.name] = _count(together @ world.readings[index], index, random)
    for index, field in enumerate(schema.categorical):
        column = _CATEGORIES[index]
        values = world.labels[index].gather(world.groups[index][chosen[column.entity]])
        absent = pl.Series(random.random(size) < column.missing)
        columns[field.name] = values.zip_with(~absent, pl.Series([None], dtype=pl.String))
    return pl.DataFrame(columns), probability


def _choose(
    world: _World, entity: str, time: NDArray[np.float64], days: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Entities of a chunk's rows: ranks are drawn by popularity, and who holds them moves on with the days."""
    ranks = np.searchsorted(world.popularity[entity], random.random(len(time)))
    born = world.born[entity]
    window = len(born) - len(world.popularity[entity])
    # An entity that holds a rank is followed by a new one at some moment of its own, once at most.
    turn = (mix(ranks.astype(np.uint64), 7) / 2.0**64) * days
    moved = (time > turn) & (ranks < window)
    return born[np.where(moved, len(world.popularity[entity]) + ranks, ranks)]


def _logit(
    world: _World,
    chosen: dict[str, NDArray[np.int64]],
    traits: dict[str, NDArray[np.float64]],
    time: NDArray[np.float64],
) -> NDArray[np.float64]:
    user, ad, page = traits["user"], traits["ad"], traits["page"]
    mains = 0.45 * world.main["user"][chosen["user"]] + 0.60 * world.main["ad"][chosen["ad"]]
    mains = mains + 0.40 * world.main["page"][chosen["page"]]
    taste = (user[:, :3] * ad[:, :3]).sum(axis=1) * 0.55
    place = (ad[:, 3:] * page[:, 3:]).sum(axis=1) * 0.35
    habit = np.tanh(user[:, 3] * page[:, 0]) * 0.6 + np.abs(user[:, 4] - ad[:, 4]) * -0.35
    drift = 0.15 * np.sin(2 * np.pi * time) + 0.04 * time
    return -1.35 + mains + taste + place + habit + drift


def _count(reading: NDArray[np.float64], index: int, random: np.random.Generator) -> pl.Series:
    noise = random.normal(size=len(reading))
    counts = np.floor(np.exp(np.clip(1.2 + 0.9 * reading + 0.7 * noise, -3, 12))).astype(np.int64)
    counts = counts - 2 if index == 1 else counts
    absent = random.random(len(reading)) < (0.35 / (1 + np.exp(2 * reading)) if index % 3 == 0 else 0.02)
    return pl.Series(counts).zip_with(pl.Series(~absent), pl.Series([None], dtype=pl.Int64))
