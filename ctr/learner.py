"""A group's model, its optimizer and its peers' last known weights; a training step and a prediction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ctr.codistill import teacher_mean
from ctr.data import Rows
from ctr.model import WideAndDeep


class Learner:
    """Trains one group's model under a distribution strategy.

    Gradients travel among the workers of the strategy; the peers' weights are plain local copies that are only read.
    """

    def __init__(
        self, strategy: Any, model: WideAndDeep, optimizer: Any, peers: Sequence[WideAndDeep], *, batch_size: int
    ):
        """`batch_size` is the whole group's. `peers` are models of the same shape, one for each other group."""
        self.strategy, self.model, self.optimizer, self.peers = strategy, model, optimizer, list(peers)
        self.batch_size = batch_size
        self.present = tf.Variable(tf.zeros([len(self.peers)]), trainable=False, name="present")
        ids = tf.TensorSpec([None, model.field_count], tf.int32)
        dense = tf.TensorSpec([None, model.dense_count], tf.float32)
        label, weight = tf.TensorSpec([None, 1], tf.float32), tf.TensorSpec([], tf.float32)
        self._plain = tf.function(self._plain_step, input_signature=[ids, dense, label, label])
        self._distilled = tf.function(self._distilled_step, input_signature=[ids, dense, label, label, weight])
        self._probabilities = tf.function(self._forward, input_signature=[ids, dense])

    def step(self, rows: Any, weight: float) -> Any:
        """One update on this worker's share of a batch; the group's mean loss in nats, before the update.

        With `weight` 0, or no peer heard of yet, the peers are not asked: the step is a single model's.
        """
        _, label, ids, dense, row_weight = rows
        if weight == 0 or not self.heard_of_peers:
            return self._plain(ids, dense, label, row_weight)
        return self._distilled(ids, dense, label, row_weight, tf.constant(weight, tf.float32))

    @property
    def heard_of_peers(self) -> bool:
        return bool(self.present.numpy().any())

    def adopt(self, peer: int, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Takes a snapshot as the last known weights of the peer with this index."""
        for name, variable in self.peers[peer].named_weights().items():
            variable.assign(weights[name])
        self.present.scatter_nd_update([[peer]], [1.0])

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The model's own weights by name."""
        return {name: variable.numpy() for name, variable in self.model.named_weights().items()}

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(np.isfinite(weight).all()) for weight in self.weights().values())

    def learning_rate_at(self, step: int) -> float:
        """AdaGrad's rate at a step."""
        return float(self.optimizer.optimizers[-1].learning_rate(step))

    def predict(self, batches: Iterable[Rows]) -> NDArray[np.float64]:
        """Click probabilities `[rows]` of all rows."""
        scores = [self._probabilities(rows.ids, rows.dense).numpy() for rows in batches]
        return np.concatenate(scores).astype(np.float64) if scores else np.zeros(0)

    def meet(self) -> None:
        """Waits for all workers of the group: one that left earlier would end the others' cluster."""

        @tf.function
        def count() -> Any:
            return self.strategy.reduce(
                tf.distribute.ReduceOp.SUM, self.strategy.run(lambda: tf.constant(1)), axis=None
            )

        count()

    def _forward(self, ids: Any, dense: Any) -> Any:
        return tf.sigmoid(self.model({"ids": ids, "dense": dense}))[:, 0]

    def _plain_step(self, ids: Any, dense: Any, label: Any, row_weight: Any) -> Any:
        return self._run({"ids": ids, "dense": dense, "label": label, "row_weight": row_weight})

    def _distilled_step(self, ids: Any, dense: Any, label: Any, row_weight: Any, weight: Any) -> Any:
        inputs = {"ids": ids, "dense": dense, "row_weight": row_weight}
        teacher = teacher_mean([peer(inputs) for peer in self.peers], self.present)
        return self._run({**inputs, "label": label, "teacher": teacher, "weight": weight})

    def _run(self, inputs: dict[str, Any]) -> Any:
        losses = self.strategy.run(self._update, args=(inputs,))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _update(self, inputs: dict[str, Any]) -> Any:
        with tf.GradientTape() as tape:
            # The mean over the group's whole batch: this worker has a share of it, and gradients are summed.
            loss = tf.reduce_sum(self.model.compute_loss(inputs, training=True)) / self.batch_size
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss
