"""Which values are missing or new in the last rows that a version scored, and what it said of them."""

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.encode import encode_ids
from features.spec import MISSING, RARE, FeatureSpec
from serving.raw_columns import raw_frame, with_times
from serving.rows import PACKED, Inputs

Floats = NDArray[np.float64]

# Scores of one row differ in their last digits with the rows that it is scored together with.
_SLACK = 1 + 1e-6


class Window:
    """Sums over the last rows of one version.

    `sums` has, one after another: rows, the sum of their scores, how many scores lie between the edges of `edges_of`,
    how many values of each field of `fields_of` are missing, and how many are rare or new.
    """

    def __init__(self, number: int, spec: FeatureSpec, card: dict[str, Any], rows: int):
        """It has the last `rows` rows, and at most one batch more."""
        self.name = window_name(number, card)
        self.fields = fields_of(spec)
        self._spec, self._rows = spec, rows
        self._edges = np.array(edges_of(card)) * _SLACK
        self._batches: deque[Floats] = deque()
        self.sums = np.zeros(2 + len(self._edges) + 1 + 2 * len(self.fields))

    def look(self, batch: Sequence[tuple[Inputs, list[float]]]) -> tuple[Floats, Floats]:
        """Takes in requests with their scores; returns how many values are missing and how many unseen, `[fields]`."""
        scores = np.array([score for _, each in batch for score in each])
        places = np.searchsorted(self._edges, scores)
        counted = sum(_counts(inputs, self._spec, self.fields) for inputs in _by_kind(batch))
        told = np.bincount(places, minlength=len(self._edges) + 1)
        sums = np.concatenate([[len(scores), scores.sum()], told, np.ravel(counted)])
        self._batches.append(sums)
        self.sums = self.sums + sums
        while self.sums[0] - self._batches[0][0] >= self._rows:
            self.sums = self.sums - self._batches.popleft()
        missing, unseen = np.asarray(counted, np.float64)
        return missing, unseen


def window_name(number: int, card: dict[str, Any]) -> str:
    """What a version is called in all processes; another model that takes its number has another name."""
    return f"{number} {hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]}"


def fields_of(spec: FeatureSpec) -> list[str]:
    """The fields that are watched: those with an id, and numbers without one."""
    ids = spec.id_fields
    return [*ids, *(name for name in spec.dense_fields if name not in ids)]


def edges_of(card: dict[str, Any]) -> list[float]:
    """Where the scores are divided: at the recorded tenths, each once; none if the card has none."""
    return sorted(set(card.get("recorded", {}).get("deciles", [])))


def _by_kind(batch: Sequence[tuple[Inputs, list[float]]]) -> list[list[Inputs]]:
    packed = [inputs for inputs, _ in batch if inputs.signature == PACKED]
    raw = [inputs for inputs, _ in batch if inputs.signature != PACKED]
    return [each for each in (packed, raw) if each]


def _counts(several: list[Inputs], spec: FeatureSpec, fields: list[str]) -> Floats:
    """Missing and unseen values of requests of one kind, `[2, fields]`."""
    if several[0].signature == PACKED:
        ids = np.concatenate([inputs.columns["ids"] for inputs in several])
        ids = np.where((ids >= 0) & (ids < np.array(spec.sizes)), ids, RARE)  # as the graph takes them
        dense = np.isnan(np.concatenate([inputs.columns["dense"] for inputs in several])).sum(axis=0)
        absent = dict(zip(spec.dense_fields, dense.tolist(), strict=True))
    else:
        frame = raw_frame(several, spec.schema)
        ids = encode_ids(with_times(frame, spec.schema), spec)
        absent = {name: frame[name].null_count() for name in spec.dense_fields}
    without = fields[len(spec.id_fields) :]
    missing = [*(ids == MISSING).sum(axis=0).tolist(), *(absent[name] for name in without)]
    return np.array([missing, [*(ids == RARE).sum(axis=0).tolist(), *([0] * len(without))]], np.float64)
