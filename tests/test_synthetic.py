"""The generated log: the same for the same seed, its truth, its click rate and oracle loss worked out anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from helpers import ignore, prepare_small
from sklearn.metrics import log_loss, roc_auc_score

from features import synthetic
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


def test_log_in_several_chunks_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end between rows, no chunk repeats another, and the truth goes on over them."""
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 200)
    first, second = (generate(tmp_path, name, rows=500, seed=4) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert len(set(first.read_text().splitlines())) == len(first.read_text().splitlines()) == 500
    assert pl.read_parquet(tmp_path / "a.parquet")["probability"].n_unique() == 500
    assert pl.read_parquet(tmp_path / "a.parquet")["row"].to_list() == list(range(500))


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
    """Ids of the last third that the first third does not have are more than its sampling alone would give."""
    first, last = generated.log["C4"][: ROWS // 3], generated.log["C4"][-ROWS // 3 :]
    evens, odds = first.gather_every(2), first.gather_every(2, 1)
    unseen_later = last.head(len(odds)).is_in(evens.implode()).not_().mean()
    unseen_at_once = odds.is_in(evens.implode()).not_().mean()
    assert isinstance(unseen_later, float)
    assert isinstance(unseen_at_once, float)
    assert unseen_later > unseen_at_once + 0.02


def test_folder_in_place_of_the_log_is_refused(tmp_path: Path) -> None:
    """And nothing is left beside it."""
    (tmp_path / "log.tsv").mkdir()
    with pytest.raises(BadInput, match="is a folder"):
        generate(tmp_path, "log", rows=10)
    assert [path.name for path in tmp_path.iterdir()] == ["log.tsv"]
