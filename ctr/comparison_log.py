"""A comparison in MLflow: each arm and retraining a top-level run, and one run for the whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctr import tracking
from ctr.arm_runs import RETRAINING_SEEDS, Trained
from ctr.config import Config
from ctr.data import Data, labels_of, weights_of
from ctr.figures import found_settings
from ctr.metrics import evaluate
from ctr.search import Found

_DIFFERENCES = ("better", "worse", "mean", "sentence")


def log_comparison(
    data: Data,
    out: Path,
    config: Config,
    result: Mapping[str, Any],
    trained: Mapping[str, list[Trained]],
    found: Mapping[str, Found],
) -> None:
    """Writes figures, learning curves, data sets and models of all arms, and the tables of the comparison."""
    test = data.parts["test"]
    labels, weights = labels_of(test), weights_of(test)
    datasets = _datasets(data)
    shared = {"comparison": out.name, "data_digest": data.digest, "spec_digest": data.spec.digest}
    for arm, each in trained.items():
        best = found_settings(arm, found)
        for retraining, one in enumerate(each):
            tags = {**shared, "kind": "arm", "arm": arm, "retraining": str(retraining), "group": arm}
            seed = config.train.seed + RETRAINING_SEEDS * retraining
            params = {"arm": arm, "retraining": retraining, "seed": seed, **(best["settings"] if best else {})}
            name = f"{out.name}/{arm}-{retraining}"
            run_id = tracking.start_run(config.tracking.experiment, name, tags=tags, params=params)
            figures = evaluate(labels, one.predictions["test"], weights).as_dict()
            metrics = {f"test_{key}": value for key, value in figures.items() if key != "rows"}
            tracking.log_metrics(run_id, {**metrics, **result["arms"][arm]["costs"]}, retraining)
            if one.run_id and (points := tracking.curve(one.run_id, "log_loss")):
                tracking.log_curve(run_id, "validation_log_loss", points)
            tracking.log_files(run_id, {"data": data.folder / "manifest.json"})
            tracking.log_datasets(run_id, datasets)
            if one.model:
                tracking.log_model(
                    run_id,
                    f"{arm}-{retraining}",
                    folder=one.model.resolve(),
                    params={key: str(value) for key, value in params.items()},
                    metrics=metrics,
                    data=f"{datasets[0]['name']}@{datasets[0]['digest']}",
                )
            tracking.end_run(run_id, "FINISHED")
    _log_whole(out, config, result, shared, datasets)


def _log_whole(
    out: Path, config: Config, result: Mapping[str, Any], shared: dict[str, str], datasets: list[dict[str, str]]
) -> None:
    tags = {**shared, "kind": "comparison", "winner": result["winner"]}
    params = {"arms": ",".join(result["arms"]), "retrainings": result["retrainings"]}
    run_id = tracking.start_run(config.tracking.experiment, out.name, tags=tags, params=params)
    arms = result["arms"].items()
    tracking.log_metrics(run_id, {f"test_log_loss.{arm}": about["log_loss"]["mean"] for arm, about in arms}, 0)
    table: dict[str, list[Any]] = {"arm": [arm for arm, _ in arms]}
    table |= {f"log_loss_{key}": [about["log_loss"][key] for _, about in arms] for key in ("mean", "low", "high")}
    for key in ("normalized_entropy", "auc", "ece", "churn", "relative_churn", "logit_churn"):
        table[key] = [about[key] for _, about in arms]
    tracking.log_table(run_id, table, "comparison.json")
    differences = {key: [each[key] for each in result["differences"]] for key in _DIFFERENCES}
    if result["differences"]:
        tracking.log_table(run_id, differences, "differences.json")
    tracking.log_datasets(run_id, datasets)
    tracking.end_run(run_id, "FINISHED")


def _datasets(data: Data) -> list[dict[str, str]]:
    """The prepared data and the feature spec; MLflow takes digests of at most 36 characters."""
    rows = json.dumps({name: part.rows for name, part in data.parts.items()})
    source = str(data.folder.resolve())
    shards = {"name": data.folder.name, "digest": data.digest[:36], "source": source, "profile": rows}
    fields = json.dumps({"fields": data.spec.id_fields, "dense": data.spec.dense_fields})
    spec = {"name": "feature-spec", "digest": data.spec.digest[:36], "source": source, "profile": fields}
    return [{**shards, "context": "comparison"}, {**spec, "context": "features"}]
