"""The ASGI application: addresses, methods, tokens and limits; what they mean is in `v1`, `v2`, `openapi`."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from features.errors import BadInput
from serving import v1, v2
from serving.auth import check_token
from serving.engine import Engine, target
from serving.hooks import Call
from serving.limits import Receive, parse_object, read_body, seconds_allowed, unpacked
from serving.refusal import MAX_SAID, Refused
from serving.request_ids import HEADER, request_id

Send = Callable[[dict[str, Any]], Awaitable[None]]
# An answer that is ready: its content type, its bytes, and headers of its own. Anything else is made JSON.
Page = tuple[bytes, bytes, *tuple[tuple[bytes, bytes], ...]]
Answer = dict[str, Any] | Page

_TARGET = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_SCORE = re.compile(rf"/v1/models/([^/:]+){_TARGET}:(predict|classify|regress)")
_LOOK = re.compile(rf"/v1/models(?:/([^/:]+){_TARGET}(/metadata)?)?")
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready)?")
_HEALTH = re.compile(r"/v2/health/(live|ready)|/v2/models/[^/]+(?:/versions/[^/]+)?/ready")


class HttpApp:
    """Answers HTTP for one engine.

    `pages` maps addresses to what gives status and answer of GET; whoever has more of them adds to it; those in
    `free` need no token. `started` and `stopped` are called as the server starts to listen and when it has stopped.
    """

    def __init__(self, engine: Engine, *, token: str | None = None, about: str = ""):
        """`token`: what callers must send, if any. `about`: the server's version."""
        self.engine, self._token = engine, token
        self.pages: dict[str, Callable[[], tuple[int, Answer]]] = {
            "/v2": lambda: (200, v2.server_answer(about)),
            "/v2/health/live": lambda: (200, {"live": True}),
            "/v2/health/ready": lambda: (200 if engine.ready else 503, {"ready": engine.ready}),
        }
        self.free: set[str] = set()
        self.started: list[Callable[[], Awaitable[None]]] = []
        self.stopped: list[Callable[[], Awaitable[None]]] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        call = Call(asyncio.get_running_loop().time(), id=request_id(scope["headers"]))
        headers: tuple[tuple[bytes, bytes], ...] = ()
        try:
            status, answer = await self._answer(scope, receive, call)
        except Refused as refused:
            status, answer, headers = refused.status, {"error": str(refused)[:MAX_SAID]}, refused.headers
        except BadInput as error:
            status, answer = 400, {"error": str(error)[:MAX_SAID]}
        except Exception as error:  # whatever it is, the client gets an answer that it can read
            logging.getLogger("ctr").exception("a request failed")
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
        if self.engine.draining:
            headers = (*headers, (b"connection", b"close"))
        await _respond(send, status, answer, (*headers, (HEADER, call.id.encode())))
        self.engine.finish(call, status)

    async def _answer(self, scope: dict[str, Any], receive: Receive, call: Call) -> tuple[int, Answer]:
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        if not _HEALTH.fullmatch(path) and path not in self.free:
            check_token(headers.get(b"authorization"), self._token)
        if found := _SCORE.fullmatch(path) or _INFER.fullmatch(path):
            _only("POST", method, path)
            call.expires = call.began + seconds_allowed(headers.get(b"x-deadline-ms"), self.engine.deadline)
            sent = await read_body(receive, headers.get(b"content-length"))
            body = unpacked(sent, headers.get(b"content-encoding"))
            score = self._v1_score if found.re is _SCORE else self._v2_infer
            return 200, await score(found, body, call)
        if not (look := self._look(path, call)):
            # TensorFlow Serving's words; an address of its interface that it does not know is a wrong request to it.
            raise Refused(400 if path.startswith("/v1/") else 404, f"Malformed request: {method} {path}")
        _only("GET", method, path)
        return look()

    def _look(self, path: str, call: Call) -> Callable[[], tuple[int, Answer]] | None:
        """What answers GET of an address; None if there is no such address."""
        if found := _LOOK.fullmatch(path):
            call.kind = "v1:metadata" if found[4] else "v1:status"
            return lambda: (200, self._v1_look(found))
        if found := _MODEL.fullmatch(path):
            call.kind = "v2:ready" if found[3] else "v2:model"
            return lambda: self._v2_look(found)
        if page := self.pages.get(path):
            call.kind = path
        return page

    async def _v1_score(self, found: re.Match[str], body: bytes, call: Call) -> Answer:
        name, verb = found[1], found[4]
        call.kind = f"v1:{verb}"
        number, label = target((found[2], found[3]))
        self._check_name(name, number)
        request = parse_object(body)
        call.asked = v1.row_count(request)
        with self.engine.versions.using(number, label) as version:
            if verb == "predict":
                inputs = v1.predict_inputs(request, version.loaded)
            else:
                inputs = v1.example_inputs(request, version.loaded, verb)
            scores = await self.engine.score(version, inputs, call)
        if verb == "predict":
            return v1.predict_answer(request, scores)
        return v1.classify_answer(scores) if verb == "classify" else v1.regress_answer(scores)

    def _v1_look(self, found: re.Match[str]) -> Answer:
        name, versions = found[1], self.engine.versions
        if name is None:
            raise Refused(400, "Missing model name in request.")
        number, label = target((found[2], found[3]))
        if found[4]:
            self._check_name(name, number)
            with versions.using(number, label) as version:
                return v1.metadata_answer(name, version)
        if name != versions.name:
            raise Refused(404, f"Could not find any versions of model {name}")
        return v1.status_answer(versions.states(versions.number_of(label) if label is not None else number))

    async def _v2_infer(self, found: re.Match[str], body: bytes, call: Call) -> Answer:
        call.kind = "v2:infer"
        number = self._v2_number(found)
        request = parse_object(body)
        call.asked = v2.row_count(request)
        with self.engine.versions.using(number) as version:
            inputs = v2.infer_inputs(request, version.loaded)
            scores = await self.engine.score(version, inputs, call)
            return v2.infer_answer(found[1], version, request, scores)

    def _v2_look(self, found: re.Match[str]) -> tuple[int, Answer]:
        number, versions = self._v2_number(found), self.engine.versions
        with versions.using(number) as version:
            if found[3]:
                return 200 if self.engine.ready else 503, {"name": found[1], "ready": self.engine.ready}
            return 200, v2.model_answer(found[1], version, versions.numbers)

    def _v2_number(self, found: re.Match[str]) -> int | None:
        """The version that an address of the Open Inference Protocol names. Raises Refused for another model."""
        name, version = found[1], found[2]
        digits = version is None or (version.isascii() and version.isdigit() and len(version) <= 18)
        if name != self.engine.versions.name or not digits:
            raise Refused(404, f"there is no model {name}" + (f" of version {version}" if version else ""))
        return None if version is None else int(version)

    def _check_name(self, name: str, number: int | None) -> None:
        if name != self.engine.versions.name:
            what = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise Refused(404, f"Servable not found for request: {what}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            for do in self.started if message["type"] == "lifespan.startup" else self.stopped:
                await do()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _only(wanted: str, method: str, path: str) -> None:
    if method != wanted:
        raise Refused(405, f"{path} takes {wanted}, not {method}", ((b"allow", wanted.encode()),))


async def _respond(send: Send, status: int, answer: Answer, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    kind, body, *own = answer if isinstance(answer, tuple) else (b"application/json", msgspec.json.encode(answer))
    head = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *own, *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
