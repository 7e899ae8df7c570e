"""FTRL for the wide part, AdaGrad for the rest, as in the wide & deep paper; every variable exactly once."""

from typing import Any

import tf_keras
from tensorflow_recommenders.experimental.optimizers.composite_optimizer import CompositeOptimizer

from ctr.model import WideAndDeep
from features.errors import WorkFailed

# Only the legacy optimizers have sparse kernels: the new ones touch the whole table at every step.
_legacy = tf_keras.optimizers.legacy


def make_optimizer(
    model: WideAndDeep,
    *,
    learning_rate: float,
    initial_accumulator_value: float,
    wide_learning_rate: float,
    wide_l1: float,
    wide_l2: float,
    steps: int,
    final_rate: float,
) -> Any:
    """The optimizer of a model; AdaGrad's rate falls evenly over `steps` to the share `final_rate` of its start."""
    check_each_once(model)
    adagrad = _legacy.Adagrad(
        linear_decay(learning_rate, steps, final_rate), initial_accumulator_value=initial_accumulator_value
    )
    # FTRL's rate must stay as it is: FTRL works out its weights anew from its sums at the rate of the moment, so a
    # falling rate shrinks what was learned (on 8,000 real rows the log loss rose from .484 to .510 as it fell).
    # Its own default accumulator, .1, is kept: the wide weights start at 0 and need no bold first step.
    ftrl = _legacy.Ftrl(
        wide_learning_rate,
        l1_regularization_strength=wide_l1,
        l2_regularization_strength=wide_l2,
    )
    return CompositeOptimizer([(ftrl, lambda: model.wide_variables), (adagrad, lambda: model.deep_variables)])


def check_each_once(model: WideAndDeep) -> None:
    """Raises WorkFailed if a trainable variable has no optimizer (it would not be trained) or two."""
    handled = [variable.ref() for variable in [*model.wide_variables, *model.deep_variables]]
    for variable in model.trainable_variables:
        times = handled.count(variable.ref())
        if times != 1:
            raise WorkFailed(f"variable {variable.name} {variable.shape} is handled by {times} optimizers instead of 1")


def linear_decay(rate: float, steps: int, final_rate: float) -> Any:
    """From `rate` at step 0 to `rate * final_rate` at step `steps`, and that from then on."""
    return tf_keras.optimizers.schedules.PolynomialDecay(rate, max(steps, 1), rate * final_rate)
