"""On Ray: a cluster of several nodes, on this machine, that loses one in the middle of the work."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Done, Project, Start, run_ctr, tiny
from helpers import SMALL, small_rows
from runs import assert_equal_weights, checkpoints, gone, wait_for, weights

from features.engine import open_engine
from features.errors import BadInput
from features.fit import Counts, fit
from features.memory import family
from features.sources import open_sources, read_batches

processes = pytest.mark.processes

# Enough for what travels here; by itself Ray takes a third of the memory.
STORE_BYTES = 100 * 2**20
FILES, LINES = 8, 30_000


class Nodes:
    """A Ray cluster with a head that does no work, and nodes of one core that come and go."""

    def __init__(self, folder: str):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES, "temp_dir": folder}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self._working: list[Any] = []

    def have(self, count: int) -> None:
        """Makes the cluster have so many nodes that work."""
        while len(self._working) > count:
            self.lose()
        while len(self._working) < count:
            self._working.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def lose(self) -> None:
        """Kills the node that has been there longest, with all that it does, at once."""
        self._cluster.remove_node(self._working.pop(0), allow_graceful=False)

    def alive(self) -> int:
        """How many nodes that work the cluster knows of."""
        return sum(node["Alive"] and "CPU" in node["Resources"] for node in self._cluster.global_state.node_table())

    def end(self) -> None:
        """Ends the cluster."""
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Generator[Nodes]:
    # Not where pytest has its folders: sockets' paths must be short.
    folder = tempfile.mkdtemp(prefix="ray-")
    started = Nodes(folder)
    yield started
    before = family(os.getpid())
    started.end()
    shutil.rmtree(folder, ignore_errors=True)
    left = [pid for pid in before if pid != os.getpid() and not gone(pid) and b"ray" in _words(pid)]
    assert not left, "the cluster has not ended"


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def logs(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the run `run` and a log in several files, in each of which two rows are broken."""
    folder = tmp_path_factory.mktemp("ray")
    lines = (project.folder / "log.tsv").read_text().splitlines(keepends=True)
    for file in range(FILES):
        some = [lines[(file * 1000 + at) % len(lines)] for at in range(LINES)]
        some[7], some[LINES // 2] = f"broken {file}\n", f"broken in the middle {file}\n"
        (folder / f"log-{file}.tsv").write_text("".join(some))
    (folder / "run").symlink_to(project.folder / "run")
    return folder


def prepare_words(out: str, *more: object) -> list[object]:
    inputs = [f"log-{file}.tsv" for file in range(FILES)]
    settings = ["--set", "features.buckets=4096", "--set", "prepare.shard_rows=4000", "--split", "random"]
    return ["prepare", *inputs, "--out", out, *settings, *more, "--json"]


@pytest.fixture(scope="module")
def prepared_here(logs: Path) -> dict[str, Any]:
    """What the local engine says of `here`, the prepared logs."""
    return run_ctr(*prepare_words("here"), cwd=logs).result


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of all files, by their path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ended(process: "subprocess.Popen[str]", timeout: float = 200) -> Done:
    """How a process ended."""
    out, errors = process.communicate(timeout=timeout)
    return Done(process.returncode, out, errors)


def test_counts_travel_and_merge_without_loss() -> None:
    rows = small_rows(900)
    parts = [fit([_parsed(rows[first : first + 300])], SMALL) for first in (0, 300, 600)]
    travelled = [pickle.loads(pickle.dumps(part)) for part in parts]
    merged, whole = Counts(SMALL), fit([_parsed(rows)], SMALL)
    for part in travelled:
        merged.merge(part)
    assert (merged.rows, merged.clicks, merged.sums) == (whole.rows, whole.clicks, whole.sums)
    for name, counted in whole.buckets.items():
        np.testing.assert_array_equal(merged.buckets[name], counted)
        np.testing.assert_array_equal(merged.clicked[name], whole.clicked[name])
    # A field of 2^20 buckets alone would be 4 MiB, twice.
    assert len(pickle.dumps(whole)) < 100_000


def _parsed(rows: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.tsv"
        rows.write_csv(path, separator="\t", include_header=False)
        (batch,) = read_batches(open_sources([str(path)], SMALL), SMALL)
    return batch.frame


@pytest.mark.parametrize(
    ("name", "address", "said"),
    [
        ("rai", None, "did you mean 'ray'"),
        ("local", "10.0.0.1:6379", "add --engine ray"),
        ("ray", "ray://10.0.0.1:10001", "an address of Ray Client"),
    ],
)
def test_engine_that_cannot_be_had_is_refused(name: str, address: str | None, said: str) -> None:
    with pytest.raises(BadInput, match=said), open_engine(name, address):
        pass


def test_without_ray_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text("1\n")
    script = """
import sys
sys.modules["ray"] = None  # as if it were not installed
from ctr.cli import app
from ctr.exits import exit_code
sys.exit(exit_code(app, sys.argv[1:]))
"""
    words = [sys.executable, "-c", script, "prepare", "log.tsv", "--out", "data", "--engine", "ray"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'ctr[ray]'" in Done(done.returncode, done.stdout, done.stderr).error


@processes
def test_without_an_address_ray_starts_here_and_ends_with_the_command(
    logs: Path, prepared_here: dict[str, Any], in_background: Start
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    assert environment == dict(os.environ), "RAY_ADDRESS is set: this test wants it unset"
    process = in_background(*prepare_words("alone", "--engine", "ray"), cwd=logs)
    wait_for(lambda: any(b"raylet" in _words(pid) for pid in family(process.pid)), process)
    started: set[int] = set()
    while process.poll() is None:
        started |= set(family(process.pid))
        time.sleep(0.05)
    result = ended(process).result
    assert result["digest"] == prepared_here["digest"]
    deadline = time.monotonic() + 20
    while left := [pid for pid in started if not gone(pid)]:
        assert time.monotonic() < deadline, [_words(pid) for pid in left]
        time.sleep(0.1)


@processes
def test_nodes_lost_while_a_log_is_prepared_cost_no_row(
    nodes: Nodes, logs: Path, prepared_here: dict[str, Any], in_background: Start
) -> None:
    """One in the first pass, another in the second. Spec, shards, rejected rows in their order, counts and reports are
    those of the local engine, byte for byte."""
    nodes.have(3)
    process = in_background(*prepare_words("there", "--engine", "ray", "--ray-address", nodes.address), cwd=logs)

    def attempts() -> int:
        return len([path for path in logs.glob(".there.*.partial/aside/*") if path.is_dir()])

    def shards() -> int:
        return len(list(logs.glob(".there.*.partial/train/*.parquet")))

    wait_for(lambda: attempts() >= 3, process)
    nodes.lose()
    wait_for(shards, process)
    assert attempts() > FILES, "no file was begun again"
    nodes.lose()
    assert process.poll() is None, "it ended before the second node was lost"
    result = ended(process).result
    assert result["rows_rejected"] == 2 * FILES
    for key in ("digest", "spec_digest", "rows", "parts", "shards"):
        assert result[key] == prepared_here[key], key
    assert files_of(logs / "there") == files_of(logs / "here")


@processes
def test_log_with_times_is_cut_on_ray_where_it_is_cut_here(nodes: Nodes, tmp_path: Path) -> None:
    """The pass that looks for the cuts goes file by file too; the files are not in the order of their times."""
    schema = "{time: {name: ts, format: unix}, categorical: [{name: a, buckets: 1000, min_count: 1}], header: true}"
    (tmp_path / "config.yaml").write_text("features: {layout: schema.yaml}\n")
    (tmp_path / "schema.yaml").write_text(schema)
    for file, day in enumerate([3, 1, 2]):
        lines = [f"{i % 2}\t{day * 86400 + i * 60}\tv{i % 7}\n" for i in range(400)]
        (tmp_path / f"log-{file}.tsv").write_text("label\tts\ta\n" + "".join(lines))
    nodes.have(2)
    words = ["prepare", "log-*.tsv", "--config", "config.yaml", "--json"]
    here = run_ctr(*words, "--out", "here", cwd=tmp_path).result
    environment = {"RAY_ADDRESS": nodes.address}
    there = run_ctr(*words, "--out", "there", "--engine", "ray", cwd=tmp_path, env=environment).result
    assert there["digest"] == here["digest"]
    assert there["parts"] == here["parts"]
    assert min(here["parts"].values()) > 0


@processes
def test_bad_input_on_a_node_is_the_error_of_the_command(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text("no click log\n" * 10)
    nodes.have(1)
    where = ["--engine", "ray", "--ray-address", nodes.address]
    failed = run_ctr("prepare", "log.tsv", "--out", "data", *where, cwd=tmp_path)
    assert (failed.code, "10 of 10 rows cannot be read" in failed.error) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["log.tsv"]


@processes
def test_node_that_does_not_see_the_files_is_named(nodes: Nodes, tmp_path: Path, in_background: Start) -> None:
    """A node in a mount namespace of its own, where the folder is empty."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    shutil.copy(Path(__file__), tmp_path / "log.tsv")
    nodes.have(1)
    ray = Path(sys.executable).with_name("ray")
    started = f"{ray} start --address {nodes.address} --num-cpus 1 --object-store-memory {STORE_BYTES} --block"
    blind = f"mount -t tmpfs none {tmp_path} && exec {started}"
    node = in_background("--mount", "bash", "-c", blind, cwd=Path.cwd(), program=Path("/usr/bin/unshare"))
    wait_for(lambda: nodes.alive() == 2, node)
    words = ["prepare", "log.tsv", "--out", "data", "--engine", "ray", "--ray-address", nodes.address]
    failed = run_ctr(*words, cwd=tmp_path)
    assert failed.code == 2
    assert "does not see" in failed.error
    assert "inputs and outputs must be in a folder that all nodes share" in failed.error
    assert {path.name for path in tmp_path.iterdir()} == {"log.tsv"}


@processes
def test_node_lost_while_logs_are_scored_costs_no_row(nodes: Nodes, logs: Path, in_background: Start) -> None:
    """Scores and rejected rows are those of the local engine, byte for byte."""
    nodes.have(2)
    words = ["predict", "run", "log-*.tsv", "--json", "--out"]
    here = run_ctr(*words, "here.parquet", cwd=logs).result
    process = in_background(*words, "there.parquet", "--engine", "ray", "--ray-address", nodes.address, cwd=logs)
    wait_for(lambda: len(list(logs.glob("there.parquet.parts/*[0-9].arrow"))) >= 2, process)
    nodes.lose()
    there = ended(process).result
    for key in ("rows", "rows_rejected"):
        assert there[key] == here[key], key
    assert here["rows"] == FILES * (LINES - 2)
    for ending in ("", ".rejected.ndjson"):
        assert (logs / f"there.parquet{ending}").read_bytes() == (logs / f"here.parquet{ending}").read_bytes()
    assert not (logs / "there.parquet.parts").exists()


@processes
def test_scoring_that_was_stopped_on_ray_goes_on_here(nodes: Nodes, logs: Path, in_background: Start) -> None:
    nodes.have(2)
    words = ["predict", "run", "log-*.tsv", "--json", "--out", "stopped.parquet"]
    process = in_background(*words, "--engine", "ray", "--ray-address", nodes.address, cwd=logs)
    parts = logs / "stopped.parquet.parts"
    wait_for(lambda: len(list(parts.glob("*[0-9].arrow"))) >= 2, process)
    process.kill()
    process.communicate()
    result = run_ctr(*words, cwd=logs).result
    assert LINES <= result["rows_resumed"] < FILES * LINES
    assert result["rows_resumed"] % LINES == 0
    assert result["rows"] == FILES * (LINES - 2)


@processes
def test_group_that_lost_its_node_goes_on_and_ends_with_the_weights_of_a_run_here(
    nodes: Nodes, project: Project, in_background: Start
) -> None:
    """Two groups on two nodes; one of these goes and another comes."""
    settings = tiny(train__epochs="10", train__checkpoint_every="50")
    here = project.ctr("train", "data", "--out", "ray-calm", *settings, "--json").result
    nodes.have(2)
    where = ["--engine", "ray", "--ray-address", nodes.address]
    process = in_background("train", "data", "--out", "moved", *settings, *where, "--json", cwd=project.folder)
    out = project.folder / "moved"
    wait_for(lambda: checkpoints(out, 0) and checkpoints(out, 1), process)
    nodes.lose()
    nodes.have(2)
    done = ended(process)
    there = done.result
    assert sum(member["restarts"] for member in there["members"]) == 1, done.err
    assert "is gone with its node; the group starts again from its checkpoint" in done.err
    for key in ("log_loss", "auc", "steps", "served_group"):
        assert there[key] == here[key], key
    for group in (0, 1):
        assert_equal_weights(weights(project.folder / "ray-calm", group), weights(out, group))
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


@processes
def test_worker_that_fails_on_a_node_ends_the_run_with_its_last_words(nodes: Nodes, project: Project) -> None:
    nodes.have(2)
    settings = tiny(codistillation__groups="1", optimizer__learning_rate="2.0", train__max_loss="1.0")
    where = ["--engine", "ray", "--ray-address", nodes.address]
    failed = project.ctr("train", "data", "--out", "soared-on-ray", *settings, *where)
    assert failed.code == 1
    assert "worker 0 of group 0 failed" in failed.error
    assert "(the limit is 1) at step" in failed.error
