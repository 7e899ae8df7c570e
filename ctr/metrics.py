"""How good predictions are: log loss in nats, normalised entropy, exact AUC, calibration, churn, paired intervals."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Predictions are kept this far from 0 and 1 in log loss, as float32 sigmoids may reach them.
_TINY = 1e-7


@dataclass(frozen=True)
class Evaluation:
    """A model's figures on labelled rows.

    Attributes:
        log_loss: nats a row.
        normalized_entropy: log loss over that of predicting the click rate for every row (He et al. 2014); NaN when
            there are only clicks or none.
        auc: chance that a click scores above a non-click, ties counting half; NaN when either is absent.
        ece: expected calibration error over 20 bins of equal mass, absolute.
    """

    rows: int
    log_loss: float
    normalized_entropy: float
    auc: float
    ece: float
    mean_prediction: float
    click_rate: float

    def as_dict(self) -> dict[str, float | None]:
        """By name; a figure that these rows do not define is None."""
        return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in asdict(self).items()}


def evaluate(labels: Array, predictions: Array) -> Evaluation:
    """All figures of predictions `[rows]` on labels `[rows]` of 0 and 1. Raises ValueError without rows."""
    if len(labels) == 0 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must be equally long and not empty"
        )
    loss = float(row_log_loss(labels, predictions).mean())
    rate = float(labels.mean())
    entropy = float(row_log_loss(labels, np.full_like(labels, rate)).mean()) if 0 < rate < 1 else float("nan")
    return Evaluation(
        rows=len(labels),
        log_loss=loss,
        normalized_entropy=loss / entropy,
        auc=auc(labels, predictions),
        ece=expected_calibration_error(labels, predictions),
        mean_prediction=float(predictions.mean()),
        click_rate=rate,
    )


def row_log_loss(labels: Array, predictions: Array) -> Array:
    """-ln of the probability given to what happened, `[rows]`, nats."""
    p = np.clip(predictions.astype(np.float64), _TINY, 1 - _TINY)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def auc(labels: Array, predictions: Array) -> float:
    """Exact area under the ROC curve, by ranks (Mann-Whitney U over the number of pairs); NaN without both classes."""
    clicks = float(labels.sum())
    others = len(labels) - clicks
    if clicks == 0 or others == 0:
        return float("nan")
    _, group, sizes = np.unique(predictions, return_inverse=True, return_counts=True)
    # Mean rank, from 1, of the rows that share a prediction.
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = float(mean_rank[group][labels == 1].sum())
    return (rank_sum - clicks * (clicks + 1) / 2) / (clicks * others)


def expected_calibration_error(labels: Array, predictions: Array, bins: int = 20) -> float:
    """Mean over rows of |mean prediction - click rate| of the row's bin, in bins of equal mass by prediction.

    Rows that share a prediction count alike, with their mean label, so that their order does not matter.
    """
    order = np.argsort(predictions, kind="stable")
    _, group, sizes = np.unique(predictions, return_inverse=True, return_counts=True)
    shared = (np.bincount(group, weights=labels) / sizes)[group]
    gaps = [
        abs(float(predictions[bin_].mean()) - float(shared[bin_].mean())) * len(bin_)
        for bin_ in np.array_split(order, min(bins, len(order)))
    ]
    return sum(gaps) / len(order)


def chance_calibration_error(predictions: Array, bins: int = 20) -> float:
    """The calibration error to expect, on this many rows, of predictions that are the true probabilities.

    A bin's click rate then scatters about its mean prediction with standard deviation s, and E|gap| = s sqrt(2 / pi).
    """
    total = 0.0
    for bin_ in np.array_split(np.sort(predictions), min(bins, len(predictions))):
        deviation = float(np.sqrt((bin_ * (1 - bin_)).sum())) / len(bin_)
        total += deviation * len(bin_)
    return total * float(np.sqrt(2 / np.pi)) / len(predictions)


def churn(first: Array, second: Array) -> float:
    """Mean |p1 - p2| between two independent retrainings' predictions of the same rows (Anil et al. 2018, 4.4)."""
    return float(np.abs(first - second).mean())


def relative_churn(first: Array, second: Array) -> float:
    """Mean of 2 |p1 - p2| / (p1 + p2), the same relative to the size of the predictions."""
    return float((2 * np.abs(first - second) / np.maximum(first + second, _TINY)).mean())


def paired_interval(differences: Array, *, seed: int, resamples: int = 1000) -> tuple[float, float, float]:
    """Mean of paired differences `[rows]` and its 95 % bootstrap interval (percentiles), as mean, low, high.

    Rows are first gathered into at most 1,000 blocks at random: resampling blocks gives the same interval and takes
    time that does not grow with the rows.
    """
    random = np.random.default_rng(seed)
    blocks = np.array_split(differences[random.permutation(len(differences))], min(1000, len(differences)))
    sums = np.array([float(block.sum()) for block in blocks])
    sizes = np.array([len(block) for block in blocks], dtype=np.float64)
    drawn = random.integers(0, len(blocks), (resamples, len(blocks)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)
