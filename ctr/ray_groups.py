"""Groups on a Ray cluster: an actor runs the process of a worker, and those of a group are as close as they can be.

The process is the one that the launcher starts on one machine, with TF_CONFIG of the addresses that the actors found.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ctr.cluster import GONE, Seat, start_python
from features.errors import WorkFailed
from features.ray_engine import ENVIRONMENT

# Variables that go to the nodes with a worker: where runs are tracked, and settings of ours.
_SENT = ("MLFLOW_", "CTR_")
_SECONDS_TO_SAY = 10.0
_SECONDS_FOR_PLACE = 600.0
_SECONDS_TO_ANSWER = 60.0
_ATTEMPTS = 5


class RayGroups:
    """Finds seats for groups on a cluster (`ctr.cluster.Seats`), and gives them back when the block ends."""

    def __init__(self, *, cores: int, say: Callable[[str], None]):
        """Each worker gets so many cores. `say` is told when a group has to wait for its place."""
        self._cores, self._say = cores, say
        self._held: dict[int, tuple[Any, list[Any]]] = {}  # by group: placement group and actors

    def __enter__(self) -> "RayGroups":
        return self

    def __exit__(self, *error: object) -> None:
        for group in list(self._held):
            self._release(group)

    def __call__(self, group: int, workers: int) -> list[Seat]:
        """Seats for a group's workers. Raises WorkFailed if there is no place for all of them for ten minutes."""
        for _ in range(_ATTEMPTS):
            self._release(group)
            hosts = self._place(group, workers)
            try:
                addresses = ray.get([host.address.remote() for host in hosts], timeout=_SECONDS_TO_ANSWER)
            except (RayActorError, GetTimeoutError):
                continue  # a node went meanwhile
            return [Seat(address, partial(Far, host)) for address, host in zip(addresses, hosts, strict=True)]
        raise WorkFailed(
            f"group {group} lost its nodes {_ATTEMPTS} times before it had begun; the same command resumes"
        )

    def _place(self, group: int, workers: int) -> list[Any]:
        placed = placement_group([{"CPU": self._cores}] * workers, strategy="PACK")
        self._held[group] = placed, []
        if not placed.wait(_SECONDS_TO_SAY):
            wanted = f"{workers} x {self._cores} free cores"
            self._say(f"group {group} waits for nodes with {wanted}")
            if not placed.wait(_SECONDS_FOR_PLACE):
                raise WorkFailed(
                    f"group {group} found no nodes with {wanted} in {_SECONDS_FOR_PLACE:.0f} seconds; add nodes to "
                    "the cluster, or begin a run with fewer train.threads or train.workers_per_group; the same command "
                    "resumes"
                )
        # One call waits for what the process says while others ask or signal.
        options: dict[str, Any] = {"num_cpus": self._cores, "max_concurrency": 4}
        actor = cast(Any, ray.remote(**options, runtime_env={"env_vars": ENVIRONMENT}))(Host)
        where = [PlacementGroupSchedulingStrategy(placed, index) for index in range(workers)]
        hosts = [actor.options(scheduling_strategy=each).remote(str(Path.cwd())) for each in where]
        self._held[group] = placed, hosts
        return hosts

    def _release(self, group: int) -> None:
        placed, hosts = self._held.pop(group, (None, []))
        for host in hosts:
            ray.kill(host)
        if placed is not None:
            remove_placement_group(placed)


class Host:
    """The actor: runs the process of one worker, on the node where it was placed. When it ends, so does the process."""

    def __init__(self, folder: str):
        """`folder`: the launcher's working folder."""
        os.chdir(folder)
        self._process: Any = None

    def address(self) -> str:
        """Of this node, with a port that nobody listens on."""
        where = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((where, 0))
            return f"{where}:{free.getsockname()[1]}"

    def start(self, arguments: list[str], environment: dict[str, str], log: str) -> None:
        """Starts `ctr ARGUMENTS`."""
        self._process = start_python(arguments, environment, Path(log))

    def line(self) -> str:
        """The next line that it prints, once there is one; nothing when it has ended."""
        return self._process.stdout.readline()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)


class Far:
    """A worker's process on some node: as much of `subprocess.Popen` as the launcher needs."""

    def __init__(self, host: Any, arguments: Sequence[str], environment: Mapping[str, str], log: Path):
        """Has `ctr ARGUMENTS` started by a host."""
        self._host, self._ended = host, threading.Event()
        self.returncode: int | None = None
        sent = {name: value for name, value in os.environ.items() if name.startswith(_SENT)}
        self._started = host.start.remote(list(arguments), {**sent, **environment}, str(log))
        self.stdout: Iterator[str] = self._lines()

    def poll(self) -> int | None:
        """None while it runs, minus the signal that killed it, GONE where its node is."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            self._host.signal.remote(number)

    def kill(self) -> None:
        """With its host, which may no longer answer."""
        with suppress(RayActorError, RayTaskError, GetTimeoutError):
            ray.get(self._host.signal.remote(signal.SIGKILL), timeout=1)
        ray.kill(self._host)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises TimeoutError after `timeout` seconds."""
        if not self._ended.wait(timeout):
            raise TimeoutError
        assert self.returncode is not None
        return self.returncode

    def _lines(self) -> Iterator[str]:
        """What it prints, until it has ended and `returncode` is known."""
        code = GONE
        try:
            ray.get(self._started)
            while line := cast(str, ray.get(self._host.line.remote())):
                yield line
            code = cast(int, ray.get(self._host.wait.remote()))
        except RayActorError:
            pass
        finally:
            self.returncode = code
            self._ended.set()
