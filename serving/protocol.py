"""HTTP/1.1 on the wire: uvicorn's httptools protocol, without two faults of its parser."""

# uvicorn's protocols are not typed for those who build on them.
# pyright: basic

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# As much as h11 takes. httptools has no bound, and copies a long header again with each read.
MAX_HEAD = 64 * 2**10


class HttpProtocol(HttpToolsProtocol):
    """Bounds heads, trailers and chunk extensions to `MAX_HEAD` bytes, and keeps the body of a request to upgrade.

    httptools takes the body of a request with `Connection: Upgrade` for another protocol's, and uvicorn would read
    it as the next request. Java's HttpClient asks for HTTP/2 so with all that it sends. Such a connection goes on in
    h11, which ignores what it cannot upgrade to, as HTTP wants it.
    """

    _unfinished = 0  # bytes since a head, a piece of a body or a message was whole
    _progress = False

    def connection_made(self, transport: Any) -> None:
        """Takes a client, which has as long for its first request as for the next ones."""
        super().connection_made(transport)
        self._wait_for_more()

    def data_received(self, data: bytes) -> None:
        """Takes what a client sent."""
        self._unset_keepalive_if_required()
        self._progress = False
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess] - until the connection is lost
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_in_h11(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        self._unfinished = 0 if self._progress else self._unfinished + len(data)
        if self._unfinished > MAX_HEAD:
            self.send_400_response(f"The request's head is larger than {MAX_HEAD} bytes.")
        elif not self._progress and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_more()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._progress = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._progress = True
        super().on_message_complete()

    def _wait_for_more(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _should_upgrade(self) -> bool:
        return True  # asked where the parser sees a request to upgrade: it is not answered here

    def _go_on_in_h11(self, rest: bytes) -> None:
        if self.cycle and not self.cycle.response_complete:  # it did not wait for the answer before
            self.send_400_response("A request to upgrade cannot be pipelined.")
            return
        head = [f"{self.scope['method']} ".encode() + self.url + f" HTTP/{self.scope['http_version']}".encode()]
        head += [b"%s: %s" % header for header in self.headers]
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        protocol: Any = H11Protocol(self.config, self.server_state, self.app_state, asyncio.get_running_loop())
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join(head) + b"\r\n\r\n" + rest)
