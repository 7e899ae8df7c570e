"""The other workers of a group: one that does not come, or is gone, ends this process, whatever it is doing.

TensorFlow ends a collective operation when a worker has sent no heartbeat for ten seconds. A process that is in none,
as it waits for another group's snapshot or for an object store, would not hear of it; nor is it told who it was.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

# A worker is gone when it has not answered so many times in turn: less than half a minute.
_TIMES = 3
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN = 3.0


class Fellows:
    """The workers of a group but for this one, by their addresses (host:port)."""

    def __init__(self, addresses: Sequence[str], worker: int, lost: Callable[[str], None]):
        """`lost` is told who it is in a few words, in a thread of its own; it ends the process."""
        self._addresses = {index: address for index, address in enumerate(addresses) if index != worker}
        self._lost = lost
        self._parted = threading.Event()

    @contextlib.contextmanager
    def awaited(self, seconds: float) -> Generator[None]:
        """Around the start of the group's cluster, which waits for all workers for as long as it takes."""
        timer = threading.Timer(seconds, lambda: self._lost(f"{self.missing()} in {seconds:g} seconds"))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def watch(self) -> None:
        """From here on, until `part`, the chief asks all others every few seconds whether they are there.

        The others ask the chief: were all to ask all, 256 workers would send 20,000 questions a second.
        """
        for index in self._addresses if 0 not in self._addresses else [0]:
            threading.Thread(target=self._watch, args=(index,), daemon=True).start()

    def part(self) -> None:
        """All have come to the end: from here on each may leave."""
        self._parted.set()

    def missing(self) -> str:
        """Which workers cannot be reached now."""
        with ThreadPoolExecutor(len(self._addresses)) as pool:
            there = list(pool.map(_is_there, self._addresses.values()))
        gone = [self._name(index) for index, answers in zip(self._addresses, there, strict=True) if not answers]
        return f"{' and '.join(gone)} did not answer" if gone else "another worker, which answers again, did not"

    def _watch(self, index: int) -> None:
        import tensorflow as tf
        from tensorflow.python.eager import context

        silent = 0
        while not self._parted.wait(_SECONDS_BETWEEN):
            try:
                milliseconds = int(1000 * _SECONDS_TO_ANSWER)
                context.context().check_collective_ops_peer_health(f"/job:worker/replica:0/task:{index}", milliseconds)
                silent = 0
            except tf.errors.OpError:
                silent += 1
            if silent == _TIMES and not self._parted.is_set():
                self._lost(f"{self._name(index)} did not answer")

    def _name(self, index: int) -> str:
        return f"worker {index} ({self._addresses[index]})"


def _is_there(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True
