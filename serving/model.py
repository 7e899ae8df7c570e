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
        self._stacked = _stacked(self.signatures["serving_default"], self.number_fields, self.text_fields)

    def from_columns(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int) -> NDArray[np.float32]:
        """Probabilities `[rows]` of raw fields by name, each `[rows]`; absent fields are missing in every row."""
        absent_numbers, absent_texts = [float("nan")] * rows, [""] * rows
        numbers = [columns.get(name, absent_numbers) for name in self.number_fields]
        texts = [columns.get(name, absent_texts) for name in self.text_fields]
        # Shapes are said for the kind of which there is no field.
        stacked = (
            tf.constant(numbers, tf.float64, [len(numbers), rows]),
            tf.constant(texts, tf.string, [len(texts), rows]),
        )
        return self._stacked(*stacked).numpy()

    def from_packed(self, ids: NDArray[np.int32], dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities `[rows]` of encoded rows: ids `[rows, fields]`, dense `[rows, numbers]`."""
        call = self.signatures["packed"]
        return call(ids=tf.constant(ids, tf.int32), dense=tf.constant(dense, tf.float32))["probability"].numpy()

    def from_examples(self, examples: Sequence[bytes]) -> NDArray[np.float32]:
        """Probabilities `[rows]` of serialised tf.Examples."""
        return self.signatures["serialize"](examples=tf.constant(examples, tf.string))["probability"].numpy()


def _stacked(signature: Any, number_fields: Sequence[str], text_fields: Sequence[str]) -> Any:
    """The signature of raw fields as a function of all numbers `[fields, rows]` and all texts `[fields, rows]`.

    A tensor and a named argument for each field is what takes time: with it a call of 10 rows of Criteo's 39 fields
    takes 1.3 ms, without .4.
    """
    kinds = (len(number_fields), tf.float64), (len(text_fields), tf.string)

    @tf.function(input_signature=[tf.TensorSpec([count, None], dtype) for count, dtype in kinds])
    def score(numbers: Any, texts: Any) -> Any:
        by_name = {name: numbers[place] for place, name in enumerate(number_fields)}
        by_name |= {name: texts[place] for place, name in enumerate(text_fields)}
        return signature(**by_name)["probability"]

    return score.get_concrete_function()  # pyright: ignore
