"""A group's model, its optimizer and its teachers' last known weights; a training step and a prediction."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ctr.average import Average
from ctr.codistill import distillation_loss, squared_logits, taught_rows, teacher_mean
from ctr.data import Rows
from ctr.exchange import Changes
from ctr.lookup import DistinctPlaces
from ctr.model import WideAndDeep


class Learner:
    """Trains one group's model under a distribution strategy.

    Gradients travel among the workers of the strategy; teachers are plain local copies that are only read.
    """

    def __init__(
        self,
        strategy: Any,
        model: WideAndDeep,
        optimizer: Any,
        rate: Any,
        teachers: Sequence[WideAndDeep],
        *,
        batch_size: int,
        worker: int = 0,
        average: Average | None = None,
        of_logits: bool = False,
        teacher_share: float = 1.0,
    ):
        """Puts the parts together; nothing is trained yet.

        Args:
            rate: the variable that the optimizer takes its learning rate from.
            teachers: a model for each peer, and whatever else teaches.
            batch_size: of the whole group.
            average: the moving average of the weights that is evaluated and served in place of the model.
            of_logits: whether the model learns its teachers' logits instead of their probabilities.
            teacher_share: of a batch's rows that teachers are asked about; their term counts more to make up.
        """
        self.strategy, self.model, self.optimizer, self.rate = strategy, model, optimizer, rate
        self.teachers, self.batch_size, self.worker, self.average = list(teachers), batch_size, worker, average
        self.of_logits, self.teacher_share = of_logits, teacher_share
        self.present = tf.Variable(tf.zeros([len(self.teachers)]), trainable=False, name="present")
        # Rows of the embedding tables that a step of this process has looked up since the last snapshot.
        self._touched = np.zeros(model.rows, bool)
        self._places = DistinctPlaces(model.starts, model.rows)
        ids = tf.TensorSpec([None, model.field_count], tf.int32)
        dense = tf.TensorSpec([None, model.dense_count], tf.float32)
        column, scalar = tf.TensorSpec([None, 1], tf.float32), tf.TensorSpec([], tf.float32)
        inputs = {"ids": ids, "distinct": tf.TensorSpec([None], tf.int32), "slots": ids, "dense": dense}
        inputs |= {"label": column, "row_weight": column, "draw": tf.TensorSpec([2], tf.int32)}
        inputs |= {"rate": scalar, "label_weight": scalar}
        self._plain = tf.function(self._plain_step, input_signature=[inputs])
        self._distilled = tf.function(self._distilled_step, input_signature=[{**inputs, "weight": scalar}])
        self._probabilities = tf.function(self._forward, input_signature=[ids, dense])
        self._finite = tf.function(self._all_finite)
        self._total = tf.function(self._sum)

    def step(self, rows: Any, step: int, *, rate: float, weight: float, label_weight: float = 1.0) -> float:
        """One update on this worker's share of a batch; the group's mean loss in nats, before the update.

        With `weight` 0, or no teacher heard of yet, teachers are not asked: the step is a single model's.

        Args:
            step: of the run, which with the seed decides what dropout leaves out.
            weight: of the distillation term.
        """
        inputs = self._inputs(rows, step, rate, label_weight)
        if weight == 0 or not self.taught:
            loss = self._plain(inputs)
        else:
            loss = self._distilled({**inputs, "weight": tf.constant(weight, tf.float32)})
        if self.average:
            self.average.update(step + 1)
        if self.teachers:
            self._touched[inputs["distinct"].numpy()] = True
        return float(loss)

    @property
    def taught(self) -> bool:
        """Whether any teacher has been heard of."""
        return bool(self.present.numpy().any())

    @property
    def served(self) -> WideAndDeep:
        """The model that is evaluated and served: the average of the weights where there is one."""
        return self.average.model if self.average else self.model

    def adopt(self, teacher: int, parts: Sequence[Changes]) -> None:
        """Takes a snapshot, or what changed since the last one, as the last known weights of a teacher."""
        variables = self.teachers[teacher].named_weights()
        for part in parts:
            for name, values in part.weights.items():
                if name in part.rows:
                    rows = tf.constant(part.rows[name])
                    variables[name].scatter_update(tf.IndexedSlices(tf.constant(values), rows))
                else:
                    variables[name].assign(values)
        self.set_present(teacher, True)

    def set_present(self, teacher: int, present: bool) -> None:
        """Whether a teacher is asked."""
        self.present.scatter_nd_update([[teacher]], [float(present)])

    def whole(self) -> Changes:
        """All weights by name."""
        self._touched[:] = False
        return Changes({name: variable.numpy() for name, variable in self.model.named_weights().items()}, {})

    def changes(self) -> Changes:
        """All weights but those of embeddings that no step looked up since `whole` or `changes` was last called."""
        touched = self._union_of_workers(self._touched)
        self._touched = np.zeros_like(self._touched)
        everywhere = np.flatnonzero(touched)
        deep = everywhere[: np.searchsorted(everywhere, self.model.deep_rows)]
        rows = {"wide": everywhere, "table": deep}
        weights = {
            name: (tf.gather(variable, rows[name]) if name in rows else variable).numpy()
            for name, variable in self.model.named_weights().items()
        }
        return Changes(weights, rows)

    def forget_changes(self) -> None:
        """Weights were put in from elsewhere: any of them may have changed."""
        self._touched[:] = True

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return bool(self._finite().numpy())

    def predict(self, batches: Iterable[Rows]) -> NDArray[np.float64]:
        """Click probabilities `[rows]` of all rows, by the model that is served."""
        scores = [self._probabilities(rows.ids, rows.dense).numpy() for rows in batches]
        return np.concatenate(scores).astype(np.float64) if scores else np.zeros(0)

    def agree(self, values: Sequence[float]) -> list[float]:
        """The chief's values, for every worker of the group; what the others give is passed over."""
        if self.strategy.num_replicas_in_sync == 1:
            return list(values)
        own = np.asarray(values, np.float64) if self.worker == 0 else np.zeros(len(values))
        return self._sum_of_workers(own).tolist()

    def all_agree(self, yes: bool) -> bool:
        """Whether every worker of the group says yes."""
        if self.strategy.num_replicas_in_sync == 1:
            return yes
        return self._sum_of_workers(np.array([yes], np.float64))[0] == self.strategy.num_replicas_in_sync

    def meet(self) -> None:
        """Waits for all workers of the group: one that left earlier would end the others' cluster."""
        self.all_agree(True)

    def _union_of_workers(self, mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.strategy.num_replicas_in_sync == 1:
            return mine
        return self._sum_of_workers(mine.astype(np.int32)) > 0

    def _sum_of_workers(self, values: NDArray[Any]) -> NDArray[Any]:
        return self._total(tf.constant(values)).numpy()

    def _sum(self, values: Any) -> Any:
        each = self.strategy.run(tf.identity, args=(values,))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)

    def _all_finite(self) -> Any:
        weights = self.model.named_weights().values()
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights])

    def _forward(self, ids: Any, dense: Any) -> Any:
        return tf.sigmoid(self.served({"ids": ids, "dense": dense}))[:, 0]

    def _inputs(self, rows: Any, step: int, rate: float, label_weight: float) -> dict[str, Any]:
        _, label, ids, dense, row_weight = rows
        distinct, slots = self._places.of(ids.numpy())
        inputs = {"ids": ids, "distinct": tf.constant(distinct), "slots": tf.constant(slots), "dense": dense}
        inputs |= {"label": label, "row_weight": row_weight, "draw": tf.constant([step, self.worker])}
        return inputs | {"rate": tf.constant(rate, tf.float32), "label_weight": tf.constant(label_weight, tf.float32)}

    def _plain_step(self, inputs: dict[str, Any]) -> Any:
        self.rate.assign(inputs["rate"])
        losses = self.strategy.run(self._update, args=(inputs,))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _distilled_step(self, inputs: dict[str, Any]) -> Any:
        taught = taught_rows(tf.shape(inputs["ids"])[0], self.teacher_share)
        # Of a share of the batch the distinct places are not known, and those of all of it would be more to look up.
        asked = inputs if self.teacher_share == 1 else {name: inputs[name][:taught] for name in ("ids", "dense")}
        teacher = teacher_mean([each(asked) for each in self.teachers], self.present, of_logits=self.of_logits)
        return self._plain_step({**inputs, "teacher": teacher})

    def _update(self, inputs: dict[str, Any]) -> Any:
        if "teacher" in inputs:
            inputs = {**inputs, "distillation": lambda logits: self._term(logits, inputs["teacher"], inputs["weight"])}
        with tf.GradientTape() as tape:
            # The mean over the group's whole batch: this worker has a share of it, and gradients are summed.
            loss = tf.reduce_sum(self.model.compute_loss(inputs, training=True)) / self.batch_size
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _term(self, logits: Any, teacher: Any, weight: Any) -> Any:
        """The weighed distillation term of each row `[batch]`: 0 for the rows that teachers were not asked about."""
        psi = squared_logits if self.of_logits else distillation_loss
        if self.teacher_share == 1:
            return weight * psi(logits, teacher)
        rows, taught = tf.shape(logits)[0], tf.shape(teacher)[0]
        scale = tf.cast(rows, tf.float32) / tf.cast(taught, tf.float32)
        return tf.pad(weight * scale * psi(logits[:taught], teacher), tf.convert_to_tensor([[0, rows - taught]]))
