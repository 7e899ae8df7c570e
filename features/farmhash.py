"""FarmHash64 of strings, equal to TensorFlow's and BigQuery's for every length.

`polars_hash` 0.9.3 is wrong for strings of 128, 192, 256, ... bytes: where FarmHash (farmhashna::Hash64) treats the
last whole block of 64 bytes as the tail, it takes it for one more block of the middle and then reads it again. SHA-512
in hexadecimal has 128 bytes, so ids in real logs do. Those lengths are worked out here, the rest is left to it.
"""

from functools import partial
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars_hash import NonCryptographicHashingNameSpace

U64: TypeAlias = NDArray[np.uint64]

_K0, _K1, _K2 = (np.uint64(k) for k in (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F))


def farmhash64(texts: pl.DataFrame, *, longest: int) -> pl.DataFrame:
    """FarmHash64 of every value of columns of strings of at most `longest` bytes, as UInt64; null stays null."""
    codes = texts.select(NonCryptographicHashingNameSpace(pl.col(name)).farmhash64() for name in texts.columns)
    if longest >= 128:
        for name in texts.columns:
            if texts.select(_whole_blocks(pl.col(name)).any()).item():
                codes = codes.with_columns(_mended(texts[name], codes[name]))
    return codes


def _whole_blocks(text: pl.Expr) -> pl.Expr:
    """Where a string is two or more whole blocks of 64 bytes."""
    return (text.str.len_bytes() > 64) & (text.str.len_bytes() % 64 == 0)


def _mended(texts: pl.Series, codes: pl.Series) -> pl.Series:
    name = texts.name
    rows = pl.DataFrame({"text": texts}).with_row_index("at").filter(_whole_blocks(pl.col("text")))
    for (length,), group in rows.group_by(pl.col("text").str.len_bytes(), maintain_order=True):
        assert isinstance(length, int)
        content = b"".join(text.encode() for text in group["text"])
        words = np.frombuffer(content, "<u8").reshape(group.height, length // 8).astype(np.uint64)
        codes = codes.scatter(group["at"], pl.Series(_hash_blocks(words)))
    return codes.alias(name)


def _hash_blocks(words: U64) -> U64:
    """farmhashna::Hash64 of strings of two or more whole blocks, given as little-endian words `[strings, words]`."""
    with np.errstate(over="ignore"):
        blocks = words.reshape(len(words), -1, 8)
        y = np.full(len(words), _K1 * np.uint64(81) + np.uint64(113), np.uint64)
        z = _shift_mix(y * _K2 + np.uint64(113)) * _K2
        x = _K2 * np.uint64(81) + blocks[:, 0, 0]
        v = w = (np.zeros_like(y), np.zeros_like(y))
        for block in range(blocks.shape[1] - 1):
            s = partial(_word, blocks, block)
            x = _rotate(x + y + v[0] + s(1), 37) * _K1
            y = _rotate(y + v[1] + s(6), 42) * _K1
            x ^= w[1]
            y = y + v[0] + s(5)
            z = _rotate(z + w[0], 33) * _K1
            v = _weak(blocks[:, block, :4], v[1] * _K1, x + w[0])
            w = _weak(blocks[:, block, 4:], z + w[1], y + s(2))
            z, x = x, z
        # The last block, with a multiplier that depends on what came before it.
        multiplier = _K1 + ((z & np.uint64(0xFF)) << np.uint64(1))
        nine, s = np.uint64(9), partial(_word, blocks, blocks.shape[1] - 1)
        w = (w[0] + np.uint64(63), w[1])
        v = (v[0] + w[0], v[1])
        w = (w[0] + v[0], w[1])
        x = _rotate(x + y + v[0] + s(1), 37) * multiplier
        y = _rotate(y + v[1] + s(6), 42) * multiplier
        x ^= w[1] * nine
        y = y + v[0] * nine + s(5)
        z = _rotate(z + w[0], 33) * multiplier
        v = _weak(blocks[:, -1, :4], v[1] * multiplier, x + w[0])
        w = _weak(blocks[:, -1, 4:], z + w[1], y + s(2))
        z, x = x, z
        first = _join(v[0], w[0], multiplier) + _shift_mix(y) * _K0 + z
        return _join(first, _join(v[1], w[1], multiplier) + x, multiplier)


def _word(blocks: U64, block: int, index: int) -> U64:
    return blocks[:, block, index]


def _rotate(values: U64, bits: int) -> U64:
    return (values >> np.uint64(bits)) | (values << np.uint64(64 - bits))


def _shift_mix(values: U64) -> U64:
    return values ^ (values >> np.uint64(47))


def _join(u: U64, v: U64, multiplier: U64) -> U64:
    """HashLen16 of FarmHash."""
    a = _shift_mix((u ^ v) * multiplier)
    return _shift_mix((v ^ a) * multiplier) * multiplier


def _weak(words: U64, a: U64, b: U64) -> tuple[U64, U64]:
    """WeakHashLen32WithSeeds of FarmHash, of four words `[strings, 4]`."""
    a = a + words[:, 0]
    b = _rotate(b + a + words[:, 3], 21)
    c = a
    a = a + words[:, 1] + words[:, 2]
    b = b + _rotate(a, 44)
    return a + words[:, 3], b + c
