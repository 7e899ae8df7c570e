"""Clients of an HTTP server, each with a connection of its own and one request at a time, in one light process.

    python load.py PORT CLIENTS SECONDS <requests.json

Standard input is a JSON list of whole requests as text; each client goes round them. Prints seconds, latencies
(milliseconds, sorted) and the answers that were not 200, as JSON. A client library would take more of two cores than
the servers that are measured.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field


@dataclass
class Client:
    """One connection, the request that it waits for and what has come of the answer."""

    connection: socket.socket
    turn: int
    began: float = 0.0
    answer: bytearray = field(default_factory=bytearray)


def main() -> None:
    """Asks for so many seconds."""
    port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    requests = [text.encode() for text in json.load(sys.stdin)]
    latencies: list[float] = []
    failed: list[str] = []
    with selectors.DefaultSelector() as ready:
        for number in range(clients):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(connection, number * 7)
            ready.register(connection, selectors.EVENT_READ, client)
            ask(client, requests)
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + seconds:
            for key, _ in ready.select(1.0):
                client = key.data
                got = client.connection.recv(2**18)
                if not got:
                    sys.exit("the server closed a connection")
                client.answer += got
                if whole(client.answer):
                    latencies.append(time.perf_counter() - client.began)
                    if not client.answer.startswith(b"HTTP/1.1 200"):
                        failed.append(client.answer.decode())
                    ask(client, requests)
        took = now - began
    found = sorted(round(1000 * each, 3) for each in latencies)
    sys.stdout.write(json.dumps({"seconds": took, "latencies": found, "failed": failed}) + "\n")


def ask(client: Client, requests: list[bytes]) -> None:
    """Sends the client's next request."""
    request = requests[client.turn % len(requests)]
    client.turn += 1
    client.answer.clear()
    client.began = time.perf_counter()
    client.connection.sendall(request)


def whole(answer: bytearray) -> bool:
    """Whether all of an answer that says its length is there."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0].split(b":")[1])


if __name__ == "__main__":
    main()
