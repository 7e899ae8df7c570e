"""What is known of a log after its first pass: counts by part, and names of frequent values."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fit import Counts
from features.hashing import joined
from features.schema import Schema
from features.series import Followed, Length, slices_of

# Rows of a batch whose values are looked at for names, and how many values a field are then remembered.
_NAMED_ROWS = 1_000
_NAMED_VALUES = 40


@dataclass
class Profile:
    """Counts of a log's rows.

    Attributes:
        parts: the counts of each part of the rows.
        rejected: rows that could not be read and are not counted.
        labelled: whether all rows have labels.
        names: for each field of texts, a frequent value of a bucket.
        length: rows and clicks along the log, where it was read and not loaded.
        followed: the most frequent values along the log, where there was a second pass.
    """

    schema: Schema
    parts: dict[str, Counts]
    rejected: int = 0
    labelled: bool = True
    names: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    length: Length | None = None
    followed: Followed | None = None

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(counts.rows for counts in self.parts.values())

    @property
    def click_rate(self) -> float | None:
        """Over all parts; None without labels."""
        clicks = sum(counts.clicks for counts in self.parts.values())
        return clicks / self.rows if self.labelled and self.rows else None

    def total(self, name: str) -> NDArray[np.int64]:
        """Rows of each bucket of a field, over all parts."""
        return np.stack([counts.buckets[name] for counts in self.parts.values()]).sum(axis=0, dtype=np.int64)

    def merge(self, other: "Profile") -> None:
        """Adds what is known of later rows of the same log."""
        for part, counts in other.parts.items():
            self.parts[part].merge(counts)
        self.rejected += other.rejected
        self.labelled = self.labelled and other.labelled
        self.name(other.names)
        if self.length and other.length:
            self.length.merge(other.length)

    def name(self, found: dict[str, dict[int, str]]) -> None:
        """Remembers names of values; those known already stay."""
        for name, values in found.items():
            self.names[name] = values | self.names.get(name, {})


def starts_slice(rows: NDArray[np.uint64], total: int) -> bool:
    """Whether one of these ascending row numbers begins a slice of the log, as the first of all does.

    The values of such batches are named: often enough to know those that become frequent late.
    """
    first, last = slices_of(np.array([max(int(rows[0]), 1) - 1, int(rows[-1])], np.uint64), total).tolist()
    return int(rows[0]) == 0 or last > first


def value_names(
    frame: pl.DataFrame, buckets: dict[str, NDArray[np.integer]], schema: Schema
) -> dict[str, dict[int, str]]:
    """A value of each bucket that is frequent among some rows of a batch, by field and bucket."""
    step = max(frame.height // _NAMED_ROWS, 1)
    some = frame.gather_every(step)
    texts = some.select(
        *(pl.col(field.name) for field in schema.categorical),
        *(joined(cross.fields, " x ").alias(cross.name) for cross in schema.crosses),
    )
    names: dict[str, dict[int, str]] = {}
    for name in texts.columns:
        # Where values share a bucket one of its rows speaks for it: most likely one of the most frequent value.
        found, rows, counts = np.unique(buckets[name][::step], return_index=True, return_counts=True)
        top = np.argsort(-counts, kind="stable")[:_NAMED_VALUES]
        values = texts[name].gather(rows[top]).to_list()
        names[name] = {bucket: value for bucket, value in zip(found[top].tolist(), values, strict=True) if value}
    return names


def most_frequent(counted: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The buckets with the most rows, at most so many, none without a row; of equal ones the first."""
    used = np.flatnonzero(counted)
    if len(used) > most:
        least = np.partition(counted[used], len(used) - most)[len(used) - most]
        used = used[counted[used] >= least]
    return used[np.argsort(-counted[used], kind="stable")][:most]
