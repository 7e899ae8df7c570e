"""What the log says of a row: 13 counts and 26 categories in Criteo's shapes, each a reading of a trait or an id.

Several fields read the same trait, each with noise of its own, so they are redundant and yet each adds something.
Numbers of values, shares of the top value and of missing values are about those of Criteo's week.
"""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from features.draws import mix, normal, stream
from features.world import Drawn, Floats, Keys, blend, ladder, sigmoid


@dataclass(frozen=True)
class _Gap:
    """Fields that are missing together: where a trait, with noise, is among its lowest `share`."""

    kind: str
    trait: int
    share: float


@dataclass(frozen=True)
class _Count:
    """exp(level + spread * z) - 1, rounded down and at least `least`; z is a trait with noise."""

    kind: str
    trait: int
    level: float
    spread: float
    gap: str = ""
    least: int = 0


@dataclass(frozen=True)
class _Reading:
    """A category with `values` steps along a trait: the first has the share `top` of the rows, then Zipf's law."""

    kind: str
    trait: int
    values: int
    top: float
    gap: str = ""


@dataclass(frozen=True)
class _Id:
    """A category that is an id, or a family's: as it is, or (`values`) hashed to so many groups."""

    kind: str
    kin: bool = False
    values: int = 0
    gap: str = ""


_GAPS = {
    "history": _Gap("user", 0, 0.45),
    "profile": _Gap("user", 1, 0.20),
    "age": _Gap("user", 3, 0.20),
    "visit": _Gap("user", 2, 0.05),
    "session": _Gap("page", 1, 0.24),
    "offer": _Gap("ad", 2, 0.76),
    "tracking": _Gap("user", 2, 0.035),
    "slot": _Gap("page", 2, 0.44),
    "device": _Gap("user", 3, 0.12),
    "network": _Gap("page", 3, 0.80),
}

_COUNTS = (
    _Count("user", 0, 0.7, 1.15, "history"),  # I1
    _Count("user", 1, 2.2, 2.3, least=-2),  # I2
    _Count("ad", 0, 2.1, 1.5, "profile"),  # I3
    _Count("user", 2, 1.6, 1.1, "age"),  # I4
    _Count("user", 3, 7.8, 2.0, "visit"),  # I5
    _Count("user", 0, 3.7, 1.65, "session"),  # I6
    _Count("ad", 1, 1.4, 1.6, "visit"),  # I7
    _Count("user", 1, 2.2, 1.05),  # I8
    _Count("user", 2, 3.7, 1.55, "visit"),  # I9
    _Count("user", 3, 0.45, 0.5, "history"),  # I10
    _Count("page", 0, 1.1, 0.65, "visit"),  # I11
    _Count("ad", 2, 0.1, 1.0, "offer"),  # I12
    _Count("user", 2, 1.8, 1.2, "age"),  # I13
)

_CATEGORIES = (
    _Reading("page", 0, 1_400, 0.50),  # C1
    _Reading("ad", 0, 550, 0.13),  # C2
    _Id("user", gap="tracking"),  # C3
    _Id("ad", gap="tracking"),  # C4
    _Reading("user", 0, 300, 0.67),  # C5
    _Reading("user", 1, 20, 0.43, "device"),  # C6
    _Id("page", values=12_000),  # C7
    _Reading("ad", 1, 600, 0.59),  # C8
    _Reading("user", 2, 3, 0.89),  # C9
    _Reading("user", 3, 90_000, 0.27),  # C10
    _Id("ad", kin=True, values=5_000),  # C11
    _Id("user", values=2_000_000, gap="tracking"),  # C12
    _Id("ad", kin=True, values=3_000),  # C13
    _Reading("user", 0, 26, 0.35),  # C14
    _Id("ad", kin=True),  # C15
    _Id("user", kin=True, gap="tracking"),  # C16
    _Reading("user", 3, 10, 0.43),  # C17
    _Id("page", kin=True),  # C18
    _Reading("page", 1, 2_000, 0.33, "slot"),  # C19
    _Reading("page", 2, 4, 0.20, "slot"),  # C20
    _Id("user", kin=True, values=200_000, gap="tracking"),  # C21
    _Reading("ad", 3, 18, 0.10, "network"),  # C22
    _Reading("ad", 2, 15, 0.44),  # C23
    _Id("ad", values=280_000, gap="tracking"),  # C24
    _Reading("page", 3, 100, 0.17, "slot"),  # C25
    _Id("page", gap="slot"),  # C26
)

# The trait's share of a reading's variance; the rest is noise, of a category's bearer or of a count's moment.
_CATEGORY_CLEAR, _COUNT_CLEAR, _GAP_CLEAR = 0.7, 0.7, 0.6

_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGIT_SHIFTS = np.arange(28, -1, -4, dtype=np.uint32)


def read(drawn: dict[str, Drawn], rows: Keys, seed: int) -> dict[str, pl.Series]:
    """The fields I1 to I13 and C1 to C26 of the rows with these numbers, null where missing."""
    missing = {name: _missing(name, gap, drawn[gap.kind], rows, seed) for name, gap in _GAPS.items()}
    fields: dict[str, pl.Series] = {}
    for index, count in enumerate(_COUNTS, start=1):
        numbers = _number(f"I{index}", count, drawn[count.kind], rows, seed)
        fields[f"I{index}"] = _with_gap(pl.Series(numbers), missing.get(count.gap))
    for index, category in enumerate(_CATEGORIES, start=1):
        values = _value(f"C{index}", category, drawn[category.kind], seed)
        # What a value is called tells nothing of its place among the others, nor of another field's values.
        codes = mix(values, stream(seed, f"C{index} codes")).astype(np.uint32)
        fields[f"C{index}"] = _with_gap(_hex(codes), missing.get(category.gap))
    return fields


def _missing(name: str, gap: _Gap, one: Drawn, rows: Keys, seed: int) -> NDArray[np.bool_]:
    noise = normal(rows, stream(seed, f"{name} gap"))[0]
    return _share_below(blend(one.traits[gap.trait], noise, _GAP_CLEAR)) < gap.share


def _number(name: str, count: _Count, one: Drawn, rows: Keys, seed: int) -> NDArray[np.int64]:
    noise = normal(rows, stream(seed, f"{name} noise"))[0]
    z = blend(one.traits[count.trait], noise, _COUNT_CLEAR)
    return np.floor(np.exp(np.maximum(count.level + count.spread * z, 0))).astype(np.int64) - 1 + count.least


def _value(name: str, category: _Reading | _Id, one: Drawn, seed: int) -> Keys:
    """The values of a category, numbered from 0 (a reading) or any 64 bits (an id)."""
    if isinstance(category, _Id):
        ids = one.kin if category.kin else one.id
        return mix(ids, stream(seed, f"{name} groups")) % np.uint64(category.values) if category.values else ids
    noise = normal(one.id, stream(seed, f"{name} noise"))[0]
    place = _share_below(blend(one.traits[category.trait], noise, _CATEGORY_CLEAR))
    above = np.clip((place - category.top) / (1 - category.top), 0, 1)
    step = 1 + np.minimum(ladder(above, category.values - 1, 1), np.uint64(category.values - 2))
    return np.where(place < category.top, np.uint64(0), step)


def _share_below(z: Floats) -> Floats:
    """The share of a standard normal variable that is less than z, within .01."""
    return sigmoid(np.float32(1.702) * z)


def _with_gap(values: pl.Series, missing: NDArray[np.bool_] | None) -> pl.Series:
    if missing is None:
        return values
    return values.zip_with(pl.Series(~missing), pl.Series([None], dtype=values.dtype))


def _hex(codes: NDArray[np.uint32]) -> pl.Series:
    """Eight hexadecimal digits of every code, straight into the text's buffer, without Python strings."""
    digits = _HEX_DIGITS.take((codes[:, None] >> _DIGIT_SHIFTS) & np.uint32(15))
    ends = np.arange(0, digits.size + 1, 8, dtype=np.int32)
    return pl.Series(pa.StringArray.from_buffers(len(codes), pa.py_buffer(ends), pa.py_buffer(digits)))
