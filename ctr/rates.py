"""The learning rate of a step, and when it drops because nothing gets better."""

import math


def rate_at(step: int, *, rate: float, schedule: str, warm_up_steps: int, steps: int, final_rate: float) -> float:
    """The learning rate at a step of `steps`: rising evenly over `warm_up_steps`, then as `schedule` says.

    `linear` and `cosine` (Loshchilov & Hutter 2017, half a period) go from `rate` to `rate * final_rate`, which they
    reach at step `steps`; `constant` and `plateau` stay (see `Plateau`).
    """
    if step < warm_up_steps:
        return rate * (step + 1) / warm_up_steps
    if schedule in ("constant", "plateau"):
        return rate
    gone = min(1.0, (step - warm_up_steps) / max(1, steps - warm_up_steps))
    left = 1 - gone if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * gone))
    return rate * (final_rate + (1 - final_rate) * left)


class Plateau:
    """Multiplies the rate by `factor` each time that `patience` evaluations in a row were no better than the best."""

    def __init__(self, patience: int, factor: float):
        self.patience, self.by = patience, factor
        self.reset()

    def reset(self) -> None:
        """As if nothing had been evaluated."""
        self.factor, self.least, self.waited = 1.0, math.inf, 0

    def note(self, log_loss: float) -> bool:
        """Takes an evaluation's log loss; whether the rate drops now."""
        if log_loss < self.least:
            self.least, self.waited = log_loss, 0
            return False
        self.waited += 1
        if self.waited < self.patience:
            return False
        self.factor, self.waited = self.factor * self.by, 0
        return True

    def state(self) -> list[float]:
        """What `restore` takes."""
        return [self.factor, self.least, float(self.waited)]

    def restore(self, state: list[float]) -> None:
        """Goes on where `state` was taken."""
        self.factor, self.least, self.waited = state[0], state[1], int(state[2])
