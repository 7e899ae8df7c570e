"""How fast the generator is, how much memory it takes, and how hard its log is to learn.

    python tests/bench/bench_synth.py --rows 2000000      # about half an hour on 2 cores
    python tests/bench/bench_synth.py --quick             # 200,000 rows, two passes: 2 minutes, but easier to over-fit

What it should show at 2 million rows, as on Criteo: about 25 % clicks; log loss relative to base-rate entropy of .80 to
.82 for logistic regression, .77 to .785 for a single model, less for the truth; a single model that is best after one
or two passes and then over-fits; an average of two that gains .001 to .002 nats; and hardly a difference between
logistic regression and a single model once the interactions are left out of the log.

Models are trained by `ctr compare` on the first 80 % of the log's time, at a constant learning rate, so that two passes
go on where one ended. Figures are of the test rows, the last 10 %, unless they are said to be of validation rows.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctr.metrics import evaluate
from ctr.runs import read_run, scores_file
from features.synthetic import synth

_GENERATE = """
import json, sys, time
from pathlib import Path
from features.synthetic import synth

began = time.perf_counter()
rows = int(sys.argv[2])
synth(Path(sys.argv[1]), rows=rows, days=7, seed=0, truth=Path(sys.argv[1] + ".parquet"), progress=lambda *told: None)
seconds = time.perf_counter() - began
# Not getrusage: its peak is the parent's where that is more.
peak_kb = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"rows_per_second": rows / seconds, "peak_mb": peak_kb / 1024}))
"""

_SETTINGS = [
    "model.embedding_dim=16",
    "model.hidden=[256,128]",
    "optimizer.initial_accumulator_value=1e-7",
    "optimizer.learning_rate=0.05",
    "optimizer.final_rate=1.0",
    "optimizer.embedding_l2=0",
    "train.early_stopping=0",  # passes are what is compared
]


def main() -> None:
    """Prints the figures, as JSON with --json."""
    parser = argparse.ArgumentParser(description="Speed, memory and difficulty of ctr synth.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the log; the models have seeds 0 and 1000")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, two passes")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs some 1 kB a row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows, passes = (200_000, 2) if options.quick else (options.rows, options.passes)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        figures: dict[str, Any] = {"machine": _machine(), "rows": rows, "seed": options.seed}
        figures["generator"] = {str(size): _generate(folder, size) for size in (rows // 5, rows)}
        figures["log"] = difficulty(folder / "full", rows, options.seed, passes=passes, interactions=1.0)
        best = figures["log"]["best_pass"]
        figures["log_without_interactions"] = difficulty(
            folder / "plain", rows, options.seed, passes=best, interactions=0.0
        )
    show(figures)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def difficulty(folder: Path, rows: int, seed: int, *, passes: int, interactions: float) -> dict[str, Any]:
    """What logistic regression, two single models after each of so many passes, their average and the truth score."""
    folder.mkdir()
    log, truth = folder / "log.tsv", folder / "truth.parquet"
    made = synth(log, rows=rows, days=7, seed=seed, truth=truth, progress=lambda *told: None, interactions=interactions)
    _ctr(folder, "prepare", "log.tsv", "--out", "data")
    by_pass = [_trained(folder, count) for count in range(1, passes + 1)]
    best = int(np.argmin([after["validation_log_loss"] for after in by_pass]))
    arms = ["compare.arms=[logistic]", "compare.retrainings=1", "compare.trials=0"]
    compared = _ctr(folder, "compare", "data", "--out", "logistic", "--truth", "truth.parquet", *arms)["arms"]
    return {
        "click_rate": made["click_rate"],
        "truth": compared["truth"]["normalized_entropy"],
        "logistic_regression": compared["logistic"]["normalized_entropy"],
        "by_pass": by_pass,
        "best_pass": best + 1,
    }


def _trained(folder: Path, passes: int) -> dict[str, float]:
    """Two singles after so many passes, the means of both, and their average."""
    name = f"after-{passes}"
    settings = [
        *_SETTINGS,
        f"train.epochs={passes}",
        "compare.arms=[single,ensemble]",
        "compare.retrainings=1",
        "compare.trials=0",
    ]
    _ctr(folder, "compare", "data", "--out", name, *settings)
    run = folder / name / "singles-0"
    scores = [pl.read_parquet(scores_file(run, group, "test")) for group in range(2)]
    labels = scores[0]["label"].cast(pl.Float64).to_numpy()
    members = [frame["probability"].to_numpy() for frame in scores]
    singles, average = [evaluate(labels, each) for each in members], evaluate(labels, np.mean(members, axis=0))
    return {
        "validation_log_loss": float(np.mean([each["log_loss"] for each in read_run(run)["result"]["members"]])),
        "single": float(np.mean([each.normalized_entropy for each in singles])),
        "average_of_two": average.normalized_entropy,
        "gain_nats": float(np.mean([each.log_loss for each in singles])) - average.log_loss,
        "churn": float(np.abs(members[0] - members[1]).mean()),
    }


def show(figures: dict[str, Any]) -> None:
    """The figures for people, on standard error."""
    lines = [f"{figures['rows']:,} rows, seed {figures['seed']}, {figures['machine']}", ""]
    for rows, about in figures["generator"].items():
        lines.append(
            f"generator, {int(rows):,} rows: {about['rows_per_second']:,.0f} rows/s, {about['peak_mb']:.0f} MB"
        )
    for title in ("log", "log_without_interactions"):
        about = figures[title]
        lines += ["", f"{title.replace('_', ' ')}: {about['click_rate']:.4f} clicks; log loss / base-rate entropy:"]
        lines.append(f"  logistic regression      {about['logistic_regression']:.4f}")
        for passes, after in enumerate(about["by_pass"], start=1):
            validation, gain, churn = (after[key] for key in ("validation_log_loss", "gain_nats", "churn"))
            lines.append(f"  single after {passes}           {after['single']:.4f}, validation {validation:.5f} nats")
            lines.append(
                f"  average of two after {passes}   {after['average_of_two']:.4f}, "
                f"{gain:.5f} nats better, churn of the two {churn:.4f}"
            )
        lines.append(f"  truth                    {about['truth']:.4f}")
    sys.stderr.write("\n".join(lines) + "\n")


def _generate(folder: Path, rows: int) -> dict[str, float]:
    """Speed and peak memory, in a process of its own."""
    command = [sys.executable, "-c", _GENERATE, str(folder / "speed.tsv"), str(rows)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _ctr(folder: Path, *arguments: str) -> dict[str, Any]:
    """One command's result; MLflow's store lies in the folder too."""
    command = [sys.executable, "-m", "ctr", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout)


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores, {models[0] if models else platform.processor()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
