"""What a request is called: by its client, or else by a name made here."""

import os
import re
from collections.abc import Iterable

HEADER = b"x-request-id"

# What is safe in a header, a line of a log and a name of a row; `/` stands between a request and its row.
_GIVEN = re.compile(rb"[!-.0-~]{1,128}")


def request_id(headers: Iterable[tuple[bytes, bytes | str]]) -> str:
    """The id in a request's headers; one of 16 random hexadecimal digits if there is none, or none that can be used."""
    for name, value in headers:
        if name == HEADER:
            given = value if isinstance(value, bytes) else value.encode()
            if _GIVEN.fullmatch(given):
                return given.decode()
    return os.urandom(8).hex()
