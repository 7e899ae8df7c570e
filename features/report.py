"""What each field of a log is like: missing, distinct, kept, unseen, collisions; and how far it moved between parts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.spec import MISSING, RARE, FeatureSpec

# Population stability index: above .25 a field is commonly taken to have changed, below .1 to be the same.
MOVED = 0.25


@dataclass
class IdCounts:
    """How often each id of each field occurs in one part of the rows; `counts`: int64 `[ids]` a field."""

    spec: FeatureSpec
    rows: int = 0
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict[str, NDArray[np.int64]])

    def __post_init__(self) -> None:
        if not self.counts:
            sizes = zip(self.spec.id_fields, self.spec.sizes, strict=True)
            self.counts = {name: np.zeros(size, np.int64) for name, size in sizes}

    def add(self, ids: Mapping[str, NDArray[np.int32]]) -> None:
        """Counts the ids `[rows]` of every field."""
        self.rows += len(next(iter(ids.values())))
        for name in self.counts:
            self.counts[name] += np.bincount(ids[name], minlength=len(self.counts[name]))

    def share(self, name: str, id_: int) -> float | None:
        """The share of rows whose field `name` has this id; None without rows."""
        return float(self.counts[name][id_]) / self.rows if self.rows else None


def report(spec: FeatureSpec, parts: Mapping[str, IdCounts], used_buckets: Mapping[str, int] | None) -> dict[str, Any]:
    """Per field: buckets kept, distinct values and collisions (both estimated; None for a spec fitted elsewhere), and
    for each part the shares of missing and of rare or unseen values; for parts after the first, the population
    stability index against the first and whether the field moved.
    """
    first = next(iter(parts))
    fields: dict[str, Any] = {}
    for name, size in zip(spec.id_fields, spec.sizes, strict=True):
        buckets = len(spec.ids[name]) - 1
        distinct = None if used_buckets is None else distinct_values(used_buckets[name], buckets)
        fields[name] = {
            "buckets": buckets,
            "kept": size - 2,
            "distinct": distinct,
            "collision_rate": None if not distinct or used_buckets is None else 1 - used_buckets[name] / distinct,
            "missing": {part: counts.share(name, MISSING) for part, counts in parts.items()},
            "rare_or_unseen": {part: counts.share(name, RARE) for part, counts in parts.items()},
            "stability_index": {
                part: population_stability(parts[first].counts[name], counts.counts[name])
                for part, counts in parts.items()
                if part != first and counts.rows and parts[first].rows
            },
        }
    moved = [name for name, about in fields.items() if any(v > MOVED for v in about["stability_index"].values())]
    return {"fields": fields, "moved": moved}


def distinct_values(used: int, buckets: int) -> float:
    """How many distinct values most likely fell into `buckets` when `used` of them are not empty (linear counting).

    n values leave a share exp(-n / buckets) of the buckets empty (Whang et al. 1990).
    """
    # When no bucket is empty the estimate has no upper end; half an empty bucket gives a number.
    empty = max(buckets - used, 0.5)
    return max(float(used), -buckets * math.log(empty / buckets))


def population_stability(first: Sequence[int] | NDArray[np.int64], second: Sequence[int] | NDArray[np.int64]) -> float:
    """Population stability index of two counts over the same values: sum of (q - p) ln(q / p) of their shares.

    The least frequent values are taken together, so that each group holds about a twentieth of the first rows or
    more, and half a row is added to each: a group that is empty on one side has no logarithm.
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    order = np.argsort(-one, kind="stable")
    groups = np.minimum((np.cumsum(one[order]) - one[order]) / max(one.sum(), 1) * 20, 19).astype(np.int64)
    p = np.bincount(groups, weights=one[order], minlength=20)
    q = np.bincount(groups, weights=two[order], minlength=20)
    present = (p + q) > 0
    p, q = p[present] + 0.5, q[present] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())
