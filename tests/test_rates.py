"""Learning rates by step, worked out by hand, and plateaus."""

import math

import pytest

from ctr.rates import Plateau, rate_at


def rates(schedule: str, *steps: int, warm_up_steps: int = 0, final_rate: float = 0.1) -> list[float]:
    """The rates of some steps of ten, from 2."""
    given = {"rate": 2.0, "schedule": schedule, "warm_up_steps": warm_up_steps, "steps": 10, "final_rate": final_rate}
    return [rate_at(step, **given) for step in steps]  # pyright: ignore[reportArgumentType]


def test_linear_falls_evenly_to_its_share() -> None:
    assert rates("linear", 0, 5, 10, 99) == pytest.approx([2.0, 1.1, 0.2, 0.2])


def test_cosine_is_half_way_in_the_middle_and_flat_at_both_ends() -> None:
    assert rates("cosine", 0, 5, 10, 99) == pytest.approx([2.0, 1.1, 0.2, 0.2])
    quarter = 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi / 5))
    assert rates("cosine", 2) == pytest.approx([quarter])
    assert quarter > rates("linear", 2)[0]


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_constant_stays(schedule: str) -> None:
    assert rates(schedule, 0, 9, 50) == [2.0, 2.0, 2.0]


def test_warm_up_rises_evenly_and_the_schedule_begins_after_it() -> None:
    assert rates("constant", 0, 1, 3, 4, warm_up_steps=4) == pytest.approx([0.5, 1.0, 2.0, 2.0])
    assert rates("linear", 3, 4, 7, 10, warm_up_steps=4) == pytest.approx([2.0, 2.0, 1.1, 0.2])


def test_warm_up_longer_than_the_run_is_all_there_is() -> None:
    assert rates("linear", 0, 9, warm_up_steps=20) == pytest.approx([0.1, 1.0])


def test_rate_drops_after_patience_and_again_after_as_long() -> None:
    plateau = Plateau(2, 0.1)
    told = [plateau.note(loss) for loss in (0.5, 0.6, 0.4, 0.4, 0.41, 0.45, 0.4, 0.39)]
    assert told == [False, False, False, False, True, False, True, False]
    assert plateau.factor == pytest.approx(0.01)


def test_plateau_goes_on_where_it_was() -> None:
    losses = [0.5, 0.52, 0.51, 0.5, 0.49, 0.6, 0.7, 0.8]
    whole, half = Plateau(3, 0.5), Plateau(3, 0.5)
    expected = [whole.note(loss) for loss in losses]
    found = [half.note(loss) for loss in losses[:4]]
    resumed = Plateau(3, 0.5)
    resumed.restore(half.state())
    found += [resumed.note(loss) for loss in losses[4:]]
    assert found == expected
    assert (resumed.factor, resumed.least) == (whole.factor, whole.least)
    resumed.reset()
    assert resumed.state() == [1.0, math.inf, 0.0]
