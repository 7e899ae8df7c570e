"""Random draws that depend on a row's number and a seed alone, not on the order in which rows are read."""

import numpy as np
from numpy.typing import NDArray


def mix(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit draw for every row number, the same everywhere (SplitMix64's finaliser, Steele et al. 2014)."""
    golden = 0x9E3779B97F4A7C15
    start = np.uint64((seed * golden + golden) % 2**64)
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(golden) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
