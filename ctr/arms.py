"""The arms of a comparison: which runs each takes, with which settings, and how its predictions come of theirs."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctr.config import Config
from ctr.runs import member_model
from features.spec import FeatureSpec

SINGLES = "singles"
SINGLES_EMA = "singles_ema"

# The run that an arm's predictions come from; an ensemble and its first model are of the same.
RUN_OF = {
    "single": SINGLES,
    "ensemble": SINGLES,
    "single_wide": "single_wide",
    "single_ema": SINGLES_EMA,
    "ensemble_ema": SINGLES_EMA,
    "label_smoothing": "label_smoothing",
    "distilled": "distilled",
    "codistilled": "codistilled",
}


def runs_of(arms: Sequence[str]) -> list[str]:
    """The runs that these arms take, each once, those that others build upon first."""
    wanted = {RUN_OF[arm] for arm in arms if arm in RUN_OF}
    if "distilled" in wanted:
        wanted.add(SINGLES)
    return [run for run in dict.fromkeys(RUN_OF.values()) if run in wanted]


def settings_of(run: str, config: Config, *, seed: int, spec: FeatureSpec, singles: Path) -> Config:
    """The settings of a run of a comparison: those that all arms share, and what makes the arm.

    The average of past weights is served by the codistilled arm, as configured, and by the rivals that have it in
    their name; the others serve their last weights.

    Args:
        singles: the run folder of the singles of the same retraining, whose models teach the distilled one.
    """
    alone: dict[str, Any] = {"groups": 1}
    # Groups that do not listen to one another are independent models.
    independent = {"groups": config.compare.ensemble, "weight": 0.0}
    last = {"ema": 0.0}
    inputs = (len(spec.sizes) - spec.cross_count) * config.model.embedding_dim + 2 * len(spec.dense_fields)
    changes: dict[str, dict[str, dict[str, Any]]] = {
        SINGLES: {"codistillation": independent, "train": last},
        SINGLES_EMA: {"codistillation": independent if "ensemble_ema" in config.compare.arms else alone},
        "single_wide": {
            "codistillation": alone,
            "model": {"hidden": twice_the_compute(inputs, config.model.hidden)},
            "train": last,
        },
        "label_smoothing": {
            "codistillation": alone,
            "train": {"label_smoothing": config.compare.label_smoothing, **last},
        },
        "distilled": {
            "codistillation": {
                **alone,
                # Its teachers have learned: there is nothing to wait for.
                "burn_in_epochs": 0.0,
                "champion": tuple(str(member_model(singles, g)) for g in range(config.compare.ensemble)),
            },
            "train": last,
        },
        "codistilled": {"codistillation": {"groups": max(config.codistillation.groups, 2)}},
    }
    changed = changes[run]
    changed["train"] = {**changed.get("train", {}), "seed": seed}
    # model_copy does not validate, so only values of the right type go in here.
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in changed.items()}
    )


def twice_the_compute(inputs: int, hidden: Sequence[int]) -> tuple[int, ...]:
    """Units of the ReLU layers, all widened alike, with which a row takes twice the multiplications."""

    def products(times: float) -> float:
        widths = [inputs, *(units * times for units in hidden), 1]
        return sum(a * b for a, b in pairwise(widths))

    low, high = 1.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if products(middle) < 2 * products(1.0) else (low, middle)
    return tuple(round(units * high) for units in hidden)
