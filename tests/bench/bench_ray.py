"""What Ray costs: `ctr prepare` and `ctr predict` with --engine ray beside the local engine, on the same cores.

    python tests/bench/bench_ray.py                       # 2 million rows in 8 files, 3 runs of each: 5 minutes
    python tests/bench/bench_ray.py --rows 200000 --runs 1

Every run is a process of its own, and the engines take turns. Seconds are those of the whole command, with the start of
Python and TensorFlow. Ray's own start, of its head and of a worker a core, is timed apart, and its median taken off the
seconds of commands on Ray. Ends with code 1 where their median is then above 1.3 times the local one.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_predict import generated, trained, words
from bench_prepare import len_cores, processor
from shared import quiet_tracking

MOST = 1.3
_START = """
import sys, time
began = time.monotonic()
from features.engine import open_engine
with open_engine("ray") as engine:
    # Long enough for every worker to get some.
    list(engine.run(lambda items, seen: time.sleep(0.2), range(int(sys.argv[1])), lambda rows: None))
print(time.monotonic() - began)
"""
ENGINES = ("local", "ray")


def main() -> None:
    """Prints the figures as a table, and as JSON with --json."""
    parser = argparse.ArgumentParser(description="Seconds of ctr prepare and ctr predict, on Ray and without.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3, help="of each engine and command")
    parser.add_argument("--model", type=Path, default=None, help="a run or a SavedModel; by default one is trained")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs some 1.5 kB a row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        quiet_tracking(folder)
        model = options.model or trained(folder)
        each = options.rows // options.files
        logs = [generated(folder / f"log-{file}.tsv", each, file + 1) for file in range(options.files)]
        figures = measure(folder, model, logs, options.runs)
    show(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    sys.exit(0 if all(figures[command]["ratio"] <= MOST for command in ("prepare", "predict")) else 1)


def measure(folder: Path, model: Path, logs: list[Path], runs: int) -> dict[str, Any]:
    """Seconds of every run by command and engine, medians, and the ratio of these; and how long Ray takes to start."""
    commands: dict[str, list[object]] = {
        "prepare": ["prepare", *logs, "--out", folder / "prepared"],
        "predict": ["predict", model, *logs, "--out", folder / "scores.parquet"],
    }
    starts = [start_of_ray() for _ in range(runs)]
    figures: dict[str, Any] = {"start": starts}
    for command, arguments in commands.items():
        seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        outputs = set[str]()
        for _ in range(runs):
            for engine in ENGINES:
                result = run(arguments, engine, folder)
                figures["rows"] = result["rows"]
                seconds[engine].append(result["seconds"] - (statistics.median(starts) if engine == "ray" else 0.0))
                outputs.add(str(result.get("digest")))
        if len(outputs) > 1:
            sys.exit(f"error: the engines' outputs have different digests: {sorted(outputs)}")
        medians = {engine: statistics.median(each) for engine, each in seconds.items()}
        figures[command] = {"seconds": seconds, "ratio": medians["ray"] / medians["local"], "medians": medians}
    return figures


def run(arguments: list[object], engine: str, folder: Path) -> dict[str, Any]:
    """What one command says of itself, and its seconds; its output is removed."""
    began = time.monotonic()
    done = subprocess.run(words(*arguments, "--engine", engine), stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.monotonic() - began
    shutil.rmtree(folder / "prepared", ignore_errors=True)
    (folder / "scores.parquet").unlink(missing_ok=True)
    return {**json.loads(done.stdout), "seconds": seconds}


def start_of_ray() -> float:
    """Seconds until Ray runs here, a worker a core has answered, and all has ended; in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _START, str(len_cores())], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def show(figures: dict[str, Any]) -> None:
    """The figures for people."""
    say = sys.stderr.write
    say(f"{processor()}, {len_cores()} cores; {figures['rows']:,} rows\n")
    say(f"Ray's start, counted apart, seconds: {', '.join(f'{each:.1f}' for each in figures['start'])}\n")
    for command in ("prepare", "predict"):
        about = figures[command]
        for engine, seconds in about["seconds"].items():
            rate = figures["rows"] / about["medians"][engine]
            each = ", ".join(f"{value:.1f}" for value in seconds)
            say(f"{command}, {engine}: seconds {each}; median {about['medians'][engine]:.1f}, {rate:,.0f} rows/s\n")
        say(f"{command}: Ray takes {about['ratio']:.2f} times as long; target at most {MOST}\n")


if __name__ == "__main__":
    main()
