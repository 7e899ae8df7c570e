"""Random draws that depend on a key (a row's number, an id) and a seed alone, not on the order of reading."""

from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def mix(rows: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A 64-bit draw for every row number, the same everywhere (SplitMix64's finaliser, Steele et al. 2014)."""
    # The seed is mixed by itself first: added as it is, it would only shift the rows.
    start = _finalise(np.array([seed % 2**64], np.uint64))
    with np.errstate(over="ignore"):
        return _finalise(rows.astype(np.uint64) + start)


@lru_cache(maxsize=1000)
def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose: draws for two purposes, or of two seeds, have nothing to do with one another."""
    return int.from_bytes(blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest())


def uniform(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A draw from [0, 1) for every key, in steps of 2^-53, so that it never rounds up to 1."""
    return (mix(keys, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(keys: NDArray[np.uint64], seed: int) -> NDArray[np.float32]:
    """Four draws from the standard normal distribution for every key, `[4, keys]`."""
    # 16 bits of the hash each: 65,536 different values, none beyond 4.2, and no logarithm to pay for.
    return _normal_quantiles().take(mix(keys, seed).view(np.uint16).reshape(-1, 4).T)


@lru_cache(maxsize=1)
def _normal_quantiles() -> NDArray[np.float32]:
    quantile = NormalDist().inv_cdf
    return np.array([quantile((i + 0.5) / 2**16) for i in range(2**16)], np.float32)


def _finalise(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
