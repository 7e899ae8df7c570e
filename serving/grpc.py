"""TensorFlow Serving's gRPC PredictionService and ModelService (the optional extra `grpc`)."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse  # pyright: ignore
from tensorflow_serving.apis.predict_pb2 import PredictResponse  # pyright: ignore

from features.errors import BadInput, did_you_mean
from serving.model import ServedModel

_STATE_AVAILABLE = 30
_THREADS = 2


def start_grpc(model: ServedModel, name: str, address: str) -> Any:
    """Starts a gRPC server on `address` in the background and returns it. Raises BadInput if the port is in use."""
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(model, name), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(name), server)
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise BadInput(f"cannot listen on {address} for gRPC; choose another --grpc-port") from None
    server.start()
    return server


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: ServedModel, name: str):
        self.model, self.name = model, name
        self.lock = threading.Lock()

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's own name
        signature = request.model_spec.signature_name or "serving_default"
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
        if signature not in self.model.signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature key "{signature}" not found.')
        try:
            inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
            scores = self._score(signature, inputs)
        except (BadInput, ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            return context.abort(grpc.StatusCode.INVALID_ARGUMENT, " ".join(str(error).split()))
        answer = PredictResponse()
        answer.model_spec.name, answer.model_spec.signature_name = self.name, signature
        answer.model_spec.version.value = 1
        answer.outputs["probability"].CopyFrom(tf.make_tensor_proto(scores))
        return answer

    def _score(self, signature: str, inputs: Mapping[str, Any]) -> Any:
        known = [*self.model.number_fields, *self.model.text_fields]
        wanted = {"serialize": ["examples"], "packed": ["ids", "dense"]}.get(signature, known)
        for name in inputs:
            if name not in wanted:
                raise BadInput(f"unknown input '{name}': {did_you_mean(name, wanted)}")
        if not inputs:
            raise BadInput(f"the request has no inputs; {signature} takes {', '.join(wanted)}")
        with self.lock:
            if signature == "serving_default":
                lengths = {len(np.atleast_1d(values)) for values in inputs.values()}
                if len(lengths) != 1:
                    raise BadInput(f"the inputs have different lengths: {sorted(lengths)}")
                return self.model.from_columns({k: np.reshape(v, -1) for k, v in inputs.items()}, lengths.pop())
            missing = [name for name in wanted if name not in inputs]
            if missing:
                raise BadInput(f"input '{missing[0]}' is missing")
            if signature == "packed":
                return self.model.from_packed(inputs["ids"], inputs["dense"])
            return self.model.from_examples(np.reshape(inputs["examples"], -1).tolist())


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, name: str):
        self.name = name

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's own name
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        answer = GetModelStatusResponse()
        answer.model_version_status.add(version=1, state=_STATE_AVAILABLE)
        return answer
