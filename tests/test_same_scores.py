"""The same 1,000 rows get the same scores, whichever way they are asked: generated ones, and real ones if there are."""

import gzip
import math
import os
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from asking import NUMBERS, b64, columns, example, fields_of, tensors
from conftest import CTR, run_ctr, tiny
from numpy.typing import NDArray
from servers import Server, serving, wait_until_up

from ctr.cluster import free_ports
from ctr.runs import find_model
from features.encode import encode_dense, encode_ids
from features.sources import open_sources, read_batches
from serving.card import read_spec

import tensorflow as tf  # isort: skip

pytestmark = pytest.mark.processes

ROWS = 1000


@dataclass(frozen=True)
class Line:
    """A promoted run in a folder of its own, and unlabelled rows that it has never seen, as a log and by field."""

    folder: Path
    rows: list[dict[str, Any]]
    ids: NDArray[np.int32]
    dense: NDArray[np.float32]
    scores: NDArray[np.float64]


@pytest.fixture(scope="module", params=["generated", pytest.param("real", marks=pytest.mark.real_data)])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder: Path = tmp_path_factory.mktemp("line")
    if request.param == "real":
        shared: Path = request.getfixturevalue("shared_data")
        labelled = shared / "criteo_dev.tsv"
        with gzip.open(shared / "criteo_unlabelled.tsv.gz", "rt") as file:
            lines = [next(file) for _ in range(ROWS)]
    else:
        labelled = folder / "log.tsv"
        run_ctr("synth", "--rows", 6000, "--seed", 5, "--out", labelled, "--json", cwd=folder).result
        run_ctr("synth", "--rows", ROWS, "--seed", 6, "--out", "more.tsv", "--json", cwd=folder).result
        lines = [each.split("\t", 1)[1] for each in (folder / "more.tsv").read_text().splitlines(keepends=True)]
    (folder / "asked.tsv").write_text("".join(lines))
    run_ctr("prepare", labelled, "--out", "data", "--set", "features.buckets=4096", "--json", cwd=folder).result
    run_ctr("train", "data", "--out", "run", *tiny(), "--json", cwd=folder).result
    run_ctr("promote", "run", "--json", cwd=folder).result
    run_ctr("predict", "models:/ctr@champion", "asked.tsv", "--out", "scores.parquet", "--json", cwd=folder).result
    scores = pl.read_parquet(folder / "scores.parquet")["probability"].to_numpy()
    assert len(set(np.round(scores, 5))) > ROWS / 10
    spec = read_spec(find_model(str(folder / "run")))
    frame = pl.concat(
        batch.frame for batch in read_batches(open_sources([str(folder / "asked.tsv")], spec.schema), spec.schema)
    )
    rows = [fields_of(each.rstrip("\n").split("\t")) for each in lines]
    return Line(folder, rows, encode_ids(frame, spec), encode_dense(frame, spec), scores)


@pytest.fixture(scope="module")
def server(line: Line) -> Generator[Server]:
    with serving(line.folder, "models:/ctr@champion", log=line.folder / "log") as started:
        yield started


def same(found: Any, line: Line) -> None:
    np.testing.assert_allclose(np.reshape(found, ROWS), line.scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["rows", "columns", "examples", "packed rows", "packed columns"])
def test_rest(server: Server, line: Line, form: str) -> None:
    dense = [[None if math.isnan(value) else value for value in row] for row in line.dense.tolist()]
    ids = line.ids.tolist()
    packed = [{"ids": one, "dense": other} for one, other in zip(ids, dense, strict=True)]
    body: Any = {
        "rows": {"instances": line.rows},
        "columns": {"inputs": columns(line.rows)},
        "examples": {"signature_name": "serialize", "instances": [b64(row) for row in line.rows]},
        "packed rows": {"signature_name": "packed", "instances": packed},
        "packed columns": {"signature_name": "packed", "inputs": {"ids": ids, "dense": dense}},
    }[form]
    answer = server.post(body)
    assert answer.status_code == 200, answer.text
    same(answer.json()["outputs" if "inputs" in body else "predictions"], line)


def test_open_inference_protocol(server: Server, line: Line) -> None:
    dense = [None if math.isnan(value) else value for value in line.dense.reshape(-1).tolist()]
    packed = [
        {"name": "ids", "shape": [*line.ids.shape], "datatype": "INT32", "data": line.ids.reshape(-1).tolist()},
        {"name": "dense", "shape": [*line.dense.shape], "datatype": "FP32", "data": dense},
    ]
    for inputs in (tensors(line.rows), packed):
        answer = server.post({"inputs": inputs}, "/v2/models/ctr/infer")
        assert answer.status_code == 200, answer.text
        same(answer.json()["outputs"][0]["data"], line)


def test_grpc(server: Server, line: Line) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")
    from tensorflow_serving.apis import prediction_service_pb2_grpc
    from tensorflow_serving.apis.predict_pb2 import PredictRequest  # pyright: ignore

    def request(signature: str, **inputs: Any) -> Any:
        made = PredictRequest(model_spec={"name": "ctr", "signature_name": signature})
        for name, values in inputs.items():
            made.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        return made

    raw = {
        name: np.array([math.nan if value is None else value for value in values], np.float64)
        if name in NUMBERS
        else ["" if value is None else value for value in values]
        for name, values in columns(line.rows).items()
    }
    examples = [example(row).SerializeToString() for row in line.rows]
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for asked in (
            request("", **raw),
            request("serialize", examples=examples),
            request("packed", ids=line.ids, dense=line.dense),
        ):
            same(tf.make_ndarray(stub.Predict(asked, timeout=30).outputs["probability"]), line)


def test_mlflow_models_serve(line: Line, in_background: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{line.folder}/mlflow.db")
    # It looks for uvicorn and its like on the path.
    monkeypatch.setenv("PATH", f"{CTR.parent}:{os.environ['PATH']}")
    words = ["-m", "mlflow", "models", "serve", "-m", "models:/ctr@champion", "--env-manager", "local"]
    process = in_background(*words, "-h", "127.0.0.1", "-p", port, cwd=line.folder, program=Path(sys.executable))
    wait_until_up(process, f"http://127.0.0.1:{port}/ping")
    found: list[float] = []
    # Ten at a time: fields that none of them has are not in the frame at all.
    for first in range(0, ROWS, 10):
        asked = {"dataframe_records": line.rows[first : first + 10]}
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        found += [row["probability"] for row in answer.json()["predictions"]]
    same(found, line)
