"""One training process: finds its place in the environment, trains its share of its group, tracks and exports.

The local launcher starts it as any scheduler would: TF_CONFIG says which worker of the group this is, CTR_GROUP and
CTR_GROUPS which group of how many, CTR_EXCHANGE where snapshots are exchanged. Events go to standard output, a JSON
object a line.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.config import Config, flatten
from ctr.data import Data
from ctr.runs import CONFIG_FILE, group_folder, member_model
from features.errors import BadInput, WorkFailed
from features.prepare import MANIFEST_FILE
from features.spec import SPEC_FILE

RUN_ID_FILE = "mlflow_run_id"
RESULT_FILE = "result.json"
SCORES_FILE = "scores.parquet"
# Seeds of groups lie this far apart, so that neighbouring seeds of a run do not share a group's.
_GROUP_SEEDS = 1000


@dataclass(frozen=True)
class Place:
    """Where this process stands. `parent`: process to end with, 0 for none."""

    group: int
    groups: int
    worker: int
    workers: int
    exchange: Path
    parent: int

    @property
    def chief(self) -> bool:
        return self.worker == 0


def find_place(run: Path) -> Place:
    """This process's place, from the environment. Raises BadInput if those variables are wrong."""
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        workers = len(config["cluster"]["worker"]) if config else 1
        worker = int(config["task"]["index"]) if config else 0
        group, groups = int(os.environ.get("CTR_GROUP", "0")), int(os.environ.get("CTR_GROUPS", "1"))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"TF_CONFIG, CTR_GROUP or CTR_GROUPS cannot be read: {type(error).__name__} {error}") from None
    if not 0 <= group < groups:
        raise BadInput(f"CTR_GROUP is {group} but CTR_GROUPS is {groups}; groups are numbered from 0")
    exchange = Path(os.environ.get("CTR_EXCHANGE") or run / "exchange")
    return Place(group, groups, worker, workers, exchange, int(os.environ.get("CTR_PARENT", "0")))


def work(data: Data, run: Path, config: Config, *, score: str | None) -> dict[str, Any]:
    """Trains this process's share; the chief of a group tracks it in MLflow, exports its SavedModel, returns a result.

    With `score`, the name of a part, the chief also writes its predictions on that part.
    """
    place = find_place(run)
    _end_on_sigterm()
    folder = group_folder(run, place.group)
    folder.mkdir(parents=True, exist_ok=True)
    tracker = _Tracker(data, run, config, place) if place.chief else None
    try:
        result = _train(data, run, config, place, score, tracker)
    except (WorkFailed, BadInput):
        if tracker:
            tracker.end("FAILED")
        raise
    if tracker:
        (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
        tracker.end("FINISHED")
    return result


def _train(
    data: Data, run: Path, config: Config, place: Place, score: str | None, tracker: "_Tracker | None"
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
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    from ctr.exchange import Exchange, fingerprint
    from ctr.learner import Learner
    from ctr.model import WideAndDeep
    from ctr.optimizers import make_optimizer
    from ctr.train import Peers, Schedule, evaluate_part, train

    training, validation = data.parts["train"], data.parts["validation"]
    steps = max(1, int(config.train.epochs * training.rows / config.train.batch_size))
    start = min(int(config.codistillation.burn_in_epochs * training.rows / config.train.batch_size), steps)
    codistilled = place.groups > 1 and config.codistillation.weight > 0

    def build() -> Any:
        return WideAndDeep(
            sizes=data.spec.sizes,
            cross_count=data.spec.cross_count,
            dense_count=len(data.spec.dense_fields),
            embedding_dim=config.model.embedding_dim,
            hidden=config.model.hidden,
            click_rate=min(max(training.click_rate or 0.0, 1e-4), 1 - 1e-4),
        )

    with strategy.scope():
        model = build()
        optimizer = make_optimizer(
            model,
            learning_rate=config.optimizer.learning_rate,
            initial_accumulator_value=config.optimizer.initial_accumulator_value,
            wide_learning_rate=config.optimizer.wide_learning_rate,
            wide_l1=config.optimizer.wide_l1,
            wide_l2=config.optimizer.wide_l2,
            steps=steps,
            final_rate=config.optimizer.final_rate,
        )
    # With weight 0 groups are independent models, which neither listen nor publish.
    peer_groups = [group for group in range(place.groups) if group != place.group] if codistilled else []
    learner = Learner(strategy, model, optimizer, [build() for _ in peer_groups], batch_size=config.train.batch_size)
    schedule = Schedule(
        steps=steps,
        start=start,
        ramp_steps=config.codistillation.ramp_steps,
        weight=config.codistillation.weight if codistilled else 0.0,
        exchange_every=config.codistillation.exchange_every,
        evaluate_every=config.train.evaluate_every,
        checkpoint_every=config.train.checkpoint_every,
    )
    peers = None
    if codistilled:
        exchange = Exchange(
            place.exchange,
            group=place.group,
            fingerprint=fingerprint(model.named_weights(), data.spec.digest),
            dtype=config.codistillation.snapshot_dtype,
            # A peer may restart from its last checkpoint and wants what it read then, a boundary behind this group.
            keep_steps=config.train.checkpoint_every + 2 * config.codistillation.exchange_every,
        )
        peers = Peers(
            exchange,
            peer_groups,
            lockstep=config.codistillation.exchange == "lockstep",
            timeout=config.codistillation.peer_timeout,
            chief=place.chief,
            steps=[-1] * len(peer_groups),
        )
    folder = group_folder(run, place.group)
    checkpoints = folder / "checkpoint"
    measured = train(
        learner,
        training,
        validation,
        schedule=schedule,
        peers=peers,
        seed=seed,
        worker=place.worker,
        workers=place.workers,
        # Saving takes all workers of a group, restoring reads the chief's.
        checkpoints=checkpoints if place.chief else folder / f"worker-{place.worker}-checkpoint",
        restore_from=checkpoints,
        report=tracker.report if tracker else (lambda kind, values: None),
        alive=_parent_watch(place.parent),
    )
    if tracker is None:
        learner.meet()
        return {"group": place.group, **measured}
    evaluated = next(part for part in (validation, data.parts["test"], training) if part.rows)
    figures = evaluate_part(learner, evaluated).as_dict()
    result = {
        "group": place.group,
        "run_id": tracker.run_id,
        "evaluated_on": evaluated.name,
        "log_loss": figures["log_loss"],
        "auc": figures["auc"],
        **measured,
    }
    tracker.report("evaluation", {"step": schedule.steps, **figures})
    if score:
        _write_scores(learner, data, score, folder / SCORES_FILE)
    _export(learner, data, run, config, place, result, figures)
    if place.workers > 1:
        learner.meet()
    return result


def _write_scores(learner: Any, data: Data, part: str, path: Path) -> None:
    import numpy as np
    import polars as pl

    from ctr.data import in_order
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
    learner: Any, data: Data, run: Path, config: Config, place: Place, result: dict[str, Any], figures: dict[str, Any]
) -> None:
    import shutil

    from serving.export import export

    out = member_model(run, place.group)
    # A run that was stopped between export and its end exports again.
    shutil.rmtree(out, ignore_errors=True)
    model = learner.model
    card = {
        "run_id": result["run_id"],
        "group": place.group,
        "groups": place.groups,
        "metrics": {result["evaluated_on"]: figures},
        "data": str(data.folder.resolve()),
        "data_digest": data.digest,
        "config": config.model_dump(mode="json"),
    }
    export(
        lambda ids, dense: model({"ids": ids, "dense": dense}),
        list(model.named_weights().values()),
        data.spec,
        out,
        card,
    )


class _Tracker:
    """A group's run in MLflow and its events on standard output. A resumed group goes on in the same MLflow run."""

    def __init__(self, data: Data, run: Path, config: Config, place: Place):
        from ctr import tracking

        self._tracking = tracking
        id_file = group_folder(run, place.group) / RUN_ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else ""
        if known and tracking.has_run(known):
            self.run_id = known
            tracking.resume_run(known)
        else:
            tags = {"kind": "member", "run": run.name, "group": str(place.group), "groups": str(place.groups)}
            tags |= {"data_digest": data.digest, "spec_digest": data.spec.digest}
            tags |= json.loads(os.environ.get("CTR_TAGS", "{}"))
            params = flatten(config.model_dump(mode="json"))
            self.run_id = tracking.start_run(
                config.tracking.experiment, f"{run.name}/group-{place.group}", tags=tags, params=params
            )
            files = {
                "config": run / CONFIG_FILE,
                "features": data.folder / SPEC_FILE,
                "data": data.folder / MANIFEST_FILE,
            }
            tracking.log_files(self.run_id, files)
            id_file.write_text(self.run_id, encoding="utf-8")

    def report(self, kind: str, values: dict[str, Any]) -> None:
        print(json.dumps({"event": kind, **values}), flush=True)
        if kind == "evaluation":
            step = values["step"]
            metrics = {name: value for name, value in values.items() if name not in ("step", "rows")}
            self._tracking.log_metrics(self.run_id, metrics, step)

    def end(self, status: str) -> None:
        self._tracking.end_run(self.run_id, status)


def _parent_watch(parent: int) -> Callable[[], None]:
    """A check that ends this process when the one that launched it is gone: nobody would read its results."""

    def alive() -> None:
        if parent and os.getppid() != parent:
            sys.exit(143)

    return alive


def _end_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
