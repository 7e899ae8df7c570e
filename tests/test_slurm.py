"""The Slurm script on a real Slurm of one node, which the test starts for itself: no part of it is played."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CTR, TINY, Project
from deploy import DEPLOY
from runs import assert_equal_weights, weights

from ctr.cluster import free_ports

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed (Debian: slurmctld, slurmd): no {MISSING}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd wants to be root, as whom it starts users' jobs"),
]

# No munge, which would have to be set up for the whole machine: everybody here is root. It may start more tasks than
# there are cores.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs, told by its environment."""

    environment: dict[str, str]

    def run(self, *words: object, cwd: Path, **more: str) -> str:
        """What one of its commands says; it must end well."""
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, env={**self.environment, **more}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self, job: str, cwd: Path) -> list[str]:
        """How the array tasks of a job stand."""
        return self.run(
            "squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T", cwd=cwd
        ).split()

    def wait(self, job: str, cwd: Path, seconds: float = 240) -> list[str]:
        """Waits until all array tasks of a job have ended; how they did."""
        deadline = time.monotonic() + seconds
        while set(states := self.states(job, cwd)) & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}:
            assert time.monotonic() < deadline, f"{states}: {said(cwd)}"
            time.sleep(0.3)
        return states


def said(folder: Path) -> str:
    """The logs of the jobs in a folder."""
    return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(folder.glob("ctr-*.log")))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[Slurm]:
    """One node with four places for tasks, on ports of its own, which leaves nothing behind."""
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    controller, node = free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, controller=controller, node=node, folder=folder))
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{CTR.parent}:{os.environ['PATH']}"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in ("slurmctld", "slurmd"):
            with (folder / f"{daemon}.out").open("wb") as out:
                started.append(
                    subprocess.Popen([daemon, "-D"], env=environment, stdout=out, stderr=out, start_new_session=True)
                )
        made = Slurm(environment)
        until(lambda: "idle" in made.run("sinfo", "--noheader", "--format=%t", cwd=folder), 60)
        yield made
    finally:
        for daemon in reversed(started):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """What a condition gives once it gives something."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(AssertionError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def submit(slurm: Slurm, project: Project, out: str, *, workers: int, **changes: str) -> str:
    """Submits two groups of so many workers as the script's head says; the number of the job."""
    run = project.folder / out
    run.mkdir()
    settings: dict[str, Any] = {}
    for key, text in {**TINY, "train.workers_per_group": str(workers), **changes}.items():
        group, _, name = key.partition(".")
        settings.setdefault(group, {})[name] = yaml.safe_load(text)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    words = ["sbatch", "--parsable", "--array=0-1", f"--ntasks={workers}", DEPLOY / "train.slurm", "data", out]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/mlflow.db"}
    return slurm.run(*words, cwd=project.folder, **store).strip()


def test_array_of_groups_trains_the_weights_that_the_launcher_does(slurm: Slurm, project: Project) -> None:
    """Two groups of one worker exchange snapshots through the run's folder, as `ctr train` has them do."""
    job = submit(slurm, project, "by-slurm", workers=1)
    assert slurm.wait(job, project.folder) == ["COMPLETED"] * 2, said(project.folder)
    for group in range(2):
        assert_equal_weights(weights(project.folder / "run", group), weights(project.folder / "by-slurm", group))
    exported = project.ctr("export", "by-slurm", "--out", "models/ctr/1", "--json").result
    assert "serving_default" in exported["signatures"]
    figures = project.ctr("evaluate", "models/ctr/1", "data", "--part", "validation", "--json").result
    expected = project.trained["members"][0]["log_loss"]
    assert figures["log_loss"] == pytest.approx(expected, abs=1e-6)


def test_group_whose_worker_is_killed_goes_on_from_its_checkpoint(slurm: Slurm, project: Project) -> None:
    """Two groups of two workers; one worker dies in the middle, and both groups end well."""
    job = submit(slurm, project, "slurm-killed", workers=2, **{"train.epochs": "2"})
    run = project.folder / "slurm-killed"
    until(lambda: list((run / "group-1" / "checkpoint").glob("*.index")), 120)
    victim = until(lambda: worker_of(run.name, group=1, worker=1), 20)
    os.kill(victim, signal.SIGKILL)
    assert slurm.wait(job, project.folder) == ["COMPLETED"] * 2, said(project.folder)
    assert "group 1 ended with" in said(project.folder)
    assert "group 0 ended with" not in said(project.folder)
    for group in range(2):
        assert (run / f"group-{group}" / "model" / "saved_model.pb").is_file()


def worker_of(run: str, *, group: int, worker: int) -> int | None:
    """The process of a worker that Slurm started; None while it is not there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
            place = {f"CTR_GROUP={group}".encode(), f"SLURM_PROCID={worker}".encode()}
            if b"worker" in words and run.encode() in words and place <= set(variables) and b"bash" not in words[0]:
                return int(folder.name)
    return None
