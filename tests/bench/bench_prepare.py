"""How fast `ctr prepare` is, beside other tools on the same log, and how much memory it takes.

    python tests/bench/bench_prepare.py                       # 5 million rows, memory at 10 million too: 5 minutes
    python tests/bench/bench_prepare.py --rows 500000 --runs 1

Every run is a process of its own; contenders take turns, and the median of each one's runs is printed, with the ratio
of this pipeline to it. Runs on 2 cores what the machine gives; the log is generated with seed 0.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contenders import CONTENDERS

_OURS = "ctr prepare"
# pandas takes some 20 times as long, so it gets the first rows of the log only.
_PANDAS_ROWS = 200_000

_INPUT = """
import sys, time
from pathlib import Path
import ctr
from ctr.data import open_data
from ctr.train import training_dataset

data = open_data(Path(sys.argv[1]))
part, spec = data.parts["train"], data.spec
steps = max(part.rows // 4096, 1)
batches = iter(training_dataset(part, fields=len(spec.id_fields), numbers=len(spec.dense_fields), batch_size=4096,
                                seed=0, first_step=0, worker=0, workers=1, steps=2 * steps))
next(batches)
began = time.perf_counter()
for _ in batches:
    pass
print((2 * steps - 1) * 4096 / (time.perf_counter() - began))
"""


def main() -> None:
    """Prints the figures as a table, and as JSON with --json."""
    parser = argparse.ArgumentParser(description="Rows a second and memory of ctr prepare beside other tools.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of each contender")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs some 1.5 kB a row")
    parser.add_argument("--no-double", action="store_true", help="leave out memory at twice the rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(Path(folder), options.rows, options.runs, double=not options.no_double)
    show(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def measure(folder: Path, rows: int, runs: int, *, double: bool) -> dict[str, Any]:
    """All figures of one log."""
    log, short = folder / "log.tsv", folder / "short.tsv"
    generate(log, rows)
    with log.open("rb") as whole, short.open("wb") as head:
        head.writelines(whole.readline() for _ in range(min(rows, _PANDAS_ROWS)))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    encoded, batches = 0.0, 0.0
    for _ in range(runs):
        for name, results in found.items():
            out = folder / "out"
            results.append(run(name, short if name.startswith("pandas") else log, out))
            if name == _OURS:
                size = sum(path.stat().st_size for path in out.rglob("shard-*.parquet"))
                encoded = size / results[-1]["rows"]
                batches = max(batches, rows_into_batches(out))
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    figures: dict[str, Any] = {
        "machine": f"{processor()}, {platform.machine()}, {len_cores()} cores",
        "rows": rows,
        "runs": runs,
        "log_bytes_per_row": log.stat().st_size / rows,
        "encoded_bytes_per_row": encoded,
        "rows_per_second_into_batches_of_4096": batches,
        "contenders": {name: summary(results) for name, results in found.items()},
    }
    ours = figures["contenders"][_OURS]["rows_per_second"]
    figures["times_as_fast_as"] = {
        name: ours / about["rows_per_second"] for name, about in figures["contenders"].items() if name != _OURS
    }
    if double:
        log.unlink()
        generate(log, 2 * rows)
        figures["peak_mb_at_twice_the_rows"] = run(_OURS, log, folder / "out")["peak_mb"]
    return figures


def generate(log: Path, rows: int) -> None:
    """A log of generated rows."""
    command = [sys.executable, "-m", "ctr", "synth", "--rows", str(rows), "--out", str(log), "--seed", "0"]
    subprocess.run(command, check=True, capture_output=True)


def run(name: str, log: Path, out: Path) -> dict[str, float]:
    """One contender's work in a process of its own."""
    script = Path(__file__).with_name("contenders.py")
    done = subprocess.run(
        [sys.executable, str(script), name, str(log), str(out)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def rows_into_batches(prepared: Path) -> float:
    """Rows a second from shards into tf.data batches of 4096, two passes without training."""
    done = subprocess.run(
        [sys.executable, "-c", _INPUT, str(prepared)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return float(done.stdout)


def summary(results: list[dict[str, float]]) -> dict[str, Any]:
    """Rows a second of several runs: median, slowest, fastest; and the most memory."""
    speeds = [one["rows"] / one["seconds"] for one in results]
    return {
        "rows_per_second": statistics.median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "peak_mb": max(one["peak_mb"] for one in results),
        "rows": results[0]["rows"],
    }


def show(figures: dict[str, Any]) -> None:
    """The figures for people."""
    say = sys.stderr.write
    say(f"{figures['machine']}; {figures['rows']:,} rows, {figures['runs']} runs, seed 0\n")
    say(f"{'':24}{'rows/s':>12}{'slowest':>12}{'fastest':>12}{'peak MB':>10}{'ours is':>10}\n")
    for name, about in figures["contenders"].items():
        times = figures["times_as_fast_as"].get(name)
        speeds = "".join(f"{about[key]:>12,.0f}" for key in ("rows_per_second", "slowest", "fastest"))
        few = f"  ({about['rows']:,} rows)" if about["rows"] != figures["rows"] else ""
        say(f"{name:24}{speeds}{about['peak_mb']:>10,.0f}{f'{times:.2f} x' if times else '':>10}{few}\n")
    if "peak_mb_at_twice_the_rows" in figures:
        say(f"peak memory of ctr prepare at twice the rows: {figures['peak_mb_at_twice_the_rows']:,.0f} MB\n")
    say(f"bytes a row: {figures['log_bytes_per_row']:.0f} in the log, {figures['encoded_bytes_per_row']:.0f} encoded\n")
    say(f"shards into tf.data batches of 4096: {figures['rows_per_second_into_batches_of_4096']:,.0f} rows/s\n")


def processor() -> str:
    """What the machine's processor is called."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def len_cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
