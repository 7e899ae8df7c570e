"""The first pass over some files of a log: rows are counted and laid aside, those that cannot be read kept."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.aside import Aside, AsideFile, Columns
from features.engine import Seen
from features.fit import Counts
from features.memory import keep_freed_memory
from features.parse import ROW, TIME
from features.places import Places
from features.profile import Profile
from features.scan import Rejects, Scanned, scan
from features.schema import Schema
from features.sources import Source, map_batches
from features.split import MINUTE, PARTS, Split


@dataclass(frozen=True)
class Divider:
    """Gives the part of each row of a batch, of `total` rows. `cuts`: as of `Split.time_cuts`, where times decide."""

    split: Split
    total: int
    cuts: NDArray[np.int64] | None

    def __call__(self, frame: pl.DataFrame) -> NDArray[np.int64]:
        if self.cuts is None:
            return self.split.part(frame[ROW], self.total)
        return self.split.part_by_time(frame[TIME], self.cuts)


@dataclass(frozen=True)
class Found:
    """What a pass over some files found: counts, files of rows laid aside, and rejected rows in a file of their own."""

    profile: Profile
    aside: list[AsideFile]
    rejected: Path
    rejected_rows: int
    first_rejected: str


def count_minutes(sources: Iterable[Source], seen: Seen, *, schema: Schema) -> Counter[int]:
    """How many rows of the files each minute has."""
    minutes: Counter[int] = Counter()
    counted = map_batches(
        sources, schema, lambda batch: (batch.read, (batch.frame[TIME] // MINUTE).value_counts(name="rows"))
    )
    for read, counts in counted:
        minutes.update(dict(counts.iter_rows()))
        seen(read)
    return minutes


def first_pass(
    sources: Iterable[Source], seen: Seen, *, schema: Schema, places: Places, divider: Divider, folder: Path
) -> Found:
    """Counts the rows of the files, and lays them aside in a new folder inside of `folder`.

    A second attempt on the same files, as after a node was lost, has nothing to do with what the first one left.
    """
    keep_freed_memory()
    mine = folder / uuid4().hex
    mine.mkdir()
    profile = Profile(schema, {part: Counts(schema) for part in PARTS})
    aside = Aside(mine, shuffled=places.shuffled, places=places.count)

    def lay_aside(
        rows: NDArray[np.uint64], parts: NDArray[np.int64], ordered: Callable[[NDArray[np.int64]], Columns]
    ) -> None:
        found = places.of(rows, parts)
        # NumPy sorts 16 bits ten times as fast as 64.
        order = np.argsort(found.astype(np.uint16) if places.count < 2**16 else found, kind="stable")
        aside.add(ordered(order), found[order])

    with Rejects(mine / "rejected.ndjson") as rejects:

        def told(scanned: Scanned) -> None:
            rejects.keep(scanned.rejected)
            seen(scanned.read)

        scan(sources, schema, profile, divider, total=places.total, lay_aside=lay_aside, seen=told)
    aside.flush()
    return Found(profile, aside.files, rejects.path, rejects.count, rejects.first)
