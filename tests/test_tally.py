"""The tally of labelled rows: merging, and its figures against scikit-learn and torchrec's definitions by hand."""

import math
from dataclasses import asdict
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from ctr.metrics import Tally, evaluate, expected_calibration_error

Array = NDArray[np.float64]


def drawn(rows: int, seed: int, distinct: int | None = None) -> tuple[Array, Array, Array]:
    """Labels, predictions (`distinct` many different ones, if given) and weights, of which a tenth are 0."""
    random = np.random.default_rng(seed)
    probability = random.beta(1.5, 4, rows)
    predictions = np.clip(probability + random.normal(0, 0.1, rows), 0.001, 0.999)
    if distinct:
        predictions = np.ceil(predictions * distinct) / (distinct + 1)
    weights = np.where(random.random(rows) < 0.1, 0.0, random.gamma(0.5, 3.0, rows))
    return (random.random(rows) < probability).astype(np.float64), predictions, weights


def same(found: Tally, expected: Tally) -> None:
    """The same state, and the same figures, up to the rounding of sums."""
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    np.testing.assert_allclose(found.clicks, expected.clicks, rtol=1e-12)
    np.testing.assert_allclose(found.others, expected.others, rtol=1e-12)
    counts = (found.rows, found.weighing, found.weighted)
    assert counts == (expected.rows, expected.weighing, expected.weighted)
    if expected.weighing:
        figures = asdict(expected.evaluation())
        assert asdict(found.evaluation()) == pytest.approx(figures, rel=1e-9, abs=1e-12, nan_ok=True)


# Rows: label, prediction (many tie, some are certain), weight (some are 0).
ROWS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0]),
        st.one_of(st.sampled_from([0.0, 0.125, 0.5, 1.0]), st.floats(0, 1)),
        st.sampled_from([0.0, 0.25, 1.0, 3.0, 0.1]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, weighted=st.booleans(), data=st.data())
def test_merged_parts_are_the_whole_in_any_order(
    rows: list[tuple[float, float, float]], weighted: bool, data: st.DataObject
) -> None:
    labels, predictions, weights = np.array(rows, np.float64).T
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=5)) - {len(rows)})
    parts = [
        Tally.of(labels[part], predictions[part], weights[part] if weighted else None)
        for part in np.split(np.arange(len(rows)), cuts)
    ]
    parts = data.draw(st.permutations(parts))
    expected = Tally.of(labels, predictions, weights if weighted else None)
    same(reduce(Tally.merge, parts), expected)
    # The brackets on the right.
    same(reduce(lambda merged, part: part.merge(merged), reversed(parts)), expected)


def test_tally_by_hand() -> None:
    """Three rows at 0.5, one at 0.25; the last weighs nothing."""
    labels, predictions = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.5, 0.25, 0.5, 0.5])
    found = Tally.of(labels, predictions, np.array([2.0, 3.0, 0.5, 0.0]))
    assert found.predictions.tolist() == [0.25, 0.5]
    assert found.clicks.tolist() == [0.0, 2.5]
    assert found.others.tolist() == [3.0, 0.0]
    assert (found.rows, found.weighing, found.weighted) == (4, 3, True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("distinct", [None, 9])
def test_figures_are_those_that_torchrec_defines(seed: int, distinct: int | None) -> None:
    """Normalised entropy, calibration and AUC as its metrics define them, row by row in plain Python."""
    labels, predictions, weights = drawn(700, seed, distinct)
    rows = list(zip(labels.tolist(), predictions.tolist(), weights.tolist(), strict=True))
    cross = -sum(w * (y * math.log(p) + (1 - y) * math.log(1 - p)) for y, p, w in rows)
    positive, negative = sum(w * y for y, _, w in rows), sum(w * (1 - y) for y, _, w in rows)
    rate = positive / (positive + negative)
    constant = -(positive * math.log(rate) + negative * math.log(1 - rate))
    calibration = sum(w * p for _, p, w in rows) / positive
    # Pairs of a click and another row, each as the product of the weights.
    right = sum(
        w * v * (1.0 if p > q else 0.5 if p == q else 0.0) for y, p, w in rows if y for z, q, v in rows if not z
    )
    found = evaluate(labels, predictions, weights)
    assert found.log_loss == pytest.approx(cross / (positive + negative), rel=1e-10)
    assert found.normalized_entropy == pytest.approx(cross / constant, rel=1e-10)
    assert found.mean_prediction / found.click_rate == pytest.approx(calibration, rel=1e-10)
    assert found.auc == pytest.approx(right / (positive * negative), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_scikit_learns_where_no_predictions_tie(seed: int) -> None:
    """2,000 rows in 20 bins of 100, by quantiles there."""
    labels, predictions, _ = drawn(2000, seed)
    predictions += np.arange(2000) * 1e-9  # those that were clipped tie no more
    rates, means = calibration_curve(labels, predictions, n_bins=20, strategy="quantile")
    found = Tally.of(labels, predictions).reliability()
    np.testing.assert_allclose(found.click_rate, rates, rtol=1e-10)
    np.testing.assert_allclose(found.mean_prediction, means, rtol=1e-10)
    assert found.mass.tolist() == [100.0] * 20
    expected = np.abs(rates - means).mean()
    assert expected_calibration_error(labels, predictions) == pytest.approx(expected, rel=1e-9)


def test_reliability_of_rows_that_do_not_divide_by_hand() -> None:
    """Five rows in two bins: three, then two; of the three at 0.5, which clicked once, one is in the first bin."""
    labels, predictions = np.array([0.0, 1.0, 0.0, 1.0, 0.0]), np.array([0.1, 0.5, 0.5, 0.2, 0.5])
    found = Tally.of(labels, predictions).reliability(2)
    np.testing.assert_allclose(found.mass, [3, 2], rtol=1e-12)
    np.testing.assert_allclose(found.mean_prediction, [0.8 / 3, 0.5], rtol=1e-12)
    np.testing.assert_allclose(found.click_rate, [(1 + 1 / 3) / 3, 1 / 3], rtol=1e-12)


def test_reliability_with_weights_by_hand() -> None:
    """Weights 1 and 3 in two bins of 2: a third of the second row lies in the first bin."""
    found = Tally.of(np.array([0.0, 1.0]), np.array([0.2, 0.6]), np.array([1.0, 3.0])).reliability(2)
    np.testing.assert_allclose(found.mass, [2, 2], rtol=1e-12)
    np.testing.assert_allclose(found.mean_prediction, [0.4, 0.6], rtol=1e-12)
    np.testing.assert_allclose(found.click_rate, [0.5, 1.0], rtol=1e-12)


@pytest.mark.parametrize("distinct", [None, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_reliability_of_all_bins_is_the_mean_of_all_rows(distinct: int | None, weighted: bool) -> None:
    """Nothing is lost at the edges of the bins."""
    labels, predictions, weights = drawn(1003, 7, distinct)
    tally = Tally.of(labels, predictions, weights if weighted else None)
    bins, found = tally.reliability(20), tally.evaluation()
    assert len(bins.mass) == 20
    assert bins.mass.sum() == pytest.approx(weights.sum() if weighted else 1003, rel=1e-12)
    assert np.average(bins.mean_prediction, weights=bins.mass) == pytest.approx(found.mean_prediction, rel=1e-12)
    assert np.average(bins.click_rate, weights=bins.mass) == pytest.approx(found.click_rate, rel=1e-12)
    assert np.average(np.abs(bins.mean_prediction - bins.click_rate), weights=bins.mass) == pytest.approx(found.ece)


@pytest.mark.parametrize("distinct", [None, 9])
def test_whole_roc_is_scikit_learns(distinct: int | None) -> None:
    """Every threshold, when as many points are wanted; weights of 0 aside, whose thresholds change nothing."""
    labels, predictions, weights = drawn(1000, 3, distinct)
    some = weights > 0
    false_rates, true_rates, _ = roc_curve(
        labels[some], predictions[some], sample_weight=weights[some], drop_intermediate=False
    )
    found = Tally.of(labels[some], predictions[some], weights[some]).roc(points=2000)
    np.testing.assert_allclose(found.false_positive_rate, false_rates, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.true_positive_rate, true_rates, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("points", [2, 3, 50, 400])
def test_thinned_roc_has_exact_points_and_both_ends(points: int) -> None:
    """They are points of the whole curve, and the area under them is the AUC within half a step's square a step."""
    labels, predictions, _ = drawn(5000, 4)
    tally = Tally.of(labels, predictions)
    whole, found = tally.roc(10_000), tally.roc(points)
    assert 2 <= len(found.true_positive_rate) <= points
    of_whole = set(zip(whole.false_positive_rate.tolist(), whole.true_positive_rate.tolist(), strict=True))
    kept = list(zip(found.false_positive_rate.tolist(), found.true_positive_rate.tolist(), strict=True))
    assert set(kept) <= of_whole
    assert (kept[0], kept[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert kept == sorted(kept)
    exact = float(roc_auc_score(labels, predictions))
    assert np.trapezoid(whole.true_positive_rate, whole.false_positive_rate) == pytest.approx(exact, rel=1e-10)
    # A step is about 2 / (points - 1) long, rise and run together, so that the curve leaves its chord by a triangle of
    # at most 1/2 (step / 2)^2.
    most = (points - 1) * (2 / (points - 1)) ** 2 / 8
    assert abs(np.trapezoid(found.true_positive_rate, found.false_positive_rate) - exact) <= 1.1 * most


def test_roc_needs_both_classes_and_two_points() -> None:
    """And says what it got."""
    clicks = Tally.of(np.ones(3), np.array([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="the 3 rows are not of both classes"):
        clicks.roc(10)
    with pytest.raises(ValueError, match="1 points make no curve"):
        clicks.merge(Tally.of(np.zeros(1), np.array([0.2]))).roc(1)


def test_rows_that_all_weigh_nothing_have_no_figures_but_merge() -> None:
    """A part of the rows may be so; the whole may not."""
    labels, predictions, weights = drawn(50, 5)
    nothing = Tally.of(labels, predictions, np.zeros(50))
    for figure in (nothing.evaluation, nothing.reliability, nothing.calibration_error):
        with pytest.raises(ValueError, match="all 50 rows weigh 0"):
            figure()
    found = nothing.merge(Tally.of(labels, predictions, weights)).evaluation().as_dict()
    assert found == {**evaluate(labels, predictions, weights).as_dict(), "rows": 100}


def test_weights_that_do_not_fit_are_refused() -> None:
    """Even a single one, which NumPy would give to every row."""
    with pytest.raises(ValueError, match=r"weights \(1,\) and labels \(2,\) must be equally long"):
        Tally.of(np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([2.0]))


def test_prediction_that_is_no_number_makes_the_loss_none() -> None:
    """Training stops at such a loss, so that it must not be lost in a sum."""
    found = evaluate(np.array([0.0, 1.0, 1.0]), np.array([0.5, np.nan, 0.5]))
    assert math.isnan(found.log_loss)
    assert math.isnan(found.ece)


def test_rows_of_weight_zero_make_no_bins() -> None:
    """Three rows that weigh something are three bins, with 30 that weigh nothing as without."""
    labels, predictions = np.array([1.0, 0.0, 1.0]), np.array([0.3, 0.4, 0.8])
    weights = np.array([1.0, 2.0, 2.0])
    few = Tally.of(labels, predictions, weights)
    more = few.merge(Tally.of(np.zeros(30), np.linspace(0, 1, 30), np.zeros(30)))
    assert len(more.reliability().mass) == 3
    for found, expected in zip(more.reliability(), few.reliability(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rows_without_weights_merge_with_weighted_ones_as_rows_of_weight_one() -> None:
    """Whichever comes first: bins no longer hold whole rows."""
    labels, predictions, weights = drawn(203, 8)
    plain, weighted = Tally.of(labels[:90], predictions[:90]), Tally.of(labels[90:], predictions[90:], weights[90:])
    expected = Tally.of(labels, predictions, np.append(np.ones(90), weights[90:]))
    same(plain.merge(weighted), expected)
    same(weighted.merge(plain), expected)
