"""Keeps TensorFlow's remarks on drivers that nobody asked for off the screen while it starts."""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def quiet_start() -> Generator[None]:
    """Holds back what is written to standard error in the block, Python's and C++'s; shows it if the block fails.

    TensorFlow writes some lines before it reads the environment variable that would silence them.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices, quietly."""
    with quiet_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
