"""Times of log rows against Python's own calendar, read by Polars and by TensorFlow."""

import datetime
import string
from typing import Any

import numpy as np
import polars as pl
import pytest

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from features.graph import _seconds  # pyright: ignore[reportPrivateUsage] - the other half of what is tested here
from features.schema import Time
from features.times import derive, parse_times, problem_of, seconds_of

import tensorflow as tf  # isort: skip

EPOCH = datetime.datetime(1970, 1, 1)
FORMATS = {
    "%Y-%m-%d %H:%M:%S": 1,
    "%Y%m%d%H%M%S": 1,
    "%d.%m.%Y, %H:%M": 60,
    "[%d/%m/%Y:%H:%M:%S]": 1,
    "%y%m%d%H": 3600,
    "%Y-%m-%dT%H": 3600,
    "%m/%d/%y": 86400,
    "%Y年%m月%d日%H": 3600,
}


def seconds_since_1970(moment: datetime.datetime) -> int:
    """By Python."""
    return round((moment - EPOCH).total_seconds())


def parsed(texts: list[str | None], format_: str) -> list[int | None]:
    """By Polars, and made sure that TensorFlow says the same."""
    found = parse_times(pl.Series("t", texts, dtype=pl.String), format_).to_list()
    given = tf.constant([(text or "").encode() for text in texts], tf.string)
    seconds, real = _seconds(given, Time(name="t", format=format_))
    served = zip(seconds.numpy().tolist(), real.numpy().tolist(), strict=True)
    assert [second if known else None for second, known in served] == found
    return found


def random_moments(count: int, first: int, last: int) -> list[datetime.datetime]:
    """Moments between two years, and all that are next to the end of a month or of February."""
    random = np.random.default_rng(first)
    low, high = (seconds_since_1970(datetime.datetime(year, 1, 1)) for year in (first, last))
    drawn = [EPOCH + datetime.timedelta(seconds=int(s)) for s in random.integers(low, high, count)]
    years = random.integers(first, last, 60).tolist()
    edges = [
        datetime.datetime(year, month, 1) + datetime.timedelta(seconds=step)
        for year in [*years, *(y for y in (1900, 2000, 2100, 2024) if first <= y < last)]
        for month in range(1, 13)
        for step in (-1, 0, 86399)
        if datetime.datetime(first, 1, 1) <= datetime.datetime(year, month, 1) + datetime.timedelta(seconds=step)
    ]
    return drawn + edges


@pytest.mark.parametrize("format_", FORMATS)
def test_moments_are_those_of_pythons_calendar(format_: str) -> None:
    """Thousands over many centuries, or over the hundred years that two digits tell; as exact as the format is."""
    first, last = (1969, 2069) if "%y" in format_ else (1, 9999)
    moments = random_moments(2000, first, last)
    # Python's strftime leaves out leading zeros of early years.
    texts = [moment.strftime(format_.replace("%Y", f"{moment.year:04d}")) for moment in moments]
    expected = [seconds_since_1970(moment) // FORMATS[format_] * FORMATS[format_] for moment in moments]
    assert parsed([*texts], format_) == expected


def test_hours_and_days_are_those_of_pythons_calendar() -> None:
    """Before 1970 too; the week begins with Monday."""
    moments = random_moments(2000, 1, 9999)
    seconds = np.array([seconds_since_1970(moment) for moment in moments], np.int64)
    for values in (seconds, tf.constant(seconds)):
        assert np.asarray(derive("hour_of_day", values)).tolist() == [moment.hour for moment in moments]
        assert np.asarray(derive("day_of_week", values)).tolist() == [moment.weekday() for moment in moments]


def test_two_digits_of_a_year_are_1969_to_2068() -> None:
    """As POSIX and Python have it."""
    texts = [f"{year:02d}0301" for year in range(100)]
    expected = [seconds_since_1970(datetime.datetime.strptime(text, "%y%m%d")) for text in texts]
    assert parsed([*texts], "%y%m%d") == expected
    assert parsed(["690101", "681231"], "%y%m%d") == [-31536000, 3124137600]


def test_every_day_of_400_years_and_no_other() -> None:
    """Every text of digits that may be a day, against Python: the calendar then repeats itself."""
    years, months, days = np.meshgrid(np.arange(1900, 2300), np.arange(0, 14), np.arange(0, 33), indexing="ij")
    seconds, real = seconds_of({"Y": years.ravel(), "m": months.ravel(), "d": days.ravel()})
    known: dict[tuple[int, int, int], int] = {}
    day = datetime.datetime(1900, 1, 1)
    while day.year < 2300:
        known[day.year, day.month, day.day] = seconds_since_1970(day)
        day += datetime.timedelta(days=1)
    found = zip(years.ravel().tolist(), months.ravel().tolist(), days.ravel().tolist(), seconds.tolist(), strict=True)
    assert {(y, m, d): s for (y, m, d, s), there in zip(found, real.tolist(), strict=True) if there} == known


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        ("%Y-%m-%d", "2023-02-29"),
        ("%Y-%m-%d", "1900-02-29"),
        ("%Y-%m-%d", "2024-02-30"),
        ("%Y-%m-%d", "2024-04-31"),
        ("%Y-%m-%d", "2024-13-01"),
        ("%Y-%m-%d", "2024-00-01"),
        ("%Y-%m-%d", "2024-01-00"),
        ("%Y-%m-%d", "2024-01-32"),
        ("%Y-%m-%d", "2024-1-1"),
        ("%Y-%m-%d", "2024-01-01 "),
        ("%Y-%m-%d", " 2024-01-01"),
        ("%Y-%m-%d", "2024-01-01\n"),
        ("%Y-%m-%d", "\n2024-01-01"),
        ("%Y-%m-%d", "2024/01/01"),
        ("%Y-%m-%d", "-024-01-01"),
        ("%Y-%m-%d", "+024-01-01"),
        ("%Y-%m-%d", "٢٠٢٤-01-01"),
        ("%Y-%m-%d", ""),
        ("%Y.%m.%d", "2024x01x01"),
        ("%H:%M:%S %Y%m%d", "24:00:00 20240101"),
        ("%H:%M:%S %Y%m%d", "23:60:00 20240101"),
        ("%H:%M:%S %Y%m%d", "23:59:60 20240101"),
        ("%y%m%d%H", "2410210"),
        ("%y%m%d%H", "241021001"),
        ("unix", "1.5"),
        ("unix", "1e9"),
        ("unix", " 1"),
        ("unix", "1 "),
        ("unix", "0x10"),
        ("unix", "--1"),
        ("unix", "-"),
        ("unix", ""),
        ("unix", "1\n"),
        ("unix", "1000000000000000000"),
        ("unix_ms", "1.0"),
    ],
)
def test_what_is_no_time(format_: str, text: str) -> None:
    """Null, and only that row."""
    assert parsed([text], format_) == [None]
    good = {"unix": "60", "unix_ms": "60000"}.get(format_, EPOCH.strftime(format_))
    second = 60 if "unix" in format_ else 0
    assert parsed([good, text, good, None], format_) == [second, None, second, None]


@pytest.mark.parametrize(
    ("format_", "text", "second"),
    [
        ("unix", "0", 0),
        ("unix", "-1", -1),
        ("unix", "+7", 7),
        ("unix", "007", 7),
        ("unix", "-0", 0),
        ("unix", "000000253402300799", 253402300799),
        ("unix", "-62135596800", -62135596800),
        ("unix_ms", "1413849600999", 1413849600),
        ("unix_ms", "-1", -1),
        ("unix_ms", "-999", -1),
        ("unix_ms", "-1000", -1),
        ("unix_ms", "-1001", -2),
        ("unix_ms", "253402300799999", 253402300799),
    ],
)
def test_seconds_and_milliseconds(format_: str, text: str, second: int) -> None:
    """Before 1970 they are negative; what is left of a second is cut off downwards."""
    assert parsed([text], format_) == [second]


def test_every_other_character_of_a_format_stands_for_itself() -> None:
    """Also where it means something in a regular expression."""
    for character in [*string.punctuation.replace("%", ""), *string.ascii_letters, " ", "\t", "ü", "€", "😀"]:
        format_ = f"{character}%Y{character}%m{character * 2}%d"
        good, other = (f"{c}2024{c}02{c * 2}29" for c in (character, "0"))
        assert parsed([good, other, "x"], format_) == [1709164800, None, None], character


@pytest.mark.parametrize("format_", ["unix", "unix_ms", "%y%m%d", "%d%m%Y", "%S%M%H%d%m%y", "%Y %m %d", "%M %Y%m%d"])
def test_good_formats(format_: str) -> None:
    """In any order, with or without anything between."""
    assert problem_of(format_) is None


@pytest.mark.parametrize(
    ("format_", "said"),
    [
        ("", "needs %m, %d and one of %Y and %y"),
        ("seconds", "needs %m, %d and one of"),
        ("%Y-%m", "needs %m, %d and one of"),
        ("%m-%d", "needs %m, %d and one of"),
        ("%Y%y%m%d", "needs %m, %d and one of"),
        ("%Y%m%d%d", "each once"),
        ("%Y-%m-%d %I:%M %p", "has %I; known: unix, unix_ms, and %Y"),
        ("%Y-%j", "has %j"),
        ("%s", "has %s"),
        ("%Y%m%d%%", "has %%"),
        ("%Y%m%d%", "has %"),
        ("%Y-%b-%d", "has %b"),
    ],
)
def test_bad_formats_are_refused_with_what_is_wrong(format_: str, said: str) -> None:
    """Names of months and halves of the day are not read."""
    problem = problem_of(format_)
    assert problem is not None
    assert said in problem
    assert repr(format_) in problem or format_ == ""


def test_no_texts_are_no_times() -> None:
    """Nothing in, nothing out."""
    empty: list[Any] = []
    assert parsed(empty, "%Y%m%d") == parsed(empty, "unix") == []


def test_seconds_of_another_unit_are_no_times() -> None:
    """Milliseconds taken for seconds would lie in the year 56,000."""
    found = parse_times(pl.Series(["1708992000000", "253402300799", "253402300800", "-62135596801"]), "unix")
    assert found.to_list() == [None, 253402300799, None, None]
