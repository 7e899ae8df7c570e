"""How fast `ctr predict` is on raw rows and how much memory all its processes take: against 150,000 rows/s and 2 GiB.

    python tests/bench/bench_predict.py                     # 2 million rows, the demo's model: 3 minutes on 2 cores
    python tests/bench/bench_predict.py --model RUN --log LOG

Without `--model` one is trained as `make demo` does, without `--log` one is generated with seed 1. Every run is a
process of its own; the fastest counts, since other work on the machine only ever slows, and no run is begun after
`--seconds`. Ends with code 1 where the rate is below the target or the memory above it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_prepare import len_cores, processor
from shared import quiet_tracking

from features.memory import family_rss_mb

ROWS_PER_SECOND, PEAK_MB = 150_000, 2048
_CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"


def main() -> None:
    """Prints the figures as a table, and as JSON with --json."""
    parser = argparse.ArgumentParser(description="Rows a second and memory of ctr predict.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=300, help="after which no further run is begun")
    parser.add_argument("--model", type=Path, default=None, help="a run or a SavedModel")
    parser.add_argument("--log", type=Path, default=None, help="raw rows, of at least some seconds' work")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs some 300 bytes a row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        quiet_tracking(folder)
        model, log = options.model or trained(folder), options.log or generated(folder / "log.tsv", options.rows, 1)
        deadline, runs = time.monotonic() + options.seconds, list[dict[str, Any]]()
        while not runs or (len(runs) < options.runs and time.monotonic() < deadline):
            runs.append(run(model, log, folder / "scores.parquet"))
    show(runs)
    if options.json:
        sys.stdout.write(json.dumps(runs) + "\n")
    fast = max(each["rows_per_second"] for each in runs) >= ROWS_PER_SECOND
    small = max(each["peak_mb"] for each in runs) <= PEAK_MB
    sys.exit(0 if fast and small else 1)


def trained(folder: Path) -> Path:
    """A run of the demo's configuration on 300,000 generated rows."""
    log = generated(folder / "training.tsv", 300_000, 0)
    ctr("prepare", log, "--out", folder / "data", "--config", _CONFIG)
    ctr("train", folder / "data", "--out", folder / "run", "--config", _CONFIG)
    return folder / "run"


def generated(log: Path, rows: int, seed: int) -> Path:
    """A log of generated rows."""
    ctr("synth", "--rows", rows, "--seed", seed, "--out", log)
    return log


def run(model: Path, log: Path, out: Path) -> dict[str, Any]:
    """What one call says of itself, its seconds in all and the most memory (MB) that its processes had together."""
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(words("predict", model, log, "--out", out), stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, family_rss_mb(process.pid))
        time.sleep(0.05)
    seconds = time.monotonic() - began
    if process.returncode:
        sys.exit(process.returncode)
    out.unlink()
    return {**json.loads(process.communicate()[0]), "seconds": seconds, "peak_mb": peak}


def ctr(*arguments: object) -> None:
    """One command; what it says of its progress is seen."""
    subprocess.run(words(*arguments), check=True, stdout=subprocess.DEVNULL)


def words(*arguments: object) -> list[str]:
    """The command line of a command."""
    return [sys.executable, "-m", "ctr", *map(str, arguments), "--json"]


def show(runs: list[dict[str, Any]]) -> None:
    """The figures for people."""
    say = sys.stderr.write
    say(f"{processor()}, {len_cores()} cores; {runs[0]['rows']:,} rows, {len(runs)} runs\n")
    rates = ", ".join(f"{each['rows_per_second']:,.0f}" for each in runs)
    best = max(runs, key=lambda each: each["rows_per_second"])
    say(f"rows/s, loading the model aside: {rates}; target {ROWS_PER_SECOND:,}\n")
    say(f"seconds of the fastest with TensorFlow's start: {best['seconds']:.1f}\n")
    peaks = ", ".join(f"{each['peak_mb']:,.0f}" for each in runs)
    say(f"peak memory of all processes together, MB: {peaks}; target {PEAK_MB:,}\n")
    spent = best["core_seconds"]
    shares = ", ".join(f"{stage} {part / sum(spent.values()):.0%}" for stage, part in spent.items())
    seconds_a_row = sum(spent.values()) / best["rows"]
    say(f"processor time: {seconds_a_row * 1e6:.1f} microseconds a row: {shares}\n")
    # Where that is far below the number of cores, others had them.
    say(f"cores that the fastest had to itself: {seconds_a_row * best['rows_per_second']:.2f} of {len_cores()}\n")


if __name__ == "__main__":
    main()
