"""Text files as blocks of whole lines, from wherever Arrow opens them: disks, object stores, gzip, zstd."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from features.errors import BadInput
from features.ordered import in_parallel

# Some 70,000 rows of Criteo: enough for Polars to be fast, little enough for several to be at work at once.
BLOCK_BYTES = 16 * 2**20

_COUNTED_BYTES = 2**17

_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, each but perhaps the last with its end; the first of them has number `first_line`."""

    content: bytes
    first_line: int
    lines: int


def read_blocks(path: str) -> Iterator[Block]:
    """A file's lines in blocks of about BLOCK_BYTES, always cut alike; a byte-order mark is left out.

    Raises BadInput when the file cannot be opened, read or decompressed.
    """
    try:
        with _open(path) as stream:
            yield from _blocks(stream)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def head_and_count(path: str, most: int) -> tuple[list[str], int]:
    """The first lines of a file, at most so many, as text; and the number of all."""
    try:
        with _open(path) as stream:
            return _head_and_count(stream, most)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None


def matching(pattern: str) -> list[str]:
    """The addresses in an object store that match a glob such as `s3://logs/day=*/part-?.tsv.gz`, in order."""
    scheme, _, name = pattern.partition("://")
    folder = re.split(r"[*?\[]", name)[0].rpartition("/")[0]
    try:
        where, _ = fs.FileSystem.from_uri(f"{scheme}://{folder}")
        found = where.get_file_info(fs.FileSelector(folder, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(pattern, error) from None
    # As in a file system, a star does not reach over a slash.
    wanted = [re.compile(fnmatch.translate(part)) for part in name.split("/")]
    paths = [info.path for info in found if info.type == fs.FileType.File]
    fits = [
        path
        for path in paths
        if len(path.split("/")) == len(wanted) and all(p.match(s) for p, s in zip(wanted, path.split("/"), strict=True))
    ]
    return [f"{scheme}://{path}" for path in sorted(fits)]


def stamp(path: str) -> tuple[int, int]:
    """A file's size in bytes and when it was last written, in nanoseconds since 1970 (0: its store does not say)."""
    try:
        where, name = _place(path)
        (info,) = where.get_file_info([name])
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from None
    return info.size or 0, info.mtime_ns or 0


def unreadable(path: str, error: Exception) -> BadInput:
    """What to say of a file that cannot be read."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return BadInput(f"input {path} cannot be read: {' '.join(said.split())}")


def count_byte(content: bytes, character: str) -> int:
    """How often an ASCII character occurs; NumPy takes a quarter of the time that bytes.count does."""
    codes, code = np.frombuffer(content, np.uint8), ord(character)
    starts = range(0, len(codes), _COUNTED_BYTES)
    return sum(int(np.count_nonzero(codes[first : first + _COUNTED_BYTES] == code)) for first in starts)


def _open(path: str) -> Any:
    compression = next((kind for ending, kind in _COMPRESSION.items() if path.endswith(ending)), None)
    where, name = _place(path)
    return where.open_input_stream(name, compression=compression)


def _place(path: str) -> tuple[Any, str]:
    return fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)


def _head_and_count(stream: Any, most: int) -> tuple[list[str], int]:
    start, last = b"", b"\n"

    def pieces() -> Iterator[bytes]:
        nonlocal start, last
        enough = False
        while read := stream.read(BLOCK_BYTES):
            if not enough:  # the first piece nearly always is
                start += read
                enough = count_byte(start, "\n") >= most
            last = read[-1:]
            yield read

    lines = sum(in_parallel(lambda read: count_byte(read, "\n"), pieces())) + (last != b"\n")
    head = start.removeprefix(_BYTE_ORDER_MARK).split(b"\n", most)[: min(lines, most)]
    return [line.decode(errors="replace").removesuffix("\r") for line in head], lines


def _blocks(stream: Any) -> Iterator[Block]:
    pieces: list[bytes] = []
    line, begun = 1, False
    while read := stream.read(BLOCK_BYTES):
        if not begun:
            read, begun = read.removeprefix(_BYTE_ORDER_MARK), True
        end = read.rfind(b"\n") + 1
        if not end:
            pieces.append(read)
            continue
        block = _block(b"".join([*pieces, memoryview(read)[:end]]), line)
        yield block
        pieces, line = [read[end:]], line + block.lines
    if any(pieces):
        yield _block(b"".join(pieces), line)


def _block(content: bytes, line: int) -> Block:
    return Block(content, line, count_byte(content, "\n") + (not content.endswith(b"\n")))
