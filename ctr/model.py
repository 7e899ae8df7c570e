"""Wide & deep (Cheng et al. 2016) on hashed ids and dense values, its deep part an MLP or DCN-V2."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras

from ctr.lookup import rows_at, spread

# Keras 2 as its users know it, which the types that TensorFlow ships (of Keras 3) do not describe.
keras: Any = tf_keras


class WideAndDeep(tfrs.Model):
    """logit = wide . (ids, dense) + deep(embeddings, dense).

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
        deep: str = "mlp",
        cross_layers: int = 2,
        cross_rank: int | None = None,
        dropout: float = 0.0,
        compute: str = "float32",
        embedding_l2: float = 0.0,
        label_smoothing: float = 0.0,
        seed: int = 0,
        tables: str = "float32",
    ):
        """Builds every weight.

        Args:
            sizes: ids of each field, the last `cross_count` of them crosses.
            click_rate: predicted at first.
            deep: `mlp`, or `dcn`: DCN-V2's cross layers (Wang et al. 2021, equation 1) before the ReLU layers.
            cross_rank: of the cross layers' matrices (their section 3.3); None for whole ones.
            dropout: share of the ReLU layers' outputs that training leaves out.
            compute: what the deep part's products are worked out in, `float32` or `bfloat16`; weights are float32.
            embedding_l2: penalty, halved, on the squares of the embeddings that a row looks up.
            label_smoothing: share by which labels are moved towards the click rate: what Anil et al. 2018 call
                unigram smoothing.
            seed: of dropout.
            tables: what the weights with a row for each id are kept in: `float32` to train them, `bfloat16` or
                `float16` to serve them.
        """
        super().__init__(name="wide_and_deep")
        self.field_count, self.dense_count, self.embedding_dim = len(sizes), dense_count, embedding_dim
        self.deep_count = len(sizes) - cross_count
        self.dropout, self.embedding_l2, self.seed = dropout, embedding_l2, seed
        self.label_smoothing, self.click_rate = label_smoothing, click_rate
        self.compute_type = tf.dtypes.as_dtype(compute)
        self.starts = np.cumsum([0, *sizes[:-1]]).astype(np.int32)
        self.rows, self.deep_rows = sum(sizes), sum(sizes[: self.deep_count])
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.table = self.add_weight(
            name="table", shape=[self.deep_rows, embedding_dim], initializer=small, dtype=tables
        )
        self.wide = self.add_weight(name="wide", shape=[self.rows, 1], initializer="zeros", dtype=tables)
        self.wide_dense = self.add_weight(name="wide_dense", shape=[2 * dense_count, 1], initializer="zeros")
        policy = keras.mixed_precision.Policy("float32" if compute == "float32" else f"mixed_{compute}")
        self.crossed: list[Any] = [
            tfrs.layers.dcn.Cross(projection_dim=cross_rank, name=f"cross_{i}", dtype=policy)
            for i in range(cross_layers if deep == "dcn" else 0)
        ]
        self.hidden: list[Any] = [
            keras.layers.Dense(units, "relu", kernel_initializer="he_uniform", name=f"hidden_{i}", dtype=policy)
            for i, units in enumerate(hidden)
        ]
        base_logit = keras.initializers.Constant(float(np.log(click_rate / (1 - click_rate))))
        self.logit = keras.layers.Dense(1, bias_initializer=base_logit, name="logit")
        self.task: Any = tfrs.tasks.Ranking(
            loss=keras.losses.BinaryCrossentropy(from_logits=True, reduction=keras.losses.Reduction.NONE)
        )
        width = self.deep_count * embedding_dim + 2 * dense_count
        for cross in self.crossed:
            cross.build([None, width])
            for name in ("_dense", "_dense_u", "_dense_v"):
                if hasattr(cross, name):
                    getattr(cross, name).build([None, cross_rank if name == "_dense_v" else width])
        for layer in [*self.hidden, self.logit]:
            layer.build([None, width])
            width = layer.units
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits `[batch, 1]` of `ids` int32 `[batch, fields]` and `dense` float32 `[batch, numbers]`.

        Where there are `distinct` and `slots` of `ids` (see `DistinctPlaces`), embeddings are looked up by them, and
        each one's gradient comes once. With dropout, training takes a `draw` int32 `[2]`, step and worker, too: the
        same draw leaves out the same.
        """
        return self._logits_and_embeddings(inputs, training)[0]

    def compute_loss(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        """Loss of each row (nats), `[batch]`: `label_weight` x CE(label), and what `distillation` gives for the logits.

        With the penalty on embeddings, where there is one. Where `inputs` has a `row_weight` `[batch, 1]`, each row's
        loss is multiplied by it. `label_weight` is 1 where `inputs` has none.
        """
        logits, embedded = self._logits_and_embeddings(inputs, training)
        label = inputs["label"]
        if training and self.label_smoothing:
            label += self.label_smoothing * (self.click_rate - label)
        loss = self.task(labels=label, predictions=logits, compute_metrics=False)
        if "label_weight" in inputs:
            loss *= inputs["label_weight"]
        if "distillation" in inputs:
            loss += inputs["distillation"](logits)
        if self.embedding_l2:
            loss += 0.5 * self.embedding_l2 * tf.reduce_sum(tf.square(embedded), axis=[1, 2])
        return loss * inputs["row_weight"][:, 0] if "row_weight" in inputs else loss

    def _logits_and_embeddings(self, inputs: Mapping[str, Any], training: bool) -> tuple[Any, Any]:
        embedded, wide = self._looked_up(inputs)
        deep = tf.cast(tf.reshape(embedded, [-1, self.deep_count * self.embedding_dim]), self.compute_type)
        missing = tf.math.is_nan(inputs["dense"])
        dense = tf.concat([tf.where(missing, 0.0, inputs["dense"]), tf.cast(missing, tf.float32)], axis=1)
        wide = tf.reduce_sum(tf.cast(wide, tf.float32), axis=1) + tf.matmul(dense, self.wide_dense)
        deep = tf.concat([deep, tf.cast(dense, self.compute_type)], axis=1) if self.dense_count else deep
        first = deep
        for layer in self.crossed:
            deep = layer(first, deep)
        for i, layer in enumerate(self.hidden):
            deep = layer(deep)
            if training and self.dropout:
                deep = self._left_out(deep, i, inputs["draw"])
        return wide + self.logit(tf.cast(deep, tf.float32)), embedded

    def _looked_up(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Embeddings `[batch, deep fields, dim]` and wide weights `[batch, fields, 1]`."""
        if "distinct" not in inputs:
            places = inputs["ids"] + self.starts
            return rows_at(self.table, places[:, : self.deep_count]), rows_at(self.wide, places)
        distinct, slots = inputs["distinct"], inputs["slots"]
        deep = distinct[: tf.math.count_nonzero(distinct < self.deep_rows)]
        embedded = spread(rows_at(self.table, deep), slots[:, : self.deep_count])
        return embedded, tf.gather(rows_at(self.wide, distinct), slots)

    def _left_out(self, values: Any, layer: int, draw: Any) -> Any:
        """Dropout that depends on nothing but seed, layer, step and worker, so that a resumed run draws the same."""
        seed: Any = tf.random.fold_in(draw, self.seed * 1009 + layer)
        kept = tf.random.stateless_uniform(tf.shape(values), seed) >= self.dropout
        return tf.where(kept, values / tf.cast(1 - self.dropout, values.dtype), tf.zeros([], values.dtype))

    @property
    def wide_variables(self) -> list[Any]:
        """What FTRL updates: the wide part."""
        return [self.wide, self.wide_dense]

    @property
    def embedding_names(self) -> set[str]:
        """Names of the embedding tables with several numbers a row."""
        return {"table"}

    @property
    def dense_variables(self) -> list[Any]:
        """Kernels and biases of the deep part."""
        layers = [*self.crossed, *self.hidden, self.logit]
        return [variable for layer in layers for variable in layer.trainable_variables]

    def named_weights(self) -> dict[str, Any]:
        """Every trainable variable by a name that is the same in every process."""
        named = {"wide": self.wide, "wide_dense": self.wide_dense, "table": self.table}
        for cross in self.crossed:
            parts = ("kernel", "bias") if len(cross.trainable_variables) == 2 else ("u", "v", "bias")
            named |= {f"{cross.name}.{part}": each for part, each in zip(parts, cross.trainable_variables, strict=True)}
        for layer in [*self.hidden, self.logit]:
            named |= {f"{layer.name}.kernel": layer.kernel, f"{layer.name}.bias": layer.bias}
        return named
