"""Where each row of a log goes: to which place between the passes, and from there into which shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.aside import Index, Span
from features.draws import mix
from features.split import PARTS, Split


class ShardRows(NamedTuple):
    """The rows of a shard: its part and number, where they lie, and which of what lies there, in order, they are."""

    part: str
    number: int
    spans: list[Span]
    skip: int
    rows: int


@dataclass(frozen=True)
class Places:
    """Places are numbered: first one for each shuffled training shard, then, part by part, ranges of the log's rows.

    A row's place depends on its number, its part and the seed alone, so batches may be placed in any order. Only what
    is trained on is shuffled: the others keep the log's order, so that scores line up with rows.
    """

    split: Split
    total: int
    shard_rows: int
    seed: int

    @property
    def shuffled(self) -> int:
        """How many training shards rows are spread over; 0 when they keep their order."""
        if self.split.kind == "none":
            return 0
        training = 1 - self.split.validation - self.split.test
        return max(1, round(self.total * training / self.shard_rows))

    @property
    def ranges(self) -> int:
        """How many ranges of rows the log has, each as long as a shard."""
        return self.total // self.shard_rows + 1

    @property
    def count(self) -> int:
        """Of all places."""
        return self.shuffled + len(PARTS) * self.ranges

    def of(self, rows: NDArray[np.uint64], parts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each row, given its part."""
        in_order = self.shuffled + parts * self.ranges + rows.astype(np.int64) // self.shard_rows
        if not self.shuffled:
            return in_order
        spread = (mix(rows, self.seed) % np.uint64(self.shuffled)).astype(np.int64)
        return np.where(parts == 0, spread, in_order)

    def shards(self, index: Index) -> Iterator[ShardRows]:
        """Every shard, in order. Those that are not shuffled are cut at other places than their rows lie."""
        for place in np.flatnonzero(index.place_rows[: self.shuffled]).tolist():
            yield ShardRows(PARTS[0], place, index.spans(place), 0, int(index.place_rows[place]))
        for part, name in enumerate(PARTS):
            first = self.shuffled + part * self.ranges
            ends = np.cumsum(index.place_rows[first : first + self.ranges])
            rows = int(ends[-1])
            for number, start in enumerate(range(0, rows, self.shard_rows)):
                stop = min(start + self.shard_rows, rows)
                begins, finishes = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
                spans = [span for place in range(begins, finishes + 1) for span in index.spans(first + place)]
                before = int(ends[begins - 1]) if begins else 0
                yield ShardRows(name, number, spans, start - before, stop - start)
