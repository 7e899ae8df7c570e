"""How the rows of a log are divided into training, validation and test."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.draws import mix

PARTS = ("train", "validation", "test")

MINUTE = 60


@dataclass(frozen=True)
class Split:
    """How rows are divided: `time` (last part test), `random`, or `none` (all are training rows).

    Without a time in the schema, `time` cuts by position in the log, since logs are written in time order.
    """

    kind: str
    validation: float
    test: float
    seed: int

    def part(self, rows: pl.Series, total: int) -> NDArray[np.int64]:
        """The index into PARTS of each row number, of `total` rows."""
        numbers = rows.to_numpy()
        if self.kind == "none":
            return np.zeros(len(numbers), np.int64)
        place = numbers / total if self.kind == "time" else mix(numbers, self.seed ^ 0x5EED) / 2.0**64
        return np.searchsorted(self._cuts(), place, side="right")

    def part_by_time(self, seconds: pl.Series, cuts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index into PARTS of each moment, by `time_cuts`."""
        return np.searchsorted(cuts, seconds.to_numpy(), side="right")

    def time_cuts(self, minutes: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        """The moments (seconds since 1970) at which validation and test begin, given how many rows each minute has.

        A minute is not divided, so no training row is later than a validation row. A part may get a little more or
        less than its share.
        """
        counted = np.array(sorted(minutes), np.int64).reshape(-1, 2)
        before = np.cumsum(counted[:, 1]) - counted[:, 1]
        share = before / max(int(counted[:, 1].sum()), 1)
        starts = np.append(counted[:, 0], np.iinfo(np.int64).max // MINUTE)
        return starts[np.searchsorted(share, self._cuts(), side="left")] * MINUTE

    def _cuts(self) -> NDArray[np.float64]:
        train = 1.0 - self.validation - self.test
        # A share of 0.8 of 10 rows is 8 rows, although 1 - .1 - .1 is a little less than .8 in floating point.
        return np.array([train, train + self.validation]) - 1e-9
