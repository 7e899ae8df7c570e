"""What tests share: the command line, and one small log, prepared folder, run and registry made once a session."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CTR = Path(sys.executable).with_name("ctr")
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"

# Small enough for seconds, large enough for several exchanges and checkpoints.
TINY = {
    "features.buckets": "4096",
    "model.embedding_dim": "4",
    "model.hidden": "[16,8]",
    "train.batch_size": "64",
    "train.epochs": "1",
    "train.checkpoint_every": "10",
    "train.evaluate_every": "20",
    "train.early_stopping": "0",
    "codistillation.burn_in_epochs": "0.3",
    "codistillation.ramp_steps": "5",
    "codistillation.exchange_every": "10",
}
# How the session's comparison is made, beside the tiny settings: two retrainings of the default arms.
COMPARED = ["compare.trials=0", "--retrainings", "2", "--truth", "truth.parquet", "--json"]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that it printed; fails where that is not all that it printed."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that says what was wrong; fails where there is none or more than one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def run_ctr(*arguments: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300) -> Done:
    """Runs `ctr` as a process of its own in `cwd`."""
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(
        [str(CTR), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    return Done(done.returncode, done.stdout, done.stderr)


def tiny(**changes: str) -> list[str]:
    """Settings of a tiny run as `key=value`; `train__seed="1"` changes train.seed."""
    settings = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [f"{key}={value}" for key, value in settings.items()]


@dataclass(frozen=True)
class Project:
    """A working folder with a log, its truth, a prepared folder and a finished run."""

    folder: Path
    trained: dict[str, Any]

    def ctr(self, *arguments: object, **options: Any) -> Done:
        """Runs `ctr` here."""
        return run_ctr(*arguments, cwd=self.folder, **options)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `log.tsv` (4,000 rows), `truth.parquet` and the prepared folder `data`."""
    folder = tmp_path_factory.mktemp("project")
    run_ctr("synth", "--rows", 4000, "--out", "log.tsv", "--truth", "truth.parquet", "--json", cwd=folder).result
    settings = [word for setting in ["features.buckets=4096"] for word in ("--set", setting)]
    run_ctr("prepare", "log.tsv", "--out", "data", *settings, "--json", cwd=folder).result
    return folder


@pytest.fixture(scope="session")
def project(prepared: Path) -> Project:
    """The same with the finished run `run`, a codistilled pair."""
    trained = run_ctr("train", "data", "--out", "run", *tiny(), "--json", cwd=prepared).result
    return Project(prepared, trained)


@pytest.fixture(scope="session")
def compared(project: Project) -> dict[str, Any]:
    """What the finished comparison `comparison` of the same data says."""
    return project.ctr("compare", "data", "--out", "comparison", *tiny(), *COMPARED, timeout=600).result


@pytest.fixture
def in_background() -> Any:
    """Starts processes that are ended when the test is over: `start(*arguments, cwd=...)`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, cwd: Path, program: Path = CTR) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(program), *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # So that what it leaves behind can be ended with it, and no test waits for it.
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real Criteo extracts, which are not part of the project; tests that want them are skipped without."""
    if not SHARED.is_dir():
        pytest.skip(f"real Criteo extracts are not at {SHARED}")
    return SHARED
