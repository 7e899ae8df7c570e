"""A graceful stop: load balancers are told, no connection that was accepted is lost, and it does not take for ever."""

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn

# For so long the server says that it is not ready and still takes requests: who asks for its health sees it.
_NOTICE = 1.0
_LOOK = 0.02
_QUIET = 0.25


class Drain:
    """Stops a uvicorn server when it is told to."""

    def __init__(self, server: uvicorn.Server, seconds: float, begin: Callable[[], None]):
        """`seconds` bound the whole; `begin` is called first."""
        self._server, self._seconds, self._begin = server, seconds, begin
        self._task: asyncio.Task[None] | None = None
        self._deadline = 0.0

    def seconds_left(self) -> float:
        """Until what is not finished by then is given up."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def on_signals(self) -> None:
        """Takes SIGTERM and SIGINT in the running event loop; a second SIGINT stops at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked, number)

    def _asked(self, number: int) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._stop())
        elif number == signal.SIGINT:
            self._server.should_exit = self._server.force_exit = True

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self._seconds
        self._begin()
        await asyncio.sleep(min(_NOTICE, self._seconds / 2))
        # From here on nobody can connect. Answers now close their connections, so they become fewer by themselves.
        await self._close_listeners()
        # Where requests are answered there may be more; connections on which nothing happens are not waited for.
        state, busy = self._server.server_state, loop.time()
        while state.connections and loop.time() < min(self._deadline, busy + _QUIET):
            busy = loop.time() if state.tasks else busy
            await asyncio.sleep(_LOOK)
        self._server.config.timeout_graceful_shutdown = max(1, round(self.seconds_left()))
        self._server.should_exit = True

    async def _close_listeners(self) -> None:
        """Stops listening without losing who is in the queue of connections that nobody has accepted yet."""
        loop = asyncio.get_running_loop()
        listening = [listener for server in self._server.servers for listener in server.sockets]
        for listener in listening:
            loop.remove_reader(listener.fileno())
        for _ in range(3):  # connections that asyncio has accepted become uvicorn's
            await asyncio.sleep(0)
        left = [connection for listener in listening for connection in _accept_all(listener)]
        for server in self._server.servers:
            server.close()
        config, state = self._server.config, self._server.server_state
        for connection in left:
            await loop.connect_accepted_socket(
                lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # pyright: ignore
                connection,
            )


def _accept_all(listener: "socket.socket") -> list[socket.socket]:
    """Every connection that waits to be accepted."""
    # asyncio's view of a socket has no accept: a copy that shares its place in the kernel.
    found: list[socket.socket] = []
    with socket.fromfd(listener.fileno(), listener.family, listener.type, listener.proto) as copy:
        copy.setblocking(False)
        while True:
            try:
                connection, _ = copy.accept()
            except ConnectionAbortedError:  # it went away before it was accepted
                continue
            except OSError:  # none is left
                return found
            connection.setblocking(False)
            found.append(connection)
