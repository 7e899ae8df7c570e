"""What tests of the manifests share: what is in them, and how it is held against the real command line and settings."""

import re
import shlex
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from ctr.cli import app
from ctr.config import load_config
from features.errors import BadInput

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "configs" / "deploy"
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    """The objects that a manifest makes."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def walk(value: Any) -> Iterator[Any]:
    """A value and all that is in it."""
    yield value
    inside: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        yield from walk(each)


def pod_templates(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every template of a pod in an object of any kind."""
    found = [each for each in walk(document) if isinstance(each, dict) and isinstance(each.get("spec"), dict)]
    return [each for each in found if "containers" in each["spec"]]


def containers(path: Path) -> list[dict[str, Any]]:
    """Every container of a manifest."""
    templates = [template for document in documents(path) for template in pod_templates(document)]
    return [container for template in templates for container in template["spec"]["containers"]]


def commands_in(text: str) -> list[list[str]]:
    """The words of every `ctr` command in a script, a manifest or its comments."""
    plain = re.sub(r"^ *# ?", "", text, flags=re.MULTILINE)
    plain = re.sub(r"(\\|&&)\n *", r"\1 ", plain)
    # Up to where a shell ends a command, a comment begins, or the string that the command stands in is closed.
    command = r"(?<![\w./-])ctr (?=[a-z-]+ )((?:'[^'\n]*'|\"[^\"\n]*\"|[^\n;|&#'\"])+)"
    found = [shlex.split(words) for words in re.findall(command, plain)]
    return [words for words in found if words[0] in _commands()]


def listed_commands(path: Path) -> list[list[str]]:
    """The words of the commands that a manifest's containers run without a shell."""
    return [container["command"][1:] for container in containers(path) if container.get("command", [""])[0] == "ctr"]


def check_command(words: list[str]) -> None:
    """Raises BadInput for a `ctr` command that the command line would not take.

    A configuration that it names must be the project's and valid, and so must every setting.
    """
    name, *arguments = words
    try:
        given = _commands()[name].make_context(name, list(arguments)).params
    except Exception as error:  # typer keeps its own copy of click's
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        raise BadInput(f"ctr {shlex.join(words)}: {said()}") from None
    config = given.get("config")
    load_config(None if config is None else ROOT / config, list(given.get("settings") or []))


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return group.commands


def environment(path: Path) -> Generator[tuple[dict[str, Any], str]]:
    """Each container with each variable that it is given."""
    for container in containers(path):
        for variable in container.get("env", []):
            yield container, variable["name"]


def has_option(command: str, option: str) -> bool:
    """Whether a `ctr` command has an option."""
    return any(option in parameter.opts for parameter in _commands()[command].params)
