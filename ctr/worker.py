"""One training process: finds its place in the environment, trains its share of its group, tracks and exports.

The local launcher starts it as any scheduler would: TF_CONFIG says which worker of the group this is, CTR_GROUP and
CTR_GROUPS which group of how many, CTR_EXCHANGE where snapshots are exchanged. Events go to standard output, a JSON
object a line.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

from ctr.config import Config
from ctr.data import Data
from ctr.locks import try_lock
from ctr.member import Member
from ctr.place import Place, find_place, parent_watch
from ctr.runs import RESULT_FILE, SCORES_FILE, group_folder, member_model
from features.errors import BadInput

# Seeds of groups lie this far apart, so that neighbouring seeds of a run do not share a group's.
_GROUP_SEEDS = 1000
_SECONDS_FOR_PREDECESSOR = 60


def work(data: Data, run: Path, config: Config, *, score: str | None) -> dict[str, Any]:
    """Trains this process's share; the chief of a group tracks it in MLflow, exports its SavedModel, returns a result.

    With `score`, the name of a part, the chief also writes its predictions on that part.
    """
    place = find_place(run)
    _end_on_sigterm()
    folder = group_folder(run, place.group)
    folder.mkdir(parents=True, exist_ok=True)
    # A process of this place whose launcher was killed needs a moment to notice.
    lock = try_lock(folder / f".worker-{place.worker}.lock", wait=_SECONDS_FOR_PREDECESSOR)
    if lock is None:
        raise BadInput(f"another process trains worker {place.worker} of {folder}; end it first")
    member = Member(data, run, config, place) if place.chief else None
    try:
        result = _train(data, run, config, place, score, member)
    except Exception:
        if member:
            member.end("FAILED")
        raise
    if member:
        (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
        member.end("FINISHED")
    return result


def _train(
    data: Data, run: Path, config: Config, place: Place, score: str | None, member: Member | None
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
    _end_on_sigterm()  # once more: the cluster has put a handler of its own in its place, which goes on training

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
        report=member.report if member else (lambda kind, values: None),
        alive=parent_watch(place.parent),
    )
    if member is None:
        learner.meet()
        return {"group": place.group, **measured}
    evaluated = next(part for part in (validation, data.parts["test"], training) if part.rows)
    figures = evaluate_part(learner, evaluated).as_dict()
    result = {
        "group": place.group,
        "run_id": member.run_id,
        "evaluated_on": evaluated.name,
        "log_loss": figures["log_loss"],
        "auc": figures["auc"],
        **measured,
    }
    member.report("evaluation", {"step": schedule.steps, **figures})
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


def _end_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(143))
