"""One group's training: the loop over steps, exchange with peers, evaluation, checkpoints, resume."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from ctr.codistill import is_boundary, weight_at
from ctr.data import Part, in_order, labels_of, training_batches, weights_of
from ctr.exchange import Exchange
from ctr.learner import Learner
from ctr.metrics import Evaluation, evaluate
from features.errors import WorkFailed

EVALUATION_BATCH = 8192
_REPORT_SECONDS = 0.5

# Told what happens: "progress", "evaluation", "warning", with the figures.
Report = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Schedule:
    """When what happens, in steps. `start` is the end of burn-in, from which on groups learn from one another."""

    steps: int
    start: int
    ramp_steps: int
    weight: float
    exchange_every: int
    evaluate_every: int
    checkpoint_every: int


@dataclass
class Peers:
    """How this group hears of the others. `steps`: the step of each peer's snapshot in use, -1 before the first."""

    exchange: Exchange
    groups: list[int]
    lockstep: bool
    timeout: float
    chief: bool
    steps: list[int] = field(default_factory=list[int])
    bytes_published: int = 0
    seconds_waited: float = 0.0
    missed: int = 0

    def meet(self, learner: Learner, step: int, start: int, report: Report, alive: Callable[[], None]) -> None:
        """Publishes this group's weights and takes the peers', at a boundary."""
        if self.chief:
            self.bytes_published += self.exchange.publish(step, learner.weights())
        for index, peer in enumerate(self.groups):
            began = time.monotonic()
            if self.lockstep:
                snapshot = self.exchange.wait_for(peer, step, self.timeout, alive)
            else:
                # A copy from before the end of burn-in ruins a run: it is never used.
                snapshot = self.exchange.newest(peer, since=start)
            self.seconds_waited += time.monotonic() - began
            if snapshot is not None:
                learner.adopt(index, snapshot.weights)
                self.steps[index] = snapshot.step
            elif self.lockstep:
                self.missed += 1
                last = f"step {self.steps[index]}" if self.steps[index] >= 0 else "nothing yet"
                report("warning", {"text": f"step {step}: no snapshot of group {peer} in time, going on with {last}"})


def train(
    learner: Learner,
    training: Part,
    validation: Part,
    *,
    schedule: Schedule,
    peers: Peers | None,
    seed: int,
    worker: int,
    workers: int,
    checkpoints: Path,
    restore_from: Path,
    report: Report,
    alive: Callable[[], None],
) -> dict[str, float]:
    """Trains to the last step of the schedule, from the last checkpoint in `restore_from` if there is one.

    Returns the steps done, examples a second of this group (evaluation aside) and what the exchange cost. `alive` is
    called at every step, so that the caller can end the training by raising. Raises WorkFailed when the loss is no
    longer finite.
    """
    position = tf.Variable(tf.zeros([], tf.int64), trainable=False)
    known = tf.Variable(-tf.ones([max(len(learner.peers), 1)], tf.int64), trainable=False)
    state = tf.train.Checkpoint(
        model=learner.model,
        optimizer=learner.optimizer,
        peers=learner.peers,
        present=learner.present,
        position=position,
        known=known,
    )
    manager = tf.train.CheckpointManager(state, str(checkpoints), max_to_keep=2)
    latest = tf.train.latest_checkpoint(str(restore_from))
    if latest:
        state.restore(latest)
    first = int(position.numpy())
    if peers:
        peers.steps = [int(step) for step in known.numpy()][: len(peers.groups)]
    batches = iter(
        training_dataset(
            training,
            fields=learner.model.field_count,
            numbers=learner.model.dense_count,
            batch_size=learner.batch_size,
            seed=seed,
            first_step=first,
            worker=worker,
            workers=workers,
            steps=schedule.steps,
        )
    )
    clock = _Clock(learner.batch_size)
    loss: Any = float("nan")
    for step in range(first, schedule.steps):
        alive()
        if peers and is_boundary(step, start=schedule.start, every=schedule.exchange_every):
            peers.meet(learner, step, schedule.start, report, alive)
        weight = weight_at(step, weight=schedule.weight, start=schedule.start, ramp_steps=schedule.ramp_steps)
        loss = learner.step(next(batches), weight)
        clock.tick()
        done = step + 1
        if done % schedule.checkpoint_every == 0 or done == schedule.steps:
            # The loss is from before the step's update, which may be what exploded.
            after = float(loss) if learner.is_finite() else float("nan")
            _check_finite(after, step, learner, manager.latest_checkpoint)
            position.assign(done)
            if peers:
                known.assign(peers.steps)
            manager.save(checkpoint_number=done)
        if done % schedule.evaluate_every == 0 and done < schedule.steps and validation.rows:
            with clock.paused():
                report("evaluation", {"step": done, **evaluate_part(learner, validation).as_dict()})
        if clock.report_due() or done == schedule.steps:
            staleness = step - min(peers.steps) if peers and peers.steps and min(peers.steps) >= 0 else None
            report(
                "progress",
                {
                    "step": done,
                    "steps": schedule.steps,
                    "loss": _check_finite(float(loss), step, learner, manager.latest_checkpoint),
                    "examples_per_second": clock.examples_per_second,
                    "staleness": staleness,
                },
            )
    return {
        "steps": schedule.steps,
        "examples_per_second": clock.examples_per_second,
        "bytes_published": peers.bytes_published if peers else 0,
        "seconds_waited": peers.seconds_waited if peers else 0.0,
        "snapshots_missed": peers.missed if peers else 0,
    }


def evaluate_part(learner: Learner, part: Part) -> Evaluation:
    """The model's figures on all rows of a part."""
    return evaluate(labels_of(part), learner.predict(in_order(part, EVALUATION_BATCH)), weights_of(part))


def training_dataset(
    part: Part,
    *,
    fields: int,
    numbers: int,
    batch_size: int,
    seed: int,
    first_step: int,
    worker: int,
    workers: int,
    steps: int,
) -> Any:
    """`training_batches` from one step up to another as a tf.data.Dataset of `Rows`: so many id fields and numbers."""

    def rows() -> Iterator[Any]:
        yield from training_batches(
            part, batch_size=batch_size, seed=seed, first_step=first_step, worker=worker, workers=workers
        )

    signature = (
        tf.TensorSpec([None], tf.uint64),
        tf.TensorSpec([None, 1], tf.float32),
        tf.TensorSpec([None, fields], tf.int32),
        tf.TensorSpec([None, numbers], tf.float32),
        tf.TensorSpec([None, 1], tf.float32),
    )
    return tf.data.Dataset.from_generator(rows, output_signature=signature).take(steps - first_step).prefetch(2)


def _check_finite(loss: float, step: int, learner: Learner, checkpoint: str | None) -> float:
    if not math.isfinite(loss):
        rate = learner.learning_rate_at(step)
        last = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise WorkFailed(f"loss is {loss} at step {step} with learning rate {rate:.3g}; {last}; try a lower rate")
    return loss


class _Clock:
    """Examples a second since the first step was done (it pays for tracing), without the pauses."""

    def __init__(self, batch_size: int):
        self.batch_size, self.ticks, self.began, self.away = batch_size, 0, 0.0, 0.0
        self.reported = time.monotonic()

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == 1:
            self.began = time.monotonic()

    def paused(self) -> "_Clock":
        return self

    def __enter__(self) -> None:
        self._left = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.away += time.monotonic() - self._left

    def report_due(self) -> bool:
        due = time.monotonic() - self.reported > _REPORT_SECONDS
        if due:
            self.reported = time.monotonic()
        return due

    @property
    def examples_per_second(self) -> float:
        seconds = time.monotonic() - self.began - self.away
        return (self.ticks - 1) * self.batch_size / seconds if self.ticks > 1 else 0.0
