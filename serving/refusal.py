"""A request that gets no scores, and what its client is told."""

# Characters of what a client is told: a text may quote what was sent, and gRPC's goes as a header, of 8 KiB for most.
MAX_SAID = 1000


class Refused(Exception):
    """Why a request is not answered with scores.

    Attributes:
        status: as HTTP has it: 400 wrong, 401 no token, 404 no such model, 405 no such method, 408 not sent in time,
            413 too large, 415 packed unknowably, 503 too much to do, 504 too late. gRPC's code follows from it.
        headers: of the HTTP answer.
    """

    def __init__(self, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()):
        super().__init__(text)
        self.status, self.headers = status, headers


def queue_full(rows: int) -> Refused:
    """More rows wait than the bound allows."""
    return Refused(503, f"{rows} rows wait already; try again in a second", ((b"retry-after", b"1"),))


def too_late() -> Refused:
    """The deadline of a request passed before it was scored."""
    return Refused(504, "the request's deadline passed before it was scored")
