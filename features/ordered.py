"""Work on several things at once, with the results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


# Says how many cores a process may use, where the system cannot know it: a task on Ray has one.
CORES = "CTR_CORES"


def cores() -> int:
    """How many cores this process may use."""
    if said := os.environ.get(CORES):
        return max(int(said), 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """`function` of every item, in order, on one thread more than there are cores.

    Threads are enough, since Polars, NumPy and Arrow let go of Python's lock while they work, and one more than cores
    has something to do while another waits for the lock. At most one item more than there are threads is under way, so
    that memory stays flat.
    """
    threads = cores() + 1
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Out]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) > threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for left in under_way:
                left.cancel()
