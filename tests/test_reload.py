"""A server whose models change under load, that is watched by a challenger, and that is stopped while it answers."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Project
from servers import Server, break_model, put, serving, wait_for, wait_until_up

pytestmark = pytest.mark.processes

TOKEN = "a token that nobody guesses"
ROWS = {"instances": [{"I1": 3, "C1": "68fd1e64"}, {}]}


@pytest.fixture(scope="module")
def models(project: Project) -> list[Path]:
    """Two SavedModels that give a row different scores."""
    return [project.folder / "run" / f"group-{group}" / "model" for group in (0, 1)]


@pytest.fixture(scope="module")
def folder(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the versions 1, with the label `stable`, and 2."""
    made = tmp_path_factory.mktemp("versions")
    for number, model in enumerate(models, 1):
        put(model, made / str(number))
    return made


@pytest.fixture(scope="module")
def server(
    folder: Path, models: list[Path], project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Server]:
    """A server of that folder, which asks for a token, with a challenger and an access log."""
    logs = tmp_path_factory.mktemp("logs")
    options = [
        "--poll",
        "0.2",
        "--label",
        "stable=1",
        "--challenger",
        models[0],
        "--access-log",
        logs / "access.ndjson",
    ]
    with serving(project.folder, folder, *options, log=logs / "stderr", CTR_SERVE_TOKEN=TOKEN) as started:
        yield started


def rounded(answer: str) -> str:
    """The scores of an answer: how many rows go together moves their last digits."""
    return str([round(score, 6) for score in json.loads(answer)["predictions"]])


def ask(server: Server, path: str = "/v1/models/ctr:predict", body: Any = ROWS) -> httpx.Response:
    return server.post(body, path, authorization=f"Bearer {TOKEN}")


def states(server: Server) -> list[tuple[str, str, str]]:
    found = server.get("/v1/models/ctr", authorization=f"Bearer {TOKEN}").json()["model_version_status"]
    return [(each["version"], each["state"], each["status"]["error_code"]) for each in found]


def test_all_but_health_asks_for_the_token(server: Server) -> None:
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    assert server.get("/v2/models/ctr/ready").json() == {"name": "ctr", "ready": True}
    for path in ("/v1/models/ctr", "/v1/models/ctr/metadata", "/v2", "/v2/models/ctr", "/openapi.json", "/nothing"):
        assert server.get(path).status_code == 401, path
    for header in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", f"Bearer {TOKEN[:-1]}"):
        refused = server.post(ROWS, authorization=header)
        assert refused.status_code == 401, header
        assert refused.headers["www-authenticate"] == "Bearer"
        assert list(refused.json()) == ["error"]
        assert TOKEN not in refused.text
    assert ask(server).status_code == 200
    assert server.post(ROWS, authorization=f"bearer {TOKEN}").status_code == 200
    assert server.get("/openapi.json", authorization=f"Bearer {TOKEN}").json()["security"] == [{"token": []}]


def test_grpc_asks_for_the_token_and_knows_versions_and_labels(server: Server) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")
    from tensorflow_serving.apis import prediction_service_pb2_grpc
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest  # pyright: ignore

    request = ClassificationRequest()
    request.model_spec.name = "ctr"
    request.input.example_list.examples.add()
    allowed = [("authorization", f"Bearer {TOKEN}")]
    with grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Classify(request, timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        newest = stub.Classify(request, timeout=30, metadata=allowed)
        assert newest.model_spec.version.value == 2
        request.model_spec.version_label = "stable"
        stable = stub.Classify(request, timeout=30, metadata=allowed)
        request.model_spec.version.value = 1
        first = stub.Classify(request, timeout=30, metadata=allowed)
        assert stable.model_spec.version.value == first.model_spec.version.value == 1
        assert stable.result == first.result != newest.result
        for wrong, code in (
            ({"version_label": "nobody"}, "INVALID_ARGUMENT"),
            ({"version": {"value": 7}}, "NOT_FOUND"),
        ):
            bad = ClassificationRequest(model_spec={"name": "ctr", **wrong}, input=request.input)
            with pytest.raises(grpc.RpcError) as gone:
                stub.Classify(bad, timeout=30, metadata=allowed)
            assert gone.value.code() == getattr(grpc.StatusCode, code)


def test_versions_and_labels_are_addresses(server: Server) -> None:
    newest = ask(server).json()
    assert ask(server, "/v1/models/ctr/versions/2:predict").json() == newest
    stable = ask(server, "/v1/models/ctr/labels/stable:predict").json()
    assert stable == ask(server, "/v1/models/ctr/versions/1:predict").json() != newest
    for path, status, words in (
        ("/v1/models/ctr/versions/7:predict", 404, "Servable not found for request: Specific(ctr, 7)"),
        ("/v1/models/ctr/labels/nobody:predict", 400, "Unrecognized servable version label: nobody"),
        ("/v1/models/ctr/versions/99999999999999999999:predict", 400, "Failed to convert version"),
        ("/v2/models/ctr/versions/7/infer", 404, "Servable not found"),
    ):
        refused = ask(server, path)
        assert (refused.status_code, words in refused.json()["error"]) == (status, True), path
    token = {"authorization": f"Bearer {TOKEN}"}
    for path, version in (("/versions/1", "1"), ("/labels/stable", "1"), ("/versions/2", "2")):
        status = server.get(f"/v1/models/ctr{path}", **token).json()["model_version_status"]
        assert [each["version"] for each in status] == [version]
        metadata = server.get(f"/v1/models/ctr{path}/metadata", **token).json()
        assert metadata["model_spec"] == {"name": "ctr", "signature_name": "", "version": version}
    assert server.get("/v2/models/ctr", **token).json()["versions"] == ["2", "1"]


def test_challenger_scores_in_the_shadow_of_the_champion(server: Server) -> None:
    log = server.log.with_name("access.ndjson")
    champion = ask(server, body={"instances": [{"I2": 41}]}).json()["predictions"]
    challenger = ask(server, "/v1/models/ctr/versions/1:predict", {"instances": [{"I2": 41}]}).json()["predictions"]

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line.get("scores") == champion]

    wait_for(found)
    (line,) = found()
    assert champion != challenger
    assert line["challenger_scores"] == pytest.approx(challenger, abs=1e-6)
    assert (line["kind"], line["status"], line["rows"], line["version"]) == ("v1:predict", 200, 1, 2)
    assert line["challenger_version"] == 1
    assert 0 < line["model_milliseconds"] <= line["milliseconds"]
    refused = ask(server, body={"instances": []})
    wait_for(lambda: f'"status":{refused.status_code}' in log.read_text())
    assert TOKEN not in log.read_text()


def test_twenty_reloads_under_load_fail_no_request(server: Server, folder: Path, models: list[Path]) -> None:
    found: Counter[str] = Counter()
    wrong: list[str] = []
    stop = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30) as session:
            while not stop.is_set():
                answer = session.post("/v1/models/ctr:predict", json=ROWS, headers={"x-deadline-ms": "30000"})
                if answer.status_code == 200:
                    found[rounded(answer.text)] += 1
                else:
                    wrong.append(answer.text)

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(client) for _ in range(16)]
        try:
            for number in range(3, 23):
                put(models[number % 2], folder / str(number))
                wait_for(lambda n=number: (str(n), "AVAILABLE", "OK") in states(server), 60)
        finally:
            stop.set()
        for each in clients:
            each.result()
    assert wrong == []
    assert len(found) == 2  # of the one model or of the other, never a mixture
    assert min(found.values()) > 20
    wait_for(lambda: ("21", "END", "OK") in states(server))
    assert [each[:2] for each in states(server) if each[1] == "AVAILABLE"] == [("22", "AVAILABLE"), ("1", "AVAILABLE")]


def test_broken_version_shows_in_the_status_and_the_old_one_answers(
    server: Server, folder: Path, models: list[Path]
) -> None:
    before = ask(server).json()
    put(models[0], folder / "50")
    break_model(folder / "50")
    wait_for(lambda: ("50", "END", "DATA_LOSS") in states(server))
    assert ask(server).json() == before
    assert ask(server, "/v1/models/ctr/versions/50:predict").status_code == 404
    assert server.get("/v2/health/ready").status_code == 200


def test_process_that_is_killed_is_started_again(server: Server) -> None:
    def children() -> list[int]:
        listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    (killed,) = children()
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: "a server process is started again: it ended with -9" in server.log.read_text())
    wait_until_up(server.process, f"{server.url}/v2/health/ready")
    assert ask(server).status_code == 200
    assert children() != [killed]


def test_two_processes_reload_and_lose_no_request_when_they_are_stopped(
    project: Project, models: list[Path], tmp_path: Path
) -> None:
    """New connections and kept ones, from before SIGTERM until nobody listens any more."""
    put(models[0], tmp_path / "served")
    body = json.dumps(ROWS).encode()
    answered: Counter[str] = Counter()
    lost: list[str] = []
    done = threading.Event()

    def client(keep: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not done.is_set():
            try:
                connection = connection or http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
                connection.connect() if connection.sock is None else None
            except ConnectionRefusedError:
                if stopping.is_set():
                    return
                raise
            try:
                connection.request("POST", "/v1/models/ctr:predict", body, {"x-deadline-ms": "30000"})
                answer = connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException) as error:
                lost.append(repr(error))
                return
            answered[rounded(text) if answer.status == 200 else f"{answer.status} {text}"] += 1
            if not keep or answer.will_close:
                connection.close()
                connection = None

    stopping = threading.Event()
    options = ["--workers", "2", "--poll", "0.2", "--drain-seconds", "20"]
    with serving(project.folder, tmp_path / "served", *options, log=tmp_path / "log") as server:
        first = {rounded(server.post(ROWS).text) for _ in range(20)}
        put(models[1], tmp_path / "served")
        # Both processes look by themselves; each connection may meet either of them.
        wait_for(lambda: not first & {rounded(server.post(ROWS).text) for _ in range(20)})
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, place % 2 == 0) for place in range(8)]
            time.sleep(1)
            stopping.set()
            server.process.terminate()
            began = time.monotonic()
            wait_for(lambda: server.get("/v2/health/ready").status_code == 503, 5)
            for each in clients:
                each.result(30)
            done.set()
        assert server.process.wait(30) == 0
        took = time.monotonic() - began
    assert lost == []
    assert len(answered) == 1
    assert sum(answered.values()) > 50
    assert took < 20
