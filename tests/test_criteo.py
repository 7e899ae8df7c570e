"""The configurations for Criteo's logs: what their tops say, what they ask for, and their protocols end to end."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CTR, run_ctr
from mirror import running_server, tar_of

from ctr.config import load_config, schema_of
from ctr.estimate import CORES, estimate, gain, multiplications, row_seconds

ROOT = Path(__file__).parent.parent
NAMES = ("criteo", "criteo_x1", "criteo_x4", "criteo_1tb")
BENCHED = multiplications(26 * 16, [400, 400, 400])


@pytest.mark.parametrize("name", NAMES)
def test_figures_at_the_top_are_those_that_the_command_beside_them_prints(name: str) -> None:
    head = re.match(r"(#.*\n)+", (ROOT / "configs" / f"{name}.yaml").read_text())
    assert head
    plain = " ".join(line.removeprefix("#").strip() for line in head[0].splitlines())
    (command,) = re.findall(r"`python -m (ctr\.estimate .*?)`", plain)
    assert f"configs/{name}.yaml" in command
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line in plain
    assert "Published" in plain
    assert re.search(r"NOT yet run", plain, flags=re.IGNORECASE)


@pytest.mark.parametrize(
    ("name", "tokens", "dense", "min_count", "buckets"),
    [
        ("criteo", 13, 13, 10, 5 * 2**24 + 3 * 2**20 + 18 * 2**16),
        ("criteo_x1", 0, 13, 4, 5 * 2**24 + 3 * 2**20 + 18 * 2**16),
        ("criteo_x4", 13, 0, 10, 5 * 2**24 + 3 * 2**20 + 18 * 2**16),
        ("criteo_1tb", 13, 13, 15, 5 * 2**26 + 2**24 + 2 * 2**22 + 18 * 2**17),
    ],
)
def test_schemas_have_criteos_columns_and_the_protocols_features(
    name: str, tokens: int, dense: int, min_count: int, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    schema = schema_of(load_config(Path(f"configs/{name}.yaml"), []).features)
    names = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
    assert schema.columns == names
    assert (schema.separator, schema.header) == ("\t", False)
    assert sum(field.token == "log_square" for field in schema.numeric) == tokens
    assert sum(field.dense == "log_standard" for field in schema.numeric) == dense
    assert {field.min_count for field in schema.categorical} == {min_count}
    assert sum(field.buckets for field in schema.categorical) == buckets


@pytest.mark.parametrize(
    ("name", "dim", "batch", "hidden", "dropout", "parts", "rows"),
    [
        ("criteo_x1", 10, 4096, (400,) * 3, 0.1, (0.18, 0.1), 33_003_326),
        ("criteo_x4", 16, 10_000, (1000,) * 5, 0.2, (0.1, 0.1), 36_672_493),
    ],
)
def test_protocols_are_those_that_bars_published(
    name: str, dim: int, batch: int, hidden: tuple[int, ...], dropout: float, parts: tuple[float, float], rows: int
) -> None:
    """By its logs of Wide & Deep: parts, embeddings, layers, Adam at .001, a tenth of it after each pass in vain."""
    config = load_config(ROOT / "configs" / f"{name}.yaml", [])
    split, optimizer, train = config.prepare, config.optimizer, config.train
    assert (split.split, split.validation, split.test) == ("random", *parts)
    assert 45_840_617 * (1 - sum(parts)) == pytest.approx(rows, rel=2e-4)
    assert (config.model.embedding_dim, config.model.hidden, config.model.dropout) == (dim, hidden, dropout)
    assert (optimizer.dense, optimizer.dense_learning_rate) == ("adam", 0.001)
    assert (optimizer.schedule, optimizer.plateau_factor, optimizer.plateau_patience) == ("plateau", 0.1, 1)
    assert (train.batch_size, train.epochs, train.early_stopping, train.ema) == (batch, 100, 2, 0)
    assert train.evaluate_every == rows // batch
    assert config.compare.retrainings >= 5


def test_last_day_of_the_1tb_log_is_what_is_held_out() -> None:
    """Days 0 to 22 have 4,195,197,692 rows, day 23 has 178,274,637."""
    split = load_config(ROOT / "configs" / "criteo_1tb.yaml", []).prepare
    assert 4_373_472_329 * (split.validation + split.test) == pytest.approx(178_274_637, rel=1e-4)
    assert split.split == "time"


def test_cost_of_the_benched_net_is_what_the_bench_measured() -> None:
    """And of what it does not use: a pair on two cores (48,800 rows/s), two threads in bfloat16 (91,400)."""
    assert BENCHED == 486_800
    for compute, alone, taught in (("float32", 31_700, 24_100), ("bfloat16", 52_300, 40_100)):
        seconds = [
            row_seconds(416, BENCHED, compute=compute, teachers=teachers, weights=0, batch=4096) for teachers in (0, 1)
        ]
        assert seconds == pytest.approx([1 / alone, 1 / taught])
    assert 2 / row_seconds(416, BENCHED, compute="float32", teachers=1, weights=0, batch=4096) == pytest.approx(
        48_800, rel=0.02
    )
    assert gain(2) * 31_700 == pytest.approx(58_900)
    assert gain(2) * 52_300 == pytest.approx(91_400, rel=0.07)
    assert (gain(0.5), gain(1)) == (0.5, 1)
    assert 5 < gain(8) < 5.5


def test_costs_grow_as_what_they_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(Path("configs/criteo_x4.yaml"), [])
    sizes: dict[str, Any] = {"rows": 1_000_000, "table_rows": 100_000, "passes": 1}
    one, twice = estimate(config, **sizes), estimate(config, **{**sizes, "passes": 2})
    assert one["disk_gb"]["log"] == pytest.approx(0.243)
    for cores in CORES:
        assert twice["hours"][cores]["2 groups"] == pytest.approx(2 * one["hours"][cores]["2 groups"])
    # 15 processes of one thread each share two cores; a single model alone has both of them for its two threads.
    alone = estimate(load_config(Path("configs/criteo_x4.yaml"), ["codistillation.groups=1"]), **sizes)
    single, pair = alone["hours"][2]["1 groups"] * gain(2), one["hours"][2]["2 groups"] * 2
    assert one["hours"][2]["comparison"] == pytest.approx(5 * (single + pair) / 2)
    more = estimate(config, **{**sizes, "table_rows": 1_100_000})["memory_gb"]["each_group"]
    assert more - one["memory_gb"]["each_group"] == pytest.approx(1e6 * 17 * (13.3 + 4) / 1e9)


# Everything small enough for half a minute, but as the protocol has it: its arms, its schedule, its parts, its schema.
SMALL = [
    "model.hidden=[16]", "train.batch_size=64", "train.epochs=2", "train.evaluate_every=20", "compare.retrainings=1",
    "codistillation.exchange_every=20", "train.checkpoint_every=20", "codistillation.burn_in_epochs=0.5",
]  # fmt: skip


def small_schema(name: str, folder: Path) -> str:
    """The setting that names a configuration's schema with few buckets: 88 million take seconds and gigabytes."""
    text = (ROOT / "configs" / "schemas" / f"{name}.yaml").read_text()
    (folder / f"{name}.yaml").write_text(re.sub(r"buckets: \d+", "buckets: 1000", text))
    return f"features.layout={folder / name}.yaml"


def whole_protocol(name: str, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Runs the script as a user would."""
    environment = {
        **os.environ,
        "URL": url,
        "PATH": f"{CTR.parent}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    words = [str(ROOT / "configs" / "criteo.sh"), name, str(folder / "out"), small_schema(name, folder), *SMALL]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def log(tmp_path: Path) -> bytes:
    """A log in Criteo's layout."""
    run_ctr("synth", "--rows", 4800, "--out", "log.tsv", "--json", cwd=tmp_path).result
    return (tmp_path / "log.tsv").read_bytes()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["criteo_x1", "criteo_x4"])
def test_protocol_on_kaggles_archive_from_the_download_to_the_comparison(name: str, log: bytes, tmp_path: Path) -> None:
    archive = "criteo-research-kaggle-display-advertising-challenge-dataset.tar.gz"
    unlabelled = b"".join(line.partition(b"\t")[2] for line in log.splitlines(keepends=True)[:10])
    with running_server() as server:
        server.files = {f"/{archive}": tar_of({"readme.txt": b"terms", "train.txt": log, "test.txt": unlabelled})}
        done = whole_protocol(name, tmp_path, server.url)
        assert done.returncode == 0, done.stderr
        again = whole_protocol(name, tmp_path, server.url)
        assert again.returncode == 0, again.stderr
    manifest = json.loads((tmp_path / "out" / "data" / "manifest.json").read_text())
    assert manifest["rows"] == 4800
    config = load_config(ROOT / "configs" / f"{name}.yaml", [])
    shares = [manifest["parts"][part]["rows"] / 4800 for part in ("validation", "test")]
    assert shares == pytest.approx([config.prepare.validation, config.prepare.test], abs=0.02)
    assert manifest["features"]["dense"] == (13 if name == "criteo_x1" else 0)
    evaluated, compared = (json.loads(line) for line in done.stdout.splitlines())
    assert evaluated["rows"] == manifest["parts"]["test"]["rows"]
    # Better than the click rate alone, by which log loss would be about .56.
    assert evaluated["log_loss"] < 0.56
    assert set(compared["arms"]) == {"single", "codistilled"}
    assert compared["rows"] == evaluated["rows"]
    assert Path(compared["report"]).name == "report.html"
    # Nothing was done twice.
    assert json.loads(again.stdout) == evaluated
    assert "starting 2 groups" not in again.stderr


@pytest.mark.processes
def test_protocol_on_the_days_of_the_1tb_log(log: bytes, tmp_path: Path) -> None:
    """24 files, in the order of time, day 2 before day 10; validated and tested on the last one.

    These days are of one length; of the real ones the last is a little shorter than the mean, as the shares say.
    """
    lines = log.splitlines(keepends=True)
    days = {f"/day_{day}.gz": gzip.compress(b"".join(lines[200 * day : 200 * (day + 1)])) for day in range(24)}
    with running_server() as server:
        server.files = days
        done = whole_protocol("criteo_1tb", tmp_path, server.url)
        assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "data" / "manifest.json").read_text())
    assert [Path(source).name for source in manifest["sources"]] == [f"day_{day}.gz" for day in range(24)]
    parts = [manifest["parts"][part]["rows"] for part in ("train", "validation", "test")]
    assert parts == pytest.approx([4604, 98, 98], abs=1)
    (evaluated,) = (json.loads(line) for line in done.stdout.splitlines())
    assert evaluated["rows"] == parts[2]
    assert not (tmp_path / "out" / "comparison").exists()


def test_script_without_words_says_how_it_is_used() -> None:
    done = subprocess.run([str(ROOT / "configs" / "criteo.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "configs/criteo.sh NAME FOLDER" in done.stderr
