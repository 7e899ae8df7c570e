"""How a log's rows, clicks and most frequent values move over its length."""

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Parts of the log by position, for plots over time.
SLICES = 24

# Values of a field that are followed over time: the most frequent ones of the whole log, beside missing ones.
FOLLOWED = 8

# More rows than this are sampled: a share of .1 in a slice is then known to .004 or so, enough for a plot.
_ENOUGH_ROWS = 200_000

OTHER, MISSING = 0, 1
_GROUPS = MISSING + 1 + FOLLOWED

# By field, rows `[SLICES, groups]`.
Groups = dict[str, NDArray[np.int64]]


def slices_of(rows: NDArray[np.uint64], total: int) -> NDArray[np.int64]:
    """The slice of the log that each row number, of `total` rows, lies in."""
    return (rows * np.uint64(SLICES) // np.uint64(max(total, 1))).astype(np.int64)


class Length:
    """Rows, clicks and times of each slice."""

    def __init__(self, total: int):
        self.total = total
        self.rows = np.zeros(SLICES, np.int64)
        self.clicks = np.zeros(SLICES, np.int64)
        self.first = np.full(SLICES, np.iinfo(np.int64).max)
        self.last = np.full(SLICES, np.iinfo(np.int64).min)

    def add(self, rows: NDArray[np.uint64], clicked: NDArray[np.bool_], seconds: NDArray[np.int64] | None) -> None:
        """Counts rows by their number."""
        slices = slices_of(rows, self.total)
        self.rows += np.bincount(slices, minlength=SLICES)
        self.clicks += np.bincount(slices[clicked], minlength=SLICES)
        if seconds is not None:
            for slice_ in np.unique(slices).tolist():
                here = seconds[slices == slice_]
                self.first[slice_] = min(self.first[slice_], here.min())
                self.last[slice_] = max(self.last[slice_], here.max())

    def merge(self, other: "Length") -> None:
        """Adds those of other rows of the same log."""
        # What came from another process may not be written to.
        self.rows, self.clicks = self.rows + other.rows, self.clicks + other.clicks
        self.first, self.last = np.minimum(self.first, other.first), np.maximum(self.last, other.last)


class Followed:
    """Rows and clicks of each slice by group of values, `[SLICES, groups]` a field. Threads may add at once."""

    def __init__(self, values: dict[str, NDArray[np.int64]], buckets: dict[str, int], total: int):
        """`values` are the buckets to follow of each field, at most FOLLOWED; `buckets` how many it has."""
        self.values, self.total = values, total
        self.rows = {name: np.zeros((SLICES, _GROUPS), np.int64) for name in values}
        self.clicks = {name: np.zeros((SLICES, _GROUPS), np.int64) for name in values}
        self._groups: dict[str, NDArray[np.uint8]] = {}
        for name, followed in values.items():
            groups = np.full(buckets[name] + 1, OTHER, np.uint8)
            groups[followed] = MISSING + 1 + np.arange(len(followed))
            groups[-1] = MISSING
            self._groups[name] = groups
        self._lock = Lock()

    def add(self, rows: NDArray[np.uint64], clicked: NDArray[np.bool_], buckets: NDArray[np.uint32]) -> None:
        """Counts rows by number; `buckets` are `[fields, rows]`. Of long logs a sample is counted."""
        some = np.flatnonzero(rows % np.uint64(max(self.total // _ENOUGH_ROWS, 1)) == 0)
        places = slices_of(rows[some], self.total) * _GROUPS
        clicks = clicked[some]
        for (name, groups), column in zip(self._groups.items(), buckets, strict=True):
            cells = places + groups[column[some]]
            counted = np.bincount(cells, minlength=SLICES * _GROUPS).reshape(SLICES, _GROUPS)
            pressed = np.bincount(cells[clicks], minlength=SLICES * _GROUPS).reshape(SLICES, _GROUPS)
            with self._lock:
                self.rows[name] += counted
                self.clicks[name] += pressed

    def merge(self, rows: Groups, clicks: Groups) -> None:
        """Adds what was counted of other rows with the same values."""
        for mine, theirs in ((self.rows, rows), (self.clicks, clicks)):
            for name, counted in theirs.items():
                mine[name] += counted


def of_length(length: Length, *, labelled: bool, timed: bool) -> dict[str, Any]:
    """Rows and click rate of each slice that has rows; `first` and `last` are when, if rows stand in order of time."""
    used = np.flatnonzero(length.rows)
    first, last = length.first[used], length.last[used]
    in_order = timed and bool((first[1:] >= last[:-1]).all())
    rates = (length.clicks[used] / length.rows[used]).tolist()
    return {
        "slices": SLICES,
        "slice": used.tolist(),
        "first": first.tolist() if in_order else None,
        "last": last.tolist() if in_order else None,
        "rows": length.rows[used].tolist(),
        "click_rate": rates if labelled else None,
    }
