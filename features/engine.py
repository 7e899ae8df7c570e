"""What works through files: the cores of this machine, or the nodes of a Ray cluster."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

from features.errors import BadInput, did_you_mean

ENGINES = ("local", "ray")

In = TypeVar("In")
Out = TypeVar("Out")

# Told of rows, or files, that are done.
Seen = Callable[[int], None]
# Works through a share of some items, and tells what is done. To go to another node it must be one that can be pickled.
Work = Callable[[Iterable[In], Seen], Out]


class Engine(Protocol):
    """Divides work among those who do it."""

    def run(self, work: Work[In, Out], items: Iterable[In], seen: Seen) -> Iterator[Out]:
        """What `work` makes of each share of the items, in order; every item is in one share."""
        ...

    def check_seen(self, paths: Sequence[str | Path]) -> None:
        """Raises BadInput if somebody who is to work does not see one of these files as it is here."""
        ...


class Local:
    """This process: all items are one share, and what works through it has a thread a core of its own."""

    def run(self, work: Work[In, Out], items: Iterable[In], seen: Seen) -> Iterator[Out]:
        """The one share's result."""
        yield work(items, seen)

    def check_seen(self, paths: Sequence[str | Path]) -> None:
        """There is nobody else."""


LOCAL = Local()


@contextmanager
def open_engine(name: str, address: str | None = None) -> Generator[Engine]:
    """The engine of this name, ready to work until the block ends. `address`: of a Ray cluster, None where RAY_ADDRESS
    says it, or where Ray is to start on this machine. Raises BadInput if there is no such engine or cluster.
    """
    if name not in ENGINES:
        raise BadInput(f"--engine is '{name}': {did_you_mean(name, ENGINES)}")
    if name == "local":
        if address:
            raise BadInput(f"--ray-address {address} is of no use to the local engine; add --engine ray")
        yield LOCAL
    else:
        from features.ray_engine import ray_cluster

        with ray_cluster(address) as engine:
            yield engine


def check_shared(engine: Engine, folder: Path) -> None:
    """Raises BadInput if somebody who is to work does not see this folder: a file put there tells."""
    token = folder / f".seen-{uuid4().hex}"
    token.write_text("whoever works here must see this file\n", encoding="utf-8")
    try:
        engine.check_seen([token])
    finally:
        token.unlink()


def ignore(rows: int) -> None:
    """For work of which nobody wants to know how far it is."""
