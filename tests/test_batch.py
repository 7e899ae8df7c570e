"""Offline scoring: every row once and in order, whatever number of processes, and whenever they are killed."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Done, Project
from runs import children, wait_for

from features.encode import encode_dense, encode_ids
from features.errors import BadInput
from features.memory import family, family_rss_mb
from features.sources import open_sources, read_batches
from serving.parts import Parts, parts_of, what_is_scored
from serving.scorers import Scored

# `ctr` with blocks of so many bytes, on so many cores at most.
CTR_IN_BLOCKS = """
import os, sys
from features import blocks
from ctr.cli import app
from ctr.exits import exit_code
blocks.BLOCK_BYTES = int(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
sys.exit(exit_code(app, sys.argv[3:]))
"""
BLOCK = 2**17  # some 500 rows
TIMES = 40


def command(*arguments: object, block: int = BLOCK, cores: int = 2) -> list[str]:
    return [sys.executable, "-c", CTR_IN_BLOCKS, str(block), str(cores), *map(str, arguments)]


def predict(*arguments: object, cwd: Path, block: int = BLOCK, cores: int = 2) -> Done:
    done = subprocess.run(
        command("predict", *arguments, "--json", block=block, cores=cores), cwd=cwd, capture_output=True, text=True
    )
    return Done(done.returncode, done.stdout, done.stderr)


def scored(first: int, rows: int = 3, bad: int = 0) -> Scored:
    scores = {"row": range(first, first + rows), "label": [0.0] * rows, "probability": [0.5] * rows}
    rejected = {"file": ["log"] * bad, "line": range(bad), "reason": ["bad"] * bad, "text": ["?"] * bad}
    types = {"file": pl.String, "line": pl.UInt64, "reason": pl.String, "text": pl.String}
    return Scored(pl.DataFrame(scores), pl.DataFrame(rejected, schema=types), {"model": 1.0})


def test_part_is_found_again_if_it_is_whole_and_has_the_rows_of_the_piece(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.keep(0, scored(0, rows=3, bad=2))
    parts.keep(7, scored(5))
    found = parts.find(0, 5)
    assert found is not None
    assert found.scores.equals(scored(0).scores)
    assert found.rejected.equals(scored(0, bad=2).rejected)
    assert not found.seconds
    assert Parts(tmp_path).finished == 2
    assert parts.find(7, 4) is None
    assert parts.find(1, 3) is None
    file = tmp_path / "000000000007.arrow"
    file.write_bytes(file.read_bytes()[:-20])
    assert parts.find(7, 3) is None


def test_parts_of_something_else_are_removed_and_those_of_a_finished_or_impossible_call_too(tmp_path: Path) -> None:
    folder = tmp_path / "out.parts"
    with pytest.raises(OSError, match="disk"), parts_of(folder, {"model": "a"}) as (parts, others):
        assert not others
        parts.keep(0, scored(0))
        raise OSError("the disk is full")
    with pytest.raises(KeyboardInterrupt), parts_of(folder, {"model": "a"}) as (parts, others):
        assert (parts.finished, others) == (1, False)
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="disk"), parts_of(folder, {"model": "b"}) as (parts, others):
        assert (parts.finished, others) == (0, True)
        raise OSError("the disk is full")
    with pytest.raises(BadInput, match="no row"), parts_of(folder, {"model": "b"}) as (_, others):
        assert not others
        raise BadInput("no row")
    assert not folder.exists()
    with parts_of(folder, {"model": "b"}):
        assert folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_in_use_or_somebody_elses_is_refused(tmp_path: Path) -> None:
    with (
        parts_of(tmp_path / "out.parts", {}),
        pytest.raises(BadInput, match="another process works on"),
        parts_of(tmp_path / "out.parts", {}),
    ):
        pass
    (tmp_path / "mine.parts").mkdir()
    (tmp_path / "mine.parts" / "precious").write_text("mine")
    with pytest.raises(BadInput, match="in the way"), parts_of(tmp_path / "mine.parts", {}):
        pass
    assert (tmp_path / "mine.parts" / "precious").read_text() == "mine"


def test_what_is_scored_changes_with_any_byte_of_the_model_and_size_or_time_of_an_input(
    prepared: Path, tmp_path: Path
) -> None:
    model, log = tmp_path / "model", tmp_path / "log.tsv"
    (model / "variables").mkdir(parents=True)
    (model / "variables" / "data").write_bytes(b"weights")
    shutil.copy(prepared / "log.tsv", log)
    from features.spec import load_spec

    opened = open_sources([str(log)], load_spec(prepared / "data").schema)
    seen: list[dict[str, Any]] = [what_is_scored(model, opened)]
    assert seen[0] == what_is_scored(model, opened) == json.loads(json.dumps(seen[0]))
    changes: list[Callable[[], Any]] = [
        lambda: (model / "variables" / "data").write_bytes(b"weighty"),
        lambda: (model / "variables" / "data").rename(model / "variables" / "other"),
        lambda: os.utime(log, (1, 1)),
        lambda: log.write_bytes(log.read_bytes() + b"x\n"),
    ]
    for change in changes:
        change()
        seen.append(what_is_scored(model, opened))
    assert len({json.dumps(each) for each in seen}) == 5


@pytest.fixture(scope="module")
def folder(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a log of 160,000 rows, one in 1,000 of them broken, and both models of a run."""
    made = tmp_path_factory.mktemp("batch")
    lines = (project.folder / "log.tsv").read_text().splitlines(keepends=True)
    for at in range(500, 4000, 1000):
        lines[at] = f"broken {at}\n"
    (made / "log.tsv").write_text("".join(lines) * TIMES)
    for group in range(2):
        (made / f"model-{group}").symlink_to(project.folder / "run" / f"group-{group}" / "model")
    return made


@pytest.mark.processes
def test_rows_of_several_files_are_in_order_and_one_process_gives_the_same_bytes(
    folder: Path, project: Project, tmp_path: Path
) -> None:
    lines = (folder / "log.tsv").read_text().splitlines(keepends=True)[:9000]
    (tmp_path / "part-1.tsv").write_text("".join(lines[:4000]))
    (tmp_path / "part-2.tsv.gz").write_bytes(gzip.compress("".join(lines[4000:5000]).encode()))
    (tmp_path / "part-3.tsv").write_text("".join(lines[5000:]))
    outputs: list[dict[str, bytes]] = []
    for cores in (1, 2):
        made = tmp_path / str(cores)
        result = predict(
            folder / "model-0", tmp_path / "part-*", "--out", made / "s.parquet", cwd=tmp_path, cores=cores
        ).result
        assert (result["rows"], result["rows_rejected"], result["rows_resumed"]) == (8991, 9, 0)
        assert set(result["core_seconds"]) == {"parsing", "encoding", "model", "reading and writing"}
        outputs.append({path.name: path.read_bytes() for path in made.iterdir()})
    assert set(outputs[0]) == {"s.parquet", "s.parquet.rejected.ndjson"}
    assert outputs[0] == outputs[1]
    scores = pl.read_parquet(tmp_path / "1" / "s.parquet")
    broken = [at for at in range(9000) if at % 1000 == 500]
    assert scores["row"].to_list() == [at for at in range(9000) if at not in broken]
    rejected = [json.loads(line) for line in outputs[0]["s.parquet.rejected.ndjson"].splitlines()]
    assert [row["text"] for row in rejected] == [f"broken {at % 4000}" for at in broken]
    from serving.model import ServedModel

    model = ServedModel(folder / "model-0")
    sources = open_sources([str(tmp_path / "part-*")], model.spec.schema)
    whole = pl.concat([batch.frame for batch in read_batches(sources, model.spec.schema)])
    alone = model.from_packed(encode_ids(whole, model.spec), encode_dense(whole, model.spec))
    np.testing.assert_allclose(scores["probability"].to_numpy(), alone, atol=1e-6, rtol=0)
    assert len(np.unique(alone.round(4))) > 1000
    assert scores["label"].to_list() == whole["label"].to_list()


@dataclass(frozen=True)
class Stopped:
    """A run that was killed: its folder, the rows of its finished parts, and what an unbroken one wrote."""

    folder: Path
    rows: int
    unbroken: bytes
    rejected: bytes

    def again(self, name: str) -> Path:
        """A working folder with what the killed run left."""
        return Path(shutil.copytree(self.folder, self.folder.with_name(name), symlinks=True))


@pytest.fixture(scope="module")
def stopped(folder: Path) -> Stopped:
    arguments = ["predict", "model-0", "log.tsv", "--out", "s.parquet"]
    predict(*arguments[1:], cwd=folder).result
    unbroken = folder / "s.parquet", folder / "s.parquet.rejected.ndjson"
    kept = [path.read_bytes() for path in unbroken]
    for path in unbroken:
        path.unlink()
    process = subprocess.Popen(command(*arguments), cwd=folder, stderr=subprocess.DEVNULL, text=True)
    parts = folder / "s.parquet.parts"
    wait_for(lambda: len(list(parts.glob("*[0-9].arrow"))) > 30, process)
    started = family(process.pid)[1:]
    assert len(started) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline, "what it had started has not ended"
        time.sleep(0.05)
    assert not (folder / "s.parquet").exists()
    whole = [pl.read_ipc(path).height for path in parts.glob("*[0-9].arrow")]
    bad = [pl.read_ipc(parts / f"{path.stem}.rejected.arrow").height for path in parts.glob("*[0-9].arrow")]
    return Stopped(folder, sum(whole) + sum(bad), *kept)


@pytest.mark.processes
def test_killed_run_goes_on_with_what_is_not_finished_and_ends_with_the_same_bytes(stopped: Stopped) -> None:
    folder = stopped.again("resumed")
    assert 10_000 < stopped.rows < 4000 * TIMES
    done = predict("model-0", "log.tsv", "--out", "s.parquet", cwd=folder)
    assert done.result["rows_resumed"] == stopped.rows
    assert done.result["rows"] + done.result["rows_rejected"] == 4000 * TIMES
    assert "finished parts in s.parquet.parts" in done.err
    assert (folder / "s.parquet").read_bytes() == stopped.unbroken
    assert (folder / "s.parquet.rejected.ndjson").read_bytes() == stopped.rejected
    left = {path.name for path in folder.iterdir()}
    assert left == {"log.tsv", "model-0", "model-1", "s.parquet", "s.parquet.rejected.ndjson"}


@pytest.mark.processes
def test_finished_part_is_taken_as_it_is_and_a_damaged_one_scored_again(stopped: Stopped) -> None:
    folder = stopped.again("marked")
    marked, damaged = sorted((folder / "s.parquet.parts").glob("*[0-9].arrow"))[:2]
    content = pl.read_ipc(marked)
    content.with_columns(pl.lit(2.0, dtype=pl.Float32).alias("probability")).write_ipc(marked)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    predict("model-0", "log.tsv", "--out", "s.parquet", cwd=folder).result
    found = pl.read_parquet(folder / "s.parquet")
    whole = pl.read_parquet(stopped.unbroken)
    assert found["probability"][: content.height].to_list() == [2.0] * content.height
    assert found[content.height :].equals(whole[content.height :])


@pytest.mark.processes
def test_another_model_starts_anew_and_says_so(stopped: Stopped) -> None:
    folder = stopped.again("other-model")
    (folder / "s.parquet").write_text("an older output, which is replaced")
    done = predict("model-1", "log.tsv", "--out", "s.parquet", cwd=folder)
    assert done.result["rows_resumed"] == 0
    assert "s.parquet.parts was of another model or other inputs: all rows are scored anew" in done.err
    ours, theirs = pl.read_parquet(stopped.unbroken), pl.read_parquet(folder / "s.parquet")
    assert theirs.drop("probability").equals(ours.drop("probability"))
    assert (theirs["probability"] != ours["probability"]).sum() > 0.9 * ours.height


@pytest.mark.processes
def test_killed_scoring_process_ends_the_run_in_one_line_and_keeps_the_parts(stopped: Stopped) -> None:
    folder = stopped.again("killed-inside")
    process = subprocess.Popen(
        command("predict", "model-1", "log.tsv", "--out", "t.parquet"), cwd=folder, stderr=subprocess.PIPE, text=True
    )
    parts = folder / "t.parquet.parts"
    wait_for(lambda: len(list(parts.glob("*[0-9].arrow"))) > 5, process)
    scorers = [each for child in children(process.pid) for each in children(child)]
    assert len(scorers) == min(2, len(os.sched_getaffinity(0)))
    os.kill(scorers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    done = Done(process.returncode, "", err)
    assert (done.code, "a scoring process was killed by signal 9" in done.error) == (1, True)
    assert not (folder / "t.parquet").exists()
    assert Parts(parts).finished > 5


@pytest.mark.processes
def test_memory_of_all_processes_does_not_grow_with_the_rows(folder: Path, tmp_path: Path) -> None:
    """Of 480,000 rows more, which are 110 MB of log, not a fifth stays in memory, in all processes together."""
    lines = (folder / "log.tsv").read_bytes()
    peaks: list[float] = []
    for times in (1, 4):
        log = tmp_path / f"{times}.tsv"
        log.write_bytes(lines * times)
        process = subprocess.Popen(
            command("predict", folder / "model-0", log, "--out", tmp_path / f"{times}.parquet", block=2**19),
            stderr=subprocess.DEVNULL,
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, family_rss_mb(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0
        peaks.append(peak)
    # TensorFlow alone takes that much, in each of the processes that score.
    assert peaks[0] > 600
    grown = len(lines) * 3 / 2**20
    assert peaks[1] - peaks[0] < 0.2 * grown, peaks
