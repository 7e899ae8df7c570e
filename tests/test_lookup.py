"""Each embedding row of a batch looked up and updated once comes to the same as id by id."""

from typing import Any

import numpy as np
import pytest

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.learner import Learner
from ctr.lookup import DistinctPlaces, spread
from ctr.model import WideAndDeep
from ctr.optimizers import make_optimizer

import tensorflow as tf  # isort: skip

SIZES = [4, 9, 1, 6]
STARTS = np.array([0, 4, 13, 14])
ROWS = 20


def make_ids(count: int, seed: int) -> Any:
    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, size, count) for size in SIZES], axis=1).astype(np.int32)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_distinct_places_are_those_of_the_batch_each_once(count: int) -> None:
    finder = DistinctPlaces(STARTS, ROWS)
    for seed in range(20):  # with the same scratch
        ids = make_ids(count, seed)
        distinct, slots = finder.of(ids)
        assert sorted(distinct) == np.unique(ids + STARTS).tolist()
        np.testing.assert_array_equal(distinct[slots], ids + STARTS)
        fields = np.searchsorted(STARTS, distinct, side="right")
        assert (np.diff(fields) >= 0).all(), "places come field by field"


def test_gradient_of_spread_is_the_sum_over_equal_slots() -> None:
    random = np.random.default_rng(0)
    slots = random.integers(0, 7, (30, 4)).astype(np.int32)
    upstream = random.normal(size=(30, 4, 5)).astype(np.float32)
    rows = tf.constant(random.normal(size=(9, 5)), tf.float32)  # of which the last two are at no slot
    with tf.GradientTape() as tape:
        tape.watch(rows)
        values = spread(rows, tf.constant(slots))
        total = tf.reduce_sum(values * upstream)
    np.testing.assert_array_equal(values.numpy(), rows.numpy()[slots])
    expected = np.zeros((9, 5))
    np.add.at(expected, slots.ravel(), upstream.reshape(-1, 5).astype(np.float64))
    np.testing.assert_allclose(tape.gradient(total, rows).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("crosses", [0, 1, 2])
def test_steps_are_those_of_the_optimizers_worked_out_in_numpy(crosses: int) -> None:
    """AdaGrad (Duchi et al. 2011) on embeddings and FTRL (McMahan et al. 2013) on wide weights, summed gradients."""
    build: Any = WideAndDeep
    model = build(sizes=SIZES, cross_count=crosses, dense_count=0, embedding_dim=3, hidden=[8], click_rate=0.3)
    model.table.assign(tf.random.stateless_normal(model.table.shape, [1, 2]))
    rate, start = tf.Variable(0.0), 0.1
    optimizer = make_optimizer(
        model,
        rate=rate,
        dense="adagrad",
        dense_ratio=1.0,
        initial_accumulator_value=start,
        wide_learning_rate=0.2,
        wide_l1=0.01,
        wide_l2=0.02,
    )
    learner = Learner(tf.distribute.get_strategy(), model, optimizer, rate, [], batch_size=40)
    table, sums = model.table.numpy().astype(np.float64), np.full(model.table.shape, start)
    wide, squares, z = np.zeros((ROWS, 1)), np.full((ROWS, 1), 0.1), np.zeros((ROWS, 1))
    for number in range(5):
        ids, label = make_ids(40, number), (np.arange(40) % 3 == 0).astype(np.float32)[:, None]
        inputs = {"ids": tf.constant(ids), "dense": tf.zeros([40, 0]), "label": tf.constant(label)}
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model.compute_loss(inputs))
        slopes = [tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, [model.table, model.wide])]
        here = np.unique((ids + STARTS)[:, : len(SIZES) - crosses])
        sums[here] += slopes[0][here] ** 2
        table[here] -= 0.3 * slopes[0][here] / (np.sqrt(sums[here]) + 1e-7)
        here = np.unique(ids + STARTS)
        more = squares[here] + slopes[1][here] ** 2
        z[here] += slopes[1][here] - (np.sqrt(more) - np.sqrt(squares[here])) / 0.2 * wide[here]
        squares[here] = more
        shrunk = np.sign(z[here]) * 0.01 - z[here]
        wide[here] = np.where(np.abs(z[here]) > 0.01, shrunk / (np.sqrt(more) / 0.2 + 2 * 0.02), 0)
        row = np.arange(40, dtype=np.uint64), label, ids, np.zeros((40, 0), np.float32), np.ones((40, 1), np.float32)
        learner.step(tuple(tf.constant(column) for column in row), number, rate=0.3, weight=0.0)
        np.testing.assert_allclose(model.table.numpy(), table, atol=2e-5)
        np.testing.assert_allclose(model.wide.numpy(), wide, atol=2e-5)
