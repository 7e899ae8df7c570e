"""Random draws that depend on a row's number and a seed alone, not on the order in which rows are read."""

import numpy as np
from numpy.typing import NDArray


def mix(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit draw for every row number, the same everywhere (SplitMix64's finaliser, Steele et al. 2014)."""
    # The seed is mixed by itself first: added as it is, it would only shift the rows.
    start = _finalise(np.array([seed % 2**64], np.uint64))
    with np.errstate(over="ignore"):
        return _finalise(rows.astype(np.uint64) + start)


def _finalise(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
