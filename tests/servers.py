"""What tests of servers share."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ctr.cluster import free_ports


def wait_until_up(server: "subprocess.Popen[Any]", url: str, seconds: float = 120) -> httpx.Response:
    """Waits until a server answers with anything but a fault of its own; returns the answer."""
    deadline = time.monotonic() + seconds
    while True:
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not come up"
        try:
            answer = httpx.get(url)
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.2)


@dataclass(frozen=True)
class Server:
    """A `ctr serve` that answers."""

    url: str
    grpc: str
    process: "subprocess.Popen[str]"
    log: Path

    def post(self, body: Any, path: str = "/v1/models/ctr:predict", **headers: str) -> httpx.Response:
        """POST of bytes or of something that becomes JSON; `x_deadline_ms="5"` is a header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=content, headers=named, timeout=30)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """GET."""
        return httpx.get(self.url + path, headers=headers, timeout=30)

    def states(self) -> dict[tuple[str, str], str]:
        """Version and state of all versions in the status, with the error code of each."""
        found = self.get("/v1/models/ctr").json()["model_version_status"]
        return {(each["version"], each["state"]): each["status"]["error_code"] for each in found}


@contextlib.contextmanager
def serving(folder: Path, *arguments: object, log: Path, **environment: str) -> Generator[Server]:
    """`ctr serve` with these arguments in `folder`, with gRPC, on free ports; it must end with code 0."""
    port, grpc_port = free_ports(2)
    options = ["--port", str(port), "--grpc-port", str(grpc_port)]
    command = [sys.executable, "-m", "ctr", "serve", *map(str, arguments), *options]
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=folder, stderr=errors, text=True, env={**os.environ, **environment})
    server = Server(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", process, log)
    try:
        wait_until_up(process, f"{server.url}/v2/health/ready")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        assert process.wait(60) == 0, log.read_text()


@contextlib.contextmanager
def object_store(bucket: str) -> Generator[str]:
    """The address of a server with S3's interface and one bucket."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_up(server, address)
        httpx.put(f"{address}/{bucket}").raise_for_status()
        yield address
    finally:
        server.terminate()
        server.wait(20)


def wait_for(what: Any, seconds: float = 90) -> None:
    """Waits until `what()` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def put(model: Path, target: Path) -> None:
    """Puts a copy of a SavedModel in the place of whatever is at `target`, in one move of names."""
    aside = target.with_name(f".{target.name}.new")
    shutil.copytree(model, aside)
    if target.exists():
        target.rename(target.with_name(f".{target.name}.old"))
    aside.rename(target)
    shutil.rmtree(target.with_name(f".{target.name}.old"), ignore_errors=True)


def break_model(folder: Path) -> None:
    """Cuts a SavedModel's graph short."""
    path = folder / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:1000])
