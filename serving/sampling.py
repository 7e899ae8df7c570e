"""A share of the requests with their scores as Parquet files, to be joined with clicks when these are known."""

import hashlib
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import BadInput, WorkFailed
from features.output import file_appears_whole
from features.schema import Schema
from serving.hooks import Call
from serving.raw_columns import raw_frame
from serving.rows import Inputs

PREFIX = "sample-"
# Of the files' own metadata: what the model's label is called.
LABEL = "ctr_label"
COLUMNS = ("id", "time", "version", "probability")

_LOOK = 0.1
# While a disk is too slow or full, so many times the rows of a file are held, and no more.
_HELD = 4


def chosen(request: str, share: float) -> bool:
    """Whether a request is in the sample: by its id alone, so that it is the same in every process and every time."""
    digest = hashlib.blake2b(request.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class Sampler:
    """A listener that keeps a share of the requests of one process."""

    def __init__(self, share: float, folder: Path, *, rows: int, seconds: float):
        """A file is written when there are `rows`, and after `seconds`. Raises BadInput if it could not be."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise OSError
        except OSError:
            raise BadInput(f"--sample-dir {folder} cannot be written to; choose another folder") from None
        self._share, self._folder, self._rows, self._seconds = share, folder, rows, seconds
        self._held: list[tuple[Schema, datetime, str, int, Inputs, list[float]]] = []
        self._held_rows = self._files = self._dropped = 0
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sample", daemon=True)

    def __call__(self, call: Call) -> None:
        version, inputs = call.version, call.inputs
        if inputs is None or version is None or not call.scores or not chosen(call.id, self._share):
            return
        if version.model is None or self._held_rows >= _HELD * self._rows:
            self._dropped += inputs.rows
            return
        schema = version.model.model.spec.schema
        self._held.append((schema, datetime.now(UTC), call.id, version.number, inputs, call.scores))
        self._held_rows += inputs.rows

    def start(self) -> None:
        """Writes files in a thread, until `close`."""
        self._thread.start()

    async def close(self) -> None:
        """Writes what is held still."""
        self._stop.set()
        self._thread.join()
        self._write()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK):
            if self._held_rows >= self._rows or time.monotonic() - self._since >= self._seconds:
                self._write()

    def _write(self) -> None:
        self._since = time.monotonic()
        held, self._held = self._held, []
        self._held_rows = 0
        dropped, self._dropped = self._dropped, 0
        # A file has rows of one schema; versions of one model nearly always have the same.
        try:
            for schema in {id(each[0]): each[0] for each in held}.values():
                self._write_file(schema, [each for each in held if each[0] is schema])
        except (WorkFailed, OSError) as error:
            logging.getLogger("ctr").warning("a file of --sample-dir is lost: %s", error)
        if dropped:
            logging.getLogger("ctr").warning("%d rows are not in the sample: writing does not keep up", dropped)

    def _write_file(self, schema: Schema, held: list[tuple[Schema, datetime, str, int, Inputs, list[float]]]) -> None:
        self._files += 1
        name = f"{PREFIX}{held[0][1]:%Y%m%dT%H%M%S}-{os.getpid()}-{self._files}.parquet"
        with file_appears_whole(self._folder / name) as path:
            try:
                sample_frame(schema, held).write_parquet(path, compression="zstd", metadata={LABEL: schema.label})
            except pl.exceptions.PolarsError as error:
                raise WorkFailed(f"{name} cannot be written: {' '.join(str(error).split())}") from None


def sample_frame(schema: Schema, held: list[tuple[Schema, datetime, str, int, Inputs, list[float]]]) -> pl.DataFrame:
    """Rows of requests as they are kept: `id` (request and row), `time`, `version`, `probability`, the raw fields.

    A raw field with the name of one of those is called `field_NAME`.
    """
    about: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for _, when, request, version, inputs, scores in held:
        about["id"] += [f"{request}/{row}" for row in range(inputs.rows)]
        about["time"] += [when] * inputs.rows
        about["version"] += [version] * inputs.rows
        about["probability"] += scores
    types = {"id": pl.String, "time": pl.Datetime("ms", "UTC"), "version": pl.Int64, "probability": pl.Float64}
    fields = raw_frame([inputs for _, _, _, _, inputs, _ in held], schema)
    renamed = fields.rename({name: f"field_{name}" for name in fields.columns if name in COLUMNS})
    return pl.DataFrame(about, schema=types).hstack(renamed)
