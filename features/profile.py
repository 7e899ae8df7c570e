"""What the first pass notes for people to read: counts by part, names of frequent values, and how they move in time."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fit import Counts
from features.hashing import bucket_counts, joined
from features.schema import Schema

# Parts of the log by position, for plots over time.
SLICES = 24

# Buckets of a field that are followed over time: the missing values', and the most frequent of the first slice.
_FOLLOWED = 8

# Rows of a batch whose values are looked at for names, and how many values a field are then remembered.
_NAMED_ROWS = 5_000
_NAMED_VALUES = 40


@dataclass
class Profile:
    """What is known of a log after its first pass.

    Attributes:
        parts: the counts of each part of the rows.
        names: for each field of texts, a frequent value of a bucket.
        labelled: whether all rows have labels.
        marks: for each slice of the log that has rows, what had been counted at its end.
    """

    schema: Schema
    parts: dict[str, Counts]
    labelled: bool = True
    names: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    marks: dict[int, "Mark"] = field(default_factory=dict[int, "Mark"])
    followed: dict[str, NDArray[np.int64]] = field(default_factory=dict[str, NDArray[np.int64]])

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
        return np.sum([counts.buckets[name] for counts in self.parts.values()], axis=0)

    def name(self, found: dict[str, dict[int, str]]) -> None:
        """Remembers names of values; those known already stay."""
        for name, values in found.items():
            self.names[name] = values | self.names.get(name, {})

    def mark(self, slice_: int, second: int | None) -> None:
        """Notes that all counted so far is of this slice of the log or an earlier one, up to this moment."""
        if not self.marks or list(self.marks) == [slice_]:
            # Not only of the slice's first batch, so that it does not matter how rows fall into batches.
            self.followed = {name: _most_frequent(self.total(name)) for name in bucket_counts(self.schema)}
        counts = list(self.parts.values())
        self.marks[slice_] = Mark(
            second,
            sum(part.rows for part in counts),
            sum(part.clicks for part in counts),
            {name: sum(part.buckets[name][at] for part in counts) for name, at in self.followed.items()},
            {name: sum(part.clicked[name][at] for part in counts) for name, at in self.followed.items()},
        )


@dataclass(frozen=True)
class Mark:
    """Rows and clicks so far, and those of the buckets that are followed, `[followed]` a field; the last one's time."""

    second: int | None
    rows: int
    clicks: int
    buckets: dict[str, Any]
    clicked: dict[str, Any]


def value_names(
    frame: pl.DataFrame, buckets: dict[str, NDArray[np.integer]], schema: Schema
) -> dict[str, dict[int, str]]:
    """The most frequent values of the first rows of a batch, by field and bucket."""
    head = frame.head(_NAMED_ROWS)
    texts = head.select(
        *(pl.col(field.name) for field in schema.categorical),
        *(joined(cross.fields, " x ").alias(cross.name) for cross in schema.crosses),
    )
    names: dict[str, dict[int, str]] = {}
    for name in texts.columns:
        seen = pl.DataFrame({"bucket": buckets[name][: head.height], "value": texts[name]}).drop_nulls()
        counted = seen.group_by("bucket", "value").len().sort("len", "value", descending=[True, False])
        # Where two values share a bucket, it is named after the more frequent one.
        kept = counted.head(_NAMED_VALUES).unique("bucket", keep="first", maintain_order=True)
        names[name] = dict(zip(kept["bucket"].to_list(), kept["value"].to_list(), strict=True))
    return names


def wants_names(first_row: int, rows: int) -> bool:
    """Whether a batch is one of those whose values are named: the first, and one each time the log has doubled."""
    return first_row == 0 or (first_row + rows).bit_length() > first_row.bit_length()


def _most_frequent(counted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The missing values' bucket, then the most frequent ones."""
    missing = len(counted) - 1
    values = counted[:-1]
    top = np.argpartition(-values, min(_FOLLOWED, len(values) - 1))[:_FOLLOWED]
    top = top[np.lexsort((top, -values[top]))]
    return np.append(missing, top[values[top] > 0])
