"""From the id space of one feature spec to another's: which old row of a table each new one begins with."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.spec import FIRST_KEPT, RARE, FeatureSpec

FRESH = -1


@dataclass(frozen=True)
class RowMap:
    """Rows of the table of all fields, in the new order `[rows]`.

    Attributes:
        source: the old table's row, FRESH where there is none.
        learned: whether that row is the very same value's, and not that of all rare values.
    """

    source: NDArray[np.int64]
    learned: NDArray[np.bool_]


@dataclass(frozen=True)
class DenseMap:
    """Dense values: old value = new value x `ratio` + `shift` `[dense fields]`; `source` the old place or FRESH."""

    source: NDArray[np.int64]
    ratio: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def is_identity(self) -> bool:
        """Whether no value has another scale."""
        return bool((self.ratio == 1).all() and (self.shift == 0).all())


def map_rows(old: FeatureSpec, new: FeatureSpec, *, crosses: bool = True) -> RowMap:
    """Where each row of the new table comes from, for all fields, or for all but crosses.

    A value that is kept now and was rare before begins with what was known of rare values. A field whose values are
    told apart in another way than before (other buckets, another kind of token), or that is new, begins afresh.
    """
    starts = dict(zip(old.id_fields, np.cumsum([0, *old.sizes[:-1]]).tolist(), strict=True))
    sources: list[NDArray[np.int64]] = []
    learned: list[NDArray[np.bool_]] = []
    names = new.id_fields if crosses else new.id_fields[: len(new.id_fields) - new.cross_count]
    for name, size in zip(new.id_fields, new.sizes, strict=True):
        if name not in names:
            continue
        if _how(old, name) is None or _how(old, name) != _how(new, name):
            sources.append(np.full(size, FRESH))
            learned.append(np.zeros(size, bool))
            continue
        before = _old_ids(old.ids[name], new.ids[name], size)
        sources.append(before + starts[name])
        learned.append((before != RARE) | (np.arange(size) == RARE))
    return RowMap(np.concatenate(sources), np.concatenate(learned))


def map_dense(old: FeatureSpec, new: FeatureSpec) -> DenseMap:
    """Where each dense value of the new spec comes from, and how it was scaled."""
    source = np.full(len(new.dense_fields), FRESH)
    ratio, shift = np.ones(len(source)), np.zeros(len(source))
    kinds = {
        name: {field.name: (field.kind, field.dense) for field in spec.schema.numeric}
        for name, spec in (("old", old), ("new", new))
    }
    for i, name in enumerate(new.dense_fields):
        if name in old.dense_fields and kinds["old"][name] == kinds["new"][name]:
            (mean_before, spread_before), (mean, spread) = old.scales[name], new.scales[name]
            source[i] = old.dense_fields.index(name)
            ratio[i], shift[i] = spread / spread_before, (mean - mean_before) / spread_before
    return DenseMap(source, ratio, shift)


def _old_ids(old: NDArray[np.int32], new: NDArray[np.int32], size: int) -> NDArray[np.int64]:
    """The old id of each new id of a field, by its bucket; of several buckets (a range of numbers) the middle one."""
    order = np.argsort(new[:-1], kind="stable")
    ids = new[:-1][order]
    first, last = np.searchsorted(ids, np.arange(size)), np.searchsorted(ids, np.arange(size), side="right")
    found = np.where(last > first, old[order[np.minimum((first + last) // 2, len(order) - 1)]], RARE).astype(np.int64)
    found[:FIRST_KEPT] = np.arange(FIRST_KEPT)  # missing stays missing, rare stays rare
    return found


def _how(spec: FeatureSpec, name: str) -> Any:
    """How a field's values are told apart; None if the spec has no such field."""
    if name not in spec.ids:
        return None
    schema = spec.schema
    fields = [each for each in [*schema.numeric, *schema.categorical, *schema.crosses] if each.name == name]
    # How often a value must be seen, and what becomes of a number beside its token, tells no values apart.
    left_out = {"min_count", "dense"}
    return len(spec.ids[name]), [field.model_dump(exclude=left_out) for field in fields]
