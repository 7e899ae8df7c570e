"""What a checkpoint holds, so that a run that was killed ends with the same weights as one that was not."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from ctr.learner import Learner
from ctr.peers import Peers
from ctr.rates import Plateau

# More steps than any phase has.
_PHASE = 10**9


class State:
    """Where a training stands. Weights, optimizer slots, teachers and the average are tracked where they are.

    Attributes:
        phase: 1 or 2; 3 when all is done.
        step: next step of the phase.
        done: steps of the run that led to the present weights, through all phases; also the position in the data.
        least: the least validation log loss of the phase; `waited`: evaluations since then.
    """

    def __init__(
        self, learner: Learner, peers: Peers | None, plateau: Plateau | None, folder: Path, restore_from: Path
    ):
        """Checkpoints go to `folder`, that of the phase's best evaluation beside it; they are read from another one.

        Saving takes all workers of a group, each in a folder of its own; what is restored is the chief's.
        """
        self.phase, self.step, self.done = 1, 0, 0
        self.least, self.waited = float("inf"), 0
        self._peers, self._plateau = peers, plateau
        self._numbers = tf.Variable(tf.zeros([len(self._values())], tf.float64), trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            model=learner.model,
            optimizer=learner.optimizer,
            teachers=learner.teachers,
            present=learner.present,
            served=learner.served,
            numbers=self._numbers,
        )
        self._last = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)
        self._best = tf.train.CheckpointManager(self._checkpoint, str(_beside(folder)), max_to_keep=1)
        self._restore_from = restore_from

    @property
    def last_checkpoint(self) -> str | None:
        return self._last.latest_checkpoint

    def save(self) -> None:
        """Keeps this state for a restart."""
        self._numbers.assign(self._values())
        self._last.save(checkpoint_number=self._number())

    def save_best(self) -> None:
        """Keeps this state as the best of its phase."""
        self._numbers.assign(self._values())
        self._best.save(checkpoint_number=self._number())

    def resume(self) -> None:
        """Goes back to the last checkpoint, if there is one."""
        self._restore(self._restore_from, counts=True)

    def back_to_best(self) -> None:
        """Goes back to the phase's best evaluation; what the exchange cost since then stays counted."""
        self._restore(_beside(self._restore_from), counts=False)

    def _restore(self, folder: Path, *, counts: bool) -> None:
        path = tf.train.latest_checkpoint(str(folder))
        if not path:
            return
        self._checkpoint.restore(path).assert_existing_objects_matched()
        values = self._numbers.numpy()
        self.phase, self.step, self.done, self.waited = (int(value) for value in values[:4])
        self.least = float(values[4])
        rest = values[5:]
        if self._plateau:
            self._plateau.restore(rest[:3].tolist())
            rest = rest[3:]
        if self._peers:
            self._peers.restore(rest, counts=counts)

    def _number(self) -> int:
        """Grows also where the phase went back to its best evaluation."""
        return (self.phase - 1) * _PHASE + self.step

    def _values(self) -> Any:
        own = [self.phase, self.step, self.done, self.waited, self.least]
        plateau = self._plateau.state() if self._plateau else []
        return np.concatenate([own, plateau, self._peers.state() if self._peers else []])


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-best")
