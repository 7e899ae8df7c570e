"""A line of JSON for each request: what it was, how long it took, what the model said, and what the challenger did."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from features.errors import BadInput
from serving.hooks import Call

# Health is asked for every few seconds and says nothing.
_QUIET = ("v2:live", "v2:ready")


def access_log(path: Path) -> Callable[[Call], None]:
    """A listener that appends to `path`, which several processes may do at once. Raises BadInput if it cannot."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadInput(f"--access-log {path} cannot be written: {error.strerror}; choose another file") from None

    cut = full = False

    def write(call: Call) -> None:
        nonlocal cut, full
        if call.kind in _QUIET:
            return
        # A full disk takes a part of a line: the next that it takes does not go on in it.
        said = b"\n" * cut + msgspec.json.encode(line(call)) + b"\n"
        try:
            cut = os.write(file, said) < len(said)
            full = False
        except OSError as error:
            if not full:
                logging.getLogger("ctr").warning("requests are missing in %s: %s", path, error.strerror)
            full = True

    return write


def line(call: Call) -> dict[str, Any]:
    """What is written of a call: seconds as milliseconds; scores and versions where there are any."""
    said: dict[str, Any] = {
        "time": round(time.time(), 3),
        "id": call.id,
        "kind": call.kind,
        "status": call.status,
        "milliseconds": _milliseconds(call.seconds),
    }
    if call.inputs is not None and call.version is not None:
        said |= {
            "rows": call.inputs.rows,
            "queue_milliseconds": _milliseconds(call.queue_seconds),
            "model_milliseconds": _milliseconds(call.model_seconds),
            "version": call.version.number,
            "scores": call.scores,
        }
    if call.challenger_scores is not None and call.challenger_version is not None:
        said |= {"challenger_version": call.challenger_version.number, "challenger_scores": call.challenger_scores}
    return said


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
