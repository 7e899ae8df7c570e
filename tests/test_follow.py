"""A server follows an alias of the registry: promotion and rollback change what it answers with, an outage does not."""

import shutil
from pathlib import Path

import pytest
from conftest import Project, run_ctr
from servers import Server, serving, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture
def registry(project: Project, tmp_path: Path) -> Path:
    """A folder with a run and its prepared data, and a registry in which the run's model is champion."""
    for name in ("data", "run"):
        shutil.copytree(project.folder / name, tmp_path / name)
    run_ctr("promote", "run", "--force", "--json", cwd=tmp_path).result
    return tmp_path


def version(server: Server) -> str:
    return server.get("/v1/models/ctr/metadata").json()["model_spec"]["version"]


def test_server_follows_promotion_and_rollback_and_outlives_the_registry(registry: Path) -> None:
    store = registry / "mlflow.db"
    with serving(registry, "models:/ctr@champion", "--poll", "0.3", log=registry / "log") as server:
        assert version(server) == "1"
        run_ctr("promote", "run", "--force", "--json", cwd=registry).result
        wait_for(lambda: version(server) == "2")
        run_ctr("rollback", "--json", cwd=registry).result
        wait_for(lambda: version(server) == "1")
        assert server.states()[("1", "AVAILABLE")] == "OK"
        # In place, as the server has the file open.
        whole = store.read_bytes()
        store.write_bytes(b"no database" * 10_000)
        said = "what is served stays"
        wait_for(lambda: said in server.log.read_text())
        assert server.post({"instances": [{}]}).status_code == 200
        store.write_bytes(whole)
        wait_for(lambda: "can be looked up again" in server.log.read_text())
        run_ctr("rollback", "--json", cwd=registry).result
        wait_for(lambda: version(server) == "2")
        assert server.log.read_text().count(said) == 1


def test_name_that_the_registry_does_not_know_is_a_one_line_error(registry: Path) -> None:
    refused = run_ctr("serve", "models:/ctr@nobody", cwd=registry)
    assert refused.code == 2
    assert "there is no models:/ctr@nobody" in refused.error
