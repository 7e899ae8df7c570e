"""What scoring processes find imported (`serving.scorers`), without what TensorFlow says of itself when it is."""

import signal

from serving.quiet import quiet_start

# Ctrl-C is for who started it, with whom it ends.
signal.signal(signal.SIGINT, signal.SIG_IGN)
with quiet_start():
    import tensorflow

__all__ = ["tensorflow"]
