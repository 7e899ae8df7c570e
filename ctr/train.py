"""One group's training: the loop over phases and steps, with exchange, evaluation, checkpoints and resume."""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.clock import Clock
from ctr.data import Part, in_order, labels_of, weights_of
from ctr.exchange import Moment
from ctr.feed import training_dataset
from ctr.learner import Learner
from ctr.metrics import Evaluation, evaluate
from ctr.peers import Peers, no_figures
from ctr.phases import Phase
from ctr.rates import Plateau
from ctr.state import State
from features.errors import WorkFailed

EVALUATION_BATCH = 8192

# Told what happens: "progress", "evaluation", "exchange", "calibration", "warning", "note", with the figures.
Report = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Rhythm:
    """What happens how often, in steps of the run; and when a phase ends.

    Attributes:
        patience: evaluations without a better log loss that end a phase, at its best evaluation; 0: it ends at its
            last step.
        look_every: how often a group looks for frozen snapshots that it has not got yet.
        max_loss: nats; a step's loss above it ends the run.
    """

    evaluate_every: int
    checkpoint_every: int
    patience: int
    look_every: int
    max_loss: float


@dataclass(frozen=True)
class Seat:
    """Which share of a group's batches this process trains on, and where it keeps what."""

    worker: int
    workers: int
    seed: int
    checkpoints: Path
    restore_from: Path


class Training:
    """A group's training, from its last checkpoint if there is one."""

    def __init__(
        self,
        learner: Learner,
        training: Part,
        validation: Part,
        *,
        phases: Sequence[Phase],
        rates: Sequence[Callable[[int], float]],
        rhythm: Rhythm,
        peers: Peers | None,
        plateau: Plateau | None,
        seat: Seat,
        report: Report,
        alive: Callable[[], None],
    ):
        """`rates`: the learning rate of each phase by its step. `alive` is called at every step and may end it all."""
        self.learner, self.training, self.validation = learner, training, validation
        self.phases, self.rates, self.rhythm, self.peers, self.plateau = phases, rates, rhythm, peers, plateau
        self.seat, self.report, self.alive = seat, report, alive
        self.state = State(learner, peers, plateau, seat.checkpoints, seat.restore_from)
        self.clock = Clock(learner.batch_size)
        self.seconds_saving = 0.0
        self._rate = math.nan  # of the last step
        self._iterators: list[Any] = []

    def run(self) -> dict[str, Any]:
        """Trains to the end; returns the steps, rows a second (evaluations, checkpoints aside), what the exchange cost.

        Raises WorkFailed when the loss is no longer finite, or explodes.
        """
        state = self.state
        state.resume()
        while state.phase <= len(self.phases):
            self._train_phase(self.phases[state.phase - 1], self.rates[state.phase - 1])
        if self.peers:
            self.peers.finish(Moment(len(self.phases) + 1, 0))
        return {
            "steps": state.done,
            "examples_per_second": self.clock.rows_per_second,
            "seconds_saving": self.seconds_saving,
            **(self.peers.figures() if self.peers else no_figures()),
        }

    def _train_phase(self, phase: Phase, rate_at: Callable[[int], float]) -> None:
        state, rhythm = self.state, self.rhythm
        batches = self._batches(phase.steps - state.step)
        # Kept to the end of the process: taking an iterator down beside its threads was seen to hang for half a minute.
        self._iterators.append(batches)
        # A run may have been killed between the evaluation that ended the phase and its end.
        ended = 0 < rhythm.patience <= state.waited
        while state.step < phase.steps and not ended:
            self.alive()
            self._exchange(phase)
            rate = rate_at(state.step) * (self.plateau.factor if self.plateau else 1.0)
            self._rate = rate
            loss = self.learner.step(
                next(batches),
                state.done,
                rate=rate,
                weight=phase.weight_at(state.step) if self.learner.teachers else 0.0,
                label_weight=phase.label_weight,
            )
            self._check(loss, phase)
            state.step += 1
            state.done += 1
            self.clock.tick()
            if self.clock.ticks == 1:
                # TensorFlow leaves some 400,000 objects; going through them again and again took Python's collector
                # .055 of the time.
                gc.collect()
                gc.freeze()
            if state.done % rhythm.evaluate_every == 0 and state.step < phase.steps:
                ended = self._evaluate(phase)
            if state.done % rhythm.checkpoint_every == 0:
                self._save()
            self._tell(phase, loss)
        self._end_phase(phase)

    def _batches(self, steps: int) -> Any:
        model = self.learner.model
        return iter(
            training_dataset(
                self.training,
                fields=model.field_count,
                numbers=model.dense_count,
                batch_size=self.learner.batch_size,
                seed=self.seat.seed,
                first_step=self.state.done,
                worker=self.seat.worker,
                workers=self.seat.workers,
                steps=self.state.done + steps,
            )
        )

    def _exchange(self, phase: Phase) -> None:
        if self.peers is None:
            return
        state, peers = self.state, self.peers
        moment, frozen = Moment(phase.number, state.step), Moment(phase.number, phase.start)
        if phase.is_boundary(state.step):
            # What peers published before this phase teaches until they come to it too.
            first = Moment(1, self.phases[0].start)
            peers.meet(
                self.learner,
                moment,
                first,
                state.done,
                everyone=phase.everyone,
                warn=self._warn,
                alive=self.alive,
            )
            self.report("exchange", {"step": state.done, "staleness": peers.staleness(state.done), **peers.figures()})
        elif not phase.exchange_every and state.done % self.rhythm.look_every == 0:
            peers.look_for(self.learner, frozen, state.done, warn=self._warn, alive=self.alive)
        if state.step > phase.start:
            # Frozen snapshots do not grow too old.
            enough = frozen if not phase.exchange_every else None
            peers.drop_stale(self.learner, phase.number, state.done, enough, self._warn)

    def _evaluate(self, phase: Phase) -> bool:
        """Evaluates on the validation part, if there is one; whether the phase is to end."""
        if not self.validation.rows:
            return False
        with self.clock:
            found = math.nan
            if self.seat.worker == 0:
                figures = evaluate_part(self.learner, self.validation).as_dict()
                found = float(figures["log_loss"] or math.nan)
                self.report("evaluation", {"step": self.state.done, **figures})
            return self._judge(self.learner.agree([found])[0], phase)

    def _judge(self, log_loss: float, phase: Phase) -> bool:
        """Keeps the best state of the phase and drops the rate on a plateau; whether patience is at its end."""
        state = self.state
        if math.isnan(log_loss):
            self._stop("the validation log loss is not finite")
        dropped = self.plateau is not None and self.plateau.note(log_loss)
        if dropped:
            self._say(f"step {state.done}: no better log loss, the learning rate drops")
        if not self.rhythm.patience:
            return False
        # Nor does one end before groups have learned from one another, or before a new rate could show.
        early = phase.weight > 0 and state.step < phase.start + phase.ramp_steps
        if log_loss < state.least:
            state.least, state.waited = log_loss, 0
            began = time.monotonic()
            state.save_best()
            self.seconds_saving += time.monotonic() - began
        else:
            state.waited = 0 if early or dropped else state.waited + 1
        return state.waited >= self.rhythm.patience

    def _end_phase(self, phase: Phase) -> None:
        state = self.state
        if self.rhythm.patience:
            if state.waited < self.rhythm.patience:
                self._evaluate(phase)  # the last step's weights may be the best
            self.learner.meet()  # all workers have written theirs
            state.back_to_best()
            self.learner.forget_changes()
            self._say(f"phase {phase.number} ends with the weights of step {state.done}, log loss {state.least:.5f}")
        state.phase, state.step = phase.number + 1, 0
        state.least, state.waited = math.inf, 0
        if self.plateau:
            self.plateau.reset()
        self._save()

    def _save(self) -> None:
        # The loss is from before the step's update, which may be what exploded.
        with self.clock:
            if not self.learner.is_finite():
                self._stop("a weight is not finite")
            began = time.monotonic()
            self.state.save()
            self.seconds_saving += time.monotonic() - began

    def _check(self, loss: float, phase: Phase) -> None:
        # The distillation term is a log loss too.
        limit = self.rhythm.max_loss * max(1.0, phase.label_weight + max(phase.weight, phase.final_weight))
        if not loss <= limit:
            self._stop(f"loss is {loss:.6g} (the limit is {limit:g})")

    def _stop(self, what: str) -> None:
        last = self.state.last_checkpoint
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        where = f"at step {self.state.done} with learning rate {self._rate:.3g}"
        raise WorkFailed(f"{what} {where}; {kept}; try a lower rate")

    def _tell(self, phase: Phase, loss: float) -> None:
        state = self.state
        if not (self.clock.report_due() or state.step == phase.steps):
            return
        later = sum(each.steps for each in self.phases[phase.number :])
        self.report(
            "progress",
            {
                "step": state.done,
                "steps": state.done + phase.steps - state.step + later,
                "phase": phase.number,
                "loss": loss,
                "learning_rate": self._rate,
                "examples_per_second": self.clock.rows_per_second,
                "staleness": self.peers.staleness(state.done) if self.peers else None,
            },
        )

    def _warn(self, text: str) -> None:
        self.report("warning", {"text": text})

    def _say(self, text: str) -> None:
        self.report("note", {"text": text})


def evaluate_part(learner: Learner, part: Part) -> Evaluation:
    """The served model's figures on all rows of a part."""
    return evaluate(labels_of(part), learner.predict(in_order(part, EVALUATION_BATCH)), weights_of(part))
