"""`ctr serve`: loads a model, warms it, and answers REST and, if asked, gRPC."""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn

from features.errors import BadInput
from serving.card import read_card
from serving.ports import check_free

_MODEL, _NAME, _GRPC = "CTR_SERVE_MODEL", "CTR_SERVE_NAME", "CTR_SERVE_GRPC"


def serve(folder: Path, *, name: str, host: str, port: int, grpc_port: int | None, workers: int) -> None:
    """Answers until it is asked to stop (Ctrl-C, SIGTERM), finishing what is in flight.

    Raises BadInput if a port is in use, or if gRPC is asked of several processes.
    """
    read_card(folder)
    if grpc_port is not None and workers > 1:
        raise BadInput(f"--grpc-port works with one process, --workers is {workers}; leave one of them out")
    for asked in [port, *([grpc_port] if grpc_port is not None else [])]:
        check_free(host, asked)
    # Handed on through the environment, since further worker processes are started afresh.
    grpc_address = "" if grpc_port is None else f"{host}:{grpc_port}"
    os.environ.update({_MODEL: str(folder), _NAME: name, _GRPC: grpc_address})
    sys.stderr.write(f"serving {folder} as '{name}' on http://{host}:{port}/v1/models/{name}:predict (Ctrl-C stops)\n")
    # uvicorn finishes what is in flight and then raises the signal once more, which would end in code 143.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    uvicorn.run(
        "serving.app:make_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
        access_log=False,
    )


def make_app() -> Any:
    """The ASGI application of one server process; loads the model."""
    from serving.model import ServedModel
    from serving.rest import RestApp

    model = ServedModel(Path(os.environ[_MODEL]))
    for rows in (1, 64):
        model.from_columns({}, rows)
    app = RestApp(model, os.environ[_NAME])
    if os.environ[_GRPC]:
        from serving.grpc import start_grpc

        # Kept by the application: a gRPC server that nobody refers to stops.
        app.companion = start_grpc(model, os.environ[_NAME], os.environ[_GRPC])
    # TensorFlow leaves some 400,000 objects behind; a full collection over them takes 0.28 s and would be the tail.
    gc.collect()
    gc.freeze()
    return app
