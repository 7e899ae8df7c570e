"""What weights travel as: embeddings as 8-bit integers with a scale a row, the rest, or all of it, as floats."""

import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = ".scale"
_MOST = 127

Arrays = dict[str, NDArray[Any]]


class Undecodable(Exception):
    """Arrays are not what `encode` gives; the message says in what."""


def encode(weights: Mapping[str, NDArray[np.float32]], dtype: str, embeddings: Collection[str]) -> Arrays:
    """Weights as they travel: in `dtype`, where `int8` makes 8-bit integers of `embeddings`, float16 of the rest.

    A row of 8-bit integers is off by at most 1/254 of its greatest absolute value, 1/1000 of that more and 3e-8 for
    its float16 scale.
    """
    arrays: Arrays = {}
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by whoever reads it
        for name, values in weights.items():
            if dtype == "int8" and name in embeddings:
                arrays[name], arrays[name + SCALE] = _eight_bit(values)
            else:
                arrays[name] = values.astype("float16" if dtype == "int8" else dtype)
    return arrays


def decode(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The weights again, as float32. Raises Undecodable for kinds of numbers or shapes of scales that cannot be."""
    weights: dict[str, NDArray[np.float32]] = {}
    for name, values in arrays.items():
        scale = arrays.get(name + SCALE)
        if name.endswith(SCALE):
            continue
        if values.dtype.kind != ("f" if scale is None else "i"):
            raise Undecodable(f"its {name} holds {values.dtype}, as weights never do")
        if scale is not None and scale.shape != (*values.shape[:-1], 1):
            raise Undecodable(f"its {name + SCALE} has shape {scale.shape} for values of {values.shape}")
        weights[name] = values.astype(np.float32) if scale is None else values * scale.astype(np.float32)
    return weights


def encode_rows(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ascending row numbers as bytes: their distances, deflated, about one byte each instead of four."""
    return np.frombuffer(zlib.compress(np.diff(rows, prepend=0).astype("<u4").tobytes(), 1), np.uint8)


def decode_rows(content: NDArray[Any], most: int) -> NDArray[np.int64]:
    """The row numbers again. Raises Undecodable if they are more than `most` or no row numbers."""
    try:
        inflate = zlib.decompressobj()
        distances = inflate.decompress(content.tobytes(), 4 * most + 1)  # of 0 zlib would take any length
        if not inflate.eof or len(distances) > 4 * most:
            raise Undecodable(f"it has more row numbers than {most} or is cut short")
        return np.cumsum(np.frombuffer(distances, "<u4").astype(np.int64))
    except (zlib.error, ValueError) as error:
        raise Undecodable(f"its row numbers cannot be read: {error}") from None


def _eight_bit(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    greatest = np.abs(values).max(axis=-1, keepdims=True)
    scale = (greatest / _MOST).astype(np.float16)
    # Rounded up, so that the greatest value stays within range.
    scale = np.where(scale.astype(np.float32) * _MOST < greatest, np.nextafter(scale, np.float16(np.inf)), scale)
    divisor = np.where(scale > 0, scale, 1).astype(np.float32)
    steps = values / divisor
    return np.rint(steps, out=steps).astype(np.int8), scale
