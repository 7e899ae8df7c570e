"""What forked processes find imported (`ctr.forks`), without what TensorFlow says of itself when it is."""

import os

_said = os.dup(2)
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    # The package `ctr` has said by now which Keras TensorFlow Recommenders needs.
    import tensorflow
    import tensorflow_recommenders
    import tf_keras
finally:
    os.dup2(_said, 2)
    os.close(_said)
    os.close(_nowhere)

__all__ = ["tensorflow", "tensorflow_recommenders", "tf_keras"]
