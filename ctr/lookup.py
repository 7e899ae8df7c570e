"""A batch's embedding rows, each read once and updated once, however many of the batch's ids want it.

Of a batch of 4096 Criteo rows about a quarter of the ids are distinct.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class DistinctPlaces:
    """Finds the distinct table rows of a batch, with one int32 a table row as scratch."""

    def __init__(self, starts: Sequence[int] | NDArray[np.int32], rows: int):
        """`starts`: the first table row of each field. `rows`: of the table."""
        self._starts = np.asarray(starts, np.int32)[:, None]
        self._scratch = np.zeros(rows, np.int32)

    def of(self, ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The distinct places of `ids` `[batch, fields]`, and which of them each id is at, `[batch, fields]`.

        Places come field by field, so that those of the last fields are last.
        """
        places = (ids.T + self._starts).ravel()
        numbers = np.arange(len(places), dtype=np.int32)
        # Of equal places the last one's number stays; that one stands for them all. No sorting: 1.6 ms, np.unique 6.3.
        self._scratch[places] = numbers
        distinct = places[self._scratch[places] == numbers]
        self._scratch[distinct] = numbers[: len(distinct)]
        return distinct, np.ascontiguousarray(self._scratch[places].reshape(ids.T.shape).T)


def rows_at(variable: Any, places: Any) -> Any:
    """Rows of a variable `[..., width]`, read where they are.

    `tf.gather` reads all of a mirrored variable first, which after a scatter is a copy: 4 ms for a million rows of 16.
    """
    here = getattr(variable, "values", (variable,))[0]  # this process's of a mirrored variable
    return here.sparse_read(places)


@tf.custom_gradient
def spread(rows: Any, slots: Any) -> Any:
    """`rows[slots]`, `[batch, fields, width]` of `rows` `[distinct, width]`.

    Its gradient, a sum over equal slots, is one product with a sparse matrix of ones: a quarter of the time of
    TensorFlow's segment sum where rows are 16 wide. For rows of one number `tf.gather` is as fast.
    """

    def gradient(upstream: Any) -> Any:
        flat = tf.reshape(slots, [-1])
        count = tf.size(flat, out_type=tf.int64)
        ones = tf.SparseTensor(
            tf.stack([tf.cast(flat, tf.int64), tf.range(count)], axis=1),
            tf.ones([count], upstream.dtype),
            tf.stack([tf.shape(rows, out_type=tf.int64)[0], count]),
        )
        return tf.sparse.sparse_dense_matmul(ones, tf.reshape(upstream, [-1, tf.shape(rows)[1]])), None

    return tf.gather(rows, slots), gradient
