"""Downloads public click logs: resumable, checksummed, unpacked.

Their terms are their owners': Criteo's forbid commercial use and redistribution.
"""

import hashlib
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from features.errors import BadInput, WorkFailed, did_you_mean
from features.progress import Progress

SUMS_FILE = "SHA256SUMS"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 5


@dataclass(frozen=True)
class Dataset:
    """Where a data set is and which files it has."""

    base: str
    files: tuple[str, ...]


DATASETS = {
    "criteo": Dataset(
        "https://go.criteo.net", ("criteo-research-kaggle-display-advertising-challenge-dataset.tar.gz",)
    ),
    "criteo-1tb": Dataset(
        "https://huggingface.co/datasets/criteo/CriteoClickLogs/resolve/main",
        tuple(f"day_{day}.gz" for day in range(24)),
    ),
    "avazu": Dataset("https://huggingface.co/datasets/reczoo/Avazu_x4/resolve/main", ("Avazu_x4.zip",)),
}


def fetch(name: str, out: Path, *, mirror: str | None, progress: Progress) -> dict[str, Any]:
    """Downloads the files of a data set into `out` and unpacks archives; returns files, bytes, and what was verified.

    A file that is there whole is not fetched again; one that was interrupted goes on where it was. A file is checked
    against the SHA-256 that its server gives (a SHA256SUMS file beside it, or the object store's digest header);
    where none is given, the digest is written to `out/SHA256SUMS` and held against later downloads.

    Raises BadInput for an unknown name, WorkFailed when the server cannot be reached or a digest differs.
    """
    if name not in DATASETS:
        raise BadInput(f"unknown data set '{name}': {did_you_mean(name, DATASETS)}")
    dataset = DATASETS[name]
    base = (mirror or dataset.base).rstrip("/")
    out.mkdir(parents=True, exist_ok=True)
    sums = _read_sums((out / SUMS_FILE).read_text(encoding="utf-8")) if (out / SUMS_FILE).exists() else {}
    files: list[str] = []
    verified: dict[str, str] = {}
    size = 0
    with httpx.Client(follow_redirects=True, timeout=30) as client:
        published = _published_sums(client, base)
        for file in dataset.files:
            path = out / file
            given = _download(client, f"{base}/{file}", path, progress)
            digest = _digest(path, progress)
            expected = published.get(file) or given or sums.get(file)
            if expected and expected != digest:
                path.unlink()
                raise WorkFailed(f"{file} has SHA-256 {digest} instead of {expected}; it was removed, fetch it again")
            verified[file] = (
                "server's digest" if file in published or given else "seen before" if expected else "none given"
            )
            sums[file] = digest
            _write_sums(out / SUMS_FILE, sums)
            size += path.stat().st_size
            files += [file, *_unpack(path, out)]
    return {"files": files, "bytes": size, "verified": verified}


def _download(client: httpx.Client, url: str, path: Path, progress: Progress) -> str | None:
    """Fetches what is missing of a file; returns the SHA-256 that the server gives, if it gives one."""
    partial = path.with_name(path.name + ".partial")
    problem = ""
    for _ in range(_TRIES):
        done = partial.stat().st_size if partial.exists() else 0
        if path.exists():
            return None
        try:
            with client.stream("GET", url, headers={"Range": f"bytes={done}-"} if done else {}) as answer:
                if answer.status_code == 416:  # nothing is left to fetch
                    partial.rename(path)
                    return _given_digest(answer)
                if answer.status_code >= 400:
                    raise WorkFailed(f"{url} answered {answer.status_code} {answer.reason_phrase}; nothing was fetched")
                resumed = answer.status_code == 206
                done = done if resumed else 0
                total = done + int(answer.headers.get("content-length", 0))
                with partial.open("ab" if resumed else "wb") as file:
                    for block in answer.iter_raw(2**16):
                        file.write(block)
                        done += len(block)
                        progress(f"{path.name} (bytes)", done, max(total, done))
                if total and done < total:
                    problem = f"it ended after {done} of {total} bytes"
                    continue
                partial.rename(path)
                return _given_digest(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = f"{type(error).__name__}: {error}"
    kept = f"; {partial.stat().st_size} bytes are kept and the same command goes on" if partial.exists() else ""
    raise WorkFailed(f"cannot fetch {url} after {_TRIES} tries: {problem}{kept}")


def _given_digest(answer: httpx.Response) -> str | None:
    # Object stores behind the data set hub give a file's SHA-256 as the linked entity tag, on the first hop.
    for hop in [answer, *answer.history]:
        tag = hop.headers.get("x-linked-etag", "").strip('"')
        if _SHA256.fullmatch(tag):
            return tag
    return None


def _published_sums(client: httpx.Client, base: str) -> dict[str, str]:
    try:
        answer = client.get(f"{base}/{SUMS_FILE}")
    except (httpx.HTTPError, httpx.InvalidURL):
        return {}
    return _read_sums(answer.text) if answer.status_code == 200 else {}


def _read_sums(text: str) -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    return {parts[1].lstrip("*"): parts[0] for parts in lines if len(parts) == 2 and _SHA256.fullmatch(parts[0])}


def _write_sums(path: Path, sums: dict[str, str]) -> None:
    path.write_text("".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items())), encoding="utf-8")


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            digest.update(block)
            done += len(block)
            progress("checking (bytes)", done, total)
    return digest.hexdigest()


def _unpack(path: Path, out: Path) -> list[str]:
    """Unpacks an archive, unless all of it lies there in its full size; returns the names of what was in it.

    Raises WorkFailed if it is none or would write outside of `out`.
    """
    try:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                sizes = {member.name: member.size for member in archive.getmembers() if member.isfile()}
                if not _all_there(out, sizes):
                    archive.extractall(out, filter="data")  # refuses paths that lead out of the folder
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                sizes = {member.filename: member.file_size for member in archive.infolist() if not member.is_dir()}
                if not _all_there(out, sizes):
                    archive.extractall(out)
        else:
            sizes = {}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise WorkFailed(f"{path} is no archive that can be unpacked ({error}); remove it and fetch it again") from None
    return list(sizes)


def _all_there(out: Path, sizes: dict[str, int]) -> bool:
    return all((out / name).is_file() and (out / name).stat().st_size == size for name, size in sizes.items())
