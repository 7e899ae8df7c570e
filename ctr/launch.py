"""`ctr train`: makes or resumes a RUN folder, trains its groups, chooses the one that serves."""

import json
import os
import signal
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ctr.cluster import Follow, Seats, run_groups, seats_here, start_python
from ctr.config import Config, dump_config
from ctr.data import Data
from ctr.runs import (
    CONFIG_FILE,
    RESULT_FILE,
    RUN_FILE,
    RUN_ID_FILE,
    group_folder,
    is_run,
    read_run,
    write_run,
)
from features.errors import BadInput
from features.locks import try_lock


def train_run(
    data: Data,
    run: Path,
    config: Config,
    *,
    follow: Follow,
    score: Sequence[str] = (),
    keep_model: bool = True,
    tags: dict[str, str] | None = None,
    seats: Seats | None = None,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains all groups of a run and returns its result; a run that was stopped goes on where it was.

    Args:
        score: parts on which each group writes its predictions (`ctr.runs.scores_file`).
        keep_model: whether each group exports its SavedModel.
        seats: where processes run, by default on this machine, each a Python of its own.
        alive: as for `ctr.cluster.run_groups`.

    Raises BadInput if `run` is finished, under way, made with other settings or other data, or no run at all.
    Raises WorkFailed if a group fails; KeyboardInterrupt passes through after every group has ended. Either way the
    run folder and MLflow say how it ended, and the same call resumes.
    """
    check_fits(data, config, config.train.workers_per_group)
    groups, workers = config.codistillation.groups, config.train.workers_per_group
    # Made here once, so that groups do not all make the tables of a new store at the same time.
    from ctr import tracking

    tracking.client()
    about, lock = _open_run(data, run, config)
    arguments = [str(data.folder), "--out", str(run), *(word for part in score for word in ("--score", part))]
    arguments += [] if keep_model else ["--no-keep-model"]
    status = "failed"
    try:
        again = run_groups(
            arguments,
            run,
            exchange=_exchange_of(run, about),
            groups=groups,
            workers=workers,
            restarts=config.train.restarts,
            tags=tags or {},
            follow=follow,
            seats=seats or seats_here(start_python),
            alive=alive,
        )
        status = "finished"
    except KeyboardInterrupt:
        status = "killed"
        raise
    finally:
        if status != "finished":
            write_run(run, {**about, "status": status})
            _end_members(run, groups, {"killed": "KILLED", "failed": "FAILED"}[status], tracking)
    result = conclude(run, about, again)
    lock.close()
    return result


def conclude(run: Path, about: dict[str, Any], restarts: Sequence[int]) -> dict[str, Any]:
    """Makes the run's result of its groups' and writes it; returns it. `restarts`: of each group."""
    from ctr import tracking

    files = [group_folder(run, group) / RESULT_FILE for group in range(len(restarts))]
    members = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    result = _result([{**member, "restarts": times} for member, times in zip(members, restarts, strict=True)])
    for member in members:
        tracking.set_tags(member["run_id"], {"served": str(member["group"] == result["served_group"]).lower()})
    write_run(run, {**about, "status": "finished", "result": result})
    return result


def _exchange_of(run: Path, about: dict[str, Any]) -> str:
    """Where this run's groups exchange snapshots: another run's in the same place would teach them."""
    place = os.environ.get("CTR_EXCHANGE")
    return f"{place.rstrip('/')}/{run.name}-{about['id'][:8]}" if place else str(run / "exchange")


def _result(members: list[dict[str, Any]]) -> dict[str, Any]:
    """The served member's figures: the one with the least log loss, where there are validation rows to choose by.

    Log loss and AUC are from before calibration; `calibration` has those of both, on the rows that it was fitted on.
    """
    chosen = (
        min(members, key=lambda member: member["log_loss"])
        if members[0]["evaluated_on"] == "validation"
        else members[0]
    )
    return {
        "log_loss": chosen["log_loss"],
        "auc": chosen["auc"],
        "evaluated_on": chosen["evaluated_on"],
        "steps": int(chosen["steps"]),
        "examples_per_second": sum(member["examples_per_second"] for member in members),
        "groups": len(members),
        "run_id": chosen["run_id"],
        "served_group": chosen["group"],
        "warnings": _warnings(members),
        "members": members,
        **({"calibration": chosen["calibration"]} if "calibration" in chosen else {}),
    }


def _warnings(members: list[dict[str, Any]]) -> list[str]:
    """What did not go as it should, in a line each."""
    found: list[str] = []
    for member in members:
        group = f"group {member['group']}"
        if member["restarts"]:
            found.append(f"{group} was started again {member['restarts']} times")
        if dropped := member.get("peers_dropped"):
            found.append(f"{group} dropped its peers {dropped}: nothing came from them for too long")
        if missed := member.get("snapshots_missed"):
            found.append(f"{group} missed {missed} snapshots of its peers")
        if unpublished := member.get("snapshots_unpublished"):
            found.append(f"{group} could not publish {unpublished} snapshots")
    return found


def check_fits(data: Data, config: Config, workers: int) -> None:
    """Raises BadInput if these settings cannot train groups of so many workers on this data."""
    training = data.parts["train"]
    if not data.manifest["labelled"]:
        raise BadInput(f"{data.folder} has no labels to train on; prepare a log that has them")
    if training.rows == 0:
        raise BadInput(f"{data.folder} has no training rows; prepare it with a smaller validation and test part")
    if config.train.calibration != "none" and not 0 < (data.parts["validation"].click_rate or 0) < 1:
        has = "only one label" if data.parts["validation"].rows else "no rows"
        raise BadInput(
            f"train.calibration={config.train.calibration} is fitted on validation rows of both labels, but the "
            f"validation part of {data.folder} has {has}; prepare it with a larger one or leave train.calibration=none"
        )
    how = config.codistillation
    if how.exchange_every > how.drop_after:
        raise BadInput(
            f"codistillation.drop_after={how.drop_after} is less than codistillation.exchange_every="
            f"{how.exchange_every}: every peer would be dropped between two exchanges; raise it"
        )
    batch = config.train.batch_size
    if batch % workers:
        raise BadInput(
            f"train.batch_size {batch} does not divide among {workers} workers; choose a multiple of {workers}"
        )


def fresh_run(data: Data) -> dict[str, Any]:
    """What `run.json` says of the data."""
    return {"data": str(data.folder.resolve()), "data_digest": data.digest, "spec_digest": data.spec.digest}


def check_same(data: Data, run: Path, config: Config) -> None:
    """Raises BadInput if a run is finished, or was begun with other settings or other data."""
    about, fresh = read_run(run), fresh_run(data)
    if about["status"] == "finished":
        raise BadInput(f"run {run} is finished already and left as it is; choose another --out")
    for key in ("data_digest", "spec_digest"):
        if about[key] != fresh[key]:
            raise BadInput(f"run {run} was begun with {key} {about[key]}, {data.folder} has {fresh[key]}")
    if (run / CONFIG_FILE).read_text(encoding="utf-8") != dump_config(config):
        raise BadInput(f"run {run} was begun with other settings, see {run / CONFIG_FILE}; choose another --out")


def _open_run(data: Data, run: Path, config: Config) -> tuple[dict[str, Any], IO[bytes]]:
    """What `run.json` says of a run that begins or goes on, and the lock on it."""
    if is_run(run):
        check_same(data, run, config)
    elif run.exists():
        raise BadInput(f"{run} exists but is no run (it has no {RUN_FILE}) and is left as it is; choose another --out")
    else:
        run.mkdir(parents=True)
    lock = try_lock(run / ".lock")
    if lock is None:
        raise BadInput(f"run {run} is under way in another process; wait for it or choose another --out")
    (run / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    known = read_run(run).get("id") if is_run(run) else None
    about = {"id": known or uuid.uuid4().hex, **fresh_run(data), "status": "running"}
    write_run(run, about)
    return about, lock


def interrupt_on_sigterm() -> None:
    """From here on a scheduler's polite stop is the same as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _end_members(run: Path, groups: int, status: str, tracking: Any) -> None:
    for group in range(groups):
        id_file = group_folder(run, group) / RUN_ID_FILE
        if id_file.exists():
            tracking.end_run(id_file.read_text(encoding="utf-8"), status)
