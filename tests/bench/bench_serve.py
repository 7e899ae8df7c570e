"""How fast `ctr serve` answers requests of 10 ads, beside a bare call of the model, FastAPI and `mlflow models serve`.

    python tests/bench/bench_serve.py                  # 6 minutes on 2 cores, of which 2 train a model as the demo does
    python tests/bench/bench_serve.py --model RUN

All on loopback and in one run, in turn, `--rounds` times: each server with 1, 8 and 32 clients that ask again as soon
as they are answered, from one light process (`load.py`) on the same cores; and the bare SavedModel, called in this
process with the same rows, their columns lists as a caller has them. Medians over the rounds, and the slowest request
of all. Ends with code 1 where a target is missed.
"""

import argparse
import contextlib
import gc
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_predict import ctr, generated, trained
from bench_prepare import len_cores, processor
from loaded_servers import ADS, Figures, Row, figures, loaded, request_rows, start, wait_until_up, whole_requests
from shared import quiet_tracking

from ctr.cluster import free_ports

REQUESTS, CLIENTS = 200, (1, 8, 32)
HERE = Path(__file__).parent
Found = dict[tuple[str, int], list[Figures]]


def main() -> None:
    """Prints the figures as a table, and as JSON with --json."""
    parser = argparse.ArgumentParser(description="Latency and requests a second of servers.")
    parser.add_argument("--model", type=Path, default=None, help="a run that `ctr train` finished")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet_tracking(folder)
        run = options.model or trained(folder)
        ctr("export", run, "--out", folder / "model")
        rows, packed = request_rows(generated(folder / "asked.tsv", ADS * REQUESTS, 1), folder / "model")
        found = measured(folder, run, rows, packed, options)
    show(found, options)
    ratios = against_targets(found)
    for title, value, bound, kept in ratios:
        sys.stderr.write(f"{title:<70} {value:8.2f} {bound}{'' if kept else '   missed'}\n")
    if options.json:
        said = [{"name": name, "clients": clients, "rounds": rounds} for (name, clients), rounds in found.items()]
        sys.stdout.write(json.dumps(said) + "\n")
    sys.exit(0 if all(kept for *_, kept in ratios) else 1)


def measured(
    folder: Path, run: Path, rows: list[list[Row]], packed: list[list[Row]], options: argparse.Namespace
) -> Found:
    """By contender and number of clients, what each round found."""
    found: Found = defaultdict(list)
    with contextlib.ExitStack() as servers:
        asked: dict[str, tuple[int, list[str]]] = {}
        for name in options.only:
            if name == BARE:
                continue
            (port,) = free_ports(1)
            words, path, body, environment = CONTENDERS[name](folder, run, port)
            requests = whole_requests(path, packed if "packed" in name else rows, body)
            process = start(words, environment, folder / f"{name}.log", servers)
            wait_until_up(process, port, requests[0], folder / f"{name}.log")
            asked[name] = port, requests
        bare = bare_call(folder / "model", rows) if BARE in options.only else None
        for turn in range(options.rounds):
            if bare:
                found[BARE, 1].append(called(bare, options.seconds))
            for name, (port, requests) in asked.items():
                for clients in CLIENTS:
                    sys.stderr.write(f"round {turn + 1} of {options.rounds}: {name}, {clients} clients\n")
                    if turn == 0:
                        loaded(port, clients, 1.0, requests)
                    found[name, clients].append(loaded(port, clients, options.seconds, requests))
    return found


def bare_call(model: Path, rows: list[list[Row]]) -> Callable[[int], None]:
    """The SavedModel without a server, of whose requests the one of a number is scored."""
    from serving.model import tf

    score = tf.saved_model.load(str(model)).signatures["serving_default"]
    inputs = score.structured_input_signature[1]
    missing = {name: "" if spec.dtype == tf.string else math.nan for name, spec in inputs.items()}
    columns = [{name: [row.get(name, missing[name]) for row in each] for name in inputs} for each in rows]

    def call(number: int) -> None:
        one = columns[number % len(columns)]
        score(**{name: tf.constant(one[name], spec.dtype) for name, spec in inputs.items()})["probability"].numpy()

    return call


def called(call: Callable[[int], None], seconds: float) -> Figures:
    """What one caller of the bare model sees."""
    for number in range(50):
        call(number)
    gc.collect()
    gc.freeze()  # as `ctr serve` does: a collection takes 281 ms with TensorFlow loaded
    latencies, began = [], time.perf_counter()
    while time.perf_counter() < began + seconds:
        at = time.perf_counter()
        call(len(latencies))
        latencies.append(1000 * (time.perf_counter() - at))
    return figures(sorted(latencies), time.perf_counter() - began)


def middle(found: Found, name: str, clients: int, figure: str) -> float:
    """Median over the rounds; NaN if it was not measured."""
    values = [each[figure] for each in found.get((name, clients), [])]
    return statistics.median(values) if values else math.nan


def show(found: Found, options: argparse.Namespace) -> None:
    """The figures for people."""
    say = sys.stderr.write
    say(f"{processor()}, {len_cores()} cores; {ADS} ads a request, {options.rounds} rounds of {options.seconds:g} s\n")
    say(f"{'':<26} {'clients':>7} {'p50, ms':>9} {'p99, ms':>9} {'slowest':>9} {'requests/s':>11}   (rounds)\n")
    for (name, clients), rounds in found.items():
        p50, p99, rate = (middle(found, name, clients, figure) for figure in ("p50", "p99", "rate"))
        most = max(each["most"] for each in rounds)
        spread = ", ".join(f"{each['rate']:,.0f}" for each in rounds)
        say(f"{name:<26} {clients:>7} {p50:9.2f} {p99:9.2f} {most:9.1f} {rate:11,.0f}   ({spread})\n")


def against_targets(found: Found) -> list[tuple[str, float, str, bool]]:
    """Each target with what was found; those whose contenders were left out are not among them."""
    raw, busy = "ctr serve, raw rows", CLIENTS[-1]
    slowest = max((each["most"] for each in found.get((raw, busy), [])), default=math.nan)

    def best(name: str) -> float:
        return max(middle(found, name, clients, "rate") for clients in CLIENTS)

    wanted = [
        ("p99 of 1 client / of the bare call", middle(found, raw, 1, "p99") / middle(found, BARE, 1, "p99"), "<=", 2.5),
        (f"p99 of {busy} clients, ms", middle(found, raw, busy, "p99"), "<=", 25.0),
        (f"slowest request of {busy} clients, ms", slowest, "<=", 60.0),
        ("requests/s / FastAPI's, each at its best number of clients", best(raw) / best("FastAPI"), ">=", 2.0),
        ("requests/s / those of `mlflow models serve`", best(raw) / best("mlflow models serve"), ">=", 20.0),
    ]
    return [
        (title, value, f"{sign} {bound:g}", value <= bound if sign == "<=" else value >= bound)
        for title, value, sign, bound in wanted
        if not math.isnan(value)
    ]


# Words after `python`, address, body of rows, environment.
Contender = tuple[list[str], str, Callable[[list[Row]], dict[str, Any]], dict[str, str]]


def ctr_serve(folder: Path, run: Path, port: int, *words: str) -> Contender:
    """`ctr serve` of the exported model, asked with raw rows."""
    command = ["-m", "ctr", "serve", str(folder / "model"), "--port", str(port), *words]
    return command, "/v1/models/ctr:predict", lambda rows: {"instances": rows}, {}


def ctr_serve_packed(folder: Path, run: Path, port: int) -> Contender:
    """The same, asked with rows that the caller encoded."""
    command, path, _, environment = ctr_serve(folder, run, port)
    return command, path, lambda rows: {"signature_name": "packed", "instances": rows}, environment


def two_processes(folder: Path, run: Path, port: int) -> Contender:
    """The same with a process a core, asked with raw rows."""
    return ctr_serve(folder, run, port, "--workers", "2")


def fastapi(folder: Path, run: Path, port: int) -> Contender:
    """The model behind FastAPI and pydantic."""
    command = ["-m", "uvicorn", "fastapi_contender:app", "--app-dir", str(HERE), "--port", str(port)]
    command += ["--no-access-log", "--log-level", "error"]
    environment = {"CTR_BENCH_MODEL": str(folder / "model")}
    return command, "/predict", lambda rows: {"instances": rows}, environment


def mlflow_serve(folder: Path, run: Path, port: int) -> Contender:
    """The model as MLflow serves it."""
    ctr("promote", run)
    command = ["-m", "mlflow", "models", "serve", "-m", "models:/ctr@champion", "--env-manager", "local"]
    return [*command, "-h", "127.0.0.1", "-p", str(port)], "/invocations", lambda rows: {"dataframe_records": rows}, {}


BARE = "bare call, raw rows"
CONTENDERS: dict[str, Any] = {
    BARE: None,
    "ctr serve, raw rows": ctr_serve,
    "ctr serve, packed": ctr_serve_packed,
    "ctr serve --workers 2": two_processes,
    "FastAPI": fastapi,
    "mlflow models serve": mlflow_serve,
}

if __name__ == "__main__":
    main()
