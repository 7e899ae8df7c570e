"""Servers on loopback under load: starting and ending them, whole requests of rows, and what clients see."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from features.encode import encode_dense, encode_ids
from features.sources import open_sources, read_batches
from serving.card import read_spec

ADS = 10
Row = dict[str, Any]
Figures = dict[str, float]


def request_rows(log: Path, model: Path) -> tuple[list[list[Row]], list[list[Row]]]:
    """Requests of rows of a log, as raw fields by name (missing ones left out) and encoded."""
    spec = read_spec(model)
    batches = [*read_batches(open_sources([str(log)], spec.schema), spec.schema)]
    frame = pl.concat(batch.frame for batch in batches)
    names = [*spec.schema.number_fields, *spec.schema.text_fields]
    raw = [{n: v for n, v in row.items() if v is not None} for row in frame.select(names).iter_rows(named=True)]
    ids, dense = encode_ids(frame, spec).tolist(), encode_dense(frame, spec).tolist()
    packed = [
        {"ids": one, "dense": [None if math.isnan(value) else value for value in other]}
        for one, other in zip(ids, dense, strict=True)
    ]
    return tuple([rows[i : i + ADS] for i in range(0, len(rows), ADS)] for rows in (raw, packed))  # pyright: ignore


def start(
    words: list[str], environment: Mapping[str, str], log: Path, servers: contextlib.ExitStack
) -> "subprocess.Popen[bytes]":
    """A server that is started with `python WORDS`, writes to `log` and ends with `servers`."""
    environment = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    file = servers.enter_context(log.open("w"))
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=file, stderr=file, cwd=log.parent, start_new_session=True
    )
    servers.callback(ended, process)
    return process


def ended(process: "subprocess.Popen[bytes]") -> None:
    """Ends a server and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def wait_until_up(process: "subprocess.Popen[bytes]", port: int, request: str, log: Path) -> None:
    """Waits for the first answer to a whole request."""
    head, content = request.split("\r\n\r\n", 1)
    url = f"http://127.0.0.1:{port}{head.split()[1]}"
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(url, content=content, headers={"content-type": "application/json"}, timeout=60)
            if answer.status_code == 200:
                return
        time.sleep(0.5)
    raise SystemExit(f"a server did not come up: {log.read_text()[-1000:]}")


def whole_requests(path: str, rows: list[list[Row]], body: Callable[[list[Row]], Any]) -> list[str]:
    """POST requests of these rows, ten each."""
    requests: list[str] = []
    for each in rows:
        content = json.dumps(body(each))
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        requests.append(f"{head}content-length: {len(content)}\r\n\r\n{content}")
    return requests


def loaded(port: int, clients: int, seconds: float, requests: list[str]) -> Figures:
    """What so many clients see in so many seconds; every request must be answered with 200."""
    words = [sys.executable, str(Path(__file__).with_name("load.py")), str(port), str(clients), str(seconds)]
    done = subprocess.run(words, input=json.dumps(requests), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the clients failed: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    if result["failed"]:
        failed = result["failed"]
        raise SystemExit(f"{len(failed)} of {len(result['latencies'])} requests failed; one was answered {failed[0]}")
    return figures(result["latencies"], result["seconds"])


def figures(latencies: list[float], seconds: float) -> Figures:
    """Of sorted milliseconds."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "most": latencies[-1], "rate": len(latencies) / seconds}
