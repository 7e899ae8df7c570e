"""What long work tells of itself while it goes on."""

from collections.abc import Callable

# Told how far the work is: stage, done, in all.
Progress = Callable[[str, int, int], None]
