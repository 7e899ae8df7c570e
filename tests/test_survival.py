"""Runs that are hurt: killed processes, peers that never come, an exchange folder that cannot be written."""

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Start, run_ctr, tiny
from runs import assert_equal_weights, checkpoints, gone, kill, wait_for, weights, worker_of

pytestmark = pytest.mark.processes


def result_of(process: "subprocess.Popen[str]", timeout: float = 400) -> dict[str, Any]:
    """What a run that ended well printed."""
    out, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return json.loads(out)


def kill_and_wait(process: "subprocess.Popen[str]", group: int, worker: int = 0) -> bool:
    """Kills a worker and waits until its group has been started again; whether it was there to be killed."""
    pid = worker_of(process.pid, group, worker)
    if not kill(pid):
        return False
    deadline = time.monotonic() + 60
    while worker_of(process.pid, group, worker) in (pid, None):
        assert time.monotonic() < deadline, "the group was not started again"
        assert process.poll() is None
        time.sleep(0.02)
    return True


def test_groups_killed_at_any_moment_end_with_the_weights_of_a_run_that_was_not(
    project: Project, in_background: Start
) -> None:
    """In lockstep; both groups die, and the launcher starts them again from their checkpoints."""
    out, moments = project.folder / "mauled", random.Random(4)
    settings = tiny(train__restarts="9")
    process = in_background("train", "data", "--out", "mauled", *settings, "--json", cwd=project.folder)
    killed = [0, 0]
    for group in (0, 1):
        wait_for(lambda group=group: checkpoints(out, group), process)
        time.sleep(moments.uniform(0.0, 0.05))
        killed[group] += kill_and_wait(process, group)
    result = result_of(process)
    assert [member["restarts"] for member in result["members"]] == killed
    assert sum(killed) > 0
    assert any("was started again" in warning for warning in result["warnings"])
    for group in (0, 1):
        assert_equal_weights(weights(project.folder / "run", group), weights(out, group))


@pytest.mark.parametrize("snapshots", ["frozen", "refreshed"])
def test_second_phase_begins_at_the_best_evaluation_and_is_resumed_to_the_bit(
    project: Project, in_background: Start, snapshots: str
) -> None:
    """Each group is killed in its second phase; validation loss has chosen where the first one ends."""
    settings = tiny(
        codistillation__second_phase__epochs="3",
        codistillation__second_phase__snapshots=snapshots,
        train__early_stopping="1",
        train__evaluate_every="4",
        train__checkpoint_every="2",
        train__restarts="9",
    )
    whole, out = project.folder / f"whole-{snapshots}", project.folder / f"mauled-{snapshots}"
    calm = project.ctr("train", "data", "--out", whole.name, *settings, "--json").result
    process = in_background("train", "data", "--out", out.name, *settings, "--json", cwd=project.folder)
    killed = [0, 0]
    for group in (0, 1):
        wait_for(lambda group=group: max(checkpoints(out, group), default=0) > 10**9, process)
        killed[group] += kill_and_wait(process, group)
    result = result_of(process)
    assert [member["restarts"] for member in result["members"]] == killed == [1, 1]
    for group, member in enumerate(calm["members"]):
        assert max(checkpoints(whole, group)) >= 2 * 10**9, "it has come to the end of its second phase"
        assert member["steps"] == result["members"][group]["steps"]
        assert member["log_loss"] == result["members"][group]["log_loss"]
        assert_equal_weights(weights(whole, group), weights(out, group))


def test_group_goes_on_while_the_other_is_killed_twenty_times(project: Project, in_background: Start) -> None:
    """In async; it stays the same process, and never meets a snapshot that it has to refuse."""
    out, moments = project.folder / "hunted", random.Random(7)
    settings = tiny(codistillation__exchange="async", train__restarts="20", train__epochs="60")
    process = in_background("train", "data", "--out", "hunted", *settings, "--json", cwd=project.folder)
    wait_for(lambda: worker_of(process.pid, 0), process)
    steady = worker_of(process.pid, 0)
    assert steady is not None
    for _ in range(20):
        # From before it has begun to import to the middle of its training: it takes some seconds to start.
        time.sleep(moments.uniform(0.0, 6.0))
        assert worker_of(process.pid, 0) == steady or gone(steady)
        assert kill_and_wait(process, 1)
    result = result_of(process)
    assert [member["restarts"] for member in result["members"]] == [0, 20]
    assert result["steps"] == 3000
    for group in (0, 1):
        assert "refused" not in (out / f"group-{group}" / "worker-0.log").read_text()


def test_group_that_lost_a_worker_starts_again_and_ends_with_the_same_weights(
    project: Project, in_background: Start
) -> None:
    """Two workers a group; the limit is told when it is reached."""
    settings = tiny(train__workers_per_group="2", codistillation__groups="1", train__epochs="3")
    project.ctr("train", "data", "--out", "pair", *settings, "--json").result
    process = in_background("train", "data", "--out", "widowed", *settings, "--json", cwd=project.folder)
    wait_for(lambda: checkpoints(project.folder / "widowed", 0), process)
    assert kill_and_wait(process, 0, worker=1)
    result = result_of(process)
    assert [member["restarts"] for member in result["members"]] == [1]
    assert_equal_weights(weights(project.folder / "pair", 0), weights(project.folder / "widowed", 0))


def test_group_that_dies_too_often_ends_the_run(project: Project, in_background: Start) -> None:
    """With one line that says how often it was tried."""
    settings = tiny(train__restarts="1", train__epochs="500")
    process = in_background("train", "data", "--out", "doomed", *settings, cwd=project.folder)
    wait_for(lambda: worker_of(process.pid, 1), process)
    assert kill_and_wait(process, 1)
    wait_for(lambda: worker_of(process.pid, 1), process)
    assert kill(worker_of(process.pid, 1))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "worker 0 of group 1 was killed by signal 9 (started again 1 times already)" in line


def alone(folder: Path, out: str, exchange: str | Path, *settings: str) -> dict[str, Any]:
    """One of two groups, started as a scheduler does, while the other never comes; its result."""
    run = folder / out
    run.mkdir()
    (run / "config.yaml").write_text((folder / "run" / "config.yaml").read_text())
    config = run_ctr("validate", run / "config.yaml", cwd=folder)
    assert config.code == 0, config.err
    import yaml

    values = yaml.safe_load((run / "config.yaml").read_text())
    for setting in settings:
        key, _, value = setting.partition("=")
        group, _, name = key.partition(".")
        values[group][name] = yaml.safe_load(value)
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    environment = {"CTR_GROUP": "0", "CTR_GROUPS": "2", "CTR_EXCHANGE": str(exchange)}
    done = run_ctr("worker", "data", "--out", out, cwd=folder, env=environment)
    assert done.code == 0, done.err
    return {**json.loads((run / "group-0" / "result.json").read_text()), "said": done.out}


def test_peer_that_never_comes_is_waited_for_once_and_then_dropped(project: Project) -> None:
    settings = ["codistillation.peer_timeout=1.0", "codistillation.drop_after=20"]
    result = alone(project.folder, "lonely", project.folder / "lonely" / "exchange", *settings)
    assert result["steps"] == 50
    assert result["peers_dropped"] == [1]
    assert result["snapshots_missed"] == 1
    assert 1.0 <= result["seconds_waited"] < 3.0
    assert "no snapshot of group 1 in time" in result["said"]
    assert "group 1 is dropped" in result["said"]


@pytest.mark.parametrize("exchange", ["lockstep", "async"])
def test_exchange_that_cannot_be_reached_is_gone_without(project: Project, exchange: str) -> None:
    blocked = project.folder / f"blocked-{exchange}"
    blocked.write_text("a file where the exchange folder should be")
    settings = ["codistillation.peer_timeout=1.0", f"codistillation.exchange={exchange}"]
    result = alone(project.folder, f"cut-off-{exchange}", blocked / "exchange", *settings)
    assert result["steps"] == 50
    assert result["snapshots_unpublished"] == result["exchanges"] == 4
    assert "snapshot not published, going on without" in result["said"]


def test_loss_above_the_limit_ends_the_run_with_step_rate_and_checkpoint(project: Project) -> None:
    settings = tiny(codistillation__groups="1", optimizer__learning_rate="2.0", train__max_loss="1.0")
    failed = project.ctr("train", "data", "--out", "soared", *settings)
    assert failed.code == 1
    assert "(the limit is 1) at step" in failed.error
    assert "with learning rate" in failed.error
    assert "checkpoint" in failed.error
