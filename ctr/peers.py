"""How a group hears of the others: what it publishes, what it waits for, and what it does when a peer stays away."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.exchange import Exchange, ExchangeError, Moment
from ctr.learner import Learner
from ctr.snapshot import as_sent

NEVER = Moment(0, -1)
_SECONDS_BEFORE_SAYING = 10.0

Warn = Callable[[str], None]


def peer_groups(group: int, groups: int, *, ring: bool) -> list[int]:
    """Which groups a group learns from: all others, or in a ring the one before it."""
    if groups == 1:
        return []
    return [(group - 1) % groups] if ring else [other for other in range(groups) if other != group]


class Peers:
    """The groups that this one learns from, in the order of the learner's first teachers.

    Attributes:
        known: for each, the moment of its snapshot in use.
        adopted: for each, the step of this run at which its snapshot was newest: what staleness is measured from.
        absent: those that were waited for in vain; they are no longer waited for until they are heard of again.
        dropped: those whose snapshot became too old to learn from.
    """

    def __init__(
        self,
        exchange: Exchange,
        groups: Sequence[int],
        *,
        lockstep: bool,
        timeout: float,
        drop_after: int,
        chief: bool,
        own: int | None,
    ):
        """`timeout`: seconds that lockstep waits. `drop_after`: steps. `own`: the teacher that is this group itself."""
        self.exchange, self.groups, self.lockstep, self.timeout = exchange, list(groups), lockstep, timeout
        self.drop_after, self.chief, self.own = drop_after, chief, own
        self.known = [NEVER] * len(self.groups)
        self.adopted = [0] * len(self.groups)
        self.absent: set[int] = set()
        self.dropped: set[int] = set()
        self._ended: set[int] = set()  # which are not asked for again and again
        self.bytes_published = self.bytes_read = self.exchanges = self.missed = self.unpublished = 0
        self.seconds_waited = self.seconds_exchanging = 0.0

    def meet(
        self,
        learner: Learner,
        moment: Moment,
        since: Moment,
        step: int,
        *,
        everyone: bool,
        warn: Warn,
        alive: Callable[[], None],
    ) -> None:
        """Publishes this group's weights and takes the peers' that there are.

        Args:
            everyone: whether this group's own snapshot teaches it too.
            since: the oldest snapshot that may be used: a copy from before the end of burn-in ruins a run.
            step: of the run, through all phases.
            alive: called while waiting, so that the caller can end the wait by raising.
        """
        began, waited = time.monotonic(), self.seconds_waited
        if not self.exchanges:
            # One that is never heard of is late from here on.
            self.adopted = [step] * len(self.groups)
        self._publish(learner, moment, everyone, warn)
        for teacher, peer in enumerate(self.groups):
            self._hear(learner, teacher, peer, moment, since, step, warn, alive)
        self.exchanges += 1
        self.seconds_exchanging += time.monotonic() - began - (self.seconds_waited - waited)

    def look_for(self, learner: Learner, moment: Moment, step: int, *, warn: Warn, alive: Callable[[], None]) -> None:
        """Takes the snapshots of this moment, or later ones, of those peers that had not published them before."""
        for teacher, peer in enumerate(self.groups):
            if self.known[teacher] < moment:
                self.absent.add(teacher)
                self._hear(learner, teacher, peer, moment, moment, step, warn, alive)

    def finish(self, moment: Moment) -> None:
        """Tells the others that nothing more comes from this group."""
        if self.chief:
            with contextlib.suppress(ExchangeError):
                self.exchange.finish(moment)

    def staleness(self, step: int) -> int | None:
        """How many steps old the oldest snapshot in use is; None before the first."""
        heard = [self.adopted[i] for i in range(len(self.groups)) if self.known[i] != NEVER and i not in self.dropped]
        return step - min(heard) if heard else None

    def drop_stale(self, learner: Learner, phase: int, step: int, enough: Moment | None, warn: Warn) -> None:
        """Stops learning from peers whose snapshot has become too old; they are taken back when they are heard of.

        A snapshot of the moment `enough` or later never does.
        """
        for teacher, peer in enumerate(self.groups):
            if enough and self.known[teacher] >= enough:
                continue
            late = step - self.adopted[teacher]
            # A peer that has done all its steps is not late, nor is one that waits for this group in the next phase.
            ahead = self.known[teacher].phase > phase
            if teacher in self.dropped or late <= self.drop_after or ahead or teacher in self._ended:
                continue
            if self._finished(learner, peer):
                self._ended.add(teacher)
            else:
                self.dropped.add(teacher)
                learner.set_present(teacher, False)
                warn(f"step {step}: group {peer} is dropped, nothing newer came from it for {late} steps")

    def state(self) -> NDArray[np.float64]:
        """What a restart has to know, as numbers `[5 * peers + 7]`."""
        flags = [[float(i in self.absent), float(i in self.dropped)] for i in range(len(self.groups))]
        each = [[*self.known[i], self.adopted[i], *flags[i]] for i in range(len(self.groups))]
        counts = [self.bytes_published, self.bytes_read, self.exchanges, self.missed, self.unpublished]
        return np.array([*np.ravel(each), *counts, self.seconds_waited, self.seconds_exchanging], np.float64)

    def restore(self, state: NDArray[np.float64], *, counts: bool) -> None:
        """Takes up what `state` gave; with `counts`, what the exchange cost, too."""
        each = state[:-7].reshape(len(self.groups), 5).astype(int).tolist()
        self.known = [Moment(phase, step) for phase, step, *_ in each]
        self.adopted = [adopted for _, _, adopted, _, _ in each]
        self.absent = {i for i, (*_, absent, _) in enumerate(each) if absent}
        self.dropped = {i for i, (*_, dropped) in enumerate(each) if dropped}
        if not counts:
            return
        numbers = [int(count) for count in state[-7:-2]]
        self.bytes_published, self.bytes_read, self.exchanges, self.missed, self.unpublished = numbers
        self.seconds_waited, self.seconds_exchanging = map(float, state[-2:])

    def figures(self) -> dict[str, Any]:
        """What the exchange cost so far, and who stayed away."""
        return {
            "exchanges": self.exchanges,
            "bytes_published": self.bytes_published,
            "bytes_read": self.bytes_read,
            "seconds_waited": self.seconds_waited,
            "seconds_exchanging": self.seconds_exchanging,
            "snapshots_missed": self.missed,
            "snapshots_unpublished": self.unpublished,
            "peers_dropped": sorted(self.groups[i] for i in self.dropped),
        }

    def _publish(self, learner: Learner, moment: Moment, everyone: bool, warn: Warn) -> None:
        # Every worker must take the same way: what changed is a sum over all of them.
        whole = bool(learner.agree([float(self.exchange.wants_full)])[0])
        changes = learner.whole() if whole else learner.changes()
        if self.own is not None:
            learner.adopt(self.own, [as_sent(changes, self.exchange.dtype, self.exchange.embeddings)])
            learner.set_present(self.own, everyone)
        if self.chief:
            try:
                self.bytes_published += self.exchange.publish(moment, changes)
            except ExchangeError as error:
                self.unpublished += 1
                warn(f"{moment}: snapshot not published, going on without: {error}")

    def _hear(
        self,
        learner: Learner,
        teacher: int,
        peer: int,
        moment: Moment,
        since: Moment,
        step: int,
        warn: Warn,
        alive: Callable[[], None],
    ) -> None:
        """Takes the snapshot of one peer that the chief chose, if every worker of the group can read it."""
        have = None if self.known[teacher] == NEVER else self.known[teacher]
        snapshot, missed = None, False
        if self.chief:
            began = time.monotonic()
            waits = self.lockstep and teacher not in self.absent
            if waits:
                told = self._telling(peer, moment, warn, alive)
                snapshot = self.exchange.wait_for(peer, moment, self.timeout, told, have=have)
            if snapshot is None:
                snapshot = self.exchange.newest(peer, since=since, have=have)
                # One that is past this moment, in its next phase or at its end, did not stay away.
                missed = waits and snapshot is None and not self.exchange.past(peer, moment)
            self.seconds_waited += time.monotonic() - began
        *at, missed = learner.agree([*(snapshot.moment if snapshot else NEVER), missed])
        chosen = Moment(*map(int, at))
        if chosen != NEVER and not self.chief:
            snapshot = self.exchange.wait_for(peer, chosen, self.timeout, alive, have=have)
        if chosen != NEVER and learner.all_agree(snapshot is not None):
            assert snapshot is not None
            learner.adopt(teacher, snapshot.parts)
            self.bytes_read += snapshot.bytes
            if teacher in self.dropped:
                warn(f"step {step}: group {peer} is back")
            behind = max(0, moment.step - chosen.step) if chosen.phase == moment.phase else 0
            self.known[teacher], self.adopted[teacher] = chosen, step - behind
            self.dropped.discard(teacher)
            self._ended.discard(teacher)
            # Who was away is waited for again once both are at the same moment.
            if chosen == moment:
                self.absent.discard(teacher)
        elif missed:
            self.missed += 1
            self.absent.add(teacher)
            last = f"its snapshot of {have}" if have else "nothing of it yet"
            warn(f"{moment}: no snapshot of group {peer} in time; no longer waiting for it, going on with {last}")

    def _telling(self, peer: int, moment: Moment, warn: Warn, alive: Callable[[], None]) -> Callable[[], None]:
        """`alive`, which also says once that this group waits for another when it has done so for long."""
        due = time.monotonic() + _SECONDS_BEFORE_SAYING

        def check() -> None:
            nonlocal due
            if time.monotonic() > due:
                due = math.inf
                limit = f"codistillation.peer_timeout={self.timeout:g} seconds after its last sign"
                warn(f"{moment}: waiting for group {peer}, until {limit}; start it again if it has ended")
            alive()

        return check

    def _finished(self, learner: Learner, peer: int) -> bool:
        return bool(learner.agree([self.chief and self.exchange.finished(peer)])[0])


def no_figures() -> dict[str, Any]:
    """What `Peers.figures` gives, of a group that learns from nobody."""
    counts = dict.fromkeys(
        ("exchanges", "bytes_published", "bytes_read", "snapshots_missed", "snapshots_unpublished"), 0
    )
    return {**counts, "seconds_waited": 0.0, "seconds_exchanging": 0.0, "peers_dropped": []}
