"""What a group tells of itself: its run in MLflow, and events on standard output, a JSON object a line."""

import json
import os
from pathlib import Path
from typing import Any

from ctr import tracking
from ctr.config import Config, flatten
from ctr.data import Data
from ctr.place import Place
from ctr.runs import CONFIG_FILE, RUN_ID_FILE, group_folder
from features.prepare import MANIFEST_FILE
from features.spec import SPEC_FILE


class Member:
    """One group of a run. `run_id` is its run in MLflow, in which a resumed group goes on."""

    def __init__(self, data: Data, run: Path, config: Config, place: Place):
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
            id_file.write_text(self.run_id, encoding="utf-8")
            tracking.log_files(self.run_id, files)

    def report(self, kind: str, values: dict[str, Any]) -> None:
        """Tells of an event; the figures of evaluations, exchanges and the calibration are logged by step."""
        print(json.dumps({"event": kind, **values}), flush=True)
        if kind in ("evaluation", "exchange", "calibration"):
            left_out = ("step", "rows", "peers_dropped", "method")
            metrics = {name: value for name, value in values.items() if name not in left_out and value is not None}
            tracking.log_metrics(self.run_id, metrics, values["step"])

    def end(self, status: str) -> None:
        """Ends the run as FINISHED or FAILED."""
        tracking.end_run(self.run_id, status)
