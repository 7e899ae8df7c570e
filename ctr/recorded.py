"""What a model's card records of its training data and its scores, so that a server can notice when they drift."""

import json
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr.data import Data
from features.encode import DENSE_PREFIX
from features.prepare import REPORT_FILE

_DECILES = np.arange(1, 10) / 10


def recorded(data: Data, part: str, scores: NDArray[np.float64]) -> dict[str, Any]:
    """What can be known of it; all rows count alike, since requests have no weights.

    Args:
        part: of the data, the one that was scored.
        scores: what the served model predicts for its rows, `[rows]`.

    Returns:
        `missing` and `unseen`: by field, the share of the training rows in which it is missing, or has a value that
        is rare or was never seen (id 1); crosses and fields of the time are among the fields.
        `unseen_held_out`: the same as `unseen` of the rows scored, where they are others. To be compared with: no
        training row has a value that is new, and of 300,000 generated rows C3's share was .25 of the training rows
        and .39 of the validation rows.
        `mean_prediction`, `std_prediction`, `deciles` (the nine scores between tenths of the rows), `rows` and
        `scored_on`: of the scores, where they are not those of the training rows, which flatter.
    """
    found = _shares(data, part)
    if part != "train":
        found |= {
            "mean_prediction": float(scores.mean()),
            "std_prediction": float(scores.std()),
            "deciles": np.quantile(scores, _DECILES).tolist(),
            "rows": len(scores),
            "scored_on": part,
        }
    return found


def mean_of(each: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of the average of models of the same data: their deciles do not give its own, nor its spread."""
    found = {key: value for key, value in each[0].items() if key not in ("std_prediction", "deciles")}
    if "mean_prediction" in found:
        found["mean_prediction"] = float(np.mean([one["mean_prediction"] for one in each]))
    return found


def _shares(data: Data, part: str) -> dict[str, Any]:
    path = data.folder / REPORT_FILE
    if not path.is_file():
        return {}
    # Counted when the data were prepared: reading 45 million rows again would take half a minute.
    fields = json.loads(path.read_text(encoding="utf-8"))["fields"]
    missing = {name: about["missing"]["train"] for name, about in fields.items()}
    found = {"missing": missing | _missing_of_uncounted(data, set(fields)), "unseen": _unseen(fields, "train")}
    return found if part == "train" else {**found, "unseen_held_out": _unseen(fields, part)}


def _unseen(fields: dict[str, Any], part: str) -> dict[str, float]:
    # Where the rows that the spec was fitted on are not known, rare values have the unseen ones among them.
    return {name: about["rare"][part] + (about["unseen"][part] or 0.0) for name, about in fields.items()}


def _missing_of_uncounted(data: Data, counted: set[str]) -> dict[str, float]:
    """The share of missing values of numbers without a token, which have no counts."""
    names = [name for name in data.spec.dense_fields if name not in counted]
    if not names:
        return {}
    shards = pl.scan_parquet([path for path, _ in data.parts["train"].shards])
    shares = shards.select(pl.col(DENSE_PREFIX + name).is_nan().mean().alias(name) for name in names)
    return shares.collect().row(0, named=True)
