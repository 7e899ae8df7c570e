"""The figures of a comparison: of each arm over its retrainings, and of each arm against every other."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctr.arm_runs import Trained
from ctr.arms import RUN_OF
from ctr.calibration import fit_calibration
from ctr.intervals import paired_interval, retraining_interval, sentence
from ctr.metrics import (
    Evaluation,
    Reliability,
    Roc,
    Tally,
    churn,
    evaluate,
    logit_churn,
    relative_churn,
    weighed_log_loss,
)
from ctr.search import Found
from ctr.segments import evaluate_segments, gauc

Array = NDArray[np.float64]
# The code of each row `[rows]`, and what codes mean.
Segment = tuple[NDArray[np.int64], Mapping[int, str]]

CALIBRATIONS = ("isotonic", "platt")
# Segments shown of a field: those with the most rows.
_MOST_SEGMENTS = 10
# As many as a plot can show.
_ROC_POINTS = 200


class Scored(NamedTuple):
    """All figures of one model's predictions, its reliability, and its ROC curve: None without both classes."""

    evaluation: Evaluation
    reliability: Reliability
    roc: Roc | None


def score(labels: Array, predictions: Array, weights: Array | None) -> Scored:
    """What predictions `[rows]` are worth, from one tally of them."""
    tally = Tally.of(labels, predictions, weights)
    figures = tally.evaluation()
    return Scored(figures, tally.reliability(), None if np.isnan(figures.auc) else tally.roc(_ROC_POINTS))


def row_losses(labels: Array, predictions: Sequence[Array], weights: Array | None) -> list[Array]:
    """The weighed log loss of each row `[rows]`, nats, of each retraining's predictions."""
    return [weighed_log_loss(labels, scores, weights) for scores in predictions]


def arm_figures(
    each: Sequence[Evaluation], predictions: Sequence[Array], losses: Sequence[Array], *, seed: int
) -> dict[str, Any]:
    """An arm's figures: means over its retrainings; log loss with its 95 % interval over rows (nats).

    Args:
        each: the figures of each retraining's predictions, `[rows]`.
        losses: the `row_losses` of the predictions.
    """
    mean, low, high = paired_interval(np.mean(losses, axis=0), seed=seed)
    # One member per retraining: the two of a pair learned from one another.
    pairs = list(pairwise(predictions))
    churns = {"churn": churn, "relative_churn": relative_churn, "logit_churn": logit_churn}
    return {
        "log_loss": {
            "mean": mean,
            "low": low,
            "high": high,
            "spread": float(np.std([one.log_loss for one in each], ddof=1)) if len(each) > 1 else None,
        },
        **{name: _mean(each, name) for name in ("normalized_entropy", "auc", "ece", "mean_prediction")},
        "click_rate": each[0].click_rate,
        **{name: float(np.mean([of(a, b) for a, b in pairs])) if pairs else None for name, of in churns.items()},
    }


def differences(losses: Mapping[str, Sequence[Array]], useless: Sequence[str], *, seed: int) -> list[dict[str, Any]]:
    """Every arm against every worse one, the best arm's first: `row_losses` paired by rows and by retrainings.

    Of two `useless` arms, those not better than the click rate, none is called better: they differ in what they have
    learned of noise.
    """
    whole = {arm: np.mean(each, axis=0) for arm, each in losses.items()}
    ranked = sorted(whole, key=lambda arm: float(whole[arm].mean()))
    found: list[dict[str, Any]] = []
    for better, worse in combinations(ranked, 2):
        if better in useless and worse in useless:
            continue
        rows = paired_interval(whole[worse] - whole[better], seed=seed)
        gains = np.array([float((b - a).mean()) for a, b in zip(losses[better], losses[worse], strict=True)])
        retrainings = retraining_interval(gains)
        found.append(
            {
                "better": better,
                "worse": worse,
                "mean": rows[0],
                "rows": [rows[1], rows[2]],
                "retrainings": None if retrainings is None else [retrainings[1], retrainings[2]],
                "sentence": sentence(better, worse, rows, retrainings, len(gains)),
            }
        )
    return found


def not_better_than_the_click_rate(
    labels: Array, losses: Mapping[str, Sequence[Array]], weights: Array | None, *, seed: int
) -> list[str]:
    """The arms whose mean of `row_losses` is not surely below that of these rows' own click rate for each."""
    rate = float(np.average(labels, weights=weights))
    constant = weighed_log_loss(labels, np.full(len(labels), rate), weights)
    found: list[str] = []
    for arm, each in losses.items():
        gains = constant - np.mean(each, axis=0)
        if paired_interval(gains, seed=seed)[1] <= 0:
            found.append(arm)
    return found


def calibrated(
    fit_on: tuple[Array, Sequence[Array], Array | None],
    labels: Array,
    predictions: Sequence[Array],
    weights: Array | None,
) -> dict[str, dict[str, float]]:
    """What each way to calibrate makes of an arm's log loss and calibration error, means over retrainings.

    Args:
        fit_on: labels, predictions of each retraining, and weights of the rows that calibration is learned from.
    """
    fit_labels, fit_predictions, fit_weights = fit_on
    found: dict[str, dict[str, float]] = {}
    for method in CALIBRATIONS:
        each = [
            evaluate(labels, fit_calibration(method, fit_labels, known, fit_weights).apply(scores), weights)
            for known, scores in zip(fit_predictions, predictions, strict=True)
        ]
        found[method] = {name: _mean(each, name) for name in ("log_loss", "ece")}
    return found


def segment_figures(
    labels: Array, predictions: Sequence[Array], weights: Array | None, segments: Mapping[str, Segment]
) -> dict[str, dict[str, Any]]:
    """Figures of the first retraining by segment; `segments`: by the name of what they are of."""
    found: dict[str, dict[str, Any]] = {}
    for name, (codes, meaning) in segments.items():
        for code, one in evaluate_segments(labels, predictions[0], weights, codes)[:_MOST_SEGMENTS]:
            figures = {key: getattr(one, key) for key in ("rows", "log_loss", "normalized_entropy", "auc")}
            clean = {key: None if np.isnan(value) else value for key, value in figures.items()}
            found[f"{name} {meaning.get(code, f'bucket {code}')}"] = clean
    return found


def mean_gauc(
    labels: Array, predictions: Sequence[Array], weights: Array | None, codes: NDArray[np.int64]
) -> float | None:
    """The arm's AUC within the values of a field, mean over retrainings; None where no value has both labels."""
    found = [gauc(labels, scores, codes, weights).gauc for scores in predictions]
    return None if np.isnan(found).any() else float(np.mean(found))


def costs(trained: Sequence[Trained]) -> dict[str, float | None]:
    """What an arm costs, means over retrainings: training over all the models it takes, serving over those that answer.

    A row's microseconds are those of scoring in large batches by one thread.
    """
    members = [one.members for one in trained]
    if not all(members):
        return dict.fromkeys(("rows_per_second", "seconds", "core_seconds", "table_bytes", "microseconds_per_row"))
    served = trained[0].served
    return {
        "rows_per_second": float(np.mean([sum(m["examples_per_second"] for m in each) for each in members])),
        # Groups of a run train at the same time.
        "seconds": float(np.mean([max(m["seconds"] for m in each) for each in members])),
        "core_seconds": float(np.mean([sum(m["core_seconds"] for m in each) for each in members])),
        "table_bytes": members[0][0]["table_bytes"] * served,
        "microseconds_per_row": float(np.mean([each[0]["microseconds_per_row"] for each in members])) * served,
    }


def found_settings(arm: str, found: Mapping[str, Found]) -> dict[str, Any] | None:
    """What the search of an arm found; None where there was none."""
    best = found.get(RUN_OF.get(arm, ""))
    return None if best is None else {"settings": best.settings, "log_loss": best.log_loss, "trials": best.trials}


def _mean(each: Sequence[Evaluation], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in each]))
