"""What benches of model quality share: a generated log, prepared, and the scores of a run's models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr.config import Config
from ctr.console import groups_progress
from ctr.data import Data, open_data
from ctr.launch import train_run
from ctr.runs import scores_file


def quiet_tracking(folder: Path) -> None:
    """Runs are filed in a store of this bench's own, which ends with it."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"


def click_log(folder: Path, *, rows: int, seed: int) -> tuple[Data, Path]:
    """A generated log, prepared with the defaults, and where its true click probabilities are."""
    log, truth = folder / "log.tsv", folder / "truth.parquet"
    _ctr("synth", "--rows", str(rows), "--seed", str(seed), "--out", str(log), "--truth", str(truth))
    _ctr("prepare", str(log), "--out", str(folder / "data"))
    return open_data(folder / "data"), truth


def served_scores(data: Data, run: Path, config: Config) -> NDArray[np.float64]:
    """Trains a run; the probabilities `[rows]` of the test part by the group that serves."""
    with groups_progress() as bars, bars.run(run.name) as follow:
        result = train_run(data, run, config, follow=follow, score=["test"])
    return pl.read_parquet(scores_file(run, result["served_group"], "test"))["probability"].to_numpy()


def _ctr(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ctr", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
