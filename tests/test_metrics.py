"""Figures on small vectors worked out by hand, against scikit-learn, and intervals against simulation."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from ctr.intervals import paired_interval
from ctr.metrics import (
    Evaluation,
    auc,
    chance_calibration_error,
    churn,
    evaluate,
    expected_calibration_error,
    logit_churn,
    relative_churn,
    row_log_loss,
    weighed_log_loss,
)

Array = NDArray[np.float64]


def array(*values: float) -> Array:
    """Numbers as metrics take them."""
    return np.array(values, dtype=np.float64)


def clicks_and_predictions(rows: int, seed: int, distinct: int | None = None) -> tuple[Array, Array]:
    """Clicks drawn from probabilities, and predictions near these; `distinct` many different ones, so that some tie."""
    random = np.random.default_rng(seed)
    probability = random.beta(1.5, 4, rows)
    predictions = np.clip(probability + random.normal(0, 0.1, rows), 0.001, 0.999)
    if distinct:
        predictions = np.ceil(predictions * distinct) / (distinct + 1)
    return (random.random(rows) < probability).astype(np.float64), predictions


def test_all_figures_by_hand() -> None:
    """Four rows, in perfect order, at a click rate of a half."""
    found = evaluate(array(1, 0, 1, 0), array(0.8, 0.2, 0.6, 0.3))
    loss = -(2 * math.log(0.8) + math.log(0.6) + math.log(0.7)) / 4
    assert found.rows == 4
    assert found.log_loss == pytest.approx(loss, rel=1e-12)
    assert found.normalized_entropy == pytest.approx(loss / math.log(2), rel=1e-12)
    assert found.auc == 1.0
    # Fewer rows than bins: each row is a bin.
    assert found.ece == pytest.approx((0.2 + 0.2 + 0.4 + 0.3) / 4, rel=1e-12)
    assert found.mean_prediction == pytest.approx(1.9 / 4, rel=1e-12)
    assert found.click_rate == 0.5


def test_normalised_entropy_of_the_click_rate_is_one() -> None:
    """Predicting the click rate for every row is the measure itself."""
    labels = array(1, 0, 0, 0, 0)
    assert evaluate(labels, np.full(5, 0.2)).normalized_entropy == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_figures_that_need_both_classes_are_absent_without(label: float) -> None:
    """They are NaN, and None by name; the others are there."""
    found = evaluate(np.full(3, label), array(0.5, 0.25, 0.5))
    named = found.as_dict()
    assert math.isnan(found.auc)
    assert math.isnan(found.normalized_entropy)
    assert (named["auc"], named["normalized_entropy"]) == (None, None)
    assert named["log_loss"] == pytest.approx(float(log_loss(np.full(3, label), [0.5, 0.25, 0.5], labels=[0, 1])))
    assert named["rows"] == 3


@pytest.mark.parametrize(("labels", "predictions"), [((), ()), ((1, 0), (0.5,)), ((1,), (0.5, 0.5))])
def test_vectors_that_do_not_fit_are_refused(labels: tuple[float, ...], predictions: tuple[float, ...]) -> None:
    """Empty or of two lengths."""
    with pytest.raises(ValueError, match="must be equally long and not empty"):
        evaluate(array(*labels), array(*predictions))


def test_row_log_loss_by_hand() -> None:
    """Minus the logarithm of what was given to what happened; certain and wrong costs ln 10^7."""
    found = row_log_loss(array(1, 0, 1, 0, 0), array(0.25, 0.25, 0.0, 1.0, 0.0))
    expected = [math.log(4), -math.log(0.75), 7 * math.log(10), 7 * math.log(10), 0.0]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=2e-7)


def test_single_precision_predictions_are_measured_in_double() -> None:
    """A sigmoid in single precision may reach 1 exactly."""
    predictions = np.array([1.0, 1e-30], dtype=np.float32).astype(np.float64)
    assert np.isfinite(row_log_loss(array(0, 1), predictions)).all()
    narrow = np.array([0.1, 0.3], dtype=np.float32)
    found = row_log_loss(array(1, 1), narrow)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found, -np.log(narrow.astype(np.float64)), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distinct", [None, 5, 50])
def test_log_loss_and_auc_are_those_of_scikit_learn(seed: int, distinct: int | None) -> None:
    """With many ties, few and none."""
    labels, predictions = clicks_and_predictions(3000, seed, distinct)
    found = evaluate(labels, predictions)
    assert found.log_loss == pytest.approx(float(log_loss(labels, predictions)), rel=1e-10)
    assert found.auc == pytest.approx(float(roc_auc_score(labels, predictions)), rel=1e-10)


def test_auc_by_hand() -> None:
    """Of six pairs of a click and another row, three are in order, two tie, one is the wrong way."""
    labels = array(1, 1, 0, 0, 0)
    predictions = array(0.5, 0.3, 0.3, 0.5, 0.1)
    # 0.5 against 0.3, 0.5, 0.1: 1 + 1/2 + 1; 0.3 against the same: 1/2 + 0 + 1.
    assert auc(labels, predictions) == pytest.approx(4 / 6, rel=1e-12)


@pytest.mark.parametrize(("predictions", "expected"), [((0.9, 0.1), 1.0), ((0.1, 0.9), 0.0), ((0.4, 0.4), 0.5)])
def test_auc_of_one_pair(predictions: tuple[float, float], expected: float) -> None:
    """In order, the wrong way, and tied."""
    assert auc(array(1, 0), array(*predictions)) == expected


def test_calibration_error_by_hand_in_even_bins() -> None:
    """Bins {0.1, 0.3} and {0.6, 0.8} have means 0.2 and 0.7, click rates 0.5 and 1."""
    found = expected_calibration_error(array(1, 0, 1, 1), array(0.6, 0.1, 0.8, 0.3), bins=2)
    assert found == pytest.approx((0.3 * 2 + 0.3 * 2) / 4, rel=1e-12)


def test_calibration_error_by_hand_in_uneven_bins() -> None:
    """Three rows in two bins: {0.1, 0.2} at a rate of a half, {0.9} at one; each row weighs the same."""
    found = expected_calibration_error(array(0, 1, 1), array(0.1, 0.2, 0.9), bins=2)
    assert found == pytest.approx((0.35 * 2 + 0.1) / 3, rel=1e-12)


def test_calibration_error_has_twenty_bins_of_equal_mass() -> None:
    """Forty rows, two a bin: one of each pair clicks, so each bin's gap is |its mean - 1/2|."""
    predictions = np.arange(1, 41) / 41
    labels = np.tile([0.0, 1.0], 20)
    means = (np.arange(1, 41, 2) + 0.5) / 41
    assert expected_calibration_error(labels, predictions) == pytest.approx(np.abs(means - 0.5).mean(), rel=1e-12)


def test_calibration_error_does_not_depend_on_the_order_of_the_rows() -> None:
    """Nor where many predictions are the same, as those of a constant are."""
    labels, predictions = clicks_and_predictions(400, seed=1, distinct=4)
    order = np.argsort(labels, kind="stable")
    shuffled = expected_calibration_error(labels, predictions)
    assert expected_calibration_error(labels[order], predictions[order]) == pytest.approx(shuffled, rel=1e-9)


def test_predicting_the_click_rate_is_calibrated_in_any_order() -> None:
    """A quarter clicks and a quarter is predicted: there is no error, though all clicks come last."""
    labels = np.repeat([0.0, 1.0], [75, 25])
    assert expected_calibration_error(labels, np.full(100, 0.25)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("rows", "low", "high"), [(4000, 0.05, 0.95), (2500, 0.2, 0.6)])
def test_chance_calibration_error_is_that_of_simulated_clicks(rows: int, low: float, high: float) -> None:
    """The mean over 300 draws of clicks from the predictions themselves, within five in a hundred."""
    random = np.random.default_rng(4)
    predictions = random.uniform(low, high, rows)
    simulated = [
        expected_calibration_error((random.random(rows) < predictions).astype(np.float64), predictions)
        for _ in range(300)
    ]
    assert chance_calibration_error(predictions) == pytest.approx(float(np.mean(simulated)), rel=0.05)


def test_chance_calibration_error_by_hand() -> None:
    """One bin of 100 rows at 0.5: a rate scatters by 0.05, by sqrt(2 / pi) of it on average."""
    assert chance_calibration_error(np.full(100, 0.5), bins=1) == pytest.approx(0.05 * math.sqrt(2 / math.pi))


def test_certain_predictions_have_no_chance_error() -> None:
    """What is certain does not scatter."""
    assert chance_calibration_error(array(0, 0, 1, 1)) == 0.0


def test_churn_by_hand() -> None:
    """Mean of the differences 0.2, 0.1 and 0."""
    assert churn(array(0.5, 0.2, 0.3), array(0.3, 0.3, 0.3)) == pytest.approx(0.1, rel=1e-12)


def test_relative_churn_by_hand() -> None:
    """2 * 0.2 / 0.8, 2 * 0.1 / 0.5 and 0, on average; two zeros do not differ."""
    assert relative_churn(array(0.5, 0.2, 0.0), array(0.3, 0.3, 0.0)) == pytest.approx((0.5 + 0.4) / 3, rel=1e-12)


def test_logit_churn_by_hand() -> None:
    """Odds of 1/2 and 1, of 1/4 and 1/4, and of 3 and 1/9: ln 2, 0 and ln 27, on average."""
    found = logit_churn(array(1 / 3, 0.2, 0.75), array(0.5, 0.2, 0.1))
    assert found == pytest.approx((math.log(2) + math.log(27)) / 3, rel=1e-12)


def test_logit_churn_of_certain_predictions_is_finite() -> None:
    """They are kept 1e-7 off 0 and 1, as in log loss: two logits of 7 ln 10 apart."""
    assert logit_churn(array(0, 0), array(1, 0)) == pytest.approx(7 * math.log(10), rel=1e-6)


def test_churn_of_a_model_with_itself_is_nothing() -> None:
    """Whatever it predicts."""
    _, predictions = clicks_and_predictions(100, seed=1)
    assert churn(predictions, predictions) == relative_churn(predictions, predictions) == 0.0


def test_interval_of_zeros_is_zero_to_zero() -> None:
    """No difference, no doubt."""
    assert paired_interval(np.zeros(500), seed=1) == (0.0, 0.0, 0.0)


def test_interval_is_the_same_for_the_same_seed() -> None:
    """And another for another."""
    differences = np.random.default_rng(0).normal(size=400)
    assert paired_interval(differences, seed=1) == paired_interval(differences, seed=1)
    assert paired_interval(differences, seed=1) != paired_interval(differences, seed=2)


@pytest.mark.parametrize("rows", [300, 5003])
def test_interval_is_as_wide_as_the_normal_one(rows: int) -> None:
    """Mean plus and minus 1.96 standard errors, within a tenth; blocks of rows change nothing."""
    differences = np.random.default_rng(5).normal(0.2, 3.0, rows)
    mean, low, high = paired_interval(differences, seed=0, resamples=4000)
    error = differences.std() / math.sqrt(rows)
    assert mean == pytest.approx(differences.mean(), rel=1e-12)
    assert (low - mean, high - mean) == pytest.approx((-1.96 * error, 1.96 * error), rel=0.1)


@pytest.mark.parametrize("rows", [250, 2500])
def test_interval_covers_the_true_mean_in_about_95_of_100_cases(rows: int) -> None:
    """Of 200 simulated cases with skewed differences, between 180 and 199."""
    random = np.random.default_rng(6)
    covered = 0
    for case in range(200):
        _, low, high = paired_interval(random.exponential(1.0, rows) - 0.7, seed=case, resamples=400)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


# Weights


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distinct", [None, 5, 50])
def test_weighted_log_loss_and_auc_are_those_of_scikit_learn(seed: int, distinct: int | None) -> None:
    """With many ties, few and none, and with weights of 0 among them."""
    labels, predictions = clicks_and_predictions(3000, seed, distinct)
    random = np.random.default_rng(seed)
    weights = np.where(random.random(3000) < 0.1, 0.0, random.gamma(0.5, 3.0, 3000))
    found = evaluate(labels, predictions, weights)
    assert found.log_loss == pytest.approx(float(log_loss(labels, predictions, sample_weight=weights)), rel=1e-10)
    assert found.auc == pytest.approx(float(roc_auc_score(labels, predictions, sample_weight=weights)), rel=1e-10)
    assert found.click_rate == pytest.approx(np.average(labels, weights=weights), rel=1e-12)
    assert found.mean_prediction == pytest.approx(np.average(predictions, weights=weights), rel=1e-12)


def same_figures(found: Evaluation, expected: Evaluation) -> None:
    """All figures but the number of rows."""
    for name, value in expected.as_dict().items():
        if name != "rows":
            assert getattr(found, name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("distinct", [None, 7])
def test_row_of_weight_two_is_the_row_twice(distinct: int | None) -> None:
    """Few rows with predictions of their own, and many with ties."""
    labels, predictions = clicks_and_predictions(30 if distinct is None else 800, 4, distinct)
    times = np.random.default_rng(4).integers(1, 4, len(labels))
    weighed = evaluate(labels, predictions, times.astype(np.float64))
    repeated = evaluate(np.repeat(labels, times), np.repeat(predictions, times))
    for name in ("log_loss", "normalized_entropy", "auc", "mean_prediction", "click_rate"):
        assert getattr(weighed, name) == pytest.approx(getattr(repeated, name), rel=1e-9), name


def test_calibration_error_of_weight_two_is_that_of_the_row_twice() -> None:
    """Bins hold equal mass, so the rows of a bin are the same ones."""
    labels, predictions = clicks_and_predictions(4000, 5)
    times = np.random.default_rng(5).integers(1, 4, len(labels))
    times[: -times.sum() % 20] += 1
    weighed = evaluate(labels, predictions, times.astype(np.float64)).ece
    repeated = np.repeat(np.arange(4000), times)
    assert len(repeated) % 20 == 0
    assert weighed == pytest.approx(evaluate(labels[repeated], predictions[repeated]).ece, rel=1e-9)


def test_rows_of_weight_zero_change_no_figure() -> None:
    """As if they were not there, wherever their predictions lie."""
    labels, predictions = clicks_and_predictions(1000, 6)
    weights = np.random.default_rng(6).gamma(1, 1, 1000)
    random = np.random.default_rng(7)
    more = random.random(600) ** 4
    found = evaluate(
        np.append(labels, random.integers(0, 2, 600).astype(np.float64)),
        np.append(predictions, more),
        np.append(weights, np.zeros(600)),
    )
    same_figures(found, evaluate(labels, predictions, weights))


def test_scale_of_the_weights_does_not_matter() -> None:
    """And equal ones are none."""
    labels, predictions = clicks_and_predictions(500, 8)
    weights = np.random.default_rng(8).gamma(1, 1, 500)
    same_figures(evaluate(labels, predictions, 1e6 * weights), evaluate(labels, predictions, weights))
    same_figures(evaluate(labels, predictions, np.full(500, 0.3)), evaluate(labels, predictions))


def test_weighed_row_losses_have_the_weighted_loss_as_their_mean() -> None:
    """By hand: losses ln 2 and ln 4 with weights 1 and 3."""
    found = weighed_log_loss(array(1, 0), array(0.5, 0.75), array(1, 3))
    np.testing.assert_allclose(found, [math.log(2) / 2, math.log(4) * 1.5], rtol=1e-12)
    assert found.mean() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4, rel=1e-12)


def test_weighted_auc_by_hand() -> None:
    """A click of weight 2 above one of two others, of weights 1 and 3; another click of weight 1 ties with both."""
    labels, predictions = array(1, 0, 0, 1, 0), array(0.5, 0.3, 0.7, 0.2, 0.2)
    # Pairs of weight: with others of weights 1 (0.3), 3 (0.7), 2 (0.2).
    expected = (2 * (1 + 2) + 1 * (2 / 2)) / (3 * 6)
    assert auc(labels, predictions, array(2, 1, 3, 1, 2)) == pytest.approx(expected, rel=1e-12)
