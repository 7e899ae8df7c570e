"""Starts the groups of a run on this machine, one process a worker, follows them, and ends them together."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ctr.fellows import LOST
from ctr.runs import group_folder
from features.errors import WorkFailed

_SECONDS_TO_END = 10.0
_SECONDS_TO_NOTICE = 3.0
# What stands for the exit code of a worker that went with the machine that it ran on; no signal has that number.
GONE = -1000

# Told of every event of every group: its number and the event, as `ctr.worker` prints them.
Follow = Callable[[int, dict[str, Any]], None]


class Running(Protocol):
    """A process, as far as it is looked after here: `subprocess.Popen`, `ctr.forks.Fork`, `ctr.ray_groups.Far`."""

    stdout: Any

    @property
    def returncode(self) -> int | Any: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


# Starts `ctr ARGUMENTS` with variables beside those of its environment; its standard error goes to a log.
Start = Callable[[Sequence[str], Mapping[str, str], Path], Running]


@dataclass(frozen=True)
class Seat:
    """Where a worker will run: an address that it can listen on, `host:port`, and what starts it there."""

    address: str
    start: Start


# Finds seats for a group, by its number, and so many workers; those that it had before are taken from it.
Seats = Callable[[int, int], list[Seat]]


@dataclass(frozen=True)
class Process:
    """A process of a group that runs."""

    group: int
    worker: int
    popen: Running
    log: Path
    reader: threading.Thread

    @property
    def done(self) -> bool:
        """Whether it ended well and all that it said was heard."""
        return self.popen.poll() == 0 and not self.reader.is_alive()


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


def tf_configs(addresses: Sequence[str]) -> list[str]:
    """TF_CONFIG of every worker of a group, which is a cluster of its own, at these addresses."""
    tasks = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(len(addresses))]
    return [json.dumps(task) for task in tasks]


def start_python(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[str]":
    """`ctr ARGUMENTS` as a Python of its own, which ends when this process does."""
    with log.open("a") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "ctr", *arguments],
            env={**os.environ, **environment, "CTR_PARENT": str(os.getpid())},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # So that Ctrl-C reaches only the launcher, which ends all groups in good order.
            start_new_session=True,
        )


def seats_here(start: Start) -> Seats:
    """Seats on this machine, on free ports."""
    return lambda group, workers: [Seat(f"127.0.0.1:{port}", start) for port in free_ports(workers)]


def run_groups(
    arguments: Sequence[str],
    run: Path,
    *,
    exchange: str,
    groups: int,
    workers: int,
    restarts: int,
    tags: dict[str, str],
    follow: Follow,
    seats: Seats,
    alive: Callable[[], None] = lambda: None,
) -> list[int]:
    """Runs `ctr worker ARGUMENTS` for each worker of each group until all have ended well.

    Args:
        exchange: folder or address, of this run alone, where groups exchange snapshots.
        seats: where they run, and how they are started.
        alive: called all the time; what it raises ends the run.

    A group of which a process was killed, or lost its node or its fellow workers, is started again from its checkpoint,
    at most `restarts` times; how often each was is returned. Raises WorkFailed with the last words of the first process
    that failed by itself. However it ends, no process is left.
    """
    events: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    start_group = partial(
        _start_group,
        ["worker", *arguments],
        run,
        seats,
        exchange=exchange,
        groups=groups,
        workers=workers,
        tags=tags,
        events=events,
    )
    running: list[list[Process]] = []
    again = [0] * groups
    try:
        running += [start_group(group) for group in range(groups)]
        while True:
            alive()
            _hand_on(events, follow)
            for group, processes in enumerate(running):
                failed = _failed(processes)
                if failed is None:
                    continue
                how = f"worker {failed.worker} of group {group} {_end_of(failed)}"
                if not _may_try_again(processes) or again[group] == restarts:
                    times = f" (started again {restarts} times already)" if _may_try_again(processes) else ""
                    raise WorkFailed(f"{how}{times}; its log is {failed.log}, the same command resumes")
                again[group] += 1
                text = f"{how}; the group starts again from its checkpoint ({again[group]} of {restarts} times)"
                follow(group, {"event": "warning", "text": text})
                end_processes(processes)
                running[group] = start_group(group)
            if all(process.done for processes in running for process in processes) and events.empty():
                return again
    finally:
        end_processes([process for processes in running for process in processes])


def _start_group(
    arguments: Sequence[str],
    run: Path,
    seats: Seats,
    group: int,
    *,
    exchange: str,
    groups: int,
    workers: int,
    tags: dict[str, str],
    events: "queue.Queue[tuple[int, dict[str, Any]]]",
) -> list[Process]:
    """Starts the processes of a group; their standard error goes to logs in the run, their events to the queue."""
    folder = group_folder(run, group)
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[Process] = []
    found = seats(group, workers)
    for worker, (seat, tf_config) in enumerate(zip(found, tf_configs([each.address for each in found]), strict=True)):
        environment = {
            "TF_CONFIG": tf_config,
            "CTR_GROUP": str(group),
            "CTR_GROUPS": str(groups),
            "CTR_EXCHANGE": exchange,
            "CTR_TAGS": json.dumps(tags),
            # A process a core: reading shards must not take the cores of the other groups.
            "POLARS_MAX_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Tables in large pages: rows of ten million are looked up a fiftieth faster.
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES") or "glibc.malloc.hugetlb=1",
        }
        log = folder / f"worker-{worker}.log"
        popen = seat.start(arguments, environment, log)
        process = Process(group, worker, popen, log, threading.Thread(target=_read, args=(group, popen, events)))
        process.reader.daemon = True
        process.reader.start()
        processes.append(process)
    return processes


def _hand_on(events: "queue.Queue[tuple[int, dict[str, Any]]]", follow: Follow) -> None:
    """Tells of the events that there are, after waiting a little for the first."""
    with contextlib.suppress(queue.Empty):
        while True:
            follow(*events.get(timeout=0.1))


def _failed(processes: Sequence[Process]) -> Process | None:
    """The process of a group that failed, the first that did so by itself; None while all is well."""
    if not any(process.popen.poll() for process in processes):
        return None
    # The others of the group are about to notice, and may have more to say about why.
    deadline = time.monotonic() + _SECONDS_TO_NOTICE
    while any(process.popen.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = [process for process in processes if process.popen.poll()]
    return min(ended, key=lambda process: (process.popen.returncode in (LOST, None), process.popen.returncode < 0))


def _may_try_again(processes: Sequence[Process]) -> bool:
    """Whether a group's processes were killed from outside or lost one another, and none gave up by itself."""
    return all(process.popen.returncode in (None, 0, LOST) or process.popen.returncode < 0 for process in processes)


def _end_of(process: Process) -> str:
    code = process.popen.returncode
    if code == GONE:
        return "is gone with its node"
    return f"was killed by signal {-code}" if code < 0 else f"failed: {_last_words(process.log)}"


def end_processes(processes: Sequence[Process]) -> None:
    """Ends what still runs: asked first, killed when it has not ended after 10 seconds."""
    for process in processes:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, TimeoutError):
            process.popen.kill()
            process.popen.wait()


def _read(group: int, popen: Running, events: "queue.Queue[tuple[int, dict[str, Any]]]") -> None:
    for line in popen.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # what a library printed
        if isinstance(event, dict) and "event" in event:
            events.put((group, event))


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
