"""How much memory this process has taken."""

import resource
import sys


def peak_rss_mb() -> float:
    """The most that this process ever had in memory, MB (2^20 bytes)."""
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
