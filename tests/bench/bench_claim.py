"""Is one codistilled model as good as the average of two? `python tests/bench/bench_claim.py`, about 12 minutes.

A generated log whose true click probabilities are known, prepared with the defaults; every arm has the default
configuration, one learning rate and early stopping, and is trained `--retrainings` times. Seeds are new each time
unless `--seed` gives them. With `--trials` each arm has its own best settings among so many, which takes an hour
instead of a quarter of one. Predictions on the test rows are scored by their expected log loss under the true
probabilities (nats), which leaves the luck of the clicks out. Prints each arm's, its difference from the single
model's and from the average of two with the standard error over retrainings, churn from one retraining to the next, and
a verdict; exit code 1 if the claim does not stand. The verdict is on models that serve their last weights against the
codistilled one as configured; the rivals that serve the average of their past weights, as it does, stand beside them.
"""

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shared import ARMS, click_log, interval_text, mean_churn, print_arms, print_found, quiet_tracking, test_predictions

from ctr.compare import true_probabilities
from ctr.config import load_config

# What the claim allows: nats above the ensemble, nats below the single model, churn of the single model's.
ABOVE_ENSEMBLE, BELOW_SINGLE, CHURN = 0.0004, 0.0008, 0.87


def expected_log_loss(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Mean cross-entropy (nats) of predictions `[rows]` against the true probabilities."""
    kept = np.clip(predicted, 1e-7, 1 - 1e-7)
    return float(np.mean(-truth * np.log(kept) - (1 - truth) * np.log(1 - kept)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--retrainings", type=int, default=3)
    parser.add_argument("--trials", type=int, default=0, help="of each arm's search; 0: one setting for all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--arms", nargs="*", default=ARMS)
    parser.add_argument("settings", nargs="*", help="key=value, for all arms")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quiet_tracking(folder)
        data, truth_file = click_log(folder, rows=given.rows, seed=seed)
        how = [f"compare.arms=[{','.join(given.arms)}]", f"compare.retrainings={given.retrainings}"]
        config = load_config(None, [f"train.seed={seed}", f"compare.trials={given.trials}", *how, *given.settings])
        chosen, found = test_predictions(data, folder / "claim", config)
        truth = true_probabilities(truth_file, data)
        best = expected_log_loss(truth, truth)
        losses = {arm: np.array([expected_log_loss(truth, p) for p in each]) for arm, each in found.items()}
    print(
        f"{given.rows:,} rows, {len(truth):,} test rows, {given.retrainings} retrainings, seed {seed}, "
        f"{os.cpu_count()} cores{''.join(f', {each}' for each in given.settings)}; the truth itself: {best:.5f}"
    )
    print_found(chosen)
    churns = {arm: mean_churn(each) for arm, each in found.items()}
    print_arms(losses, churns)
    for other in ("single", "ensemble", "single_ema", "ensemble_ema"):
        if other in losses:
            print(f"codistilled minus {other}: {interval_text(losses['codistilled'] - losses[other])}")
    mean = {arm: float(loss.mean()) for arm, loss in losses.items()}
    checks = {
        f"codistilled minus ensemble at most +{ABOVE_ENSEMBLE}": (
            mean["codistilled"] - mean["ensemble"],
            ABOVE_ENSEMBLE,
        ),
        f"codistilled minus single at most -{BELOW_SINGLE}": (mean["codistilled"] - mean["single"], -BELOW_SINGLE),
        f"churn of codistilled at most {CHURN} of single's": (churns["codistilled"] / churns["single"], CHURN),
    }
    for text, (value, most) in checks.items():
        print(f"{text:<46} {value:+.5f}  {'yes' if value <= most else 'NO'}")
    stands = all(value <= most for value, most in checks.values())
    print("the claim stands" if stands else "the claim does NOT stand")
    sys.exit(0 if stands else 1)


if __name__ == "__main__":
    main()
