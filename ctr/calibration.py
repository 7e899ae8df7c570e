"""Calibration: a table from a model's logits to better ones, fitted on held-out rows after the training."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import LogisticRegression

from ctr.metrics import evaluate
from features.errors import BadInput

Method = Literal["isotonic", "platt"]
Array = NDArray[np.float64]

# Logits beyond it are taken for it: there log loss, too, no longer tells predictions apart (1e-7 from 0 and 1).
_FARTHEST = 16.0
_MOST_KNOTS = 200
# Isotonic regression takes logits to the nearest 256th. Knots nearer to one another would be so steep that float32's
# rounding of a logit showed in the probability.
_GRID = 256


@dataclass(frozen=True)
class Calibration:
    """A calibrated logit is interpolated linearly in `x`, and beyond its ends is that of the end.

    Both methods share that one rule. Platt's line ends at logits of -16 and 16, where nothing is lost; for isotonic
    regression the logits beyond are those that no row speaks for.

    Attributes:
        x: logits `[knots]`, float32, increasing.
        y: calibrated logits `[knots]`, float32, non-decreasing.
    """

    method: Method
    x: NDArray[np.float32]
    y: NDArray[np.float32]

    def apply(self, predictions: NDArray[np.floating[Any]]) -> Array:
        """Calibrated probabilities `[rows]` of a model's probabilities `[rows]`.

        A float32 probability near 1 says little of its logit (at .999 to 3e-5, at .99999 to 3e-3): where the logit is
        at hand, `of_logits` is exact.
        """
        return _sigmoid(self.of_logits(_logit(predictions)))

    def of_logits(self, logits: NDArray[np.floating[Any]]) -> Array:
        """Calibrated logits `[rows]` of a model's logits `[rows]`."""
        return np.interp(logits, self.x.astype(np.float64), self.y.astype(np.float64))

    def to_json(self) -> str:
        """As one JSON object: method, x, y."""
        return json.dumps({"method": self.method, "x": self.x.tolist(), "y": self.y.tolist()})

    @staticmethod
    def from_json(text: str) -> "Calibration":
        """What `to_json` wrote, to the bit."""
        read = json.loads(text)
        return Calibration(read["method"], np.array(read["x"], np.float32), np.array(read["y"], np.float32))


def fit_calibration(method: Method, labels: Array, predictions: Array, weights: Array | None = None) -> Calibration:
    """The table that makes `predictions` `[rows]` fit labels `[rows]` of 0 and 1, by the rows' `weights`, if any.

    A weight counts as so many rows. Raises BadInput unless there are rows of both labels.
    """
    mass = np.ones_like(labels) if weights is None else weights
    clicks, total = float((labels * mass).sum()), float(mass.sum())
    if not 0 < clicks < total:
        raise BadInput(
            f"a calibration cannot be fitted on {len(labels)} rows with {clicks:g} clicks, as it takes rows of both "
            "labels; prepare the data with a larger validation part, or leave train.calibration at none"
        )
    x, y = (_isotonic if method == "isotonic" else _platt)(_logit(predictions), labels, mass)
    return Calibration(method, x.astype(np.float32), y.astype(np.float32))


def calibration_figures(
    calibration: Calibration, labels: Array, predictions: Array, weights: Array | None = None
) -> dict[str, Any]:
    """Log loss (nats) and calibration error of predictions `[rows]` before and after calibration, by name.

    On the rows that it was fitted on the figures after it flatter, isotonic regression's more than Platt's.
    """
    before = evaluate(labels, predictions, weights)
    after = evaluate(labels, calibration.apply(predictions), weights)
    return {
        "method": calibration.method,
        "log_loss_before": before.log_loss,
        "log_loss_after": after.log_loss,
        "ece_before": before.ece,
        "ece_after": after.ece,
        "rows": before.rows,
    }


def _platt(logits: Array, labels: Array, mass: Array) -> tuple[Array, Array]:
    """A logistic regression on the logit (Platt 1999): y = a x + b with a >= 0, as ranks are not to be turned round.

    Its penalty (C = 100 on the sum of losses) keeps `a` finite where the logit tells clicks with certainty; of 400
    rows it takes a few ten-thousandths of `a`. The line ends where x or y comes to -16 or 16.
    """
    fitted = LogisticRegression(C=100, solver="newton-cholesky").fit(logits[:, None], labels, sample_weight=mass)
    a, b = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    ends = np.array([-_FARTHEST, _FARTHEST])
    if a <= 0:  # the best line that does not fall is level
        return ends, np.full(2, _logit(np.average(labels, weights=mass)))
    x = np.clip((ends - b) / a, -_FARTHEST, _FARTHEST)
    return x, a * x + b


def _isotonic(logits: Array, labels: Array, mass: Array) -> tuple[Array, Array]:
    """Isotonic regression (Zadrozny & Elkan 2002) of bins of equal mass, a knot at the mean logit of each.

    Isotonic regression finds about n^(1/3) steps in n rows; twice as many bins, 200 at most, are enough to find them.
    Each bin gets one more row, of the mean click rate: so no step is 0 or 1 but as near to them as its rows can
    support, steps still rise, and their mean stays the click rate. With half a click a bin (Laplace's rule) it would
    not where clicks are rare. Lines between knots take .0003 from a mean of .12 at 200,000 rows, half of what chance
    does.
    """
    cells, cell = np.unique(np.round(logits * _GRID), return_inverse=True)
    held = np.bincount(cell, weights=mass)
    clicks = np.bincount(cell, weights=mass * labels)
    total = float(held.sum())
    bins = min(_MOST_KNOTS, int(np.ceil(2 * np.cbrt(total))))
    # By the middle of each cell's mass: a cell lies in one bin whatever its mass. Cells without mass count for nothing.
    middle = (np.cumsum(held) - held / 2)[held > 0] / total
    _, bin_ = np.unique(np.floor(middle * bins), return_inverse=True)
    rows, clicked, summed = (np.bincount(bin_, weights=each[held > 0]) for each in (held, clicks, held * cells / _GRID))
    rate = float(clicks.sum()) / total
    steps = isotonic_regression((clicked + rate) / (rows + 1), sample_weight=rows + 1)
    x, y = summed / rows, _logit(steps)
    # Within a step two knots say it all.
    needed = np.ones(len(x), bool)
    needed[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return x[needed], y[needed]


def _logit(probabilities: NDArray[np.floating[Any]] | float) -> Array:
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -_FARTHEST, _FARTHEST)


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))
