"""A comparison in MLflow: each arm and retraining a top-level run, and one run for the whole."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr import tracking
from ctr.arm_runs import RETRAINING_SEEDS, Trained
from ctr.comparison_tables import comparison_rows
from ctr.config import Config
from ctr.data import Data
from ctr.figures import Scored, found_settings
from ctr.metrics import Array
from ctr.plots import reliability_plot, roc_plot, score_histogram
from ctr.search import Found

# Steps and log loss (nats).
Curve = Sequence[tuple[int, float]]

_DIFFERENCES = ("better", "worse", "mean", "sentence")


def log_comparison(
    data: Data,
    out: Path,
    config: Config,
    result: Mapping[str, Any],
    labels: Array,
    weights: Array | None,
    trained: Mapping[str, list[Trained]],
    scored: Mapping[str, list[Scored]],
    curves: Mapping[str, list[Curve]],
    found: Mapping[str, Found],
    page: Path,
    differences: str | None,
) -> None:
    """Writes figures, plots, data sets and models of all arms, and tables and page of the comparison.

    Args:
        labels: of the test rows, `[rows]`, like the `weights`, if any.
        scored: the figures of each arm's retrainings on the test part.
        curves: their `learning_curves`.
        differences: the plot of arms against one another, SVG text, if there is one.
    """
    datasets = _datasets(data)
    # Of a comparison that was stopped while it was written here.
    tracking.delete_runs(config.tracking.experiment, {"comparison_id": result["id"]})
    shared = {
        "comparison": out.name,
        "comparison_id": result["id"],
        "data_digest": data.digest,
        "spec_digest": data.spec.digest,
    }
    run_ids: list[str] = []
    for arm, each in trained.items():
        best = found_settings(arm, found)
        for retraining, one in enumerate(each):
            tags = {**shared, "kind": "arm", "arm": arm, "retraining": str(retraining), "group": arm}
            seed = config.train.seed + RETRAINING_SEEDS * retraining
            params = {"arm": arm, "retraining": retraining, "seed": seed, **(best["settings"] if best else {})}
            name = f"{out.name}/{arm}-{retraining}"
            run_id = tracking.start_run(config.tracking.experiment, name, tags=tags, params=params)
            run_ids.append(run_id)
            figures = scored[arm][retraining]
            metrics = {f"test_{key}": value for key, value in figures.evaluation.as_dict().items() if key != "rows"}
            tracking.log_metrics(run_id, {**metrics, **result["arms"][arm]["costs"]}, retraining)
            if points := curves[arm][retraining]:
                tracking.log_curve(run_id, "validation_log_loss", points)
            scores = score_histogram(labels, one.predictions["test"], weights)
            tracking.log_texts(run_id, {**_plots(f"{arm}-{retraining}", figures), "plots/scores.svg": scores})
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
    note = _note(result, tracking.compare_page(config.tracking.experiment, run_ids))
    run_id = _log_whole(out, config, result, {**shared, "mlflow.note.content": note}, datasets)
    tracking.log_files(run_id, {"": page})
    if differences:
        tracking.log_texts(run_id, {"plots/differences.svg": differences})
    tracking.end_run(run_id, "FINISHED")


def learning_curves(trained: Mapping[str, list[Trained]]) -> dict[str, list[Curve]]:
    """Of each arm's retrainings the log loss on the validation part by step; empty where none was kept."""
    return {
        arm: [tracking.curve(one.run_id, "log_loss") if one.run_id else [] for one in each]
        for arm, each in trained.items()
    }


def _plots(name: str, scored: Scored) -> dict[str, str]:
    plots = {"plots/reliability.svg": reliability_plot({name: scored.reliability})}
    if scored.roc is not None:
        plots["plots/roc.svg"] = roc_plot({name: scored.roc}, {name: scored.evaluation.auc})
    return plots


def _note(result: Mapping[str, Any], page: str) -> str:
    """What MLflow's UI shows above the run of the whole comparison, in Markdown."""
    columns, rows = comparison_rows(result)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns), *(" | ".join(row) for row in rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    said = "\n".join(f"- {sentence}" for sentence in result["sentences"])
    # The UI folds all but the first lines.
    return f"[All retrainings side by side]({page})\n\n{table}\n\n{said}\n"


def _log_whole(
    out: Path, config: Config, result: Mapping[str, Any], shared: dict[str, str], datasets: list[dict[str, str]]
) -> str:
    """Figures and tables of the comparison; returns the run, which is still open."""
    tags = {**shared, "kind": "comparison", "winner": result["winner"] or "none"}
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
    return run_id


def _datasets(data: Data) -> list[dict[str, str]]:
    """The prepared data and the feature spec; MLflow takes digests of at most 36 characters."""
    rows = json.dumps({name: part.rows for name, part in data.parts.items()})
    source = str(data.folder.resolve())
    shards = {"name": data.folder.name, "digest": data.digest[:36], "source": source, "profile": rows}
    fields = json.dumps({"fields": data.spec.id_fields, "dense": data.spec.dense_fields})
    spec = {"name": "feature-spec", "digest": data.spec.digest[:36], "source": source, "profile": fields}
    return [{**shards, "context": "comparison"}, {**spec, "context": "features"}]
