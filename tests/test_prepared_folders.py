"""Prepared folders again: batches and threads that change nothing, times, weights, quantiles, ranges, full disks."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, prepare_small, rows_of, shards_of, small_log, small_rows, whole, write_tsv
from polars.testing import assert_frame_equal

import features
from ctr.data import open_data, weights_of
from features import blocks
from features.errors import BadInput
from features.schema import Categorical, Numeric, Schema, Time, avazu
from features.spec import load_spec
from features.split import Split

NONE = Split("none", 0, 0, 0)


def log(path: Path, lines: list[str]) -> Path:
    """A log of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def figures(folder: Path) -> Any:
    """The report of a folder without the names of values, which are examples."""

    def without_names(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_names(each) for key, each in value.items() if key != "value"}
        return [without_names(each) for each in value] if isinstance(value, list) else value

    return without_names(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The same whatever the batches and threads


@pytest.mark.parametrize("kind", ["time", "random", "none"])
def test_size_of_blocks_changes_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same spec, same shards to the byte, same rejected rows, same figures in the report."""
    lines = write_tsv(small_rows(1500), tmp_path / "rows.tsv").read_text(encoding="utf-8").splitlines()
    lines[17], lines[999] = "?", "1\tx\t1\ta\tb"
    path = log(tmp_path / "log.tsv", lines)
    split = Split(kind, 0.1, 0.1, 0)
    made: list[dict[str, Any]] = []
    for size in (2**23, 10_000, 3001, 300):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        made.append(prepare_small([path], tmp_path / str(size), split=split, shard_rows=500))
        assert made[-1]["digest"] == made[0]["digest"]
        assert made[-1]["parts"] == made[0]["parts"]
        assert figures(tmp_path / str(size)) == figures(tmp_path / str(2**23))
        rejected = (tmp_path / str(size) / "rejected.ndjson").read_text(encoding="utf-8")
        assert [json.loads(line)["line"] for line in rejected.splitlines()] == [18, 1000]


def test_number_of_threads_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is the same to the byte with one thread, two and nine."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2000)
    path = small_log(tmp_path / "log.tsv", 2000)
    made: list[dict[str, bytes]] = []
    for threads in (1, 2, 9):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=threads: set(range(n)))
        prepare_small([path], tmp_path / str(threads))
        made.append(files_of(tmp_path / str(threads)))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) > 20


def test_rows_in_one_file_or_in_several_are_the_same(tmp_path: Path) -> None:
    """As are those of a compressed one, though its blocks may end elsewhere."""
    one = small_log(tmp_path / "one.tsv", 900)
    several = [small_log(tmp_path / f"part{i}.tsv", 300, first=300 * i) for i in range(3)]
    first, second = prepare_small([one], tmp_path / "a"), prepare_small([*several], tmp_path / "b")
    assert first["digest"] == second["digest"]


def test_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a shard, all but: every row is in one of them, and no record is left over."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 500)
    manifest = prepare_small([small_log(tmp_path / "log.tsv", 700)], tmp_path / "out", shard_rows=1)
    assert len(manifest["parts"]["train"]["shards"]) > 300
    assert [shard.height for shard in shards_of(tmp_path / "out", "test")] == [1] * 70
    assert whole(tmp_path / "out")["row"].to_list() == list(range(700))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("manifest.json", "rejected.ndjson", "report.html", "report.json", "spec.json", "spec.safetensors"),
        *("tallies.parquet", "test", "train", "validation"),
    ]


# Times


def timed_schema(**changes: Any) -> Schema:
    """A log of moments and one category."""
    return Schema(
        time=Time(name="t", derive=("hour_of_day", "day_of_week")),
        categorical=(Categorical(name="c", buckets=1000, min_count=1),),
        **changes,
    )


def timed_lines(seconds: list[int]) -> list[str]:
    """A row for each moment."""
    return [f"{i % 2}\t{second}\tv{second % 97}" for i, second in enumerate(seconds)]


def test_unsorted_logs_over_several_files_are_cut_by_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No training row is later than a validation row, none of these than a test row, and the shares are right."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1000)
    random = np.random.default_rng(3)
    seconds = random.integers(-10_000, 5_000_000, 3000).tolist()
    paths = [
        log(tmp_path / f"{i}.tsv", timed_lines(seconds[first : first + 1000]))
        for i, first in enumerate((0, 1000, 2000))
    ]
    prepare_small([*paths], tmp_path / "out", schema=timed_schema(), split=Split("time", 0.2, 0.1, 0))
    times = {
        part: [seconds[row] for row in rows_of(tmp_path / "out", part)] for part in ("train", "validation", "test")
    }
    assert max(times["train"]) < min(times["validation"]) <= max(times["validation"]) < min(times["test"])
    assert [len(times[part]) for part in times] == [2100, 600, 300]
    assert rows_of(tmp_path / "out", "test") == sorted(rows_of(tmp_path / "out", "test"))


def test_minute_is_not_divided(tmp_path: Path) -> None:
    """Rows of the minute that the cut falls into stay together, on the earlier side."""
    seconds = [0] * 5 + [59] * 4 + [60] * 1
    path = log(tmp_path / "log.tsv", timed_lines(seconds[::-1]))
    manifest = prepare_small([path], tmp_path / "out", schema=timed_schema(), split=Split("time", 0.0, 0.5, 0))
    assert {name: part["rows"] for name, part in manifest["parts"].items()} == {"train": 9, "validation": 0, "test": 1}
    assert rows_of(tmp_path / "out", "test") == [0]


def test_later_rows_do_not_change_the_spec_wherever_they_stand(tmp_path: Path) -> None:
    """Their values are changed, first in the log as they are; an earlier row's change is seen."""
    seconds = [60 * i for i in range(1000)][::-1]
    lines = timed_lines(seconds)
    later = [line.replace("\tv", "\tother") if i < 200 else line for i, line in enumerate(lines)]
    earlier = [line.replace("\tv", "\tother") if i == 200 else line for i, line in enumerate(lines)]
    made = {
        name: prepare_small([log(tmp_path / f"{name}.tsv", given)], tmp_path / name, schema=timed_schema())
        for name, given in (("lines", lines), ("later", later), ("earlier", earlier))
    }
    assert made["later"]["spec_digest"] == made["lines"]["spec_digest"]
    assert made["later"]["parts"]["train"] == made["lines"]["parts"]["train"]
    assert made["later"]["digest"] != made["lines"]["digest"]
    assert made["earlier"]["spec_digest"] != made["lines"]["spec_digest"]


def test_fields_of_the_time_are_those_of_pythons_calendar(tmp_path: Path) -> None:
    """Every hour and day that training rows have gets an id, in order; others are rare."""
    random = np.random.default_rng(1)
    seconds = random.integers(-(10**9), 4 * 10**9, 500).tolist()
    prepare_small(
        [log(tmp_path / "log.tsv", timed_lines(seconds))], tmp_path / "out", schema=timed_schema(), split=NONE
    )
    moments = [datetime.fromtimestamp(second, UTC) for second in seconds]
    found = whole(tmp_path / "out")
    assert found["id_hour_of_day"].to_list() == [2 + moment.hour for moment in moments]
    assert found["id_day_of_week"].to_list() == [2 + moment.weekday() for moment in moments]


def test_avazus_layout(tmp_path: Path) -> None:
    """As the challenge's files are: a header, `id` that is no field, hours of a week in October 2014."""
    names = ["id", "click", "hour", *(field.name for field in avazu().categorical)]
    rows = [["1e" + str(i), str(i % 2), f"1410{21 + i // 24:02d}{i % 24:02d}", *["x"] * 21] for i in range(48)]
    path = log(tmp_path / "train.csv", [",".join(names), *(",".join(row) for row in rows)])
    manifest = prepare_small([path], tmp_path / "out", schema=avazu(), split=Split("time", 0.25, 0.25, 0))
    assert manifest["rows"] == 48
    assert {name: part["rows"] for name, part in manifest["parts"].items()} == {
        "train": 24,
        "validation": 12,
        "test": 12,
    }
    found = whole(tmp_path / "out")
    # 21 October 2014 was a Tuesday, the only day to train on.
    assert found["id_day_of_week"].to_list() == [found["id_day_of_week"][0]] * 24 + [1] * 24
    assert len(found.columns) == 2 + 2 + 21


# Weights


def test_weights_are_in_the_shards(tmp_path: Path) -> None:
    """As float32, beside the labels; their sum is in the manifest, and training divides them by their mean."""
    schema = Schema(weight="w", categorical=(Categorical(name="c", min_count=1),))
    weights = [0.0, 2.5, 1.0, 0.5, 4.0, 1.0, 1e-3, 7.0, 0.1, 3.0]
    path = log(tmp_path / "log.tsv", [f"{i % 2}\t{weight!r}\tx" for i, weight in enumerate(weights)])
    manifest = prepare_small([path], tmp_path / "out", schema=schema, split=Split("time", 0.0, 0.2, 0))
    assert whole(tmp_path / "out")["weight"].to_list() == [float(np.float32(weight)) for weight in weights]
    assert manifest["parts"]["train"]["weight"] == pytest.approx(sum(weights[:8]), rel=1e-6)
    assert manifest["parts"]["test"]["weight"] == pytest.approx(3.1, rel=1e-6)
    mean = sum(weights[:8]) / 8
    found = weights_of(open_data(tmp_path / "out").parts["test"])
    assert found is not None
    np.testing.assert_allclose(found, [0.1 / mean, 3.0 / mean], rtol=1e-6)


def test_unlabelled_rows_with_a_spec_need_no_weights(tmp_path: Path) -> None:
    """Each counts as 1; a headerless line without label has its weight all the same."""
    schema = Schema(weight="w", header=True, separator=",", categorical=(Categorical(name="c", min_count=1),))
    prepare_small([log(tmp_path / "a.csv", ["label,w,c", "1,2,x", "0,3,y"])], tmp_path / "a", schema=schema, split=NONE)
    bare = log(tmp_path / "b.csv", ["c", "y", "x"])
    prepare_small([bare], tmp_path / "b", fitted=load_spec(tmp_path / "a"), split=NONE)
    found, before = whole(tmp_path / "b"), whole(tmp_path / "a")
    assert found["weight"].to_list() == [1.0, 1.0]
    assert found["id_c"].to_list() == before["id_c"].to_list()[::-1]


# Numbers


def quantile_log(
    folder: Path, values: Sequence[float | None], later: Sequence[float | None], **settings: Any
) -> list[int]:
    """The ids of the training values, then of the later ones, of one field of quantiles."""
    schema = Schema(numeric=(Numeric(name="q", kind="float", token="quantile", dense="none", **settings),))
    given = [*values, *later]
    path = log(folder / "log.tsv", [f"0\t{'' if value is None else repr(value)}" for value in given])
    prepare_small([path], folder / "out", schema=schema, split=Split("time", 0.0, len(later) / len(given), 0))
    return whole(folder / "out")["id_q"].to_list()


@pytest.mark.parametrize("quantiles", [2, 4, 10, 32])
def test_quantile_tokens_are_numpys_quantile_groups(quantiles: int, tmp_path: Path) -> None:
    """But for values next to a group's edge, as neighbours within 0.8 % share a bucket; missing ones have theirs."""
    random = np.random.default_rng(quantiles)
    values = np.concatenate([random.normal(0, 50, 4000), random.lognormal(0, 3, 3000), -random.lognormal(9, 2, 1000)])
    random.shuffle(values)
    later: list[float | None] = [None, -1e300, 1e300, *np.linspace(-100, 100, 997).tolist()]
    found = np.array(quantile_log(tmp_path, values.tolist(), later, quantiles=quantiles))
    edges = np.quantile(values, np.arange(1, quantiles) / quantiles)
    given = np.array([math.nan if value is None else value for value in [*values.tolist(), *later]])
    expected = 2 + np.searchsorted(edges, given, side="right")
    near = (np.abs(given[:, None] - edges) <= 0.016 * np.abs(edges) + 1e-3).any(axis=1)
    assert (found[np.isnan(given)] == 0).all()
    far = ~near & ~np.isnan(given)
    assert far.mean() > 0.5
    np.testing.assert_array_equal(found[far], expected[far])
    assert np.abs(found - expected)[~np.isnan(given)].max() <= 1
    sizes = np.bincount(found[: len(values)])[2:]
    assert len(sizes) == quantiles
    assert (np.abs(sizes - len(values) / quantiles) < 0.1 * len(values) / quantiles + 60).all()


def test_quantiles_of_few_values_are_these_values(tmp_path: Path) -> None:
    """Each has an id of its own, in order; a later value goes with a neighbour."""
    found = quantile_log(tmp_path, [1.0, 2.0, 4.0, 8.0] * 5, [0.5, 1.0, 8.0, 100.0, None], quantiles=32)
    assert found[:4] == [2, 3, 4, 5]
    assert found[20:] == [2, 2, 5, 5, 0]


def test_quantiles_where_nearly_all_values_are_one(tmp_path: Path) -> None:
    """Ids have no gap: the one value, and what is above it."""
    found = quantile_log(tmp_path, [0.0] * 97 + [5.0, 6.0, 7.0], [0.0, 6.0, -0.0, -1.0], quantiles=4)
    assert found[100:] == [2, 3, 2, 2]
    assert max(found) == 3


def test_quantiles_of_missing_values_alone(tmp_path: Path) -> None:
    """There is one group, for whatever comes later."""
    found = quantile_log(tmp_path, [None] * 10, [3.0, None], quantiles=4)
    assert found[:10] == [0] * 10
    assert found[10] in {1, 2}
    assert found[11] == 0


def test_min_max_by_hand(tmp_path: Path) -> None:
    """0 at the least training value, 1 at the largest; later ones beyond are cut off, missing ones missing."""
    schema = Schema(numeric=(Numeric(name="m", kind="float", dense="min_max", min_count=1),))
    values = ["-2", "6", "", "0", "4", "-10", "8", ""]
    path = log(tmp_path / "log.tsv", [f"0\t{value}" for value in values])
    prepare_small([path], tmp_path / "out", schema=schema, split=Split("time", 0.0, 3 / 8, 0))
    found = whole(tmp_path / "out")["dense_m"].to_numpy()
    np.testing.assert_array_equal(found, np.array([0, 1, math.nan, 0.25, 0.75, 0, 1, math.nan], np.float32))
    assert load_spec(tmp_path / "out").scales["m"] == (-2.0, 8.0)


@pytest.mark.parametrize("values", [["1.7e308", "-1.7e308"], ["3", "3"], ["", ""]])
def test_min_max_of_hard_ranges_is_finite(values: list[str], tmp_path: Path) -> None:
    """A spread that is too large for a float, none at all, and no value."""
    schema = Schema(numeric=(Numeric(name="m", kind="float", dense="min_max", min_count=1),))
    path = log(tmp_path / "log.tsv", [f"0\t{value}" for value in [*values, "5", "-1e300"]])
    prepare_small([path], tmp_path / "out", schema=schema, split=Split("time", 0.0, 0.5, 0))
    found = whole(tmp_path / "out")["dense_m"].to_numpy()[2:]
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_token_and_dense_value_may_both_be_left_out(tmp_path: Path) -> None:
    """A field with neither is read and checked, and is in no shard."""
    schema = Schema(
        numeric=(Numeric(name="n", dense="none", token="none"),), categorical=(Categorical(name="c", min_count=1),)
    )
    path = log(tmp_path / "log.tsv", ["1\t5\tx", "0\tfive\tx", "0\t\tx"])
    manifest = prepare_small([path], tmp_path / "out", schema=schema, split=NONE, max_reject_rate=0.5)
    assert manifest["rows_rejected"] == 1
    assert whole(tmp_path / "out").columns == ["row", "label", "id_c"]


# Columns of a file without a header


def test_order_of_columns_with_some_passed_over(tmp_path: Path) -> None:
    """Those that are no field are not looked at; unlabelled lines lack the label wherever it stands."""
    schema = SMALL.model_copy(update={"order": ("id", "b", "n2", "label", "a", "other", "n1")})
    path = log(tmp_path / "log.tsv", ["x\tb0\t2.5\t1\ta0\tnan\t3", "x\tb1\t\t0\ta1\t?\t"])
    prepare_small([path], tmp_path / "out", schema=schema, split=NONE)
    reference = log(tmp_path / "plain.tsv", ["1\t3\t2.5\ta0\tb0", "0\t\t\ta1\tb1"])
    prepare_small([reference], tmp_path / "plain", split=NONE)
    assert_frame_equal(whole(tmp_path / "out"), whole(tmp_path / "plain"))
    bare = log(tmp_path / "bare.tsv", ["x\tb0\t2.5\ta0\tnan\t3"])
    prepare_small([bare], tmp_path / "bare", fitted=load_spec(tmp_path / "out"), split=NONE)
    assert whole(tmp_path / "bare").drop("label").row(0) == whole(tmp_path / "out").drop("label").row(0)


# Full disks, second runs


def run_prepare(folder: Path, out: Path, limit: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
    """`ctr prepare log.tsv` as a process of its own."""
    arguments = ["prepare", "log.tsv", "--out", str(out), "--set", "prepare.shard_rows=2000", "--json"]
    return subprocess.run(
        [sys.executable, "-m", "ctr", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(features.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit,
    )


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log in Criteo's layout, 20,000 rows."""
    folder = tmp_path_factory.mktemp("full")
    random = np.random.default_rng(0)
    rows = random.integers(0, 10**6, (20_000, 39))
    lines = (
        "\t".join([str(i % 2), *map(str, row[:13]), *(f"{v:08x}" for v in row[13:])])
        for i, row in enumerate(rows.tolist())
    )
    log(folder / "log.tsv", list(lines))
    return folder


def assert_failed_in_one_line(done: "subprocess.CompletedProcess[str]", said: str) -> None:
    """Exit code 1, one line that says what was wrong, and no result."""
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "rror" in line]
    assert line.startswith("error: ")
    assert said in line
    assert "Traceback" not in done.stderr
    assert "fault of ctr" not in line


@pytest.mark.parametrize("limit", [100_000, 1_500_000])
def test_file_that_may_not_grow_leaves_nothing(limit: int, log_folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files, as a full disk, met while rows are laid aside or while the spec is written."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert_failed_in_one_line(run_prepare(log_folder, tmp_path / "out", limited), "File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Callable[[int], Path]]:
    """Mounts a disk of so many kB."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk{kilobytes}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip() if done else 'there is no mount'}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kilobytes", [64, 3000, 12_000])
def test_full_disk_leaves_nothing(kilobytes: int, log_folder: Path, small_disk: Callable[[int], Path]) -> None:
    """Full at once, while rows are laid aside, or while shards or the spec are written."""
    disk = small_disk(kilobytes)
    assert_failed_in_one_line(run_prepare(log_folder, disk / "out"), "No space left on device")
    assert list(disk.iterdir()) == []


def test_second_run_over_a_finished_folder_says_so(log_folder: Path, tmp_path: Path) -> None:
    """Nothing in it changes."""
    first = run_prepare(log_folder, tmp_path / "out")
    assert first.returncode == 0, first.stderr
    before = files_of(tmp_path / "out")
    second = run_prepare(log_folder, tmp_path / "out")
    assert second.returncode == 2
    assert "out exists already and is left as it is" in second.stderr
    assert files_of(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_many_rejects_replace_nothing(tmp_path: Path) -> None:
    """A good folder from before stays, and no other appears."""
    good = small_log(tmp_path / "good.tsv", 50)
    prepare_small([good], tmp_path / "out")
    before = files_of(tmp_path / "out")
    bad = log(tmp_path / "bad.tsv", ["?"] * 5)
    for out in ("out", "new"):
        with pytest.raises(BadInput):
            prepare_small([good, bad], tmp_path / out)
    assert files_of(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tsv", "good.tsv", "out"]


FLAT = """
import sys
from pathlib import Path
from features import blocks
from features.memory import peak_rss_mb
from features.prepare import prepare
from features.schema import Schema
from features.split import Split

blocks.BLOCK_BYTES = 2**18
manifest = prepare([sys.argv[1]], Path(sys.argv[2]), schema=Schema.model_validate_json(sys.argv[3]), fitted=None,
                   split=Split("time", 0.1, 0.1, 0), shard_rows=8192, max_reject_rate=0.01, seed=0,
                   progress=lambda stage, done, total: None)
print(manifest["rows"], peak_rss_mb())
"""


@pytest.mark.processes
def test_memory_of_both_passes_is_flat(tmp_path: Path) -> None:
    """Five times the rows take the same memory, but for a tenth."""
    lines = small_log(tmp_path / "part.tsv", 40_000).read_bytes()
    peaks: list[float] = []
    for name, times in (("few", 2), ("many", 10)):
        (tmp_path / f"{name}.tsv").write_bytes(lines * times)
        arguments = [str(tmp_path / f"{name}.tsv"), str(tmp_path / name), SMALL.model_dump_json()]
        done = subprocess.run(
            [sys.executable, "-c", FLAT, *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(features.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        rows, peak = done.stdout.split()
        assert int(rows) == 40_000 * times
        peaks.append(float(peak))
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_failure_leaves_no_parent_folders(tmp_path: Path) -> None:
    """Those made for the output go with it; one that somebody else made stays."""
    (tmp_path / "theirs").mkdir()
    with pytest.raises(BadInput):
        prepare_small([tmp_path / "nowhere.tsv"], tmp_path / "theirs" / "a" / "b" / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "theirs"]


def test_rows_to_be_scored_need_no_weight_even_where_there_is_a_column(tmp_path: Path) -> None:
    """An empty weight costs a labelled row, not one without a label."""
    schema = SMALL.model_copy(update={"weight": "w", "header": True, "separator": ","})
    (tmp_path / "good.csv").write_text("label,w,n1,n2,a,b\n" + "1,2,1,1,x,y\n0,1,2,2,x,z\n" * 5)
    prepare_small([tmp_path / "good.csv"], tmp_path / "a", schema=schema, split=Split("none", 0, 0, 0))
    (tmp_path / "bare.csv").write_text("w,n1,n2,a,b\n,1,1,x,y\n3,2,2,x,z\n")
    fitted = load_spec(tmp_path / "a")
    manifest = prepare_small([tmp_path / "bare.csv"], tmp_path / "b", fitted=fitted, split=Split("none", 0, 0, 0))
    assert (manifest["rows"], manifest["rows_rejected"]) == (2, 0)
    assert whole(tmp_path / "b")["weight"].to_list() == [1, 1]


def test_time_axis_is_only_of_logs_in_order_of_time(tmp_path: Path) -> None:
    """Slices of a log in any order are stretches of its rows, not of time."""
    schema = SMALL.model_copy(update={"time": Time(name="ts"), "header": True, "separator": ","})
    rows = [f"{i % 2},{i * 60},1,1,x,y{i}" for i in range(480)]
    for name, lines in (("sorted", rows), ("shuffled", [rows[i * 7 % 480] for i in range(480)])):
        (tmp_path / f"{name}.csv").write_text("label,ts,n1,n2,a,b\n" + "".join(f"{line}\n" for line in lines))
        prepare_small([tmp_path / f"{name}.csv"], tmp_path / name, schema=schema)
    said = {
        name: json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))["over_time"]
        for name in ("sorted", "shuffled")
    }
    assert said["sorted"]["first"] == [i * 1200 for i in range(24)]
    assert said["sorted"]["last"] == [i * 1200 + 1140 for i in range(24)]
    assert (said["shuffled"]["first"], said["shuffled"]["last"]) == (None, None)


def test_first_range_of_quantiles_is_named_by_where_it_ends(tmp_path: Path) -> None:
    """It begins nowhere. Of 0 to 99 the parts end after 24, 49 and 74, where float32 is told apart by 1/8, 1/4, 1/2."""
    schema = Schema(numeric=(Numeric(name="x", kind="float", token="quantile", quantiles=4, min_count=1),))
    (tmp_path / "log.tsv").write_text("".join(f"{i % 2}\t{i}\n" for i in range(100)))
    prepare_small([tmp_path / "log.tsv"], tmp_path / "out", schema=schema, split=Split("none", 0, 0, 0))
    said = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    values = [entry["value"] for entry in said["fields"]["x"]["values"]]
    assert values == ["below 24.12", "from 24.12", "from 49.25", "from 74.5"]
