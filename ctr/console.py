"""What people see: progress bars and tables, on standard error, so that standard output holds results alone."""

import json
import math
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ctr.cluster import Follow
from features.progress import Progress as Told

screen = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


def say(text: str) -> None:
    """A line for people."""
    screen.print(text, markup=False, soft_wrap=True)


def give(result: Mapping[str, Any], as_json: bool, *, title: str, more: Sequence[str] = ()) -> None:
    """The result of a command: one JSON object on standard output, or a table of its plain values for people.

    `more`: lines for people below it.
    """
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        return
    plain = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    table(title, ["", ""], [[key.replace("_", " "), figure(value)] for key, value in plain.items()], header=False)
    for line in more:
        say(line)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """A table for people; columns after the first are aligned right."""
    drawn = Table(title=title, title_justify="left", show_header=header)
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 or not header else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    screen.print(drawn)


def moved_text(fields: Sequence[str]) -> str:
    """Which fields moved, in a few words."""
    if not fields:
        return "no field moved"
    more = f" and {len(fields) - 5} more" if len(fields) > 5 else ""
    return f"{len(fields)} field{'s' if len(fields) > 1 else ''} moved: {', '.join(fields[:5])}{more}"


def show_drift(first: str, second: str, result: Mapping[str, Any]) -> None:
    """How far each field moved from one log to another, those that moved furthest first."""
    ranked = sorted(result["fields"].items(), key=lambda field: -(field[1]["stability_index"] or 0))
    rows = [
        [name, *(f"{about[key] or 0:.3f}" for key in ("stability_index", "by_chance")), "moved" * about["moved"]]
        for name, about in ranked
    ]
    table(f"{first} and {second}", ["field", "stability index", "by chance below", ""], rows)
    say(moved_text(result["moved"]))
    if any(result["rows_rejected"]):
        say("rows that could not be read and were left out: {} and {}".format(*result["rows_rejected"]))


def figure(value: object) -> str:
    """A value as people read it: five decimals below 10, thousands separated above."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.5f}" if abs(value) < 10 else f"{value:,.0f}"
    return str(value)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]:>16}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=screen,
        # A log file gets a line now and then instead of a moving bar.
        disable=not screen.is_terminal,
    )


@contextmanager
def rows_progress() -> Generator[Told]:
    """A bar a stage, fed with rows done; yields what to call."""
    plain = _PlainLines()
    with _progress() as progress:
        tasks: dict[str, Any] = {}

        def told(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, rate="", note="")
            progress.update(tasks[stage], completed=done)
            speed = progress.tasks[tasks[stage]].speed
            progress.update(tasks[stage], rate=f"{speed:,.0f}/s" if speed else "")
            rate = f", {speed:,.0f} a second" if speed else ""
            plain.tell(stage, done, total, f"{done:,} of {total:,}{rate}")

        yield told


@contextmanager
def groups_progress() -> Generator["Bars"]:
    """Bars of groups in training; several runs may have theirs at a time."""
    with _progress() as progress:
        yield Bars(progress, _PlainLines())


class Bars:
    """A bar a group, and one for the whole of what many runs have to do."""

    def __init__(self, progress: Progress, plain: "_PlainLines"):
        self._progress, self._plain = progress, plain
        self._whole: Any = None

    def expect(self, title: str, steps: int) -> None:
        """A bar for all the steps that are still to come, which `advance` moves."""
        self._whole = self._progress.add_task(title, total=steps, rate="", note="")

    def advance(self, steps: int, note: str) -> None:
        """So many of those steps are done, or need not be done."""
        self._progress.update(self._whole, advance=steps, note=note)
        task = self._progress.tasks[self._whole]
        self._plain.tell(task.description, int(task.completed), int(task.total or 0), note)

    @contextmanager
    def run(self, title: str) -> Generator[Follow]:
        """Bars of a run's groups, as long as it lasts; yields what to call with the events of `ctr.worker`."""
        tasks: dict[int, Any] = {}
        notes: dict[int, dict[str, str]] = {}

        def follow(group: int, event: dict[str, Any]) -> None:
            kind, name = event["event"], f"{title}, group {group}"
            if kind in ("warning", "note"):
                self._progress.console.print(f"{name}: {event['text']}", markup=False)
                return
            if kind == "calibration":
                self._progress.console.print(f"{name}: {_calibration_text(event)}", markup=False)
                return
            note = notes.setdefault(group, {})
            if kind == "evaluation":
                note["log loss"] = f"{event['log_loss'] if event['log_loss'] is not None else math.nan:.5f}"
            if kind != "progress":
                return
            note["loss"] = f"{event['loss']:.4f}"
            if event["staleness"] is not None:
                note["peer steps behind"] = str(event["staleness"])
            rate = f"{event['examples_per_second']:,.0f} rows/s"
            text = ", ".join(f"{key} {value}" for key, value in note.items())
            if group not in tasks:
                tasks[group] = self._progress.add_task(name, total=event["steps"], rate="", note="")
            self._progress.update(tasks[group], completed=event["step"], rate=rate, note=text)
            where = f"step {event['step']} of {event['steps']}, {rate}"
            self._plain.tell(name, event["step"], event["steps"], f"{where}, {text}")

        try:
            yield follow
        finally:
            for task in tasks.values():
                self._progress.remove_task(task)


def _calibration_text(event: dict[str, Any]) -> str:
    changes = [
        f"{name} {event[f'{key}_before']:.5f} to {event[f'{key}_after']:.5f}"
        for key, name in (("log_loss", "log loss"), ("ece", "calibration error"))
    ]
    return f"{event['method']} calibration on the {event['rows']:,} rows that it was fitted on: {', '.join(changes)}"


class _PlainLines:
    """Progress where there is no terminal: a line a stage every two seconds, and one at its end."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[float, int]] = {}
        self.last: dict[str, float] = {}

    def tell(self, stage: str, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        began, at_first = self.first.setdefault(stage, (now, done))
        if screen.is_terminal or (now - self.last.get(stage, now - 3) < 2 and done < total):
            return
        self.last[stage] = now
        speed = (done - at_first) / (now - began) if done > at_first else 0.0
        left = f", {(total - done) / speed:.0f} s left" if speed and done < total else ""
        say(f"{stage}: {text}{left}")
