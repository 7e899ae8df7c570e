"""Finished parts of a scoring run, kept beside its output until that is whole, so that a killed run goes on."""

import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from features import blocks, sources
from features.errors import BadInput
from features.locks import try_lock
from features.output import appears_whole
from features.sources import Source
from serving.scorers import CALL_ROWS, Scored

_MANIFEST, _LOCK = "manifest.json", "lock"


class Parts:
    """The parts in a folder: of the piece of the log that begins with row n, `n.arrow`, its scores, and
    `n.rejected.arrow`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.finished = len(list(folder.glob("[0-9]*[0-9].arrow")))

    def find(self, first_row: int, rows: int) -> Scored | None:
        """What became of a piece of so many rows; None if it was not finished, or is cut or damaged."""
        scores, rejected = self._paths(first_row)
        try:
            found = Scored(pl.read_ipc(scores), pl.read_ipc(rejected), {})
        except (OSError, pl.exceptions.PolarsError):
            return None
        return found if found.read == rows else None

    def keep(self, first_row: int, scored: Scored) -> None:
        """Writes what became of a piece; where that is killed the piece is not finished."""
        scores, rejected = self._paths(first_row)
        _put(scored.rejected, rejected)
        _put(scored.scores, scores)

    def _paths(self, first_row: int) -> tuple[Path, Path]:
        return self.folder / f"{first_row:012d}.arrow", self.folder / f"{first_row:012d}.rejected.arrow"


def _put(frame: pl.DataFrame, path: Path) -> None:
    # On a cluster two may be at work on one piece, where one is thought to be lost.
    aside = path.with_name(f"{uuid4().hex}.partial")
    frame.write_ipc(aside)
    aside.replace(path)


@contextmanager
def parts_of(folder: Path, about: dict[str, Any]) -> Generator[tuple[Parts, bool]]:
    """The parts in `folder`, which is removed when the block ends well, or in BadInput, and kept otherwise.

    Gives too whether there were parts that are of something else than `about`, and so removed. Raises BadInput if the
    folder is no such, or in use.
    """
    if folder.exists() and not (folder / _MANIFEST).exists():
        raise BadInput(f"{folder} is in the way of the parts that are finished; move it or choose another --out")
    others = folder.exists() and json.loads((folder / _MANIFEST).read_text(encoding="utf-8")) != about
    lock = _locked(folder) if folder.exists() else None
    if lock and others:
        shutil.rmtree(folder)
        lock.close()
    if not folder.exists():
        with appears_whole(folder) as made:
            (made / _MANIFEST).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        lock = _locked(folder)
    try:
        yield Parts(folder), others
    except BadInput:
        shutil.rmtree(folder)
        raise
    else:
        shutil.rmtree(folder)
    finally:
        if lock:
            lock.close()


def what_is_scored(model: Path, opened: list[Source]) -> dict[str, Any]:
    """Model, inputs, and how these are cut into parts; equal ones have equal parts."""
    inputs = [
        {"path": each.path, **dict(zip(("size", "mtime_ns"), blocks.stamp(each.path), strict=True))} for each in opened
    ]
    cut = {"block_bytes": blocks.BLOCK_BYTES, "parquet_rows": sources.BATCH_ROWS, "call_rows": CALL_ROWS}
    return {"version": 2, "model": _digest(model), "inputs": inputs, "cut": cut}


def _digest(folder: Path) -> str:
    """SHA-256 of all files of a folder."""
    content = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            content.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return content.hexdigest()


def _locked(folder: Path) -> Any:
    lock = try_lock(folder / _LOCK)
    if lock is None:
        raise BadInput(f"another process works on {folder}; wait for it, or choose another --out")
    return lock
