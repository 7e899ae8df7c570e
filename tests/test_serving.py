"""The SavedModel and its server: one probability, whichever way a row comes in."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from conftest import Project, Start
from servers import wait_until_up

from ctr.cluster import free_ports
from ctr.data import in_order, open_data
from serving.card import read_card
from serving.model import ServedModel

import tensorflow as tf  # isort: skip

pytestmark = pytest.mark.processes

NUMBERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
ROWS = 1000


@pytest.fixture(scope="module")
def lines(project: Project) -> list[list[str]]:
    """1,000 raw rows as fields: from the log, some with fields emptied, some with values never seen."""
    rows = [line.split("\t")[1:] for line in (project.folder / "log.tsv").read_text().splitlines()[:ROWS]]
    for index in range(0, ROWS, 7):
        rows[index][index % 39] = ""
    for index in range(0, ROWS, 11):
        rows[index][13 + index % 26] = f"never-seen-{index}-ü"
    rows[5] = [""] * 39
    return rows


@pytest.fixture(scope="module")
def offline(project: Project, lines: list[list[str]]) -> np.ndarray:
    """What `ctr predict` says of them."""
    path = project.folder / "raw.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in lines))
    done = project.ctr("predict", "run", "raw.tsv", "--out", "raw.parquet", "--json").result
    assert done["rows"] == ROWS
    scores = pl.read_parquet(project.folder / "raw.parquet")
    assert scores["row"].to_list() == list(range(ROWS))
    return scores["probability"].to_numpy()


def instance(row: list[str]) -> dict[str, Any]:
    """A row as a client sends it: empty fields are left out."""
    values = zip([*NUMBERS, *CATEGORIES], row, strict=True)
    return {name: int(value) if name in NUMBERS else value for name, value in values if value}


@pytest.fixture(scope="module")
def url(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on loopback, and gRPC beside it."""
    port, grpc_port = free_ports(2)
    command = [sys.executable, "-m", "ctr", "serve", "run", "--port", str(port), "--grpc-port", str(grpc_port)]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    server = subprocess.Popen(command, cwd=project.folder, stderr=log)
    wait_until_up(server, f"http://127.0.0.1:{port}/v1/models/ctr")
    yield f"http://127.0.0.1:{port}", grpc_port
    server.terminate()
    assert server.wait(20) == 0


def post(url: str, body: Any, path: str = "/v1/models/ctr:predict") -> httpx.Response:
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return httpx.post(url + path, content=content, timeout=30)


def test_server_row_form_agrees_with_predict(url: Any, lines: list[list[str]], offline: np.ndarray) -> None:
    found: list[float] = []
    for first in range(0, ROWS, 250):
        answer = post(url[0], {"instances": [instance(row) for row in lines[first : first + 250]]})
        assert answer.status_code == 200, answer.text
        found += answer.json()["predictions"]
    np.testing.assert_allclose(found, offline, atol=1e-6, rtol=0)
    assert len(set(np.round(found, 6))) > 500


def test_server_column_form_with_nulls_agrees_with_predict(url: Any, lines: list[list[str]], offline: Any) -> None:
    rows = [instance(row) for row in lines]
    columns = {name: [row.get(name) for row in rows] for name in [*NUMBERS, *CATEGORIES]}
    answer = post(url[0], {"inputs": columns, "signature_name": "serving_default"})
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["outputs"], offline, atol=1e-6, rtol=0)


def test_one_row_and_a_row_without_any_field(url: Any, lines: list[list[str]], offline: np.ndarray) -> None:
    one = post(url[0], {"instances": [instance(lines[17])]}).json()["predictions"]
    assert one == pytest.approx([offline[17]], abs=1e-6)
    assert lines[5] == [""] * 39
    assert post(url[0], {"instances": [{}]}).json()["predictions"] == pytest.approx([offline[5]], abs=1e-6)


def test_packed_rows_agree_with_the_trained_model_on_the_shards(url: Any, project: Project) -> None:
    data = open_data(project.folder / "data")
    rows = next(in_order(data.parts["test"], 200))
    dense = [[None if math.isnan(value) else value for value in row] for row in rows.dense.tolist()]
    packed = [{"ids": ids, "dense": numbers} for ids, numbers in zip(rows.ids.tolist(), dense, strict=True)]
    answer = post(url[0], {"signature_name": "packed", "instances": packed})
    assert answer.status_code == 200, answer.text
    model = ServedModel(project.folder / "run" / f"group-{project.trained['served_group']}" / "model")
    np.testing.assert_allclose(answer.json()["predictions"], model.from_packed(rows.ids, rows.dense), atol=1e-6, rtol=0)


def test_trained_weights_on_shards_raw_log_and_savedmodel_agree(project: Project) -> None:
    """The Keras model restored from its checkpoint, on encoded shards, against `ctr predict` on the raw log."""
    import ctr  # noqa: F401 - sets TensorFlow to Keras 2
    from ctr.model import WideAndDeep

    data = open_data(project.folder / "data")
    model = WideAndDeep(
        sizes=data.spec.sizes, cross_count=0, dense_count=13, embedding_dim=4, hidden=[16, 8], click_rate=0.5
    )
    group = project.trained["served_group"]
    checkpoint = tf.train.latest_checkpoint(str(project.folder / "run" / f"group-{group}" / "checkpoint"))
    tf.train.Checkpoint(served=model).restore(checkpoint).expect_partial()
    project.ctr("predict", "run", "log.tsv", "--out", "all.parquet", "--json").result
    scores = pl.read_parquet(project.folder / "all.parquet")["probability"].to_numpy()
    compared = 0
    for part in data.parts.values():
        for rows in in_order(part, 500):
            logits = model({"ids": tf.constant(rows.ids), "dense": tf.constant(rows.dense)})
            np.testing.assert_allclose(tf.sigmoid(logits).numpy()[:, 0], scores[rows.row], atol=1e-6, rtol=0)
            compared += len(rows.row)
    assert compared == 4000


def test_examples_agree_with_predict(project: Project, lines: list[list[str]], offline: np.ndarray) -> None:
    def example(row: list[str]) -> bytes:
        feature = {}
        for name, value in instance(row).items():
            if name in NUMBERS:
                feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            else:
                feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    model = ServedModel(project.folder / "run" / f"group-{project.trained['served_group']}" / "model")
    found = model.from_examples([example(row) for row in lines])
    np.testing.assert_allclose(found, offline, atol=1e-6, rtol=0)


def test_grpc_agrees_with_predict(url: Any, lines: list[list[str]], offline: np.ndarray) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest  # pyright: ignore
    from tensorflow_serving.apis.predict_pb2 import PredictRequest  # pyright: ignore

    rows = [instance(row) for row in lines]
    request = PredictRequest()
    request.model_spec.name = "ctr"
    for name in NUMBERS:
        values = [float(row.get(name, math.nan)) for row in rows]
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, tf.float64))
    for name in CATEGORIES:
        request.inputs[name].CopyFrom(tf.make_tensor_proto([row.get(name, "") for row in rows]))
    with grpc.insecure_channel(f"127.0.0.1:{url[1]}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        found = tf.make_ndarray(stub.Predict(request, timeout=30).outputs["probability"])
        np.testing.assert_allclose(found, offline, atol=1e-6, rtol=0)
        status_request = GetModelStatusRequest()
        status_request.model_spec.name = "ctr"
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status_request, timeout=30)
        assert [(each.version, each.state) for each in status.model_version_status] == [(1, 30)]
        request.inputs["I99"].CopyFrom(tf.make_tensor_proto([1.0]))
        with pytest.raises(grpc.RpcError, match="unknown input 'I99'"):
            stub.Predict(request, timeout=30)


def test_status_and_metadata_are_tensorflow_servings(url: Any) -> None:
    status = httpx.get(f"{url[0]}/v1/models/ctr").json()
    ok = {"error_code": "OK", "error_message": ""}
    assert status == {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": ok}]}
    metadata = httpx.get(f"{url[0]}/v1/models/ctr/metadata").json()
    inputs = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert set(inputs) == {*NUMBERS, *CATEGORIES}
    assert inputs["I1"]["dtype"] == "DT_DOUBLE"
    assert inputs["C1"]["dtype"] == "DT_STRING"


def packed(ids: int = 0, dense: float = 0.0) -> dict[str, Any]:
    return {"signature_name": "packed", "instances": [{"ids": [ids] * 39, "dense": [dense] * 13}]}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "JSON Parse error"),
        ([1], 400, "no JSON object"),
        ({}, 400, "either 'instances' (rows) or 'inputs' (columns)"),
        ({"instances": []}, 400, "at least one row"),
        ({"instances": [3]}, 400, "instance 0 is int, not an object"),
        ({"instances": [{"C33": "x"}]}, 400, "unknown field 'C33': did you mean 'C3'?"),
        ({"instances": [{}, {"I1": "seven"}]}, 400, "instance 1: field 'I1' is 'seven', not a number"),
        ({"instances": [{"C1": 7}]}, 400, "field 'C1' is 7, not a string"),
        ({"inputs": {"I1": [1, 2], "C1": ["a"]}}, 400, "different lengths: [1, 2]"),
        ({"instances": [{}], "signature_name": "nope"}, 400, 'name: "nope" not found in signature def'),
        ({"instances": [{"ids": [1], "dense": []}], "signature_name": "packed"}, 400, "'ids', 39 integers"),
        (packed(ids=2**31), 400, "an id is outside of 32 bits"),
        (packed(dense=1e39), 400, "a dense value is outside of 32-bit floating point"),
        (b'{"instances": [{"I1": 1' + b"0" * 400 + b"}]}", 400, "field 'I1' is larger than any floating-point number"),
        ({"instances": [{"c1": "x"}]}, 400, "did you mean 'C1'?"),
        ({"instances": [{}] * 8193}, 413, "8193 rows are more than the 8192"),
    ],
)
def test_bad_requests_get_an_error_body(url: Any, body: Any, status: int, words: str) -> None:
    answer = post(url[0], body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/other:predict", 404),
        ("/v1/models/ctr/versions/9:predict", 404),
        ("/v1/models/ctr/versions/1:predict", 200),
        ("/v1/models/../../etc/passwd", 404),
        ("/nothing", 404),
    ],
)
def test_paths(url: Any, path: str, status: int) -> None:
    assert post(url[0], {"instances": [{}]}, path).status_code == status


def test_requests_at_the_same_time_each_get_their_own_answers(url: Any, lines: list[list[str]], offline: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def ask(first: int) -> list[float]:
        return post(url[0], {"instances": [instance(row) for row in lines[first : first + 10]]}).json()["predictions"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(0, ROWS, 10)))
    np.testing.assert_allclose(np.concatenate(answers), offline, atol=1e-6, rtol=0)


def test_port_in_use_is_a_one_line_error(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = project.ctr("serve", "run", "--port", taken.getsockname()[1])
    assert refused.code == 2
    assert "Address already in use; choose another port" in refused.error


def test_several_processes_share_the_port_and_stop_together(project: Project, in_background: Start) -> None:
    (port,) = free_ports(1)
    server = in_background("serve", "run", "--port", port, "--workers", 2, cwd=project.folder)
    wait_until_up(server, f"http://127.0.0.1:{port}/v1/models/ctr")
    for _ in range(20):
        assert post(f"http://127.0.0.1:{port}", {"instances": [{}]}).status_code == 200
    server.terminate()
    assert server.wait(30) in (0, -15)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/v1/models/ctr")


def test_export_loads_where_there_is_neither_keras_nor_this_project(project: Project, offline: np.ndarray) -> None:
    made = project.ctr("export", "run", "--out", "exported", "--json").result
    assert sorted(made["signatures"]) == ["packed", "serialize", "serving_default"]
    script = """
import sys, json
import tensorflow as tf
model = tf.saved_model.load("exported")
lines = [line.rstrip("\\n").split("\\t") for line in open("raw.tsv", encoding="utf-8")]
names = [f"I{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 27)]
columns = list(zip(*lines))
inputs = {}
for name, values in zip(names, columns):
    if name[0] == "I":
        inputs[name] = tf.constant([float(v) if v else float("nan") for v in values], tf.float64)
    else:
        inputs[name] = tf.constant(values)
scores = model.signatures["serving_default"](**inputs)["probability"].numpy().tolist()
unwanted = ("tf_keras", "ctr", "features", "serving", "tensorflow_recommenders")
forbidden = [module for module in sys.modules if module.split(".")[0] in unwanted]
print(json.dumps({"scores": scores, "forbidden": forbidden}))
"""
    # -I: the working folder does not add to what can be imported. TF_USE_LEGACY_KERAS, which this process has set for
    # training, would make TensorFlow import tf_keras by itself.
    clean = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=project.folder, env=clean, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["forbidden"] == []
    np.testing.assert_allclose(found["scores"], offline, atol=1e-6, rtol=0)


def test_card_says_what_the_model_is(project: Project) -> None:
    data = open_data(project.folder / "data")
    card = read_card(project.folder / "run" / "group-0" / "model")
    assert card["spec_digest"] == data.spec.digest
    assert card["data_digest"] == data.digest
    assert card["run_id"] == project.trained["members"][0]["run_id"]
    assert card["metrics"]["validation"]["log_loss"] == project.trained["members"][0]["log_loss"]


def test_export_leaves_an_existing_folder_alone(project: Project, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    refused = project.ctr("export", "run", "--out", tmp_path)
    assert refused.code == 2
    assert "exists already" in refused.error
    assert (tmp_path / "precious").read_text() == "mine"
