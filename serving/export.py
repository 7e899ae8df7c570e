"""A trained model and the feature graph as one SavedModel that takes raw rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from numpy.typing import NDArray

from features.graph import FeatureGraph
from features.output import appears_whole
from features.schema import Schema
from features.spec import FeatureSpec
from serving.card import write_calibration, write_card
from serving.table import interpolate
from serving.warmup import write_warmup

# What an integer field of a tf.Example that is absent is read as, before it becomes NaN.
_NO_INTEGER = tf.int64.min


# Logits and what they are calibrated to, `[knots]` each: see `serving.table.interpolate`.
Table = tuple[Sequence[float] | NDArray[Any], Sequence[float] | NDArray[Any]]


class Scorer(NamedTuple):
    """A model that is served.

    Attributes:
        logits: maps ids int32 `[batch, fields]` and dense float32 `[batch, numbers]` to logits `[batch, 1]`.
        variables: what `logits` reads.
        calibration: the table that its logits go through; None: there is none.
    """

    logits: Callable[[Any, Any], Any]
    variables: Sequence[Any]
    calibration: Table | None = None


def export(
    logits: Callable[[Any, Any], Any],
    variables: Sequence[Any],
    spec: FeatureSpec,
    out: Path,
    card: dict[str, Any],
    calibration: Table | None = None,
) -> list[str]:
    """Writes the SavedModel of one model, a `Scorer`, as the folder `out`; returns the names of its signatures.

    With a `calibration` all signatures give the probability of the calibrated logit; the variables stay as they are.
    Raises BadInput if `out` exists.
    """
    with appears_whole(out) as folder:
        return write_saved_model([Scorer(logits, variables, calibration)], spec, folder, card)


def write_saved_model(models: Sequence[Scorer], spec: FeatureSpec, folder: Path, card: dict[str, Any]) -> list[str]:
    """Writes the SavedModel whose probability is the mean of the models' into a folder; returns its signatures' names.

    The models share one feature graph. The feature spec, `card` (what the model is: run, metrics, digests) and the
    calibration of a single model go into its assets, requests to warm it up with into `assets.extra`.
    """
    module = _Serving(models, spec)
    signatures = {
        "serving_default": module.from_raw.get_concrete_function(),
        "serialize": module.from_examples.get_concrete_function(),
        "packed": module.from_packed.get_concrete_function(),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / "assets").mkdir(exist_ok=True)
    spec.save(folder / "assets")
    write_card(folder, {**card, "spec_digest": spec.digest, "signatures": list(signatures)})
    if len(models) == 1 and models[0].calibration is not None:
        write_calibration(folder, *models[0].calibration)
    write_warmup(folder, spec)
    return list(signatures)


class _Serving(tf.Module):
    """What is saved: variables and the three functions that read them."""

    def __init__(self, models: Sequence[Scorer], spec: FeatureSpec):
        super().__init__(name="ctr")
        # Tracked as bare variables, not as Keras layers: whoever loads the SavedModel needs no Keras.
        self.weights = [variable for model in models for variable in model.variables]
        self.features = FeatureGraph(spec)
        ids = tf.TensorSpec([None, len(spec.id_fields)], tf.int32, "ids")
        dense = tf.TensorSpec([None, len(spec.dense_fields)], tf.float32, "dense")
        examples = tf.TensorSpec([None], tf.string, "examples")

        def probability(ids: Any, dense: Any) -> dict[str, Any]:
            return {"probability": tf.add_n([_probability(model, ids, dense) for model in models]) / len(models)}

        def from_raw(raw: dict[str, Any]) -> dict[str, Any]:
            return probability(*self.features.encode(raw))

        def from_examples(examples: Any) -> dict[str, Any]:
            return from_raw(_parse_examples(examples, spec.schema))

        def from_packed(ids: Any, dense: Any) -> dict[str, Any]:
            return probability(self.features.known_ids(ids), dense)

        self.from_raw = tf.function(from_raw, input_signature=[self.features.raw_signature])
        self.from_examples = tf.function(from_examples, input_signature=[examples])
        self.from_packed = tf.function(from_packed, input_signature=[ids, dense])


def _probability(model: Scorer, ids: Any, dense: Any) -> Any:
    """Float32 `[batch]`."""
    logit = model.logits(ids, dense)[:, 0]
    if model.calibration is not None:
        logit = interpolate(logit, *model.calibration)
    return tf.cast(tf.sigmoid(logit), tf.float32)


def _parse_examples(examples: Any, schema: Schema) -> dict[str, Any]:
    """Serialised tf.Examples `[batch]` to raw fields: integers int64, other numbers float, categories bytes."""
    integers = [field.name for field in schema.numeric if field.kind == "integer"]
    floats = [field.name for field in schema.numeric if field.kind == "float"]
    parsed: dict[str, Any] = tf.io.parse_example(
        examples,
        {
            **{name: tf.io.FixedLenFeature([], tf.int64, _NO_INTEGER) for name in integers},
            **{name: tf.io.FixedLenFeature([], tf.float32, float("nan")) for name in floats},
            **{name: tf.io.FixedLenFeature([], tf.string, "") for name in schema.text_fields},
        },
    )
    nan = tf.constant(float("nan"), tf.float64)
    for name in integers:
        parsed[name] = tf.where(parsed[name] == _NO_INTEGER, nan, tf.cast(parsed[name], tf.float64))
    for name in floats:
        parsed[name] = tf.cast(parsed[name], tf.float64)
    return parsed
