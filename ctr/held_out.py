"""Held-out rows must be new to the model: none of them may be among the training rows."""

import numpy as np
from numpy.typing import NDArray

from ctr.data import Data, Part, Rows, in_order
from features.errors import BadInput

_BATCH = 65_536
# Logs of few fields have many equal rows that are different impressions; one whose training rows are mostly distinct,
# and which holds most of its held-out rows among them, was put together from the same rows twice.
_DISTINCT, _SEEN = 0.4, 0.5


def refuse_seen_rows(data: Data) -> None:
    """Raises BadInput if held-out rows are also training rows: by row number, or by all their values.

    Reads every row once and keeps 16 bytes of each.
    """
    held_out = {name: data.parts[name] for name in ("validation", "test") if data.parts[name].rows}
    train = data.parts["train"]
    trained, contents = (np.unique(each) for each in _keys(train))
    tell_apart = len(contents) > _DISTINCT * train.rows
    for name, part in held_out.items():
        numbers, values = _keys(part)
        same = int(np.isin(numbers, trained).sum())
        if same:
            raise BadInput(
                f"{same:,} of the {part.rows:,} {name} rows of {data.folder} are among its training rows, by their row "
                "numbers: what is learned by heart would count as skill; prepare the log anew"
            )
        seen = float(np.isin(values, contents).mean())
        if tell_apart and seen > _SEEN:
            raise BadInput(
                f"{seen:.0%} of the {name} rows of {data.folder} are, value for value, among its training rows: what "
                "is learned by heart would count as skill; take the log's double rows out and prepare it anew"
            )


def _keys(part: Part) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Row numbers and a hash of all values, `[rows]` each, of a part that has rows."""
    keys = [(rows.row, _content(rows)) for rows in in_order(part, _BATCH)]
    numbers, values = (np.concatenate(each) for each in zip(*keys, strict=True))
    return numbers, values


def _content(rows: Rows) -> NDArray[np.uint64]:
    """A 64-bit hash `[batch]` of each row's label, ids and dense values."""
    found = np.zeros(len(rows.row), np.uint64)
    dense = np.ascontiguousarray(rows.dense).view(np.uint32)
    for column in (*rows.ids.T, *dense.T, rows.label[:, 0].view(np.uint32)):
        found = (found ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(29)
    return found
