"""Logs and snapshots in an object store: a real server on loopback that speaks S3."""

import gzip
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Project, run_ctr, tiny
from helpers import prepare_small, small_rows, write_tsv
from runs import assert_equal_weights, weights
from servers import object_store

from ctr.exchange import Changes, Exchange, Moment

pytestmark = pytest.mark.processes

ROWS = small_rows(300)
SCHEMA = """
numeric: [{name: n1, min_count: 1}, {name: n2, kind: float, min_count: 1}]
categorical: [{name: a, buckets: 1000, min_count: 1}, {name: b, buckets: 1048576, min_count: 1}]
"""


@pytest.fixture(scope="module")
def store() -> Generator[str]:
    """The address of a server with the bucket `logs`."""
    with object_store("logs") as address:
        yield address


@pytest.fixture
def environment(store: str) -> dict[str, str]:
    """What both Arrow and Polars find the store by."""
    return {
        "AWS_ENDPOINT_URL": store,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def put(store: str, name: str, content: bytes) -> None:
    """Puts an object into the bucket."""
    httpx.put(f"{store}/logs/{name}", content=content).raise_for_status()


def test_text_gzip_and_parquet_are_read_by_address_and_by_glob(
    store: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """Three objects, one of each kind, give the shards that one local file gives."""
    text = write_tsv(ROWS, tmp_path / "log.tsv").read_bytes()
    lines = text.splitlines(keepends=True)
    put(store, "day=1/a.tsv", b"".join(lines[:100]))
    put(store, "day=1/b.tsv.gz", gzip.compress(b"".join(lines[100:200])))
    put(store, "day=1/other/c.tsv", b"a star does not reach over a slash\n")
    ROWS[200:].write_parquet(tmp_path / "rest.parquet")
    put(store, "day=2/c.parquet", (tmp_path / "rest.parquet").read_bytes())
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    done = run_ctr(
        "prepare", "s3://logs/day=1/*.tsv*", "s3://logs/day=2/c.parquet", "--out", "data",
        "--set", f"features.layout={tmp_path / 'schema.yaml'}", "--set", "prepare.shard_rows=100", "--json",
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    local = prepare_small([tmp_path / "log.tsv"], tmp_path / "local")
    assert (done.result["rows"], done.result["digest"]) == (300, local["digest"])


def test_what_is_not_there_is_said(environment: dict[str, str], tmp_path: Path) -> None:
    """In one line, with exit code 2."""
    for name, said in (("s3://logs/none.tsv", "cannot be read"), ("s3://logs/none-*.tsv", "no file matches")):
        done = run_ctr("prepare", name, "--out", "data", cwd=tmp_path, env=environment)
        assert done.code == 2
        assert name in done.error
        assert said in done.error
    assert not (tmp_path / "data").exists()


def test_groups_exchange_through_the_store_as_through_a_folder(project: Project, environment: dict[str, str]) -> None:
    """In lockstep the weights are those of a run whose snapshots went through a folder."""
    place = {**environment, "CTR_EXCHANGE": "s3://logs/exchange"}
    done = project.ctr("train", "data", "--out", "through-store", *tiny(), "--json", env=place).result
    for group, member in enumerate(done["members"]):
        assert_equal_weights(weights(project.folder / "run", group), weights(project.folder / "through-store", group))
        assert member["exchanges"] == project.trained["members"][group]["exchanges"] > 3
        assert member["bytes_read"] == project.trained["members"][group]["bytes_read"] > 0
        assert member["snapshots_missed"] == member["snapshots_unpublished"] == 0
    assert done["warnings"] == []


def test_old_snapshots_are_removed_from_the_store(
    store: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the two newest; a group that comes late reads the last one."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sizes: Any = {"fingerprint": "f", "shapes": {"w": (3,)}, "dtype": "float32", "keep": 2, "full_every": 1}
    writer = Exchange("s3://logs/old", group=0, **sizes)
    for step in range(6):
        writer.publish(Moment(1, step), Changes({"w": np.full(3, step, np.float32)}, {}))
    listed = httpx.get(f"{store}/logs", params={"list-type": "2", "prefix": "old/group-0/"}).text
    assert listed.count(".safetensors</Key>") == listed.count(".json</Key>") == 2
    found = Exchange("s3://logs/old", group=1, **sizes).newest(0, since=Moment(1, 0), have=None)
    assert found is not None
    assert (found.moment, found.parts[0].weights["w"].tolist()) == (Moment(1, 5), [5, 5, 5])
