"""Output that appears whole or not at all."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

from features.errors import BadInput, WorkFailed


@contextmanager
def appears_whole(target: Path) -> Generator[Path]:
    """A folder to write into that becomes `target` when the block ends well, and is removed when it does not.

    Raises BadInput if `target` exists already.
    """
    _refuse_existing(target)
    made = [folder for folder in target.absolute().parents if not folder.exists()]
    aside = _aside(target)
    try:
        aside.mkdir(parents=True)
        yield aside
        _refuse_existing(target)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made if not target.exists() else ():
            # Only those that are empty: somebody else may have put something there.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def file_appears_whole(target: Path) -> Generator[Path]:
    """The same for one file; it takes the target's ending, since writers look at it. Replaces a file that is there."""
    if target.is_dir():
        raise BadInput(f"{target} is a folder; give the path of a file to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _aside(target: Path) -> Path:
    # What an earlier process was killed over is in nobody's way and cleared up here.
    for left in target.parent.glob(f".{target.name}.*.partial*"):
        owner = left.name.removeprefix(f".{target.name}.").split(".")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return target.parent / f".{target.name}.{os.getpid()}.partial{target.suffix}"


def is_running(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise BadInput(f"{target} exists already and is left as it is; remove it or choose another --out")


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes a Parquet file with fast settings: the default level is a third slower and saves 3 %, and statistics of
    ids are of no use. Raises WorkFailed where it cannot be written whole, as on a full disk."""
    try:
        frame.write_parquet(path, compression="zstd", compression_level=1, statistics=False)
    except pl.exceptions.PolarsError as error:
        said = " ".join(str(error).split())
        raise WorkFailed(f"{path.name} cannot be written: {said}; check the disk's free space") from None


def copy_whole(source: Path, target: Path) -> None:
    """Copies a folder, which appears at `target` whole or not at all. Raises BadInput if `target` exists."""
    with appears_whole(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
