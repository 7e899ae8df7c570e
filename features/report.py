"""What each field of a log is like: missing, distinct, kept, unseen, collisions, clicks by value and over time."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.drift import is_ordered, moved, stability
from features.hashing import QUANTILE_BUCKETS, bucket_counts, log_square_thresholds, quantile_edge
from features.profile import Profile, most_frequent
from features.schema import Schema
from features.series import MISSING, of_length
from features.spec import RARE, FeatureSpec

# Values of a category that are shown.
_TOP = 20

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def report(spec: FeatureSpec, profile: Profile, reference: Profile | None, *, rejected: int) -> dict[str, Any]:
    """All figures of `report.json`.

    `reference` is the profile on whose training part the spec was fitted: the same one, another log's, or None if it is
    not known. How far fields moved is measured from those rows, and without them nobody can tell rare values from those
    never seen: `unseen` is None then, and `rare` counts both. Shares are of the rows of a part, None where it has none.
    """
    fitted = None if reference is None else reference.parts["train"]
    fields = {
        name: _field(name, spec, profile, None if fitted is None else fitted.buckets[name])
        for name in bucket_counts(profile.schema)
    }
    compared: dict[str, dict[str, Any]] = {}
    for part, counts in profile.parts.items():
        if fitted is not None and counts is not fitted and counts.rows:
            compared[part] = {
                name: stability(fitted.buckets[name], counts.buckets[name], ordered=is_ordered(name, profile.schema))
                for name in fields
            }
    for name, about in fields.items():
        about["stability"] = {part: found[name] for part, found in compared.items()}
    return {
        "version": 1,
        "rows": {part: counts.rows for part, counts in profile.parts.items()},
        "rows_rejected": rejected,
        "click_rate": {
            part: _share(c.clicks, c.rows) if profile.labelled else None for part, c in profile.parts.items()
        },
        "over_time": None
        if profile.length is None
        else of_length(profile.length, labelled=profile.labelled, timed=profile.schema.time is not None),
        "fields": fields,
        # Hours and days differ between parts of any log that is divided by time.
        "moved": [
            name
            for name in dict.fromkeys(name for found in compared.values() for name in moved(found))
            if name not in profile.schema.derived
        ],
    }


def distinct_values(used: int, buckets: int) -> float:
    """How many distinct values most likely fell into `buckets` when `used` of them are not empty (linear counting).

    n values leave a share exp(-n / buckets) of the buckets empty (Whang et al. 1990).
    """
    # When no bucket is empty the estimate has no upper end; half an empty bucket gives a number.
    empty = max(buckets - used, 0.5)
    return max(float(used), -buckets * math.log(empty / buckets))


def _field(name: str, spec: FeatureSpec, profile: Profile, fitted: NDArray[np.uint32] | None) -> dict[str, Any]:
    ids = spec.ids[name]
    total = profile.total(name)
    # Only of buckets that occur: of a small log that is a handful of some hundred thousand.
    not_kept = np.flatnonzero((total > 0) & (ids == RARE))
    rare = not_kept if fitted is None else not_kept[fitted[not_kept] > 0]
    unseen = None if fitted is None else not_kept[fitted[not_kept] == 0]
    buckets = len(ids) - 1
    used = int((total[:-1] > 0).sum())
    hashed = not is_ordered(name, profile.schema)
    distinct = distinct_values(used, buckets) if hashed else float(used)
    shares: dict[str, dict[str, float | None]] = {"missing": {}, "rare": {}, "unseen": {}}
    for part, counts in profile.parts.items():
        counted = counts.buckets[name]
        shares["missing"][part] = _share(counted[-1], counts.rows)
        shares["rare"][part] = _share(counted[rare].sum(), counts.rows)
        shares["unseen"][part] = None if unseen is None else _share(counted[unseen].sum(), counts.rows)
    return {
        "kind": _kind(name, profile.schema),
        "buckets": buckets,
        "kept": int(ids.max()) - 1 if int(ids.max()) > RARE else 0,
        "distinct": distinct,
        "collision_rate": 1 - used / distinct if distinct and hashed else None,
        **shares,
        "values": _values(name, spec, profile, total),
        "over_time": _field_over_time(name, profile, _bucket_names(name, spec, profile)),
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
        top = most_frequent(total[:-1], _TOP)
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
        edges = [quantile_edge(int(part[0])) for part in parts[1:]]
        labels = [f"below {edges[0]:.4g}" if edges else "any", *(f"from {edge:.4g}" for edge in edges)]
        return list(zip(labels, parts, strict=True))
    edges = log_square_thresholds().astype(np.int64).tolist()
    labels = ["below -1", *(_range(low, high) for low, high in zip(edges, [*edges[1:], None], strict=True))]
    return [(label, np.array([at])) for at, label in enumerate(labels)]


def _bucket_names(name: str, spec: FeatureSpec, profile: Profile) -> Mapping[int, str]:
    """What each bucket is called, where that is known."""
    if not is_ordered(name, profile.schema):
        return profile.names.get(name, {})
    if len(spec.ids[name]) - 1 == QUANTILE_BUCKETS:
        followed: list[int] = [] if profile.followed is None else profile.followed.values[name].tolist()
        return {at: f"from {quantile_edge(at):.4g}" for at in followed}
    return {at: label for label, buckets in _groups_in_order(name, spec, profile.schema) for at in buckets.tolist()}


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"from {low}"
    return str(low) if high == low + 1 else f"{low} to {high - 1}"


def _field_over_time(name: str, profile: Profile, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """By slice of the log, the share and click rate of missing values and of the most frequent ones."""
    if profile.followed is None or profile.length is None:
        return []
    used = np.flatnonzero(profile.length.rows)
    rows, clicks = profile.followed.rows[name][used], profile.followed.clicks[name][used]
    all_rows = rows.sum(axis=1).tolist()
    values = [None, *(names.get(bucket, f"bucket {bucket}") for bucket in profile.followed.values[name].tolist())]
    found: list[dict[str, Any]] = []
    for group, value in enumerate(values, start=MISSING):
        here = rows[:, group].tolist()
        rates = [_share(pressed, counted) for pressed, counted in zip(clicks[:, group].tolist(), here, strict=True)]
        found.append(
            {
                "value": value,
                "share": [_share(counted, of) for counted, of in zip(here, all_rows, strict=True)],
                "click_rate": rates if profile.labelled else None,
            }
        )
    return found


def _share(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
