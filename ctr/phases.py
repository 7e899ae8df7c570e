"""What a run does when: its phases, and in each the weights of the loss's two terms and the moments of exchange."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A stretch of training, in steps counted from its own start.

    Attributes:
        number: 1 or 2.
        steps: how many at most; early stopping may end it before.
        start: when groups begin to learn from one another; before it is burn-in.
        ramp_steps: over which the distillation term's weight then rises from 0.
        weight: of the distillation term after the ramp.
        final_weight: what that weight has moved to, evenly, at the last step.
        label_weight: of the labels' loss.
        exchange_every: steps from one exchange to the next; 0: only where groups begin to learn from one another.
        everyone: whether the group's own last snapshot teaches too.
    """

    number: int
    steps: int
    start: int
    ramp_steps: int
    weight: float
    final_weight: float
    label_weight: float
    exchange_every: int
    everyone: bool

    def weight_at(self, step: int) -> float:
        """The distillation term's weight at a step: 0 in burn-in, then rising evenly, then moving to the final one."""
        if step < self.start:
            return 0.0
        ramped = self.start + self.ramp_steps
        if step < ramped:
            return self.weight * (step - self.start + 1) / self.ramp_steps
        # The last step has the final weight exactly.
        left = max(self.steps - 1 - ramped, 1)
        return self.weight + (self.final_weight - self.weight) * min(1.0, (step - ramped) / left)

    def is_boundary(self, step: int) -> bool:
        """Whether groups exchange snapshots before this step: at the end of burn-in, then at even distances."""
        if step < self.start or step >= self.steps:
            return False
        return step == self.start if not self.exchange_every else (step - self.start) % self.exchange_every == 0
