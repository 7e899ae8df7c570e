"""`ctr compare`: trains arms side by side, several times, and says which is better by how much."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr import figures
from ctr.arm_runs import ArmRuns, Trained
from ctr.comparison_log import learning_curves, log_comparison
from ctr.comparison_page import draw_figures, write_comparison_page
from ctr.config import Config, dump_config
from ctr.console import Bars
from ctr.data import Data, Part, in_order, labels_of, weights_of
from ctr.held_out import refuse_seen_rows
from ctr.launch import interrupt_on_sigterm
from ctr.metrics import evaluate
from ctr.search import Found
from ctr.segments import time_slices
from features.errors import BadInput, did_you_mean
from features.output import file_appears_whole

RESULT_FILE = "comparison.json"
REPORT_FILE = "report.html"
SETTINGS_FILE = "comparison-settings.json"
_TIME, _TIME_SLICES = "time", 5
_MEANING = {0: "missing", 1: "rare"}
_BATCH = 65_536

Array = NDArray[np.float64]
Say = Callable[[str], None]


def compare(data: Data, out: Path, config: Config, *, truth: Path | None, bars: Bars, say: Say) -> dict[str, Any]:
    """Searches every arm's settings, trains it `compare.retrainings` times, and compares all on the test part.

    Singles are trained once: `single` is the first of each retraining, `ensemble` their average, and they are the
    teachers of `distilled`. A comparison that was stopped goes on without repeating the runs that are finished. Each
    arm of each retraining becomes a top-level run in MLflow. Raises BadInput when `out` holds a finished comparison or
    one with other settings, when there are no test rows, or when held-out rows are among the training rows.
    """
    _check(data, config)
    segments = _segments(data.parts["test"], data.spec.id_fields, config)
    true_scores = None if truth is None else true_probabilities(truth, data)
    refuse_seen_rows(data)
    name = _open(out, data, config)
    interrupt_on_sigterm()
    runs = ArmRuns(data, out, config, [name for name in ("validation", "test") if data.parts[name].rows], bars)
    found = runs.search()
    trained = runs.train(found, say)
    test = data.parts["test"]
    labels, weights = labels_of(test), weights_of(test)
    predictions = {arm: [one.predictions["test"] for one in each] for arm, each in trained.items()}
    scored = {arm: [figures.score(labels, one, weights) for one in each] for arm, each in predictions.items()}
    result = {
        "id": name,
        **_figures(data, config, labels, weights, trained, scored, found, segments, true_scores),
        "retrainings": config.compare.retrainings,
        "data_digest": data.digest,
        "spec_digest": data.spec.digest,
        "data": str(data.folder),
        "path": str(out),
        "report": str(out / REPORT_FILE),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    say(f"writing {out / REPORT_FILE}, and figures and plots to MLflow")
    curves = learning_curves(trained)
    shown = draw_figures(
        result,
        labels,
        weights,
        {arm: each[0] for arm, each in predictions.items()},
        {arm: each[0] for arm, each in scored.items()},
        {arm: each[0] for arm, each in curves.items()},
    )
    page = out / REPORT_FILE
    write_comparison_page(result, shown, page)
    log_comparison(data, out, config, result, labels, weights, trained, scored, curves, found, page, shown.differences)
    with file_appears_whole(out / RESULT_FILE) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def true_probabilities(truth: Path, data: Data) -> Array:
    """The generator's probabilities of the test rows, by row number."""
    if not truth.is_file():
        raise BadInput(f"{truth} does not exist; write it with `ctr synth --truth`")
    wanted = pl.DataFrame({"row": np.concatenate([rows.row for rows in in_order(data.parts["test"], _BATCH)])})
    found = wanted.join(pl.read_parquet(truth), on="row", how="left", maintain_order="left")
    if found["probability"].null_count():
        raise BadInput(f"{truth} does not have all rows of {data.folder}; it belongs to another log")
    return found["probability"].to_numpy()


def _check(data: Data, config: Config) -> None:
    if data.parts["test"].rows == 0:
        raise BadInput(f"{data.folder} has no test rows to compare on; prepare it with prepare.test above 0")
    rate = data.parts["train"].click_rate
    if rate is None or not 0 < rate < 1:
        raise BadInput(
            f"the training labels of {data.folder} are all alike (click rate {rate}); there is nothing to learn"
        )
    averaged = [arm for arm in config.compare.arms if arm.endswith("_ema")]
    if averaged and not config.train.ema:
        raise BadInput(f"train.ema is 0, so {averaged[0]} would be no other than without; give it a value such as .995")
    if config.compare.trials and not data.parts["validation"].rows:
        raise BadInput(
            f"{data.folder} has no validation rows by which compare.trials={config.compare.trials} could be judged; "
            "prepare it with prepare.validation above 0, or give compare.trials=0"
        )


def _open(out: Path, data: Data, config: Config) -> str:
    """Begins a comparison or goes on with it; returns its id."""
    settings = {"data_digest": data.digest, "config": dump_config(config)}
    known = out / SETTINGS_FILE
    if (out / RESULT_FILE).exists():
        raise BadInput(f"comparison {out} is finished already and left as it is; choose another --out")
    if known.exists():
        begun = json.loads(known.read_text(encoding="utf-8"))
        if {**begun, **settings} != begun:
            raise BadInput(f"comparison {out} was begun with other settings or data; choose another --out")
        return begun["id"]
    if out.exists():
        raise BadInput(f"{out} exists but is no comparison and is left as it is; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    name = uuid4().hex
    with file_appears_whole(known) as aside:
        aside.write_text(json.dumps({"id": name, **settings}), encoding="utf-8")
    return name


def _figures(
    data: Data,
    config: Config,
    labels: Array,
    weights: Array | None,
    trained: Mapping[str, list[Trained]],
    scored: Mapping[str, list[figures.Scored]],
    found: Mapping[str, Found],
    segments: Mapping[str, figures.Segment],
    true_scores: Array | None,
) -> dict[str, Any]:
    validation, seed = data.parts["validation"], config.train.seed
    fit_labels, fit_weights = labels_of(validation), weights_of(validation)
    predictions = {arm: [one.predictions["test"] for one in each] for arm, each in trained.items()}
    losses = {arm: figures.row_losses(labels, each, weights) for arm, each in predictions.items()}
    # Calibration is learned from rows of both labels.
    can_calibrate = 0 < (validation.click_rate or 0.0) < 1
    by_field = {name: segment for name, segment in segments.items() if name in config.compare.segments}
    arms: dict[str, dict[str, Any]] = {}
    for arm, each in predictions.items():
        about = figures.arm_figures([one.evaluation for one in scored[arm]], each, losses[arm], seed=seed)
        if can_calibrate:
            known = [one.predictions["validation"] for one in trained[arm]]
            about["calibration"] = figures.calibrated((fit_labels, known, fit_weights), labels, each, weights)
        if config.compare.gauc:
            about["gauc"] = figures.mean_gauc(labels, each, weights, segments[config.compare.gauc][0])
        about["segments"] = figures.segment_figures(labels, each, weights, by_field)
        about["models_served"] = trained[arm][0].served
        about["costs"] = figures.costs(trained[arm])
        about["search"] = figures.found_settings(arm, found)
        arms[arm] = about
    useless = figures.not_better_than_the_click_rate(labels, losses, weights, seed=seed)
    useful = [arm for arm in arms if arm not in useless]
    winner = min(useful, key=lambda arm: arms[arm]["log_loss"]["mean"]) if useful else None
    differences = figures.differences(losses, useless, seed=seed)
    sentences = [each["sentence"] for each in differences]
    sentences += [f"{arm} is not surely better than predicting the click rate for every row" for arm in useless]
    if true_scores is not None:
        known = figures.row_losses(labels, [true_scores], weights)
        evaluated = [evaluate(labels, true_scores, weights)]
        arms["truth"] = figures.arm_figures(evaluated, [true_scores], known, seed=seed)
    return {
        "arms": arms,
        "winner": winner,
        "differences": differences,
        "sentences": sentences,
        "rows": len(labels),
    }


def _segments(test: Part, fields: list[str], config: Config) -> dict[str, figures.Segment]:
    """For each field that figures are wanted by: the code of each test row, and what codes mean."""
    wanted: list[str] = [*config.compare.segments, *([config.compare.gauc] if config.compare.gauc else [])]
    for name in wanted:
        if name != _TIME and name not in fields:
            hint = did_you_mean(name, [_TIME, *fields])
            raise BadInput(f"compare.segments or compare.gauc names '{name}', which has no ids; {hint}")
    found: dict[str, figures.Segment] = {}
    for name in wanted:
        if name == _TIME:
            count = min(_TIME_SLICES, test.rows)
            found[name] = (time_slices(test.rows, count), {code: f"{code + 1} of {count}" for code in range(count)})
        else:
            column = fields.index(name)
            ids = np.concatenate([rows.ids[:, column] for rows in in_order(test, _BATCH)])
            found[name] = (ids.astype(np.int64), _MEANING)
    return found
