"""How far a field has moved from one set of rows to another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.hashing import bucket_counts
from features.profile import Profile
from features.schema import Schema

# Population stability index: above .25 a field is commonly taken to have changed, below .1 to be the same.
MOVED = 0.25

# Values of at least this share of the rows are compared each by itself, at most so many of them; and none that might
# have this share in a log by chance, with fewer rows of it than these.
_FREQUENT = 0.01
_MOST_FREQUENT = 50
_FREQUENT_ROWS = 10

# Numbers are compared in this many groups of neighbours.
_RANGES = 20

# Rows of each group in the one log and in the other.
_Groups = tuple[NDArray[np.float64], NDArray[np.float64]]


def drift(first: Profile, second: Profile) -> dict[str, Any]:
    """Per field the population stability index of all rows of one log against those of another, and whether it moved.

    Both must be counted with the same schema. `moved` lists the fields that did, by index, the largest first.
    """
    fields = {
        name: stability(first.total(name), second.total(name), ordered=is_ordered(name, first.schema))
        for name in bucket_counts(first.schema)
    }
    return {
        "rows": [log.rows for log in (first, second)],
        "rows_rejected": [log.rejected for log in (first, second)],
        "click_rate": [log.click_rate for log in (first, second)],
        "fields": fields,
        "moved": moved(fields),
    }


def moved(fields: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the fields that moved, the farthest first."""
    found = [name for name, about in fields.items() if about["moved"]]
    return sorted(found, key=lambda name: -float(fields[name]["stability_index"]))


def stability(first: NDArray[np.integer], second: NDArray[np.integer], *, ordered: bool) -> dict[str, Any]:
    """Population stability index of a field's counts by bucket (`[buckets + 1]`, the last one missing values).

    `by_chance` is what two samples of one distribution of these sizes would stay below all but always; a field moved if
    its index is above that and MOVED. `ordered` says that neighbouring buckets are alike.
    """
    rows = np.array([first.sum(), second.sum()], np.float64)
    if not rows.all():
        return {"stability_index": None, "by_chance": None, "moved": False}
    used = (first > 0) | (second > 0)
    used[-1] = True
    first, second = first[used], second[used]
    groups = _ranges(first, second) if ordered else _frequent(first, second)
    index = population_stability(*groups)
    by_chance = stability_by_chance(len(groups[0]), *rows.tolist())
    return {"stability_index": index, "by_chance": by_chance, "moved": index > max(MOVED, by_chance)}


def population_stability(
    first: Sequence[float] | NDArray[np.float64], second: Sequence[float] | NDArray[np.float64]
) -> float:
    """Population stability index of two sets of counts over the same groups: sum of (q - p) ln(q / p) of their shares.

    Half a row is added to each group: one that is empty on one side has no logarithm.
    """
    p, q = np.asarray(first, np.float64) + 0.5, np.asarray(second, np.float64) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def stability_by_chance(groups: int, first: float, second: float) -> float:
    """What the index of two samples of one distribution, of so many rows each, stays below all but always."""
    # n1 n2 / (n1 + n2) times the index is about chi-squared, with as many degrees of freedom as groups but one.
    freedom = max(groups - 1, 1)
    return (freedom + 4 * (2 * freedom) ** 0.5) * (1 / first + 1 / second)


def is_ordered(name: str, schema: Schema) -> bool:
    """Whether a field's buckets stand in an order that means something: those of numbers and times do."""
    return name in {field.name for field in schema.numeric} or name in schema.derived


def _frequent(
    first: NDArray[np.integer], second: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Groups of a category: each frequent value by itself, missing ones, other known values, and new ones.

    How many of the second rows should have a value that none of the first rows has is told by the first rows' values
    that occur once (Good 1953): without drift both are about the same.
    """
    a, b = first[:-1].astype(np.float64), second[:-1].astype(np.float64)
    # Chosen by both logs alike, so that a value is not taken for frequent because chance favoured it in one.
    share = (a / first.sum() + b / second.sum()) / 2
    chosen = np.flatnonzero(share >= max(_FREQUENT, _FREQUENT_ROWS / min(first.sum(), second.sum())))
    chosen = chosen[np.argsort(-share[chosen], kind="stable")][:_MOST_FREQUENT]
    others = np.ones(len(a), bool)
    others[chosen] = False
    once, new = float((a[others] == 1).sum()), float(b[others & (a == 0)].sum())
    if new / second.sum() < once / first.sum():
        once, new = 0.0, 0.0  # fewer new values than there should be say that the logs share rows, not that they differ
    one = [*a[chosen], float(first[-1]), float(a[others].sum()) - once, once]
    two = [*b[chosen], float(second[-1]), float(b[others].sum()) - new, new]
    return np.array(one), np.array(two)


def _ranges(first: NDArray[np.integer], second: NDArray[np.integer]) -> _Groups:
    """Groups of a number: ranges that both logs together fill about equally, and missing values."""
    a, b = first[:-1].astype(np.float64), second[:-1].astype(np.float64)
    share = a / max(a.sum(), 1) + b / max(b.sum(), 1)
    middle = np.cumsum(share) - share / 2
    group = np.minimum(middle / max(share.sum(), 1e-300) * _RANGES, _RANGES - 1).astype(np.int64)
    used = np.unique(group[share > 0])
    one = np.bincount(group, weights=a, minlength=_RANGES)[used].tolist()
    two = np.bincount(group, weights=b, minlength=_RANGES)[used].tolist()
    return np.array([*one, float(first[-1])]), np.array([*two, float(second[-1])])
