"""`ctr serve` over time: 20 new versions of the model under 16 clients, then minutes of load with wrong requests.

    python tests/bench/bench_reload.py                 # 9 minutes on 2 cores, of which 2 train a model as the demo does
    python tests/bench/bench_reload.py --model RUN --soak 0

Requests are of 10 ads, raw rows, none may fail. First clients ask for as long as 20 reloads take, with and without the
reloads in turn (target: p99 at most twice that without); then `--soak` seconds of the same clients, beside wrong
requests and a new version every 20 seconds (target: memory grows by no more than 5 % after the first minute).
Ends with code 1 where a target is missed.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from bench_predict import ctr, generated, trained
from bench_prepare import len_cores, processor
from loaded_servers import ADS, Figures, loaded, request_rows, start, wait_until_up, whole_requests
from shared import quiet_tracking

from ctr.cluster import free_ports
from features.memory import family_rss_mb

sys.path.insert(0, str(Path(__file__).parents[1]))
from damage import damaged

CLIENTS, REQUESTS = 16, 200


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description="Latency during reloads, memory over time.")
    parser.add_argument("--model", type=Path, default=None, help="a run that `ctr train` finished")
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2, help="the reloads are divided among them")
    parser.add_argument("--every", type=float, default=5, help="seconds from one reload to the next")
    parser.add_argument("--soak", type=float, default=300, help="seconds")
    options = parser.parse_args()
    say = sys.stderr.write
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        quiet_tracking(folder)
        run = options.model or trained(folder)
        ctr("export", run, "--out", folder / "model")
        rows, _ = request_rows(generated(folder / "asked.tsv", ADS * REQUESTS, 1), folder / "model")
        requests = whole_requests("/v1/models/ctr:predict", rows, lambda each: {"instances": each})
        (folder / "versions").mkdir()
        new_version(folder, 1)
        (port,) = free_ports(1)
        words = ["-m", "ctr", "serve", str(folder / "versions"), "--port", str(port), "--poll", "0.2"]
        process = start(words, {}, folder / "log", servers)
        wait_until_up(process, port, requests[0], folder / "log")
        loaded(port, CLIENTS, 2, requests)
        say(f"{processor()}, {len_cores()} cores; {CLIENTS} clients, {ADS} ads a request\n")
        kept = reloads(folder, port, requests, options)
        if options.soak:
            kept &= soak(folder, port, process.pid, requests, rows, options.soak)
        said = (folder / "log").read_text()
        if "Traceback" in said:
            say(said)
            kept = False
    sys.exit(0 if kept else 1)


def reloads(folder: Path, port: int, requests: list[str], options: argparse.Namespace) -> bool:
    """Load with and without new versions; whether p99 is at most twice as long with them."""
    found: dict[bool, list[Figures]] = {False: [], True: []}
    each = options.reloads // options.turns
    seconds = (each + 1) * options.every
    for turn in range(options.turns):
        for reloading in (False, True):
            kind = f"{each} reloads" if reloading else "none"
            sys.stderr.write(f"turn {turn + 1} of {options.turns}: {kind} in {seconds:.0f} s\n")
            first = answering(port) + 1
            numbers = range(first, first + each if reloading else first)
            with beside(lambda stop, numbers=numbers: bring(folder, port, numbers, options.every, stop)):
                found[reloading].append(loaded(port, CLIENTS, seconds, requests))
            if (came := answering(port) + 1 - first) != len(numbers):
                raise SystemExit(f"only {came} of {len(numbers)} versions came up in time; say --every 10")
    for reloading, all_of in found.items():
        for one in all_of:
            sys.stderr.write(
                f"{'with' if reloading else 'without':<8} reloads: p50 {one['p50']:6.2f} ms, p99 {one['p99']:6.2f} ms, "
                f"slowest {one['most']:6.1f} ms, {one['rate']:,.0f} requests/s\n"
            )
    mean = {key: sum(one["p99"] for one in all_of) / len(all_of) for key, all_of in found.items()}
    sys.stderr.write(f"p99 with {options.reloads} reloads / without: {mean[True] / mean[False]:.2f} (at most 2)\n")
    return mean[True] <= 2 * mean[False]


def bring(folder: Path, port: int, numbers: Iterable[int], every: float, stop: threading.Event) -> None:
    """Puts versions of these numbers there, `every` so many seconds, and waits until each one answers."""
    for number in numbers:
        began = time.monotonic()
        new_version(folder, number)
        while answering(port) != number:
            if time.monotonic() > began + 60:
                raise SystemExit(f"version {number} did not come up")
            time.sleep(0.1)
        if stop.wait(max(0.0, began + every - time.monotonic())):
            return


def soak(folder: Path, port: int, pid: int, requests: list[str], rows: list[Any], seconds: float) -> bool:
    """Load, wrong requests and new versions for so long; whether memory stays as it is after the first minute."""
    memory: list[float] = []
    wrong = [0]
    first = answering(port) + 1

    def send(stop: threading.Event) -> None:
        bodies = [{"instances": rows[0]}, {"inputs": {name: [value] for name, value in rows[0][0].items()}}]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for method, address, content in damaged(bodies, 10**9, seed=2):
                answer = client.request(method, address, content=content)
                if answer.status_code >= 500:
                    raise SystemExit(f"{method} {address} {content[:300]!r} was answered {answer.status_code}")
                wrong[0] += 1
                if stop.wait(0.02):
                    return

    def look(stop: threading.Event) -> None:
        while not stop.wait(10):
            memory.append(family_rss_mb(pid))
            sys.stderr.write(f"soak: {10 * len(memory)} of {seconds:.0f} s, {memory[-1]:,.0f} MB\n")

    with beside(send), beside(look), beside(lambda stop: bring(folder, port, range(first, 10**6), 20, stop)):
        figures = loaded(port, CLIENTS, seconds, requests)
    settled, last = max(memory[3:6]), max(memory[-3:])
    sys.stderr.write(
        f"{figures['rate'] * seconds:,.0f} requests and {wrong[0]:,} wrong ones in {seconds:.0f} s, "
        f"{answering(port) - first + 1} new versions; p99 {figures['p99']:.1f} ms, slowest {figures['most']:.1f} ms\n"
        f"memory of all processes, the most of 30 s: {settled:,.0f} MB after a minute, {last:,.0f} MB at the end: "
        f"{last / settled - 1:+.1%} (at most +5 %)\n"
    )
    return last <= 1.05 * settled


def new_version(folder: Path, number: int) -> None:
    """Another copy of the model as a version, in one move of names."""
    aside = folder / f"aside-{number}"
    shutil.copytree(folder / "model", aside)
    aside.rename(folder / "versions" / str(number))
    if number > 2:
        shutil.rmtree(folder / "versions" / str(number - 2))


def answering(port: int) -> int:
    """The number of the version that answers."""
    return int(json.loads(httpx.get(f"http://127.0.0.1:{port}/v2/models/ctr").text)["versions"][-1])


@contextlib.contextmanager
def beside(do: Any) -> Any:
    """`do(stop)` in a thread until the block ends; what it raises is raised then."""
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            do(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    main()
