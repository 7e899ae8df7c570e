"""Encoded shards as a tf.data.Dataset of training batches."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from ctr.data import Part, training_batches


def training_dataset(
    part: Part,
    *,
    fields: int,
    numbers: int,
    batch_size: int,
    seed: int,
    first_step: int,
    worker: int,
    workers: int,
    steps: int,
) -> Any:
    """`training_batches` from one step up to another as a tf.data.Dataset of `Rows`: so many id fields and numbers."""

    def rows() -> Iterator[Any]:
        yield from training_batches(
            part, batch_size=batch_size, seed=seed, first_step=first_step, worker=worker, workers=workers
        )

    signature = (
        tf.TensorSpec([None], tf.uint64),
        tf.TensorSpec([None, 1], tf.float32),
        tf.TensorSpec([None, fields], tf.int32),
        tf.TensorSpec([None, numbers], tf.float32),
        tf.TensorSpec([None, 1], tf.float32),
    )
    return tf.data.Dataset.from_generator(rows, output_signature=signature).take(steps - first_step).prefetch(2)
