"""A model that is ready to answer: loaded, tried on rows of every signature, described in TensorFlow's terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from features.errors import BadInput
from serving.model import ServedModel, tf
from serving.rows import EXAMPLES, PACKED, RAW, Inputs, joined

from tensorflow.core.protobuf.error_codes_pb2 import Code  # isort: skip # pyright: ignore
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # isort: skip # pyright: ignore

# Each shape of a batch that TensorFlow meets first costs some ms: one row, and a batch of a busy server.
_WARM_ROWS = (1, 64)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A SavedModel in memory. `signature_defs`: TensorFlow's descriptions of its signatures, by name."""

    model: ServedModel
    signature_defs: Mapping[str, Any]


def load_warm(folder: Path) -> Loaded:
    """Loads a SavedModel and scores rows without any field by each of its signatures.

    Raises BadInput if it cannot be loaded, or if a score is no number.
    """
    model = ServedModel(folder)
    try:
        described = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        raise BadInput(f"{folder / 'saved_model.pb'} cannot be read: {error}") from None
    loaded = Loaded(model, dict(described.meta_graphs[0].signature_def))
    for rows in _WARM_ROWS:
        for signature in (RAW, PACKED, EXAMPLES):
            if not np.isfinite(score((loaded, signature), [_nothing(model, signature, rows)])).all():
                raise BadInput(f"the SavedModel in {folder} gives no number for a row without fields ({signature})")
    return loaded


def score(key: tuple[Loaded, str], requests: Sequence[Inputs]) -> NDArray[np.float32]:
    """Probabilities `[rows]` of requests, one after another, by one signature of one model."""
    (loaded, signature), inputs = key, joined(requests)
    if signature == PACKED:
        return loaded.model.from_packed(inputs.columns["ids"], inputs.columns["dense"])
    if signature == EXAMPLES:
        try:
            return loaded.model.from_examples(inputs.columns["examples"])
        except tf.errors.InvalidArgumentError as error:
            raise BadInput(f"a tf.Example cannot be read: {' '.join(str(error).split())}") from None
        except UnicodeDecodeError:  # TensorFlow's error quotes the example, which Python then cannot decode
            raise BadInput("a tf.Example cannot be read: it is no tf.Example, nor text") from None
    return loaded.model.from_columns(inputs.columns, inputs.rows)


def error_code(error: BaseException) -> str:
    """TensorFlow's name of what went wrong, as the status of a version has it: NOT_FOUND, DATA_LOSS, ..."""
    cause: Any = error.__context__
    if isinstance(cause, tf.errors.OpError):
        return Code.Name(cause.error_code)
    if isinstance(cause, OSError):  # a file that is there but cannot be read: the others have been asked for before
        return "DATA_LOSS"
    return "INVALID_ARGUMENT" if isinstance(error, BadInput) else "UNKNOWN"


def _nothing(model: ServedModel, signature: str, rows: int) -> Inputs:
    if signature == EXAMPLES:
        return Inputs(EXAMPLES, rows, {"examples": [b""] * rows})
    if signature == RAW:
        return Inputs(RAW, rows, {})
    ids = np.zeros((rows, len(model.spec.id_fields)), np.int32)
    return Inputs(
        PACKED, rows, {"ids": ids, "dense": np.full((rows, len(model.spec.dense_fields)), np.nan, np.float32)}
    )
