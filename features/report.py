"""What each field of a log is like: missing, distinct, kept, unseen, collisions, clicks by value and over time."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.drift import is_ordered, moved, stability
from features.hashing import QUANTILE_BUCKETS, bucket_counts, log_square_thresholds, quantile_edge
from features.profile import SLICES, Profile
from features.schema import Schema
from features.spec import RARE, FeatureSpec

# Values of a category that are shown.
_TOP = 20

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def report(spec: FeatureSpec, profile: Profile, before: Profile | None, *, rejected: int) -> dict[str, Any]:
    """All figures of `report.json`.

    The spec was fitted on the training part of `before`, or, without that, on the profile's own. Shares are of the
    rows of a part, None where it has none; how far fields moved is measured from the rows fitted on.
    """
    fitted_on, labelled = before or profile, profile.labelled
    fields = {
        name: _field(name, spec, profile, fitted_on.parts["train"].buckets[name])
        for name in bucket_counts(profile.schema)
    }
    compared: dict[str, dict[str, Any]] = {}
    for part, counts in profile.parts.items():
        if counts.rows and (before or part != "train"):
            compared[part] = {
                name: stability(
                    fitted_on.parts["train"].buckets[name],
                    counts.buckets[name],
                    ordered=is_ordered(name, profile.schema),
                )
                for name in fields
            }
    for name, about in fields.items():
        about["stability"] = {part: found[name] for part, found in compared.items()}
    return {
        "version": 1,
        "rows": {part: counts.rows for part, counts in profile.parts.items()},
        "rows_rejected": rejected,
        "click_rate": {part: _share(c.clicks, c.rows) if labelled else None for part, c in profile.parts.items()},
        "over_time": _over_time(profile),
        "fields": fields,
        "moved": list(dict.fromkeys(name for found in compared.values() for name in moved(found))),
    }


def distinct_values(used: int, buckets: int) -> float:
    """How many distinct values most likely fell into `buckets` when `used` of them are not empty (linear counting).

    n values leave a share exp(-n / buckets) of the buckets empty (Whang et al. 1990).
    """
    # When no bucket is empty the estimate has no upper end; half an empty bucket gives a number.
    empty = max(buckets - used, 0.5)
    return max(float(used), -buckets * math.log(empty / buckets))


def _field(name: str, spec: FeatureSpec, profile: Profile, fitted: NDArray[np.int64]) -> dict[str, Any]:
    ids = spec.ids[name]
    rare = ids == RARE
    unseen = rare & (fitted == 0)
    buckets = len(ids) - 1
    total = profile.total(name)
    used = int((total[:-1] > 0).sum())
    hashed = not is_ordered(name, profile.schema)
    distinct = distinct_values(used, buckets) if hashed else float(used)
    shares: dict[str, dict[str, float | None]] = {"missing": {}, "rare": {}, "unseen": {}}
    for part, counts in profile.parts.items():
        counted = counts.buckets[name]
        shares["missing"][part] = _share(counted[-1], counts.rows)
        shares["rare"][part] = _share(counted[rare & ~unseen].sum(), counts.rows)
        shares["unseen"][part] = _share(counted[unseen].sum(), counts.rows)
    return {
        "kind": _kind(name, profile.schema),
        "buckets": buckets,
        "kept": int(ids.max()) - 1 if int(ids.max()) > RARE else 0,
        "distinct": distinct,
        "collision_rate": 1 - used / distinct if distinct else None,
        **shares,
        "values": _values(name, spec, profile, total),
        "over_time": _field_over_time(name, profile),
    }


def _kind(name: str, schema: Schema) -> str:
    if name in schema.derived:
        return "time"
    if name in {cross.name for cross in schema.crosses}:
        return "cross"
    return "number" if name in {field.name for field in schema.numeric} else "category"


def _values(name: str, spec: FeatureSpec, profile: Profile, total: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Share and click rate of the most frequent values of a category, or of all ranges of a number, in order."""
    clicked = np.sum([counts.clicked[name] for counts in profile.parts.values()], axis=0)
    rows = max(int(total.sum()), 1)
    if is_ordered(name, profile.schema):
        groups = _groups_in_order(name, spec, profile.schema)
    else:
        top = np.argsort(-total[:-1], kind="stable")[:_TOP]
        names = profile.names.get(name, {})
        groups = [(names.get(at, f"bucket {at}"), np.array([at])) for at in top.tolist()]
    found: list[dict[str, Any]] = []
    for value, at in groups:
        here = int(total[at].sum())
        if here:
            rate = float(clicked[at].sum()) / here if profile.labelled else None
            found.append({"value": value, "share": here / rows, "click_rate": rate})
    return found


def _groups_in_order(name: str, spec: FeatureSpec, schema: Schema) -> list[tuple[str, NDArray[np.int64]]]:
    """Ranges of a number, or values of a field that comes from the time, and the buckets of each."""
    ids = spec.ids[name]
    if name in schema.derived:
        labels = _DAYS if name == "day_of_week" else [str(hour) for hour in range(24)]
        return [(label, np.array([at])) for at, label in enumerate(labels)]
    if len(ids) - 1 == QUANTILE_BUCKETS:
        parts = [np.flatnonzero(ids[:-1] == id_) for id_ in range(RARE + 1, int(ids.max()) + 1)]
        return [(f"from {quantile_edge(int(part[0])):.4g}", part) for part in parts if len(part)]
    edges = log_square_thresholds().astype(np.int64).tolist()
    labels = ["below -1", *(_range(low, high) for low, high in zip(edges, [*edges[1:], None], strict=True))]
    return [(label, np.array([at])) for at, label in enumerate(labels)]


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"from {low}"
    return str(low) if high == low + 1 else f"{low} to {high - 1}"


def _over_time(profile: Profile) -> dict[str, Any]:
    """Rows and clicks by slice of the log; `second` is when a slice ends, if the log has times."""
    rows, clicks = [0], [0]
    ends: list[int | None] = []
    for mark in profile.marks.values():
        rows.append(mark.rows)
        clicks.append(mark.clicks)
        ends.append(mark.second)
    here = np.diff(rows).tolist()
    rates = [_share(c, n) for c, n in zip(np.diff(clicks).tolist(), here, strict=True)]
    return {
        "slices": SLICES,
        "slice": list(profile.marks),
        "second": ends if profile.schema.time else None,
        "rows": here,
        "click_rate": rates if profile.labelled else None,
    }


def _field_over_time(name: str, profile: Profile) -> list[dict[str, Any]]:
    """By slice of the log, the share and click rate of missing values and of the first slice's most frequent ones."""
    followed = profile.followed.get(name)
    if followed is None:
        return []
    marks = list(profile.marks.values())
    rows = np.diff([0, *(mark.rows for mark in marks)])
    found: list[dict[str, Any]] = []
    missing = len(profile.parts["train"].buckets[name]) - 1
    for i, bucket in enumerate(followed.tolist()):
        here = np.diff([0, *(int(mark.buckets[name][i]) for mark in marks)])
        clicks = np.diff([0, *(int(mark.clicked[name][i]) for mark in marks)])
        value = None if bucket == missing else profile.names.get(name, {}).get(bucket, f"bucket {bucket}")
        found.append(
            {
                "value": value,
                "share": [_share(a, b) for a, b in zip(here.tolist(), rows.tolist(), strict=True)],
                "click_rate": [_share(c, a) for c, a in zip(clicks.tolist(), here.tolist(), strict=True)]
                if profile.labelled
                else None,
            }
        )
    return found


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
