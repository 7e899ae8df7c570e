"""How fast training is, against its floor, PyTorch and other arrangements: `python tests/bench/bench_train.py`.

Contenders are one process with one thread, alone on the machine, and once more with two threads; groups are a process
a core with one thread each. All in turn, `--repeat` times; medians, least and greatest. Rows a second of several models
are added up: each of a pair passes over all rows, where a synchronous pair divides them. Rows are generated, their ids
skewed as Criteo's are: 26 fields, embeddings of 16, layers of 400, batches of 4096, tables of one and ten million rows.
Wants `pip install -e .[bench]`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.prepare import MANIFEST_FILE
from features.schema import Categorical, Schema
from features.spec import FeatureSpec

BATCH = 4096
ROWS = 120 * BATCH  # more than pass between two exchanges
# Distinct values of Criteo's fields. The largest are cut to one size, so that the tables have the rows wanted.
CRITEO = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
CRITEO += [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
CONTENDERS = Path(__file__).with_name("train_contenders.py")
GROUPS = {
    "codistilled pair": [],
    "codistilled pair, teacher_share .5": ["codistillation.teacher_share=0.5"],
    "two independent": ["codistillation.weight=0"],
    "synchronous pair": ["codistillation.groups=1", "train.workers_per_group=2"],
}
# As `ctr train` starts its processes.
ALONE = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def make_data(folder: Path, table_rows: int, rows: int) -> Path:
    """A prepared folder of generated rows, the tables of whose fields have `table_rows` rows together."""
    buckets = {f"C{i}": max(2, count) for i, count in enumerate(cut(table_rows), start=1)}
    schema = Schema(numeric=(), categorical=tuple(Categorical(name=n, buckets=count) for n, count in buckets.items()))
    # Every bucket is kept; the last entry is the missing value's.
    ids = {name: np.append(np.arange(2, count + 2), 0).astype(np.int32) for name, count in buckets.items()}
    spec = FeatureSpec(schema, {}, ids)
    (folder / "train").mkdir(parents=True)
    spec.save(folder)
    random, shards, clicks = np.random.default_rng(0), {}, 0
    for number, first in enumerate(range(0, rows, 131_072)):
        count = min(131_072, rows - first)
        # The value of rank r comes 1/r times as often as the first: .27 of a batch's ids are distinct, Criteo's .21.
        even = random.random((len(buckets), count))
        drawn = [1 + (size**each).astype(np.int32) for size, each in zip(buckets.values(), even, strict=True)]
        label = (random.random(count) < 0.25).astype(np.float32)
        columns = {"row": np.arange(first, first + count, dtype=np.uint64), "label": label}
        columns |= {f"id_{name}": column for name, column in zip(buckets, drawn, strict=True)}
        pl.DataFrame(columns).write_parquet(folder / "train" / f"shard-{number:05d}.parquet")
        shards[f"shard-{number:05d}.parquet"] = {"rows": count}
        clicks += int(label.sum())
    empty: dict[str, Any] = {"rows": 0, "shards": {}, "click_rate": None}
    parts = {"train": {"rows": rows, "shards": shards, "click_rate": clicks / rows}, "validation": empty, "test": empty}
    manifest = {"digest": f"generated-{table_rows}", "spec_digest": spec.digest, "labelled": True, "parts": parts}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def cut(table_rows: int) -> list[int]:
    """Criteo's numbers of values, the largest cut to one size, so that all together are about `table_rows`."""
    most = next(most for most in range(1, table_rows, 1000) if sum(min(most, n) for n in CRITEO) >= table_rows)
    return [min(most, count) for count in CRITEO]


def contender(name: str, data: Path, dtype: str, threads: int, steps: int) -> dict[str, float]:
    """What one contender reaches."""
    words = [name, str(data), "--dtype", dtype, "--threads", str(threads), "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, str(CONTENDERS), *words], capture_output=True, text=True, env={**os.environ, **ALONE}
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def arrangement(folder: Path, data: Path, steps: int, *settings: str, burn_in: float = 0.375) -> dict[str, Any]:
    """What `ctr train` says of a run of so many steps; the share of burn-in is the default's."""
    epochs = steps * BATCH / sum(about["rows"] for about in _manifest(data)["parts"]["train"]["shards"].values())
    with tempfile.TemporaryDirectory(dir=folder) as out:
        words = ["model.hidden=[400,400,400]", f"train.batch_size={BATCH}", f"train.epochs={epochs}"]
        # The contenders have neither.
        words += ["train.ema=0", "optimizer.embedding_l2=0"]
        words += [f"codistillation.burn_in_epochs={burn_in * epochs}", *settings]
        run = [sys.executable, "-m", "ctr", "train", str(data), "--out", f"{out}/run", *words, "--json"]
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, **store})
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def _manifest(data: Path) -> dict[str, Any]:
    return json.loads((data / MANIFEST_FILE).read_text())


def contenders_ratios(m: dict[str, float], dtypes: list[str]) -> dict[str, float]:
    """What one model's speed comes to, from medians in rows/s by title."""
    ratios: dict[str, float] = {}
    for dtype, goal in zip(dtypes, (0.85, 0.75), strict=False):
        own = m[f"one, 1M, {dtype}, 1 thread"]
        ratios[f"one model / floor, {dtype} (at least {goal})"] = own / m[f"floor, 1M, {dtype}, 1 thread"]
        torch = m[f"torch_adagrad, 1M, {dtype}, 1 thread"]
        ratios[f"one model / PyTorch sparse AdaGrad, {dtype} (at least 1.3)"] = own / torch
        ratios[f"10 million table rows / 1 million, {dtype} (at least .9)"] = m[f"one, 10M, {dtype}, 1 thread"] / own
    one = m["one, 1M, float32, 1 thread"]
    ratios["input pipeline / training (at least 10)"] = m["pipeline, 1M, float32, 1 thread"] / one
    return ratios


def groups_ratios(m: dict[str, float], full: int) -> dict[str, float]:
    """What codistillation costs; `full`: bytes of all weights in float32."""
    ratios: dict[str, float] = {}
    for pair in list(GROUPS)[:2]:
        ratios[f"time of a {pair} / two independent (at most 1.3)"] = m["two independent"] / m[pair]
        ratios[f"{pair} / synchronous pair (at least 1.8)"] = m[pair] / m["synchronous pair"]
    ratios["full float32 snapshot / bytes per exchange (at least 5)"] = full / m["bytes per exchange"]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of contenders")
    parser.add_argument("--only", choices=["contenders", "groups"], help="a part of it")
    parser.add_argument("--run-steps", type=int, default=240, help="of runs of groups")
    given = parser.parse_args()
    flags = Path("/proc/cpuinfo").read_text()
    dtypes = ["float32", *(["bfloat16"] if "avx512_bf16" in flags or "amx_bf16" in flags else [])]
    found: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    sizes = {"1M": 1_000_000, "10M": 10_000_000}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = {name: make_data(folder / name, rows, ROWS) for name, rows in sizes.items()}
        plans = [(name, "1M", dtype, 1) for dtype in dtypes for name in ("floor", "one", "taught", "torch_adagrad")]
        plans += [("one", "10M", dtype, 1) for dtype in dtypes]
        plans += [("torch_adam", "1M", "float32", 1), ("pipeline", "1M", "float32", 1)]
        plans += [(name, "1M", dtype, 2) for dtype in dtypes for name in ("floor", "one", "torch_adagrad")]
        for turn in range(given.repeat):
            for name, size, dtype, threads in plans if given.only != "groups" else []:
                title = f"{name}, {size}, {dtype}, {threads} thread{'s' if threads > 1 else ''}"
                print(f"turn {turn + 1} of {given.repeat}: {title}", file=sys.stderr)
                result = contender(name, data[size], dtype, threads, given.steps)
                found[title].append(result["rows_per_second"])
                memory[title] = result["peak_mb"]
            for title, settings in GROUPS.items() if given.only != "contenders" else []:
                print(f"turn {turn + 1} of {given.repeat}: {title}", file=sys.stderr)
                result = arrangement(folder, data["1M"], given.run_steps, *settings)
                found[title].append(result["examples_per_second"])
        if given.only != "contenders":
            # A whole snapshot and those that follow it up to the next whole one.
            print("bytes of ten exchanges", file=sys.stderr)
            (member, _) = arrangement(folder, data["1M"], 1001, burn_in=0.1)["members"]
            found["bytes per exchange"].append(member["bytes_published"] / member["exchanges"])
            found["milliseconds per exchange"].append(1000 * member["seconds_exchanging"] / member["exchanges"])
        full = 4 * (sizes["1M"] * 17 + 26 * 16 * 400 + 2 * 400 * 400 + 400)
    print(f"{os.cpu_count()} cores, {next(line for line in flags.splitlines() if line.startswith('model name'))}")
    for title, values in found.items():
        spread = f"({min(values):,.0f} to {max(values):,.0f})"
        print(f"{title:<42} {statistics.median(values):>12,.0f} {spread:<28} {memory.get(title, 0):>8,.0f} MB")
    m = {title: statistics.median(values) for title, values in found.items()}
    ratios = (contenders_ratios(m, dtypes) if given.only != "groups" else {}) | (
        groups_ratios(m, full) if given.only != "contenders" else {}
    )
    for title, ratio in ratios.items():
        print(f"{title:<78} {ratio:.2f}")


if __name__ == "__main__":
    main()
