"""One process at a time in a folder: a lock that ends with its holder, however that ends."""

import fcntl
import time
from pathlib import Path
from typing import IO


def try_lock(path: Path, *, wait: float = 0.0) -> IO[bytes] | None:
    """An open file that holds the lock until it is closed; None if another has it and keeps it for `wait` seconds."""
    file = path.open("ab")
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(0.1)
        else:
            return file
