"""How fast a training runs."""

import time

_REPORT_SECONDS = 0.5


class Clock:
    """Rows a second since this process's first step was done (it pays for tracing), without the pauses."""

    def __init__(self, batch_size: int):
        self.batch_size, self.ticks, self.began, self.away = batch_size, 0, 0.0, 0.0
        self.reported = time.monotonic()

    def tick(self) -> None:
        """A step was done."""
        self.ticks += 1
        if self.ticks == 1:
            self.began = time.monotonic()

    def __enter__(self) -> None:
        """A pause begins."""
        self._left = time.monotonic()

    def __exit__(self, *error: object) -> None:
        if self.ticks:
            self.away += time.monotonic() - self._left

    def report_due(self) -> bool:
        """Whether half a second has gone since this last said so."""
        due = time.monotonic() - self.reported > _REPORT_SECONDS
        if due:
            self.reported = time.monotonic()
        return due

    @property
    def rows_per_second(self) -> float:
        seconds = time.monotonic() - self.began - self.away
        return (self.ticks - 1) * self.batch_size / seconds if self.ticks > 1 else 0.0
