"""A SavedModel made anew of the weights of others: with tables in 16 bits, or several models as their average."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ctr.data import Data, weights_of
from ctr.metrics import evaluate
from ctr.recorded import mean_of
from ctr.saved import saved_model
from ctr.scoring import held_out, score_part
from features.errors import BadInput
from features.output import appears_whole
from features.progress import Progress
from serving.card import read_calibration, read_card, read_spec, write_card
from serving.export import Scorer, write_saved_model
from serving.model import ServedModel


def rebuild(
    members: Sequence[Path], out: Path, *, tables: str, data: Data | None, progress: Progress
) -> dict[str, Any]:
    """Writes the SavedModel `out`, whose probability is the mean of that of the SavedModels `members`.

    Each keeps its calibration. With `data` the new one and the members are scored on its held-out part, and what the
    new one's `tables` cost is returned, and written into its card. Raises BadInput if `out` exists, and as
    `saved_weights` and `score_part` do; nothing is left behind then.
    """
    cards = [read_card(folder) for folder in members]
    card = cards[0] if len(cards) == 1 else _card_of_mean(cards)
    with appears_whole(out) as folder:
        tf.get_logger().setLevel("ERROR")
        scorers = [_scorer(member, tables) for member in members]
        write_saved_model(scorers, read_spec(members[0]), folder, {**card, "tables": tables})
        if data is None:
            return {}
        cost = _cost(folder, members, data, progress)
        write_card(folder, {**read_card(folder), "tables_cost": cost})
    return cost


def _scorer(folder: Path, tables: str) -> Scorer:
    model, calibration = saved_model(folder, str(folder), tables), read_calibration(folder)
    if calibration is None and read_card(folder).get("calibration"):
        raise BadInput(f"{folder} has a calibration but not its table; train it anew with this version")
    return Scorer(
        lambda ids, dense: model({"ids": ids, "dense": dense}), list(model.named_weights().values()), calibration
    )


def _card_of_mean(cards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first member's, without the figures that are its own."""
    own = ("group", "run_id", "metrics", "calibration")
    return {
        **cards[0],
        "group": None,
        "metrics": {},
        "calibration": None,
        "ensemble": len(cards),
        "members": [{key: card[key] for key in own} for card in cards],
        "recorded": mean_of([card.get("recorded", {}) for card in cards]),
    }


def _cost(folder: Path, members: Sequence[Path], data: Data, progress: Progress) -> dict[str, Any]:
    """Log loss (nats) on the held-out part, before and after, and how far a probability moved."""
    part = held_out(data, "score")
    weights = weights_of(data.parts[part])
    labels, after = score_part(ServedModel(folder), data, part, progress)
    before = np.mean([score_part(ServedModel(member), data, part, progress)[1] for member in members], axis=0)
    log_loss, log_loss_float32 = (evaluate(labels, scores, weights).log_loss for scores in (after, before))
    return {
        "scored_on": part,
        "rows": len(labels),
        "log_loss": log_loss,
        "log_loss_float32": log_loss_float32,
        "log_loss_difference": log_loss - log_loss_float32,
        "largest_difference": float(np.abs(after - before).max()),
    }
