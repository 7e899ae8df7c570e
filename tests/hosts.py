"""Hosts made of this machine: network namespaces with an address each, joined by a bridge in one more, the switch.

Nothing of them is in the machine's own network, so that two runs have the same addresses and do not meet.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

# Of the link in each host, and of the bridge in the switch.
_LINK, _BRIDGE = "eth0", "bridge"


@dataclass(frozen=True)
class Host:
    """A network namespace; `port` is the switch's end of its link."""

    namespace: str
    address: str
    switch: str
    port: str


@contextlib.contextmanager
def hosts(count: int) -> Generator[list[Host]]:
    """So many hosts that reach one another; at the end they, and what still runs in them, are gone."""
    token = uuid.uuid4().hex[:8]
    switch = f"ctr-{token}-switch"
    made = [Host(f"ctr-{token}-{i}", f"10.0.0.{i + 1}", switch, f"port{i}") for i in range(count)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", _BRIDGE, "type", "bridge")
        _ip("-n", switch, "link", "set", _BRIDGE, "up")
        for host in made:
            _add(host)
        yield made
    finally:
        for namespace in [*(host.namespace for host in made), switch]:
            _remove(namespace)


def why_no_hosts() -> str | None:
    """Why there can be none here; None where there can."""
    if lacking := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"no {' and no '.join(lacking)} here: install iproute2"
    try:
        with hosts(1):
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"


def in_host(host: Host, *words: object) -> list[str]:
    """The command that runs `words` in a host; its process is that of `words`."""
    return ["ip", "netns", "exec", host.namespace, *map(str, words)]


def cut_off(host: Host) -> None:
    """Pulls a host's cable: what is sent is lost, and nobody is told."""
    _ip("-n", host.switch, "link", "set", host.port, "down")


def bring_back(host: Host) -> None:
    """Puts the cable back."""
    _ip("-n", host.switch, "link", "set", host.port, "up")


def shape(host: Host, bits_per_second: int, latency_ms: int = 50) -> None:
    """Limits a host's link, in each direction by itself; what waits for longer than the latency is lost."""
    # At least what passes in the hundredth of a second between two looks of the kernel, and two full packets.
    burst = max(32_768, bits_per_second // 8 // 100)
    for namespace, link in ((host.namespace, _LINK), (host.switch, host.port)):
        limit = ["rate", f"{bits_per_second}bit", "burst", str(burst), "latency", f"{latency_ms}ms"]
        _run("tc", "-n", namespace, "qdisc", "replace", "dev", link, "root", "tbf", *limit)


def bytes_sent(host: Host) -> int:
    """What a host has sent over its link so far, headers and all."""
    (link,) = json.loads(_ip("-n", host.namespace, "-s", "-j", "link", "show", _LINK))
    return int(link["stats64"]["tx"]["bytes"])


def _add(host: Host) -> None:
    _ip("netns", "add", host.namespace)
    end = ["type", "veth", "peer", "name", host.port, "netns", host.switch]
    _ip("-n", host.namespace, "link", "add", _LINK, *end)
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", _LINK)
    for link in ("lo", _LINK):
        _ip("-n", host.namespace, "link", "set", link, "up")
    _ip("-n", host.switch, "link", "set", host.port, "master", _BRIDGE, "up")


def _remove(namespace: str) -> None:
    """Ends what runs in a namespace and removes it with its links, if it is there."""
    with contextlib.suppress(subprocess.CalledProcessError):
        for pid in _ip("netns", "pids", namespace).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("netns", "delete", namespace)


def _ip(*words: Any) -> str:
    return _run("ip", *words)


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
