"""Requests that wait go together, and each gets its own answer, its own error, or none once its time is over."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from serving.batching import Batcher
from serving.refusal import Refused

Rows = list[int]


def double(key: str, requests: Sequence[Rows]) -> Rows:
    """`2 x row`, after 20 ms; of key `triple`, 3 x row."""
    rows = [row for request in requests for row in request]
    if -1 in rows:
        raise ValueError("a row of -1")
    time.sleep(0.02)
    return [(3 if key == "triple" else 2) * row for row in rows]


class Calls:
    """`double`, which remembers what it was asked."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Rows]] = []

    def __call__(self, key: str, requests: Sequence[Rows]) -> Rows:
        self.made.append((key, [row for request in requests for row in request]))
        return double(key, requests)


def batcher(score: Any = double, max_rows: int = 100, max_waiting: int = 1000) -> Batcher[str, Rows]:
    return Batcher(score, max_rows=max_rows, max_waiting=max_waiting)


async def ask(queue: Batcher[str, Rows], rows: Rows, key: str = "double", seconds: float | None = None) -> Rows:
    expires = float("inf") if seconds is None else asyncio.get_running_loop().time() + seconds
    return (await queue.submit(key, rows, len(rows), expires)).scores


def test_waiting_requests_go_as_one_batch_and_get_their_own_rows_back() -> None:
    calls = Calls()

    async def run() -> list[Rows]:
        queue = batcher(calls)
        return await asyncio.gather(*(ask(queue, [i, 100 + i]) for i in range(20)))

    assert asyncio.run(run()) == [[2 * i, 200 + 2 * i] for i in range(20)]
    assert len(calls.made) == 1  # all had come before the model was free
    assert len(calls.made[0][1]) == 40


def test_requests_for_different_models_go_apart_the_oldest_first() -> None:
    calls = Calls()

    async def run() -> list[Rows]:
        queue = batcher(calls)
        return await asyncio.gather(*(ask(queue, [i], "triple" if i % 2 else "double") for i in range(6)))

    assert asyncio.run(run()) == [[0], [3], [4], [9], [8], [15]]
    assert calls.made == [("double", [0, 2, 4]), ("triple", [1, 3, 5])]


def test_a_bad_request_fails_alone() -> None:
    async def run() -> list[object]:
        queue = batcher()
        return await asyncio.gather(*(ask(queue, [i - 1]) for i in range(5)), return_exceptions=True)

    found = asyncio.run(run())
    assert isinstance(found[0], ValueError)
    assert found[1:] == [[0], [2], [4], [6]]


def test_batches_hold_at_most_so_many_rows_and_a_full_queue_refuses() -> None:
    async def run() -> list[Any]:
        queue = batcher(max_rows=3, max_waiting=6)
        return await asyncio.gather(*(ask(queue, [i, i]) for i in range(5)), return_exceptions=True)

    found = asyncio.run(run())
    assert found[:3] == [[0, 0], [2, 2], [4, 4]]
    assert [refused.status for refused in found[3:]] == [503, 503]
    assert dict(found[3].headers) == {b"retry-after": b"1"}


def test_request_whose_deadline_passes_leaves_the_queue_and_is_never_scored() -> None:
    calls = Calls()

    async def run() -> tuple[list[Any], float, int]:
        queue = batcher(calls, max_rows=1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = [asyncio.create_task(ask(queue, [row], seconds=s)) for row, s in ((1, 9), (2, 9), (3, 0.01), (4, 9))]
        late = await asyncio.gather(asked[2], return_exceptions=True)
        waited = loop.time() - began
        return [*late, *(await asyncio.gather(asked[0], asked[1], asked[3]))], waited, queue.rows_waiting

    (late, *scored), waited, left = asyncio.run(run())
    assert isinstance(late, Refused)
    assert late.status == 504
    assert waited < 0.02  # answered when its time was over, not when its turn came
    assert scored == [[2], [4], [8]]
    assert [rows for _, rows in calls.made] == [[1], [2], [4]]
    assert left == 0


def test_request_that_comes_too_late_is_refused_at_once() -> None:
    async def run() -> None:
        with pytest.raises(Refused, match="deadline"):
            await ask(batcher(), [1], seconds=0)

    asyncio.run(run())


def test_request_whose_client_went_away_leaves_the_queue() -> None:
    calls = Calls()

    async def run() -> int:
        queue = batcher(calls, max_rows=1)
        first, second = asyncio.create_task(ask(queue, [1])), asyncio.create_task(ask(queue, [2]))
        await asyncio.sleep(0.005)
        second.cancel()
        await first
        return queue.rows_waiting

    assert asyncio.run(run()) == 0
    assert [rows for _, rows in calls.made] == [[1]]


def test_answer_says_how_long_it_waited_and_how_long_it_took() -> None:
    async def run() -> list[Any]:
        queue = batcher(max_rows=1)
        return await asyncio.gather(*(queue.submit("double", [row], 1) for row in (1, 2)))

    first, second = asyncio.run(run())
    assert first.queue_seconds < 0.015 < first.model_seconds
    assert second.queue_seconds > 0.019


@pytest.mark.parametrize("rows", [[5], [1, 2, 3]])
def test_batcher_serves_again_after_it_was_idle(rows: Rows) -> None:
    async def run() -> tuple[Rows, Rows]:
        queue = batcher(max_rows=3, max_waiting=6)
        return await ask(queue, [7]), await ask(queue, rows)

    assert asyncio.run(run()) == ([14], [2 * row for row in rows])
