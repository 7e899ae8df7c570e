"""How good predictions are: log loss in nats, normalised entropy, exact AUC, calibration, churn."""

from dataclasses import asdict, dataclass
from typing import NamedTuple, Self

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


class Reliability(NamedTuple):
    """Mean prediction, click rate and mass (rows, or their weight) of each bin, `[bins]`, by rising prediction."""

    mean_prediction: Array
    click_rate: Array
    mass: Array


class Roc(NamedTuple):
    """Shares of the others and of the clicks that score at least a threshold, `[points]`, by falling threshold."""

    false_positive_rate: Array
    true_positive_rate: Array


@dataclass(frozen=True, eq=False)
class Tally:
    """What all figures of labelled rows are worked out from; tallies of parts of the rows merge into that of all.

    It takes 24 bytes a distinct prediction, and a million rows take about 0.1 s.

    Attributes:
        predictions: the distinct ones, rising, `[distinct]`.
        clicks: weight of the clicks at each, `[distinct]`.
        others: weight of the other rows at each, `[distinct]`.
        rows: how many rows there are.
        weighing: how many of them have a weight above 0.
        weighted: whether rows came with weights; a bin of those that did not holds whole rows.
    """

    predictions: Array
    clicks: Array
    others: Array
    rows: int
    weighing: int
    weighted: bool

    @classmethod
    def of(cls, labels: Array, predictions: Array, weights: Array | None = None) -> Self:
        """Of labels `[rows]` of 0 and 1, predictions `[rows]` and the rows' weights `[rows]`, if any.

        Raises ValueError without rows and for vectors of several lengths.
        """
        if len(labels) == 0 or labels.shape != predictions.shape:
            raise ValueError(
                f"labels {labels.shape} and predictions {predictions.shape} must be equally long and not empty"
            )
        if weights is not None and weights.shape != labels.shape:
            raise ValueError(f"weights {weights.shape} and labels {labels.shape} must be equally long")
        one = np.ones(len(labels)) if weights is None else weights
        weighing = len(labels) if weights is None else int(np.count_nonzero(weights))
        gathered = _gathered(predictions.astype(np.float64), labels * one, (1 - labels) * one)
        return cls(*gathered, rows=len(labels), weighing=weighing, weighted=weights is not None)

    def merge(self, other: Self) -> Self:
        """The tally of both's rows, in whichever order up to the rounding of sums.

        It costs a sort of both's distinct predictions, so that many small parts are best merged in pairs.
        """
        gathered = _gathered(
            np.append(self.predictions, other.predictions),
            np.append(self.clicks, other.clicks),
            np.append(self.others, other.others),
        )
        return type(self)(
            *gathered,
            rows=self.rows + other.rows,
            weighing=self.weighing + other.weighing,
            weighted=self.weighted or other.weighted,
        )

    def evaluation(self) -> Evaluation:
        """All figures. Raises ValueError when every row weighs 0."""
        mass = self._mass()
        whole = float(mass.sum())
        of_click, of_other = _costs(self.predictions)
        loss = float((self.clicks * of_click + self.others * of_other).sum()) / whole
        rate = float(self.clicks.sum()) / whole
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else np.nan
        return Evaluation(
            rows=self.rows,
            log_loss=loss,
            normalized_entropy=float(loss / entropy),
            auc=self.auc(),
            ece=self.calibration_error(),
            mean_prediction=float((self.predictions * mass).sum()) / whole,
            click_rate=rate,
        )

    def auc(self) -> float:
        """Exact area under the ROC curve; NaN without both classes."""
        pairs = float(self.clicks.sum() * self.others.sum())
        below = np.cumsum(self.others) - self.others
        return float((self.clicks * (below + self.others / 2)).sum()) / pairs if pairs else float("nan")

    def calibration_error(self, bins: int = 20) -> float:
        """Mean over rows of |mean prediction - click rate| of the row's bin; see `reliability`."""
        predicted, rate, mass = self.reliability(bins)
        return float((np.abs(predicted - rate) * mass).sum() / mass.sum())

    def reliability(self, bins: int = 20) -> Reliability:
        """Predicted and seen click rates in bins of equal mass by prediction; at most as many bins as rows.

        Rows that share a prediction count alike, with their mean label, so that their order does not matter: where a
        bin ends among them, each side has its share of their clicks. Of rows without weights the first bins hold one
        more when the bins do not divide them. Raises ValueError when every row weighs 0.
        """
        mass = self._mass()
        bins = min(bins, self.weighing)
        before = np.append(0.0, np.cumsum(mass))
        edges = np.arange(bins + 1) * (before[-1] / bins)
        if not self.weighted:
            size, more = divmod(self.rows, bins)
            edges = np.array([size * bin_ + min(bin_, more) for bin_ in range(bins + 1)], np.float64)
        predicted, clicks = _between(edges, before, self.predictions * mass), _between(edges, before, self.clicks)
        held = np.diff(edges)
        return Reliability(predicted / held, clicks / held, held)

    def roc(self, points: int) -> Roc:
        """The ROC curve from (0, 0) to (1, 1), exact at its thresholds, of which at most `points` are kept.

        They are about equally far apart along the curve. Raises ValueError without both classes and for fewer than 2
        points.
        """
        if points < 2:
            raise ValueError(f"{points} points make no curve; ask for at least 2")
        if not (self.clicks.any() and self.others.any()):
            raise ValueError(f"the {self.rows} rows are not of both classes, so that there is no ROC curve")
        hits, alarms = (np.append(0.0, np.cumsum(each[::-1])) for each in (self.clicks, self.others))
        hits, alarms = hits / hits[-1], alarms / alarms[-1]
        if len(hits) > points:
            kept = np.unique(np.searchsorted((hits + alarms) / 2, np.linspace(0, 1, points)))
            hits, alarms = hits[kept], alarms[kept]
        return Roc(alarms, hits)

    def _mass(self) -> Array:
        if not self.weighing:
            raise ValueError(f"all {self.rows} rows weigh 0, so that no figure is defined; leave them out")
        return self.clicks + self.others


def evaluate(labels: Array, predictions: Array, weights: Array | None = None) -> Evaluation:
    """All figures of predictions `[rows]` on labels `[rows]` of 0 and 1, by the rows' `weights`, if any.

    Raises ValueError without rows, for vectors of several lengths and when every row weighs 0.
    """
    return Tally.of(labels, predictions, weights).evaluation()


def row_log_loss(labels: Array, predictions: Array) -> Array:
    """-ln of the probability given to what happened, `[rows]`, nats."""
    of_click, of_other = _costs(predictions)
    return labels * of_click + (1 - labels) * of_other


def weighed_log_loss(labels: Array, predictions: Array, weights: Array | None) -> Array:
    """`row_log_loss` times each row's weight over the mean weight: its mean is the weighted log loss."""
    losses = row_log_loss(labels, predictions)
    return losses if weights is None else losses * weights / weights.mean()


def auc(labels: Array, predictions: Array, weights: Array | None = None) -> float:
    """Exact area under the ROC curve: the share of pairs of a click and a non-click that are ranked right.

    A tie counts half, a pair as the product of its rows' weights. NaN without both classes.
    """
    return Tally.of(labels, predictions, weights).auc()


def expected_calibration_error(
    labels: Array, predictions: Array, bins: int = 20, weights: Array | None = None
) -> float:
    """Mean over rows of |mean prediction - click rate| of the row's bin, in bins of equal mass by prediction."""
    return Tally.of(labels, predictions, weights).calibration_error(bins)


def _costs(predictions: Array) -> tuple[Array, Array]:
    """-ln p and -ln(1 - p), nats: what a click and what another row costs."""
    p = np.clip(predictions.astype(np.float64), _TINY, 1 - _TINY)
    return -np.log(p), -np.log1p(-p)


def _gathered(predictions: Array, clicks: Array, others: Array) -> tuple[Array, Array, Array]:
    """Distinct predictions, rising, with the sums of what was at each."""
    distinct, at = np.unique(predictions, return_inverse=True)
    clicks, others = (np.asarray(np.bincount(at, weights=each), np.float64) for each in (clicks, others))
    return distinct, clicks, others


def _between(edges: Array, before: Array, each: Array) -> Array:
    """Sums of `each` `[distinct]` between edges, on an axis where `before` `[distinct + 1]` says which starts where."""
    at: Array = np.asarray(np.interp(edges, before, np.append(0.0, np.cumsum(each))), np.float64)
    return np.diff(at)


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


def logit_churn(first: Array, second: Array) -> float:
    """Mean |logit p1 - logit p2|, predictions kept off 0 and 1 as in log loss: the change in log odds."""
    (click1, other1), (click2, other2) = _costs(first), _costs(second)
    return float(np.abs((other1 - click1) - (other2 - click2)).mean())
