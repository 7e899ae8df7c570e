"""A mirror of public data sets on this machine: an HTTP server whose files, digests and faults a test chooses."""

import contextlib
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves files out of memory, with ranges, and remembers what was asked for.

    Attributes:
        files: content by path.
        headers: more headers by path.
        redirects: where to by path, with these headers.
        cuts: for each of the next answers with a file's content, after how many bytes the connection is closed.
        ranges: whether the Range header is heeded.
        asked: path and Range header of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges_asked(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a path, in order."""
        return [asked for name, asked in self.asked if name == path]

    def publish_sums(self, **digests: str) -> None:
        """Puts a SHA256SUMS file beside the files: the digests given, otherwise the right ones."""
        right = {path.removeprefix("/"): sha256(content) for path, content in self.files.items()}
        lines = [f"{digest}  {name}\n" for name, digest in {**right, **digests}.items()]
        self.files["/SHA256SUMS"] = "".join(lines).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers GET for `Server`."""

    protocol_version = "HTTP/1.1"

    @property
    def files_from(self) -> Server:
        """The server, known to be one of ours."""
        assert isinstance(self.server, Server)
        return self.server

    def do_GET(self) -> None:
        """Notes what was asked for and gives it."""
        self.files_from.asked.append((self.path, self.headers.get("Range")))
        if self.path in self.files_from.redirects:
            target, headers = self.files_from.redirects[self.path]
            self._answer(302, b"", {"Location": target, **headers})
        elif self.path not in self.files_from.files:
            self._answer(404, b"nothing here", {})
        else:
            self._answer_file(self.files_from.files[self.path])

    def _answer_file(self, content: bytes) -> None:
        headers = self.files_from.headers.get(self.path, {})
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.files_from.ranges else None
        first = int(asked[1]) if asked else 0
        if asked and first >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}", **headers})
        elif asked:
            span = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
            self._answer(206, content[first:], {**span, **headers})
        else:
            self._answer(200, content, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if status in {200, 206} and self.path != "/SHA256SUMS" and self.files_from.cuts:
            body = body[: self.files_from.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Keeps requests off the terminal."""


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server that answers until the block is left."""
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def sha256(data: bytes) -> str:
    """The digest as SHA256SUMS has it."""
    return hashlib.sha256(data).hexdigest()


def tar_of(members: dict[str, bytes]) -> bytes:
    """A .tar.gz with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
