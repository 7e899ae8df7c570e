"""How sure a difference of two models is: 95 % intervals over rows and over retrainings, and the sentence on both."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Mean, low, high.
Interval = tuple[float, float, float]


def paired_interval(differences: Array, *, seed: int, resamples: int = 1000) -> Interval:
    """Mean of paired differences `[rows]` and its 95 % bootstrap interval (percentiles), as mean, low, high.

    Rows are first gathered into at most 1,000 blocks at random: resampling blocks gives the same interval and takes
    time that does not grow with the rows.
    """
    random = np.random.default_rng(seed)
    blocks = np.array_split(differences[random.permutation(len(differences))], min(1000, len(differences)))
    sums = np.array([float(block.sum()) for block in blocks])
    sizes = np.array([len(block) for block in blocks], dtype=np.float64)
    drawn = random.integers(0, len(blocks), (resamples, len(blocks)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def retraining_interval(differences: Array) -> Interval | None:
    """Mean of differences `[retrainings]` and its 95 % interval by Student's t; None with fewer than 2 retrainings.

    A difference is that of two arms' log loss on the same rows, nats, in one retraining. The interval over rows says
    what other rows would have given the same models; this one what other seeds would have given on the same rows.
    """
    count = len(differences)
    if count < 2:
        return None
    # Takes 0.2 s, which `ctr promote` can do without.
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    mean = float(differences.mean())
    half = float(stdtrit(count - 1, 0.975) * differences.std(ddof=1)) / count**0.5
    return mean, mean - half, mean + half


def sentence(
    better: str, worse: str, rows_interval: Interval, retrainings_interval: Interval | None, retrainings: int
) -> str:
    """By how much an arm is better than a worse one, nats, with both intervals.

    It may be chance when either interval is not wholly above 0. Without an interval over retrainings the sentence says
    how many there were.
    """
    mean, low, high = rows_interval
    sure = low > 0
    intervals = f"95 % over rows: {low:.5f} to {high:.5f}; "
    times = f"{retrainings} retraining{'s' if retrainings > 1 else ''}"
    if retrainings_interval is None:
        intervals += times
    else:
        _, low, high = retrainings_interval
        sure = sure and low > 0
        intervals += f"over {times}: {low:.5f} to {high:.5f}"
    chance = "" if sure else "; this may be chance"
    return f"{better} is better than {worse} by {mean:.5f} nats ({intervals}){chance}"
