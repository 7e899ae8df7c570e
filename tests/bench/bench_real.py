"""The arms of a comparison on real rows: `python tests/bench/bench_real.py LOG.tsv.gz`, about 10 minutes.

The log is divided at random, anew for each of `--splits`: a tenth of the rows for early stopping, `--test` of them to
score. Every arm has the settings of `--config` (or, with `--trials`, its own best among that many) and is trained
`--retrainings` times in each split. Prints for each split and for the mean over them each arm's log loss (nats), its
differences from the single model's and from the average of two with their standard errors (over the trainings of a
split; over splits for the mean), and churn from one retraining to the next; then whether codistilled is better than
single in the mean and its churn at most .90 of single's. Exit code 1 if not.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from shared import ARMS, interval_text, mean_churn, prepared, print_arms, print_found, quiet_tracking, test_predictions

from ctr.config import load_config
from ctr.data import labels_of
from ctr.metrics import evaluate

SMALL = Path(__file__).parents[2] / "configs" / "small.yaml"
CHURN = 0.90


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--config", type=Path, default=SMALL)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--test", type=float, default=0.3, help="share of the rows")
    parser.add_argument("--retrainings", type=int, default=3)
    parser.add_argument("--trials", type=int, default=0, help="of each arm's search; 0: one setting for all")
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all arms")
    given = parser.parse_args()
    how = [f"compare.arms=[{','.join(given.arms)}]", f"compare.retrainings={given.retrainings}"]
    losses: dict[str, list[float]] = {arm: [] for arm in given.arms}
    churns: dict[str, list[float]] = {arm: [] for arm in given.arms}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quiet_tracking(folder)
        for split in range(given.splits):
            seed = f"train.seed={split}"
            cut = ["prepare.split=random", "prepare.validation=0.1", f"prepare.test={given.test}", seed]
            words = [word for setting in cut for word in ("--set", setting)]
            data = prepared(given.log, folder / f"data-{split}", "--config", str(given.config), *words)
            config = load_config(given.config, [seed, f"compare.trials={given.trials}", *how, *given.set])
            chosen, found = test_predictions(data, folder / f"split-{split}", config)
            labels = labels_of(data.parts["test"])
            each = {arm: np.array([evaluate(labels, p).log_loss for p in made]) for arm, made in found.items()}
            churn = {arm: mean_churn(made) for arm, made in found.items()}
            print(f"split {split}: {data.parts['train'].rows:,} rows to train on, {len(labels):,} to test on")
            print_found(chosen)
            print_arms(each, churn)
            for arm in given.arms:
                losses[arm].append(float(each[arm].mean()))
                churns[arm].append(churn[arm])
    print(f"mean of {given.splits} splits, {given.retrainings} retrainings each, {os.cpu_count()} cores", *given.set)
    mean = {arm: float(np.mean(each)) for arm, each in churns.items()}
    whole = {arm: np.array(each) for arm, each in losses.items()}
    print_arms(whole, mean)
    for other in ("single", "ensemble", "single_ema", "ensemble_ema"):
        if other in whole:
            print(f"codistilled minus {other}: {interval_text(whole['codistilled'] - whole[other])}")
    better = float(np.mean(losses["codistilled"]) - np.mean(losses["single"]))
    ratio = mean["codistilled"] / mean["single"]
    print(f"codistilled minus single {better:+.5f} (below 0: {'yes' if better < 0 else 'NO'})")
    print(f"churn of codistilled {ratio:.2f} of single's (at most {CHURN}: {'yes' if ratio <= CHURN else 'NO'})")
    sys.exit(0 if better < 0 and ratio <= CHURN else 1)


if __name__ == "__main__":
    main()
