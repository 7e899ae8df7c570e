"""Counts what requests ask, how long they take and what the model says of them; looks at their fields afterwards."""

import logging
import threading
from pathlib import Path
from typing import Any

from serving.figures import Figures, publish, published
from serving.hooks import Call
from serving.rows import Inputs
from serving.versions import END, Version
from serving.window import Window

# Seconds between two looks at the fields of what has been scored meanwhile, in a thread.
_LOOK = 1.0
# So many rows a look at most: of 36,000 rows a second one in 18, of up to 2,000 all. 2,000 rows take some 20 ms.
_LOOK_ROWS = 2000
# Over all processes.
WINDOW_ROWS = 10_000

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SCORES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Watch:
    """A listener of one process, and what all processes of the server counted."""

    def __init__(self, folder: Path, processes: int):
        """`folder` is shared with the server's other processes, `processes` altogether."""
        self._folder = folder
        self._window_rows = WINDOW_ROWS // processes
        self._calls, self._looks = Figures(), Figures()
        self._waiting: list[tuple[Version[Any], Any, Inputs, list[float]]] = []
        self._waiting_rows = 0
        self._windows: dict[Version[Any], Window] = {}
        self._publishing, self._stop = threading.Lock(), threading.Event()

    def __call__(self, call: Call) -> None:
        figures, kind, status = self._calls, call.kind, str(call.status)
        figures.count(("ctr_requests", kind, status))
        figures.observe(("ctr_request_seconds", kind), SECONDS, call.seconds)
        if call.inputs is None or not call.scores or call.version is None:
            rows = call.inputs.rows if call.inputs else call.asked
            if rows:
                figures.count(("ctr_rows_rejected", kind, status), rows)
            return
        rows = call.inputs.rows
        figures.count(("ctr_rows", kind), rows)
        figures.observe(("ctr_request_rows",), ROWS, rows)
        figures.observe(("ctr_queue_seconds",), SECONDS, call.queue_seconds)
        figures.observe(("ctr_model_seconds",), SECONDS, call.model_seconds)
        figures.observe(("ctr_score", "champion", str(call.version.number)), SCORES, *call.scores)
        if call.challenger_scores is not None and call.challenger_version is not None:
            number = str(call.challenger_version.number)
            figures.observe(("ctr_score", "challenger", number), SCORES, *call.challenger_scores)
        if self._waiting_rows < _LOOK_ROWS and call.version.model is not None:
            self._waiting.append((call.version, call.version.model.model, call.inputs, call.scores))
            self._waiting_rows += rows

    def start(self) -> None:
        """Looks at fields and publishes every second, until `stop`."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """Ends that."""
        self._stop.set()

    def whole(self) -> Figures:
        """The figures of all processes: this one's as they are, the others' as of the last second."""
        # Only what is published is summed up, so that whoever is asked next has no smaller figures.
        self._publish()
        return published(self._folder)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK):
            try:
                self.look()
                self._publish()
            except Exception:  # requests are answered whatever happens here
                logging.getLogger("ctr").exception("requests could not be looked at")

    def look(self) -> None:
        """Counts missing and unseen values of what has been scored since the last look."""
        # A request that comes just now may be passed over; nothing else can happen.
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        for version in {each[0]: None for each in waiting}:
            mine = [(model, inputs, scores) for of, model, inputs, scores in waiting if of is version]
            if version not in self._windows:
                model = mine[0][0]
                self._windows[version] = Window(version.number, model.spec, model.card, self._window_rows)
            window = self._windows[version]
            missing, unseen = window.look([(inputs, scores) for _, inputs, scores in mine])
            self._looks.count(("ctr_rows_looked_at",), sum(inputs.rows for _, inputs, _ in mine))
            for name, absent, new in zip(window.fields, missing.tolist(), unseen.tolist(), strict=True):
                self._looks.count(("ctr_field_missing", name), absent)
                self._looks.count(("ctr_field_unseen", name), new)
        self._windows = {version: each for version, each in self._windows.items() if version.state != END}
        self._looks.windows = {each.name: each.sums.tolist() for each in self._windows.values()}

    def _publish(self) -> None:
        with self._publishing:
            mine = Figures()
            # One process's figures are of two threads. Copying a dict is one step to Python's other threads.
            for figures in (self._calls, self._looks):
                mine.add(Figures(dict(figures.counters), dict(figures.histograms), dict(figures.windows)))
            publish(mine, self._folder)
