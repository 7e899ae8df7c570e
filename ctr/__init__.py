"""Codistilled wide & deep models for click-through-rate prediction: training, comparison, promotion, command line."""

import os

# TensorFlow Recommenders needs Keras 2, and TensorFlow reads this when it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
# Information about CPU features and the like is of no use to a user; warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
