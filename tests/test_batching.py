"""Requests that wait go together, and each gets its own answer or its own error."""

import asyncio
import time

import pytest

from serving.batching import Batcher, QueueFull


def double(rows: list[int]) -> list[int]:
    if -1 in rows:
        raise ValueError("a row of -1")
    time.sleep(0.02)
    return [2 * row for row in rows]


def test_waiting_requests_go_as_one_batch_and_get_their_own_rows_back() -> None:
    calls: list[int] = []

    def score(rows: list[int]) -> list[int]:
        calls.append(len(rows))
        return double(rows)

    async def run() -> list[list[int]]:
        batcher = Batcher(score, max_rows=100, max_waiting=1000)
        return await asyncio.gather(*(batcher.submit([i, 100 + i]) for i in range(20)))

    assert asyncio.run(run()) == [[2 * i, 200 + 2 * i] for i in range(20)]
    assert sum(calls) == 40
    assert len(calls) == 1  # all had come before the model was free


def test_a_bad_request_fails_alone() -> None:
    async def run() -> list[object]:
        batcher = Batcher(double, max_rows=100, max_waiting=1000)
        return await asyncio.gather(*(batcher.submit([i - 1]) for i in range(5)), return_exceptions=True)

    found = asyncio.run(run())
    assert isinstance(found[0], ValueError)
    assert found[1:] == [[0], [2], [4], [6]]


def test_batches_hold_at_most_so_many_rows_and_a_full_queue_refuses() -> None:
    async def run() -> list[object]:
        batcher = Batcher(double, max_rows=3, max_waiting=6)
        return await asyncio.gather(*(batcher.submit([i, i]) for i in range(5)), return_exceptions=True)

    found = asyncio.run(run())
    assert [type(each) for each in found] == [list, list, list, QueueFull, QueueFull]


@pytest.mark.parametrize("rows", [[], [1, 2, 3]])
def test_batcher_serves_again_after_it_was_idle(rows: list[int]) -> None:
    async def run() -> tuple[list[int], list[int]]:
        batcher = Batcher(double, max_rows=3, max_waiting=6)
        return await batcher.submit([7]), await batcher.submit(rows)

    assert asyncio.run(run()) == ([14], [2 * row for row in rows])
