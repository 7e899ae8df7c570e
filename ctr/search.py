"""Each arm's own best settings: a small search by log loss on the validation part, with Optuna (Akiba et al. 2019)."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from ctr.config import Config
from features.errors import WorkFailed

# So many trials are drawn before any of them is known: two can run side by side, and on any number of cores the same
# ones are drawn.
AT_ONCE = 2
# Of its default range Optuna draws ten at random first, which is more than a small search has.
_AT_RANDOM = 4

Settings = dict[str, Any]

optuna.logging.set_verbosity(logging.WARNING)
# It warns that two of the sampler's arguments may change; its version is pinned.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Found:
    """The best of a search: its settings by key, its log loss (nats) on the validation part, how many were tried."""

    settings: Settings
    log_loss: float
    trials: int


def search(
    name: str,
    config: Config,
    *,
    trials: int,
    seed: int,
    storage: Path,
    measure: Callable[[Mapping[int, Settings]], Sequence[float | None]],
) -> Found:
    """The best of `trials` settings; the first are those of `config`, and a search that was stopped goes on.

    Args:
        storage: the SQLite file in which trials are kept.
        measure: the log loss of each of these trials' settings, None where training failed.

    Raises WorkFailed if all of them failed.
    """
    study = optuna.create_study(storage=f"sqlite:///{storage}", study_name=name, load_if_exists=True)
    while True:
        known = study.trials
        told = sum(each.state.is_finished() for each in known)
        first = told - told % AT_ONCE
        wanted = range(first, min(first + AT_ONCE, trials))
        if told >= trials:
            break
        for number in range(len(known), wanted.stop):
            # A sampler of its own for each, as a resumed search must draw what it would have drawn.
            study.sampler = optuna.samplers.TPESampler(
                seed=seed + number, n_startup_trials=_AT_RANDOM, multivariate=True, constant_liar=True
            )
            if number == 0:
                study.enqueue_trial(_own(config))
            _suggest(study.ask(), config)
        open_ = {n: study.trials[n].params for n in wanted if not study.trials[n].state.is_finished()}
        for number, loss in zip(open_, measure(open_), strict=True):
            if loss is None:
                study.tell(number, state=TrialState.FAIL)
            else:
                study.tell(number, loss)
    if not any(each.state == TrialState.COMPLETE for each in study.trials):
        raise WorkFailed(f"all {trials} trials of {name} failed; their runs are beside {storage}")
    return Found(dict(study.best_params), study.best_value, trials)


def _own(config: Config) -> Settings:
    return {
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.embedding_l2": config.optimizer.embedding_l2,
        "model.dropout": config.model.dropout,
        "train.epochs": config.train.epochs,
    }


def _suggest(trial: optuna.Trial, config: Config) -> None:
    """The space: a learning rate within 4 times the configured one, and regularisation.

    How many epochs the rate takes to fall is among it: early stopping ends what is too long, but at a rate that is
    still high.
    """
    own = _own(config)
    rate = own["optimizer.learning_rate"]
    trial.suggest_float("optimizer.learning_rate", rate / 4, rate * 4, log=True)
    for key, values in (
        ("optimizer.embedding_l2", (0.0, 1e-5, 1e-4)),
        ("model.dropout", (0.0, 0.1, 0.2)),
        ("train.epochs", tuple(own["train.epochs"] * times for times in (0.5, 1.0, 1.5))),
    ):
        trial.suggest_categorical(key, sorted({*values, own[key]}))
