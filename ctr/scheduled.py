"""A run whose processes a cluster starts, each by itself: the first makes the RUN folder, the last the result."""

import uuid
from pathlib import Path

from ctr.config import Config, dump_config, load_config
from ctr.data import Data
from ctr.launch import check_fits, check_same, conclude, fresh_run
from ctr.place import Place
from ctr.runs import CONFIG_FILE, RESULT_FILE, group_folder, is_run, read_run, write_run
from features.errors import BadInput, WorkFailed
from features.locks import try_lock

_SECONDS_FOR_OTHERS = 120.0


def join_run(data: Data, run: Path, config: Config | None, place: Place) -> Config:
    """Makes the run or joins the one that is there; the settings that it is trained with.

    Args:
        config: settings given to this process; None: those of the run, or the defaults where it has none yet.

    Raises BadInput if the run is finished, or was begun with other settings or other data.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = try_lock(run / ".join.lock", wait=_SECONDS_FOR_OTHERS)
    if lock is None:
        raise WorkFailed(f"{run / '.join.lock'} is held by a process that does not let go; end it and start again")
    with lock:
        path = run / CONFIG_FILE
        known = load_config(path, []) if path.exists() else config or Config()
        check_fits(data, known, place.workers)
        if is_run(run):
            check_same(data, run, config or known)
        elif config and config != known:
            raise BadInput(f"{path} has other settings than this process was given; remove one or choose another --out")
        else:
            path.write_text(dump_config(known), encoding="utf-8")
            write_run(run, {"id": uuid.uuid4().hex, **fresh_run(data), "status": "running"})
        if place.chief:
            # While the others wait, so that chiefs do not all make the tables of a new store at the same time.
            from ctr import tracking

            tracking.client()
    return known


def finish_run(run: Path, groups: int) -> None:
    """Writes the run's result if every group has its own; the last to come does so, or two the same."""
    if all((group_folder(run, group) / RESULT_FILE).is_file() for group in range(groups)):
        conclude(run, read_run(run), [0] * groups)
