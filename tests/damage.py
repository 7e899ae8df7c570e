"""Requests that are wrong: valid ones, damaged in their bytes, in their JSON or in their address, from a seed."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

# What takes the place of a value somewhere in a body.
WRONG: list[Any] = [
    *(None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, 0.1, float("nan")),
    *("", "x", "\x00", "é" * 9, "x" * 70_000, "../../etc/passwd", "%s%n", "\ud800"),
    *([], [[]], {}, [None], [1, "x"], {"b64": "eA=="}, {"b64": "?"}, {"b64": 1}, {"a": {"b": []}}),
]
NAMES = ["", "I1", "C99", "ids", "inputs", "instances", "signature_name", "\x00"]
IN_ADDRESSES = ["%00", "..", "/", "%2e%2e%2f", ":", "é", "9" * 30]
ADDRESSES = [
    "/v1/models/ctr:predict",
    "/v1/models/ctr:classify",
    "/v1/models/ctr:regress",
    "/v1/models/ctr/versions/1:predict",
    "/v1/models/ctr/labels/none:predict",
    "/v2/models/ctr/infer",
    "/v2/models/ctr/versions/1/infer",
]
METHODS = ["POST"] * 20 + ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


def damaged(bodies: Sequence[Any], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Method, address and body of so many requests; `bodies` are valid ones."""
    chance = random.Random(seed)
    for _ in range(count):
        body = copy.deepcopy(chance.choice(bodies))
        for _ in range(chance.randint(1, 3)):
            body = _change(body, chance)
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        if chance.random() < 0.4:
            content = _bytes(content, chance)
        address = chance.choice(ADDRESSES)
        if chance.random() < 0.1:
            place = chance.randrange(1, len(address))
            address = address[:place] + chance.choice(IN_ADDRESSES) + address[place:]
        yield chance.choice(METHODS), address, content


def _change(value: Any, chance: random.Random) -> Any:
    """The same with something in it replaced, taken away, added or wrapped."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice([*value])
        kind = chance.random()
        if kind < 0.1:
            del value[name]
        elif kind < 0.2:
            value[chance.choice([*NAMES, name * 2])] = value[name]
        else:
            value[name] = _change(value[name], chance)
        return value
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        value[place] = _change(value[place], chance)
        return value
    if chance.random() < 0.1:
        return [value] if chance.random() < 0.5 else {"b64": value}
    return copy.deepcopy(chance.choice(WRONG))


def _bytes(content: bytes, chance: random.Random) -> bytes:
    """Cut, doubled, or with some bytes that are others."""
    place = chance.randrange(len(content) + 1)
    kind = chance.random()
    if kind < 0.3:
        return content[:place]
    if kind < 0.4:
        return content + content[place:]
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        if found:
            found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)
