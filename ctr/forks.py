"""`ctr` commands in processes that find TensorFlow imported (`serving.forking`): a comparison starts dozens of them."""

import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from serving.forking import context, start_forkserver

_IMPORTED = ["ctr.preloaded"]
# Read when libraries are loaded, so what they are forked from must have them; `ctr.cluster` says why.
_AT_IMPORT = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "GLIBC_TUNABLES")


class Fork:
    """A `ctr` command in a forked process: as much of `subprocess.Popen` as the launcher needs."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path):
        """Starts `ctr ARGUMENTS` with variables beside those of this process; its standard output is `stdout`, its
        standard error is appended to `log`."""
        start_forkserver(_IMPORTED, {name: environment[name] for name in _AT_IMPORT})
        whole = {**os.environ, **environment}
        said, say = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(list(arguments), whole, str(log), say), daemon=True)
        self._process.start()
        say.close()
        self.pid: int = self._process.pid or 0
        self.stdout: IO[str] = os.fdopen(os.dup(said.fileno()), "r", encoding="utf-8")
        said.close()

    @property
    def returncode(self) -> int | None:
        """As of `poll`: None while it runs, minus the signal that killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once there is one. Raises TimeoutError after `timeout` seconds."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise TimeoutError
        return code


def _run(arguments: list[str], environment: dict[str, str], log: str, say: Connection) -> None:
    """In the forked process: the command, with the environment, output and session of a process of its own."""
    os.setsid()
    os.environ.clear()
    # Its parent is the server, which ends with the launcher.
    os.environ.update({**environment, "CTR_PARENT": str(os.getppid())})
    os.dup2(say.fileno(), 1)
    errors = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(errors, 2)
    output: Any
    for number, name in ((1, "stdout"), (2, "stderr")):
        output = os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False)
        setattr(sys, name, output)
    from ctr.cli import app
    from ctr.exits import exit_code

    sys.exit(exit_code(app, arguments))
