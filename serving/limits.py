"""How large a request may be, and how long it may take; whatever is beyond is refused in one line."""

import asyncio
import json
import math
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from serving.refusal import Refused

MAX_BODY = 16 * 2**20
# A call of the model with so many rows takes some 0.1 s.
MAX_ROWS = 8192
MAX_TEXT = 64 * 2**10
# Of a body that is too large so much is read before the answer, as many clients read none before they have written all.
_READ_ON = 4 * MAX_BODY
# TensorFlow Serving's `rest_api_timeout_in_ms`. Who stops in the middle would hold up the end of the server too.
_BODY_SECONDS = 30.0

Receive = Callable[[], Awaitable[dict[str, Any]]]


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; NaN, which TensorFlow Serving takes as a number, is null here: a missing value.

    Raises Refused for anything else, however deep it is nested.
    """
    try:
        parsed: object = msgspec.json.decode(body)
    except RecursionError:
        raise Refused(400, "JSON Parse error: it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        parsed = _with_nan(body, str(error))
    if not isinstance(parsed, dict):
        raise Refused(400, f"the request is no JSON object but {type(parsed).__name__}")
    return parsed


def _with_nan(body: bytes, fault: str) -> object:
    """Parses JSON that has NaN in it, at a fifth of the speed. Raises Refused, with what was wrong without it."""
    refused = Refused(400, f"JSON Parse error: {fault}")
    if b"NaN" not in body:
        raise refused

    def constant(name: str) -> None:
        if name != "NaN":
            raise Refused(400, f"JSON Parse error: {name} is no value of a field")

    try:
        # Written and read again, since the standard library takes strings that are no Unicode.
        return msgspec.json.decode(msgspec.json.encode(json.loads(body, parse_constant=constant)))
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise refused from None


def check_row_count(rows: int) -> None:
    """Raises Refused for a request of no row, or of too many."""
    if rows > MAX_ROWS:
        raise Refused(413, f"{rows} rows are more than the {MAX_ROWS} that a request may have")
    if not rows:
        raise Refused(400, "the request has no rows; it needs at least one")


def seconds_allowed(header: bytes | None, longest: float) -> float:
    """How long a request may take: `longest` seconds, or what its header `x-deadline-ms` says if that is less."""
    if header is None:
        return longest
    try:
        asked = float(header) / 1000
    except ValueError:
        asked = math.nan
    if not asked > 0:
        raise Refused(400, f"the header x-deadline-ms is {header.decode('latin-1')!r}, not a positive number")
    return min(asked, longest)


async def read_body(receive: Receive, length: bytes | None, seconds: float = _BODY_SECONDS) -> bytes:
    """The body of a request. Raises Refused if it is too large or not there in time, or if the client goes away."""
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, length)
    except TimeoutError:
        text = f"the request's body was not there in {seconds:g} seconds"
        raise Refused(408, text, ((b"connection", b"close"),)) from None


async def _read(receive: Receive, length: bytes | None) -> bytes:
    parts: list[bytes] = []
    size, said = 0, int(length) if length and length.isdigit() else 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away")
        part = message.get("body", b"")
        size += len(part)
        too_large = max(size, said) > MAX_BODY
        if not too_large:
            parts.append(part)
        if not message.get("more_body") or size > _READ_ON or said > _READ_ON:
            if too_large:
                close = ((b"connection", b"close"),)
                raise Refused(413, f"the request is larger than the {MAX_BODY} bytes that it may have", close)
            return b"".join(parts)


def unpacked(body: bytes, encoding: bytes | None) -> bytes:
    """A body without its `content-encoding`: gzip, which TensorFlow Serving takes too, or none. Raises Refused."""
    if encoding is None or encoding.lower() == b"identity":
        return body
    if encoding.lower() not in (b"gzip", b"x-gzip"):
        raise Refused(415, f"content-encoding {encoding.decode('latin-1')!r} is not known; send gzip, or none")
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = reader.decompress(body, MAX_BODY + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is no gzip: {error}") from None
    if len(plain) > MAX_BODY:
        raise Refused(413, f"the request is larger than the {MAX_BODY} bytes that it may have")
    if not reader.eof:
        raise Refused(400, "the body is gzip that has been cut short")
    return plain
