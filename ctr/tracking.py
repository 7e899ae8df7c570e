"""MLflow's store: runs, metrics, artifacts. Only this module and ctr/registry.py of ctr import mlflow."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import sqlalchemy
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from features.errors import WorkFailed

DEFAULT_STORE = "sqlite:///mlflow.db"
# Who makes the tables of a PostgreSQL store holds its advisory lock of this number.
_TABLES_LOCK = 0x637472
_with_tables: set[str] = set()  # stores that this process found in order

# MLflow's and Alembic's information about every table they make would bury our own words.
for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)


def store() -> str:
    """Where the tracking store is."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    # SQLAlchemy 2.1 takes the short form for psycopg 3; the extra `postgres` brings psycopg2, which MLflow is made for.
    kind, sign, rest = uri.partition("://")
    return f"postgresql+psycopg2{sign}{rest}" if kind in ("postgresql", "postgres") else uri


def client() -> MlflowClient:
    """A client of the project's store, which is made if it is not there yet. Raises WorkFailed if it cannot be used."""
    mlflow.set_tracking_uri(store())
    try:
        with _alone_if_empty(store()):
            made = MlflowClient()
            made.search_experiments(max_results=1)
    except Exception as error:  # the store may fail in as many ways as there are databases
        raise WorkFailed(
            f"the tracking store {store()} cannot be used: {one_line(error)}; check MLFLOW_TRACKING_URI"
        ) from None
    return made


@contextlib.contextmanager
def _alone_if_empty(uri: str) -> Generator[None]:
    """While a PostgreSQL store may get its tables, no other process of ours makes them.

    MLflow sees to that among the processes of one machine only: of two machines that met an empty store, one failed.
    """
    if uri in _with_tables or not uri.startswith("postgresql"):
        yield
        return
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:  # the lock goes with it
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:number)"), {"number": _TABLES_LOCK})
            yield
    finally:
        engine.dispose()
    _with_tables.add(uri)


def start_run(experiment: str, name: str, *, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """Starts a top-level run and returns its id."""
    with mlflow_errors("start a run"):
        made = client()
        run = made.create_run(_experiment_id(made, experiment), run_name=name, tags=dict(tags))
        made.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    return run.info.run_id


def _experiment_id(made: MlflowClient, name: str) -> str:
    found = made.get_experiment_by_name(name)
    if found is None:
        try:
            return made.create_experiment(name, _artifacts_of(name))
        except MlflowException:
            # Groups start at the same moment: another may have made it since it was looked for.
            found = made.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _artifacts_of(experiment: str) -> str | None:
    """Where a new experiment keeps its artifacts; None leaves it to MLflow: a server knows, a file's are beside it.

    MLFLOW_DEFAULT_ARTIFACT_ROOT is what MLflow's server takes it from. Without a server MLflow would not look there,
    and runs in a database that all reach would have artifacts in the folder of whoever made the experiment.
    """
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    if not root or store().startswith("http"):
        return None
    return f"{root.rstrip('/')}/{quote(experiment, safe='')}"


def delete_runs(experiment: str, tags: Mapping[str, str]) -> None:
    """Deletes the runs of an experiment that have these tags; MLflow's UI still shows them among deleted ones."""
    wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
    with mlflow_errors("delete runs"):
        made = client()
        for run in made.search_runs([_experiment_id(made, experiment)], wanted):
            made.delete_run(run.info.run_id)


def compare_page(experiment: str, run_ids: Sequence[str]) -> str:
    """Where MLflow's UI compares these runs, relative to its own address."""
    with mlflow_errors("find an experiment"):
        experiment_id = _experiment_id(client(), experiment)
    return f"#/compare-runs?runs={quote(json.dumps(run_ids))}&experiments={quote(json.dumps([experiment_id]))}"


def has_run(run_id: str) -> bool:
    """Whether the store knows this run: the store may be another than the one that a run folder was made with."""
    try:
        client().get_run(run_id)
    except MlflowException:
        return False
    return True


def log_metrics(run_id: str, metrics: Mapping[str, float | None], step: int) -> None:
    """Logs those of the metrics that have a value."""
    now = _milliseconds()
    entries = [Metric(name, float(value), now, step) for name, value in metrics.items() if value is not None]
    with mlflow_errors("log metrics"):
        client().log_batch(run_id, metrics=entries)


def log_files(run_id: str, files: Mapping[str, Path]) -> None:
    """Logs files as artifacts, each in the artifact folder that is its key ("" for the top)."""
    with mlflow_errors("log artifacts"):
        for folder, path in files.items():
            client().log_artifact(run_id, str(path), folder or None)


def log_texts(run_id: str, texts: Mapping[str, str]) -> None:
    """Logs texts as artifacts, each at the path that is its key; MLflow's UI shows pages (html) and pictures (svg)."""
    with mlflow_errors("log artifacts"):
        for path, text in texts.items():
            client().log_text(run_id, text, path)


def log_curve(run_id: str, name: str, points: Sequence[tuple[int, float]]) -> None:
    """Logs a metric's values by step."""
    now = _milliseconds()
    with mlflow_errors("log metrics"):
        client().log_batch(run_id, metrics=[Metric(name, value, now, step) for step, value in points])


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    """A metric's values by step; none where the run is in another store."""
    try:
        history = client().get_metric_history(run_id, name)
    except MlflowException:
        return []
    # A run that was stopped and resumed logs some steps twice.
    return sorted({point.step: point.value for point in history}.items())


def log_table(run_id: str, columns: Mapping[str, Sequence[Any]], path: str) -> None:
    """Logs a table, by column, which MLflow's UI shows and compares between runs."""
    with mlflow_errors("log a table"):
        client().log_table(run_id, {name: list(values) for name, values in columns.items()}, path)


def log_datasets(run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
    """Links a run to the data it used: of each `name`, `digest`, `source` (a folder), `context`, `profile` (JSON)."""
    inputs = [
        DatasetInput(
            Dataset(each["name"], each["digest"], "local", json.dumps({"uri": each["source"]}), None, each["profile"]),
            [InputTag("mlflow.data.context", each["context"])],
        )
        for each in datasets
    ]
    with mlflow_errors("log datasets"):
        client().log_inputs(run_id, inputs)


def log_model(
    run_id: str, name: str, *, folder: Path, params: Mapping[str, str], metrics: Mapping[str, float | None], data: str
) -> str:
    """Lists a SavedModel among the experiment's models, with figures on the dataset `name@digest`; returns its id.

    It stays where it is: `ctr promote` copies the one that is registered.
    """
    now, (dataset, _, digest) = _milliseconds(), data.partition("@")
    with mlflow_errors("log a model"):
        made = client()
        experiment = made.get_run(run_id).info.experiment_id
        tags = {"path": str(folder), "mlflow.model.isExternal": "true"}
        model = made.create_logged_model(experiment, name, run_id, tags, dict(params), "wide_and_deep")
        made.finalize_logged_model(model.model_id, "READY")
        made.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        entries = [
            Metric(key, float(value), now, 0, model.model_id, dataset, digest)
            for key, value in metrics.items()
            if value is not None
        ]
        made.log_batch(run_id, metrics=entries)
    return model.model_id


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of a run."""
    with mlflow_errors("set tags"):
        for key, value in tags.items():
            client().set_tag(run_id, key, value)


def end_run(run_id: str, status: str) -> None:
    """Ends a run as FINISHED, FAILED or KILLED."""
    with mlflow_errors("end a run"):
        client().set_terminated(run_id, status)


def resume_run(run_id: str) -> None:
    """Marks an ended run as running again."""
    with mlflow_errors("resume a run"):
        client().update_run(run_id, status="RUNNING")


def _milliseconds() -> int:
    """Now, as metrics are dated."""
    return int(time.time() * 1000)


@contextlib.contextmanager
def mlflow_errors(work: str) -> Generator[None]:
    """Turns MLflow's errors into WorkFailed, which says which work failed."""
    try:
        yield
    except MlflowException as error:
        raise WorkFailed(f"MLflow could not {work} in {store()}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())
