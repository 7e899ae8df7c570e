"""Which runs the arms of a comparison take, and what those change."""

from pathlib import Path
from typing import Any

import pytest

from ctr.arms import RUN_OF, runs_of, settings_of, twice_the_compute
from ctr.config import Config, load_config

SPEC: Any = type("Spec", (), {"sizes": [10] * 5, "cross_count": 2, "dense_fields": ["I1", "I2"]})()


def settings(run: str, *changes: str) -> tuple[Config, Config]:
    """What all arms share, and a run's."""
    config = load_config(None, list(changes))
    return config, settings_of(run, config, seed=7, spec=SPEC, singles=Path("out/singles-0"))


def test_singles_are_trained_once_and_before_the_model_that_learns_from_them() -> None:
    assert runs_of(["ensemble", "single"]) == ["singles"]
    assert runs_of(["codistilled", "distilled", "logistic"]) == ["singles", "distilled", "codistilled"]
    assert runs_of(["logistic"]) == []
    assert runs_of(list(RUN_OF)) == list(dict.fromkeys(RUN_OF.values()))


@pytest.mark.parametrize("run", dict.fromkeys(RUN_OF.values()))
def test_every_run_takes_its_retrainings_seed_and_what_it_does_not_change_is_shared(run: str) -> None:
    shared, own = settings(run, "optimizer.learning_rate=0.01", "train.epochs=3", "train.early_stopping=5")
    assert own.train.seed == 7
    assert own.optimizer == shared.optimizer
    assert (own.train.epochs, own.train.early_stopping) == (3, 5)
    Config.model_validate(own.model_dump())


def test_what_makes_each_arm() -> None:
    shared, singles = settings("singles", "compare.ensemble=4")
    assert (singles.codistillation.groups, singles.codistillation.weight) == (4, 0)
    assert singles.model == shared.model
    assert settings("codistilled", "train.ema=0.9")[1].train.ema == 0.9
    averaged = settings("singles_ema", "train.ema=0.9")[1]
    assert (averaged.train.ema, averaged.codistillation.groups) == (0.9, 1)
    averaged = settings("singles_ema", "compare.arms=[single_ema,ensemble_ema]")[1].codistillation
    assert (averaged.groups, averaged.weight) == (2, 0)
    for run in ("singles", "single_wide", "label_smoothing", "distilled"):
        assert settings(run, "train.ema=0.9")[1].train.ema == 0
    assert settings("label_smoothing", "compare.label_smoothing=0.2")[1].train.label_smoothing == 0.2
    for run in ("single_wide", "singles_ema", "label_smoothing", "distilled"):
        assert settings(run)[1].codistillation.groups == 1
    distilled = settings("distilled", "codistillation.weight=2")[1].codistillation
    assert distilled.champion == ("out/singles-0/group-0/model", "out/singles-0/group-1/model")
    assert (distilled.weight, distilled.burn_in_epochs) == (2, 0)
    assert settings("codistilled", "codistillation.groups=3")[1].codistillation.groups == 3
    assert settings("codistilled", "codistillation.groups=1")[1].codistillation.groups == 2


def test_wide_model_takes_twice_the_multiplications_of_a_row() -> None:
    """3 fields of 16 numbers and 2 dense values with their flags: 52 inputs."""
    one, two = settings("single_wide")[1].model.hidden
    products = 52 * one + one * two + two
    assert products == pytest.approx(2 * (52 * 256 + 256 * 128 + 128), rel=0.01)
    assert one == pytest.approx(2 * two, abs=1)
    assert twice_the_compute(10, [8]) == (16,)
    assert twice_the_compute(10, []) == ()
