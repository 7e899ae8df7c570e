"""TensorFlow Serving's REST interface as an ASGI application: predict, status, metadata."""

import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np

from features.errors import BadInput
from serving.batching import Batcher, QueueFull
from serving.model import ServedModel
from serving.rows import check_row, to_columns

# A call of this many rows takes some milliseconds; more would make the others wait.
_MAX_ROWS = 1024
_MAX_WAITING = 8192
_MAX_BODY = 16 * 2**20

_INT32 = 2**31 - 1
_FLOAT32 = float(np.finfo(np.float32).max)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

_PATH = re.compile(
    r"^/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+))?(?:/(?P<metadata>metadata)|:(?P<verb>\w+))?$"
)


class _Failure(Exception):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class RestApp:
    """Answers `/v1/models/NAME`, `.../metadata` and `...:predict` for one model at version 1."""

    def __init__(self, model: ServedModel, name: str):
        self.model, self.name = model, name
        self.companion: object = None  # another server that lives as long as this one
        self._raw = Batcher(self._score_raw, max_rows=_MAX_ROWS, max_waiting=_MAX_WAITING)
        self._packed = Batcher(self._score_packed, max_rows=_MAX_ROWS, max_waiting=_MAX_WAITING)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            body = await _body(receive) if scope["method"] == "POST" else b""
            status, answer = 200, await self._answer(scope["method"], scope["path"], body)
        except _Failure as failure:
            status, answer = failure.status, {"error": str(failure)}
        except BadInput as error:
            status, answer = 400, {"error": str(error)}
        except QueueFull as error:
            status, answer = 503, {"error": f"{error}; try again in a second"}
        except Exception as error:  # whatever it is, the client gets an answer that it can read
            logging.getLogger("ctr").exception("a request failed")
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
        await _respond(send, status, answer)

    async def _answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        found = _PATH.match(path)
        if not found:
            raise _Failure(404, f"Malformed request: {method} {path}")
        if found["name"] != self.name or found["version"] not in (None, "1"):
            version = f" version {found['version']}" if found["version"] else ""
            raise _Failure(404, f"Servable not found for request: {found['name']}{version}")
        if found["verb"]:
            if method != "POST" or found["verb"] != "predict":
                raise _Failure(404 if method == "POST" else 405, f"Malformed request: {method} {path}")
            return await self._predict(body)
        if method != "GET":
            raise _Failure(405, f"Malformed request: {method} {path}")
        return self._metadata() if found["metadata"] else self._status()

    async def _predict(self, body: bytes) -> dict[str, Any]:
        try:
            request: object = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise _Failure(400, f"JSON Parse error: {error}") from None
        if not isinstance(request, dict):
            raise _Failure(400, 'the request is no JSON object; send {"instances": [...]} or {"inputs": {...}}')
        if ("instances" in request) == ("inputs" in request):
            raise _Failure(400, "the request needs either 'instances' (rows) or 'inputs' (columns)")
        signature = request.get("signature_name", "serving_default")
        rows = request["instances"] if "instances" in request else _rows_of_columns(request["inputs"])
        if not isinstance(rows, list) or not rows:
            raise _Failure(400, "'instances' must be a list of at least one row")
        if len(rows) > _MAX_WAITING:
            raise _Failure(413, f"{len(rows)} rows are more than the {_MAX_WAITING} that a request may have")
        if signature == "serving_default":
            checked = [check_row(row, self.model.spec.schema, f"instance {i}") for i, row in enumerate(rows)]
            scores = await self._raw.submit(checked)
        elif signature == "packed":
            scores = await self._packed.submit([self._packed_row(row, i) for i, row in enumerate(rows)])
        else:
            raise _Failure(400, f'Serving signature key "{signature}" not found.')
        return {"predictions" if "instances" in request else "outputs": scores}

    def _packed_row(self, row: object, index: int) -> tuple[list[int], list[float]]:
        ids = row.get("ids") if isinstance(row, dict) else None
        dense = row.get("dense") if isinstance(row, dict) else None
        fields, numbers = len(self.model.spec.id_fields), len(self.model.spec.dense_fields)
        if not _is_list(ids, int, fields) or not _is_list(dense, (int, float, type(None)), numbers):
            raise BadInput(f"instance {index} needs 'ids', {fields} integers, and 'dense', {numbers} numbers or nulls")
        if any(abs(value) > _INT32 for value in ids):  # pyright: ignore[reportOptionalIterable]
            raise BadInput(f"instance {index}: an id is outside of 32 bits")
        if any(value is not None and abs(value) > _FLOAT32 for value in dense):  # pyright: ignore[reportOptionalIterable]
            raise BadInput(f"instance {index}: a dense value is outside of 32-bit floating point")
        return ids, [math.nan if value is None else float(value) for value in dense]  # pyright: ignore

    def _score_raw(self, rows: list[dict[str, Any]]) -> list[float]:
        return self.model.from_columns(to_columns(rows, self.model.spec.schema), len(rows)).tolist()

    def _score_packed(self, rows: list[tuple[list[int], list[float]]]) -> list[float]:
        ids = np.array([ids for ids, _ in rows], np.int32)
        dense = np.array([dense for _, dense in rows], np.float32).reshape(len(rows), -1)
        return self.model.from_packed(ids, dense).tolist()

    def _status(self) -> dict[str, Any]:
        ready = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [ready]}

    def _metadata(self) -> dict[str, Any]:
        schema = self.model.spec.schema
        inputs = {
            **{name: {"dtype": "DT_DOUBLE", "tensor_shape": _shape()} for name in schema.number_fields},
            **{name: {"dtype": "DT_STRING", "tensor_shape": _shape()} for name in schema.text_fields},
        }
        outputs = {"probability": {"dtype": "DT_FLOAT", "tensor_shape": _shape()}}
        signature = {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}
        return {
            "model_spec": {"name": self.name, "signature_name": "", "version": "1"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}, "card": self.model.card},
        }


def _rows_of_columns(columns: object) -> list[dict[str, Any]]:
    """The rows of a request in column form. Raises BadInput if its columns are not equally long lists."""
    if not isinstance(columns, dict) or not columns or not all(isinstance(values, list) for values in columns.values()):
        raise BadInput("'inputs' must be an object of lists, one a field")
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1:
        raise BadInput(f"the lists in 'inputs' have different lengths: {sorted(lengths)}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _is_list(value: object, kinds: Any, length: int) -> bool:
    if not isinstance(value, list) or len(value) != length:
        return False
    return all(isinstance(entry, kinds) and not isinstance(entry, bool) for entry in value)


def _shape() -> dict[str, Any]:
    return {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Failure(400, "the client went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _MAX_BODY:
            raise _Failure(413, f"the request is larger than {_MAX_BODY} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def _respond(send: Send, status: int, answer: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
