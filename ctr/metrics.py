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


def evaluate(labels: Array, predictions: Array, weights: Array | None = None) -> Evaluation:
    """All figures of predictions `[rows]` on labels `[rows]` of 0 and 1, by the rows' `weights`, if any.

    Raises ValueError without rows.
    """
    if len(labels) == 0 or labels.shape != predictions.shape:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must be equally long and not empty"
        )
    loss = _mean(row_log_loss(labels, predictions), weights)
    rate = _mean(labels, weights)
    constant = row_log_loss(np.array([1.0, 0.0]), np.array([rate, rate]))
    entropy = float(rate * constant[0] + (1 - rate) * constant[1]) if 0 < rate < 1 else float("nan")
    return Evaluation(
        rows=len(labels),
        log_loss=loss,
        normalized_entropy=loss / entropy,
        auc=auc(labels, predictions, weights),
        ece=expected_calibration_error(labels, predictions, weights=weights),
        mean_prediction=_mean(predictions, weights),
        click_rate=rate,
    )


def row_log_loss(labels: Array, predictions: Array) -> Array:
    """-ln of the probability given to what happened, `[rows]`, nats."""
    p = np.clip(predictions.astype(np.float64), _TINY, 1 - _TINY)
    return -(labels * np.log(p) + (1 - labels) * np.log1p(-p))


def weighed_log_loss(labels: Array, predictions: Array, weights: Array | None) -> Array:
    """`row_log_loss` times each row's weight over the mean weight: its mean is the weighted log loss."""
    losses = row_log_loss(labels, predictions)
    return losses if weights is None else losses * weights / weights.mean()


def auc(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Exact area under the ROC curve: the share of pairs of a click and a non-click that are ranked right.

    A tie counts half, a pair as the product of its rows' weights. NaN without both classes.
    """
    one = np.ones_like(labels) if weights is None else weights
    _, group = np.unique(predictions, return_inverse=True)
    clicks = np.bincount(group, weights=labels * one)
    others = np.bincount(group, weights=(1 - labels) * one)
    pairs = float(clicks.sum() * others.sum())
    below = np.cumsum(others) - others
    return float((clicks * (below + others / 2)).sum()) / pairs if pairs else float("nan")


def expected_calibration_error(
    labels: Array, predictions: Array, bins: int = 20, weights: Array | None = None
) -> float:
    """Mean over rows of |mean prediction - click rate| of the row's bin, in bins of equal mass by prediction.

    Rows that share a prediction count alike, with their mean label, so that their order does not matter.
    """
    one = np.ones_like(labels) if weights is None else weights
    order = np.argsort(predictions, kind="stable")
    _, group = np.unique(predictions, return_inverse=True)
    mass = np.bincount(group, weights=one)
    shared = (np.bincount(group, weights=labels * one) / np.where(mass > 0, mass, 1))[group]
    gaps = (predictions - shared) * one
    if weights is None:
        return sum(abs(float(gaps[bin_].sum())) for bin_ in np.array_split(order, min(bins, len(order)))) / len(order)
    # A row may lie in two bins, with a part of its weight in each.
    before = np.append(0.0, np.cumsum(weights[order]))
    summed = np.append(0.0, np.cumsum(gaps[order]))
    bins = min(bins, int(np.count_nonzero(weights)))
    edges = np.arange(bins + 1) * (before[-1] / bins)
    at: Array = np.asarray(np.interp(edges, before, summed), np.float64)
    return float(np.abs(at[1:] - at[:-1]).sum() / before[-1])


def _mean(values: Array, weights: Array | None) -> float:
    return float(values.mean() if weights is None else np.average(values, weights=weights))


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
