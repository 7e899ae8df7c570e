"""Times of log rows: text of fixed width, or seconds since 1970, to seconds, hour of the day and day of the week.

The calendar is arithmetic on whole numbers, so NumPy and TensorFlow share it and agree exactly.
"""

import re
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

UNIX, UNIX_MS = "unix", "unix_ms"

# The years 1 to 9999. What lies beyond is in another unit, such as milliseconds taken for seconds.
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799

HOUR, DAY = 3600, 86400

# Digits that each directive takes, as strptime knows them.
_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}

# Buckets of the fields that a time gives. The week begins with Monday, as in Python.
DERIVED = {"hour_of_day": 24, "day_of_week": 7}


def problem_of(format_: str) -> str | None:
    """What is wrong with a time format, or None."""
    if format_ in {UNIX, UNIX_MS}:
        return None
    found = re.findall(r"%(.?)", format_)
    unknown = [letter for letter in found if letter not in _DIGITS]
    if unknown:
        return f"time format '{format_}' has %{unknown[0]}; known: unix, unix_ms, and %{' %'.join(_DIGITS)}"
    if sorted(set(found)) != sorted(found) or not {"m", "d"} <= set(found) or len({"Y", "y"} & set(found)) != 1:
        return f"time format '{format_}' needs %m, %d and one of %Y and %y, each once"
    return None


def pieces(format_: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """A pattern that texts of this format match as a whole, and where each directive's digits stand: start, length."""
    pattern, at = "", 0
    places: dict[str, tuple[int, int]] = {}
    for directive, literal in re.findall(r"%(.)|([^%])", format_):
        if literal:
            pattern, at = pattern + re.escape(literal), at + len(literal.encode())
        else:
            digits = _DIGITS[directive]
            places[directive] = (at, digits)
            pattern, at = f"{pattern}[0-9]{{{digits}}}", at + digits
    return pattern, places


def seconds_of(parts: dict[str, Any]) -> tuple[Any, Any]:
    """Seconds since 1970-01-01 of numbers by directive, and whether there is such a moment.

    Takes integer arrays of NumPy or TensorFlow; `%y` is 1969 to 2068, as POSIX has it.
    """
    # Adding something to 0 * month gives arrays of its shape, whichever library's they are.
    nothing = parts["m"] * 0
    year = parts["Y"] if "Y" in parts else (parts["y"] + 31) % 100 + 1969
    month, day = parts["m"], parts["d"]
    hour, minute, second = (parts.get(name, nothing) for name in "HMS")
    real = (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    days = _days(year, month, day)
    real = real & (days < _days(year + month // 12, month % 12 + 1, nothing + 1))
    return days * DAY + hour * HOUR + minute * 60 + second, real


def derive(name: str, seconds: Any) -> Any:
    """The bucket of a derived field: integer arrays of NumPy or TensorFlow."""
    if name == "hour_of_day":
        return seconds // HOUR % 24
    return (seconds // DAY + 3) % 7  # 1970-01-01 was a Thursday


def parse_times(texts: pl.Series, format_: str) -> pl.Series:
    """Seconds since 1970-01-01 as Int64, null where a text is no time of this format."""
    if format_ in {UNIX, UNIX_MS}:
        # No more digits than a 64-bit integer surely holds, so that TensorFlow reads the same texts.
        whole = texts.set(~texts.str.contains(r"^[+-]?[0-9]{1,18}$"), None).cast(pl.Int64)
        seconds = whole // 1000 if format_ == UNIX_MS else whole
        return seconds.set(~seconds.is_between(FIRST_SECOND, LAST_SECOND), None)
    pattern, places = pieces(format_)
    fits = texts.str.contains(f"^(?:{pattern})$").fill_null(False)
    found = texts.to_frame("text").filter(fits)
    # Bytes and characters are the same where the pattern has matched, unless the format itself has others.
    encoded = pl.col("text").cast(pl.Binary).bin
    digits = found.select(
        encoded.slice(start, length).cast(pl.String).cast(pl.Int64).alias(name)
        for name, (start, length) in places.items()
    )
    seconds, real = seconds_of({name: digits[name].to_numpy() for name in places})
    out: NDArray[np.int64] = np.zeros(len(texts), np.int64)
    good: NDArray[np.bool_] = np.zeros(len(texts), bool)
    at = fits.arg_true().to_numpy()
    out[at], good[at] = seconds, real
    return pl.Series(texts.name, out).set(pl.Series(~good), None)


def _days(year: Any, month: Any, day: Any) -> Any:
    """Days since 1970-01-01 in the Gregorian calendar, counted in years that begin with March."""
    from_march = (month + 9) % 12
    year = year - from_march // 10
    in_year = (153 * from_march + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + in_year - 719468
