"""Wide & deep (Cheng et al. 2016) on hashed ids and dense values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from ctr.codistill import distillation_loss

# Keras 2 as its users know it, which the types that TensorFlow ships (of Keras 3) do not describe.
keras: Any = tf_keras


class WideAndDeep(tfrs.Model):
    """logit = wide . (ids, dense) + MLP(embeddings, dense).

    All fields share one embedding table; a field's ids are shifted by the sizes of the fields before it, so that a
    batch is one gather and its update one sparse update. Crosses come last among the ids and only the wide part sees
    them. A missing dense value (NaN) is the mean, 0, with a flag beside it.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        cross_count: int,
        dense_count: int,
        embedding_dim: int,
        hidden: Sequence[int],
        click_rate: float,
    ):
        """`sizes`: ids of each field, the last `cross_count` of them crosses. `click_rate`: predicted at first."""
        super().__init__(name="wide_and_deep")
        self.field_count, self.dense_count, self.embedding_dim = len(sizes), dense_count, embedding_dim
        self.deep_count = len(sizes) - cross_count
        self.starts = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
        rows, deep_rows = sum(sizes), sum(sizes[: self.deep_count])
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.table = self.add_weight(name="table", shape=[deep_rows, embedding_dim], initializer=small)
        self.wide = self.add_weight(name="wide", shape=[rows, 1], initializer="zeros")
        self.wide_dense = self.add_weight(name="wide_dense", shape=[2 * dense_count, 1], initializer="zeros")
        self.hidden = [
            keras.layers.Dense(units, "relu", kernel_initializer="he_uniform", name=f"hidden_{i}")
            for i, units in enumerate(hidden)
        ]
        base_logit = keras.initializers.Constant(float(np.log(click_rate / (1 - click_rate))))
        self.logit = keras.layers.Dense(1, bias_initializer=base_logit, name="logit")
        self.task: Any = tfrs.tasks.Ranking(
            loss=keras.losses.BinaryCrossentropy(from_logits=True, reduction=keras.losses.Reduction.NONE)
        )
        width = self.deep_count * embedding_dim + 2 * dense_count
        for layer in [*self.hidden, self.logit]:
            layer.build([None, width])
            width = layer.units
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits `[batch, 1]` of `ids` int32 `[batch, fields]` and `dense` float32 `[batch, numbers]`."""
        places = inputs["ids"] + self.starts
        missing = tf.math.is_nan(inputs["dense"])
        dense = tf.concat([tf.where(missing, 0.0, inputs["dense"]), tf.cast(missing, tf.float32)], axis=1)
        embedded = tf.gather(self.table, places[:, : self.deep_count])
        deep = tf.concat([tf.reshape(embedded, [-1, self.deep_count * self.embedding_dim]), dense], axis=1)
        for layer in self.hidden:
            deep = layer(deep)
        wide = tf.reduce_sum(tf.gather(self.wide, places), axis=1) + tf.matmul(dense, self.wide_dense)
        return wide + self.logit(deep)

    def compute_loss(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        """Loss of each row (nats), `[batch]`: CE(label) and, where `inputs` has a `teacher`, `weight` x CE(teacher).

        Where `inputs` has a `row_weight` `[batch, 1]`, each row's loss is multiplied by it.
        """
        logits = self(inputs, training=training)
        loss = self.task(labels=inputs["label"], predictions=logits, compute_metrics=False)
        if "teacher" in inputs:
            loss += inputs["weight"] * distillation_loss(logits, inputs["teacher"])
        return loss * inputs["row_weight"][:, 0] if "row_weight" in inputs else loss

    @property
    def wide_variables(self) -> list[Any]:
        """What FTRL updates."""
        return [self.wide, self.wide_dense]

    @property
    def deep_variables(self) -> list[Any]:
        """What AdaGrad updates."""
        return [
            self.table,
            *(variable for layer in [*self.hidden, self.logit] for variable in layer.trainable_variables),
        ]

    def named_weights(self) -> dict[str, Any]:
        """Every trainable variable by a name that is the same in every process."""
        named = {"wide": self.wide, "wide_dense": self.wide_dense, "table": self.table}
        for layer in [*self.hidden, self.logit]:
            named |= {f"{layer.name}.kernel": layer.kernel, f"{layer.name}.bias": layer.bias}
        return named
