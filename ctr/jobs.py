"""Work that is done side by side: as much at a time as there are cores for."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Something to be done.

    Attributes:
        seats: processes that it keeps busy; all of them start together, as those of a pair wait for one another.
        work: does it in processes of its own, and ends them when what it is given raises, which it calls all the time.
    """

    seats: int
    work: Callable[[Callable[[], None]], Result]


def run_jobs(jobs: Sequence[Job[Result]], seats: int) -> list[Result]:
    """The results of all jobs, in their order; they begin in this order too, each once enough of `seats` are free.

    A job that wants more than there are runs alone. The first that fails, or Ctrl-C, ends the others, and is raised.
    """
    ended = threading.Event()

    def alive() -> None:
        if ended.is_set():
            raise KeyboardInterrupt

    futures: list[Future[Result]] = []
    running: dict[Future[Result], int] = {}
    with ThreadPoolExecutor(max_workers=max(len(jobs), 1)) as threads:
        try:
            while len(futures) < len(jobs) or running:
                while len(futures) < len(jobs) and (
                    not running or sum(running.values()) + jobs[len(futures)].seats <= seats
                ):
                    job = jobs[len(futures)]
                    futures.append(threads.submit(job.work, alive))
                    running[futures[-1]] = job.seats
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for each in done:
                    del running[each]
                    each.result()
        except BaseException:
            ended.set()  # the threads end their processes, which is waited for
            raise
    return [each.result() for each in futures]
