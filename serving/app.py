"""`ctr serve`: starts the server processes, keeps them running, and stops them together."""

import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from features.errors import BadInput, WorkFailed
from serving.access_log import access_log
from serving.ports import check_free, check_grpc_installed, with_port
from serving.worker import Settings, listening

_LOOK = 0.2
# A process that has been told to stop may take so much longer than requests may.
_GRACE = 10.0


@dataclass
class _Process:
    """A server process, and what it has said so far."""

    popen: "subprocess.Popen[bytes]"
    said: bytes = b""
    heard: dict[str, Any] = field(default_factory=dict)
    ready: bool = False


def serve(settings: Settings, workers: int) -> None:
    """Answers with `workers` processes until it is asked to stop (Ctrl-C, SIGTERM), finishing what is in flight.

    A process that dies is started again. Raises BadInput if a port is in use or there is nothing that can be served,
    WorkFailed if a process dies before it is ready.
    """
    host, port, name = settings.host, settings.port, settings.name
    if settings.grpc_port is not None:
        check_grpc_installed()
    if settings.access_log:
        access_log(Path(settings.access_log))  # while nothing is loaded yet
    for asked in [port, *([settings.grpc_port] if settings.grpc_port is not None else [])]:
        check_free(host, asked)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: stopping.append(received))
    # Nobody else gets the port while the processes load; this socket does not listen.
    with listening(host, port), selectors.DefaultSelector() as reports:
        running = [_start(settings, reports) for _ in range(workers)]
        up = False
        try:
            while not stopping:
                _hear(reports, _LOOK)
                _restart(running, settings, reports, up)
                if not up and all(process.ready for process in running):
                    up = True
                    where = f"http://{with_port(host, port)}/v1/models/{name}:predict"
                    sys.stderr.write(f"serving {settings.folder} as '{name}' on {where} (Ctrl-C stops)\n")
                    if settings.demo_page:
                        sys.stderr.write(f"its demo page is http://{with_port(host, port)}/demo\n")
        finally:
            _stop([process.popen for process in running], settings.drain + _GRACE)


def _start(settings: Settings, reports: selectors.BaseSelector) -> _Process:
    read, write = os.pipe()
    # -P: what lies in the working folder is not imported.
    command = [sys.executable, "-P", "-m", "serving.worker", str(write)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_root(), os.environ.get("PYTHONPATH")]))}
    popen = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[write], env=environment)
    os.close(write)
    assert popen.stdin
    popen.stdin.write(msgspec.json.encode(settings) + b"\n")
    popen.stdin.flush()  # and stays open: its end is this process's
    process = _Process(popen)
    os.set_blocking(read, False)
    reports.register(read, selectors.EVENT_READ, process)
    return process


def _root() -> str:
    return str(Path(__file__).parent.parent)


def _hear(reports: selectors.BaseSelector, seconds: float) -> None:
    """Waits for what processes say."""
    if not reports.get_map():
        time.sleep(seconds)
        return
    for key, _ in reports.select(seconds):
        process: _Process = key.data
        said = os.read(key.fd, 2**16)
        process.said += said
        if not said:
            reports.unregister(key.fd)
            os.close(key.fd)
            process.heard = msgspec.json.decode(process.said or b"{}")
            process.ready = "ready" in process.heard


def _restart(running: list[_Process], settings: Settings, reports: selectors.BaseSelector, up: bool) -> None:
    """Starts those that have died again. Raises BadInput or WorkFailed if the server is not up yet: it cannot be."""
    for place, process in enumerate(running):
        code = process.popen.poll()
        if code is None:
            continue
        if not up:
            if "error" in process.heard:
                raise BadInput(process.heard["error"])
            raise WorkFailed(f"a server process ended with {code} before it could answer; what it said is above")
        why = process.heard.get("error", f"it ended with {code}")
        sys.stderr.write(f"warning: a server process is started again: {why}\n")
        running[place] = _start(settings, reports)


def _stop(processes: "list[subprocess.Popen[bytes]]", seconds: float) -> None:
    """Asks all processes to stop and ends those that do not."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
