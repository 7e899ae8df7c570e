"""Processes that parse, encode and score pieces of a log, a core each.

On a core a process with one TensorFlow thread is faster than a thread of one process: calls of the model do not share
Python's lock, nor wait for one another's operations.
"""

import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from features.encode import encode_dense, encode_ids
from features.errors import WorkFailed
from features.ordered import cores
from features.parse import ROW, WEIGHT, Batch
from serving.forking import context, start_forkserver

if TYPE_CHECKING:
    from serving.model import ServedModel

# Rows a call of the model: large enough to be fast, small enough to stay in the processor's cache.
CALL_ROWS = 4096

_IMPORTED = ["serving.preloaded"]
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Scored:
    """What became of a piece of a log.

    Attributes:
        scores: `row`, `label` (null where the log has none), `probability`, and WEIGHT where the schema has one, in the
            order of the log.
        rejected: rows that could not be read, as in `features.parse.Batch`.
        seconds: of processor time, by stage: parsing, encoding, model.
    """

    scores: pl.DataFrame
    rejected: pl.DataFrame
    seconds: dict[str, float]

    @property
    def read(self) -> int:
        """Rows, good and rejected."""
        return self.scores.height + self.rejected.height


class Scorers:
    """At most as many processes as there are cores. They start when needed and end with the block, or with its process.

    Attributes:
        loading: seconds until the last of them that was started had loaded its model.
    """

    def __init__(self, model: Path):
        """Begins to import TensorFlow, and does not wait for it; `model` is a SavedModel folder."""
        self.loading = 0.0
        self._model = model
        # The last one that was free is taken first, so that a short log starts no more than it needs.
        self._seats: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(cores()):
            self._seats.put(None)
        self._started: list[_Process] = []
        self._starting = threading.Lock()
        start_forkserver(_IMPORTED, _ONE_THREAD)

    def __enter__(self) -> "Scorers":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.end()

    def score(self, parse: Callable[[], Batch]) -> Scored:
        """What a free process makes of the batch that `parse` gives; waits until one is free. For many threads.

        Raises what was raised there, such as BadInput where the model cannot be loaded, and WorkFailed if the process
        was killed.
        """
        process = self._seats.get()
        try:
            process = process or self._start()
            return process.ask(parse)
        finally:
            self._seats.put(process)

    def _start(self) -> "_Process":
        began = time.monotonic()
        with self._starting:
            process = _Process(self._model)
            self._started.append(process)
        process.wait_until_loaded()
        self.loading = max(self.loading, time.monotonic() - began)
        return process


class _Process:
    """One of them, and the pipe to it."""

    def __init__(self, model: Path):
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, model))
        self._process.start()
        theirs.close()

    def wait_until_loaded(self) -> None:
        self._answer()

    def ask(self, parse: Callable[[], Batch]) -> Scored:
        try:
            self._pipe.send(parse)
        except BrokenPipeError:
            raise self._killed() from None
        return self._answer()

    def end(self) -> None:
        self._pipe.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise self._killed() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _killed(self) -> WorkFailed:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        more = ": is there too little memory?" if code == -signal.SIGKILL else ""
        return WorkFailed(f"a scoring process {how}{more}; what is finished is kept, the same command goes on")


def _work(pipe: Connection, folder: Path) -> None:
    """In the process: scores what comes through the pipe, until its other end is closed."""
    # Ctrl-C reaches all at once, and nobody waits for what is under way.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        model = load(folder)
        pipe.send(None)
        while True:
            pipe.send(score_batch(model, pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        error.add_note(traceback.format_exc())
        pipe.send(error)


def load(folder: Path) -> "ServedModel":
    """A SavedModel in a process that scores on one core; TensorFlow must not have begun to work there."""
    from serving.model import ServedModel, tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return ServedModel(folder)


def score_batch(model: "ServedModel", parse: Callable[[], Batch]) -> Scored:
    """What a model makes of the batch that `parse` gives."""
    spec, times = model.spec, [time.process_time()]
    batch = parse()
    times.append(time.process_time())
    ids, dense = encode_ids(batch.frame, spec), encode_dense(batch.frame, spec)
    times.append(time.process_time())
    calls = [slice(first, first + CALL_ROWS) for first in range(0, len(ids), CALL_ROWS)]
    found = [np.zeros(0, np.float32), *(model.from_packed(ids[rows], dense[rows]) for rows in calls)]
    times.append(time.process_time())
    weight = [WEIGHT] if spec.schema.weight else []
    scores = batch.frame.select(
        pl.col(ROW).alias("row"), pl.col(spec.schema.label).alias("label"), *weight
    ).with_columns(pl.Series("probability", np.concatenate(found)))
    stages: list[str] = ["parsing", "encoding", "model"]
    seconds = dict(zip(stages, np.diff(times).tolist(), strict=True))
    return Scored(scores, batch.rejected, seconds)
