"""The codistillation loss: what a group learns from its teacher, the mean of its peers' last known models."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def distillation_loss(logits: Any, teacher: Any) -> Any:
    """Cross-entropy (nats) of a group's logits against its teacher's probabilities, `[batch]`.

    Anil et al. 2018, algorithm 1: psi(teacher, own prediction), here -q ln(p) - (1 - q) ln(1 - p) with q the teacher's
    probability and p the group's own. The teacher is a constant: no gradient flows into it.

    Args:
        logits: `[batch, 1]`, the group's own.
        teacher: `[batch, 1]`, probabilities.
    """
    terms = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.stop_gradient(teacher), logits=logits)
    return tf.reduce_mean(terms, axis=1)


def squared_logits(logits: Any, teacher: Any) -> Any:
    """Half the squared difference of a group's logits and its teacher's, both `[batch, 1]`; `[batch]`.

    The other psi of Anil et al. 2018, section 2. Halved, so that its gradient is the difference itself.
    """
    return 0.5 * tf.reduce_mean(tf.math.squared_difference(logits, tf.stop_gradient(teacher)), axis=1)


def teacher_mean(logits: Sequence[Any], present: Any, *, of_logits: bool = False) -> Any:
    """Mean of the teachers' probabilities (or logits) `[batch, 1]`, over those whose `present` `[teachers]` is 1."""
    stacked = tf.stop_gradient(tf.stack(logits))
    return tf.tensordot(present, stacked if of_logits else tf.sigmoid(stacked), axes=1) / tf.reduce_sum(present)


def taught_rows(rows: Any, share: float) -> Any:
    """How many of `rows` rows of a batch teachers are asked about: a share, at least one."""
    return tf.maximum(1, tf.cast(tf.math.ceil(share * tf.cast(rows, tf.float32)), tf.int32))
