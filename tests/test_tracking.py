"""MLflow for real: runs, metrics and artifacts in sqlite, the registry, the champion, MLflow's own servers."""

import json
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from conftest import Project, Start, tiny
from mlflow.tracking import MlflowClient
from servers import wait_until_up

from ctr.cluster import free_ports

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def client(project: Project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.folder}/mlflow.db")


@pytest.fixture(scope="module")
def promoted(project: Project) -> dict[str, Any]:
    """What the first promotion of the run said."""
    return project.ctr("promote", "run", "--json").result


def test_each_member_is_a_finished_top_level_run_with_a_group_tag(project: Project, client: MlflowClient) -> None:
    for member in project.trained["members"]:
        run = client.get_run(member["run_id"])
        assert run.info.status == "FINISHED"
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.data.tags["kind"] == "member"
        assert run.data.tags["group"] == str(member["group"])
        assert run.data.tags["served"] == str(member["group"] == project.trained["served_group"]).lower()
        manifest = json.loads((project.folder / "data" / "manifest.json").read_text())
        assert run.data.tags["data_digest"] == manifest["digest"]
        assert run.data.tags["spec_digest"] == manifest["spec_digest"]
        assert run.data.params["codistillation.weight"] == "3.0"
        assert run.data.params["train.batch_size"] == "64"


def test_metrics_are_logged_at_each_evaluation_by_step(project: Project, client: MlflowClient) -> None:
    member = project.trained["members"][0]
    history = client.get_metric_history(member["run_id"], "log_loss")
    assert [(metric.step) for metric in history] == [20, 40, 50]
    assert history[-1].value == member["log_loss"]
    assert {"auc", "ece", "normalized_entropy"} <= set(client.get_run(member["run_id"]).data.metrics)


def test_configuration_spec_and_data_are_artifacts_of_the_run(project: Project, client: MlflowClient) -> None:
    run_id = project.trained["members"][0]["run_id"]
    found = {path.path for folder in ("config", "features", "data") for path in client.list_artifacts(run_id, folder)}
    assert found == {"config/config.yaml", "features/spec.json", "data/manifest.json"}


def test_promotion_registers_the_model_and_moves_the_alias(
    project: Project, client: MlflowClient, promoted: dict[str, Any]
) -> None:
    assert promoted["passed"] is True
    assert promoted["name"] == "ctr"
    version = client.get_model_version_by_alias("ctr", "champion")
    assert str(version.version) == promoted["version"]
    assert version.run_id == project.trained["run_id"]
    assert version.tags["reason_0"] == "there is no champion yet"
    assert any("same online as offline" in reason for reason in promoted["reasons"])
    assert any(reason.startswith("calibrated") for reason in promoted["reasons"])


def test_champion_predicts_evaluates_and_exports_by_its_name(
    project: Project, promoted: dict[str, Any], tmp_path: Path
) -> None:
    by_name = project.ctr(
        "predict", "models:/ctr@champion", "log.tsv", "--out", tmp_path / "a.parquet", "--json"
    ).result
    by_run = project.ctr("predict", "run", "log.tsv", "--out", tmp_path / "b.parquet", "--json").result
    assert by_name["rows"] == by_run["rows"] == 4000
    assert pl.read_parquet(tmp_path / "a.parquet").equals(pl.read_parquet(tmp_path / "b.parquet"))
    found = project.ctr("evaluate", "models:/ctr@champion", "data", "--json").result
    assert found["log_loss"] == pytest.approx(promoted["log_loss"], abs=1e-12)


def test_a_model_that_is_not_surely_better_does_not_become_champion(
    project: Project, client: MlflowClient, promoted: dict[str, Any]
) -> None:
    refused = project.ctr("promote", "run", "--json")
    assert refused.code == 1
    said = json.loads(refused.out)
    assert said["passed"] is False
    assert said["version"] is None
    assert "not better than champion version 1: it scores every row alike" in said["reasons"][0]
    assert "did not pass the gate and was not made champion: not better" in refused.error
    assert str(client.get_model_version_by_alias("ctr", "champion").version) == promoted["version"]


def test_a_better_model_with_another_feature_spec_replaces_the_champion(
    project: Project, client: MlflowClient, promoted: dict[str, Any]
) -> None:
    """A new spec means that the old champion is asked for the same rows from the raw log."""
    # A first champion that learned the opposite of every label, which the widened calibration gate lets through.
    lines = (project.folder / "log.tsv").read_text().splitlines()
    opposite = [f"{1 - int(line[0])}{line[1:]}\n" for line in lines]
    (project.folder / "opposite.tsv").write_text("".join(opposite))
    project.ctr("prepare", "opposite.tsv", "--out", "opposite", "--spec", "data", "--json").result
    one = tiny(codistillation__groups="1")
    project.ctr("train", "opposite", "--out", "wrong", *one, "gate.max_ece=0.9", "--json").result
    project.ctr("promote", "wrong", "--alias", "beginner", "--data", "data", "--json").result
    settings = ["--set", "features.buckets=2048", "--set", "features.min_count=1"]
    project.ctr("prepare", "log.tsv", "--out", "data2", *settings, "--json").result
    project.ctr("train", "data2", "--out", "newer", *one, "gate.max_ece=0.5", "--json").result
    done = project.ctr("promote", "newer", "--alias", "beginner", "--json").result
    assert done["passed"] is True
    assert done["reasons"][0].startswith("better than beginner version")
    version = client.get_model_version_by_alias("ctr", "beginner")
    assert version.tags["spec_digest"] != client.get_model_version("ctr", promoted["version"]).tags["spec_digest"]


def test_unknown_model_names_say_what_to_do(project: Project, promoted: dict[str, Any]) -> None:
    refused = project.ctr("evaluate", "models:/ctr@nobody", "data")
    assert refused.code == 2
    assert "register one with `ctr promote`" in refused.error


def test_ui_shows_the_projects_runs(project: Project, in_background: Start) -> None:
    (port,) = free_ports(1)
    server = in_background("ui", "--port", port, cwd=project.folder)
    page = wait_until_up(server, f"http://127.0.0.1:{port}/")
    assert "<title>MLflow</title>" in page.text
    found = httpx.get(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=ctr").json()
    experiment = found["experiment"]["experiment_id"]
    runs = httpx.post(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": [experiment], "filter": "tags.kind = 'member'"},
    ).json()["runs"]
    server.terminate()
    assert server.wait(30) == 0
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/")
    assert {run["info"]["run_id"] for run in runs} >= {member["run_id"] for member in project.trained["members"]}
