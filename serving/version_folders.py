"""What lies in the folder that is served: one SavedModel, or a folder of versions as TensorFlow Serving has it."""

from contextlib import suppress
from pathlib import Path

# Of each file that makes a model: its path, when it was changed, its size and its place on the disk.
Identity = tuple[tuple[str, int, int, int], ...]

# Versions are 64-bit in TensorFlow Serving's interfaces.
_DIGITS = 18


def is_version_folder(folder: Path) -> bool:
    """Whether `folder` holds versions: folders `1`, `2`, ... and no SavedModel of its own."""
    return not (folder / "saved_model.pb").exists() and bool(_numbered(folder))


def find_versions(folder: Path) -> dict[int, tuple[Path, Identity]]:
    """The versions in `folder` by number, each with what tells it from another put in its place.

    A SavedModel is version 1 of itself. A folder that is gone has none.
    """
    if (folder / "saved_model.pb").exists():
        return {1: (folder, identity(folder))}
    return {number: (path, identity(path)) for number, path in _numbered(folder).items()}


def identity(folder: Path) -> Identity:
    """Changes whenever a file of the SavedModel does, its variables too: a copy takes longer than one look at it."""
    found: list[tuple[str, int, int, int]] = []
    with suppress(OSError):  # gone while it was looked at: another identity, which is all that it has to be
        for part in ("", "variables", "assets"):
            for path in sorted((folder / part).glob("*")):
                about = path.stat()
                if path.is_file():
                    found.append((str(path.relative_to(folder)), about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


def _numbered(folder: Path) -> dict[int, Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return {}
    names = {path: path.name for path in entries}
    numbered = {
        path: name for path, name in names.items() if name.isascii() and name.isdigit() and len(name) <= _DIGITS
    }
    return {int(name): path for path, name in numbered.items() if path.is_dir()}
