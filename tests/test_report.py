"""What a prepared folder says of its fields, against figures worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from features.drift import population_stability, stability
from features.prepare import prepare
from features.report import distinct_values
from features.schema import Categorical, Numeric, Schema
from features.split import Split

SCHEMA = Schema(
    numeric=(Numeric(name="n", min_count=1),), categorical=(Categorical(name="c", buckets=64, min_count=2),)
)


def test_shares_of_a_log_by_hand(tmp_path: Path) -> None:
    # 8 rows to train: c is a 4 times, b twice, once rare, once missing; 2 to test: one never seen, one a.
    values = ["a", "a", "b", "a", "once", "", "b", "a", "never", "a"]
    (tmp_path / "log.tsv").write_text("".join(f"{i % 2}\t{i % 4 or ''}\t{v}\n" for i, v in enumerate(values)))
    prepare(
        [str(tmp_path / "log.tsv")],
        tmp_path / "data",
        schema=SCHEMA,
        fitted=None,
        split=Split("time", 0.0, 0.2, 0),
        shard_rows=100,
        max_reject_rate=0,
        seed=0,
        progress=lambda stage, done, total: None,
    )
    said = json.loads((tmp_path / "data" / "report.json").read_text())["fields"]
    assert said["c"]["kept"] == 2
    assert said["c"]["missing"] == {"train": 1 / 8, "validation": None, "test": 0.0}
    assert said["c"]["rare"] == {"train": 1 / 8, "validation": None, "test": 0.0}
    assert said["c"]["unseen"] == {"train": 0.0, "validation": None, "test": 1 / 2}
    assert said["c"]["distinct"] == pytest.approx(-64 * math.log(60 / 64))
    assert said["n"]["missing"]["train"] == 2 / 8
    assert set(said["c"]["stability"]) == {"test"}


@pytest.mark.parametrize("values", [10, 1000, 50_000])
def test_distinct_values_are_estimated_from_the_buckets_in_use(values: int) -> None:
    random = np.random.default_rng(values)
    used = len(np.unique(random.integers(0, 2**16, values)))
    assert distinct_values(used, 2**16) == pytest.approx(values, rel=0.02)


def test_stability_index_by_hand() -> None:
    # Two values, each a group of its own: shares 2/3, 1/3 against 1/3, 2/3 (with half a row added: 20.5/31 and so on).
    p, q = np.array([20.5, 10.5]) / 31, np.array([10.5, 20.5]) / 31
    expected = float(((q - p) * np.log(q / p)).sum())
    assert population_stability([20, 10], [10, 20]) == pytest.approx(expected)
    assert population_stability([20, 10], [20, 10]) == 0


def test_stability_index_of_samples_of_one_distribution_is_small_and_of_two_large() -> None:
    random = np.random.default_rng(1)
    shares = np.arange(1, 301) ** -1.1
    shares /= shares.sum()
    first, second = random.multinomial(5000, shares), random.multinomial(2000, shares)
    unlike = random.multinomial(2000, shares[::-1])
    for ordered in (True, False):
        same = stability(np.append(first, 0), np.append(second, 0), ordered=ordered)
        assert same["stability_index"] < same["by_chance"] < 0.1
        assert not same["moved"]
        moved = stability(np.append(first, 0), np.append(unlike, 0), ordered=ordered)
        assert moved["stability_index"] > 1
        assert moved["moved"]
