"""Weights and moments of a phase, worked out by hand; what a configuration plans."""

from pathlib import Path

import pytest

from ctr.assemble import plan
from ctr.config import load_config
from ctr.data import Part
from ctr.phases import Phase


def phase(**changes: float) -> Phase:
    """A phase of 20 steps with burn-in until step 10 and a ramp of 4, and the given changes."""
    settings = {
        "number": 1,
        "steps": 20,
        "start": 10,
        "ramp_steps": 4,
        "weight": 3.0,
        "final_weight": 3.0,
        "label_weight": 1.0,
        "exchange_every": 5,
        "everyone": False,
    }
    return Phase(**{**settings, **changes})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.0), (9, 0.0), (10, 0.75), (11, 1.5), (13, 3.0), (14, 3.0), (1000, 3.0)]
)
def test_weight_rises_evenly_after_burn_in(step: int, weight: float) -> None:
    assert phase().weight_at(step) == pytest.approx(weight)


def test_weight_without_ramp_is_whole_at_once() -> None:
    assert [phase(start=5, ramp_steps=0, weight=2.0, final_weight=2.0).weight_at(step) for step in (4, 5, 6)] == [
        0,
        2,
        2,
    ]


def test_weight_moves_evenly_to_its_final_value_at_the_last_step() -> None:
    # From 3 at step 14, where the ramp has ended, to 1 at step 19: .4 a step.
    found = [phase(final_weight=1.0).weight_at(step) for step in (13, 14, 15, 18, 19)]
    assert found == pytest.approx([3.0, 3.0, 2.6, 1.4, 1.0])


def test_boundaries_start_where_burn_in_ends_and_stop_with_the_phase() -> None:
    assert [step for step in range(30) if phase(start=7, exchange_every=5).is_boundary(step)] == [7, 12, 17]
    assert [step for step in range(30) if phase(start=0, exchange_every=0).is_boundary(step)] == [0]
    assert [step for step in range(30) if phase(start=20).is_boundary(step)] == []


def planned(*settings: str, groups: int = 2, taught: bool = True) -> list[Phase]:
    """What is planned for 1,000 training rows in batches of 10."""
    part = Part("train", ((Path("shard"), 600), (Path("other"), 400)), 0.3)
    return plan(part, load_config(None, ["train.batch_size=10", *settings]), groups, taught=taught)


def test_default_plan_is_one_phase_with_burn_in() -> None:
    (only,) = planned()
    assert (only.steps, only.start, only.ramp_steps, only.weight, only.label_weight) == (300, 75, 50, 3.0, 1.0)
    assert (only.final_weight, only.exchange_every, only.everyone) == (3.0, 100, False)


def test_second_phase_has_its_own_weights_and_one_exchange_when_frozen() -> None:
    first, second = planned("train.epochs=1", "codistillation.second_phase.epochs=0.5")
    assert (first.steps, second.steps) == (100, 50)
    assert (second.number, second.start, second.label_weight, second.weight) == (2, 0, 0.05, 1.0)
    assert second.everyone
    assert [step for step in range(50) if second.is_boundary(step)] == [0]
    refreshed = planned(
        "codistillation.second_phase.epochs=0.5",
        "codistillation.second_phase.snapshots=refreshed",
        "codistillation.exchange_every=20",
    )[1]
    assert [step for step in range(50) if refreshed.is_boundary(step)] == [0, 20, 40]


def test_groups_that_learn_from_nobody_have_one_phase_on_labels() -> None:
    (only,) = planned("codistillation.second_phase.epochs=1", taught=False)
    assert only.weight == 0


def test_divided_rows_shorten_an_epoch_alike_for_all_groups() -> None:
    assert planned("codistillation.overlap=0", groups=4)[0].steps == 75
    assert planned("codistillation.overlap=0.5", groups=2)[0].steps == 225
