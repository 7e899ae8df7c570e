"""`ctr ui`: MLflow's own UI on the project's store."""

import contextlib
import os
import signal
import subprocess
import sys

from ctr import tracking
from ctr.launch import interrupt_on_sigterm
from features.errors import WorkFailed
from serving.ports import check_free


def serve_ui(port: int) -> None:
    """Serves the UI on this machine until Ctrl-C. Raises BadInput if the port is in use."""
    check_free("127.0.0.1", port)
    tracking.client()
    sys.stderr.write(f"MLflow's UI on {tracking.store()}: http://127.0.0.1:{port} (Ctrl-C stops)\n")
    # One worker and no job execution: the UI is up in seconds instead of half a minute.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking.store()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # In a process group of its own, as MLflow starts further processes that would outlive it.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    interrupt_on_sigterm()
    try:
        code = server.wait()
    except KeyboardInterrupt:
        code = 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    if code:
        raise WorkFailed(f"MLflow's UI ended with code {code}; what it said is above")
