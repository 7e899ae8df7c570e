"""Synchronous groups against codistilled ones over links of a given rate: `python tests/bench/bench_scaling.py`.

Each worker is a process with one TensorFlow thread on a host of its own: a network namespace of this machine, whose
link is limited in each direction. Snapshots travel through an object store (moto's server) on one more host, the link
of which is not limited. All workers take batches of one size: a synchronous group's is that of its workers together.

Printed of each arrangement and rate: rows/s, those of all groups added up; bytes per step and host; bytes per exchange
and group, and all bytes on the links by exchanges of a group; seconds of training to a given validation log loss, by
the first group to reach it. Wants root and iproute2. Hosts share the machine's cores: more workers than cores compute
no faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import click_log, quiet_tracking

from ctr.runs import RESULT_FILE, group_folder
from tests.hosts import Host, bytes_sent, hosts, in_host, shape, why_no_hosts

PORT, STORE_PORT = 2222, 5000
# Groups, workers of each.
ARRANGEMENTS = {
    "1 worker": (1, 1),
    "synchronous 2": (1, 2),
    "synchronous 4": (1, 4),
    "codistilled 2": (2, 1),
    "codistilled 4": (4, 1),
}
BUCKET = """
import httpx, sys, time
while True:
    try:
        httpx.put(sys.argv[1]).raise_for_status()
        break
    except httpx.TransportError:
        time.sleep(0.1)
"""


@dataclass
class Worker:
    """A process that trains, and what it told so far: the time (s), all bytes on the links, the event."""

    group: int
    process: "subprocess.Popen[bytes]"
    events: Path
    log: Path
    read: int = 0
    told: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)


def measure(
    folder: Path,
    data: Path,
    machines: Sequence[Host],
    store: Host,
    groups: int,
    workers: int,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Trains one arrangement to its end on hosts whose links are as they are; what it did."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    used = machines[: groups * workers]
    settings = [f"train.batch_size={given.batch * workers}", f"train.epochs={given.epochs}", "train.early_stopping=0"]
    settings += [f"train.evaluate_every={max(1, given.evaluate_rows // (given.batch * workers))}"]
    settings += [f"codistillation.exchange_every={given.exchange_every}", "train.checkpoint_every=1000000"]
    before = sum(map(bytes_sent, [*used, store]))
    crew = [
        start(data, run, used[group * workers : (group + 1) * workers], store, group, groups, worker, settings)
        for group in range(groups)
        for worker in range(workers)
    ]
    try:
        while any(worker.process.poll() is None for worker in crew):
            follow(crew, [*used, store])
            time.sleep(0.1)
        follow(crew, [*used, store])
    finally:
        for worker in crew:
            worker.process.kill()
            worker.process.wait()
    for worker in crew:
        if worker.process.returncode:
            raise SystemExit(worker.log.read_text().strip().splitlines()[-1])
    total = sum(map(bytes_sent, [*used, store])) - before
    results = [json.loads((group_folder(run, group) / RESULT_FILE).read_text()) for group in range(groups)]
    exchanges = sum(result["exchanges"] for result in results)
    exchanged = sum(result["bytes_published"] + result["bytes_read"] for result in results)
    chiefs = [worker for worker in crew if worker.told]
    return {
        "rows_per_second": sum(result["examples_per_second"] for result in results),
        "steps": results[0]["steps"],
        "bytes_per_step_and_host": per_step(chiefs[0]) / workers if workers > 1 else 0,
        "bytes_per_exchange_and_group": exchanged / exchanges if exchanges else 0,
        "link_bytes_per_exchange": total / exchanges * groups if exchanges else 0,
        "exchanges": [result["exchanges"] for result in results],
        "seconds_waited": [result["seconds_waited"] for result in results],
        "seconds_exchanging": [result["seconds_exchanging"] for result in results],
        "log_loss": min(result["log_loss"] for result in results),
        "curves": [curve(chief) for chief in chiefs],
    }


def start(
    data: Path,
    run: Path,
    group_hosts: Sequence[Host],
    store: Host,
    group: int,
    groups: int,
    worker: int,
    words: list[str],
) -> Worker:
    """Starts one worker as a cluster does."""
    addresses = [f"{host.address}:{PORT}" for host in group_hosts]
    place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
    environment = {"TF_CONFIG": json.dumps(place)} if len(group_hosts) > 1 else {}
    environment |= {
        "CTR_GROUP": str(group),
        "CTR_GROUPS": str(groups),
        "CTR_EXCHANGE": f"s3://exchange/{run.parent.name}",
    }
    environment |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    environment |= {"AWS_ENDPOINT_URL": f"http://{store.address}:{STORE_PORT}", "AWS_REGION": "us-east-1"}
    environment |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    command = [sys.executable, "-m", "ctr", "worker", str(data), "--out", str(run), "--no-keep-model", *words]
    events, log = (run.parent / f"{group}-{worker}.{of}" for of in ("events", "log"))
    with events.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            in_host(group_hosts[worker], *command), env={**os.environ, **environment}, stdout=out, stderr=err
        )
    return Worker(group, process, events, log)


def follow(crew: Sequence[Worker], links: Sequence[Host]) -> None:
    """Takes down what workers have told since they were last looked at, and what has gone over the links by now."""
    for worker in crew:
        text = worker.events.read_text()
        lines = text[worker.read : text.rfind("\n") + 1].splitlines()
        if not lines:
            continue
        worker.read = text.rfind("\n") + 1
        now, sent = time.monotonic(), sum(map(bytes_sent, links))
        worker.told += [(now, sent, json.loads(line)) for line in lines if line.startswith('{"event"')]


def per_step(chief: Worker) -> float:
    """All bytes on the links from the first report of progress to the last, by step."""
    steps = [(sent, event["step"]) for _, sent, event in chief.told if event["event"] == "progress"]
    (first, began), (last, ended) = steps[0], steps[-1]
    return (last - first) / (ended - began)


def curve(chief: Worker) -> list[tuple[float, float]]:
    """Seconds since the first report of progress, and the validation log loss then."""
    began = next(at for at, _, event in chief.told if event["event"] == "progress")
    return [(at - began, event["log_loss"]) for at, _, event in chief.told if event["event"] == "evaluation"]


def seconds_to(curves: Sequence[Sequence[tuple[float, float]]], log_loss: float) -> float | None:
    """When the first group reached it; None if none did."""
    reached = [at for each in curves for at, loss in each if loss <= log_loss]
    return min(reached, default=None)


def show(found: dict[str, dict[str, Any]], target: float) -> None:
    """The table."""
    print(
        f"{'':<28}{'rows/s':>9}{'MB/step,host':>14}{'MB/exchange':>13}{'on links':>10}"
        f"{f's to {target:.4f}':>13}{'at end':>9}"
    )
    for title, each in found.items():
        seconds = seconds_to(each["curves"], target)
        print(
            f"{title:<28}{each['rows_per_second']:>9,.0f}{each['bytes_per_step_and_host'] / 1e6:>14.3f}"
            f"{each['bytes_per_exchange_and_group'] / 1e6:>13.2f}{each['link_bytes_per_exchange'] / 1e6:>10.2f}"
            f"{'-' if seconds is None else f'{seconds:.1f}':>13}{each['log_loss']:>9.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mbits", type=int, nargs="+", default=[0, 1000, 100], help="rates of links; 0: unlimited")
    parser.add_argument("--only", nargs="+", choices=list(ARRANGEMENTS), default=list(ARRANGEMENTS))
    parser.add_argument("--rows", type=int, default=200_000, help="of the generated log")
    parser.add_argument("--batch", type=int, default=1024, help="of a worker")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--evaluate-rows", type=int, default=25_600, help="of a group, from one evaluation to the next")
    parser.add_argument("--exchange-every", type=int, default=50, help="steps")
    parser.add_argument(
        "--log-loss", type=float, help="whose time is told; default: that of the least good, at its end"
    )
    parser.add_argument("--out", type=Path, help="a file of JSON lines to which all figures are added")
    given = parser.parse_args()
    if reason := why_no_hosts():
        raise SystemExit(f"this bench wants hosts: {reason}")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        quiet_tracking(folder)
        data, _ = click_log(folder, rows=given.rows, seed=0)
        for mbits in given.mbits:
            for name in given.only:
                groups, workers = ARRANGEMENTS[name]
                # New links for each: a limit, once set, stays.
                with hosts(groups * workers + 1) as (store, *machines):
                    address = f"http://{store.address}:{STORE_PORT}"
                    server = subprocess.Popen(
                        in_host(store, sys.executable, "-m", "moto.server", "-H", store.address, "-p", STORE_PORT),
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                    subprocess.run(in_host(store, sys.executable, "-c", BUCKET, f"{address}/exchange"), check=True)
                    if mbits:
                        for host in machines:
                            shape(host, mbits * 1_000_000)
                    title = f"{name}, {f'{mbits} Mbit/s' if mbits else 'unlimited'}"
                    print(title, file=sys.stderr)
                    found[title] = measure(folder, data.folder, machines, store, groups, workers, given)
                    server.terminate()
                    server.wait()
                    if given.out:
                        about = {"arrangement": name, "groups": groups, "workers": workers, "mbits": mbits}
                        about |= {"batch": given.batch, "exchange_every": given.exchange_every, **found[title]}
                        with given.out.open("a") as file:
                            file.write(json.dumps(about) + "\n")
    print(f"{os.cpu_count()} cores; batches of {given.batch} a worker, {given.rows:,} rows, {given.epochs:g} passes")
    show(found, given.log_loss or max(each["log_loss"] for each in found.values()))


if __name__ == "__main__":
    main()
