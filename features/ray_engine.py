"""Work as tasks of a Ray cluster, one an item. This and `ctr.ray_groups` are all that imports Ray.

A task whose node is lost is done again on another. So work must not mind that it was half done before: what it writes
goes under a name of its own, and what counts is what it returns.
"""

# Ray's types are not complete.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateUsage=false

import logging
import os
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, cast

from features.engine import In, Out, Seen, Work
from features.errors import BadInput, WorkFailed
from features.ordered import CORES, cores

# Ray tells its makers nothing of this machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise BadInput("--engine ray needs Ray, which is not installed: pip install 'ctr[ray]'") from None

# What a worker of Ray finds in its environment: a task has a core, so that one thread is enough for each library.
ENVIRONMENT = {
    CORES: "1",
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
# How often a task is done again whose node was lost.
_RETRIES = 5
_SECONDS_TO_LOOK = 60.0
_SECONDS_TO_END = 10.0


@contextmanager
def ray_cluster(address: str | None) -> Generator["RayEngine"]:
    """The cluster at an address, or at RAY_ADDRESS, or one that is started here and ends with the block.

    Raises BadInput if there is none at the address.
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in wanted:
        raise BadInput(
            f"{wanted} is an address of Ray Client, which shares no folder with the cluster; run ctr on one of its "
            "nodes, by `ray job submit` for example, with --ray-address HOST:PORT"
        )
    # Where it starts here it has what this process may use.
    own: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False} if wanted == "local" else {}
    # What Ray prints, of nodes that are gone for example, is for people: standard output is for results.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(wanted, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise BadInput(f"no Ray cluster can be reached at {wanted}: {said}") from None
        try:
            yield RayEngine()
        finally:
            ray.shutdown()


class RayEngine:
    """Every item is a share, done by a task that has a core to itself, somewhere in the cluster.

    Tasks work in this process's working folder, where their node has it.
    """

    def run(self, work: Work[In, Out], items: Iterable[In], seen: Seen) -> Iterator[Out]:
        """What `work` makes of each item, in order; raises what it raised, and WorkFailed for what Ray cannot mend."""
        shared = ray.put(work)  # once, whatever is in it
        task = _remote(_work, num_cpus=1)
        under_way: deque[Any] = deque()
        try:
            for item in items:
                under_way.append(task.remote(shared, item, str(Path.cwd())))
                # As many wait as are being done, so that no node is idle and not all results are there at once.
                if len(under_way) > 2 * max(int(ray.cluster_resources().get("CPU", 1)), 1):
                    yield cast(Out, _next(under_way, seen))
            while under_way:
                yield cast(Out, _next(under_way, seen))
        finally:
            _end(under_way)

    def check_seen(self, paths: Sequence[str | Path]) -> None:
        """Asks every node that has cores for these files and their sizes; addresses in object stores are not asked."""
        sizes = {str(path): Path(path).stat().st_size for path in paths if "://" not in str(path)}
        asked: dict[Any, str] = {}
        for node in cast(list[dict[str, Any]], ray.nodes()):
            if node["Alive"] and node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = _remote(_unlike, num_cpus=0, scheduling_strategy=there)
                asked[look.remote(sizes, str(Path.cwd()))] = node["NodeManagerAddress"]
        for answer, where in asked.items():
            try:
                unlike = cast(str | None, ray.get(answer, timeout=_SECONDS_TO_LOOK))
            except RayTaskError as error:
                raise BadInput(
                    f"node {where} cannot do this work: {error.cause}; it needs the same ctr, and what that needs, as "
                    "this machine"
                ) from None
            except RayError:
                continue  # it has gone, so others do its work
            if unlike:
                raise BadInput(_not_shared(f"node {where}", unlike))


def _remote(function: Any, **options: Any) -> Any:
    return ray.remote(function).options(max_retries=_RETRIES, runtime_env={"env_vars": ENVIRONMENT}, **options)


def _work(work: Work[Any, Any], item: Any, folder: str) -> tuple[Any, int]:
    """In a task: what becomes of an item, and how much was done."""
    _go_to(folder)
    done = 0

    def seen(rows: int) -> None:
        nonlocal done
        done += rows

    return work([item], seen), done


def _unlike(sizes: dict[str, int], folder: str) -> str | None:
    """In a task: the first of some files that is not there or has another size."""
    _go_to(folder)
    for path, size in sizes.items():
        try:
            same = Path(path).stat().st_size == size
        except OSError:
            same = False
        if not same:
            return path
    return None


def _not_shared(node: str, path: str) -> str:
    return (
        f"{node} does not see {path} as it is here; on Ray, inputs and outputs must be in a folder that all nodes "
        "share, or inputs in an object store"
    )


def _go_to(folder: str) -> None:
    with suppress(OSError):  # names may be whole paths
        os.chdir(folder)


def _next(under_way: deque[Any], seen: Seen) -> Any:
    try:
        found, done = ray.get(under_way[0])
    except RayTaskError as error:
        if isinstance(error.cause, FileNotFoundError):  # on a node that has come later than it could be asked
            raise BadInput(_not_shared("a node", error.cause.filename)) from error
        raise error.cause from error
    except RayError as error:
        first = str(error).strip().split("\n", maxsplit=1)[0]
        raise WorkFailed(f"a task on Ray was lost, and {_RETRIES} more attempts were too: {first}") from None
    under_way.popleft()
    seen(done)
    return found


def _end(under_way: deque[Any]) -> None:
    """Ends what is not wanted any more, and waits for that: it writes into folders that are about to go."""
    for each in under_way:
        ray.cancel(each, force=True)
    if under_way:
        ray.wait(list(under_way), num_returns=len(under_way), timeout=_SECONDS_TO_END)
