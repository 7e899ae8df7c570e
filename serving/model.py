"""A loaded SavedModel: raw rows or packed ids in, click probabilities out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput
from serving.card import read_card, read_spec
from serving.quiet import start_tensorflow

start_tensorflow()

import tensorflow as tf  # noqa: E402 - after its remarks have been held back


class ServedModel:
    """The signatures of one SavedModel."""

    def __init__(self, folder: Path):
        """Raises BadInput if `folder` holds no SavedModel of this project or one that cannot be loaded."""
        self.folder = folder
        self.card = read_card(folder)
        self.spec = read_spec(folder)
        try:
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, IndexError, tf.errors.OpError) as error:  # as many as there are files to be cut
            raise BadInput(f"the SavedModel in {folder} cannot be loaded: {' '.join(str(error).split())}") from None
        self.signatures: Mapping[str, Any] = self._loaded.signatures
        self.number_fields = self.spec.schema.number_fields
        self.text_fields = self.spec.schema.text_fields

    def from_columns(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int) -> NDArray[np.float32]:
        """Probabilities `[rows]` of raw fields by name, each `[rows]`; absent fields are missing in every row."""
        absent_numbers, absent_texts = [float("nan")] * rows, [""] * rows
        inputs = {name: tf.constant(columns.get(name, absent_numbers), tf.float64) for name in self.number_fields}
        texts = {name: tf.constant(columns.get(name, absent_texts), tf.string) for name in self.text_fields}
        return self.signatures["serving_default"](**inputs, **texts)["probability"].numpy()

    def from_packed(self, ids: NDArray[np.int32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities `[rows]` of encoded rows: ids `[rows, fields]`, dense `[rows, numbers]`."""
        call = self.signatures["packed"]
        return call(ids=tf.constant(ids, tf.int32), dense=tf.constant(dense, tf.float32))["probability"].numpy()

    def from_examples(self, examples: Sequence[bytes]) -> NDArray[np.float32]:
        """Probabilities `[rows]` of serialised tf.Examples."""
        return self.signatures["serialize"](examples=tf.constant(examples, tf.string))["probability"].numpy()
