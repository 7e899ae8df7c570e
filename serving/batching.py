"""Whatever waits when the model gets free goes as one batch: no request is held back to fill one."""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serving.refusal import queue_full, too_late

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Answer:
    """The scores `[rows]` of one request, and the seconds that it waited and that its batch took."""

    scores: Any
    queue_seconds: float
    model_seconds: float


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Key, Item]):
    key: Key
    item: Item
    rows: int
    since: float
    future: "asyncio.Future[Answer]"


class Batcher(Generic[Key, Item]):
    """Runs `score` on requests of one key in one thread; requests that come meanwhile wait and go together.

    One queue for all keys (a model's version and signature), so that there is one bound, and none is passed over: the
    request that has waited longest says which key is next.
    """

    def __init__(self, score: Callable[[Key, Sequence[Item]], Any], *, max_rows: int, max_waiting: int):
        """`score` gives the scores of all rows of the items. `max_rows` a call of it, `max_waiting` rows in the queue.

        One request is never split.
        """
        self._score, self._max_rows, self._max_waiting = score, max_rows, max_waiting
        self._waiting: dict[_Waiting[Key, Item], None] = {}
        self.rows_waiting = 0
        self._drain_task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def submit(self, key: Key, item: Item, rows: int, expires: float = math.inf) -> Answer:
        """The scores of one request. `expires` is a time of the event loop's clock.

        Raises Refused if the queue is full or the deadline passes, or what `score` raises.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if expires <= now:
            raise too_late()
        if self.rows_waiting and self.rows_waiting + rows > self._max_waiting:
            raise queue_full(self.rows_waiting)
        request = _Waiting(key, item, rows, now, loop.create_future())
        self._waiting[request] = None
        self.rows_waiting += rows
        timer = loop.call_at(expires, self._expire, request) if expires < math.inf else None
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain())
        try:
            return await request.future
        finally:
            if timer:
                timer.cancel()
            self._remove(request)  # it is there still if its client went away

    def _expire(self, request: _Waiting[Key, Item]) -> None:
        self._remove(request)
        if not request.future.done():
            request.future.set_exception(too_late())

    def _remove(self, request: _Waiting[Key, Item]) -> None:
        if request in self._waiting:
            del self._waiting[request]
            self.rows_waiting -= request.rows

    async def _drain(self) -> None:
        try:
            while self._waiting:
                taken = self._take()
                if not await self._run(taken):
                    # One request may be at fault: each is tried alone, so that it answers for itself only.
                    for request in taken:
                        if not request.future.done():
                            await self._run([request])
        finally:
            self._drain_task = None

    async def _run(self, taken: list[_Waiting[Key, Item]]) -> bool:
        """Scores requests and gives them their answers; False if that fails and there are several."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            items = [request.item for request in taken]
            scores = await loop.run_in_executor(self._thread, self._score, taken[0].key, items)
        except Exception as error:
            if len(taken) > 1:
                return False
            if not taken[0].future.done():
                taken[0].future.set_exception(error)
            return True
        took, first = loop.time() - began, 0
        for request in taken:
            if not request.future.done():
                part = scores[first : first + request.rows]
                request.future.set_result(Answer(part, began - request.since, took))
            first += request.rows
        return True

    def _take(self) -> list[_Waiting[Key, Item]]:
        taken: list[_Waiting[Key, Item]] = []
        rows = 0
        for request in self._waiting:
            if taken and request.key != taken[0].key:
                continue
            if taken and rows + request.rows > self._max_rows:
                break
            taken.append(request)
            rows += request.rows
        for request in taken:
            self._remove(request)
        return taken
