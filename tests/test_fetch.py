"""Downloads from a real HTTP server on this machine: whole, interrupted, checked, unpacked, refused."""

import io
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import ignore
from mirror import Server, running_server, sha256, tar_of

from ctr import fetch as fetching
from ctr.fetch import Dataset, fetch
from features.errors import BadInput, WorkFailed

MEGABYTE = 2**20


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that runs while the test does."""
    with running_server() as running:
        yield running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set of two files."""
    monkeypatch.setitem(fetching.DATASETS, "small", Dataset("http://unused.invalid", ("day_0.gz", "day_1.gz")))
    return "small"


def content(size: int, seed: int = 0) -> bytes:
    """Bytes without a pattern."""
    return np.random.default_rng(seed).bytes(size)


def zip_of(members: dict[str, bytes]) -> bytes:
    """A .zip with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CRITEO = "criteo-research-kaggle-display-advertising-challenge-dataset.tar.gz"


def test_all_files_of_a_data_set_are_downloaded(server: Server, small: str, tmp_path: Path) -> None:
    """Byte for byte, with their size and digests told and noted."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": content(5000, seed=1)}
    result = fetch(small, tmp_path / "out", mirror=server.url, progress=ignore)
    assert (tmp_path / "out" / "day_0.gz").read_bytes() == server.files["/day_0.gz"]
    assert (tmp_path / "out" / "day_1.gz").read_bytes() == server.files["/day_1.gz"]
    assert result == {
        "files": ["day_0.gz", "day_1.gz"],
        "bytes": 8000,
        "verified": {"day_0.gz": "none given", "day_1.gz": "none given"},
    }
    sums = "".join(f"{sha256(server.files[f'/{name}'])}  {name}\n" for name in ("day_0.gz", "day_1.gz"))
    assert (tmp_path / "out" / "SHA256SUMS").read_text(encoding="utf-8") == sums
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["SHA256SUMS", "day_0.gz", "day_1.gz"]


def test_mirror_may_end_with_a_slash_and_have_a_path(server: Server, small: str, tmp_path: Path) -> None:
    """Files are looked for below it."""
    server.files = {"/logs/here/day_0.gz": b"one", "/logs/here/day_1.gz": b"two"}
    fetch(small, tmp_path, mirror=f"{server.url}/logs/here/", progress=ignore)
    assert (tmp_path / "day_1.gz").read_bytes() == b"two"


def test_own_address_of_a_data_set_is_used_without_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is an option."""
    monkeypatch.setitem(fetching.DATASETS, "near", Dataset(server.url, ("day_0.gz",)))
    server.files = {"/day_0.gz": b"one"}
    assert fetch("near", tmp_path, mirror=None, progress=ignore)["bytes"] == 3


def test_second_call_does_not_download_again(server: Server, small: str, tmp_path: Path) -> None:
    """What is there is checked against what was noted the first time."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": content(5000, seed=1)}
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    server.asked.clear()
    result = fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert result["verified"] == {"day_0.gz": "seen before", "day_1.gz": "seen before"}
    assert [path for path, _ in server.asked if path != "/SHA256SUMS"] == []


def test_interrupted_transfer_goes_on_with_a_range(server: Server, small: str, tmp_path: Path) -> None:
    """The server closes the connection half way; the rest is asked for from where it broke off."""
    server.files = {"/day_0.gz": content(6 * MEGABYTE), "/day_1.gz": b"two"}
    server.cuts = [3 * MEGABYTE]
    result = fetch(small, tmp_path, mirror=server.url, progress=ignore)
    first, second = server.ranges_asked("/day_0.gz")
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 3 * MEGABYTE
    assert (tmp_path / "day_0.gz").read_bytes() == server.files["/day_0.gz"]
    assert result["bytes"] == 6 * MEGABYTE + 3


def test_transfer_interrupted_over_and_over_goes_on_with_the_next_call(
    server: Server, small: str, tmp_path: Path
) -> None:
    """The first call says how much is kept, the second fetches only what is missing."""
    server.files = {"/day_0.gz": content(9 * MEGABYTE), "/day_1.gz": b"two"}
    server.cuts = [MEGABYTE + MEGABYTE // 2] * 5
    with pytest.raises(WorkFailed, match=r"after 5 tries: .*bytes are kept and the same command goes on"):
        fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert not (tmp_path / "day_0.gz").exists()
    kept = (tmp_path / "day_0.gz.partial").stat().st_size
    assert kept >= 5 * MEGABYTE
    server.asked.clear()
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert server.ranges_asked("/day_0.gz") == [f"bytes={kept}-"]
    assert (tmp_path / "day_0.gz").read_bytes() == server.files["/day_0.gz"]


def test_server_without_ranges_is_asked_for_everything_again(server: Server, small: str, tmp_path: Path) -> None:
    """A whole answer to a request for a part is not appended to what is there."""
    server.files = {"/day_0.gz": content(4 * MEGABYTE), "/day_1.gz": b"two"}
    server.cuts = [2 * MEGABYTE]
    server.ranges = False
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert (tmp_path / "day_0.gz").read_bytes() == server.files["/day_0.gz"]


def test_partial_file_that_was_whole_already_is_taken(server: Server, small: str, tmp_path: Path) -> None:
    """A process may be killed between the last byte and the renaming."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": b"two"}
    server.publish_sums()
    (tmp_path / "day_0.gz.partial").write_bytes(server.files["/day_0.gz"])
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert server.ranges_asked("/day_0.gz") == ["bytes=3000-"]
    assert (tmp_path / "day_0.gz").read_bytes() == server.files["/day_0.gz"]


def test_progress_is_told_in_bytes_up_to_the_end(server: Server, small: str, tmp_path: Path) -> None:
    """Of each file while it is fetched and while it is checked."""
    server.files = {"/day_0.gz": content(3 * MEGABYTE), "/day_1.gz": b"two"}
    told: list[tuple[str, int, int]] = []
    fetch(small, tmp_path, mirror=server.url, progress=lambda stage, done, total: told.append((stage, done, total)))
    assert ("day_0.gz (bytes)", 3 * MEGABYTE, 3 * MEGABYTE) in told
    assert ("checking (bytes)", 3 * MEGABYTE, 3 * MEGABYTE) in told
    assert all(done <= total for _, done, total in told)


def test_published_checksum_is_verified(server: Server, small: str, tmp_path: Path) -> None:
    """SHA256SUMS beside the files."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": content(5000, seed=1)}
    server.publish_sums()
    result = fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert result["verified"] == {"day_0.gz": "server's digest", "day_1.gz": "server's digest"}


def test_file_that_differs_from_its_checksum_is_removed(server: Server, small: str, tmp_path: Path) -> None:
    """The failure names the file and both digests; the good file stays."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": content(5000, seed=1)}
    server.publish_sums(**{"day_1.gz": "ab" * 32})
    with pytest.raises(WorkFailed) as caught:
        fetch(small, tmp_path, mirror=server.url, progress=ignore)
    said = str(caught.value)
    assert "day_1.gz has SHA-256" in said
    assert sha256(server.files["/day_1.gz"]) in said
    assert "ab" * 32 in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "day_0.gz"]


def test_file_that_rotted_on_the_disk_is_removed_and_fetched_again(server: Server, small: str, tmp_path: Path) -> None:
    """The next call finds it, the one after mends it."""
    server.files = {"/day_0.gz": content(3000), "/day_1.gz": b"two"}
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    (tmp_path / "day_0.gz").write_bytes(content(3000, seed=9))
    with pytest.raises(WorkFailed, match=r"day_0\.gz has SHA-256"):
        fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert not (tmp_path / "day_0.gz").exists()
    fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert (tmp_path / "day_0.gz").read_bytes() == server.files["/day_0.gz"]


def test_digest_that_an_object_store_gives_is_verified(server: Server, small: str, tmp_path: Path) -> None:
    """It stands on the first hop, as a linked entity tag."""
    data = content(3000)
    server.files = {"/store/0": data, "/day_1.gz": b"two"}
    server.redirects = {"/day_0.gz": ("/store/0", {"X-Linked-ETag": f'"{sha256(data)}"'})}
    result = fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert result["verified"] == {"day_0.gz": "server's digest", "day_1.gz": "none given"}


def test_file_that_differs_from_the_object_stores_digest_is_removed(server: Server, small: str, tmp_path: Path) -> None:
    """As with a published one."""
    server.files = {"/store/0": content(3000), "/day_1.gz": b"two"}
    server.redirects = {"/day_0.gz": ("/store/0", {"X-Linked-ETag": f'"{"0" * 64}"'})}
    with pytest.raises(WorkFailed, match="instead of 0000"):
        fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert list(tmp_path.iterdir()) == []


def test_file_that_the_server_does_not_have_is_a_failure(server: Server, small: str, tmp_path: Path) -> None:
    """Asked for once, named with its status, and nothing is left of it."""
    server.files = {"/day_0.gz": b"one"}
    with pytest.raises(WorkFailed, match=r"/day_1\.gz answered 404 Not Found"):
        fetch(small, tmp_path, mirror=server.url, progress=ignore)
    assert len(server.ranges_asked("/day_1.gz")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["SHA256SUMS", "day_0.gz"]


def test_server_that_cannot_be_reached_is_a_failure(small: str, tmp_path: Path) -> None:
    """In one line with the address."""
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(WorkFailed, match=f"cannot fetch {url}/day_0.gz after 5 tries: ConnectError"):
        fetch(small, tmp_path, mirror=url, progress=ignore)


@pytest.mark.parametrize("mirror", ["ftp://127.0.0.1/x", "nonsense", "http://[::1/broken", "http://127.0.0.1:port/"])
def test_address_that_is_none_is_refused(mirror: str, small: str, tmp_path: Path) -> None:
    """As any other address that cannot be fetched from."""
    with pytest.raises((BadInput, WorkFailed)):
        fetch(small, tmp_path, mirror=mirror, progress=ignore)


def test_unknown_data_set_names_the_nearest(tmp_path: Path) -> None:
    """And makes no folder."""
    with pytest.raises(BadInput, match=r"unknown data set 'criteo-1b': did you mean 'criteo-1tb'\?"):
        fetch("criteo-1b", tmp_path / "out", mirror=None, progress=ignore)
    assert list(tmp_path.iterdir()) == []


def test_tar_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    """Its members are listed after it, folders and all."""
    server.files = {f"/{CRITEO}": tar_of({"train.txt": b"1\t2\n", "more/readme.txt": b"read me"})}
    result = fetch("criteo", tmp_path, mirror=server.url, progress=ignore)
    assert result["files"] == [CRITEO, "train.txt", "more/readme.txt"]
    assert (tmp_path / "train.txt").read_bytes() == b"1\t2\n"
    assert (tmp_path / "more" / "readme.txt").read_bytes() == b"read me"


def test_zip_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    """The same for the other kind of archive."""
    server.files = {"/Avazu_x4.zip": zip_of({"train.csv": b"id,click\n", "deep/": b"", "deep/test.csv": b"id\n"})}
    result = fetch("avazu", tmp_path, mirror=server.url, progress=ignore)
    assert result["files"] == ["Avazu_x4.zip", "train.csv", "deep/test.csv"]
    assert (tmp_path / "deep" / "test.csv").read_bytes() == b"id\n"


def test_unpacked_files_are_left_alone_by_a_second_call(server: Server, tmp_path: Path) -> None:
    """Nothing is written that is there."""
    server.files = {f"/{CRITEO}": tar_of({"train.txt": b"1\t2\n"})}
    fetch("criteo", tmp_path, mirror=server.url, progress=ignore)
    before = (tmp_path / "train.txt").stat().st_mtime_ns
    result = fetch("criteo", tmp_path, mirror=server.url, progress=ignore)
    assert result["files"] == [CRITEO, "train.txt"]
    assert (tmp_path / "train.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "archive", "member"),
    [("criteo", CRITEO, "train.txt"), ("avazu", "Avazu_x4.zip", "train.csv")],
)
def test_unpacking_that_was_broken_off_is_made_good(
    name: str, archive: str, member: str, server: Server, tmp_path: Path
) -> None:
    """A process killed while it unpacks leaves half a file, which must not pass for the whole one."""
    data = content(10_000)
    server.files = {f"/{archive}": (tar_of if name == "criteo" else zip_of)({member: data})}
    fetch(name, tmp_path, mirror=server.url, progress=ignore)
    (tmp_path / member).write_bytes(data[:5000])
    fetch(name, tmp_path, mirror=server.url, progress=ignore)
    assert (tmp_path / member).read_bytes() == data


@pytest.mark.parametrize(
    ("name", "archive", "said"),
    [
        ("criteo", CRITEO, b"<html>please accept our terms</html>"),
        ("criteo", CRITEO, tar_of({"train.txt": content(20_000)})[:9000]),
        ("avazu", "Avazu_x4.zip", b"<html>please accept our terms</html>"),
    ],
    ids=["a page for a tar", "half a tar", "a page for a zip"],
)
def test_archive_that_is_none_is_a_failure(
    name: str, archive: str, said: bytes, server: Server, tmp_path: Path
) -> None:
    """A server may answer with a page; that is no fault of the program's own."""
    server.files = {f"/{archive}": said}
    with pytest.raises(WorkFailed, match=re.escape(archive)):
        fetch(name, tmp_path, mirror=server.url, progress=ignore)


def test_archive_that_leads_out_of_the_folder_is_refused(server: Server, tmp_path: Path) -> None:
    """Nothing is written outside."""
    server.files = {f"/{CRITEO}": tar_of({"../evil.txt": b"gotcha"})}
    with pytest.raises(WorkFailed):
        fetch("criteo", tmp_path / "out", mirror=server.url, progress=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
