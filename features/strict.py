"""Typed settings from plain mappings: unknown keys and wrong types become one-line errors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from features.errors import BadInput, did_you_mean


class Strict(BaseModel):
    """A frozen group of settings that rejects unknown keys and does not turn one type into another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Settings = TypeVar("Settings", bound=Strict)


def parse(kind: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """`values` as a `kind`; `where` names their origin (a file, the command line) in the error.

    Raises BadInput for the first unknown key (with the nearest known one) or value of the wrong type.
    """
    try:
        return kind.model_validate_json(_json(values, where))
    except ValidationError as error:
        raise BadInput(f"{where}: {_first_problem(kind, error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises BadInput if there is no such file or it holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadInput(f"cannot read {path}: {reason}; give the path of a YAML file") from None
    try:
        loaded = parse_yaml(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise BadInput(f"{path} holds a {type(loaded).__name__}, not a mapping of keys to values")
    return cast(dict[str, Any], loaded)


def parse_yaml(text: str) -> object:
    """A YAML text's value. Unlike YAML 1.1, which wants a point in a float, it takes 1e-7 for the number it is."""
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _json(values: Mapping[str, Any], where: str) -> str:
    # Through JSON, so that strict mode still takes a YAML list for a tuple, but never "3" for 3.
    import json

    try:
        return json.dumps(values)
    except TypeError as error:
        raise BadInput(f"{where}: {error}; write text, numbers, true/false, lists and mappings only") from None


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    path = [part for part in problem["loc"] if isinstance(part, str)]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}': {did_you_mean(path[-1], _fields_at(kind, path[:-1]))}"
    if problem["type"] == "value_error":
        said = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"'{key}' got {problem['input']!r}: {message}"


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the settings in the group that `path` leads to, through nested groups and lists of groups."""
    for name in path:
        field = kind.model_fields.get(name)
        groups = [] if field is None else _groups_in(field.annotation)
        if not groups:
            break
        kind = groups[0]
    return list(kind.model_fields)


def _groups_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in get_args(annotation):
        found += _groups_in(argument)
    return found
