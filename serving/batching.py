"""Whatever waits when the model gets free goes as one batch: no request is held back to fill one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """More rows wait than the bound allows."""


class Batcher(Generic[Item, Result]):
    """Runs `score` on lists of rows in one thread; rows that come meanwhile wait and go together."""

    def __init__(self, score: Callable[[list[Item]], list[Result]], *, max_rows: int, max_waiting: int):
        """`max_rows` a call of `score`, `max_waiting` rows in the queue. One request is never split."""
        self._score, self._max_rows, self._max_waiting = score, max_rows, max_waiting
        self._waiting: list[tuple[list[Item], asyncio.Future[list[Result]]]] = []
        self._rows_waiting = 0
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def submit(self, rows: list[Item]) -> list[Result]:
        """The results of one request's rows. Raises QueueFull, or what `score` raises."""
        if self._rows_waiting and self._rows_waiting + len(rows) > self._max_waiting:
            raise QueueFull(f"{self._rows_waiting} rows wait already")
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, future))
        self._rows_waiting += len(rows)
        if not self._busy:
            self._busy = True
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                taken = self._take()
                rows = [row for request, _ in taken for row in request]
                try:
                    results = await loop.run_in_executor(self._thread, self._score, rows)
                except Exception:
                    # One request may be at fault: each is tried alone, so that it answers for itself only.
                    for request, future in taken:
                        await self._score_alone(request, future)
                    continue
                first = 0
                for request, future in taken:
                    if not future.done():
                        future.set_result(results[first : first + len(request)])
                    first += len(request)
        finally:
            self._busy = False

    async def _score_alone(self, request: list[Item], future: "asyncio.Future[list[Result]]") -> None:
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, request)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(results)

    def _take(self) -> list[tuple[list[Item], "asyncio.Future[list[Result]]"]]:
        count, rows = 0, 0
        for request, _ in self._waiting:
            if count and rows + len(request) > self._max_rows:
                break
            count, rows = count + 1, rows + len(request)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._rows_waiting -= rows
        return taken
