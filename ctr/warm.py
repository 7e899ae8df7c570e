"""A model that was trained on another day, put into the id space of this day's feature spec."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ctr.build import build_model, build_optimizer
from ctr.config import Config
from ctr.idmap import FRESH, DenseMap, RowMap, map_dense, map_rows
from ctr.model import WideAndDeep
from ctr.optimizers import slots_of
from ctr.runs import CONFIG_FILE, find_model, group_folder, is_run, read_run
from ctr.saved import saved_weights
from features.errors import BadInput
from features.spec import FeatureSpec, load_spec
from features.strict import parse
from serving.card import read_card

Weights = Mapping[str, NDArray[Any]]


def champion_model(name: str, spec: FeatureSpec) -> WideAndDeep:
    """A model as it is served, of its own shape, that reads rows encoded by `spec`.

    It predicts what MODEL predicts, but for values that MODEL knew and `spec` takes for rare, and for fields that
    differ. Raises BadInput if there is no such model.
    """
    folder = find_model(name)
    weights, old = saved_weights(folder, name), load_spec(folder / "assets")
    model = build_model(spec, parse(Config, read_card(folder)["config"], name))
    taken = _mapped(
        weights, {key: variable.numpy() for key, variable in model.named_weights().items()}, old, spec, name
    )
    for key, variable in model.named_weights().items():
        variable.assign(taken[key])
    model.trainable = False
    return model


def warm_start(run: Path, model: WideAndDeep, optimizer: Any, spec: FeatureSpec, config: Config) -> dict[str, int]:
    """Begins a model with the weights that `run` serves, and its optimizer's slots with those of that group.

    Returns how many embedding rows are as they were, how many begin as rare values were, and how many are fresh.
    Raises BadInput if `run` is no finished run, or its model of another shape.
    """
    old_model, old_optimizer, old = _last_state(run)
    rows, dense = map_rows(old, spec), map_dense(old, spec)
    fresh = {name: variable.numpy() for name, variable in model.named_weights().items()}
    # Of a run with train.ema the average of the weights, which is better than the last ones.
    before = saved_weights(find_model(str(run)), str(run))
    taken = _mapped(before, fresh, old, spec, str(run))
    slots, old_slots = slots_of(optimizer, model.named_weights()), slots_of(old_optimizer, old_model.named_weights())
    for name, variable in model.named_weights().items():
        variable.assign(taken[name])
        for slot, values in slots[name].items():
            if slot in old_slots[name]:
                moved = old_slots[name][slot].numpy()
                values.assign(_mapped_slot(name, slot, moved, values.numpy(), rows, dense, model))
    for name in ("wide", "wide_dense"):
        _make_consistent(taken[name], slots[name], config)
    return {
        "rows_taken": int((rows.learned & (rows.source != FRESH)).sum()),
        "rows_from_rare": int((~rows.learned & (rows.source != FRESH)).sum()),
        "rows_fresh": int((rows.source == FRESH).sum()),
    }


def _last_state(run: Path) -> tuple[WideAndDeep, Any, FeatureSpec]:
    """Model and optimizer of the served group's last checkpoint, and the spec that they were trained with."""
    if not is_run(run):
        raise BadInput(
            f"train.warm_start={run} is no run folder; a warm start takes what the optimizer had learned too, which "
            "only the folder that `ctr train` made has"
        )
    folder = find_model(str(run))
    group = read_run(run)["result"]["served_group"]
    spec = load_spec(folder / "assets")
    config = parse(Config, json.loads(json.dumps(read_card(folder)["config"])), str(run / CONFIG_FILE))
    latest = tf.train.latest_checkpoint(str(group_folder(run, group) / "checkpoint"))
    if latest is None:
        raise BadInput(f"{group_folder(run, group)} has no checkpoint to start from; was it removed?")
    model = build_model(spec, config)
    optimizer = build_optimizer(model, config, tf.Variable(tf.zeros([])))
    tf.train.Checkpoint(model=model, optimizer=optimizer).restore(latest).expect_partial()
    return model, optimizer, spec


def _mapped(before: Weights, fresh: Weights, old: FeatureSpec, new: FeatureSpec, where: str) -> dict[str, Any]:
    """Weights by name in the new id space; `fresh` are those that a new value begins with.

    A dense value of another mean or spread is the old one times a ratio plus a shift, which goes into the weights, so
    that what comes out is the same. The flag of a missing value, which is 0 on either scale, takes the shift back.
    """
    rows, dense = map_rows(old, new), map_dense(old, new)
    deep_rows = map_rows(old, new, crosses=False)
    _check_shapes(before, fresh, where)
    taken: dict[str, Any] = {name: before.get(name, values) for name, values in fresh.items()}
    taken["wide"] = _moved(before["wide"], fresh["wide"], rows.source)
    taken["table"] = _moved(before["table"], fresh["table"], deep_rows.source)
    taken["wide_dense"], shift = _dense_moved(before["wide_dense"], fresh["wide_dense"], dense)
    taken["logit.bias"] = before["logit.bias"] + shift
    first = "hidden_0" if "hidden_0.kernel" in fresh else "logit"
    if any(name.startswith("cross_") for name in fresh):
        if not dense.is_identity or not _same_layout(old, new):
            raise BadInput(
                f"{where} has cross layers and its dense values other scales or other fields than the new data, which "
                "cross layers cannot be adapted to; encode the new log with `ctr prepare --spec` of the old data"
            )
        return taken
    taken[f"{first}.kernel"], shift = _first_layer_moved(
        before[f"{first}.kernel"], fresh[f"{first}.kernel"], old, new, dense
    )
    taken[f"{first}.bias"] = taken[f"{first}.bias"] + shift
    return taken


def _moved(before: NDArray[Any], fresh: NDArray[Any], source: NDArray[np.int64]) -> NDArray[Any]:
    return np.where((source == FRESH)[:, None], fresh, before[np.maximum(source, 0)])


def _dense_moved(before: NDArray[Any], fresh: NDArray[Any], dense: DenseMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights of values and flags `[2 * numbers, units]`, and what is added to the bias `[units]`."""
    count, moved = len(dense.source), fresh.copy()
    shift = np.zeros(fresh.shape[1], fresh.dtype)
    for i in np.flatnonzero(dense.source != FRESH):
        value, flag = before[dense.source[i]], before[len(before) // 2 + dense.source[i]]
        moved[i] = value * dense.ratio[i]
        moved[count + i] = flag - value * dense.shift[i]
        shift += value * dense.shift[i]
    return moved, shift


def _first_layer_moved(
    before: NDArray[Any], fresh: NDArray[Any], old: FeatureSpec, new: FeatureSpec, dense: DenseMap
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kernel `[inputs, units]` whose inputs are the fields' embeddings and then the dense values."""
    fields, old_fields = _deep_fields(new), _deep_fields(old)
    dim = (len(fresh) - 2 * len(new.dense_fields)) // len(fields)
    moved = fresh.copy()
    for i, name in enumerate(fields):
        if name in old_fields:
            at = old_fields.index(name)
            moved[i * dim : (i + 1) * dim] = before[at * dim : (at + 1) * dim]
    numbers, old_numbers = len(fields) * dim, len(old_fields) * dim
    moved[numbers:], shift = _dense_moved(before[old_numbers:], fresh[numbers:], dense)
    return moved, shift


def _mapped_slot(
    name: str, slot: str, before: NDArray[Any], fresh: NDArray[Any], rows: RowMap, dense: DenseMap, model: WideAndDeep
) -> NDArray[Any]:
    """An optimizer's slot of a weight: a row's own where the value is the same one, otherwise as at first."""
    if name in ("wide", "table"):
        learned = (rows.learned & (rows.source != FRESH))[: len(fresh)]
        return np.where(learned[:, None], before[np.maximum(rows.source[: len(fresh)], 0)], fresh)
    if before.shape != fresh.shape:
        return fresh  # fields came or went: their first layer begins to learn anew
    moved = before.copy()
    if name == "wide_dense" or (name == "hidden_0.kernel" and not model.crossed):
        # A gradient is as many times larger as the value that it is a multiple of; sums of squares by its square.
        by = (1 / dense.ratio) ** (1 if slot in ("m", "linear") else 2)
        first = len(moved) - 2 * len(dense.ratio)
        moved[first : first + len(by)] *= by[:, None]
    return moved


def _make_consistent(weight: NDArray[Any], slots: Mapping[str, Any], config: Config) -> None:
    """FTRL works its weights out anew from `linear` (McMahan et al. 2013, algorithm 1), which has to mean the same."""
    how = config.optimizer
    quadratic = np.sqrt(slots["accumulator"].numpy()) / how.wide_learning_rate + 2 * how.wide_l2
    linear = -(weight * quadratic + np.sign(weight) * how.wide_l1)
    # A weight is 0 for as long as `linear` is within l1. The average of the weights may be 0 where the last one is not.
    kept = np.clip(slots["linear"].numpy(), -how.wide_l1, how.wide_l1)
    slots["linear"].assign(np.where(weight == 0, kept, linear))


def _check_shapes(before: Weights, fresh: Weights, where: str) -> None:
    by_id = {"wide", "table", "wide_dense"}
    first = "hidden_0.kernel" if "hidden_0.kernel" in fresh else "logit.kernel"
    for name in sorted({*before, *fresh}):
        shapes = [tuple(weights[name].shape) if name in weights else None for weights in (before, fresh)]
        start = 1 if name in by_id | {first} else 0  # the first axis goes by ids and fields
        if None in shapes or shapes[0][start:] != shapes[1][start:]:  # pyright: ignore[reportOptionalSubscript]
            raise BadInput(
                f"{where} has {name} of shape {shapes[0]}, the new model {shapes[1]}; use the same model.* settings"
            )


def _deep_fields(spec: FeatureSpec) -> list[str]:
    return spec.id_fields[: len(spec.id_fields) - spec.cross_count]


def _same_layout(old: FeatureSpec, new: FeatureSpec) -> bool:
    return _deep_fields(old) == _deep_fields(new) and old.dense_fields == new.dense_fields
