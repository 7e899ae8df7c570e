"""First pass: counts and statistics of rows, mergeable, and the FeatureSpec made of those of the training rows."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import BadInput
from features.hashing import bucket_counts, numbers, to_buckets
from features.schema import Schema, dense_fields
from features.spec import FIRST_KEPT, MISSING, RARE, FeatureSpec

# Of the counts' own type: another would have to be cast for each row, in ten times the time.
_ONE = np.uint32(1)

# Sums are whole numbers of this.
_UNIT = 2.0**-46


@dataclass
class Moments:
    """What is kept of the values of a dense field: how many, their exact sum and that of their squares, the extremes.

    Exact, so that it does not matter how rows are divided into batches, nor in which order these are added.
    """

    present: int = 0
    total: int = 0
    squares: int = 0
    least: float = math.inf
    largest: float = -math.inf

    def add(self, other: "Moments") -> None:
        """Adds those of other values."""
        self.present += other.present
        self.total += other.total
        self.squares += other.squares
        self.least, self.largest = min(self.least, other.least), max(self.largest, other.largest)


@dataclass
class Counts:
    """What the first pass counts, over any part of the rows.

    Attributes:
        rows: rows seen.
        clicks: of them, with a label of 1.
        buckets: for each id field, uint32 `[buckets + 1]`: rows a bucket; the last is the missing values'.
        clicked: the same of the rows with a click.
        sums: for each dense field, those of its values, where they were wanted: the spec needs the training rows'.
    """

    schema: Schema
    rows: int = 0
    clicks: int = 0
    buckets: dict[str, NDArray[np.uint32]] = field(default_factory=dict[str, NDArray[np.uint32]])
    clicked: dict[str, NDArray[np.uint32]] = field(default_factory=dict[str, NDArray[np.uint32]])
    sums: dict[str, Moments] = field(default_factory=dict[str, Moments])

    def __post_init__(self) -> None:
        for counts in (self.buckets, self.clicked):
            if not counts:
                counts.update({name: np.zeros(n + 1, np.uint32) for name, n in bucket_counts(self.schema).items()})
        for name in dense_fields(self.schema):
            self.sums.setdefault(name, Moments())

    def __getstate__(self) -> dict[str, Any]:
        """To travel they are only the buckets that have rows: of a million most have none in a file."""
        used = {name: np.flatnonzero(counted) for name, counted in self.buckets.items()} if self.rows else {}
        buckets = {name: (places, self.buckets[name][places]) for name, places in used.items()}
        clicked = {name: self.clicked[name][places] for name, places in used.items()}
        return {**self.__dict__, "buckets": buckets, "clicked": clicked}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "buckets": {}, "clicked": {}})
        self.__post_init__()
        for name, (used, rows) in state["buckets"].items():
            self.buckets[name][used] = rows
            self.clicked[name][used] = state["clicked"][name]

    def add(self, frame: pl.DataFrame) -> None:
        """Counts the rows of a parsed batch."""
        values = numbers(frame, self.schema)
        dense = transformed(values, self.schema)
        clicked = (frame[self.schema.label] == 1).fill_null(False) if self.schema.label in frame.columns else None
        self.add_buckets(
            to_buckets(frame, self.schema, values),
            clicked=np.zeros(frame.height, bool) if clicked is None else clicked.to_numpy(),
            sums=moments(dense, self.schema),
        )

    def add_buckets(
        self,
        buckets: Mapping[str, NDArray[np.integer]],
        *,
        clicked: NDArray[np.bool_],
        sums: Mapping[str, Moments],
    ) -> None:
        """Counts rows whose buckets `[rows]` are known already, with the `moments` of the same rows, if wanted."""
        if not len(clicked):
            return
        clicks = np.flatnonzero(clicked)
        self._add_rows(len(clicked))
        self.clicks += len(clicks)
        for name, places in buckets.items():
            np.add.at(self.buckets[name], places, _ONE)
            np.add.at(self.clicked[name], places[clicks], _ONE)
        for name, found in sums.items():
            self.sums[name].add(found)

    def merge(self, other: "Counts") -> None:
        """Adds what was counted over other rows; in whatever order parts are merged, the spec is the same."""
        self._add_rows(other.rows)
        self.clicks += other.clicks
        for name, counted in other.buckets.items() if other.rows else ():
            used = np.flatnonzero(counted)
            self.buckets[name][used] += counted[used]
            self.clicked[name][used] += other.clicked[name][used]
        for name, found in other.sums.items():
            self.sums[name].add(found)

    def _add_rows(self, rows: int) -> None:
        self.rows += rows
        if self.rows >= 2**32:
            raise BadInput(f"{self.rows:,} rows are more than one part of a log can have, 2^32: prepare it in several")

    def spec(self) -> FeatureSpec:
        """The spec that these counts give. Raises BadInput when there is no row to fit on."""
        if self.rows == 0:
            raise BadInput("no training row is left to fit the features on; give more rows or a larger training part")
        min_counts = {field.name: field.min_count for field in (*self.schema.numeric, *self.schema.categorical)}
        min_counts |= {cross.name: cross.min_count for cross in self.schema.crosses}
        quantiles = {field.name: field.quantiles for field in self.schema.numeric if field.token == "quantile"}
        ids = {
            name: _quantile_ids(counted, quantiles[name])
            if name in quantiles
            else _compact(counted, min_counts.get(name, 1))
            for name, counted in self.buckets.items()
        }
        kinds = {field.name: field.dense for field in self.schema.numeric}
        scales = {name: _scale(found, kinds[name]) for name, found in self.sums.items()}
        return FeatureSpec(self.schema, scales, ids)


def fit(frames: Iterable[pl.DataFrame], schema: Schema, seen: Callable[[int], None] = lambda rows: None) -> Counts:
    """Counts every row of `frames`; `seen` is told of each batch's size."""
    counts = Counts(schema)
    for frame in frames:
        counts.add(frame)
        seen(frame.height)
    return counts


def transformed(values: Mapping[str, NDArray[np.float64]], schema: Schema) -> dict[str, NDArray[np.float64]]:
    """The `numbers` of the dense fields before they are scaled, float64 `[rows]`, NaN where missing."""
    return {
        field.name: signed_log(values[field.name]) if field.dense == "log_standard" else values[field.name]
        for field in schema.numeric
        if field.dense != "none"
    }


def signed_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) ln(1 + |x|): a logarithm that takes zero and negative counts too. NaN stays NaN."""
    return np.copysign(np.log1p(np.abs(values)), values)


def moments(values: Mapping[str, NDArray[np.float64]], schema: Schema) -> dict[str, Moments]:
    """The moments of each field of `transformed` values."""
    kinds = {field.name: field.dense for field in schema.numeric}
    return {name: dense_sums(column, kinds[name]) for name, column in values.items()}


def dense_sums(values: NDArray[np.float64], kind: str) -> Moments:
    """The moments of the values that are present, of a field of this kind; those of min_max are not added up."""
    present = values[~np.isnan(values)]
    if not len(present):
        return Moments()
    least, largest = float(present.min()), float(present.max())
    if kind == "min_max":
        return Moments(len(present), 0, 0, least, largest)
    return Moments(len(present), exact_sum(present), exact_sum(np.square(present)), least, largest)


def exact_sum(values: NDArray[np.float64]) -> int:
    """The sum of logarithms or their squares, as a whole number of 2^-46, to which each is rounded first.

    Rounded so, any batches add up to the same, and float64 can do it: multiples of 2^-12 add up exactly to below 2^41,
    and what they leave of each number, at most 2^-13, adds up exactly as multiples of 2^-46 some 2^20 times.
    """
    total = 0
    for first in range(0, len(values), 2**19):
        some = values[first : first + 2**19]
        # Adding 1.5 x 2^40 and taking it away again rounds to what float64 can hold beside it.
        coarse = (some + 1.5 * 2.0**40) - 1.5 * 2.0**40
        fine = ((some - coarse) + 1.5 * 2.0**6) - 1.5 * 2.0**6
        total += (int(coarse.sum() * 2.0**12) << 34) + int(fine.sum() * 2.0**46)
    return total


def _compact(counted: NDArray[np.uint32], min_count: int) -> NDArray[np.int32]:
    """The id of every bucket: rare ones share one, the kept ones are numbered in the order of the buckets."""
    ids = np.full(len(counted), RARE, np.int32)
    kept = np.flatnonzero(counted[:-1] >= min_count)
    ids[kept] = np.arange(FIRST_KEPT, FIRST_KEPT + len(kept), dtype=np.int32)
    ids[-1] = MISSING
    return ids


def _quantile_ids(counted: NDArray[np.uint32], quantiles: int) -> NDArray[np.int32]:
    """The id of every bucket of ordered numbers: which of so many equally filled parts its middle falls into."""
    rows = counted[:-1].astype(np.int64)
    before = np.cumsum(rows) - rows
    share = (before + rows / 2) / max(int(rows.sum()), 1)
    parts = np.minimum((share * quantiles).astype(np.int64), quantiles - 1)
    # Where one number fills several parts, those between have no bucket; the ids leave no gap. Buckets that no
    # training row has belong to the part that they lie in or next to.
    seen = np.unique(parts[rows > 0])
    places = np.searchsorted(seen, parts, side="left").astype(np.int64)
    ids = np.minimum(places, max(len(seen) - 1, 0)) + FIRST_KEPT
    return np.append(ids, MISSING).astype(np.int32)


def _scale(sums: Moments, kind: str) -> tuple[float, float]:
    """What is subtracted from a value, and what it is then divided by."""
    if sums.present == 0:
        return 0.0, 1.0
    if kind == "min_max":
        spread = sums.largest - sums.least
        return sums.least, spread if 0 < spread < math.inf else 1.0
    mean = sums.total / sums.present * _UNIT
    variance = sums.squares / sums.present * _UNIT - mean * mean
    # A field with one value has nothing to scale by; what is left of its variance then is rounding.
    one_value = sums.least == sums.largest or variance <= 0
    return mean, 1.0 if one_value else variance**0.5
