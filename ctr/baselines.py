"""What a codistilled model is measured against: logistic regression, and the average of an ensemble."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from ctr.data import Data, Part, in_order, weights_of
from ctr.metrics import evaluate

# Inverse strengths of the L2 penalty that are tried; without validation rows the second is taken.
_STRENGTHS = (0.01, 0.03, 0.1, 0.3)
_BATCH = 65_536


def logistic_regression(
    data: Data, parts: Sequence[str], *, seed: int, say: Callable[[str], None]
) -> dict[str, NDArray[np.float64]]:
    """Predictions `[rows]` on parts of scikit-learn's logistic regression on the same ids, one-hot.

    Its strength is the best of four on the validation part. Keeps the training part in memory: about 12 bytes an id.
    """
    training, labels = _one_hot(data.parts["train"], data.spec.sizes)
    validation = data.parts["validation"]
    strengths = _STRENGTHS if validation.rows else _STRENGTHS[1:2]
    weights, held_out_weights = weights_of(data.parts["train"]), weights_of(validation)
    best: LogisticRegression | None = None
    least = float("inf")
    for strength in strengths:
        model = LogisticRegression(C=strength, solver="lbfgs", max_iter=200, random_state=seed)
        model.fit(training, labels, sample_weight=weights)
        if not validation.rows:
            best = model
            break
        held_out, truth = _one_hot(validation, data.spec.sizes)
        loss = evaluate(truth, model.predict_proba(held_out)[:, 1], held_out_weights).log_loss
        say(f"logistic regression, C = {strength:g}: validation log loss {loss:.5f}")
        if loss < least:
            best, least = model, loss
    assert best is not None
    return {part: best.predict_proba(_one_hot(data.parts[part], data.spec.sizes)[0])[:, 1] for part in parts}


def average(predictions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The ensemble's prediction `[rows]`: the mean of its members' probabilities."""
    return np.mean(np.stack(predictions), axis=0)


def _one_hot(part: Part, sizes: Sequence[int]) -> tuple[csr_matrix, NDArray[np.float64]]:
    starts = np.cumsum([0, *sizes[:-1]])
    ids: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.float32]] = []
    for rows in in_order(part, _BATCH):
        ids.append((rows.ids + starts).astype(np.int32))
        labels.append(rows.label[:, 0])
    columns = np.concatenate(ids)
    count, fields = columns.shape
    pointers = np.arange(0, count * fields + 1, fields)
    ones = np.ones(count * fields, np.float32)
    matrix = csr_matrix((ones, columns.ravel(), pointers), shape=(count, int(sum(sizes))))
    return matrix, np.concatenate(labels).astype(np.float64)
