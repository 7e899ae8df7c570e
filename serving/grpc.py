"""TensorFlow Serving's gRPC PredictionService and ModelService (the optional extra `grpc`)."""

# What protobuf generates has no names for a type checker.
# pyright: reportAttributeAccessIssue=false

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from features.errors import BadInput, did_you_mean
from serving.auth import check_token
from serving.engine import Engine
from serving.hooks import Call
from serving.limits import MAX_BODY, MAX_ROWS
from serving.loading import Loaded
from serving.refusal import MAX_SAID, Refused
from serving.request_ids import HEADER, request_id
from serving.rows import EXAMPLES, PACKED, RAW, Inputs, examples_of, known_in, packed_of_arrays, raw_of_columns

_OUTPUT = "probability"
_SIGNATURES = "signature_def"
# gRPC's names for HTTP's status.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


async def start_grpc(engine: Engine, address: str, token: str | None) -> Any:
    """A gRPC server in the running event loop that answers on `address`; several processes may share it.

    Raises BadInput if the port is in use.
    """
    import grpc
    from tensorflow_serving.apis import classification_pb2 as classification
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata
    from tensorflow_serving.apis import get_model_status_pb2 as status
    from tensorflow_serving.apis import predict_pb2 as predict
    from tensorflow_serving.apis import regression_pb2 as regression

    def method(kind: str, do: Callable[[Any, Call], Awaitable[Any]], request: Any, response: Any) -> Any:
        async def answer(asked: Any, context: Any) -> Any:
            return await _answered(engine, token, kind, do, asked, context)

        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, response.SerializeToString)

    service = _Service(engine)
    prediction: dict[str, tuple[Any, Any, Any]] = {
        "Predict": (service.predict, predict.PredictRequest, predict.PredictResponse),
        "Classify": (service.classify, classification.ClassificationRequest, classification.ClassificationResponse),
        "Regress": (service.regress, regression.RegressionRequest, regression.RegressionResponse),
        "GetModelMetadata": (service.metadata, metadata.GetModelMetadataRequest, metadata.GetModelMetadataResponse),
    }
    model = {"GetModelStatus": (service.status, status.GetModelStatusRequest, status.GetModelStatusResponse)}
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1), ("grpc.max_receive_message_length", MAX_BODY)])
    for name, methods in (("PredictionService", prediction), ("ModelService", model)):
        handlers = {called: method(called, *what) for called, what in methods.items()}
        made = grpc.method_handlers_generic_handler(f"tensorflow.serving.{name}", handlers)
        server.add_generic_rpc_handlers((made,))
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise BadInput(f"cannot listen on {address} for gRPC; choose another --grpc-port") from None
    await server.start()
    return server


async def _answered(
    engine: Engine, token: str | None, kind: str, do: Callable[[Any, Call], Awaitable[Any]], asked: Any, context: Any
) -> Any:
    """Answers one request: the token, the deadline, errors by their code, and who wants to know of it."""
    import grpc

    sent = context.invocation_metadata() or ()
    name = request_id([(key.encode(), value) for key, value in sent])
    call = Call(asyncio.get_running_loop().time(), f"grpc:{kind}", name)
    context.set_trailing_metadata(((HEADER.decode(), call.id),))
    status, text = 200, ""
    try:
        given = dict(sent).get("authorization", "")
        check_token(given.encode() if isinstance(given, str) else given, token)
        left = context.time_remaining()
        call.expires = call.began + (engine.deadline if left is None else min(left, engine.deadline))
        return await do(asked, call)
    except Refused as refused:
        status, text = refused.status, str(refused)
    except (BadInput, ValueError, TypeError) as error:
        status, text = 400, " ".join(str(error).split())
    except asyncio.CancelledError:  # by its client, or because its time is over there
        status = 499
        raise
    except Exception as error:  # whatever it is, the client is told
        logging.getLogger("ctr").exception("a request failed")
        status, text = 500, f"{type(error).__name__}: {error}"
    finally:
        engine.finish(call, status)
    return await context.abort(getattr(grpc.StatusCode, _CODES[status]), text[:MAX_SAID])


class _Service:
    """The methods of both services, without gRPC."""

    def __init__(self, engine: Engine):
        self._engine = engine

    async def predict(self, request: Any, call: Call) -> Any:
        from tensorflow.core.framework.types_pb2 import DT_FLOAT
        from tensorflow_serving.apis.predict_pb2 import PredictResponse

        if unknown := [name for name in request.output_filter if name != _OUTPUT]:
            raise BadInput(f"output tensor alias not found in signature: {unknown[0]}; the model has {_OUTPUT}")
        with self._using(request.model_spec) as version:
            signature = request.model_spec.signature_name or RAW
            inputs = _inputs(signature, request.inputs, version.loaded)
            scores = await self._engine.score(version, inputs, call)
            answer = PredictResponse()
            self._say_which(answer.model_spec, version, signature)
            # As numbers, as TensorFlow Serving has them, and not as bytes: many clients read `float_val`.
            output = answer.outputs[_OUTPUT]
            output.dtype = DT_FLOAT
            output.tensor_shape.dim.add(size=len(scores))
            output.float_val.extend(scores)
            return answer

    async def classify(self, request: Any, call: Call) -> Any:
        from tensorflow_serving.apis.classification_pb2 import ClassificationResponse

        answer = ClassificationResponse()
        for score in await self._score_examples(request, call, answer.model_spec):
            classes = answer.result.classifications.add().classes
            classes.add(label="0", score=1 - score)
            classes.add(label="1", score=score)
        return answer

    async def regress(self, request: Any, call: Call) -> Any:
        from tensorflow_serving.apis.regression_pb2 import RegressionResponse

        answer = RegressionResponse()
        for score in await self._score_examples(request, call, answer.model_spec):
            answer.result.regressions.add(value=score)
        return answer

    async def metadata(self, request: Any, call: Call) -> Any:
        from tensorflow_serving.apis.get_model_metadata_pb2 import (
            GetModelMetadataResponse,
            SignatureDefMap,
        )

        if not request.metadata_field:
            raise BadInput("GetModelMetadataRequest must specify at least one metadata_field")
        if unknown := [field for field in request.metadata_field if field != _SIGNATURES]:
            raise BadInput(f"Metadata field {unknown[0]} is not supported; {_SIGNATURES} is")
        with self._using(request.model_spec) as version:
            answer = GetModelMetadataResponse()
            self._say_which(answer.model_spec, version, "")
            answer.metadata[_SIGNATURES].Pack(SignatureDefMap(signature_def=version.loaded.signature_defs))
            return answer

    async def status(self, request: Any, call: Call) -> Any:
        from tensorflow_serving.apis.get_model_status_pb2 import (
            GetModelStatusResponse,
            ModelVersionStatus,
        )

        from serving.loading import Code

        versions, spec = self._engine.versions, request.model_spec
        if spec.name != versions.name:
            raise Refused(404, f"Could not find any versions of model {spec.name}")
        number, label = _target(spec)
        answer = GetModelStatusResponse()
        for version in versions.states(versions.number_of(label) if label is not None else number):
            added = answer.model_version_status.add()
            added.version, added.state = version.number, ModelVersionStatus.State.Value(version.state)
            added.status.error_code = Code.Value(version.error_code)
            added.status.error_message = version.error_message
        return answer

    async def _score_examples(self, request: Any, call: Call, which: Any) -> list[float]:
        signature = request.model_spec.signature_name or RAW
        if signature not in (RAW, EXAMPLES):
            raise BadInput(f"signature '{signature}' takes no examples; leave it out")
        with self._using(request.model_spec) as version:
            self._say_which(which, version, signature)
            return await self._engine.score(version, examples_of(_serialised(request.input), "example"), call)

    def _using(self, spec: Any) -> Any:
        number, label = _target(spec)
        if spec.name != self._engine.versions.name:
            what = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise Refused(404, f"Servable not found for request: {what}")
        return self._engine.versions.using(number, label)

    def _say_which(self, spec: Any, version: Any, signature: str) -> None:
        spec.name, spec.signature_name, spec.version.value = self._engine.versions.name, signature, version.number


def _target(spec: Any) -> tuple[int | None, str | None]:
    chosen = spec.WhichOneof("version_choice")
    number = spec.version.value if chosen == "version" else None
    return number, spec.version_label if chosen == "version_label" else None


def _serialised(given: Any) -> list[bytes]:
    """The tf.Examples of a request, with what its context has in each."""
    if given.WhichOneof("kind") != "example_list_with_context":
        return [example.SerializeToString() for example in given.example_list.examples]
    found: list[bytes] = []
    for example in given.example_list_with_context.examples:
        both = type(example)()
        both.CopyFrom(given.example_list_with_context.context)
        both.MergeFrom(example)
        found.append(both.SerializeToString())
    return found


def _inputs(signature: str, tensors: Any, loaded: Loaded) -> Inputs:
    """The rows of a Predict request. Raises BadInput or Refused for what cannot be scored."""
    import tensorflow as tf

    spec = loaded.model.spec
    wanted = {EXAMPLES: ["examples"], PACKED: ["ids", "dense"], RAW: known_in(spec.schema)}.get(signature)
    if wanted is None:
        raise BadInput(f'Serving signature key "{signature}" not found.')
    if not tensors:
        raise BadInput(f"the request has no inputs; {signature} takes {', '.join(wanted)}")
    arrays: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name not in wanted:
            raise BadInput(f"unknown input '{name}': {did_you_mean(name, wanted)}")
        # One value may stand for a tensor of any size, so that this is asked before it is made.
        if math.prod(size.size for size in tensor.tensor_shape.dim) > MAX_ROWS * max(len(wanted), len(spec.id_fields)):
            raise Refused(413, f"input '{name}' has more than the {MAX_ROWS} rows that a request may have")
        arrays[name] = tf.make_ndarray(tensor)
    if signature != RAW and (missing := [name for name in wanted if name not in arrays]):
        raise BadInput(f"input '{missing[0]}' is missing")
    if signature == PACKED:
        return packed_of_arrays(arrays["ids"], arrays["dense"], spec)
    for name, array in arrays.items():
        if math.prod(array.shape[1:]) != 1:
            raise BadInput(f"input '{name}' has shape {list(array.shape)}; it takes [rows] or [rows, 1]")
    columns = {name: array.reshape(-1).tolist() for name, array in arrays.items()}
    return examples_of(columns["examples"]) if signature == EXAMPLES else raw_of_columns(columns, spec.schema, "row")
