"""What tests of training share: what a run's checkpoints hold, its processes, and waiting for something to happen."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ctr  # noqa: F401 - sets TensorFlow to Keras 2
from ctr.runs import group_folder

import tensorflow as tf  # isort: skip


def weights(run: Path, group: int) -> dict[str, Any]:
    """All that the group's last checkpoint holds, weights, optimizer slots and teachers, by name.

    But for the counts, some of which are seconds.
    """
    latest = tf.train.latest_checkpoint(str(group_folder(run, group) / "checkpoint"))
    assert latest, f"{run} has no checkpoint of group {group}"
    reader = tf.train.load_checkpoint(latest)
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names if not name.startswith(("numbers", "save_counter"))}


def assert_equal_weights(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Bit for bit."""
    assert set(first) == set(second)
    assert len(first) > 10
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def checkpoints(run: Path, group: int) -> list[int]:
    """The numbers of a group's checkpoints that are there."""
    found = (group_folder(run, group) / "checkpoint").glob("*.index")
    return sorted(int(path.stem.rpartition("-")[2]) for path in found)


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    """Until something is so; fails when the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended before it was to be stopped: {process.communicate()}"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def worker_of(launcher: int, group: int, worker: int = 0) -> int | None:
    """The process that trains a worker of a group; None while it is not there."""
    for pid in children(launcher):
        try:
            entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
        except OSError:
            continue
        variables = {name: value for name, _, value in (entry.partition("=") for entry in entries)}
        place = json.loads(variables.get("TF_CONFIG") or "{}")
        if variables.get("CTR_GROUP") == str(group) and place and place["task"]["index"] == worker:
            return pid
    return None


def kill(pid: int | None) -> bool:
    """Kills a process at once; whether it was there."""
    if pid is None or gone(pid):
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
