"""What each way to save time or bytes costs in log loss and churn: `python tests/bench/bench_shortcuts.py`.

Pairs are trained with the default configuration on generated rows, `--retrainings` times with different seeds, and
again with one setting changed at a time, the same seeds each. Printed of the served model on the test rows: log loss
(nats), its spread over retrainings (the noise of a seed), its difference from the default with the standard error over
retrainings, and churn from one retraining to the next.
"""

import argparse
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shared import click_log, quiet_tracking, served_scores

from ctr.config import load_config
from ctr.data import labels_of
from ctr.metrics import churn, row_log_loss

CHANGES = {
    "default": [],
    "float16 snapshots": ["codistillation.snapshot_dtype=float16"],
    "float32 snapshots, all whole": ["codistillation.snapshot_dtype=float32", "codistillation.full_every=1"],
    "teacher_share 1": ["codistillation.teacher_share=1"],
    "teacher_share .25": ["codistillation.teacher_share=0.25"],
    "bfloat16": ["model.compute=bfloat16"],
    "single model": ["codistillation.groups=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--retrainings", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("settings", nargs="*", help="key=value, for all")
    given = parser.parse_args()
    changes = {name: CHANGES[name] for name in dict.fromkeys(["default", *given.only])}
    scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in changes}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quiet_tracking(folder)
        data, _ = click_log(folder, rows=given.rows, seed=given.seed)
        labels = labels_of(data.parts["test"])
        for retraining in range(given.retrainings):
            for number, (name, settings) in enumerate(changes.items()):
                print(f"retraining {retraining + 1} of {given.retrainings}: {name}", file=sys.stderr)
                # Groups' seeds are 1000 apart.
                seed = f"train.seed={given.seed + 100_000 * retraining}"
                config = load_config(None, [*given.settings, *settings, seed])
                scores[name].append(served_scores(data, folder / f"run-{number}-{retraining}", config))
    losses = {name: np.array([row_log_loss(labels, each).mean() for each in found]) for name, found in scores.items()}
    print(
        f"{given.rows:,} rows, {len(labels):,} test rows, {given.retrainings} retrainings, seed {given.seed}, "
        f"{os.cpu_count()} cores{''.join(f', {each}' for each in given.settings)}"
    )
    print(f"{'':<30} {'log loss':>9} {'spread':>8}  {'minus the default (s.e.)':<26} {'churn':>7}")
    for name, loss in losses.items():
        less = loss - losses["default"]
        error = less.std(ddof=1) / np.sqrt(len(less)) if len(less) > 1 else float("nan")
        against = f"{less.mean():+.5f} ({error:.5f})" if name != "default" else "-"
        changed = np.mean([churn(a, b) for a, b in pairwise(scores[name])]) if len(less) > 1 else float("nan")
        spread = loss.std(ddof=1) if len(less) > 1 else float("nan")
        print(f"{name:<30} {loss.mean():9.5f} {spread:8.5f}  {against:<26} {changed:7.4f}")


if __name__ == "__main__":
    main()
