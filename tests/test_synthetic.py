"""The generated log: the same for the same seed, its truth, its click rate and oracle loss worked out anew."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import ignore, prepare_small
from sklearn.metrics import log_loss, normalized_mutual_info_score, roc_auc_score

from features import synthetic
from features.draws import normal, stream, uniform
from features.errors import BadInput
from features.prepare import Split
from features.schema import criteo
from features.synthetic import synth

ROWS = 12_000


@dataclass(frozen=True)
class Generated:
    """A log, its truth, and what `synth` returned."""

    path: Path
    log: pl.DataFrame
    truth: pl.DataFrame
    result: dict[str, Any]


def generate(folder: Path, name: str, *, rows: int, days: int = 3, seed: int = 0) -> Path:
    """A log called `name`, with its truth beside it."""
    path = folder / f"{name}.tsv"
    synth(path, rows=rows, days=days, seed=seed, truth=folder / f"{name}.parquet", progress=ignore)
    return path


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """Three days of clicks."""
    folder = tmp_path_factory.mktemp("synthetic")
    path, truth = folder / "log.tsv", folder / "truth.parquet"
    result = synth(path, rows=ROWS, days=3, seed=11, truth=truth, progress=ignore)
    types = {name: pl.Int64 if name[0] in "lI" else pl.String for name in criteo().columns}
    log = pl.read_csv(path, separator="\t", has_header=False, new_columns=criteo().columns, schema=types)
    return Generated(path, log, pl.read_parquet(truth), result)


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Of the log and of the truth."""
    first, second = (generate(tmp_path, name, rows=500, seed=4) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    """Other rows, and other values in them."""
    first, second = (generate(tmp_path, str(seed), rows=500, seed=seed) for seed in (4, 5))
    lines, others = first.read_text().splitlines(), second.read_text().splitlines()
    assert len(lines) == len(others) == 500
    assert not set(lines) & set(others)


@pytest.mark.parametrize(("chunk_rows", "threads"), [(200, 1), (200, 3), (7, 2), (499, 2)])
def test_chunks_and_threads_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, threads: int
) -> None:
    """The same bytes whatever is made at a time and beside what; no row repeats another, the truth goes on."""
    whole = generate(tmp_path, "whole", rows=500, seed=4)
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(threads)), raising=False)
    pieces = generate(tmp_path, "pieces", rows=500, seed=4)
    assert pieces.read_bytes() == whole.read_bytes()
    assert len(set(pieces.read_text().splitlines())) == len(pieces.read_text().splitlines()) == 500
    truth = pl.read_parquet(tmp_path / "pieces.parquet")
    assert truth.equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert truth["row"].to_list() == list(range(500))
    assert truth["probability"].n_unique() == 500


def test_failure_in_a_later_chunk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the log nor the truth, nor a part of either."""

    def full(stage: str, done: int, total: int) -> None:
        if done == 400:
            raise OSError("disk full")

    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 200)
    with pytest.raises(OSError, match="disk full"):
        synth(tmp_path / "log.tsv", rows=500, days=1, seed=0, truth=tmp_path / "truth.parquet", progress=full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Seven times the rows, the same peak: keeping the truth alone would take 10 MB more, keeping the text 150 MB."""
    # Not getrusage: its peak is the parent's, pytest's, where that is more.
    script = """
import sys
from pathlib import Path
from features import synthetic
synthetic.CHUNK_ROWS = 5_000
out = Path(sys.argv[1])
synthetic.synth(out, rows=int(sys.argv[2]), days=7, seed=0, truth=out.with_suffix(".parquet"), progress=print)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

    def peak_mb(rows: int) -> float:
        command = [sys.executable, "-c", script, str(tmp_path / "log.tsv"), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1]) / 1024

    assert peak_mb(700_000) < peak_mb(100_000) + 6


def test_a_small_log_is_quick(tmp_path: Path) -> None:
    """No table as large as a vocabulary is made first, though C3 has ten million values to draw from."""
    began = time.perf_counter()
    generate(tmp_path, "log", rows=500)
    assert time.perf_counter() - began < 0.4


def test_progress_is_told_after_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows of how many."""
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 200)
    told: list[tuple[str, int, int]] = []
    synth(
        tmp_path / "log.tsv", rows=500, days=1, seed=0, truth=None,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )  # fmt: skip
    assert told == [("generating", 200, 500), ("generating", 400, 500), ("generating", 500, 500)]
    assert [path.name for path in tmp_path.iterdir()] == ["log.tsv"]


def test_log_has_criteos_columns(generated: Generated) -> None:
    """Forty of them, a label of 0 or 1 first, then counts, then eight hexadecimal digits."""
    assert generated.log.shape == (ROWS, 40)
    assert set(generated.log["label"].unique()) == {0, 1}
    for name in criteo().columns[14:]:
        assert generated.log[name].drop_nulls().str.contains(r"^[0-9a-f]{8}$").all()


def test_log_is_prepared_without_a_rejected_row(generated: Generated, tmp_path: Path) -> None:
    """Through the real feature line."""
    manifest = prepare_small(
        [generated.path], tmp_path / "out", schema=criteo(), split=Split("none", 0, 0, 0), max_reject_rate=0.0
    )
    assert (manifest["rows"], manifest["rows_rejected"]) == (ROWS, 0)
    assert manifest["parts"]["train"]["click_rate"] == pytest.approx(generated.result["click_rate"])


def test_every_column_varies_and_some_have_gaps(generated: Generated) -> None:
    """As in a real log."""
    gaps = [generated.log[name].null_count() / ROWS for name in criteo().columns[1:]]
    assert all(generated.log[name].n_unique() > 2 for name in criteo().columns[1:])
    assert max(gaps) > 0.3
    assert max(gaps) < 0.9
    assert min(gaps) == 0.0


def test_truth_is_aligned_with_the_log(generated: Generated) -> None:
    """Row by row, the click drawn is the label."""
    assert generated.truth["row"].to_list() == list(range(ROWS))
    assert generated.truth["click"].to_list() == generated.log["label"].to_list()


def test_clicks_are_drawn_from_the_true_probabilities(generated: Generated) -> None:
    """In each tenth of the rows by probability the click rate is within four standard errors of the mean."""
    truth = generated.truth.sort("probability")
    assert truth["probability"].is_between(0, 1, closed="none").all()
    for part in truth.iter_slices(ROWS // 10):
        p = part["probability"].to_numpy()
        error = np.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(part["click"].to_numpy().mean() - p.mean()) < 4 * error


def test_click_rate_is_plausible(generated: Generated) -> None:
    """About a quarter, as in the public data set, and as the log says."""
    rate = generated.result["click_rate"]
    assert 0.15 < rate < 0.35
    assert rate == pytest.approx(generated.log["label"].to_numpy().mean(), rel=1e-12)
    assert generated.result["rows"] == ROWS


def test_oracle_loss_is_that_of_the_true_probabilities(generated: Generated) -> None:
    """As scikit-learn works it out from the truth file."""
    expected = log_loss(generated.truth["click"].to_numpy(), generated.truth["probability"].to_numpy())
    assert generated.result["oracle_log_loss"] == pytest.approx(float(expected), rel=1e-9)


def test_there_is_something_to_learn(generated: Generated) -> None:
    """True probabilities rank well, and are far better than the click rate alone."""
    rate = generated.result["click_rate"]
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert generated.result["oracle_log_loss"] < 0.9 * entropy
    assert roc_auc_score(generated.truth["click"].to_numpy(), generated.truth["probability"].to_numpy()) > 0.75


def test_new_values_appear_as_days_go_by(generated: Generated) -> None:
    """The further from the first day, the more ids it does not have: more than its sampling alone would give."""
    days = [generated.log["C4"].slice(day * ROWS // 3, ROWS // 3).drop_nulls() for day in range(3)]
    evens, odds = days[0].gather_every(2), days[0].gather_every(2, 1)
    unseen = [float((~ids.is_in(evens.implode())).to_numpy().mean()) for ids in (odds, *days[1:])]
    assert unseen[1] > unseen[0] + 0.02
    assert unseen[2] > unseen[1] + 0.01


def test_vocabularies_go_from_three_values_to_as_many_as_one_likes(generated: Generated) -> None:
    """One in two users has not been met before; top values have from hardly anything to nine tenths of the rows."""
    distinct = {name: generated.log[name].drop_nulls().n_unique() for name in criteo().columns[14:]}
    assert distinct["C9"] == 3
    assert distinct["C3"] > ROWS / 2
    assert len([count for count in distinct.values() if 100 < count < ROWS / 3]) > 8
    tops = {name: generated.log[name].drop_nulls().value_counts()["count"].to_numpy().max() for name in distinct}
    assert tops["C9"] > 0.85 * ROWS
    assert 0.45 * ROWS < tops["C1"] < 0.55 * ROWS
    # Zipf's law: though most users come once, the first comes in one row of 25.
    assert 0.03 * ROWS < tops["C3"] < 0.06 * ROWS


def test_missing_values_carry_signal(generated: Generated) -> None:
    """Users without a history click less often, by ten standard errors and more."""
    click = generated.log["label"].to_numpy()
    for name in ("I1", "I4", "C6"):
        absent = generated.log[name].is_null().to_numpy()
        assert click[absent].mean() < click[~absent].mean() - 0.05, name


def test_fields_of_a_kind_are_missing_together(generated: Generated) -> None:
    """As in Criteo's log, where whole groups of fields are absent from the same rows."""
    assert generated.log["I1"].is_null().equals(generated.log["I10"].is_null())
    assert not generated.log["I1"].is_null().equals(generated.log["I6"].is_null())


def test_fields_are_redundant(generated: Generated) -> None:
    """Two readings of a user's trait tell of each other, a reading of the page does not."""

    def shared(one: str, other: str) -> float:
        return float(normalized_mutual_info_score(generated.log[one].to_numpy(), generated.log[other].to_numpy()))

    assert shared("C17", "C14") < 0.06  # of two traits of a user
    assert shared("C5", "C14") > 0.15  # of one
    assert shared("C11", "C13") > 0.9  # one campaign, grouped twice


def test_clicks_drift(tmp_path: Path) -> None:
    """The chance of a click rises over the first week and falls in the third."""
    generate(tmp_path, "log", rows=ROWS, days=28)
    chance = pl.read_parquet(tmp_path / "log.parquet")["probability"].to_numpy()
    weeks = [float(week.mean()) for week in np.array_split(chance, 4)]
    assert weeks[0] > weeks[2] + 0.03
    assert weeks[1] > weeks[3] + 0.03


@pytest.mark.parametrize(("interactions", "least", "most"), [(1.0, 0.2, 1.0), (0.0, -0.1, 0.1)])
def test_pairs_of_values_interact(tmp_path: Path, interactions: float, least: float, most: float) -> None:
    """What a user's trait does to the log-odds depends on the ad's; with `interactions` at 0 it does not."""
    log, truth = tmp_path / "log.tsv", tmp_path / "truth.parquet"
    synth(log, rows=40_000, days=7, seed=3, truth=truth, progress=ignore, interactions=interactions)
    read = pl.read_csv(log, separator="\t", has_header=False, new_columns=criteo().columns, infer_schema_length=None)
    read = read.with_columns(pl.read_parquet(truth)["probability"])
    # One row an ad: otherwise the few at the head would decide, with what else they have besides the trait.
    read = read.unique("C4", keep="first", maintain_order=True)
    read = read.drop_nulls(["I7", "I8"])
    user, ad, chance = (read[name].to_numpy() for name in ("I8", "I7", "probability"))

    def log_odds(high_user: bool, high_ad: bool) -> float:
        cell = ((user > np.median(user)) == high_user) & ((ad > np.median(ad)) == high_ad)
        mean = float(chance[cell].mean())
        return float(np.log(mean / (1 - mean)))

    beyond_sum = log_odds(True, True) - log_odds(True, False) - log_odds(False, True) + log_odds(False, False)
    assert least < beyond_sum < most


def test_draws_depend_on_key_and_purpose_alone() -> None:
    """And are what their names say, for keys that follow one another."""
    keys = np.arange(100_000, dtype=np.uint64)
    even = uniform(keys, stream(1, "one"))
    assert (even[5:9] == uniform(keys[5:9], stream(1, "one"))).all()
    assert abs(np.corrcoef(even, uniform(keys, stream(1, "other")))[0, 1]) < 0.02
    assert abs(np.corrcoef(even, uniform(keys, stream(2, "one")))[0, 1]) < 0.02
    assert np.abs(np.histogram(even, 10, (0, 1))[0] - 10_000).max() < 400
    bells = normal(keys, 1)
    assert np.abs(np.cov(bells) - np.eye(4)).max() < 0.02
    assert np.abs(bells.mean(axis=1)).max() < 0.02


def test_folder_in_place_of_the_log_is_refused(tmp_path: Path) -> None:
    """And nothing is left beside it."""
    (tmp_path / "log.tsv").mkdir()
    with pytest.raises(BadInput, match="is a folder"):
        generate(tmp_path, "log", rows=10)
    assert [path.name for path in tmp_path.iterdir()] == ["log.tsv"]
