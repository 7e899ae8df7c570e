"""From a raw click log to encoded shards, and the same transforms as TensorFlow operations.

Knows nothing of models. Only `features.graph` imports TensorFlow.
"""
