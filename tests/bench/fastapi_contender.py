"""The same SavedModel behind FastAPI and pydantic as one would write it first: a call of the model a request.

CTR_BENCH_MODEL=SAVED_MODEL uvicorn fastapi_contender:app
"""

import os

import tensorflow as tf
from fastapi import FastAPI
from pydantic import BaseModel, create_model

_loaded = tf.saved_model.load(os.environ["CTR_BENCH_MODEL"])
_score = _loaded.signatures["serving_default"]
_inputs = _score.structured_input_signature[1]
_types = {name: (str | None if spec.dtype == tf.string else float | None, None) for name, spec in _inputs.items()}
Row: type[BaseModel] = create_model("Row", **_types)  # pyright: ignore[reportCallIssue, reportArgumentType]


class Request(BaseModel):
    """Rows, each an object of fields by name."""

    instances: list[Row]  # pyright: ignore[reportInvalidTypeForm]


class Answer(BaseModel):
    """Of each row its probability."""

    predictions: list[float]


app = FastAPI()


@app.post("/predict")
def predict(request: Request) -> Answer:
    """Scores the rows of one request."""
    tensors = {}
    for name, spec in _inputs.items():
        missing = "" if spec.dtype == tf.string else float("nan")
        values = [getattr(row, name) for row in request.instances]
        tensors[name] = tf.constant([missing if value is None else value for value in values], spec.dtype)
    return Answer(predictions=_score(**tensors)["probability"].numpy().tolist())
