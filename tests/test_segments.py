"""Figures of segments against those of their rows alone, and AUC within groups against scikit-learn group by group."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ctr.metrics import auc, evaluate
from ctr.segments import evaluate_segments, gauc, time_slices

Array = NDArray[np.float64]


def array(*values: float) -> Array:
    """Numbers as metrics take them."""
    return np.array(values, dtype=np.float64)


def drawn(rows: int, groups: int, seed: int) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Labels, predictions with ties, weights (some 0) and codes of groups of very different size."""
    random = np.random.default_rng(seed)
    probability = random.beta(1.5, 4, rows)
    predictions = np.round(np.clip(probability + random.normal(0, 0.2, rows), 0.01, 0.99), 2)
    weights = np.where(random.random(rows) < 0.1, 0.0, random.gamma(0.5, 3.0, rows))
    codes = (groups * random.random(rows) ** 3).astype(np.int64) * 7 - 20
    return (random.random(rows) < probability).astype(np.float64), predictions, weights, codes


@pytest.mark.parametrize("weighted", [False, True])
def test_segments_have_the_figures_of_their_rows_alone(weighted: bool) -> None:
    """Every code once."""
    labels, predictions, weights, codes = drawn(5000, 40, 0)
    found = evaluate_segments(labels, predictions, weights if weighted else None, codes)
    assert sorted(code for code, _ in found) == np.unique(codes).tolist()
    for code, figures in found:
        rows = codes == code
        alone = evaluate(labels[rows], predictions[rows], weights[rows] if weighted else None)
        assert asdict(figures) == pytest.approx(asdict(alone), rel=1e-12, nan_ok=True), code


def test_largest_segments_come_first_and_equal_ones_by_code() -> None:
    """Sizes 1, 3, 1 and 2; the rows of a segment need not lie together."""
    codes = np.array([9, 4, 2, 4, 5, 5, 4])
    found = evaluate_segments(np.zeros(7), np.full(7, 0.5), None, codes)
    assert [(code, figures.rows) for code, figures in found] == [(4, 3), (5, 2), (2, 1), (9, 1)]


def test_segment_that_weighs_nothing_is_left_out() -> None:
    """It has no figures."""
    found = evaluate_segments(array(1, 0, 1), array(0.5, 0.5, 0.5), array(0, 1, 0), np.array([3, 3, 8]))
    assert [(code, figures.rows, figures.click_rate) for code, figures in found] == [(3, 2, 0.0)]


def test_gauc_by_hand() -> None:
    """Groups of AUC 1, 1/4 and none, of 2, 3 and 2 rows: (2 * 1 + 3 * 1/4) / 5, from 5 of 7 rows."""
    labels = array(1, 0, 0, 1, 0, 1, 1)
    predictions = array(0.2, 0.1, 0.6, 0.6, 0.9, 0.3, 0.4)
    found = gauc(labels, predictions, np.array([1, 1, 2, 2, 2, 3, 3]))
    assert found.gauc == pytest.approx((2 * 1 + 3 * 0.25) / 5, rel=1e-12)
    assert found.share == pytest.approx(5 / 7, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("groups", [5, 1000])
def test_gauc_is_the_mean_of_scikit_learns_auc_by_group(seed: int, weighted: bool, groups: int) -> None:
    """Group by group, the groups without both classes among the rows of weight above 0 left out."""
    labels, predictions, weights, codes = drawn(4000, groups, seed)
    weights = weights if weighted else np.ones(4000)
    summed = mass = taking_part = 0.0
    for code in np.unique(codes):
        rows = codes == code
        counted = rows & (weights > 0)
        if len(np.unique(labels[counted])) == 2:
            within = roc_auc_score(labels[counted], predictions[counted], sample_weight=weights[counted])
            summed += weights[rows].sum() * float(within)
            mass += weights[rows].sum()
            taking_part += rows.sum()
    found = gauc(labels, predictions, codes, weights if weighted else None)
    assert found.gauc == pytest.approx(summed / mass, rel=1e-9)
    assert found.share == pytest.approx(taking_part / 4000, rel=1e-12)
    assert (found.share < 1) == (groups == 1000)


def test_gauc_of_one_group_is_the_auc() -> None:
    """All rows take part."""
    labels, predictions, weights, _ = drawn(3000, 1, 4)
    found = gauc(labels, predictions, np.full(3000, 12), weights)
    assert found.gauc == pytest.approx(auc(labels, predictions, weights), rel=1e-12)
    assert found.share == 1.0


def test_what_a_model_says_of_whole_groups_changes_auc_but_not_gauc() -> None:
    """Each group's click rate moved up or down as a whole."""
    labels, predictions, _, codes = drawn(3000, 30, 5)
    moved = predictions + np.random.default_rng(5).normal(size=30)[(codes + 20) // 7]
    assert gauc(labels, moved, codes).gauc == pytest.approx(gauc(labels, predictions, codes).gauc, rel=1e-12)
    assert abs(auc(labels, moved) - auc(labels, predictions)) > 0.05


def test_shuffled_labels_are_ranked_as_by_chance() -> None:
    """AUC and AUC within groups within four standard errors of a half, 20,000 rows at a click rate of a third."""
    labels, predictions, _, codes = drawn(20_000, 50, 6)
    assert auc(labels, predictions) > 0.6
    shuffled = np.random.default_rng(6).permutation(labels)
    clicks = shuffled.sum()
    error = math.sqrt((20_000 + 1) / (12 * clicks * (20_000 - clicks)))
    assert auc(shuffled, predictions) == pytest.approx(0.5, abs=4 * error)
    assert gauc(shuffled, predictions, codes).gauc == pytest.approx(0.5, abs=4 * error)


def test_gauc_is_absent_where_no_group_has_both_classes() -> None:
    """Though the rows together have."""
    found = gauc(array(1, 1, 0), array(0.5, 0.4, 0.1), np.array([1, 1, 2]))
    assert math.isnan(found.gauc)
    assert found.share == 0.0


def test_vectors_that_do_not_fit_are_refused() -> None:
    """Codes of another length, and no rows at all."""
    with pytest.raises(ValueError, match=r"codes \(3,\).* must be equally long and not empty"):
        gauc(array(1, 0), array(0.5, 0.5), np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"weights \(1,\) must be equally long"):
        evaluate_segments(array(1, 0), array(0.5, 0.5), array(1), np.array([1, 2]))
    with pytest.raises(ValueError, match="not empty"):
        gauc(array(), array(), np.array([], np.int64))


def test_time_slices_by_hand() -> None:
    """Ten rows in three slices, in the order given."""
    assert time_slices(10, 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert time_slices(4, 4).tolist() == [0, 1, 2, 3]
    assert time_slices(3, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("rows", "count"), [(3, 4), (3, 0), (0, 1)])
def test_slices_without_rows_are_refused(rows: int, count: int) -> None:
    """More slices than rows, or none."""
    with pytest.raises(ValueError, match=f"{rows} rows do not make {count} slices"):
        time_slices(rows, count)
