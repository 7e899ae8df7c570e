"""Starts the groups of a run on this machine, one process a worker, follows them, and ends them together."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.runs import group_folder
from features.errors import WorkFailed

_SECONDS_TO_END = 10.0

# Told of every event of every group: its number and the event, as `ctr.worker` prints them.
Follow = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True)
class Process:
    """A process of a group that runs."""

    group: int
    worker: int
    popen: "subprocess.Popen[str]"
    log: Path


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def tf_configs(groups: int, workers: int) -> list[list[str]]:
    """TF_CONFIG of every worker of every group: each group is a cluster of its own."""
    ports = iter(free_ports(groups * workers))
    configs: list[list[str]] = []
    for _ in range(groups):
        addresses = [f"127.0.0.1:{next(ports)}" for _ in range(workers)]
        tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(workers)]
        configs.append([json.dumps(task) for task in tasks])
    return configs


def start_groups(
    arguments: Sequence[str], run: Path, *, groups: int, workers: int, tags: dict[str, str]
) -> list[Process]:
    """Starts `ctr worker ARGUMENTS` for each worker of each group; their standard error goes to logs in the run."""
    processes: list[Process] = []
    for group, configs in enumerate(tf_configs(groups, workers)):
        folder = group_folder(run, group)
        folder.mkdir(parents=True, exist_ok=True)
        for worker, tf_config in enumerate(configs):
            environment = {
                **os.environ,
                "TF_CONFIG": tf_config,
                "CTR_GROUP": str(group),
                "CTR_GROUPS": str(groups),
                "CTR_EXCHANGE": str(run / "exchange"),
                "CTR_PARENT": str(os.getpid()),
                "CTR_TAGS": json.dumps(tags),
                # A process a core: reading shards must not take the cores of the other groups.
                "POLARS_MAX_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            }
            log = folder / f"worker-{worker}.log"
            with log.open("a") as errors:
                popen = subprocess.Popen(
                    [sys.executable, "-m", "ctr", "worker", *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    # So that Ctrl-C reaches only the launcher, which ends all groups in good order.
                    start_new_session=True,
                )
            processes.append(Process(group, worker, popen, log))
    return processes


def follow_groups(processes: Sequence[Process], follow: Follow) -> None:
    """Waits until all processes have ended well.

    Raises WorkFailed with the last words of the first process that failed. However it ends, no process is left.
    """
    events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    readers = [threading.Thread(target=_read, args=(process, events), daemon=True) for process in processes]
    for reader in readers:
        reader.start()
    try:
        while True:
            try:
                while True:
                    follow(*events.get(timeout=0.1))
            except queue.Empty:
                pass
            codes = [process.popen.poll() for process in processes]
            for process, code in zip(processes, codes, strict=True):
                if code:
                    how = f"was killed by signal {-code}" if code < 0 else f"failed: {_last_words(process.log)}"
                    raise WorkFailed(
                        f"worker {process.worker} of group {process.group} {how}; "
                        f"its log is {process.log}, the same command resumes"
                    )
            if all(code == 0 for code in codes) and not any(reader.is_alive() for reader in readers) and events.empty():
                return
    finally:
        end_processes(processes)


def end_processes(processes: Sequence[Process]) -> None:
    """Ends what still runs: asked first, killed when it has not ended after 10 seconds."""
    for process in processes:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()


def _read(process: Process, events: "queue.Queue[tuple[int, dict[str, Any]]]") -> None:
    assert process.popen.stdout is not None
    for line in process.popen.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # what a library printed
        if isinstance(event, dict) and "event" in event:
            events.put((process.group, event))


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
