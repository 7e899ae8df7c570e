"""How a command ends: exit code 0 done, 1 the work failed, 2 wrong usage or bad input, and one line that says why."""

import os
import sys
from collections.abc import Callable
from typing import Any

from features.errors import BadInput, WorkFailed

# What typer returns when a command is stopped by Ctrl-C.
_INTERRUPTED = 130


def exit_code(app: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Runs a typer application on the arguments (the process's own by default) and returns its exit code.

    An error that nobody foresaw is one line too; with CTR_DEBUG in the environment it is raised, with its traceback.
    """
    try:
        result = app(args=arguments, standalone_mode=False)
    except Exception as error:
        text, code = _explain(error)
        if code is None:
            raise
        return _fail(text, code)
    if result == _INTERRUPTED:
        return _fail(
            "stopped by Ctrl-C; nothing half-written is left, and `ctr train`, `ctr compare` and `ctr predict` resume",
            1,
        )
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> tuple[str, int | None]:
    """What to say of an error and the exit code; None for the code to let it pass."""
    if isinstance(error, (BadInput, WorkFailed)):
        return str(error), 2 if isinstance(error, BadInput) else 1
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}; check the path, its permissions and the disk's free space", 1
    said = getattr(error, "format_message", None)
    if said is not None:  # an error of usage
        command = getattr(getattr(error, "ctx", None), "command_path", "ctr")
        return f"{said()} Try '{command} --help'.", 2
    text = f"{type(error).__name__}: {error}; this is a fault of ctr's: CTR_DEBUG=1 shows where"
    return text, None if os.environ.get("CTR_DEBUG") else 1


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return code
