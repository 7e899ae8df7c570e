"""Intervals over rows and over retrainings: by hand, and by how often they cover the true mean; the sentence."""

import math

import numpy as np
import pytest

from ctr.intervals import paired_interval, retraining_interval, sentence
from ctr.metrics import weighed_log_loss

# Of 400 intervals that cover in 95 of 100 cases, 380 do, give or take three standard deviations of 4.4.
LEAST, MOST = 367, 393


def test_rows_interval_covers_the_mean_of_normal_differences() -> None:
    """About 380 of 400 times."""
    random = np.random.default_rng(11)
    covered = 0
    for case in range(400):
        _, low, high = paired_interval(random.normal(0.2, 1.5, 500), seed=case, resamples=500)
        covered += low <= 0.2 <= high
    assert LEAST <= covered <= MOST


@pytest.mark.parametrize("retrainings", [2, 3, 5])
def test_retraining_interval_covers_the_mean_of_normal_differences(retrainings: int) -> None:
    """About 380 of 400 times, with as few as these; 1.96 standard errors would do so too seldom."""
    random = np.random.default_rng(12)
    covered = narrow = 0
    for differences in random.normal(0.0003, 0.0002, (400, retrainings)):
        found = retraining_interval(differences)
        assert found is not None
        mean, low, high = found
        covered += low <= 0.0003 <= high
        narrow += abs(mean - 0.0003) <= 1.96 * differences.std(ddof=1) / math.sqrt(retrainings)
    assert LEAST <= covered <= MOST
    assert narrow < LEAST


def test_retraining_interval_by_hand() -> None:
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), and t at 97.5 % with 2 degrees of freedom is 4.30265."""
    found = retraining_interval(np.array([1.0, 3.0, 2.0]))
    half = 4.302652729749 / math.sqrt(3)
    assert found == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-10)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_retrainings_have_no_interval(count: int) -> None:
    """There is nothing to tell their spread from."""
    assert retraining_interval(np.full(count, 0.1)) is None


def test_intervals_of_an_arm_with_itself_are_zero_to_zero() -> None:
    """Over rows and over retrainings, with weights."""
    random = np.random.default_rng(13)
    labels, weights = random.integers(0, 2, 700).astype(np.float64), random.gamma(1, 1, 700)
    arm = random.random((3, 700))
    first, second = (np.array([weighed_log_loss(labels, each, weights) for each in arm]) for _ in range(2))
    assert first.std() > 0.1
    assert paired_interval((first - second).mean(axis=0), seed=1) == (0.0, 0.0, 0.0)
    assert retraining_interval((first - second).mean(axis=1)) == (0.0, 0.0, 0.0)


def test_sentence_gives_both_intervals() -> None:
    """Neither includes 0."""
    found = sentence("codistilled", "single", (0.00032, 0.00018, 0.00046), (0.00032, 0.00011, 0.00053), 5)
    assert found == (
        "codistilled is better than single by 0.00032 nats "
        "(95 % over rows: 0.00018 to 0.00046; over 5 retrainings: 0.00011 to 0.00053)"
    )


@pytest.mark.parametrize(
    ("over_rows", "over_retrainings"),
    [
        ((0.0003, -0.0001, 0.0007), (0.0003, 0.0002, 0.0004)),
        ((0.0003, 0.0001, 0.0005), (0.0003, -0.0002, 0.0008)),
        ((0.0003, 0.0, 0.0006), (0.0003, 0.0002, 0.0004)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_sentence_says_so_when_either_interval_includes_zero(
    over_rows: tuple[float, float, float], over_retrainings: tuple[float, float, float]
) -> None:
    """Whichever it is."""
    found = sentence("a", "b", over_rows, over_retrainings, 3)
    assert found.endswith("); this may be chance")
    assert f"over 3 retrainings: {over_retrainings[1]:.5f} to {over_retrainings[2]:.5f})" in found


def test_sentence_of_one_retraining_says_that_it_is_one() -> None:
    """With an interval over rows that includes 0 and one that does not."""
    assert sentence("a", "b", (0.5, 0.25, 0.75), None, 1) == (
        "a is better than b by 0.50000 nats (95 % over rows: 0.25000 to 0.75000; 1 retraining)"
    )
    assert sentence("a", "b", (0.5, -0.25, 1.25), None, 1) == (
        "a is better than b by 0.50000 nats (95 % over rows: -0.25000 to 1.25000; 1 retraining); this may be chance"
    )
