"""Where each row of a log goes: to which place between the passes, and from there into which shards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from features.draws import mix
from features.records import Records
from features.split import PARTS, Split


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

    def shards(self, records: Records) -> Iterator[tuple[str, int, Callable[[], NDArray[np.void]]]]:
        """Every shard's part, number, and what gives its records: shuffled ones first, in no order, then the others."""
        places = records.places()
        for place in places:
            if place < self.shuffled:
                yield PARTS[0], place, partial(records.take, place)
        for part, name in enumerate(PARTS):
            first = self.shuffled + part * self.ranges
            mine = [place for place in places if first <= place < first + self.ranges]
            for index, shard in enumerate(_cut(mine, records, self.shard_rows)):
                yield name, index, partial(np.asarray, shard)


def _cut(places: list[int], records: Records, shard_rows: int) -> Iterator[NDArray[np.void]]:
    """The records of several places, one after another, in pieces of `shard_rows`, the last one smaller."""
    held = np.empty(0, records.kind)
    for place in places:
        taken = records.take(place)
        held = np.concatenate([held, taken[np.argsort(taken["row"], kind="stable")]])
        while len(held) >= shard_rows:
            yield held[:shard_rows]
            held = held[shard_rows:]
    if len(held):
        yield held
