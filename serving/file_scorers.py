"""Scores raw logs file by file on the nodes of a cluster. Scores come back through the folder of finished parts."""

import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from features.engine import Engine, Seen, check_shared
from features.errors import WorkFailed
from features.memory import give_back_freed_memory
from features.progress import Progress
from features.sources import Source, pieces
from serving.parts import Parts
from serving.scorers import Scored, load, score_batch

if TYPE_CHECKING:
    from serving.model import ServedModel


@dataclass(frozen=True)
class Finished:
    """A piece of a log whose scores are among the parts; `seconds` as of `Scored`, none if they were there before."""

    first_row: int
    rows: int
    seconds: dict[str, float]


class FileScorers:
    """Whoever an engine has to work through files, each with a model of its own.

    Attributes:
        loading: the most seconds that one of them needed to load the model.
    """

    def __init__(self, model: Path, engine: Engine):
        """`model` is a SavedModel folder. Raises BadInput if a node does not see its files."""
        self.loading = 0.0
        self._model, self._engine = model.absolute(), engine
        engine.check_seen([path for path in self._model.rglob("*") if path.is_file()])

    def score(self, sources: list[Source], progress: Progress, parts: Parts) -> Generator[Scored]:
        """All pieces of the sources in order; those that are not among the `parts` are scored and added to them."""
        check_shared(self._engine, parts.folder)
        total, done = sum(source.rows for source in sources), 0

        def seen(rows: int) -> None:
            nonlocal done
            done += rows
            progress("scoring", done, total)

        work = partial(score_files, model=self._model, folder=parts.folder.absolute())
        for finished, loading in self._engine.run(work, sources, seen):
            self.loading = max(self.loading, loading)
            for each in finished:
                scored = parts.find(each.first_row, each.rows)
                if scored is None:
                    raise WorkFailed(
                        f"the scores of rows {each.first_row} and on were written, but are not in {parts.folder}; all "
                        "nodes must share it; the same command goes on"
                    )
                yield replace(scored, seconds=each.seconds)


def score_files(sources: Iterable[Source], seen: Seen, *, model: Path, folder: Path) -> tuple[list[Finished], float]:
    """Scores the pieces of files that are not among the parts in `folder`; gives all, and the seconds of loading."""
    give_back_freed_memory()
    parts, began = Parts(folder), time.monotonic()
    loaded, loading = _loaded(model), time.monotonic() - began
    finished: list[Finished] = []
    for piece in pieces(sources, loaded.spec.schema):
        found = parts.find(piece.first_row, piece.rows)
        if found is None:
            found = score_batch(loaded, piece.parse)
            parts.keep(piece.first_row, found)
        finished.append(Finished(piece.first_row, piece.rows, found.seconds))
        seen(piece.rows)
    return finished, loading


@lru_cache(maxsize=1)
def _loaded(model: Path) -> "ServedModel":
    """For all files that this process scores."""
    return load(model)
