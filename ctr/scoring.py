"""`ctr evaluate` and `ctr predict`: what a model says of rows, and how good that is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.data import Data, in_order, is_data, open_data, weights_of
from ctr.metrics import evaluate
from ctr.runs import find_model, is_run, read_run
from features.engine import LOCAL, Engine
from features.errors import BadInput
from features.parse import WEIGHT
from features.progress import Progress
from features.split import PARTS

_CALL_ROWS = 4096


def evaluate_model(name: str, inputs: list[str], part: str, progress: Progress) -> dict[str, Any]:
    """A model's figures on raw logs, or on one part of a prepared folder (encoded by the model's own spec)."""
    folder = find_model(name)
    prepared = [Path(given) for given in inputs if is_data(Path(given))]
    if prepared and len(inputs) > 1:
        raise BadInput(f"{prepared[0]} is prepared data: give it alone, or raw logs only")
    if prepared:
        from serving.model import ServedModel

        model = ServedModel(folder)
        data = open_data(prepared[0])
        labels, scores = score_part(model, data, part, progress)
        return evaluate(labels, scores, weights_of(data.parts[part])).as_dict()
    labels, scores, weights, rejected = _score_logs(folder, inputs, progress)
    return {**evaluate(labels, scores, weights).as_dict(), "rows_rejected": rejected}


def score_part(
    model: Any, data: Data, part: str, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and predictions `[rows]` of one part of prepared data, in its order."""
    check_same_spec(model.card["spec_digest"], data)
    if part not in PARTS:
        raise BadInput(f"--part is '{part}'; prepared data has {', '.join(PARTS)}")
    if data.parts[part].rows == 0:
        filled = ", ".join(name for name, each in data.parts.items() if each.rows)
        raise BadInput(f"the {part} part of {data.folder} is empty; choose --part from: {filled}")
    if not data.manifest["labelled"]:
        raise BadInput(f"{data.folder} has no labels to evaluate on")
    labels: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float32]] = []
    done = 0
    for rows in in_order(data.parts[part], _CALL_ROWS):
        labels.append(rows.label[:, 0])
        scores.append(model.from_packed(rows.ids, rows.dense))
        done += len(rows.row)
        progress("scoring", done, data.parts[part].rows)
    return np.concatenate(labels).astype(np.float64), np.concatenate(scores).astype(np.float64)


def check_same_spec(digest: str, data: Data) -> None:
    """Raises BadInput when data were encoded by another spec than the model's."""
    if digest != data.spec.digest:
        raise BadInput(
            f"the model has feature spec {digest} but {data.folder} was encoded by {data.spec.digest}; "
            "its ids would mean other values: encode the log with --spec of the model's data, or give the raw log"
        )


def trained_on(name: str, card: dict[str, Any], to: str) -> Path:
    """The prepared data that MODEL was trained on. `to` says what they are wanted for, such as "judge".

    Raises BadInput if they are gone.
    """
    folder = Path(read_run(Path(name))["data"] if is_run(Path(name)) else card["data"])
    if not folder.is_dir():
        raise BadInput(f"the data that {name} was trained on, {folder}, are gone; say what to {to} on with --data")
    return folder


def held_out(data: Data, to: str) -> str:
    """The part that training has seen least of: test, else validation. Raises BadInput if both are empty."""
    for part in ("test", "validation"):
        if data.parts[part].rows:
            return part
    raise BadInput(
        f"{data.folder} has neither test nor validation rows to {to} on; prepare a log with prepare.test above 0, or "
        "name other data with --data"
    )


def predict_with(
    name: str,
    inputs: list[str],
    out: Path,
    progress: Progress,
    say: Callable[[str], None],
    engine: Engine = LOCAL,
) -> dict[str, Any]:
    """Scores raw logs into a Parquet file; returns what `serving.batch.predict_logs` does."""
    folder = find_model(name)
    from serving.batch import predict_logs

    return {**predict_logs(folder, inputs, out, progress, say, engine), "path": str(out)}


def _score_logs(
    model: Path, inputs: list[str], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None, int]:
    """Labels, scores and weights (None where the log has none) `[rows]`, and the number of rejected rows."""
    from serving.batch import score_logs

    labels: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float32]] = []
    weights: list[NDArray[np.float64]] = []
    rejected = 0
    for scored in score_logs(model, inputs, progress):
        table = scored.scores
        if table["label"].null_count():
            raise BadInput(f"{', '.join(inputs)}: there are no labels to evaluate on; `ctr predict` scores such logs")
        labels.append(table["label"].to_numpy())
        scores.append(table["probability"].to_numpy())
        weights += [table[WEIGHT].to_numpy()] if WEIGHT in table.columns else []
        rejected += scored.rejected.height
    if not sum(map(len, labels)):
        raise BadInput(f"{', '.join(inputs)}: no row could be read, {rejected} were rejected")
    weighed = np.concatenate(weights) if weights else None
    return np.concatenate(labels), np.concatenate(scores).astype(np.float64), weighed, rejected
