"""One training process: finds its place in the environment, trains its share of its group, tracks and exports.

The local launcher starts it as any cluster would: TF_CONFIG says which worker of the group this is, CTR_GROUP and
CTR_GROUPS which group of how many, CTR_EXCHANGE where snapshots are exchanged. Events go to standard output, a JSON
object a line.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr.config import Config, load_config
from ctr.data import Data, in_order, labels_of, weights_of
from ctr.fellows import Fellows
from ctr.member import Member
from ctr.metrics import evaluate
from ctr.place import Place, find_place, parent_watch
from ctr.recorded import recorded
from ctr.runs import CALIBRATION_FILE, CONFIG_FILE, RESULT_FILE, group_folder, member_model, scores_file
from ctr.scheduled import finish_run, join_run
from features.errors import BadInput
from features.locks import try_lock

if TYPE_CHECKING:
    from ctr.calibration import Calibration

# Seeds of groups lie this far apart, so that neighbouring seeds of a run do not share a group's.
_GROUP_SEEDS = 1000
_SECONDS_FOR_PREDECESSOR = 60
# How long a worker waits for the others of its group to be started: a cluster may have to fetch an image first.
_SECONDS_TO_GATHER = 600.0
# The weights with a row for each id.
_TABLES = ("table", "wide")


def work(data: Data, run: Path, given: Config | None, *, score: Sequence[str], keep_model: bool) -> dict[str, Any]:
    """Trains this process's share; the chief of a group tracks it in MLflow, exports its SavedModel, returns a result.

    Args:
        given: settings, where a cluster starts this process; None: those of the run.
        score: parts on which the chief also writes its predictions.
        keep_model: whether there is to be a SavedModel; of a trial of a search only the figures are wanted.

    All figures and predictions are the model's own, before any calibration, but for those that say otherwise in
    `calibration`: method, rows, log loss and calibration error before and after, on the validation rows that it was
    fitted on.
    """
    began = time.monotonic()
    place = find_place(run)
    _end_on_sigterm()
    config = load_config(run / CONFIG_FILE, []) if place.launched else join_run(data, run, given, place)
    folder = group_folder(run, place.group)
    folder.mkdir(parents=True, exist_ok=True)
    # A process of this place whose launcher was killed needs a moment to notice.
    lock = try_lock(folder / f".worker-{place.worker}.lock", wait=_SECONDS_FOR_PREDECESSOR)
    if lock is None:
        raise BadInput(f"another process trains worker {place.worker} of {folder}; end it first")
    member = Member(data, run, config, place) if place.chief else None
    several = place.workers > 1
    fellows = Fellows(place.group, place.worker, place.addresses, launched=place.launched) if several else None
    try:
        result = _train(data, run, config, place, score, keep_model, member, fellows)
    except Exception as error:
        if fellows and _lost_a_worker(error):
            fellows.end(fellows.missing())
        if member:
            member.end("FAILED")
        raise
    # Its own time: what a run that was resumed had taken before is not in it.
    result |= {"seconds": time.monotonic() - began, "core_seconds": time.process_time()}
    if member:
        (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
        member.end("FINISHED")
        if not place.launched:
            finish_run(run, place.groups)
    return result


def _train(
    data: Data,
    run: Path,
    config: Config,
    place: Place,
    score: Sequence[str],
    keep_model: bool,
    member: Member | None,
    fellows: Fellows | None,
) -> dict[str, Any]:
    import tensorflow as tf
    import tf_keras

    tf.config.threading.set_intra_op_parallelism_threads(config.train.threads)
    tf.config.threading.set_inter_op_parallelism_threads(config.train.threads)
    if config.train.threads > 1:
        # With one thread every sum has one order anyway.
        tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    seed = config.train.seed + _GROUP_SEEDS * place.group
    tf_keras.utils.set_random_seed(seed)
    # Before anything else touches TensorFlow: it starts the group's cluster.
    with fellows.awaited(_SECONDS_TO_GATHER) if fellows else contextlib.nullcontext():
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if fellows:
        fellows.watch()
    _end_on_sigterm()  # once more: the cluster has put a handler of its own in its place, which goes on training

    from ctr.assemble import assemble
    from ctr.train import EVALUATION_BATCH

    training = assemble(
        data,
        run,
        config,
        place,
        strategy,
        seed=seed,
        report=member.report if member else (lambda kind, values: None),
        alive=parent_watch(place.parent),
    )
    learner = training.learner
    measured = training.run()
    if member is None:
        _part(learner, fellows)
        return {"group": place.group, **measured}
    evaluated = next(data.parts[name] for name in ("validation", "test", "train") if data.parts[name].rows)
    began = time.monotonic()
    scored = labels_of(evaluated), learner.predict(in_order(evaluated, EVALUATION_BATCH)), weights_of(evaluated)
    figures = evaluate(*scored).as_dict()
    scoring = time.monotonic() - began
    result = {
        "group": place.group,
        "run_id": member.run_id,
        "evaluated_on": evaluated.name,
        "log_loss": figures["log_loss"],
        "auc": figures["auc"],
        "microseconds_per_row": 1e6 * scoring / evaluated.rows,
        "table_bytes": sum(4 * int(learner.served.named_weights()[name].shape.num_elements()) for name in _TABLES),
        **measured,
    }
    member.report("evaluation", {"step": measured["steps"], **figures})
    for part in score:
        _write_scores(learner, data, part, scores_file(run, place.group, part))
    calibration, served = None, scored[1]
    if config.train.calibration != "none":
        from ctr.calibration import calibration_figures, fit_calibration

        if evaluated.name != "validation":
            raise BadInput(f"train.calibration is fitted on validation rows, and {data.folder} has none; prepare some")
        calibration = fit_calibration(config.train.calibration, *scored)
        result["calibration"] = calibration_figures(calibration, *scored)
        member.report("calibration", {"step": measured["steps"], **result["calibration"]})
        served = calibration.apply(served)
    if keep_model:
        record = recorded(data, evaluated.name, served)
        _export(learner, data, run, config, place, result, figures, record, calibration)
    _part(learner, fellows)
    return result


def _part(learner: Any, fellows: Fellows | None) -> None:
    """Ends a group's work together: one that left earlier would end the others' cluster."""
    learner.meet()
    if fellows:
        fellows.part()


def _lost_a_worker(error: Exception) -> bool:
    import tensorflow as tf

    # DeadlineExceeded: this worker is the one that is cut off.
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.InternalError,
        tf.errors.DeadlineExceededError,
    )
    return isinstance(error, lost)


def _write_scores(learner: Any, data: Data, part: str, path: Path) -> None:
    """Row numbers, labels and the model's own probabilities, whatever `train.calibration` says.

    Whoever reads them calibrates by itself: the mean of two models is to be calibrated as one, and not of calibrated
    ones.
    """
    import numpy as np
    import polars as pl

    from ctr.train import EVALUATION_BATCH
    from features.output import file_appears_whole

    batches = list(in_order(data.parts[part], EVALUATION_BATCH))
    scores = pl.DataFrame(
        {
            "row": np.concatenate([rows.row for rows in batches]),
            "label": np.concatenate([rows.label[:, 0] for rows in batches]),
            "probability": learner.predict(batches),
        }
    )
    with file_appears_whole(path) as aside:
        scores.write_parquet(aside)


def _export(
    learner: Any,
    data: Data,
    run: Path,
    config: Config,
    place: Place,
    result: dict[str, Any],
    figures: dict[str, Any],
    record: dict[str, Any],
    calibration: "Calibration | None",
) -> None:
    import shutil

    from serving.export import export

    out = member_model(run, place.group)
    # A run that was stopped between export and its end exports again.
    shutil.rmtree(out, ignore_errors=True)
    model = learner.served
    card = {
        "run_id": result["run_id"],
        "group": place.group,
        "groups": place.groups,
        "metrics": {result["evaluated_on"]: figures},
        "calibration": result.get("calibration"),
        "recorded": record,
        "weights": list(model.named_weights()),
        "tables": "float32",
        "data": str(data.folder.resolve()),
        "data_digest": data.digest,
        "train_rows": data.parts["train"].rows,
        "config": config.model_dump(mode="json"),
    }
    if calibration:
        path = group_folder(run, place.group) / CALIBRATION_FILE
        path.write_text(calibration.to_json() + "\n", encoding="utf-8")
    export(
        lambda ids, dense: model({"ids": ids, "dense": dense}),
        list(model.named_weights().values()),
        data.spec,
        out,
        card,
        (calibration.x, calibration.y) if calibration else None,
    )


def _end_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
