"""How far live rows and scores are from what the model's card recorded when it was exported."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from features.drift import MOVED, population_stability, stability_by_chance
from features.spec import FeatureSpec
from serving.window import edges_of, fields_of

# A difference of this many standard deviations is beyond chance: of 78 shares one in 200 times one would be.
_DEVIATIONS = 4


def live_drift(sums: Sequence[float] | None, spec: FeatureSpec, card: dict[str, Any]) -> dict[str, Any]:
    """Live shares beside the recorded ones, per field, those that moved most first; and the same of the scores.

    `sums` are a `Window`'s, of one process or several; None without rows. Values that nobody recorded are None. The
    recorded shares are taken to rest on as many rows as were scored then: the training rows are more.
    """
    recorded, edges, fields = card.get("recorded", {}), edges_of(card), fields_of(spec)
    whole = np.zeros(3 + len(edges) + 2 * len(fields)) if sums is None else np.array(sums)
    rows, before = float(whole[0]), recorded.get("rows")
    missing, unseen = whole[-2 * len(fields) :].reshape(2, len(fields)) / max(rows, 1.0)
    were_missing, were_unseen = (
        recorded.get("missing", {}),
        recorded.get("unseen_held_out", recorded.get("unseen", {})),
    )
    found = [
        {
            "field": name,
            "missing": _share(absent, were_missing.get(name), rows, before),
            # Whether a number without a token is rare is not known.
            "unseen": _share(new, were_unseen.get(name), rows, before) if name in spec.ids else None,
        }
        for name, absent, new in zip(fields, missing.tolist(), unseen.tolist(), strict=True)
    ]
    found.sort(key=lambda field: max(_rank(field["missing"]), _rank(field["unseen"])), reverse=True)
    return {
        "rows": int(rows),
        "rows_recorded": before,
        "score": _scores(whole[: 3 + len(edges)], edges, recorded),
        "fields": found,
        "moved": [each["field"] for each in found if max(_rank(each["missing"]), _rank(each["unseen"]))[0]],
    }


def _share(live: float, recorded: float | None, rows: float, before: float | None) -> dict[str, Any]:
    """A share of so many live rows against one of so many rows before."""
    if not rows or recorded is None:
        return {"live": live if rows else None, "recorded": recorded, "difference": None} | _UNKNOWN
    # One row of each kind more: a share of 0 of few rows does not mean that there is none.
    pooled = (live * rows + recorded * (before or 0) + 1) / (rows + (before or 0) + 2)
    by_chance = _DEVIATIONS * (pooled * (1 - pooled) * _variance(rows, before)) ** 0.5
    difference = live - recorded
    return {
        "live": live,
        "recorded": recorded,
        "difference": difference,
        "by_chance": by_chance,
        "moved": abs(difference) > by_chance,
    }


_UNKNOWN: dict[str, Any] = {"by_chance": None, "moved": False}


def _variance(rows: float, before: float | None) -> float:
    return 1 / rows + (1 / before if before else 0.0)


def _rank(share: dict[str, Any] | None) -> tuple[bool, float]:
    """What moved comes first, then what is farther away."""
    if share is None or share["difference"] is None:
        return False, 0.0
    return share["moved"], abs(share["difference"])


def _scores(sums: Any, edges: list[float], recorded: dict[str, Any]) -> dict[str, Any]:
    """The mean score and the population stability index of the scores over the recorded tenths."""
    rows, before = float(sums[0]), recorded.get("rows")
    mean, was = float(sums[1]) / rows if rows else None, recorded.get("mean_prediction")
    found = {"mean": mean, "recorded_mean": was, "difference": None, **_UNKNOWN}
    if mean is not None and was is not None:
        found["difference"] = mean - was
        if spread := recorded.get("std_prediction"):
            found["by_chance"] = _DEVIATIONS * spread * _variance(rows, before) ** 0.5
            found["moved"] = abs(mean - was) > found["by_chance"]
    index = {"stability_index": None, **_UNKNOWN}
    if rows and edges and before:
        # Where several tenths end at one score, the rows between its edge and the one before are as many tenths.
        ends = np.searchsorted(np.array(recorded["deciles"]), edges, side="right") / 10
        shares = np.diff([0.0, *ends, 1.0])
        index["stability_index"] = population_stability(shares * before, sums[2:])
        index["by_chance"] = stability_by_chance(len(shares), rows, before)
        index["moved"] = index["stability_index"] > max(MOVED, index["by_chance"])
    return {"mean": found, "distribution": index}
