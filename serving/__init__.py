"""The exported SavedModel and what answers with it. Needs TensorFlow at run time, but neither Keras nor `ctr`."""

import os

# Information about CPU features and the like is of no use to a user; warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
