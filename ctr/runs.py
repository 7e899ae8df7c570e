"""The RUN folder: what `ctr train` leaves, and how every command finds the model in it.

RUN/config.yaml            the whole configuration
RUN/run.json               data, digests, status (running, finished, killed, failed), result
RUN/exchange/group-G/      snapshots that groups publish
RUN/group-G/checkpoint/    where a restart goes on from; checkpoint-best/: the phase's best evaluation
RUN/group-G/model/         the group's SavedModel
RUN/group-G/calibration.json  the table that its logits go through, with `train.calibration`
RUN/group-G/worker-W.log   what its processes said
"""

import json
import os
from pathlib import Path
from typing import Any, cast

from features.errors import BadInput
from serving.card import is_saved_model

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
# Of each group:
RUN_ID_FILE = "mlflow_run_id"
RESULT_FILE = "result.json"
CALIBRATION_FILE = "calibration.json"


def is_run(folder: Path) -> bool:
    """Whether `folder` is one that `ctr train` made."""
    return (folder / RUN_FILE).is_file()


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says. Raises BadInput if `folder` is no run."""
    if not is_run(folder):
        what = "does not exist" if not folder.exists() else f"has no {RUN_FILE}"
        raise BadInput(f"{folder} is no run: it {what}; make one with `ctr train`")
    return cast(dict[str, Any], json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))


def write_run(folder: Path, about: dict[str, Any]) -> None:
    """Replaces `run.json` in one move."""
    aside = folder / f".{RUN_FILE}.{os.getpid()}"
    aside.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    aside.replace(folder / RUN_FILE)


def group_folder(run: Path, group: int) -> Path:
    """Where a group keeps what is its own."""
    return run / f"group-{group}"


def scores_file(run: Path, group: int, part: str) -> Path:
    """Where a group's predictions on a part are, if they were asked for: columns `row`, `label`, `probability`."""
    return group_folder(run, group) / f"scores-{part}.parquet"


def member_model(run: Path, group: int) -> Path:
    """The SavedModel of one group."""
    return group_folder(run, group) / "model"


def find_model(name: str) -> Path:
    """The SavedModel folder that MODEL means: a SavedModel, a run (its served group), or `models:/ctr@champion`.

    Raises BadInput when there is no model under that name.
    """
    if name.startswith("models:/"):
        from ctr.registry import fetch_model

        return fetch_model(name)
    folder = Path(name)
    if is_run(folder):
        about = read_run(folder)
        if about["status"] != "finished":
            raise BadInput(
                f"run {folder} is {about['status']}, not finished; run the same `ctr train` again to finish it"
            )
        return member_model(folder, about["result"]["served_group"])
    if next(folder.glob("comparison*.json"), None):
        runs = sorted(each.parent for each in folder.glob(f"*/{RUN_FILE}"))
        hint = f"such as {runs[0]}" if runs else "of which it has none yet"
        raise BadInput(f"{folder} is a comparison, not a model; give one of its runs, {hint}")
    if not is_saved_model(folder):
        what = "does not exist" if not folder.exists() else "is neither a run nor a SavedModel of this project"
        raise BadInput(f"model {folder} {what}; give a RUN folder, an exported SavedModel or models:/ctr@champion")
    return folder
