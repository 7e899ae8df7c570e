"""`ctr drift` and what reports say of moved fields: by hand, on halves of a log, real logs, prepared folders."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import SMALL, ignore, prepare_small, small_log, small_rows, write_tsv

from features.compare_logs import compare_logs
from features.drift import drift, moved, population_stability, stability
from features.errors import BadInput
from features.fit import Counts
from features.profile import Profile
from features.schema import Categorical, Cross, Numeric, Schema, Time, load_schema
from features.spec import load_spec
from features.split import Split

NONE = Split("none", 0, 0, 0)


def psi(first: list[float], second: list[float]) -> float:
    """Population stability index of two lists of counts, each with half a row more."""
    p, q = ([count + 0.5 for count in counts] for counts in (first, second))
    shares = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True)]
    return sum((b - a) * math.log(b / a) for a, b in shares)


def compared(first: object, second: object, **options: Any) -> dict[str, Any]:
    """What `ctr drift` finds, with the small schema if no other is given."""
    settings: dict[str, Any] = {"schema": SMALL, "max_reject_rate": 0.01, "page": None, "progress": ignore, **options}
    return compare_logs(str(first), str(second), **settings)


def log(path: Path, lines: list[str]) -> Path:
    """A log of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def drawn_rows(count: int, seed: int, *, skew: float = 1.0) -> pl.DataFrame:
    """Rows of the small schema drawn from one distribution for one `skew`; `b` is nearly always new."""
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "label": (random.random(count) < 0.2).astype(int),
            "n1": [None if v > 40 else v for v in np.floor(np.exp(random.normal(skew, 1, count))).astype(int).tolist()],
            "n2": random.normal(5 * skew, 1, count),
            "a": [None if v == 3 else f"{v:x}" for v in random.geometric(0.05 / skew, count).tolist()],
            "b": [f"{v:x}" for v in random.integers(0, 2**40, count).tolist()],
        },
        schema={"label": pl.Int64, "n1": pl.Int64, "n2": pl.Float64, "a": pl.String, "b": pl.String},
    )


# By hand


def test_index_of_a_category_by_hand(tmp_path: Path) -> None:
    """Frequent values each by itself, then missing ones, others seen more than once, and those new or seen once."""
    schema = Schema(categorical=(Categorical(name="c", buckets=2**20),))
    first = ["x"] * 600 + ["y"] * 300 + [""] * 100
    second = ["x"] * 200 + ["y"] * 600 + [""] * 150 + ["new"] * 50
    paths = [log(tmp_path / f"{i}.tsv", [f"0\t{v}" for v in values]) for i, values in enumerate((first, second))]
    found = compared(*paths, schema=schema)["fields"]["c"]
    # "new" is 2.5 % of both logs together, so it is a group of its own.
    expected = psi([600, 300, 0, 100, 0, 0], [200, 600, 50, 150, 0, 0])
    assert found["stability_index"] == pytest.approx(expected, rel=1e-12)
    assert found["by_chance"] == pytest.approx((5 + 4 * math.sqrt(10)) * (1 / 1000 + 1 / 1000), rel=1e-12)
    assert found["moved"] is True


def test_values_that_occur_once_stand_against_those_that_are_new(tmp_path: Path) -> None:
    """A field of values of their own, such as an id of the request, has not moved."""
    schema = Schema(categorical=(Categorical(name="c", buckets=2**20),))
    paths = [log(tmp_path / f"{i}.tsv", [f"0\tv{1000 * i + j}" for j in range(1000)]) for i in range(2)]
    found = compared(*paths, schema=schema)["fields"]["c"]
    assert (found["stability_index"], found["moved"]) == (pytest.approx(0, abs=0.01), False)


def test_index_of_a_number_by_hand(tmp_path: Path) -> None:
    """Two values that share no token, and missing ones: shares of 1/2, 1/2 against 1/10, 9/10."""
    schema = Schema(numeric=(Numeric(name="n"),))
    first = ["0"] * 500 + ["900"] * 500
    second = ["0"] * 90 + ["900"] * 810 + [""] * 100
    paths = [log(tmp_path / f"{i}.tsv", [f"0\t{v}" for v in values]) for i, values in enumerate((first, second))]
    found = compared(*paths, schema=schema)["fields"]["n"]
    assert found["stability_index"] == pytest.approx(psi([500, 500, 0], [90, 810, 100]), rel=1e-12)
    assert found["moved"] is True


def test_index_is_symmetric_and_zero_for_the_same_counts() -> None:
    """Whatever the counts are."""
    random = np.random.default_rng(0)
    for ordered in (True, False):
        a, b = (np.append(random.integers(0, 90, 300), 7) for _ in range(2))
        assert stability(a, a, ordered=True)["stability_index"] == pytest.approx(0, abs=1e-12)
        if ordered:
            there, back = (stability(x, y, ordered=True)["stability_index"] for x, y in ((a, b), (b, a)))
            assert there == pytest.approx(back, rel=1e-12)
    assert population_stability([1, 2], [30, 4]) == pytest.approx(population_stability([30, 4], [1, 2]))
    assert population_stability([10, 20, 30], [10, 20, 30]) == 0


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("ordered", [True, False])
def test_index_against_no_rows_is_unknown(empty: int, ordered: bool) -> None:
    """Not zero, and nothing has moved."""
    counts = [np.array([5, 5, 0]), np.array([5, 5, 0])]
    counts[empty] = np.zeros(3, np.int64)
    found = stability(counts[0], counts[1], ordered=ordered)
    assert found == {"stability_index": None, "by_chance": None, "moved": False}


@pytest.mark.parametrize("ordered", [True, False])
def test_field_that_is_missing_in_one_log_only_has_moved(ordered: bool) -> None:
    """From no missing values to nothing else."""
    there, gone = np.array([400, 600, 0]), np.array([0, 0, 1000])
    assert stability(there, gone, ordered=ordered)["moved"]
    assert stability(gone, there, ordered=ordered)["moved"]
    assert not stability(gone, gone, ordered=ordered)["moved"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("first", "second"), [(30, 30), (300, 40), (2000, 100), (100, 5000)])
def test_samples_of_one_distribution_do_not_move(ordered: bool, first: int, second: int) -> None:
    """At most two of 100 pairs exceed what is said to be by chance, though most of the values are seen once."""
    random = np.random.default_rng(first + second)
    shares = np.arange(1, 2001) ** -0.9
    shares /= shares.sum()
    exceeded = flagged = 0
    for _ in range(100):
        a, b = (np.append(random.multinomial(rows, shares), 0) for rows in (first, second))
        found = stability(a, b, ordered=ordered)
        exceeded += found["stability_index"] > found["by_chance"]
        flagged += found["moved"]
    assert flagged <= exceeded <= 2


def test_moved_fields_are_listed_the_farthest_first() -> None:
    """Only those that moved."""
    fields = {
        "a": {"stability_index": 0.3, "moved": True},
        "b": {"stability_index": 9.0, "moved": False},
        "c": {"stability_index": 1.5, "moved": True},
        "d": {"stability_index": None, "moved": False},
    }
    assert moved(fields) == ["c", "a"]


# Logs


def test_halves_of_a_log_flag_nothing_and_another_log_flags_every_field(tmp_path: Path) -> None:
    """Each half at random; the other log has other numbers and other values."""
    rows = drawn_rows(8000, seed=1)
    half = np.random.default_rng(2).random(8000) < 0.5
    first = write_tsv(rows.filter(pl.Series(half)), tmp_path / "first.tsv")
    second = write_tsv(rows.filter(pl.Series(~half)), tmp_path / "second.tsv")
    other = write_tsv(drawn_rows(4000, seed=3, skew=3.0), tmp_path / "other.tsv")
    found = compared(first, second)
    assert found["moved"] == []
    assert all(about["stability_index"] < 0.1 for about in found["fields"].values())
    assert sorted(compared(first, other)["moved"]) == ["a", "n1", "n2"]


def test_comparison_tells_rows_and_click_rates(tmp_path: Path) -> None:
    """Of both logs, in the order given; a log without labels has no click rate."""
    first = small_log(tmp_path / "a.tsv", 300)
    second = write_tsv(small_rows(90).drop("label"), tmp_path / "b.tsv")
    found = compared(first, second)
    assert found["logs"] == [str(first), str(second)]
    assert found["rows"] == [300, 90]
    assert found["click_rate"] == [pytest.approx(1 / 3), None]
    assert list(found["fields"]) == ["n1", "n2", "a", "b"]


def test_log_and_prepared_folder_of_it_are_the_same(tmp_path: Path) -> None:
    """In every field nothing at all has moved, whichever of the two is a folder, whatever schema is given besides."""
    rows = drawn_rows(1000, seed=5)
    raw = write_tsv(rows, tmp_path / "log.tsv")
    schema = SMALL.model_copy(update={"crosses": (Cross(fields=("a", "b"), buckets=5000),)})
    prepare_small([raw], tmp_path / "data", schema=schema, split=Split("random", 0.2, 0.2, 0))
    prepare_small([raw], tmp_path / "again", schema=schema, split=NONE)
    for first, second in (("data", "log.tsv"), ("log.tsv", "data"), ("data", "again")):
        found = compared(
            tmp_path / first, tmp_path / second, schema=load_schema("avazu", buckets=None, min_count=None, crosses=())
        )
        assert list(found["fields"]) == ["n1", "n2", "a", "b", "a_x_b"]
        assert found["rows"] == [1000, 1000]
        assert found["click_rate"] == [pytest.approx(rows["label"].mean())] * 2
        assert found["moved"] == []
        assert all(about["stability_index"] == pytest.approx(0, abs=1e-12) for about in found["fields"].values())


def test_comparing_raw_logs_is_comparing_their_prepared_folders(tmp_path: Path) -> None:
    """To the last digit."""
    logs = [write_tsv(drawn_rows(500, seed=seed, skew=1 + seed), tmp_path / f"{seed}.tsv") for seed in range(2)]
    folders = [tmp_path / f"data{seed}" for seed in range(2)]
    for path, folder in zip(logs, folders, strict=True):
        prepare_small([path], folder)
    raw, prepared, mixed = (compared(*pair)["fields"] for pair in (logs, folders, (logs[0], folders[1])))
    assert raw == prepared == mixed


def test_folders_of_different_schemas_are_refused(tmp_path: Path) -> None:
    """Their buckets do not mean the same values."""
    path = small_log(tmp_path / "log.tsv", 50)
    other = SMALL.model_copy(update={"categorical": (Categorical(name="a", buckets=1001), SMALL.categorical[1])})
    prepare_small([path], tmp_path / "a")
    prepare_small([path], tmp_path / "b", schema=other)
    with pytest.raises(BadInput, match=r"/a and .*/b have different schemas"):
        compared(tmp_path / "a", tmp_path / "b")


def test_several_files_are_named_by_a_glob(tmp_path: Path) -> None:
    """All of them are one log."""
    for day in range(3):
        small_log(tmp_path / f"day_{day}.tsv", 40, first=40 * day)
    one = small_log(tmp_path / "one.tsv", 120)
    found = compared(tmp_path / "day_*.tsv", one)
    assert found["rows"] == [120, 120]
    assert found["moved"] == []


def test_log_with_too_many_bad_rows_is_refused(tmp_path: Path) -> None:
    """As many as `prepare` would refuse; a few are left out."""
    good = small_log(tmp_path / "good.tsv", 98)
    bad = log(tmp_path / "bad.tsv", [*good.read_text(encoding="utf-8").splitlines(), "?", "?"])
    assert compared(good, bad, max_reject_rate=0.02)["rows"] == [98, 98]
    with pytest.raises(BadInput, match=r"2 of 100 rows of .*bad\.tsv cannot be read, more than max_reject_rate 0\.01"):
        compared(good, bad)
    with pytest.raises(
        BadInput,
        match=r"none of the 5 rows of .*none\.tsv could be read; the first is .* line 1: 1 fields instead of 5",
    ):
        compared(good, log(tmp_path / "none.tsv", ["?"] * 5), max_reject_rate=1.0)


@pytest.mark.parametrize("name", ["nowhere.tsv", "folder"])
def test_what_is_no_log_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Also a folder that was not prepared."""
    (tmp_path / "folder").mkdir()
    path = small_log(tmp_path / "log.tsv", 9)
    for pair in ((tmp_path / name, path), (path, tmp_path / name)):
        with pytest.raises(BadInput, match=name):
            compared(*pair)


def test_page_is_written_beside_the_figures(tmp_path: Path) -> None:
    """Nothing else is left there."""
    path = small_log(tmp_path / "log.tsv", 60)
    (tmp_path / "pages").mkdir()
    compared(path, path, page=tmp_path / "pages" / "page.html")
    assert [each.name for each in (tmp_path / "pages").iterdir()] == ["page.html"]
    assert (tmp_path / "pages" / "page.html").stat().st_size > 0


def test_fields_of_the_time_and_quantiles_are_compared_in_order(tmp_path: Path) -> None:
    """An hour later is near for most rows; eight hours later is not."""
    schema = Schema(
        time=Time(name="t", derive=("hour_of_day",)), numeric=(Numeric(name="n", token="quantile", kind="float"),)
    )
    random = np.random.default_rng(0)
    hours = random.integers(8, 16, 5000)
    numbers = random.normal(0, 1, 5000)

    def at(hour: int, shift: float) -> Path:
        lines = [
            f"0\t{3600 * (h + hour)}\t{n + shift!r}" for h, n in zip(hours.tolist(), numbers.tolist(), strict=True)
        ]
        return log(tmp_path / f"{hour}.tsv", lines)

    first = at(0, 0.0)
    assert compared(first, first, schema=schema)["moved"] == []
    assert sorted(compared(first, at(8, 3.0), schema=schema)["moved"]) == ["hour_of_day", "n"]


def test_profiles_of_several_parts_are_compared_as_wholes() -> None:
    """All parts of each together."""
    schema = Schema(categorical=(Categorical(name="c", buckets=4),))

    def profile(*parts: list[int]) -> Profile:
        counted = {f"part{i}": Counts(schema, rows=sum(rows)) for i, rows in enumerate(parts)}
        for counts, rows in zip(counted.values(), parts, strict=True):
            counts.buckets["c"] = np.array([*rows, 0, 0, 0])
        return Profile(schema, counted)

    found = drift(profile([30, 0], [0, 70]), profile([30, 70]))
    assert found["fields"]["c"]["stability_index"] == pytest.approx(0, abs=1e-12)
    assert found["rows"] == [100, 100]


# Real logs


@pytest.mark.real_data
def test_real_logs(shared_data: Path, tmp_path: Path) -> None:
    """Criteo's two data sets differ in nearly every field; random halves of one in none, and its first days in few."""
    schema = load_schema("criteo", buckets=None, min_count=None, crosses=())
    week, terabyte = shared_data / "criteo_dev.tsv", shared_data / "criteo_1tb_sample.tsv.gz"
    found = compared(week, terabyte, schema=schema)
    assert len(found["moved"]) >= 35
    lines = week.read_text(encoding="utf-8").splitlines()
    for seed in range(3):
        half = np.random.default_rng(seed).random(len(lines)) < 0.5
        first = log(tmp_path / "first.tsv", [line for line, chosen in zip(lines, half, strict=True) if chosen])
        second = log(tmp_path / "second.tsv", [line for line, chosen in zip(lines, half, strict=True) if not chosen])
        assert compared(first, second, schema=schema)["moved"] == []


# Reports


def report_of(folder: Path) -> dict[str, Any]:
    """What a prepared folder says of its fields."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_report_compares_with_the_training_rows(tmp_path: Path) -> None:
    """Validation and test by hand from their values; the same of a log that moved at its end."""
    schema = Schema(categorical=(Categorical(name="c", buckets=2**20),))
    values = ["x"] * 600 + ["y"] * 200 + ["x"] * 100 + ["y"] * 100
    path = log(tmp_path / "log.tsv", [f"{i % 2}\t{v}" for i, v in enumerate(values)])
    manifest = prepare_small([path], tmp_path / "out", schema=schema)
    found = report_of(tmp_path / "out")["fields"]["c"]["stability"]
    assert list(found) == ["validation", "test"]
    assert found["validation"]["stability_index"] == pytest.approx(
        psi([600, 200, 0, 0, 0], [100, 0, 0, 0, 0]), rel=1e-12
    )
    assert found["test"]["stability_index"] == pytest.approx(psi([600, 200, 0, 0, 0], [0, 100, 0, 0, 0]), rel=1e-12)
    assert manifest["moved"] == report_of(tmp_path / "out")["moved"]


def test_report_with_a_spec_compares_with_the_folder_that_the_spec_is_from(tmp_path: Path) -> None:
    """All parts, the training part too, against the rows fitted on; unseen are values that those did not have."""
    schema = Schema(categorical=(Categorical(name="c", buckets=2**20, min_count=1),))
    first = log(tmp_path / "a.tsv", [f"{i % 2}\t{'xy'[i % 2]}" for i in range(1000)])
    second = log(tmp_path / "b.tsv", [f"{i % 2}\t{'xz'[i % 2]}" for i in range(400)])
    prepare_small([first], tmp_path / "a", schema=schema, split=NONE)
    spec = load_spec(tmp_path / "a")
    manifest = prepare_small([second], tmp_path / "b", fitted=spec, fitted_on=tmp_path / "a", split=NONE)
    found = report_of(tmp_path / "b")
    # x, z and y, which frequent values are, then missing ones, others, and those new or seen once.
    expected = psi([500, 0, 500, 0, 0, 0], [200, 200, 0, 0, 0, 0])
    assert found["fields"]["c"]["stability"]["train"]["stability_index"] == pytest.approx(expected, rel=1e-12)
    assert found["fields"]["c"]["unseen"] == {"train": 0.5, "validation": None, "test": None}
    assert manifest["moved"] == found["moved"] == ["c"]
    same = prepare_small([first], tmp_path / "c", fitted=spec, fitted_on=tmp_path / "a", split=NONE)
    assert same["moved"] == []


def test_report_with_a_spec_from_elsewhere_cannot_tell_rare_from_unseen(tmp_path: Path) -> None:
    """Where nobody counted the rows that it was fitted on, both are rare, and nothing is said to have moved."""
    path, other = small_log(tmp_path / "log.tsv", 60), small_log(tmp_path / "other.tsv", 60, first=5000)
    prepare_small([path], tmp_path / "a")
    (tmp_path / "a" / "tallies.parquet").unlink()
    prepare_small([other], tmp_path / "b", fitted=load_spec(tmp_path / "a"), fitted_on=tmp_path / "a")
    said = json.loads((tmp_path / "b" / "report.json").read_text(encoding="utf-8"))
    assert said["fields"]["b"]["unseen"]["train"] is None
    assert said["fields"]["b"]["rare"]["train"] == 1
    assert said["moved"] == []


def test_counts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """In one line that names the file; nothing is left behind."""
    path = small_log(tmp_path / "log.tsv", 60)
    prepare_small([path], tmp_path / "a")
    (tmp_path / "a" / "tallies.parquet").write_bytes(b"no Parquet")
    with pytest.raises(BadInput, match=r"a/tallies\.parquet cannot be read"):
        prepare_small([path], tmp_path / "b", fitted=load_spec(tmp_path / "a"), fitted_on=tmp_path / "a")
    assert not (tmp_path / "b").exists()
