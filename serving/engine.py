"""From checked inputs to scores: which version, the queue, the deadline, the challenger; whatever the protocol."""

import asyncio
from collections.abc import Sequence
from typing import Any

from serving.batching import Batcher
from serving.hooks import Call, Hook, tell
from serving.loading import Loaded, score
from serving.refusal import Refused
from serving.rows import PACKED, Inputs
from serving.versions import Version, Versions

# A call of the model of this many rows takes some milliseconds; more would make the others wait.
_BATCH_ROWS = 1024
_MAX_WAITING = 8192
# The challenger is in no hurry: short calls, and what it cannot keep up with is dropped.
_SHADOW_ROWS = 128
_SHADOW_WAITING = 4096
_SHADOW_PAUSE = 0.002

Key = tuple[Loaded, str]


class Engine:
    """Scores requests with the versions of a model, and after them with those of a challenger."""

    def __init__(
        self,
        versions: Versions[Loaded],
        *,
        deadline: float,
        challenger: Versions[Loaded] | None = None,
        listeners: Sequence[Hook] = (),
    ):
        """`deadline`: seconds that a request may take unless it says fewer itself. `listeners` are told of each call
        once; without any, nothing is done for them, and the challenger has nobody to score for."""
        self.versions, self.deadline, self.challenger = versions, deadline, challenger
        self.listeners = [*listeners]
        self._queue = Batcher[Key, Inputs](score, max_rows=_BATCH_ROWS, max_waiting=_MAX_WAITING)
        self._shadow = Batcher[Key, Inputs](score, max_rows=_SHADOW_ROWS, max_waiting=_SHADOW_WAITING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._shadow_rows = 0
        # Told to load balancers: no new request, please.
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self.versions.ready and not self.draining

    async def score(self, version: Version[Loaded], inputs: Inputs, call: Call) -> list[float]:
        """The probabilities `[rows]` of a request. Raises Refused (too late, queue full) and BadInput."""
        call.version, call.inputs = version, inputs
        answer = await self._queue.submit((version.loaded, inputs.signature), inputs, inputs.rows, call.expires)
        call.queue_seconds, call.model_seconds = answer.queue_seconds, answer.model_seconds
        call.scores = answer.scores.tolist()
        return call.scores

    def finish(self, call: Call, status: int) -> None:
        """To be called when the answer is out: tells the listeners, after the challenger has scored the request too."""
        if not self.listeners:
            return
        call.status, call.seconds = status, asyncio.get_running_loop().time() - call.began
        if self.challenger is None or call.inputs is None or not call.scores or self._no_room(call.inputs):
            tell(self.listeners, call)
            return
        task = asyncio.create_task(self._score_in_shadow(self.challenger, call, call.inputs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _no_room(self, inputs: Inputs) -> bool:
        return self._shadow_rows + inputs.rows > _SHADOW_WAITING

    async def _score_in_shadow(self, challenger: Versions[Loaded], call: Call, inputs: Inputs) -> None:
        self._shadow_rows += inputs.rows
        try:
            # Requests that wait for the model go first.
            while self._queue.rows_waiting:
                await asyncio.sleep(_SHADOW_PAUSE)
            with challenger.using() as version:
                if inputs.signature != PACKED or _same_ids(version, call.version):
                    answer = await self._shadow.submit((version.loaded, inputs.signature), inputs, inputs.rows)
                    call.challenger_version, call.challenger_scores = version, answer.scores.tolist()
        except Exception:  # no answer of its own, and nobody waits for it
            call.challenger_scores = None
        finally:
            self._shadow_rows -= inputs.rows
            tell(self.listeners, call)

    async def settle(self) -> None:
        """Waits for what the challenger has still to score."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _same_ids(challenger: Version[Loaded], champion: Version[Any] | None) -> bool:
    """Whether rows that a caller encoded for the one mean the same to the other."""
    one, other = champion.model if champion else None, challenger.loaded
    return one is not None and one.model.card["spec_digest"] == other.model.card["spec_digest"]


def target(found: Sequence[str | None]) -> tuple[int | None, str | None]:
    """Version and label of a request's address. Raises Refused for a number of more than 64 bits."""
    number, label = found
    if number is not None and (len(number) > 19 or int(number) >= 2**63):
        raise Refused(400, f"Failed to convert version: {number} to numeric.")
    return None if number is None else int(number), label
