"""Processes forked from one that has imported once what they all need: of TensorFlow each would take 5 seconds.

What they are forked from only imports: it never starts TensorFlow's runtime, which does not survive a fork.
"""

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver

context = multiprocessing.get_context("forkserver")
_starting = threading.Lock()


def start_forkserver(modules: Sequence[str], environment: Mapping[str, str]) -> None:
    """Starts what the processes of `context` are forked from, unless it runs; does not wait until it has imported.

    Args:
        modules: that it imports.
        environment: variables that libraries read when they are loaded, so that it must have them.
    """
    context.set_forkserver_preload(list(modules))
    # Jobs start theirs from threads, and one would take the other's environment for what there was before.
    with _starting:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
