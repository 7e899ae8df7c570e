"""A tracking store for a team: PostgreSQL and an object store, both real, written to by two comparisons at once."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from conftest import CTR, Project, tiny
from deploy import DEPLOY, containers
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from servers import object_store, wait_until_up

from ctr.cluster import free_ports

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not BINARIES, reason="PostgreSQL is not installed (Debian: postgresql)"),
]
ARMS = ("single", "codistilled")
KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server that runs."""

    port: int

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="ctr", dbname="postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"create database {name}")
        connection.close()
        return f"postgresql+psycopg2://ctr@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres]:
    """A server of its own, with its own data, which are gone afterwards; it refuses to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="ctr-postgres-"))  # pytest's own folders are closed to other users
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        entry = pwd.getpwnam("postgres")
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    binaries, data = BINARIES[-1].parent, folder / "data"
    (port,) = free_ports(1)
    made = [binaries / "initdb", "--pgdata", data, "--username=ctr", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    subprocess.run(made, check=True, capture_output=True, cwd=folder, **user)
    run = [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(run, cwd=folder, stdout=log, stderr=log, **user)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True
        ).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not come up"
            time.sleep(0.1)
        yield Postgres(port)
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for the connections that MLflow keeps in this process
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def artifacts() -> Generator[str]:
    """The address of an object store with the bucket `mlflow`."""
    with object_store("mlflow") as address:
        yield address


def compare_twice(project: Project, names: tuple[str, str], tmp_path: Path, environment: Mapping[str, str]) -> None:
    """Two comparisons at the same moment, as from two machines: they share neither folder nor temporary files."""
    started: list[subprocess.Popen[str]] = []
    settings = [*tiny(), f"compare.arms=[{','.join(ARMS)}]", "compare.trials=0", "compare.retrainings=1"]
    for name in names:
        home = tmp_path / name
        (home / "tmp").mkdir(parents=True)
        command = [str(CTR), "compare", str(project.folder / "data"), "--out", name, *settings, "--json"]
        started.append(
            subprocess.Popen(
                command,
                cwd=home,
                env={**os.environ, **environment, "TMPDIR": str(home / "tmp")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        said = process.communicate(timeout=400)[1]
        assert process.returncode == 0, said


def assert_all_is_there(client: MlflowClient, name: str, folder: Path, place: str) -> None:
    """Every run of a comparison, with its metrics and artifacts, as the comparison's own files have them."""
    result = json.loads((folder / name / "comparison.json").read_text())
    experiment = experiment_of(client)
    assert experiment.artifact_location.startswith(place)
    found = client.search_runs([experiment.experiment_id], f"tags.comparison = '{name}'", ViewType.ALL)
    assert {run.info.status for run in found} == {"FINISHED"}
    by_kind: dict[str, list[Any]] = {}
    for run in found:
        by_kind.setdefault(run.data.tags["kind"], []).append(run)
    assert set(by_kind) == {"arm", "member", "comparison"}
    assert sorted(run.data.tags["arm"] for run in by_kind["arm"]) == sorted(ARMS)
    for run in by_kind["arm"]:
        arm = result["arms"][run.data.tags["arm"]]
        assert run.data.metrics["test_log_loss"] == pytest.approx(arm["log_loss"]["mean"], abs=1e-12)
        for path in ("plots/reliability.svg", "plots/scores.svg", "data/manifest.json"):
            assert len(client.download_artifacts(run.info.run_id, path, str(folder / "tmp"))) > 0
    members = [json.loads(path.read_text()) for path in (folder / name).glob("*-0/group-*/result.json")]
    assert {run.info.run_id for run in by_kind["member"]} == {member["run_id"] for member in members}
    assert len(members) >= 3
    for member in members:
        history = client.get_metric_history(member["run_id"], "log_loss")
        assert [point.step for point in history] == [20, 40, 50]
        assert history[-1].value == member["log_loss"]
        listed = {
            each.path for sub in ("config", "features", "data") for each in client.list_artifacts(member["run_id"], sub)
        }
        assert listed == {"config/config.yaml", "features/spec.json", "data/manifest.json"}
    (whole,) = by_kind["comparison"]
    page = client.download_artifacts(whole.info.run_id, "report.html", str(folder / "tmp"))
    assert Path(page).read_bytes() == (folder / name / "report.html").read_bytes()
    assert client.download_artifacts(whole.info.run_id, "comparison.json", str(folder / "tmp"))


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Generator[None]:
    """Variables of this process for a while: MLflow's client reads them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def objects(address: str, prefix: str) -> int:
    """How many objects the store has under a name."""
    listed = httpx.get(f"{address}/mlflow", params={"list-type": "2", "prefix": prefix}).text
    return listed.count("<Key>")


def test_machines_that_meet_an_empty_database_at_once_all_find_it_in_order(postgres: Postgres, tmp_path: Path) -> None:
    """Without the lock of ctr/tracking.py one makes the tables and the others fail on them."""
    store, started = postgres.database("empty"), list[subprocess.Popen[str]]()
    for machine in range(3):
        temporary = tmp_path / str(machine)
        temporary.mkdir()
        environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "TMPDIR": str(temporary)}
        script = "from ctr import tracking; print(tracking.start_run('ctr', 'one', tags={}, params={'a': 1}))"
        command = [sys.executable, "-c", script]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], [errors[-300:] for _, errors in said]
    client = MlflowClient(store)
    found = {run.info.run_id for run in client.search_runs([experiment_of(client).experiment_id])}
    assert found == {output.split()[-1] for output, _ in said}
    assert len(found) == 3


def experiment_of(client: MlflowClient) -> Any:
    """The experiment that everything is in."""
    experiment = client.get_experiment_by_name("ctr")
    assert experiment is not None
    return experiment


def test_two_comparisons_at_once_on_an_empty_database_lose_nothing(
    project: Project, postgres: Postgres, artifacts: str, tmp_path: Path
) -> None:
    """Each client writes to PostgreSQL and to the object store by itself."""
    store = postgres.database("direct")
    environment = {
        "MLFLOW_TRACKING_URI": store.replace("+psycopg2", ""),  # as most people write it
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://mlflow/direct",
        "MLFLOW_S3_ENDPOINT_URL": artifacts,
        **KEYS,
    }
    compare_twice(project, ("first", "second"), tmp_path, environment)
    with variables(environment):
        client = MlflowClient(store)
        for name in ("first", "second"):
            assert_all_is_there(client, name, tmp_path / name, "s3://mlflow/direct/")
            # Nothing went into the folder instead.
            assert not (tmp_path / name / "mlruns").exists()
            assert not (tmp_path / name / "mlflow.db").exists()
    assert objects(artifacts, "direct/") > 20


def test_the_manifests_server_takes_two_comparisons_at_once_and_the_registry_works(
    project: Project, postgres: Postgres, artifacts: str, tmp_path: Path
) -> None:
    """The command of mlflow.yaml, on this PostgreSQL and object store; clients know the server alone, and no key."""
    (command,) = [c["command"] for c in containers(DEPLOY / "mlflow.yaml") if c.get("command", [""])[0] == "mlflow"]
    (port,) = free_ports(1)
    store = postgres.database("served")
    there = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--backend-store-uri": store,
        "--allowed-hosts": f"127.0.0.1:{port}",
    }
    words = [
        f"{option}={there.get(option, value)}" for option, _, value in (word.partition("=") for word in command[2:])
    ]
    given = {**os.environ, **KEYS, "MLFLOW_S3_ENDPOINT_URL": artifacts, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [str(CTR.with_name("mlflow")), "server", *words],
            cwd=tmp_path, env=given, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    try:
        wait_until_up(server, f"{address['MLFLOW_TRACKING_URI']}/health")
        compare_twice(project, ("third", "fourth"), tmp_path, address)
        client = MlflowClient(address["MLFLOW_TRACKING_URI"])
        for name in ("third", "fourth"):
            assert_all_is_there(client, name, tmp_path / name, "mlflow-artifacts:/")
            assert not (tmp_path / name / "mlruns").exists()
        before = objects(artifacts, "")
        run = tmp_path / "third" / "third" / "codistilled-0"
        promoted = project.ctr("promote", run, "--force", "--json", env=address).result
        assert promoted["version"] == "1"
        assert objects(artifacts, "") > before
        found = project.ctr("evaluate", "models:/ctr@champion", "data", "--json", env=address).result
        assert found["log_loss"] == pytest.approx(promoted["log_loss"], abs=1e-12)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait(30)
