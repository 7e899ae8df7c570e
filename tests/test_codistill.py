"""The codistillation loss against figures worked out by hand, and what must not learn."""

import math

import numpy as np
import pytest

# TensorFlow has no types worth the name.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.codistill import distillation_loss, squared_logits, taught_rows, teacher_mean

import tensorflow as tf  # isort: skip


def test_term_is_cross_entropy_of_logit_against_peer_probability_on_three_rows() -> None:
    # p = sigmoid(0) = 1/2:  -q ln(1/2) - (1 - q) ln(1/2) = ln 2 for every q.
    # p = sigmoid(ln 3) = 3/4, q = 1/4:  -1/4 ln(3/4) - 3/4 ln(1/4) = (3/4) 2 ln 2 - 1/4 ln(3/4).
    # p = sigmoid(-ln 9) = 1/10, q = 9/10:  -9/10 ln(1/10) - 1/10 ln(9/10).
    logits = tf.constant([[0.0], [math.log(3.0)], [-math.log(9.0)]])
    teacher = tf.constant([[0.3], [0.25], [0.9]])
    expected = [
        0.693147181,  # ln 2
        1.111641298,  # 1.039720771 + 0.071920518
        2.082862636,  # 2.072326584 + 0.010536052
    ]
    np.testing.assert_allclose(distillation_loss(logits, teacher).numpy(), expected, rtol=1e-6)


def test_gradient_into_logits_is_difference_of_probabilities() -> None:
    logits = tf.Variable([[0.4], [-1.2], [2.0]])
    teacher = tf.constant([[0.3], [0.25], [0.9]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distillation_loss(logits, teacher))
    expected = 1 / (1 + np.exp(-logits.numpy())) - teacher.numpy()
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy(), expected, rtol=1e-5)


def test_no_gradient_into_the_teacher() -> None:
    own, peers = tf.Variable([[0.4], [-1.2]]), [tf.Variable([[0.1], [0.2]]), tf.Variable([[0.5], [-0.7]])]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distillation_loss(own, teacher_mean(peers, tf.constant([1.0, 1.0]))))
    gradients = tape.gradient(loss, [own, *peers])
    assert np.abs(gradients[0].numpy()).min() > 0
    assert gradients[1:] == [None, None]


def test_teacher_is_mean_of_probabilities_of_peers_that_are_present() -> None:
    peers = [tf.constant([[0.0]]), tf.constant([[math.log(3.0)]]), tf.constant([[-50.0]])]
    mean = teacher_mean(peers, tf.constant([1.0, 1.0, 0.0])).numpy()
    np.testing.assert_allclose(mean, [[(0.5 + 0.75) / 2]], rtol=1e-6)


def test_squared_difference_of_logits_by_hand_and_its_gradient() -> None:
    logits, teacher = tf.Variable([[1.0], [-2.0]]), tf.Variable([[0.5], [1.0]])
    with tf.GradientTape() as tape:
        terms = squared_logits(logits, teacher)
        loss = tf.reduce_sum(terms)
    np.testing.assert_allclose(terms.numpy(), [0.125, 4.5], rtol=1e-6)
    gradients = tape.gradient(loss, [logits, teacher])
    np.testing.assert_allclose(gradients[0].numpy(), [[0.5], [-3.0]], rtol=1e-6)
    assert gradients[1] is None


def test_teacher_of_logits_is_their_mean() -> None:
    teachers = [tf.constant([[1.0]]), tf.constant([[4.0]]), tf.constant([[100.0]])]
    assert teacher_mean(teachers, tf.constant([1.0, 1.0, 0.0]), of_logits=True).numpy() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("rows", "share", "taught"), [(1, 0.5, 1), (2, 0.5, 1), (3, 0.5, 2), (10, 0.25, 3), (10, 1.0, 10), (7, 0.01, 1)]
)
def test_at_least_one_row_of_a_batch_is_taught(rows: int, share: float, taught: int) -> None:
    assert int(taught_rows(tf.constant(rows), share)) == taught
