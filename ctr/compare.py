"""`ctr compare`: trains arms side by side, several times, and says which is better by how much."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr import tracking
from ctr.arms import RUN_OF, SINGLES, runs_of, settings_of
from ctr.baselines import average, logistic_regression
from ctr.cluster import Follow
from ctr.config import Config, dump_config
from ctr.data import Data, in_order, labels_of, weights_of
from ctr.intervals import paired_interval
from ctr.launch import train_run
from ctr.metrics import Evaluation, churn, evaluate, relative_churn, weighed_log_loss
from ctr.runs import SCORES_FILE, group_folder, is_run, read_run
from features.errors import BadInput
from features.output import file_appears_whole

RESULT_FILE = "comparison.json"
SETTINGS_FILE = "comparison-settings.json"
# Seeds of retrainings lie this far apart, further than those of a run's groups.
_RETRAINING_SEEDS = 100_000

Array = NDArray[np.float64]
Say = Callable[[str], None]
Bars = Callable[[str], AbstractContextManager[Follow]]


def compare(data: Data, out: Path, config: Config, *, truth: Path | None, progress: Bars, say: Say) -> dict[str, Any]:
    """Trains every arm `compare.retrainings` times with different seeds and compares them on the test part.

    Singles are trained once: `single` is the first of each retraining, `ensemble` their average, and they are the
    teachers of `distilled`. A
    comparison that was stopped goes on without repeating the runs that are finished. Each arm of each retraining
    becomes a top-level run in MLflow. Raises BadInput when `out` holds a finished comparison or one with other
    settings, or when there are no test rows.
    """
    if data.parts["test"].rows == 0:
        raise BadInput(f"{data.folder} has no test rows to compare on; prepare it with prepare.test above 0")
    rate = data.parts["train"].click_rate
    if rate is None or not 0 < rate < 1:
        raise BadInput(
            f"the training labels of {data.folder} are all alike (click rate {rate}); there is nothing to learn"
        )
    true_scores = None if truth is None else true_probabilities(truth, data)
    _open(out, data, config)
    labels, weights = labels_of(data.parts["test"]), weights_of(data.parts["test"])
    predictions: dict[str, list[Array]] = {arm: [] for arm in config.compare.arms}
    for retraining in range(config.compare.retrainings):
        for arm, scores in train_arms(data, out, config, retraining, progress, say).items():
            predictions[arm].append(scores)
    arms = {arm: _summary(labels, each, weights, seed=config.train.seed) for arm, each in predictions.items()}
    for arm, about in arms.items():
        about["models_served"] = config.compare.ensemble if arm == "ensemble" else 1
    winner = min(arms, key=lambda arm: arms[arm]["log_loss"]["mean"])
    sentences = _sentences(labels, predictions, weights, seed=config.train.seed)
    for arm, each in predictions.items():
        for retraining, scores in enumerate(each):
            _log_arm(out, config, data, arm, retraining, evaluate(labels, scores, weights))
    if true_scores is not None:
        arms["truth"] = _summary(labels, [true_scores], weights, seed=config.train.seed)
    result = {
        "arms": arms,
        "winner": winner,
        "sentences": sentences,
        "rows": len(labels),
        "retrainings": config.compare.retrainings,
        "data_digest": data.digest,
        "path": str(out),
    }
    with file_appears_whole(out / RESULT_FILE) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def comparison_rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The comparison as a table for people: columns, rows."""
    columns = ["arm", "log loss", "95 %", "normalised entropy", "AUC", "ECE", "churn", "models served"]
    rows: list[list[str]] = []
    for arm, about in result["arms"].items():
        loss, changed = about["log_loss"], about["churn"]
        rows.append(
            [
                arm,
                f"{loss['mean']:.5f}",
                f"{loss['low']:.5f} to {loss['high']:.5f}",
                f"{about['normalized_entropy']:.4f}",
                f"{about['auc']:.4f}",
                f"{about['ece']:.4f}",
                "-" if changed is None else f"{changed:.4f}",
                str(about.get("models_served", "-")),
            ]
        )
    return columns, rows


def _open(out: Path, data: Data, config: Config) -> None:
    settings = json.dumps({"data_digest": data.digest, "config": dump_config(config)})
    known = out / SETTINGS_FILE
    if (out / RESULT_FILE).exists():
        raise BadInput(f"comparison {out} is finished already and left as it is; choose another --out")
    if known.exists() and known.read_text(encoding="utf-8") != settings:
        raise BadInput(f"comparison {out} was begun with other settings or data; choose another --out")
    if out.exists() and not known.exists():
        raise BadInput(f"{out} exists but is no comparison and is left as it is; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    known.write_text(settings, encoding="utf-8")


def train_arms(data: Data, out: Path, config: Config, retraining: int, progress: Bars, say: Say) -> dict[str, Array]:
    """Predictions `[rows]` of every arm on the test part, of one retraining."""
    seed = config.train.seed + _RETRAINING_SEEDS * retraining
    runs: dict[str, list[Array]] = {}
    for run in runs_of(config.compare.arms):
        changed = settings_of(
            run,
            config,
            seed=seed,
            spec=data.spec,
            singles=_folder(out, SINGLES, retraining),
        )
        runs[run] = _train(data, _folder(out, run, retraining), changed, out.name, run, retraining, progress)
    found: dict[str, Array] = {}
    for arm in config.compare.arms:
        if arm == "logistic":
            found[arm] = _logistic(data, out / f"logistic-{retraining}.npy", seed, say)
        elif arm == "ensemble":
            found[arm] = average(runs[SINGLES])
        elif arm == "codistilled":
            served = read_run(_folder(out, arm, retraining))["result"]["served_group"]
            found[arm] = runs[arm][served]
        else:
            found[arm] = runs[RUN_OF[arm]][0]
    return found


def _logistic(data: Data, path: Path, seed: int, say: Say) -> Array:
    if not path.exists():
        say("fitting logistic regression")
        fitted = logistic_regression(data, "test", seed=seed, say=say)
        with file_appears_whole(path) as aside:
            np.save(aside, fitted)
    return np.load(path)


def _train(
    data: Data, folder: Path, config: Config, comparison: str, run: str, retraining: int, progress: Bars
) -> list[Array]:
    """Predictions of every group of a run on the test part; the run is trained unless it is finished already."""
    if not (is_run(folder) and read_run(folder)["status"] == "finished"):
        tags = {"comparison": comparison, "arm": run, "retraining": str(retraining)}
        with progress(f"{run} {retraining}") as follow:
            train_run(data, folder, config, follow=follow, score="test", tags=tags)
    groups = range(config.codistillation.groups)
    scores = [pl.read_parquet(group_folder(folder, group) / SCORES_FILE) for group in groups]
    return [frame["probability"].to_numpy() for frame in scores]


def _folder(out: Path, name: str, retraining: int) -> Path:
    return out / f"{name}-{retraining}"


def _summary(labels: Array, predictions: list[Array], weights: Array | None, *, seed: int) -> dict[str, Any]:
    """An arm's figures: means over its retrainings; log loss with the 95 % interval over rows."""
    each = [evaluate(labels, scores, weights) for scores in predictions]
    losses = np.mean([weighed_log_loss(labels, scores, weights) for scores in predictions], axis=0)
    mean, low, high = paired_interval(losses, seed=seed)
    pairs = list(pairwise(predictions))
    return {
        "log_loss": {
            "mean": mean,
            "low": low,
            "high": high,
            "spread": float(np.std([one.log_loss for one in each], ddof=1)) if len(each) > 1 else None,
        },
        "normalized_entropy": float(np.mean([one.normalized_entropy for one in each])),
        "auc": float(np.mean([one.auc for one in each])),
        "ece": float(np.mean([one.ece for one in each])),
        "mean_prediction": float(np.mean([one.mean_prediction for one in each])),
        "click_rate": each[0].click_rate,
        # One member per retraining: the two of a pair learned from one another.
        "churn": float(np.mean([churn(a, b) for a, b in pairs])) if pairs else None,
        "relative_churn": float(np.mean([relative_churn(a, b) for a, b in pairs])) if pairs else None,
    }


def _sentences(labels: Array, predictions: Mapping[str, list[Array]], weights: Array | None, *, seed: int) -> list[str]:
    """Every arm against every worse one, paired by rows, the best arm's first."""
    losses = {
        arm: np.mean([weighed_log_loss(labels, scores, weights) for scores in each], axis=0)
        for arm, each in predictions.items()
    }
    ranked = sorted(losses, key=lambda arm: float(losses[arm].mean()))
    sentences: list[str] = []
    for better, worse in combinations(ranked, 2):
        mean, low, high = paired_interval(losses[worse] - losses[better], seed=seed)
        retrainings = len(predictions[better])
        times = f"{retrainings} retraining{'s' if retrainings > 1 else ''}"
        chance = "" if low > 0 else "; this may be chance"
        interval = f"(95 % over rows: {low:.5f} to {high:.5f}, {times})"
        sentences.append(f"{better} is better than {worse} by {mean:.5f} nats {interval}{chance}")
    return sentences


def true_probabilities(truth: Path, data: Data) -> Array:
    """The generator's probabilities of the test rows, by row number."""
    if not truth.is_file():
        raise BadInput(f"{truth} does not exist; write it with `ctr synth --truth`")
    wanted = pl.DataFrame({"row": np.concatenate([rows.row for rows in in_order(data.parts["test"], 65_536)])})
    found = wanted.join(pl.read_parquet(truth), on="row", how="left", maintain_order="left")
    if found["probability"].null_count():
        raise BadInput(f"{truth} does not have all rows of {data.folder}; it belongs to another log")
    return found["probability"].to_numpy()


def _log_arm(out: Path, config: Config, data: Data, arm: str, retraining: int, found: Evaluation) -> None:
    tags = {"kind": "arm", "comparison": out.name, "arm": arm, "retraining": str(retraining), "group": arm}
    tags |= {"data_digest": data.digest, "spec_digest": data.spec.digest}
    params = {"arm": arm, "retraining": retraining, "seed": config.train.seed + _RETRAINING_SEEDS * retraining}
    name = f"{out.name}/{arm}-{retraining}"
    run_id = tracking.start_run(config.tracking.experiment, name, tags=tags, params=params)
    metrics = {f"test_{key}": value for key, value in found.as_dict().items() if key != "rows"}
    tracking.log_metrics(run_id, metrics, retraining)
    tracking.log_files(run_id, {"data": data.folder / "manifest.json"})
    tracking.end_run(run_id, "FINISHED")
