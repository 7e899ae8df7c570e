"""The manifests of configs/deploy: they fit the schemas, one another, and the code's commands, settings, variables."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import CTR, Project
from deploy import (
    DEPLOY,
    MANIFESTS,
    ROOT,
    check_command,
    commands_in,
    containers,
    documents,
    environment,
    has_option,
    listed_commands,
    pod_templates,
)

from ctr.config import Config, load_config
from ctr.place import Place, find_place
from features.errors import BadInput

FILES = [*MANIFESTS, DEPLOY / "train.slurm", DEPLOY / "Containerfile"]
# What pods of other images are told, by the names that those images' own documentation gives.
OF_OTHER_IMAGES = {"postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA"}}
# Kinds whose schema no light package ships; their pods are checked.
WITHOUT_SCHEMA = {"InferenceService", "RayJob"}
KUBERNETES = ("1.29", "1.37")
EXPECTED_KINDS = {
    "PersistentVolumeClaim", "Job", "ConfigMap", "TrainingRuntime", "TrainJob", "TFJob", "Deployment", "Service",
    "StatefulSet", "InferenceService", "RayJob",
}  # fmt: skip


def by_name(path: Path) -> str:
    """How a test of a file is called."""
    return path.name


def test_what_the_issue_asks_for_is_there() -> None:
    assert {document["kind"] for path in MANIFESTS for document in documents(path)} == EXPECTED_KINDS
    assert {path.name for path in DEPLOY.iterdir()} == {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_top_says_what_it_starts_what_it_needs_how_to_apply_it_and_that_it_is_untested(path: Path) -> None:
    head = "\n".join(line for line in path.read_text().splitlines()[:25] if line.startswith("#"))
    assert re.search(r"^# (Starts|Builds|What all pods share)", head, flags=re.MULTILINE)
    for word in ("Needs:", "Apply", "UNTESTED"):
        assert word in head, word


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_objects_and_pods_fit_kubernetes_own_schema(path: Path, version: str) -> None:
    """Strictly: a key that Kubernetes does not know is an error."""
    checked = 0
    for document in documents(path):
        if "." not in document["apiVersion"].split("/")[0]:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
        for template in pod_templates(document):
            pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}, "template": template}
            kubernetes_validate.validate(pods, version, strict=True)
            checked += 1
    assert checked or {document["kind"] for document in documents(path)} <= WITHOUT_SCHEMA


def test_kubeflow_objects_are_what_its_own_classes_read() -> None:
    """Nothing of them is lost when they are read and written again: a key that the classes do not know would be."""
    read = 0
    for path in MANIFESTS:
        for document in documents(path):
            if document["apiVersion"].startswith(("trainer.kubeflow.org/", "kubeflow.org/")):
                assert lost(document, through_kubeflow(document)) == []
                read += 1
    assert read == 5


def through_kubeflow(document: dict[str, Any]) -> Any:
    """An object as Kubeflow's own classes read and write it."""
    import kubeflow_trainer_api.models as trainer
    from kubeflow.training.api_client import ApiClient
    from kubeflow.training.configuration import Configuration

    classes: dict[str, Any] = {
        "TrainJob": trainer.TrainerV1alpha1TrainJob,
        "TrainingRuntime": trainer.TrainerV1alpha1TrainingRuntime,
    }
    if document["kind"] in classes:
        return classes[document["kind"]].from_dict(document).to_dict()
    client = ApiClient(Configuration())
    read = client.deserialize(SimpleNamespace(data=json.dumps(document)), f"KubeflowOrgV1{document['kind']}")
    return client.sanitize_for_serialization(read)


def lost(before: Any, after: Any, where: str = "") -> list[str]:
    """Where `after` lacks something of `before`; defaults that it has besides are no loss."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [each for key in before for each in lost(before[key], after.get(key), f"{where}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [each for i, (b, a) in pairs for each in lost(b, a, f"{where}[{i}]")]
    return [] if before == after else [where]


@pytest.mark.parametrize(
    ("file", "key", "wrong"),
    [
        ("trainjob.yaml", "runtimeRef", "runtimeReference"),
        ("trainjob.yaml", "mlPolicy", "mlPolicies"),
        ("trainjob.yaml", "replicatedJobs", "jobs"),
        ("tfjob.yaml", "tfReplicaSpecs", "replicaSpecs"),
        ("tfjob.yaml", "cleanPodPolicy", "cleanupPolicy"),
    ],
)
def test_renamed_key_of_a_kubeflow_object_is_noticed(file: str, key: str, wrong: str) -> None:
    text = (DEPLOY / file).read_text()
    assert key in text
    changed = [each for each in yaml.safe_load_all(text.replace(f"{key}:", f"{wrong}:")) if each["kind"] != "ConfigMap"]
    found: list[str] = []
    for document in changed:
        try:
            found += lost(document, through_kubeflow(document))
        except ValueError as error:  # a key that must be there is not
            found.append(str(error))
    assert found


def every_command(path: Path) -> list[list[str]]:
    """Every `ctr` command of a file, whether a shell runs it, a container, or a person who reads the comments."""
    listed = listed_commands(path) if path.suffix == ".yaml" else []
    return [*listed, *commands_in(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_every_command_is_one_that_the_command_line_takes(path: Path) -> None:
    commands = every_command(path)
    expected = {"trainjob.yaml": 1, "tfjob.yaml": 2, "prepare.yaml": 1, "export.yaml": 1, "train.slurm": 3}
    assert len(commands) == {**expected, "rayjob.yaml": 3}.get(path.name, 0)
    if path.name == "rayjob.yaml" and not has_option("train", "--engine"):
        pytest.skip("this ctr has no --engine yet")
    for words in commands:
        check_command(words)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("trainjob.yaml", "ctr worker /shared/data --out", "ctr worker /shared/data --run"),
        ("tfjob.yaml", "ctr worker", "ctr train --worker"),
        ("prepare.yaml", "--config, configs/criteo.yaml", "--config, configs/criteo-kaggle.yaml"),
        ("prepare.yaml", "--json]", "--set, prepare.splits=time]"),
        ("export.yaml", "--out, /shared", "--to, /shared"),
        ("train.slurm", "ctr export run --out", "ctr export run --path"),
    ],
)
def test_command_that_no_longer_exists_is_noticed(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    text = (DEPLOY / file).read_text()
    assert right in text
    changed = tmp_path / file
    changed.write_text(text.replace(right, wrong, 1))
    with pytest.raises(BadInput):
        for words in every_command(changed):
            check_command(words)


def settings_in(path: Path, folder: Path) -> list[Config]:
    """The configurations that a manifest's ConfigMaps hold."""
    found: list[Config] = []
    for document in documents(path):
        if document["kind"] == "ConfigMap":
            (folder / path.name).write_text(document["data"]["config.yaml"])
            found.append(load_config(folder / path.name, []))
    return found


@pytest.mark.parametrize("file", ["trainjob.yaml", "tfjob.yaml"])
def test_settings_fit_the_jobs_and_a_renamed_one_is_noticed(file: str, tmp_path: Path) -> None:
    (config,) = settings_in(DEPLOY / file, tmp_path)
    jobs = [each for each in documents(DEPLOY / file) if each["kind"] in ("TrainJob", "TFJob")]
    text = (DEPLOY / file).read_text()
    groups = config.codistillation.groups
    assert len(jobs) == groups
    assert set(re.findall(r"name: CTR_GROUPS, value: \"(\d+)\"", text)) == {str(groups)}
    assert re.findall(r"name: CTR_GROUP, value: \"(\d+)\"", text) == [str(group) for group in range(groups)]
    assert len({job["metadata"]["name"] for job in jobs}) == groups
    workers = {str(config.train.workers_per_group)}
    assert set(re.findall(r"(?:numNodes|replicas): (\d+)|name: WORKERS, value: \"(\d+)\"", text)) <= {
        pair for worker in workers for pair in ((worker, ""), ("", worker))
    }
    assert config.train.batch_size % config.train.workers_per_group == 0
    for key in ("peer_timeout", "workers_per_group"):
        renamed = tmp_path / "renamed.yaml"
        renamed.write_text(text.replace(f"{key}:", f"{key}s:"))
        with pytest.raises(BadInput, match=f"{key}s"):
            settings_in(renamed, tmp_path)


def source_of(package: Path) -> str:
    """The text of all modules of a package."""
    return "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))


def readers() -> dict[str, str]:
    """Where variables are read, by how they begin."""
    import botocore
    import mlflow

    ours = "\n".join(source_of(ROOT / room) for room in ("ctr", "features", "serving"))
    packages = Path(str(mlflow.__file__)).parent
    mlflows = (packages / "environment_variables.py").read_text()
    return {"CTR_": ours, "MLFLOW_": mlflows, "AWS_": source_of(Path(str(botocore.__file__)).parent), "": ours}


# The AWS SDK for C++ (Arrow) and Polars' reader in Rust read this one, of which there is no Python source; that both do
# is held by tests/test_object_store.py.
READ_ELSEWHERE = {"AWS_REGION"}


def unread(path: Path) -> list[str]:
    """The variables of a manifest's containers that nothing reads: neither code nor the container's own words."""
    sources = readers()
    found: list[str] = []
    for container, name in environment(path):
        own = " ".join(map(str, [*container.get("command", []), *container.get("args", [])]))
        source = next(source for begins, source in sources.items() if name.startswith(begins))
        if not (
            name in OF_OTHER_IMAGES.get(container["name"], READ_ELSEWHERE)
            or re.search(rf"[\"']{name}[\"']|^{name} = ", source, flags=re.MULTILINE)
            or re.search(rf"\b{name}\b", own)
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=by_name)
def test_every_variable_is_read_by_something(path: Path) -> None:
    assert unread(path) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("trainjob.yaml", "CTR_EXCHANGE"),
        ("tfjob.yaml", "CTR_GROUPS"),
        ("mlflow.yaml", "MLFLOW_S3_ENDPOINT_URL"),
        ("prepare.yaml", "AWS_ENDPOINT_URL"),
    ],
)
def test_renamed_variable_is_noticed(file: str, name: str, tmp_path: Path) -> None:
    changed = tmp_path / file
    changed.write_text((DEPLOY / file).read_text().replace(f"name: {name},", f"name: {name}_NOW,"))
    assert set(unread(changed)) == {f"{name}_NOW"}


def test_variables_of_the_slurm_script_are_read() -> None:
    script = (DEPLOY / "train.slurm").read_text()
    given = set(re.findall(r"\b((?:CTR|TF|MLFLOW|POLARS|OMP)_[A-Z_]+)=", script))
    assert given == {
        "CTR_GROUP", "CTR_GROUPS", "CTR_EXCHANGE", "POLARS_MAX_THREADS", "OMP_NUM_THREADS", "TF_CLUSTER", "TF_CONFIG"
    }  # fmt: skip
    ours = source_of(ROOT / "ctr")
    assert all(f'"{name}"' in ours for name in given - {"TF_CLUSTER"})
    assert "$TF_CLUSTER" in script


def test_volumes_claims_secrets_and_services_that_are_named_are_there() -> None:
    everything = [document for path in MANIFESTS for document in documents(path)]
    names = {kind: {d["metadata"]["name"] for d in everything if d["kind"] == kind} for kind in EXPECTED_KINDS}
    text = "\n".join(path.read_text() for path in MANIFESTS)
    assert set(re.findall(r"claimName: ([\w-]+)", text)) == names["PersistentVolumeClaim"] == {"ctr"}
    assert set(re.findall(r"configMap: \{name: ([\w-]+)\}", text)) == names["ConfigMap"]
    secret = (DEPLOY / "storage.yaml").read_text()
    for name, key in re.findall(r"secretKeyRef: \{name: ([\w-]+), key: ([\w-]+)\}", text):
        assert name == "ctr"
        assert f"--from-literal={key}=" in secret
    assert set(re.findall(r"http://(mlflow):5000", text)) <= names["Service"]
    assert re.findall(r"runtimeRef: .*name: ([\w-]+)\}", text) == ["ctr", "ctr"]
    assert names["TrainingRuntime"] == {"ctr"}
    for document in everything:
        if document["kind"] == "Service":
            labels = [template["metadata"]["labels"] for each in everything for template in pod_templates(each)
                      if "labels" in template.get("metadata", {})]  # fmt: skip
            assert document["spec"]["selector"] in labels


def test_mlflows_own_command_line_takes_the_servers_command() -> None:
    from mlflow.cli import cli

    found = [c["command"] for c in containers(DEPLOY / "mlflow.yaml") if c.get("command", [""])[0] == "mlflow"]
    assert len(found) == 1
    program, command, *arguments = found[0]
    assert (program, command) == ("mlflow", "server")
    given = cli.commands["server"].make_context("server", arguments).params
    assert given["backend_store_uri"].startswith("postgresql+psycopg2://")
    assert given["artifacts_destination"] == "s3://mlflow"
    assert "mlflow:5000" in given["allowed_hosts"]


def test_rays_version_is_the_one_that_the_lock_installs() -> None:
    (job,) = documents(DEPLOY / "rayjob.yaml")
    locked = re.findall(r"^ray==([\d.]+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert locked == [job["spec"]["rayClusterSpec"]["rayVersion"]]
    # The shell that starts it takes it as one command of three words.
    program, option, script = shlex.split(job["spec"]["entrypoint"])
    assert (program, option) == ("bash", "-ec")
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"].keys() == {"MLFLOW_TRACKING_URI"}


def test_image_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, flags=re.MULTILINE) for word in line.split()[:-1]]
    assert {"requirements.lock", "ctr", "features", "serving", "configs", "pyproject.toml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^FROM .*/python:(\S+?)-", text, flags=re.MULTILINE) == ["3.11"]
    assert 'requires-python = ">=3.11,<3.12"' in (ROOT / "pyproject.toml").read_text()
    run = re.findall(r"^CMD (.*)$", text, flags=re.MULTILINE)
    assert subprocess.run([str(CTR), *json.loads(run[0])[1:]], capture_output=True).returncode == 0
    tags = {container["image"] for path in MANIFESTS for container in containers(path)}
    assert re.findall(r"--tag (\S+) ", text)[0] in tags


def place_from(script: str, out: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place that the worker would find, of a script whose last words are put in place by ones that tell it."""
    out.mkdir(parents=True, exist_ok=True)
    told = script.replace("/etc/ctr/config.yaml", str(out.parent / "config.yaml"))
    told, times = re.subn(r"exec ctr worker .*", "env -0", told)
    assert times == 1
    given = {"PATH": os.environ["PATH"], **environment}
    found = subprocess.run(["bash", "-euc", told], env=given, capture_output=True, text=True, check=True)
    variables = dict(each.split("=", 1) for each in found.stdout.split("\0") if each)
    for name in ("TF_CONFIG", "CTR_GROUP", "CTR_GROUPS", "CTR_EXCHANGE"):
        monkeypatch.setenv(name, variables[name])
    return find_place(out)


@pytest.mark.parametrize("worker", [0, 1])
def test_pod_of_a_trainjob_finds_its_place(worker: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JobSet names its pods: JOBSET-node-0-INDEX, in the domain JOBSET."""
    (container,) = containers(DEPLOY / "trainjob.yaml")
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    job = documents(DEPLOY / "trainjob.yaml")[-1]
    given |= {each["name"]: each["value"] for each in job["spec"]["trainer"]["env"]}
    given |= {"JOBSET": "ctr-1", "HOSTNAME": f"ctr-1-node-0-{worker}", "JOB_COMPLETION_INDEX": str(worker)}
    (tmp_path / "config.yaml").write_text("train: {epochs: 1}\n")
    run = tmp_path / "run"
    found = place_from(container["args"][0], run, {**given, "RUN": str(run)}, monkeypatch)
    assert (found.group, found.groups, found.worker, found.workers) == (1, 2, worker, 2)
    assert found.exchange == "/shared/run/exchange"
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"]
    assert cluster == ["ctr-1-node-0-0.ctr-1:2222", "ctr-1-node-0-1.ctr-1:2222"]
    assert load_config(run / "config.yaml", []).train.epochs == 1


@pytest.mark.processes
def test_export_writes_the_folder_of_versions_that_the_servers_look_for(project: Project, tmp_path: Path) -> None:
    """The command of export.yaml, on this run: FOLDER/ctr/1 holds a SavedModel, and both servers read FOLDER/ctr."""
    (words,) = listed_commands(DEPLOY / "export.yaml")
    shared = {"/shared/run": str(project.folder / "run"),
              "/shared/models/ctr/1": str(tmp_path / "models" / "ctr" / "1")}  # fmt: skip
    done = project.ctr(*(shared.get(word, word) for word in words)).result
    assert {"serving_default", "serialize"} <= set(done["signatures"])
    assert (tmp_path / "models" / "ctr" / "1" / "saved_model.pb").is_file()
    (serving,) = containers(DEPLOY / "tensorflow-serving.yaml")
    assert {"--model_name=ctr", "--model_base_path=/shared/models/ctr"} <= set(serving["args"])
    (service,) = documents(DEPLOY / "kserve.yaml")
    model = service["spec"]["predictor"]["model"]
    assert (service["metadata"]["name"], model["modelFormat"]["name"]) == ("ctr", "tensorflow")
    assert model["storageUri"] == "pvc://ctr/models/ctr"
    # What is no version (a folder whose name is no number) would be passed over.
    assert [path.name for path in (tmp_path / "models" / "ctr").iterdir()] == ["1"]
