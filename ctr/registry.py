"""MLflow's registry: the versions of the model, and the aliases that say which is champion and which was before it."""

import contextlib
import io
import os
import re
from collections.abc import Generator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
import mlflow.models
import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema

from ctr.tracking import client, mlflow_errors, one_line, store
from features.errors import BadInput, WorkFailed

MODEL_NAME = "ctr"
CHAMPION = "champion"
_PREVIOUS = "previous"
_PYFUNC = Path(__file__).parent.parent / "serving" / "pyfunc.py"
# As wide as the column in MLflow's database.
_DESCRIPTION_LENGTH = 5000


def previous(alias: str) -> str:
    """The alias of the version that an alias pointed to before: `previous` for champion, `previous-X` for any X."""
    return _PREVIOUS if alias == CHAMPION else f"{_PREVIOUS}-{alias}"


def check_alias(alias: str) -> None:
    """Raises BadInput for what MLflow does not take as an alias, or what `previous` gives."""
    reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias)
    if reserved or not re.fullmatch(r"[\w-]{1,200}", alias):
        raise BadInput(
            f"alias '{alias}' cannot be used: MLflow takes letters, digits, - and _ (200 at most), and keeps "
            "`latest`, `v1` and its like for itself; choose another --alias"
        )
    if alias == _PREVIOUS or alias.startswith(f"{_PREVIOUS}-"):
        raise BadInput(
            f"alias '{alias}' moves with the one whose previous version it is; name that one, such as --alias champion"
        )


def register(
    saved_model: Path,
    run_id: str,
    numbers: Iterable[str],
    texts: Iterable[str],
    tags: Mapping[str, str],
    description: str,
) -> str:
    """Logs a SavedModel as a pyfunc from code in a run and registers it; returns the version.

    `numbers` and `texts` are the fields that a raw row may have.
    """
    with mlflow_errors("register the model"), _quiet():
        made = client()
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_PYFUNC),
                artifacts={"saved_model": str(saved_model)},
                signature=_signature(numbers, texts),
                # Named here, as finding them out would load the model in a process of its own.
                pip_requirements=["tensorflow==2.21.*", "pandas", "numpy"],
            )
        version = str(mlflow.register_model(logged.model_uri, MODEL_NAME, tags=dict(tags)).version)
        made.update_model_version(MODEL_NAME, version, description[:_DESCRIPTION_LENGTH])
    return version


def _signature(numbers: Iterable[str], texts: Iterable[str]) -> mlflow.models.ModelSignature:
    # Any field may be missing: one inferred from a row would refuse frames that lack a column.
    fields = [*((name, DataType.double) for name in numbers), *((name, DataType.string) for name in texts)]
    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in fields])
    return mlflow.models.ModelSignature(inputs, Schema([ColSpec(DataType.double, "probability")]))


def aliases() -> dict[str, str]:
    """The version that each alias points to; none if there is no registered model yet.

    Raises WorkFailed if the registry cannot be read.
    """
    made = client()
    try:
        found = made.get_registered_model(MODEL_NAME).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise WorkFailed(
            f"the registry {mlflow.get_registry_uri()} cannot be read: {one_line(error)}; check MLFLOW_TRACKING_URI "
            "and MLFLOW_REGISTRY_URI, and that the server is up"
        ) from None
    return {alias: str(version) for alias, version in found.items()}


def move_alias(alias: str, version: str, was: str | None) -> None:
    """Points an alias to a version, and its previous one to `was`, the version that it leaves, if there is one.

    Both move or neither. Raises WorkFailed if the alias does not point to `was` any more.
    """
    now = aliases().get(alias)
    if now != was:
        raise WorkFailed(
            f"{alias} is version {now or 'none'} by now, and version {version} was judged when it was {was or 'none'}; "
            f"version {version} is registered, and {alias} stays where it is: promote again"
        )
    point_all({**({previous(alias): was} if was else {}), alias: version})


def version_of(name: str, alias: str) -> str:
    """The version of a registered model that an alias points to now.

    Raises BadInput if there is no such model or alias, WorkFailed if the registry cannot be read.
    """
    made = client()
    try:
        return str(made.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadInput(
                f"there is no models:/{name}@{alias} in {store()}: {one_line(error)}; register one with `ctr promote`"
            ) from None
        raise WorkFailed(f"the registry {mlflow.get_registry_uri()} cannot be read: {one_line(error)}") from None


def roll_back(alias: str) -> dict[str, Any]:
    """Points an alias to the version before, and the previous one to that which it leaves: two rollbacks are none.

    Returns the registered name, the alias, its version, and the one that it was (None if that was deleted). The
    versions' tags say it too. Raises BadInput if there is no version before, or if its files are gone.
    """
    check_alias(alias)
    there = aliases()
    was, version = there.get(alias), there.get(previous(alias))
    if version is None:
        raise BadInput(
            f"{alias} has no version before {was or 'it'}: there is no alias {previous(alias)} in {store()}; "
            "replace it with `ctr promote`"
        )
    try:
        model_files(f"models:/{MODEL_NAME}/{version}")
    except BadInput as error:
        raise BadInput(
            f"{alias} cannot go back to version {version} and stays {was or 'none'}: {error}; "
            "replace it with `ctr promote --force`"
        ) from None
    # The champion first: whoever kills this in between has the model that was asked for.
    point_all({alias: version, previous(alias): was})
    with mlflow_errors("set tags of versions"):
        made = client()
        made.set_model_version_tag(MODEL_NAME, version, "rolled_back_from", was or "none")
        if was:
            made.set_model_version_tag(MODEL_NAME, was, "rolled_back_at", now_utc())
    return {"name": MODEL_NAME, "alias": alias, "version": version, "was": was}


def point_all(moves: Mapping[str, str | None]) -> None:
    """Points each alias to its version (None: the alias goes), in this order, all of them or none.

    Raises WorkFailed if that cannot be done; the aliases are then where they were.
    """
    before, moved = aliases(), list[str]()
    with mlflow_errors("move aliases"):
        made = client()
        try:
            for alias, version in moves.items():
                _point(made, alias, version)
                moved.append(alias)
        except BaseException:  # Ctrl-C is one
            for alias in moved:
                _point(made, alias, before.get(alias))
            raise


def _point(made: MlflowClient, alias: str, version: str | None) -> None:
    if version is None:
        made.delete_registered_model_alias(MODEL_NAME, alias)
    else:
        made.set_registered_model_alias(MODEL_NAME, alias, version)


def fetch_model(uri: str) -> Path:
    """The SavedModel folder of a registered model, such as `models:/ctr@champion`. Raises BadInput if there is none."""
    try:
        return model_files(uri)
    except BadInput as error:
        raise BadInput(f"{error}; register one with `ctr promote`") from None


def model_files(uri: str) -> Path:
    """The same; the message of its BadInput does not say what to do."""
    client()
    try:
        with _quiet():
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        raise BadInput(f"no files of {uri} in {store()}: {one_line(error)}") from None
    found = folder / "artifacts" / "saved_model"
    if not found.is_dir():
        candidates = sorted(folder.glob("artifacts/*/saved_model.pb"))
        if not candidates:
            raise BadInput(f"{uri} in {store()} holds no SavedModel")
        found = candidates[0].parent
    return found


def now_utc() -> str:
    """The time, UTC, as tags have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without MLflow's own progress bars and prints."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
