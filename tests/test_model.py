"""The network, its optimizers and a training step, without processes."""

from typing import Any

import numpy as np
import pytest

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.data import Rows
from ctr.learner import Learner
from ctr.model import WideAndDeep
from ctr.optimizers import check_each_once, make_optimizer
from features.errors import WorkFailed

import tensorflow as tf  # isort: skip
import tf_keras  # isort: skip

SIZES = [5, 7, 6]


def make_model(cross_count: int = 0, click_rate: float = 0.25) -> WideAndDeep:
    return WideAndDeep(
        sizes=SIZES, cross_count=cross_count, dense_count=2, embedding_dim=3, hidden=[8, 4], click_rate=click_rate
    )


def make_rows(count: int, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(count, 2)).astype(np.float32)
    dense[random.random((count, 2)) < 0.2] = np.nan
    return Rows(
        np.arange(count, dtype=np.uint64),
        random.integers(0, 2, (count, 1)).astype(np.float32),
        np.stack([random.integers(0, size, count) for size in SIZES], axis=1).astype(np.int32),
        dense,
        np.ones((count, 1), np.float32),
    )


def make_learner(batch_size: int, peers: int = 0, seed: int = 3) -> Learner:
    tf_keras.utils.set_random_seed(seed)
    model = make_model()
    optimizer = make_optimizer(
        model,
        learning_rate=0.1,
        initial_accumulator_value=1e-7,
        wide_learning_rate=0.1,
        wide_l1=0.0,
        wide_l2=0.0,
        steps=100,
        final_rate=0.1,
    )
    others = [make_model() for _ in range(peers)]
    return Learner(tf.distribute.get_strategy(), model, optimizer, others, batch_size=batch_size)


def tensors(rows: Rows) -> Any:
    return tuple(tf.constant(column) for column in rows)


def test_logit_is_wide_and_deep_added_worked_out_in_numpy() -> None:
    tf_keras.utils.set_random_seed(1)
    model, rows = make_model(), make_rows(9)
    weights = {name: variable.numpy() for name, variable in model.named_weights().items()}
    random = np.random.default_rng(5)
    for name, variable in model.named_weights().items():
        weights[name] = random.normal(size=variable.shape).astype(np.float32)
        variable.assign(weights[name])
    places = rows.ids + np.array([0, 5, 12])
    flags = np.isnan(rows.dense)
    dense = np.concatenate([np.where(flags, 0, rows.dense), flags], axis=1)
    deep = np.concatenate([weights["table"][places].reshape(9, -1), dense], axis=1)
    for layer in ("hidden_0", "hidden_1"):
        deep = np.maximum(deep @ weights[f"{layer}.kernel"] + weights[f"{layer}.bias"], 0)
    expected = weights["wide"][places].sum(axis=1) + dense @ weights["wide_dense"]
    expected = expected + deep @ weights["logit.kernel"] + weights["logit.bias"]
    found = model({"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_untrained_model_predicts_about_the_click_rate() -> None:
    learner = make_learner(4)
    # A little off: the last layer starts at random, with only 4 inputs here.
    assert learner.predict([make_rows(200)]).mean() == pytest.approx(0.25, abs=0.05)


def test_crosses_reach_the_wide_part_alone() -> None:
    model, rows = make_model(cross_count=1), make_rows(6)
    assert model.table.shape == [5 + 7, 3]
    assert model.wide.shape == [5 + 7 + 6, 1]
    changed = rows.ids.copy()
    changed[:, 2] = (changed[:, 2] + 1) % SIZES[2]
    dense = tf.constant(rows.dense)
    before = model({"ids": tf.constant(rows.ids), "dense": dense}).numpy()
    # The wide weights are still 0, so another cross changes nothing ...
    np.testing.assert_array_equal(model({"ids": tf.constant(changed), "dense": dense}).numpy(), before)
    model.wide.assign(tf.reshape(tf.range(18, dtype=tf.float32), [18, 1]))
    before = model({"ids": tf.constant(rows.ids), "dense": dense}).numpy()
    # ... and then exactly its own weight.
    moved = model({"ids": tf.constant(changed), "dense": dense}).numpy() - before
    np.testing.assert_allclose(moved[:, 0], changed[:, 2] - rows.ids[:, 2], atol=1e-4)


def test_every_trainable_variable_has_exactly_one_optimizer() -> None:
    learner = make_learner(32)
    check_each_once(learner.model)
    before = learner.weights()
    for seed in range(3):
        learner.step(tensors(make_rows(32, seed)), 0.0)
    after = learner.weights()
    assert len(before) == len(learner.model.trainable_variables) == 9
    still = [name for name in before if np.array_equal(before[name], after[name])]
    assert still == []


def test_variable_without_an_optimizer_is_an_error() -> None:
    model = make_model()
    model.forgotten = model.add_weight(name="forgotten", shape=[2], initializer="zeros")
    with pytest.raises(WorkFailed, match=r"forgotten.* is handled by 0 optimizers"):
        check_each_once(model)


def test_ftrl_keeps_what_it_learned_when_the_rate_of_the_deep_part_has_fallen() -> None:
    learner = make_learner(32)
    rows = tensors(make_rows(32))
    for _ in range(100):
        learner.step(rows, 0.0)
    assert learner.learning_rate_at(100) == pytest.approx(0.01)
    before = np.abs(learner.weights()["wide"]).sum()
    for _ in range(20):
        learner.step(rows, 0.0)
    assert np.abs(learner.weights()["wide"]).sum() > 0.9 * before


@pytest.mark.parametrize("count", [1, 2, 37])
def test_any_batch_size_trains_and_predicts(count: int) -> None:
    learner = make_learner(count)
    loss = float(learner.step(tensors(make_rows(count)), 0.0))
    assert 0 < loss < 5
    assert learner.predict([make_rows(count)]).shape == (count,)


def test_loss_of_a_step_is_the_mean_log_loss_of_its_rows() -> None:
    learner, rows = make_learner(16), make_rows(16)
    p = learner.predict([rows])
    expected = -np.mean(np.where(rows.label[:, 0] == 1, np.log(p), np.log(1 - p)))
    assert float(learner.step(tensors(rows), 0.0)) == pytest.approx(expected, rel=1e-5)


def test_distilled_loss_adds_weight_times_cross_entropy_against_the_peer() -> None:
    learner, rows = make_learner(16, peers=1), make_rows(16)
    learner.adopt(0, {name: weight + 0.1 for name, weight in learner.weights().items()})
    p = learner.predict([rows])
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}
    q = tf.sigmoid(learner.peers[0](inputs)).numpy()[:, 0].astype(np.float64)
    label = rows.label[:, 0]
    own = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))
    against_peer = -np.mean(q * np.log(p) + (1 - q) * np.log(1 - p))
    assert float(learner.step(tensors(rows), 2.5)) == pytest.approx(own + 2.5 * against_peer, rel=1e-5)


def test_peer_is_not_moved_by_a_distilled_step() -> None:
    learner = make_learner(16, peers=1)
    learner.adopt(0, {name: weight + 0.1 for name, weight in learner.weights().items()})
    before = {name: variable.numpy() for name, variable in learner.peers[0].named_weights().items()}
    for seed in range(3):
        learner.step(tensors(make_rows(16, seed)), 3.0)
    for name, variable in learner.peers[0].named_weights().items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_distilled_step_of_weight_0_is_bit_for_bit_the_plain_step() -> None:
    plain, distilled = make_learner(16), make_learner(16, peers=1)
    distilled.adopt(0, {name: weight + 0.1 for name, weight in distilled.weights().items()})
    for seed in range(5):
        _, label, ids, dense, weight = tensors(make_rows(16, seed))
        plain.step((None, label, ids, dense, weight), 0.0)
        distilled._distilled(ids, dense, label, weight, tf.constant(0.0))
    for name, weight in plain.weights().items():
        np.testing.assert_array_equal(weight, distilled.weights()[name])


def test_before_a_peer_is_heard_of_a_step_is_plain() -> None:
    alone, waiting = make_learner(16), make_learner(16, peers=1)
    assert not waiting.heard_of_peers
    for learner in (alone, waiting):
        learner.step(tensors(make_rows(16)), 3.0)
    for name, weight in alone.weights().items():
        np.testing.assert_array_equal(weight, waiting.weights()[name])


# Weights of rows


def weighed(rows: Rows, weights: Any) -> Rows:
    """The same rows with these weights."""
    return rows._replace(weight=np.asarray(weights, np.float32)[:, None])


def loss_and_gradients(rows: Rows, batch_size: int, teacher: bool = False) -> tuple[float, dict[str, Any]]:
    """Loss of a batch, as a step has it, and its gradient for every weight by name, of one and the same model."""
    tf_keras.utils.set_random_seed(7)
    model = make_model()
    random = np.random.default_rng(7)
    for variable in model.named_weights().values():
        variable.assign(random.normal(size=variable.shape).astype(np.float32))
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense), "label": tf.constant(rows.label)}
    if teacher:
        inputs |= {"teacher": tf.sigmoid(tf.constant(rows.dense[:, :1] * 0 + 0.3)), "weight": tf.constant(1.5)}
        inputs["teacher"] = tf.where(tf.math.is_nan(inputs["teacher"]), 0.4, inputs["teacher"])
    with tf.GradientTape() as tape:
        losses = model.compute_loss({**inputs, "row_weight": tf.constant(rows.weight)}, training=True)
        loss = tf.reduce_sum(losses) / batch_size
    named = model.named_weights()
    found = tape.gradient(loss, list(named.values()))
    return float(loss), {
        name: tf.convert_to_tensor(gradient).numpy() for name, gradient in zip(named, found, strict=True)
    }


def assert_same_step(one: tuple[float, dict[str, Any]], other: tuple[float, dict[str, Any]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, gradient in one[1].items():
        np.testing.assert_allclose(gradient, other[1][name], rtol=1e-4, atol=1e-6)
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("teacher", [False, True])
def test_row_of_weight_two_trains_as_the_row_twice(teacher: bool) -> None:
    rows, times = make_rows(12), np.random.default_rng(1).integers(1, 4, 12)
    repeated = rows.take(np.repeat(np.arange(12), times))
    assert_same_step(loss_and_gradients(weighed(rows, times), 100, teacher), loss_and_gradients(repeated, 100, teacher))


@pytest.mark.parametrize("teacher", [False, True])
def test_rows_of_weight_zero_do_not_train(teacher: bool) -> None:
    rows = make_rows(20)
    weights = np.where(np.arange(20) % 3 == 0, 0.0, 1.5)
    left = weighed(rows, weights).take(np.flatnonzero(weights))
    assert_same_step(loss_and_gradients(weighed(rows, weights), 100, teacher), loss_and_gradients(left, 100, teacher))


def test_rows_of_weight_zero_move_nothing_in_a_step() -> None:
    with_them, without = make_learner(16), make_learner(16)
    rows = make_rows(16)
    changed = rows._replace(label=rows.label.copy(), dense=rows.dense.copy())
    changed.label[::2] = 1 - changed.label[::2]
    changed.dense[::2] = 9.0
    weights = np.where(np.arange(16) % 2 == 0, 0.0, 1.0)
    losses = [
        float(learner.step(tensors(weighed(given, weights)), 0.0))
        for learner, given in ((with_them, rows), (without, changed))
    ]
    assert losses[0] == losses[1]
    for name, weight in with_them.weights().items():
        np.testing.assert_array_equal(weight, without.weights()[name])


def test_loss_of_a_step_is_the_weighted_mean_log_loss() -> None:
    learner, rows = make_learner(16), make_rows(16)
    weights = np.random.default_rng(2).gamma(1, 1, 16)
    p = learner.predict([rows])
    losses = -np.where(rows.label[:, 0] == 1, np.log(p), np.log(1 - p))
    found = float(learner.step(tensors(weighed(rows, weights)), 0.0))
    assert found == pytest.approx(float((weights * losses).mean()), rel=1e-5)
