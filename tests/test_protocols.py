"""One server, every way to ask it: the same rows get the same scores, and what is wrong is refused in one line."""

import base64
import gzip
import json
import math
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asking import CATEGORIES, NUMBERS, b64, columns, example, fields_of, tensors
from conftest import Project
from servers import Server, serving

from ctr.data import in_order, open_data

import tensorflow as tf  # isort: skip

pytestmark = pytest.mark.processes

ROWS = 50
DEEP = 100_000


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    log = tmp_path_factory.mktemp("protocols") / "log"
    with serving(project.folder, "run", "--deadline-ms", 20000, log=log) as started:
        yield started


@pytest.fixture(scope="module")
def rows(project: Project) -> list[dict[str, Any]]:
    """Rows of the log by field, missing fields left out, the last one without any."""
    lines = (project.folder / "log.tsv").read_text().splitlines()[: ROWS - 1]
    return [*(fields_of(line.split("\t")[1:]) for line in lines), {}]


@pytest.fixture(scope="module")
def expected(server: Server, rows: list[dict[str, Any]]) -> np.ndarray:
    """What the row form says; tests/test_serving.py holds it to `ctr predict`."""
    found = np.array(server.post({"instances": rows}).json()["predictions"])
    assert len(set(np.round(found, 5))) > 30
    return found


@pytest.mark.parametrize("form", ["columns", "examples", "named examples", "example column", "wrapped", "nan"])
def test_every_form_of_predict_gives_the_same_scores(
    server: Server, rows: list[dict[str, Any]], expected: np.ndarray, form: str
) -> None:
    body: Any = {
        "columns": {"inputs": columns(rows)},
        "examples": {"signature_name": "serialize", "instances": [b64(row) for row in rows]},
        "named examples": {"signature_name": "serialize", "instances": [{"examples": b64(row)} for row in rows]},
        "example column": {"signature_name": "serialize", "inputs": {"examples": [b64(row) for row in rows]}},
        "wrapped": {
            "signature_name": "",
            "instances": [
                {n: [v] if n in NUMBERS else {"b64": base64.b64encode(v.encode()).decode()} for n, v in row.items()}
                for row in rows
            ],
        },
        "nan": {"instances": [{**dict.fromkeys(NUMBERS, math.nan), **row} for row in rows]},
    }[form]
    answer = server.post(body)
    assert answer.status_code == 200, answer.text
    found = answer.json()["outputs" if "inputs" in body else "predictions"]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_classify_and_regress_give_the_same_scores(
    server: Server, rows: list[dict[str, Any]], expected: np.ndarray
) -> None:
    regressed = server.post({"examples": rows}, "/v1/models/ctr:regress").json()
    assert list(regressed) == ["results"]
    np.testing.assert_allclose(regressed["results"], expected, atol=1e-6, rtol=0)
    classified = server.post({"examples": rows}, "/v1/models/ctr:classify").json()["results"]
    assert [[label for label, _ in classes] for classes in classified] == [["0", "1"]] * ROWS
    np.testing.assert_allclose([classes[1][1] for classes in classified], expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose([classes[0][1] for classes in classified], 1 - expected, atol=1e-6, rtol=0)


def test_context_is_in_every_example(server: Server, rows: list[dict[str, Any]]) -> None:
    without = [{name: value for name, value in row.items() if name != "C1"} for row in rows]
    whole = server.post({"examples": [{**row, "C1": "68fd1e64"} for row in without]}, "/v1/models/ctr:regress").json()
    split = server.post({"context": {"C1": "68fd1e64"}, "examples": without}, "/v1/models/ctr:regress").json()
    np.testing.assert_allclose(split["results"], whole["results"], atol=1e-6, rtol=0)
    twice = server.post({"context": {"C1": "a"}, "examples": [{}, {"C1": "b"}]}, "/v1/models/ctr:regress")
    assert (twice.status_code, "example 1 has feature 'C1', which 'context' has too" in twice.text) == (400, True)


def test_open_inference_protocol_gives_the_same_scores(
    server: Server, rows: list[dict[str, Any]], expected: np.ndarray
) -> None:
    answer = server.post({"id": "42", "inputs": tensors(rows)}, "/v2/models/ctr/versions/1/infer").json()
    (output,) = answer.pop("outputs")
    assert answer == {"model_name": "ctr", "model_version": "1", "id": "42"}
    assert (output["name"], output["datatype"], output["shape"]) == ("probability", "FP32", [ROWS])
    np.testing.assert_allclose(output["data"], expected, atol=1e-6, rtol=0)


def test_packed_rows_give_the_same_scores_by_every_protocol(server: Server, project: Project) -> None:
    encoded = next(in_order(open_data(project.folder / "data").parts["test"], ROWS))
    ids = encoded.ids.tolist()
    dense = [[None if math.isnan(value) else value for value in row] for row in encoded.dense.tolist()]
    by_row = server.post(
        {"signature_name": "packed", "instances": [{"ids": i, "dense": d} for i, d in zip(ids, dense, strict=True)]}
    ).json()["predictions"]
    by_column = server.post({"signature_name": "packed", "inputs": {"ids": ids, "dense": dense}}).json()["outputs"]
    inputs = [
        {"name": "ids", "shape": [ROWS, 39], "datatype": "INT32", "data": encoded.ids.reshape(-1).tolist()},
        {"name": "dense", "shape": [ROWS, 13], "datatype": "FP32", "data": [value for row in dense for value in row]},
    ]
    by_tensor = server.post({"inputs": inputs}, "/v2/models/ctr/infer").json()["outputs"][0]["data"]
    np.testing.assert_allclose(by_column, by_row, atol=1e-6, rtol=0)
    np.testing.assert_allclose(by_tensor, by_row, atol=1e-6, rtol=0)
    assert len(set(np.round(by_row, 5))) > 30


def test_grpc_gives_the_same_scores(server: Server, rows: list[dict[str, Any]], expected: np.ndarray) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")
    from tensorflow_serving.apis import prediction_service_pb2_grpc
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest  # pyright: ignore
    from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest as Described  # pyright: ignore
    from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap  # pyright: ignore
    from tensorflow_serving.apis.predict_pb2 import PredictRequest  # pyright: ignore
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest  # pyright: ignore

    raw, serialised = PredictRequest(model_spec={"name": "ctr"}), PredictRequest(model_spec={"name": "ctr"})
    for name, values in columns(rows).items():
        missing = math.nan if name in NUMBERS else ""
        filled = [missing if value is None else value for value in values]
        raw.inputs[name].CopyFrom(tf.make_tensor_proto(filled, tf.float64 if name in NUMBERS else tf.string))
    serialised.model_spec.signature_name = "serialize"
    proto = tf.make_tensor_proto([example(row).SerializeToString() for row in rows])
    serialised.inputs["examples"].CopyFrom(proto)
    classify, regress = (kind(model_spec={"name": "ctr"}) for kind in (ClassificationRequest, RegressionRequest))
    classify.input.example_list.examples.extend([example(row) for row in rows])
    # The first field of each row in its example, the others in the context: only of rows that have it all alike.
    regress.input.example_list_with_context.context.CopyFrom(example({"C1": "68fd1e64"}))
    regress.input.example_list_with_context.examples.extend([example({"I1": 3}), example({"I1": 4})])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for request in (raw, serialised):
            found = tf.make_ndarray(stub.Predict(request, timeout=30).outputs["probability"])
            np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
        classes = stub.Classify(classify, timeout=30).result.classifications
        assert [each.label for each in classes[0].classes] == ["0", "1"]
        np.testing.assert_allclose([each.classes[1].score for each in classes], expected, atol=1e-6, rtol=0)
        regressed = [each.value for each in stub.Regress(regress, timeout=30).result.regressions]
        same = server.post({"instances": [{"C1": "68fd1e64", "I1": 3}, {"C1": "68fd1e64", "I1": 4}]}).json()
        np.testing.assert_allclose(regressed, same["predictions"], atol=1e-6, rtol=0)
        asked = Described(model_spec={"name": "ctr"}, metadata_field=["signature_def"])
        described = SignatureDefMap()
        stub.GetModelMetadata(asked, timeout=30).metadata["signature_def"].Unpack(described)
        assert set(described.signature_def["serving_default"].inputs) == {*NUMBERS, *CATEGORIES}
        huge = PredictRequest(model_spec={"name": "ctr"})
        huge.inputs["I1"].dtype = 2
        huge.inputs["I1"].double_val.append(1.0)
        huge.inputs["I1"].tensor_shape.dim.add(size=2**40)
        bad = serialised.__class__(model_spec={"name": "ctr", "signature_name": "serialize"})
        bad.inputs["examples"].CopyFrom(tf.make_tensor_proto([b"no example"]))
        other = PredictRequest(model_spec={"name": "other"})
        for request, code in ((huge, "RESOURCE_EXHAUSTED"), (bad, "INVALID_ARGUMENT"), (other, "NOT_FOUND")):
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(request, timeout=30)
            assert refused.value.code() == getattr(grpc.StatusCode, code)
        with pytest.raises(grpc.RpcError) as late:
            stub.Predict(raw, timeout=0.0001)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def infer(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "I1", "shape": [1], "datatype": "FP64", "data": [1], **changes}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("v1:predict", b"[" * DEEP, 400, "nested too deeply"),
        ("v1:predict", b'{"instances": ' + b"[" * DEEP + b"]" * DEEP + b"}", 400, "nested too deeply"),
        ("v2", b'{"a":' * DEEP, 400, "nested too deeply"),
        ("v1:predict", b'{"instances": [{"I1": NaN, "I2": ' + b"[" * DEEP, 400, "JSON Parse error"),
        ("v1:predict", b'{"instances": [{"I1": Infinity}]}', 400, "JSON Parse error"),
        ("v1:predict", b'{"instances": [{"I1": NaN, "I2": Infinity}]}', 400, "Infinity is no value"),
        ("v1:predict", b'{"instances": [{"C1": "\\ud800", "I1": NaN}]}', 400, "JSON Parse error"),
        ("v1:predict", b'{"instances": [{"C1": "\xff"}]}', 400, "JSON Parse error"),
        ("v1:predict", b"", 400, "JSON Parse error"),
        ("v1:predict", b" " * (16 * 2**20 + 1), 413, "larger than the 16777216 bytes"),
        ("v1:predict", {"instances": [{"C1": "x" * 65537}]}, 400, "field 'C1' has 65537 characters; it may have 65536"),
        ("v1:predict", {"signature_name": 7, "instances": [{}]}, 400, "must be a string value"),
        ("v1:predict", {"signature_name": "serialize", "instances": ["x"]}, 400, "no serialised tf.Example"),
        ("v1:predict", {"signature_name": "serialize", "instances": [{"b64": "%"}]}, 400, "is not base64"),
        ("v1:predict", {"signature_name": "serialize", "instances": [{"b64": "bm9uZQ=="}]}, 400, "cannot be read"),
        ("v1:predict", {"signature_name": "serialize", "instances": [{"b64": "//6B"}]}, 400, "cannot be read"),
        ("v1:classify", {"instances": [{}]}, 400, "key 'examples' is expected"),
        ("v1:classify", {"examples": [{"C33": "x"}]}, 400, "example 0 has unknown field 'C33': did you mean 'C3'?"),
        ("v1:regress", {"examples": [{}], "signature_name": "packed"}, 400, "'packed' takes no examples"),
        ("v1:regress", {"examples": [{}], "signature_name": "x"}, 400, "not found in signature def"),
        ("v2", {}, 400, "needs 'inputs'"),
        ("v2", infer(name="I99"), 400, "unknown input 'I99': did you mean 'I9'?"),
        ("v2", infer(datatype="BYTES"), 400, "input 'I1' has datatype 'BYTES'"),
        ("v2", infer(shape=[2]), 400, "input 'I1' has 1 values, its shape [2] has 2"),
        ("v2", infer(shape=[2**70]), 400, "input 'I1' needs a shape"),
        ("v2", infer(shape=[1, -1]), 400, "needs a shape"),
        ("v2", infer(data=["x"]), 400, "row 0: field 'I1' is 'x', not a number"),
        ("v2", infer(datatype="INT64", data=[1.5]), 400, "values that are no integers"),
        ("v2", {**infer(), "id": 4}, 400, "'id' is int"),
        ("v2", {**infer(), "outputs": [{"name": "x"}]}, 400, "unknown output 'x'"),
        ("v2", {"inputs": infer()["inputs"] * 2}, 400, "input 'I1' is there twice"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(server: Server, path: str, body: Any, status: int, words: str) -> None:
    address = "/v2/models/ctr/infer" if path == "v2" else path.replace("v1:", "/v1/models/ctr:")
    answer = server.post(body, address)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text[:200]
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert server.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/ctr:predict", 405),
        ("DELETE", "/v1/models/ctr", 405),
        ("GET", "/v2/models/ctr/infer", 405),
        ("POST", "/v2/health/ready", 405),
        ("POST", "/v1/models/ctr:guess", 400),
        ("GET", "/v1/models", 400),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/ctr/versions/x", 404),
        ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400),
        ("GET", "/v2/models/..%2f..%2frun/ready", 404),
        ("GET", "/", 404),
    ],
)
def test_addresses_and_methods_that_are_none(server: Server, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, server.url + path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert ("allow" in answer.headers) == (status == 405)


def test_deadline_that_passes_is_504_and_a_wrong_one_400(server: Server) -> None:
    late = server.post({"instances": [{}] * 8000}, x_deadline_ms="1")
    assert (late.status_code, "deadline" in late.json()["error"]) == (504, True)
    assert server.post({"instances": [{}]}, x_deadline_ms="10000").status_code == 200
    for wrong in ("soon", "-1", "0", "nan"):
        assert server.post({"instances": [{}]}, x_deadline_ms=wrong).status_code == 400, wrong


def test_full_queue_is_503_with_a_time_to_come_back(server: Server) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.post({"instances": [{}] * 8000}), range(12)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) < len(answers)
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


def test_body_may_be_packed(server: Server, rows: list[dict[str, Any]], expected: np.ndarray) -> None:
    body = json.dumps({"instances": rows}).encode()
    for encoding in ("gzip", "GZIP", "x-gzip"):
        packed = server.post(gzip.compress(body), content_encoding=encoding)
        np.testing.assert_allclose(packed.json()["predictions"], expected, atol=1e-6, rtol=0)
    for content, encoding, status, words in (
        (gzip.compress(body)[:-20], "gzip", 400, "cut short"),
        (body, "gzip", 400, "is no gzip"),
        (body, "br", 415, "content-encoding 'br' is not known; send gzip, or none"),
        # 16 KB that would be 17 MB.
        (gzip.compress(b" " * (17 * 2**20)), "gzip", 413, "larger than the 16777216 bytes"),
    ):
        refused = server.post(content, content_encoding=encoding)
        assert (refused.status_code, words in refused.json()["error"]) == (status, True), refused.text


def test_error_quotes_no_more_than_can_be_read(server: Server) -> None:
    refused = server.post({"instances": [{"x" * 10**6: 1}]})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("instance 0 has unknown field 'xxxx")
    assert len(refused.content) < 1100


def test_metadata_is_what_the_model_takes(server: Server) -> None:
    described = server.get("/v2/models/ctr").json()
    assert {tensor["name"] for tensor in described["inputs"]} == {*NUMBERS, *CATEGORIES, "ids", "dense"}
    assert described["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]
    assert described["card"]["spec_digest"]
    assert server.get("/v2").json()["name"] == "ctr"
    signatures = server.get("/v1/models/ctr/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "serialize", "packed"} <= set(signatures)
    assert signatures["packed"]["inputs"]["ids"]["tensor_shape"]["dim"][1]["size"] == "39"


def test_openapi_describes_every_address_and_field(server: Server) -> None:
    described = server.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert len(described["paths"]) == 27
    assert set(described["components"]["schemas"]["Row"]["properties"]) == {*NUMBERS, *CATEGORIES}
    text = json.dumps(described)
    references = {part.split('"')[0] for part in text.split('"$ref": "#/components/')[1:]}
    for reference in references:
        kind, name = reference.split("/")
        assert name in described["components"][kind], reference
    for path, methods in described["paths"].items():
        if "get" in methods and "{" not in path:
            assert str(server.get(path).status_code) in methods["get"]["responses"], path


def test_grpc_without_its_packages_is_a_one_line_error(project: Project, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow_serving'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    refused = project.ctr("serve", "run", "--grpc-port", 8500, env={"PYTHONPATH": path})
    assert refused.code == 2
    assert "--grpc-port needs tensorflow_serving, not installed here; pip install 'ctr[grpc]'" in refused.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "stable"], "--label 'stable' is not NAME=VERSION"),
        (["--token", " "], "--token is empty"),
        (["--access-log", "log.tsv/log"], "--access-log log.tsv/log cannot be written"),
    ],
)
def test_wrong_options_are_one_line_errors(project: Project, options: list[str], words: str) -> None:
    refused = project.ctr("serve", "run", *options)
    assert refused.code == 2
    assert words in refused.error
