"""`ctr serve`: its options, and what they mean to the server processes."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from features.errors import BadInput

_TOKEN = "CTR_SERVE_TOKEN"
_HERE = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Annotated[str, typer.Argument(help="A run, a SavedModel, a folder of versions, or models:/ctr@champion.")],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    grpc_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Also answer gRPC here.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port, and the cores.")] = 1,
    name: Annotated[str, typer.Option(help="The model's name in URLs.")] = "ctr",
    poll: Annotated[float, typer.Option(min=0.05, help="Seconds from one look for new versions to the next.")] = 2,
    versions: Annotated[int, typer.Option(min=1, help="How many of the newest versions answer.")] = 1,
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VERSION in URLs; repeatable. It keeps answering.")
    ] = None,
    challenger: Annotated[str | None, typer.Option(help="A MODEL that scores requests after their answers.")] = None,
    deadline_ms: Annotated[int, typer.Option(min=1, help="How long a request may take.")] = 1000,
    token: Annotated[str | None, typer.Option(help=f"What callers must send; better in {_TOKEN}.")] = None,
    drain_seconds: Annotated[float, typer.Option(min=0, help="How long a stop may take.")] = 30,
    access_log: Annotated[Path | None, typer.Option(help="A file for a line of JSON a request.")] = None,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that are kept.")] = 0,
    sample_dir: Annotated[Path | None, typer.Option(help="Where they are kept, with their scores.")] = None,
    sample_rows: Annotated[int, typer.Option(min=1, help="A file of them has at least so many rows,")] = 5000,
    sample_seconds: Annotated[float, typer.Option(min=0.1, help="or those of so many seconds.")] = 60,
    demo_page: Annotated[bool, typer.Option("--demo-page", help="Also a page to try the model on, /demo.")] = False,
) -> None:
    """Answer TensorFlow Serving's REST (and gRPC) and the Open Inference Protocol with a model."""
    from importlib.metadata import version
    from tempfile import TemporaryDirectory

    from ctr.follow import followed
    from serving.app import serve as answer
    from serving.worker import Settings

    labels = _labels(label or [])
    token = token if token is not None else os.environ.get(_TOKEN) or None
    if token is not None and not token.strip():
        raise BadInput(f"--token is empty; give one, or leave it out and have no {_TOKEN} in the environment")
    if host not in _HERE and token is None:
        sys.stderr.write(f"warning: whoever reaches {host}:{port} may ask; --token or {_TOKEN} asks for a token\n")
    if (sample > 0) != (sample_dir is not None):
        raise BadInput("--sample SHARE and --sample-dir DIR belong together; give both, SHARE above 0")
    with (
        TemporaryDirectory(prefix="ctr-watch-") as watched,
        followed(model, poll) as folder,
        followed(challenger, poll) as challengers,
    ):
        settings = Settings(
            folder=str(folder),
            name=name,
            host=host,
            port=port,
            grpc_port=grpc_port,
            poll=poll,
            versions=versions,
            labels=labels,
            challenger=None if challengers is None else str(challengers),
            deadline=deadline_ms / 1000,
            token=token,
            drain=drain_seconds,
            # Cores are divided among the processes. 16 clients, 10 ads a request, 2 cores that others used too: one
            # process answered 1.2 to 1.5 times as many requests with two threads as with one.
            threads=max(1, len(os.sched_getaffinity(0)) // workers),
            access_log=None if access_log is None else str(access_log),
            workers=workers,
            watch_folder=watched,
            sample=sample,
            sample_folder=None if sample_dir is None else str(sample_dir),
            sample_rows=sample_rows,
            sample_seconds=sample_seconds,
            demo_page=demo_page,
            about=version("ctr"),
        )
        answer(settings, workers)


def _labels(given: list[str]) -> dict[str, int]:
    """`NAME=VERSION`s as a map. Raises BadInput for anything else."""
    found: dict[str, int] = {}
    for each in given:
        name, _, number = each.partition("=")
        if not name or set(name) & set("/:") or not (number.isascii() and number.isdigit()):
            raise BadInput(f"--label {each!r} is not NAME=VERSION, such as stable=3")
        found[name] = int(number)
    return found
