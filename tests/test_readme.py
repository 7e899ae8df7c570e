"""The README: a newcomer follows it top to bottom, so every command in it is run, and every setting explained."""

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import CTR

from ctr.config import Config, flatten

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# ```sh blocks are run to their end, ```sh server blocks until they answer, ```sh client blocks while the server is up.
BLOCKS = re.findall(r"^```sh ?(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = {}
    for row in re.findall(r"^\| (`[a-z]+\.[a-z0-9_.]+`.*?) \| (.*?) \|", README, flags=re.MULTILINE):
        for name in re.findall(r"`([a-z0-9_.]+)`", row[0]):
            rows[name] = row[1]
    known = flatten(Config().model_dump(mode="json"))
    assert set(rows) == set(known)
    assert float(rows["optimizer.initial_accumulator_value"]) == known["optimizer.initial_accumulator_value"]
    for name in ("codistillation.weight", "codistillation.burn_in_epochs", "train.epochs", "gate.max_ece"):
        assert float(rows[name]) == known[name], name


@pytest.mark.parametrize(
    ("title", "row", "least"),
    [
        ("Data", r"^\| (.*?\*\*.*?) \| (.*?) \|$", 13),
        ("When something goes wrong", r"^\| ([^|-].*?) \| [^|]*? \| (`.*?) \|$", 7),
        ("Several machines", r"^\| ([^|-].*?) \| [^|]*? \| [^|]*? \| (`test_.*?) \|$", 8),
    ],
)
def test_what_a_table_says_is_held_by_tests_that_there_are(title: str, row: str, least: int) -> None:
    """The last column of the table names them."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [found for found in re.findall(row, section, flags=re.MULTILINE) if "held by" not in found[1]]
    assert len(rows) >= least
    there = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    for about, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, about
        assert set(named) <= there, set(named) - there


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_every_command_runs_in_the_order_of_the_readme(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 12
    # A clone: the files that git would give, with the environment that is there already.
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, tmp_path / file)  # with their times, by which make judges the set-up
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    environment = {**os.environ, "PATH": f"{CTR.parent}:{os.environ['PATH']}"}
    server: subprocess.Popen[bytes] | None = None
    try:
        for kind, block in BLOCKS:
            for command in filter(None, block.splitlines()):
                if kind == "server":
                    stop(server)
                    server = start(command, tmp_path, environment)
                    continue
                # The demo on fewer rows: its 300,000 are for people to look at.
                words = f"{command} ROWS=30000" if command == "make demo" else command
                done = subprocess.run(
                    ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                if kind == "client":
                    assert 0 < float(re.findall(r"\[(.*)\]", done.stdout)[0]) < 1
    finally:
        stop(server)
    made = {
        "log.tsv",
        "data",
        "other.tsv",
        "drift.html",
        "run",
        "scores.parquet",
        "model",
        "model16",
        "average",
        "comparison",
        "nextday",
        "mlflow.db",
        "demo",
    }
    assert made <= {path.name for path in tmp_path.iterdir()}


def start(command: str, folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Starts a server and waits until its port answers."""
    port = re.findall(r"(?:--port|-p) (\d+)", command)[0]
    assignments, words = {}, shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        assignments[name] = value
    server = subprocess.Popen(words, cwd=folder, env={**environment, **assignments}, start_new_session=True)
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, f"{command} ended"
        assert time.monotonic() < deadline, f"{command} did not come up"
        try:
            httpx.get(f"http://127.0.0.1:{port}/")
            return server
        except httpx.TransportError:
            time.sleep(0.2)


def stop(server: Any) -> None:
    """Ends a server and all that it started."""
    if server is not None and server.poll() is None:
        os.killpg(server.pid, 15)
        server.wait(30)
