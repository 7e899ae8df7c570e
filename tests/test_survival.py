"""Runs that are hurt: killed processes, peers that never come, an exchange folder that cannot be written."""

import json
import random
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Project, Start, run_ctr, tiny
from runs import assert_equal_weights, checkpoints, kill, wait_for, weights, worker_of

pytestmark = pytest.mark.processes


def result_of(process: "subprocess.Popen[str]", timeout: float = 300) -> dict[str, object]:
    """What a run that ended well printed."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return json.loads(out)


def test_groups_killed_at_any_moment_end_with_the_weights_of_a_run_that_was_not(
    project: Project, in_background: Start
) -> None:
    """In lockstep; each of the two groups dies twice, and the launcher starts it again from its checkpoint."""
    out, moments = project.folder / "mauled", random.Random(4)
    process = in_background(
        "train", "data", "--out", "mauled", *tiny(train__restarts="9"), "--json", cwd=project.folder
    )
    killed = [0, 0]
    for group in (0, 1, 1, 0):
        wait_for(lambda group=group: checkpoints(out, group), process)
        time.sleep(moments.uniform(0.0, 0.05))
        killed[group] += kill(worker_of(process.pid, group))
        wait_for(lambda group=group, pid=worker_of(process.pid, group): worker_of(process.pid, group) != pid, process)
    result = result_of(process)
    assert [member["restarts"] for member in result["members"]] == killed  # pyright: ignore
    assert sum(killed) > 0
    for group in (0, 1):
        assert_equal_weights(weights(project.folder / "run", group), weights(out, group))
