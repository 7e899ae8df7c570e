"""What tests of servers share."""

import subprocess
import time
from typing import Any

import httpx


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
