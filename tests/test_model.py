"""The network, its optimizers and a training step, without processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.average import Average
from ctr.codistill import distillation_loss
from ctr.data import Rows
from ctr.exchange import Changes
from ctr.learner import Learner
from ctr.lookup import DistinctPlaces
from ctr.model import WideAndDeep
from ctr.optimizers import check_each_once, make_optimizer, slots_of
from features.errors import WorkFailed

import tensorflow as tf  # isort: skip
import tf_keras  # isort: skip

SIZES = [5, 7, 6]


def make_model(cross_count: int = 0, click_rate: float = 0.25, **changes: Any) -> Any:
    model: Any = WideAndDeep
    return model(
        sizes=SIZES,
        cross_count=cross_count,
        dense_count=2,
        embedding_dim=3,
        hidden=[8, 4],
        click_rate=click_rate,
        **changes,
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


def make_learner(
    batch_size: int,
    peers: int = 0,
    seed: int = 3,
    dense: str = "adagrad",
    dense_ratio: float = 1.0,
    share: float = 1.0,
    of_logits: bool = False,
    **shape: Any,
) -> Learner:
    tf_keras.utils.set_random_seed(seed)
    model, rate = make_model(**shape), tf.Variable(0.0)
    optimizer = make_optimizer(
        model,
        rate=rate,
        dense=dense,
        dense_ratio=dense_ratio,
        initial_accumulator_value=1e-7,
        wide_learning_rate=0.1,
        wide_l1=0.0,
        wide_l2=0.0,
    )
    others = [make_model(**shape) for _ in range(peers)]
    return Learner(
        tf.distribute.get_strategy(),
        model,
        optimizer,
        rate,
        others,
        batch_size=batch_size,
        teacher_share=share,
        of_logits=of_logits,
    )


def step(learner: Learner, rows: Any, weight: float = 0.0, number: int = 0, rate: float = 0.1) -> float:
    """One step of a learner."""
    return learner.step(rows, number, rate=rate, weight=weight)


def weights_of(learner: Learner) -> dict[str, Any]:
    """A learner's own weights by name."""
    return {name: variable.numpy().copy() for name, variable in learner.model.named_weights().items()}


def adopt_moved(learner: Learner, by: float = 0.1) -> None:
    """The first teacher becomes the learner's own model, moved a little."""
    learner.adopt(0, [Changes({name: weight + by for name, weight in weights_of(learner).items()}, {})])


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
    before = weights_of(learner)
    for seed in range(3):
        step(learner, tensors(make_rows(32, seed)))
    after = weights_of(learner)
    assert len(before) == len(learner.model.trainable_variables) == 9
    still = [name for name in before if np.array_equal(before[name], after[name])]
    assert still == []


def test_variable_without_an_optimizer_is_an_error() -> None:
    model = make_model()
    model.forgotten = model.add_weight(name="forgotten", shape=[2], initializer="zeros")
    with pytest.raises(WorkFailed, match=r"forgotten.* is handled by 0 optimizers"):
        check_each_once(model, [*model.wide_variables, model.table, *model.dense_variables])


def test_variable_of_two_optimizers_is_an_error() -> None:
    model = make_model()
    with pytest.raises(WorkFailed, match=r"table.* is handled by 2 optimizers"):
        check_each_once(model, [*model.wide_variables, model.table, model.table, *model.dense_variables])


def test_ftrl_keeps_what_it_learned_when_the_rate_of_the_deep_part_has_fallen() -> None:
    learner = make_learner(32)
    rows = tensors(make_rows(32))
    for _ in range(100):
        step(learner, rows)
    before = weights_of(learner)
    for _ in range(20):
        step(learner, rows, rate=0.0)
    after = weights_of(learner)
    assert np.abs(after["wide"]).sum() > 0.9 * np.abs(before["wide"]).sum()
    # The rate is read at each step, not when the step was traced.
    for name in set(before) - {"wide", "wide_dense"}:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("count", [1, 2, 37])
def test_any_batch_size_trains_and_predicts(count: int) -> None:
    learner = make_learner(count)
    loss = step(learner, tensors(make_rows(count)))
    assert 0 < loss < 5
    assert learner.predict([make_rows(count)]).shape == (count,)


def test_loss_of_a_step_is_the_mean_log_loss_of_its_rows() -> None:
    learner, rows = make_learner(16), make_rows(16)
    p = learner.predict([rows])
    expected = -np.mean(np.where(rows.label[:, 0] == 1, np.log(p), np.log(1 - p)))
    assert step(learner, tensors(rows)) == pytest.approx(expected, rel=1e-5)


def test_distilled_loss_adds_weight_times_cross_entropy_against_the_peer() -> None:
    learner, rows = make_learner(16, peers=1), make_rows(16)
    adopt_moved(learner)
    p = learner.predict([rows])
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}
    q = tf.sigmoid(learner.teachers[0](inputs)).numpy()[:, 0].astype(np.float64)
    label = rows.label[:, 0]
    own = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))
    against_peer = -np.mean(q * np.log(p) + (1 - q) * np.log(1 - p))
    assert step(learner, tensors(rows), 2.5) == pytest.approx(own + 2.5 * against_peer, rel=1e-5)


def test_peer_is_not_moved_by_a_distilled_step() -> None:
    learner = make_learner(16, peers=1)
    adopt_moved(learner)
    before = {name: variable.numpy() for name, variable in learner.teachers[0].named_weights().items()}
    for seed in range(3):
        step(learner, tensors(make_rows(16, seed)), 3.0, seed)
    for name, variable in learner.teachers[0].named_weights().items():
        np.testing.assert_array_equal(variable.numpy(), before[name])


def test_distilled_step_of_weight_0_is_bit_for_bit_the_plain_step() -> None:
    plain, distilled = make_learner(16), make_learner(16, peers=1)
    adopt_moved(distilled)
    for seed in range(5):
        rows = tensors(make_rows(16, seed))
        step(plain, rows)
        distilled._distilled({**distilled._inputs(rows, 0, 0.1, 1.0), "weight": tf.constant(0.0)})
    for name, weight in weights_of(plain).items():
        np.testing.assert_array_equal(weight, weights_of(distilled)[name])


def test_before_a_peer_is_heard_of_a_step_is_plain() -> None:
    alone, waiting = make_learner(16), make_learner(16, peers=1)
    assert not waiting.taught
    for learner in (alone, waiting):
        step(learner, tensors(make_rows(16)), 3.0)
    for name, weight in weights_of(alone).items():
        np.testing.assert_array_equal(weight, weights_of(waiting)[name])


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
        # A probability for each row, which its row carries with it.
        taught = tf.constant(1 / (1 + np.exp(-np.nan_to_num(rows.dense[:, :1]))), tf.float32)
        inputs["distillation"] = lambda logits: 1.5 * distillation_loss(logits, taught)
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
        step(learner, tensors(weighed(given, weights))) for learner, given in ((with_them, rows), (without, changed))
    ]
    assert losses[0] == losses[1]
    for name, weight in weights_of(with_them).items():
        np.testing.assert_array_equal(weight, weights_of(without)[name])


def test_loss_of_a_step_is_the_weighted_mean_log_loss() -> None:
    learner, rows = make_learner(16), make_rows(16)
    weights = np.random.default_rng(2).gamma(1, 1, 16)
    p = learner.predict([rows])
    losses = -np.where(rows.label[:, 0] == 1, np.log(p), np.log(1 - p))
    found = step(learner, tensors(weighed(rows, weights)))
    assert found == pytest.approx(float((weights * losses).mean()), rel=1e-5)


# Shapes and optimizers

SHAPES: list[dict[str, Any]] = [
    {},
    {"deep": "dcn"},
    {"deep": "dcn", "cross_rank": 2},
    {"dropout": 0.3},
    {"compute": "bfloat16"},
    {"embedding_l2": 0.1},
]


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_layers_are_those_of_dcn_v2_worked_out_in_numpy(rank: int | None) -> None:
    """Wang et al. 2021, equation 1: x0 * (W x + b) + x; of a low rank W = U V."""
    tf_keras.utils.set_random_seed(1)
    model, rows = make_model(deep="dcn", cross_rank=rank), make_rows(9)
    random = np.random.default_rng(5)
    weights: dict[str, Any] = {}
    for name, variable in model.named_weights().items():
        weights[name] = random.normal(size=variable.shape, scale=0.3).astype(np.float32)
        variable.assign(weights[name])
    places, flags = rows.ids + np.array([0, 5, 12]), np.isnan(rows.dense)
    dense = np.concatenate([np.where(flags, 0, rows.dense), flags], axis=1)
    first = deep = np.concatenate([weights["table"][places].reshape(9, -1), dense], axis=1)
    for i in range(2):
        parts = ["kernel"] if rank is None else ["u", "v"]
        kernel = np.linalg.multi_dot([*(weights[f"cross_{i}.{part}"] for part in parts), np.eye(deep.shape[1])])
        deep = first * (deep @ kernel + weights[f"cross_{i}.bias"]) + deep
    for layer in ("hidden_0", "hidden_1"):
        deep = np.maximum(deep @ weights[f"{layer}.kernel"] + weights[f"{layer}.bias"], 0)
    expected = weights["wide"][places].sum(axis=1) + dense @ weights["wide_dense"]
    expected = expected + deep @ weights["logit.kernel"] + weights["logit.bias"]
    found = model({"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dense", ["adagrad", "clippy_adagrad", "adam"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_weight_learns_and_a_resumed_learner_is_the_same_to_the_bit(
    dense: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, slots and all, through a checkpoint into objects that were just built."""

    def learner() -> Learner:
        return make_learner(32, dense=dense, dense_ratio=0.5, **shape)

    def state(of: Learner) -> Any:
        return tf.train.Checkpoint(model=of.model, optimizer=of.optimizer)

    whole, begun = learner(), learner()
    before = weights_of(whole)
    for number in range(6):
        step(whole, tensors(make_rows(32, number)), number=number)
    for number in range(3):
        step(begun, tensors(make_rows(32, number)), number=number)
    path = state(begun).save(str(tmp_path / "state"))
    resumed = make_learner(32, seed=99, dense=dense, dense_ratio=0.5, **shape)
    state(resumed).restore(path).assert_existing_objects_matched()
    for number in range(3, 6):
        step(resumed, tensors(make_rows(32, number)), number=number)
    for name, weight in weights_of(whole).items():
        assert not np.array_equal(weight, before[name]), f"{name} did not move"
        np.testing.assert_array_equal(weights_of(resumed)[name], weight, err_msg=name)
    found = slots_of(resumed.optimizer, resumed.model.named_weights())
    for name, slots in slots_of(whole.optimizer, whole.model.named_weights()).items():
        assert slots, name
        for slot, values in slots.items():
            np.testing.assert_array_equal(found[name][slot].numpy(), values.numpy(), err_msg=f"{name} {slot}")


def test_dropout_leaves_out_the_same_for_the_same_draw_and_keeps_the_mean() -> None:
    model = make_model(dropout=0.25)
    values = tf.ones([400, 50])

    def left(number: int, worker: int = 0, layer: int = 0) -> Any:
        return model._left_out(values, layer, tf.constant([number, worker])).numpy()

    one = left(3)
    np.testing.assert_array_equal(one, left(3))
    for other in (left(4), left(3, worker=1), left(3, layer=1)):
        assert (one != other).mean() > 0.2
    assert np.unique(one).tolist() == pytest.approx([0.0, 4 / 3])
    assert one.mean() == pytest.approx(1.0, abs=0.02)  # 20,000 draws: a standard error of .004
    rows = make_rows(20)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense), "draw": tf.constant([1, 0])}
    np.testing.assert_array_equal(model(inputs), model(inputs))
    assert np.abs(model(inputs, training=True).numpy() - model(inputs).numpy()).max() > 0


def test_bfloat16_is_close_and_its_weights_are_float32() -> None:
    tf_keras.utils.set_random_seed(1)
    exact = make_model()
    tf_keras.utils.set_random_seed(1)
    half = make_model(compute="bfloat16")
    rows = make_rows(200)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}
    for name, variable in half.named_weights().items():
        assert variable.dtype == tf.float32
        variable.assign(exact.named_weights()[name])
    difference = np.abs(half(inputs).numpy() - exact(inputs).numpy())
    assert 0 < difference.max() < 0.05  # eight bits


def test_penalty_on_embeddings_is_half_their_squares_row_by_row() -> None:
    plain, penalised = make_model(), make_model(embedding_l2=0.4)
    for name, variable in penalised.named_weights().items():
        variable.assign(plain.named_weights()[name] + 0.3)
        plain.named_weights()[name].assign(variable)
    rows = make_rows(10)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense), "label": tf.constant(rows.label)}
    places = rows.ids + np.array([0, 5, 12])
    squares = (plain.table.numpy()[places] ** 2).sum(axis=(1, 2))
    difference = penalised.compute_loss(inputs).numpy() - plain.compute_loss(inputs).numpy()
    np.testing.assert_allclose(difference, 0.2 * squares, rtol=1e-4)


def test_smoothed_labels_are_moved_towards_the_click_rate_in_training_alone() -> None:
    tf_keras.utils.set_random_seed(5)
    model, rows = make_model(label_smoothing=0.2), make_rows(20)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense), "label": tf.constant(rows.label)}
    p, label = 1 / (1 + np.exp(-model(inputs).numpy()[:, 0])), rows.label[:, 0]
    moved = 0.8 * label + 0.2 * 0.25
    for training, y in ((True, moved), (False, label)):
        expected = -y * np.log(p) - (1 - y) * np.log(1 - p)
        np.testing.assert_allclose(model.compute_loss(inputs, training=training).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("looked_up", ["row by row", "once"])
def test_finite_differences_of_the_whole_loss_agree_with_its_gradient(looked_up: str) -> None:
    """Labels, weight 2.5 against a peer, and the penalty, along twenty random directions of all weights at once."""
    tf_keras.utils.set_random_seed(2)
    model, rows, random = make_model(deep="dcn", embedding_l2=0.05), make_rows(50), np.random.default_rng(0)
    variables = list(model.named_weights().values())
    for variable in variables:
        variable.assign(random.normal(size=variable.shape, scale=0.3).astype(np.float32))
    taught = tf.constant(random.random((50, 1)), tf.float32)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense), "label": tf.constant(rows.label)}
    if looked_up == "once":
        distinct, slots = DistinctPlaces(model.starts, model.rows).of(rows.ids)
        inputs |= {"distinct": tf.constant(distinct), "slots": tf.constant(slots)}
    inputs["distillation"] = lambda logits: 2.5 * distillation_loss(logits, taught)

    def loss() -> Any:
        return tf.reduce_mean(model.compute_loss(inputs, training=True))

    with tf.GradientTape() as tape:
        value = loss()
    gradients = [tf.convert_to_tensor(each).numpy() for each in tape.gradient(value, variables)]
    start = [variable.numpy() for variable in variables]
    for _ in range(20):
        direction = [random.normal(size=each.shape).astype(np.float32) for each in start]
        length = np.sqrt(sum(float((each**2).sum()) for each in direction))
        sides: list[float] = []
        for sign in (1, -1):
            for variable, at, along in zip(variables, start, direction, strict=True):
                variable.assign(at + sign * 3e-3 * along / length)
            sides.append(float(loss()))
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True)) / length
        # The loss is about 2 and has seven digits: a difference quotient over .006 is good to about .0001.
        assert (sides[0] - sides[1]) / 6e-3 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("of_logits", [False, True])
def test_teachers_of_a_share_of_the_rows_teach_those_alone_and_as_much(of_logits: bool) -> None:
    """Of 16 rows the first 4 are taught, each four times as much."""
    learner, rows = make_learner(16, peers=1, share=0.25, of_logits=of_logits), make_rows(16)
    adopt_moved(learner, 0.3)
    inputs = {"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)}
    own, peer = learner.model(inputs).numpy()[:, 0], learner.teachers[0](inputs).numpy()[:, 0]
    p, q, label = 1 / (1 + np.exp(-own)), 1 / (1 + np.exp(-peer)), rows.label[:, 0]
    labels = -np.mean(label * np.log(p) + (1 - label) * np.log(1 - p))
    psi = 0.5 * (own - peer) ** 2 if of_logits else -(q * np.log(p) + (1 - q) * np.log(1 - p))
    assert step(learner, tensors(rows), 2.0) == pytest.approx(labels + 2.0 * psi[:4].mean(), rel=1e-4)


def test_changes_since_the_last_snapshot_are_the_rows_looked_up() -> None:
    """Applied to a copy they give the model; what no step has looked up is not among them."""
    learner = make_learner(4, peers=1)
    learner.adopt(0, [learner.whole()])
    for number in range(3):
        rows = make_rows(4, number)
        step(learner, tensors(rows), number=number)
        changes = learner.changes()
        places = np.unique(rows.ids + np.array([0, 5, 12]))
        assert changes.rows["wide"].tolist() == changes.rows["table"].tolist() == places.tolist()
        assert len(changes.weights["table"]) == len(places) < 18
        learner.adopt(0, [changes])
        for name, variable in learner.teachers[0].named_weights().items():
            np.testing.assert_array_equal(variable.numpy(), weights_of(learner)[name])


def test_average_of_the_weights_by_hand() -> None:
    """Every second step; at first the weights, then the plain mean, then decay^2 = .25 of what it was."""
    source, shadow = make_model(), make_model()
    average = Average(source, shadow, 0.5, every=2)
    np.testing.assert_array_equal(shadow.wide.numpy(), source.wide.numpy())
    kept: list[float] = []
    for done, value in enumerate([9.0, 1.0, 9.0, 2.0, 9.0, 4.0], start=1):
        source.wide.assign(tf.fill(source.wide.shape, value))
        average.update(done)
        kept.append(float(shadow.wide.numpy()[0, 0]))
    # 1; then (1 * .25 + 2 * .75); then (1.75 * .25 + 4 * .75).
    assert kept == pytest.approx([9.0, 1.0, 1.0, 1.75, 1.75, 3.4375])


def test_average_is_the_weights_before_its_first_mean() -> None:
    """A run shorter than that serves what it has learned, not its random start."""
    source, shadow = make_model(), make_model()
    average = Average(source, shadow, 0.9, every=16)
    for done in range(1, 4):
        source.wide.assign(tf.fill(source.wide.shape, float(done)))
        average.update(done)
        np.testing.assert_array_equal(shadow.wide.numpy(), source.wide.numpy())
