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


def give(result: Mapping[str, Any], as_json: bool, *, title: str) -> None:
    """The result of a command: one JSON object on standard output, or a table of its plain values for people."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        return
    plain = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    table(title, ["", ""], [[key.replace("_", " "), figure(value)] for key, value in plain.items()], header=False)


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
def groups_progress(title: str) -> Generator[Follow]:
    """A bar a group, fed with the events of `ctr.worker`; yields what to call."""
    plain = _PlainLines()
    with _progress() as progress:
        tasks: dict[int, Any] = {}
        notes: dict[int, dict[str, str]] = {}

        def follow(group: int, event: dict[str, Any]) -> None:
            if event["event"] in ("warning", "note"):
                progress.console.print(f"group {group}: {event['text']}", markup=False)
                return
            if event["event"] == "calibration":
                progress.console.print(f"group {group}: {_calibration_text(event)}", markup=False)
                return
            if event["event"] == "exchange":
                return
            note = notes.setdefault(group, {})
            if event["event"] == "evaluation":
                note["log loss"] = f"{event['log_loss'] if event['log_loss'] is not None else math.nan:.5f}"
            else:
                note["loss"] = f"{event['loss']:.4f}"
                if event["staleness"] is not None:
                    note["peer steps behind"] = str(event["staleness"])
                if group not in tasks:
                    tasks[group] = progress.add_task(f"{title}, group {group}", total=event["steps"], rate="", note="")
                rate = f"{event['examples_per_second']:,.0f} rows/s"
                progress.update(tasks[group], completed=event["step"], rate=rate)
            text = ", ".join(f"{key} {value}" for key, value in note.items())
            if group in tasks:
                progress.update(tasks[group], note=text)
            if event["event"] == "progress":
                where = f"step {event['step']} of {event['steps']}, {event['examples_per_second']:,.0f} rows/s"
                plain.tell(f"{title}, group {group}", event["step"], event["steps"], f"{where}, {text}")

        yield follow


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
