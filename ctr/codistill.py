"""The codistillation loss: what a group learns from its peers, and how strongly at which step."""

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


def teacher_mean(peer_logits: Sequence[Any], present: Any) -> Any:
    """Mean of the peers' probabilities `[batch, 1]`, over those peers whose `present` `[peers]` is 1."""
    probabilities = tf.stop_gradient(tf.sigmoid(tf.stack(peer_logits)))
    return tf.tensordot(present, probabilities, axes=1) / tf.reduce_sum(present)


def weight_at(step: int, *, weight: float, start: int, ramp_steps: int) -> float:
    """The distillation term's weight at a step: 0 before `start`, then rising evenly to `weight` over `ramp_steps`."""
    if step < start:
        return 0.0
    return weight * min(1.0, (step - start + 1) / ramp_steps) if ramp_steps else weight


def is_boundary(step: int, *, start: int, every: int) -> bool:
    """Whether groups exchange snapshots before this step: at the end of burn-in, then each `every` steps."""
    return step >= start and (step - start) % every == 0
