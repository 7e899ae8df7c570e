"""Whatever is sent, the server answers in its own words, goes on, and keeps no more memory."""

import asyncio
import json
import math
import resource
import socket
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from asking import b64, columns, fields_of, tensors
from conftest import Project
from damage import damaged
from servers import Server, serving
from tensorflow_serving.apis.model_pb2 import ModelSpec  # pyright: ignore
from tensorflow_serving.apis.predict_pb2 import PredictRequest  # pyright: ignore
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from uvicorn.server import ServerState

from ctr.data import in_order, open_data
from features.errors import BadInput
from features.memory import family_rss_mb
from serving.access_log import access_log
from serving.hooks import Call
from serving.limits import read_body
from serving.ports import check_free, with_port
from serving.protocol import HttpProtocol
from serving.refusal import Refused

import tensorflow as tf  # isort: skip

pytestmark = pytest.mark.processes

REQUESTS = 10_000
# Of each address of POST, against its description and by it; with 150 it takes 90 seconds, and found no more.
EXAMPLES = 15
# What the interface has for requests that are wrong.
REFUSALS = {400, 404, 405, 413}


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with serving(project.folder, "run", log=tmp_path_factory.mktemp("malformed") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def bodies(project: Project) -> list[Any]:
    """A valid request of three rows in each form."""
    lines = (project.folder / "log.tsv").read_text().splitlines()[:3]
    rows = [fields_of(line.split("\t")[1:]) for line in lines]
    encoded = next(in_order(open_data(project.folder / "data").parts["test"], 3))
    ids = encoded.ids.tolist()
    dense = [[None if math.isnan(value) else value for value in row] for row in encoded.dense.tolist()]
    packed = [{"ids": one, "dense": other} for one, other in zip(ids, dense, strict=True)]
    return [
        {"instances": rows},
        {"signature_name": "serving_default", "inputs": columns(rows)},
        {"signature_name": "serialize", "instances": [b64(row) for row in rows]},
        {"signature_name": "packed", "instances": packed},
        {"signature_name": "packed", "inputs": {"ids": ids, "dense": dense}},
        {"examples": rows, "context": {}},
        {"id": "1", "inputs": tensors(rows)},
    ]


def test_ten_thousand_wrong_requests_are_refused_and_harm_nobody(server: Server, bodies: list[Any]) -> None:
    answers: Counter[int] = Counter()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        before = client.post("/v1/models/ctr:predict", json=bodies[0]).json()
        memory: list[float] = []
        for number, (method, address, content) in enumerate(damaged(bodies, REQUESTS, seed=1)):
            answer = client.request(method, address, content=content)
            answers[answer.status_code] += 1
            shown = (method, address, content[:300], answer.status_code, answer.text[:300])
            assert answer.status_code in {200, *REFUSALS}, shown
            if answer.status_code != 200 and method != "HEAD":
                assert list(answer.json()) == ["error"], shown
                assert "\n" not in answer.json()["error"], shown
            if number % (REQUESTS // 10) == REQUESTS // 10 - 1:
                memory.append(family_rss_mb(server.process.pid))
        assert client.post("/v1/models/ctr:predict", json=bodies[0]).json() == before
    # Some are harmless: a field that is null or has another value is a row like any other.
    assert answers[400] > REQUESTS / 2
    assert answers[200] > REQUESTS / 100
    assert memory[-1] - memory[2] < 20, f"MB after each tenth: {memory}"
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


def test_what_the_published_description_forbids_is_no_fault_of_the_server(server: Server) -> None:
    """schemathesis makes requests of the description of each address, half of them against it."""
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations: list[Any] = [each.ok() for each in described.get_all_operations()]  # pyright: ignore
    posts = [operation for operation in operations if operation.method == "post"]
    assert len(posts) > 8
    answers: Counter[int] = Counter()

    def ask(case: Any) -> None:
        answer = case.call()
        answers[answer.status_code] += 1
        said = answer.content[:300]
        # Some ask to be answered within a few milliseconds.
        late = {504} if "x-deadline-ms" in (case.headers or {}) else set[int]()
        assert answer.status_code in {200, *REFUSALS, *late}, (case.method, case.path, case.body, said)

    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore
        phases=[hypothesis.Phase.generate],
    )
    for operation in posts:
        for mode in (schemathesis.GenerationMode.NEGATIVE, schemathesis.GenerationMode.POSITIVE):
            settings(hypothesis.given(case=operation.as_strategy(generation_mode=mode))(ask))()
    assert answers[200] > 0
    assert sum(answers[code] for code in REFUSALS) > 100
    assert server.get("/v2/health/ready").status_code == 200
    assert "Traceback" not in server.log.read_text()


def over(server: Server, *sent: bytes, answers: int = 1) -> list[bytes]:
    """What a server says to bytes on one connection, until so many answers are there or it closes."""
    host, port = server.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            for each in sent:
                connection.sendall(each)
        except OSError:  # it has heard enough
            pass
        while said.count(b"HTTP/1.1 ") < answers or not said.endswith(b"}"):
            try:
                part = connection.recv(2**16)
            except OSError:
                break
            if not part:
                break
            said += part
    return said.split(b"HTTP/1.1 ")[1:]


def scoring(body: bytes, *headers: str) -> bytes:
    head = ["POST /v1/models/ctr:predict HTTP/1.1", "host: here", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


def test_request_that_would_rather_speak_http_2_is_answered_as_any_other(server: Server, bodies: list[Any]) -> None:
    body = json.dumps(bodies[0]).encode()
    # As Java's HttpClient sends all that it asks of http://.
    wished = scoring(body, "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAAB")
    (plain,) = over(server, scoring(body))
    scores = plain.split(b"\r\n\r\n")[1]
    assert len(json.loads(scores)["predictions"]) == 3
    for sent in ([wished], [wished[:20], wished[20:-9], wished[-9:]]):
        (answer,) = over(server, *sent)
        assert (answer[:3], answer.split(b"\r\n\r\n")[1]) == (b"200", scores)
    # What is in its body is no request.
    hidden = scoring(b"GET /v2 HTTP/1.1\r\nhost: here\r\n\r\n", "connection: Upgrade", "upgrade: h2c")
    answers = over(server, hidden, scoring(body), answers=2)
    assert [answer[:3] for answer in answers] == [b"400", b"200"]
    assert answers[1].endswith(scores)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /v2 HTTP/1.1\r\nx: ",
        b"GET /",
        b"POST /v1/models/ctr:predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;",
        b"POST /v1/models/ctr:predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ],
    ids=["header", "address", "chunk", "trailer"],
)
def test_head_without_end_is_refused_before_it_is_large(server: Server, begun: bytes) -> None:
    (answer,) = over(server, begun, *[b"a" * 2**16] * 8)
    assert answer[:3] == b"400"
    assert b"larger than 65536 bytes" in answer


def test_shape_of_many_large_sizes_is_refused_at_once(server: Server) -> None:
    for shape in ([10**17] * 20_000, [10**4000], [-1], [1, 1, 1]):
        tensor = {"name": "I1", "datatype": "FP64", "shape": shape, "data": [1]}
        answer = server.post({"inputs": [tensor]}, "/v2/models/ctr/infer")
        assert answer.status_code == 400, answer.text
        assert "needs a shape" in answer.json()["error"]


def test_body_that_does_not_come_is_not_waited_for() -> None:
    async def stopped() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(Refused, match=r"was not there in 0\.05 seconds") as refused:
        asyncio.run(read_body(stopped, b"10", 0.05))
    assert refused.value.status == 408


def test_client_that_asks_for_nothing_is_not_kept() -> None:
    async def closed(*sent: bytes) -> bool:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(print, http=HttpProtocol, timeout_keep_alive=1, log_level="error")
        config.load()
        state = ServerState()
        listener = await loop.create_server(lambda: HttpProtocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.writelines(sent)
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        listener.close()
        return said == b"" and not state.connections

    assert asyncio.run(closed())
    assert asyncio.run(closed(b"GET /v2 HTT"))


def test_full_disk_costs_lines_of_the_access_log_and_no_more(tmp_path: Path, caplog: Any) -> None:
    write = access_log(tmp_path / "log")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, limits[1]))
    try:
        for number in range(9):
            write(Call(0.0, id=f"before-{number}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    write(Call(0.0, id="after"))
    lines = (tmp_path / "log").read_text().splitlines()
    assert json.loads(lines[0])["id"] == "before-0"
    assert json.loads(lines[-1])["id"] == "after"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_addresses_of_ipv6_are_listened_on() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadInput, match=rf"cannot listen on \[::1\]:{port}: Address already in use"):
            check_free("::1", port)
    check_free("::1", port)
    assert with_port("::1", port) == f"[::1]:{port}"


def test_grpc_answers_in_numbers_and_quotes_no_more_than_a_header_takes(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        stub = PredictionServiceStub(channel)
        request = PredictRequest(model_spec=ModelSpec(name="ctr"))
        request.inputs["I1"].CopyFrom(tf.make_tensor_proto([1.0, 2.0, 3.0], tf.float64))
        output = stub.Predict(request, timeout=10).outputs["probability"]
        assert tf.make_ndarray(output).tolist() == list(output.float_val)
        assert len(set(output.float_val)) == 3
        request.inputs["I1" * 10_000].CopyFrom(request.inputs["I1"])
        with pytest.raises(grpc.RpcError, match=r"unknown input 'I1I1") as refused:
            stub.Predict(request, timeout=10)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
