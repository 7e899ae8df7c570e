"""FTRL for the wide part, as in the wide & deep paper, AdaGrad for embeddings, a choice for dense layers."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_recommenders.experimental.optimizers.clippy_adagrad import ClippyAdagrad
from tensorflow_recommenders.experimental.optimizers.composite_optimizer import CompositeOptimizer

from ctr.model import WideAndDeep
from features.errors import WorkFailed

# Only the legacy optimizers have sparse kernels: the new ones touch the whole table at every step.
_legacy: Any = tf_keras.optimizers.legacy


def make_optimizer(
    model: WideAndDeep,
    *,
    rate: Any,
    dense: str,
    dense_ratio: float,
    initial_accumulator_value: float,
    wide_learning_rate: float,
    wide_l1: float,
    wide_l2: float,
) -> Any:
    """The optimizer of a model, every variable exactly once, with all of its slots.

    A table's gradient must come for distinct rows, as it does where the model is given them: it is not searched for
    equal ones but where several workers' are put together.

    Args:
        rate: the variable that holds the embeddings' learning rate, and `dense_ratio` times the dense layers'.
        dense: `adagrad`, `clippy_adagrad` (Bai et al. 2023, arXiv 2302.09178) or `adam`.
    """
    adagrad = _RowAdagrad(lambda: rate, initial_accumulator_value=initial_accumulator_value)
    # FTRL's rate must stay as it is: FTRL works out its weights anew from its sums at the rate of the moment, so a
    # falling rate shrinks what was learned (on 8,000 real rows the log loss rose from .484 to .510 as it fell).
    # Its own default accumulator, .1, is kept: the wide weights start at 0 and need no bold first step.
    ftrl = _RowFtrl(
        wide_learning_rate,
        l1_regularization_strength=wide_l1,
        l2_regularization_strength=wide_l2,
    )
    parts: list[tuple[Any, list[Any]]] = [(ftrl, model.wide_variables)]
    if dense == "adagrad" and dense_ratio == 1:
        parts.append((adagrad, [model.table, *model.dense_variables]))
    else:
        of_layers = _of_layers(dense, _Scaled(rate, dense_ratio), initial_accumulator_value)
        parts += [(adagrad, [model.table]), (of_layers, model.dense_variables)]
    check_each_once(model, [variable for _, variables in parts for variable in variables])
    for optimizer, variables in parts:
        if isinstance(optimizer, _legacy.Optimizer):
            optimizer._create_all_weights(variables)
        else:
            optimizer.build(variables)
    return CompositeOptimizer([(optimizer, lambda variables=variables: variables) for optimizer, variables in parts])


def slots_of(optimizer: Any, named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The slot variables of each of the weights in `named`, by the weight's name and then the slot's."""
    found: dict[str, dict[str, Any]] = {name: {} for name in named}
    names = {variable.ref(): name for name, variable in named.items()}
    for each, variables in optimizer._optimizers_and_vars:
        for place, variable in enumerate(variables()):
            if isinstance(each, _legacy.Optimizer):
                slots = {slot: each.get_slot(variable, slot) for slot in each.get_slot_names()}
            else:
                slots = {"accumulator": each._accumulators[place]}
            found[names[variable.ref()]] = slots
    return found


def check_each_once(model: WideAndDeep, handled: list[Any]) -> None:
    """Raises WorkFailed if a trainable variable has no optimizer (it would not be trained) or two."""
    refs = [variable.ref() for variable in handled]
    for variable in model.trainable_variables:
        times = refs.count(variable.ref())
        if times != 1:
            raise WorkFailed(f"variable {variable.name} {variable.shape} is handled by {times} optimizers instead of 1")


def _apply_distinct(self: Any, grad: Any, var: Any, indices: Any, **known: Any) -> Any:
    """In place of a search for equal indices, which takes 4 ms for 106,000 and which one worker's do not need."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return _legacy.Optimizer._resource_apply_sparse_duplicate_indices(self, grad, var, indices, **known)
    return self._resource_apply_sparse(grad, var, indices, **known)


class _RowFtrl(_legacy.Ftrl):
    """FTRL that is told distinct rows."""

    _resource_apply_sparse_duplicate_indices = _apply_distinct


class _RowAdagrad(_legacy.Adagrad):
    """AdaGrad whose update of a table's rows is a gather, a sum and a scatter of whole blocks.

    Keras's kernel goes row by row: of 85,000 rows of 16 it took 39 ms on one core, this 14 ms.
    """

    _resource_apply_sparse_duplicate_indices = _apply_distinct

    def _resource_apply_sparse(self, grad: Any, var: Any, indices: Any, apply_state: Any = None) -> Any:
        key = var.device, var.dtype.base_dtype
        known = (apply_state or {}).get(key) or self._fallback_apply_state(*key)
        sums = self.get_slot(var, "accumulator")
        gather, scatter = tf.raw_ops.ResourceGather, tf.raw_ops.ResourceScatterUpdate
        summed = gather(resource=sums.handle, indices=indices, dtype=var.dtype) + tf.square(grad)
        rows = gather(resource=var.handle, indices=indices, dtype=var.dtype)
        rows -= known["lr_t"] * grad / (tf.sqrt(summed) + known["epsilon"])
        stored = scatter(resource=sums.handle, indices=indices, updates=summed)
        return tf.group(stored, scatter(resource=var.handle, indices=indices, updates=rows))


class _Scaled(tf_keras.optimizers.schedules.LearningRateSchedule):
    """The rate that the training loop sets, whatever the step."""

    def __init__(self, rate: Any, ratio: float):
        super().__init__()
        self.rate, self.ratio = rate, ratio

    def __call__(self, step: Any) -> Any:
        return self.rate * self.ratio

    def get_config(self) -> dict[str, Any]:
        return {"ratio": self.ratio}


def _of_layers(kind: str, rate: _Scaled, initial_accumulator_value: float) -> Any:
    if kind == "adagrad":
        return _legacy.Adagrad(rate, initial_accumulator_value=initial_accumulator_value)
    if kind == "adam":
        return _legacy.Adam(rate)
    # Its step is clipped to a tenth of the weight, so that a bold start does no harm.
    clippy: Any = ClippyAdagrad
    return clippy(rate, initial_accumulator_value=initial_accumulator_value)
