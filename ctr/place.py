"""Where a training process stands among groups and workers, as its environment says."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from features.errors import BadInput


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    Attributes:
        addresses: host:port of each worker of the group; none where there is no TF_CONFIG.
        exchange: a folder or address.
        launched: whether `ctr train` started this process, and not a cluster.
        parent: process to end with, 0 for none.
    """

    group: int
    groups: int
    worker: int
    addresses: tuple[str, ...]
    exchange: str
    launched: bool
    parent: int

    @property
    def workers(self) -> int:
        return max(1, len(self.addresses))

    @property
    def chief(self) -> bool:
        return self.worker == 0


def find_place(run: Path) -> Place:
    """This process's place, from the environment. Raises BadInput if those variables are wrong."""
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        addresses = tuple(map(str, config["cluster"]["worker"])) if config else ()
        worker = int(config["task"]["index"]) if config else 0
        group, groups = int(os.environ.get("CTR_GROUP", "0")), int(os.environ.get("CTR_GROUPS", "1"))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"TF_CONFIG, CTR_GROUP or CTR_GROUPS cannot be read: {type(error).__name__} {error}") from None
    if not 0 <= group < groups:
        raise BadInput(f"CTR_GROUP is {group} but CTR_GROUPS is {groups}; groups are numbered from 0")
    if not 0 <= worker < max(1, len(addresses)):
        raise BadInput(f"TF_CONFIG's task has index {worker}, but its cluster has {len(addresses)} workers")
    exchange = os.environ.get("CTR_EXCHANGE") or str(run / "exchange")
    parent = os.environ.get("CTR_PARENT")
    return Place(group, groups, worker, addresses, exchange, parent is not None, int(parent or "0"))


def parent_watch(parent: int) -> Callable[[], None]:
    """A check that ends this process when the one that launched it is gone: nobody would read its results."""

    def alive() -> None:
        if parent and os.getppid() != parent:
            sys.exit(143)

    return alive
