"""First pass: counts and statistics of the training rows, mergeable, and the FeatureSpec made of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.errors import BadInput
from features.hashing import bucket_counts, numbers, to_buckets
from features.schema import Schema
from features.spec import FIRST_KEPT, MISSING, RARE, FeatureSpec


@dataclass
class Counts:
    """What the first pass counts, over any part of the rows.

    Attributes:
        rows: training rows seen.
        buckets: for each id field, int64 `[buckets + 1]`: rows a bucket; the last is the missing values'.
        moments: for each dense field, float64 `[3]`: rows with a value, sum and sum of squares of its log.
    """

    schema: Schema
    rows: int = 0
    buckets: dict[str, NDArray[np.int64]] = field(default_factory=dict[str, NDArray[np.int64]])
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict[str, NDArray[np.float64]])

    def __post_init__(self) -> None:
        if not self.buckets:
            self.buckets = {name: np.zeros(n + 1, np.int64) for name, n in bucket_counts(self.schema).items()}
            self.moments = {field.name: np.zeros(3) for field in self.schema.numeric if field.dense != "none"}

    def add(self, frame: pl.DataFrame) -> None:
        """Counts the rows of a parsed batch."""
        self.rows += frame.height
        for name, buckets in to_buckets(frame, self.schema).items():
            self.buckets[name] += np.bincount(buckets, minlength=len(self.buckets[name]))
        for name, moments in self.moments.items():
            logs = signed_log(numbers(frame, name))
            present = logs[~np.isnan(logs)]
            moments += [len(present), present.sum(), np.square(present).sum()]

    def merge(self, other: "Counts") -> None:
        """Adds what was counted over other rows; sums of parts, in the same order, are equal to the last bit."""
        self.rows += other.rows
        for name, counted in other.buckets.items():
            self.buckets[name] += counted
        for name, moments in other.moments.items():
            self.moments[name] += moments

    def spec(self) -> FeatureSpec:
        """The spec that these counts give. Raises BadInput when there is no row to fit on."""
        if self.rows == 0:
            raise BadInput("no training row is left to fit the features on; give more rows or a larger training part")
        min_counts = {
            **{field.name: field.min_count for field in self.schema.numeric},
            **{field.name: field.min_count for field in self.schema.categorical},
            **{cross.name: cross.min_count for cross in self.schema.crosses},
        }
        ids = {name: _compact(counted, min_counts[name]) for name, counted in self.buckets.items()}
        scales = {name: _scale(moments) for name, moments in self.moments.items()}
        return FeatureSpec(self.schema, scales, ids)


def fit(frames: Iterator[pl.DataFrame], schema: Schema, seen: Callable[[int], None] = lambda rows: None) -> Counts:
    """Counts every row of `frames`; `seen` is told of each batch's size."""
    counts = Counts(schema)
    for frame in frames:
        counts.add(frame)
        seen(frame.height)
    return counts


def signed_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) ln(1 + |x|): a logarithm that takes zero and negative counts too. NaN stays NaN."""
    return np.sign(values) * np.log1p(np.abs(values))


def _compact(counted: NDArray[np.int64], min_count: int) -> NDArray[np.int32]:
    """The id of every bucket: rare ones share one, the kept ones are numbered in the order of the buckets."""
    ids = np.full(len(counted), RARE, np.int32)
    kept = np.flatnonzero(counted[:-1] >= min_count)
    ids[kept] = np.arange(FIRST_KEPT, FIRST_KEPT + len(kept), dtype=np.int32)
    ids[-1] = MISSING
    return ids


def _scale(moments: NDArray[np.float64]) -> tuple[float, float]:
    count, total, squares = (float(value) for value in moments)
    if count == 0:
        return 0.0, 1.0
    mean = total / count
    variance = squares / count - mean * mean
    # A field with one value has nothing to scale by; what is left of its variance then is rounding, some 1e-16.
    return mean, variance**0.5 if variance > 1e-12 * squares / count else 1.0
