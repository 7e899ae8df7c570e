"""Where each row of a log goes: to which place between the passes, and from there into which shards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from features.aside import Aside, Columns, joined
from features.draws import mix
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

    def shards(self, aside: Aside) -> Iterator[tuple[str, int, Callable[[], Columns]]]:
        """Every shard's part, number, and what gives its rows, in order.

        Rows of shuffled shards are read by whoever asks for them; the others, which are cut at other places than they
        lie, are read here.
        """
        used = np.flatnonzero(aside.place_rows).tolist()
        for place in used:
            if place < self.shuffled:
                yield PARTS[0], place, partial(aside.take, place)
        for part, name in enumerate(PARTS):
            first = self.shuffled + part * self.ranges
            mine = [place for place in used if first <= place < first + self.ranges]
            for index, shard in enumerate(_cut(mine, aside, self.shard_rows)):
                yield name, index, partial(joined, [shard])


def _cut(places: list[int], aside: Aside, shard_rows: int) -> Iterator[Columns]:
    """The rows of several places, one after another, in pieces of `shard_rows`, the last one smaller."""
    held: list[Columns] = []
    for place in places:
        held.append(aside.take(place))
        while sum(len(piece.row) for piece in held) >= shard_rows:
            whole = joined(held)
            yield whole.take(slice(shard_rows))
            held = [whole.take(slice(shard_rows, None))]
    if sum(len(piece.row) for piece in held):
        yield joined(held)
