"""The weights of a SavedModel, and the model that they are of."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ctr.build import build_model
from ctr.config import Config
from ctr.model import WideAndDeep
from features.errors import BadInput, WorkFailed
from features.strict import parse
from serving.card import read_card, read_spec


def saved_weights(folder: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """The weights of the SavedModel in `folder` by name, in float32.

    Raises BadInput, in which it goes by `name`, if it is the average of several or does not say which is which.
    """
    card = read_card(folder)
    if "ensemble" in card:
        raise BadInput(f"{name} is the average of {card['ensemble']} models, where one is wanted; give one of them")
    if "weights" not in card:
        raise BadInput(f"{name} does not say which weights it holds; export it anew with this version")
    reader: Any = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    return {
        key: reader.get_tensor(f"weights/{i}/.ATTRIBUTES/VARIABLE_VALUE").astype(np.float32)
        for i, key in enumerate(card["weights"])
    }


def saved_model(folder: Path, name: str, tables: str) -> WideAndDeep:
    """The model with these weights, its tables (those with a row for each id) kept in `tables`.

    Raises BadInput as `saved_weights` does, and WorkFailed if a weight is too large for the type.
    """
    weights = saved_weights(folder, name)
    model = build_model(read_spec(folder), parse(Config, read_card(folder)["config"], name), tables=tables)
    for key, variable in model.named_weights().items():
        values = tf.cast(weights[key], variable.dtype)
        if not tf.reduce_all(tf.math.is_finite(values)):
            raise WorkFailed(f"{name} has weights in {key} that are too large for {tables}; use bfloat16 or float32")
        variable.assign(values)
    return model
