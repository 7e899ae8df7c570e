"""The default configuration against logistic regression and LightGBM: `python tests/bench/bench_baselines.py`.

Two million generated rows whose true click probabilities are known, divided by time: 80 % to train, 10 % to choose
settings by, 10 % to score, the same for all. Prints each one's log loss (nats) and AUC on the test rows and the paired
95 % interval over rows of what the served codistilled model is better by. Wants `pip install -e .[bench]`.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightgbm  # pyright: ignore[reportMissingImports]
import numpy as np
from numpy.typing import NDArray
from shared import click_log, quiet_tracking, served_scores

from ctr.baselines import logistic_regression
from ctr.compare import true_probabilities
from ctr.config import load_config
from ctr.data import Data, in_order, labels_of
from ctr.intervals import paired_interval
from ctr.metrics import evaluate, row_log_loss

# Of LightGBM; which of them, and how many trees, the validation rows decide.
LEAVES, MOST_TREES, PATIENCE = (63, 255), 2000, 50


def boosted(data: Data, seed: int) -> NDArray[np.float64]:
    """LightGBM's predictions on the test part: categorical ids as categories, numbers as numbers."""
    fields = data.spec.id_fields
    chosen = [i for i, name in enumerate(fields) if name not in data.spec.dense_fields]

    def columns(part: str) -> Any:
        each = [np.hstack([rows.ids[:, chosen], rows.dense]) for rows in in_order(data.parts[part], 65_536)]
        return np.concatenate(each).astype(np.float32)

    categories = list(range(len(chosen)))
    train = lightgbm.Dataset(
        columns("train"),
        labels_of(data.parts["train"]),
        categorical_feature=categories,
        free_raw_data=False,
        params={"bin_construct_sample_cnt": 10**9},  # categories of all rows, not of a sample
    )
    held_out = train.create_valid(columns("validation"), labels_of(data.parts["validation"]))
    best: Any = None
    for leaves in LEAVES:
        how = {"objective": "binary", "metric": "binary_logloss", "learning_rate": 0.1, "num_leaves": leaves}
        how |= {"num_threads": os.cpu_count(), "seed": seed, "deterministic": True, "verbose": -1}
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        model = lightgbm.train(how, train, MOST_TREES, valid_sets=[held_out], callbacks=[stop])
        loss = model.best_score["valid_0"]["binary_logloss"]
        print(f"LightGBM, {leaves} leaves, {model.best_iteration} trees: validation {loss:.5f}", file=sys.stderr)
        best = model if best is None or loss < best.best_score["valid_0"]["binary_logloss"] else best
    return np.asarray(best.predict(columns("test")), np.float64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=1, help="of the log and the models; defaults were chosen on 0")
    parser.add_argument("settings", nargs="*", help="key=value, for the codistilled model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quiet_tracking(folder)
        data, truth = click_log(folder, rows=given.rows, seed=given.seed)
        labels = labels_of(data.parts["test"])
        config = load_config(None, [*given.settings, f"train.seed={given.seed}"])
        ways = {
            "codistilled, default configuration": lambda: served_scores(data, folder / "run", config),
            "LightGBM": lambda: boosted(data, given.seed),
            "logistic regression": lambda: logistic_regression(
                data, ["test"], seed=given.seed, say=lambda text: print(text, file=sys.stderr)
            )["test"],
            "true probabilities": lambda: true_probabilities(truth, data),
        }
        scores: dict[str, NDArray[np.float64]] = {}
        print(f"{given.rows:,} rows, seed {given.seed}, {os.cpu_count()} cores; test rows: {len(labels):,}")
        for name, score in ways.items():
            began = time.monotonic()
            scores[name] = score()
            found = evaluate(labels, scores[name])
            took = time.monotonic() - began
            print(f"{name:<36} log loss {found.log_loss:.5f}  AUC {found.auc:.4f}  {took:6.0f} s", flush=True)
    first, *others = list(scores)
    for name in others[:2]:
        less = row_log_loss(labels, scores[name]) - row_log_loss(labels, scores[first])
        mean, low, high = paired_interval(less, seed=given.seed)
        print(f"{first}, is better than {name} by {mean:.5f} (95 %: {low:.5f} to {high:.5f})")


if __name__ == "__main__":
    main()
