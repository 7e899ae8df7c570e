"""One server process: `python -P -m serving.worker FD`, with its settings as JSON on standard input.

It says on the file descriptor FD that it is ready, or why it cannot be, and stops when its standard input ends: then
whoever started it is gone.
"""

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import uvicorn

from features.errors import BadInput
from serving.ports import family_of, with_port


class Settings(msgspec.Struct):
    """What a server process is told; the options of `ctr serve` in their own words."""

    folder: str
    name: str
    host: str
    port: int
    grpc_port: int | None
    poll: float
    versions: int
    labels: dict[str, int]
    challenger: str | None
    deadline: float
    token: str | None
    drain: float
    threads: int
    access_log: str | None
    workers: int
    watch_folder: str
    sample: float
    sample_folder: str | None
    sample_rows: int
    sample_seconds: float
    demo_page: bool
    about: str


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address that other processes of this server are bound to as well.

    The kernel divides connections among those that listen.
    """
    # The protocol is named, or asyncio does not know it for TCP's and leaves Nagle's delay on: 40 ms an answer.
    bound = socket.socket(family_of(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def main() -> None:
    """Loads, says that it is ready, answers until it is asked to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one tells the others
    report = os.fdopen(int(sys.argv[1]), "wb")
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        app = make_app(settings)
    except BadInput as error:
        _say(report, {"error": str(error)})
        sys.exit(2)
    with listening(settings.host, settings.port) as bound:
        bound.listen(2048)
        _answer(app, settings, bound, report)


def _answer(app: Any, settings: Settings, bound: socket.socket, report: BinaryIO) -> None:
    """Runs the server until it is asked to stop."""
    from serving.drain import Drain
    from serving.protocol import HttpProtocol

    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        log_level="error",
        access_log=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=75,
        server_header=False,
    )
    server = uvicorn.Server(config)
    drain = Drain(server, settings.drain, lambda: setattr(app.engine, "draining", True))

    async def start() -> None:
        try:
            if settings.grpc_port is not None:
                from serving.grpc import start_grpc

                grpc = await start_grpc(app.engine, with_port(settings.host, settings.grpc_port), settings.token)
                app.stopped.insert(0, lambda: grpc.stop(drain.seconds_left()))
        except BadInput as error:
            _say(report, {"error": str(error)})
            server.should_exit = True
        else:
            drain.on_signals()
            _say(report, {"ready": True})

    app.started.append(start)
    server.run(sockets=[bound])


def _say(report: BinaryIO, what: dict[str, Any]) -> None:
    with report:
        report.write(msgspec.json.encode(what))


def make_app(settings: Settings) -> Any:
    """The ASGI application of one server process, its models loaded."""
    from serving.model import tf

    # A challenger has a thread of its own, so that requests do not wait for it in TensorFlow's queue.
    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(max(settings.threads, 2 if settings.challenger else 1))
    # TensorFlow itself is some 420,000 objects; a collection that looks at them all takes 0.3 to 0.5 s and would be the
    # tail of answers. Those of models, some 12,000 each, are not frozen: a model that is taken away is really gone.
    gc.collect()
    gc.freeze()
    from serving.access_log import access_log
    from serving.engine import Engine
    from serving.hooks import Hook
    from serving.http import HttpApp
    from serving.loading import error_code, load_warm
    from serving.monitoring import add_monitoring
    from serving.openapi import describe
    from serving.sampling import Sampler
    from serving.versions import Versions
    from serving.watch import Watch

    def versions_of(folder: str, name: str, keep: int, labels: Mapping[str, int]) -> Versions[Any]:
        made = Versions[Any](Path(folder), name, load=load_warm, code_of=error_code, keep=keep, labels=labels)
        made.poll()
        if not made.ready:
            raise BadInput(why_not(made))
        gc.collect()
        made.watch(settings.poll)
        return made

    champion = versions_of(settings.folder, settings.name, settings.versions, settings.labels)
    challenger = versions_of(settings.challenger, "challenger", 1, {}) if settings.challenger else None
    watch = Watch(Path(settings.watch_folder), settings.workers)
    listeners: list[Hook] = [watch]
    if settings.access_log:
        listeners.append(access_log(Path(settings.access_log)))
    engine = Engine(champion, deadline=settings.deadline, challenger=challenger, listeners=listeners)
    app = HttpApp(engine, token=settings.token, about=settings.about)
    app.stopped.append(engine.settle)
    if settings.sample_folder is not None:
        sampler = Sampler(
            settings.sample, Path(settings.sample_folder), rows=settings.sample_rows, seconds=settings.sample_seconds
        )
        engine.listeners.append(sampler)
        sampler.start()
        app.stopped.append(sampler.close)
    watch.start()
    roles = {"champion": champion, **({"challenger": challenger} if challenger else {})}
    add_monitoring(app, watch, roles.items())

    def openapi() -> tuple[int, dict[str, Any]]:
        with champion.using() as version:
            return 200, describe(settings.name, version.loaded, settings.about, settings.token is not None)

    app.pages["/openapi.json"] = openapi
    if settings.demo_page:
        from serving.demo import add_demo

        add_demo(app, token=settings.token is not None)
    return app


def why_not(versions: Any) -> str:
    """Why nothing of a folder can be served."""
    from serving.refusal import Refused

    try:
        return versions.states()[0].error_message
    except Refused:
        return f"{versions.folder} holds no version that can be served"


def _stop_with_parent() -> None:
    # Not through `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
