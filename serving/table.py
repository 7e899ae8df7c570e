"""A table of a function, interpolated linearly in TensorFlow: the calibration in an exported model's graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def interpolate(values: Any, x: Sequence[float] | NDArray[Any], y: Sequence[float] | NDArray[Any]) -> Any:
    """`numpy.interp` of values `[batch]`, as float64: between knots `x` `[knots]`, increasing, linear in `y` `[knots]`.

    Below the first knot and above the last it is theirs; of NaN it is NaN. In float64, so that it is NumPy's to 1e-12:
    in float32 a line from -16 to 16 would be 1e-6 off.
    """
    knots, heights = tf.constant(x, tf.float64), tf.constant(y, tf.float64)
    at = tf.clip_by_value(tf.cast(values, tf.float64), knots[0], knots[-1])
    above = tf.searchsorted(knots, at, side="right")
    left, right = tf.maximum(above - 1, 0), tf.minimum(above, np.size(x) - 1)
    low, bottom = tf.gather(knots, left), tf.gather(heights, left)
    width, rise = tf.gather(knots, right) - low, tf.gather(heights, right) - bottom
    # At the last knot left and right are the same.
    return bottom + rise * (at - low) / tf.where(width > 0, width, 1.0)
