"""The other workers of a group: one that does not come, or is gone, ends this process, whatever it is doing.

TensorFlow ends a collective operation when a worker has sent no heartbeat for ten seconds. A process that is in none,
as it waits for another group's snapshot or for an object store, would not hear of it; nor is it told who it was.
"""

import contextlib
import faulthandler
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# What a worker that `ctr train` launched ends with when it lost another one: it is to be started again.
LOST = 75
# A worker is gone when it has not answered so many times in turn: less than half a minute.
_TIMES = 3
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN = 3.0
# What it takes at most to find out who is missing.
_SECONDS_TO_CONNECT = 2.0


class Fellows:
    """The workers of a group but for this one, by their addresses (host:port)."""

    def __init__(self, group: int, worker: int, addresses: Sequence[str], *, launched: bool = False):
        """`launched`: whether `ctr train` started this process and will start it again."""
        self._group, self._worker, self._addresses, self._launched = group, worker, list(addresses), launched
        self._others = [index for index in range(len(addresses)) if index != worker]
        self._parted = threading.Event()

    @contextlib.contextmanager
    def awaited(self, seconds: float) -> Generator[None]:
        """Around the start of the group's cluster, which waits for all workers: after so many seconds it ends.

        TensorFlow holds the interpreter's lock all that time, so that no thread of this process could do it: another
        process says who is missing, and the one thread of Python's that needs no lock ends this one, with code 1.
        """
        words = [str(seconds), str(self._group), str(self._worker), *self._addresses]
        teller = subprocess.Popen([sys.executable, "-m", "ctr.fellows", *words], stdin=subprocess.PIPE)
        with Path(os.devnull).open("w") as nowhere:
            faulthandler.dump_traceback_later(seconds + 2 * _SECONDS_TO_CONNECT, exit=True, file=nowhere)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                teller.kill()
                teller.communicate()

    def watch(self) -> None:
        """From here on, until `part`, the chief asks all others every few seconds whether they are there.

        The others ask the chief: were all to ask all, 256 workers would send 20,000 questions a second.
        """
        for index in self._others if self._worker == 0 else [0]:
            threading.Thread(target=self._watch, args=(index,), daemon=True).start()

    def part(self) -> None:
        """All have come to the end: from here on each may leave."""
        self._parted.set()

    def missing(self) -> str:
        """Which workers cannot be reached now."""
        with ThreadPoolExecutor(len(self._others)) as pool:
            there = list(pool.map(lambda index: _is_there(self._addresses[index]), self._others))
        gone = [self._name(index) for index, answers in zip(self._others, there, strict=True) if not answers]
        return f"{' and '.join(gone)} did not answer" if gone else "another worker, which answers again, did not"

    def tell(self, who: str) -> None:
        """Says in one line on standard error that the group cannot go on, and what to do."""
        what = "" if self._launched else f": start all workers of group {self._group} again as before"
        why = f"group {self._group} cannot go on without all its workers: {who}; it resumes from its checkpoint{what}"
        # In one piece: two threads may find it out at the same time.
        os.write(sys.stderr.fileno(), f"error: {why}\n".encode())

    def end(self, who: str) -> None:
        """Says so, and ends this process."""
        self.tell(who)
        # At once: the cluster's own end waits for those that are gone.
        os._exit(LOST if self._launched else 1)

    def _watch(self, index: int) -> None:
        import tensorflow as tf
        from tensorflow.python.eager import context as eager

        context: Any = eager.context()
        silent = 0
        while not self._parted.wait(_SECONDS_BETWEEN):
            try:
                milliseconds = int(1000 * _SECONDS_TO_ANSWER)
                context.check_collective_ops_peer_health(f"/job:worker/replica:0/task:{index}", milliseconds)
                silent = 0
            except tf.errors.OpError:
                silent += 1
            if silent == _TIMES and not self._parted.is_set():
                self.end(f"{self._name(index)} did not answer")

    def _name(self, index: int) -> str:
        return f"worker {index} ({self._addresses[index]})"


def _is_there(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except OSError:
        return False
    return True


def _tell_later(seconds: str, group: str, worker: str, *addresses: str) -> None:
    """Says who is missing, unless the process that waits for them has ended by then."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    time.sleep(float(seconds))
    fellows = Fellows(int(group), int(worker), addresses)
    fellows.tell(f"{fellows.missing()} in {float(seconds):g} seconds")


def _end_with_parent() -> None:
    # Standard input ends with the process that holds its other end.
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _tell_later(*sys.argv[1:])
