"""What benches of model quality share: a generated log, prepared, and the scores of a run's models."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr.arm_runs import ArmRuns
from ctr.config import Config
from ctr.console import groups_progress, say
from ctr.data import Data, open_data
from ctr.intervals import retraining_interval
from ctr.launch import train_run
from ctr.metrics import churn
from ctr.runs import scores_file
from ctr.search import Found

# What a codistilled model is set against.
ARMS = ["single", "ensemble", "codistilled", "label_smoothing", "single_ema", "ensemble_ema"]

Array = NDArray[np.float64]


def quiet_tracking(folder: Path) -> None:
    """Runs are filed in a store of this bench's own, which ends with it."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"


def click_log(folder: Path, *, rows: int, seed: int) -> tuple[Data, Path]:
    """A generated log, prepared with the defaults, and where its true click probabilities are."""
    log, truth = folder / "log.tsv", folder / "truth.parquet"
    _ctr("synth", "--rows", str(rows), "--seed", str(seed), "--out", str(log), "--truth", str(truth))
    return prepared(log, folder / "data"), truth


def prepared(log: Path, out: Path, *words: str) -> Data:
    """A log prepared as the words of the command line say."""
    _ctr("prepare", str(log), "--out", str(out), *words)
    return open_data(out)


def test_predictions(data: Data, out: Path, config: Config) -> tuple[dict[str, Found], dict[str, list[Array]]]:
    """Searches and trains the arms of the configuration in a new folder: what was found, and the probabilities of the
    test rows `[rows]` of each arm's retrainings.
    """
    out.mkdir()
    with groups_progress() as bars:
        runs = ArmRuns(data, out, config, ["test"], bars)
        found = runs.search()
        trained = runs.train(found, say)
    return found, {arm: [one.predictions["test"] for one in each] for arm, each in trained.items()}


def mean_churn(predictions: Sequence[Array]) -> float:
    """Mean churn of each retraining and the next."""
    return float(np.mean([churn(a, b) for a, b in pairwise(predictions)]))


def print_arms(losses: Mapping[str, Array], churns: Mapping[str, float]) -> None:
    """A table: each arm's mean log loss (nats), its differences from the single model's and from the ensemble's with
    their standard errors, and its churn; `losses` `[trainings]` of an arm pair with the others'.
    """
    against = f"{'minus single (s.e.)':<20}{'minus ensemble':<18}"
    print(f"{'':<16} {'log loss':>9}  {against} {'churn':>7} {'of single':>10}")
    for arm, loss in losses.items():
        against = "  ".join(f"{_difference(loss - losses[other]):<18}" for other in ("single", "ensemble"))
        print(f"{arm:<16} {loss.mean():9.5f}  {against} {churns[arm]:7.4f} {churns[arm] / churns['single']:10.2f}")


def interval_text(differences: Array) -> str:
    """Mean of differences `[trainings]` (nats) and its 95 % interval over them."""
    found = retraining_interval(differences)
    if found is None:
        return f"{differences.mean():+.5f}"
    return "{:+.5f} (95 %: {:+.5f} to {:+.5f})".format(*found)


def _difference(each: Array) -> str:
    if not each.any():
        return "-"
    return f"{each.mean():+.5f} ({each.std(ddof=1) / np.sqrt(len(each)):.5f})"


def print_found(found: Mapping[str, Found]) -> None:
    """The best settings that the search of each kind of run found."""
    for kind, one in found.items():
        values = ", ".join(f"{key} {value:.4g}" for key, value in one.settings.items())
        print(f"best of {one.trials} for {kind}: {values}; validation {one.log_loss:.5f}")


def served_scores(data: Data, run: Path, config: Config) -> NDArray[np.float64]:
    """Trains a run; the probabilities `[rows]` of the test part by the group that serves."""
    with groups_progress() as bars, bars.run(run.name) as follow:
        result = train_run(data, run, config, follow=follow, score=["test"])
    return pl.read_parquet(scores_file(run, result["served_group"], "test"))["probability"].to_numpy()


def _ctr(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ctr", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
