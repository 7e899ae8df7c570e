"""The place that all groups see: a folder, or an object store by its address. What is put there appears whole."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any


class StoreError(Exception):
    """The store cannot be reached or is full; the message is one line."""


class Store:
    """Files by name under an address: a folder, `memory://...`, `s3://...` or whatever else fsspec knows.

    Every method raises StoreError where the store does not do what it is asked. `poll_seconds`: how long to wait before
    asking again whether something has come.
    """

    def __init__(self, address: str):
        """Nothing is opened yet: a store that cannot be reached now may be reached later."""
        self.address = address
        self.local = "://" not in address
        self.poll_seconds = 0.02 if self.local else 0.5
        self._opened: Any = None

    def put(self, name: str, content: bytes) -> None:
        """Makes a file with this content, in place of one of that name; a reader sees the old, the new, or none."""
        with self._told(name) as (files, path):
            if self.local:
                _put_local(Path(path), content)
            else:
                # An object is there when all of it is.
                files.pipe_file(path, content)

    def get(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        with self._told(name) as (files, path):
            try:
                return files.cat_file(path)
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, without it; none if there is no such folder."""
        with self._told(folder) as (files, path):
            try:
                found = files.ls(path, detail=False, **({} if self.local else {"refresh": True}))
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [each.rstrip("/").rpartition("/")[2] for each in found]

    def remove(self, name: str) -> None:
        """Removes a file, if it is there and can be removed."""
        with contextlib.suppress(StoreError), self._told(name) as (files, path):
            files.rm_file(path)

    @contextlib.contextmanager
    def _told(self, name: str) -> Generator[tuple[Any, str]]:
        try:
            if self._opened is None:
                self._opened = _open(self.address)
            files, root = self._opened
            yield files, f"{root}/{name}"
        except Exception as error:  # each kind of store has its own
            text = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{self.address}/{name}: {text}") from error


def _open(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    kind = address.partition("://")[0] if "://" in address else "file"
    if kind in ("s3", "gs", "gcs", "abfs", "hdfs"):
        # pyarrow knows these, as it does for logs: no package of each store's own is needed.
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem, S3FileSystem

        opened, path = FileSystem.from_uri(address)
        if isinstance(opened, S3FileSystem):
            # As it is made of an address it tries ten times: a store that was cut off held its user for minutes. Made
            # of its own options it tries three times, some ten seconds.
            opened = S3FileSystem(**opened.__reduce__()[1][0])
        return ArrowFSWrapper(opened), path.rstrip("/")
    files, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    return files, path.rstrip("/")


def _put_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
