"""Two groups of two workers on four hosts, each process started as a cluster starts it, and what befalls them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pytest
from conftest import Project, run_ctr, tiny
from hosts import Host, bring_back, cut_off, hosts, in_host, why_no_hosts
from runs import assert_equal_weights, checkpoints, weights

from ctr.runs import find_model, group_folder, read_run

PORT = 2222
# In which every failure has to come to the state that is described.
SECONDS = 60
# Some ten seconds of training, once TensorFlow has started.
SETTINGS = tiny(train__epochs="6", codistillation__exchange_every="25", train__checkpoint_every="25")
WORKERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@dataclass
class Cluster:
    """What starts the processes of a run, each worker on the host of its own."""

    places: list[Host]
    folder: Path
    out: str
    settings: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=lambda: ["-m", "ctr"])
    running: dict[tuple[int, int], "subprocess.Popen[bytes]"] = field(default_factory=dict)
    files: list[TextIO] = field(default_factory=list)

    def host(self, group: int, worker: int) -> Host:
        return self.places[2 * group + worker]

    def start(self, *places: tuple[int, int]) -> None:
        """Starts workers of groups."""
        for group, worker in places:
            addresses = [f"{self.host(group, each).address}:{PORT}" for each in (0, 1)]
            place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
            environment = {"TF_CONFIG": json.dumps(place), "CTR_GROUP": str(group), "CTR_GROUPS": "2"}
            environment |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", **self.environment}
            words = [sys.executable, *self.program, "worker", "data", "--out", self.out, *self.settings]
            out, err = (self.log(group, worker, of).open("a") for of in ("out", "err"))
            self.files += [out, err]
            self.running[group, worker] = subprocess.Popen(
                in_host(self.host(group, worker), *words),
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=out,
                stderr=err,
            )

    def log(self, group: int, worker: int, of: str) -> Path:
        return self.folder / f"{self.out}-{group}-{worker}.{of}"

    def kill(self, group: int, worker: int) -> None:
        self.running[group, worker].send_signal(signal.SIGKILL)

    def ended(self, *places: tuple[int, int], within: float = SECONDS) -> list[int]:
        """The exit codes of workers, which are given so many seconds to end."""
        began = time.monotonic()
        codes = [self.running[place].wait(max(0.1, began + within - time.monotonic())) for place in places]
        print(f"{self.out}: {places} ended with {codes} after {time.monotonic() - began:.1f} s")
        return codes

    def still_runs(self, *places: tuple[int, int]) -> bool:
        return all(self.running[place].poll() is None for place in places)

    def said(self, group: int, worker: int = 0) -> str:
        """What a chief told by events."""
        return self.log(group, worker, "out").read_text()

    def error(self, group: int, worker: int) -> str:
        """The last of the lines that say what was wrong, of which there is one for each end."""
        return [line for line in self.log(group, worker, "err").read_text().splitlines() if line.startswith("error: ")][
            -1
        ]

    def until(self, condition: Callable[[], Any], *alive: tuple[int, int], within: float = 120) -> float:
        """Waits until something is so, while these workers run; the seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < within, "waited in vain"
            for group, worker in alive:
                assert self.still_runs((group, worker)), self.log(group, worker, "err").read_text()[-2000:]
            time.sleep(0.05)
        return time.monotonic() - began

    def until_trained(self, steps: int) -> None:
        """Waits until each group has a checkpoint of so many steps or more."""
        run = self.folder / self.out
        self.until(lambda: all(max(checkpoints(run, g), default=0) >= steps for g in (0, 1)), *WORKERS)

    def until_it_waits(self, group: int, lost: int) -> None:
        """Waits until a group says that it waits for another, which it does while its processes run."""
        waits = f"waiting for group {lost}, until codistillation.peer_timeout=600 seconds after its last sign"
        seconds = self.until(lambda: waits in self.said(group), (group, 0), (group, 1), within=SECONDS)
        print(f"{self.out}: group {group} said that it waits after {seconds:.1f} s")

    def end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        for file in self.files:
            file.close()


@pytest.fixture(scope="module")
def places() -> Generator[list[Host]]:
    """Five hosts: one for each worker, and one for an object store."""
    if reason := why_no_hosts():
        pytest.skip(reason)
    with hosts(5) as made:
        yield made


@pytest.fixture
def cluster(places: list[Host], project: Project) -> Generator[Callable[..., Cluster]]:
    """Makes clusters whose processes end with the test: `cluster(out, settings, **environment)`."""
    made: list[Cluster] = []

    def make(out: str, settings: list[str], **environment: str) -> Cluster:
        made.append(Cluster(places[:4], project.folder, out, settings, environment))
        return made[-1]

    yield make
    for each in made:
        each.end()
    for host in places:
        bring_back(host)


@pytest.fixture(scope="module")
def calm(project: Project) -> Path:
    """The run that nothing befalls, by `ctr train` on one machine."""
    project.ctr("train", "data", "--out", "calm", *SETTINGS, "train.workers_per_group=2", "--json").result
    return project.folder / "calm"


@pytest.fixture(scope="module")
def store(places: list[Host]) -> Generator[dict[str, str]]:
    """An object store with the bucket `exchange` on the fifth host; what its users find it by."""
    address = f"http://{places[4].address}:5000"
    server = subprocess.Popen(
        in_host(places[4], sys.executable, "-m", "moto.server", "-H", places[4].address, "-p", "5000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    make = f"""
import httpx, time
while True:
    try:
        httpx.put("{address}/exchange").raise_for_status()
        break
    except httpx.TransportError:
        time.sleep(0.1)
"""
    try:
        subprocess.run(in_host(places[0], sys.executable, "-c", make), check=True, timeout=60)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.terminate()
        server.wait(20)


def assert_ended_as(calm: Path, run: Path) -> None:
    """The run is finished, with the weights of the one that nothing befell."""
    about = read_run(run)
    assert about["status"] == "finished"
    assert about["result"]["groups"] == 2
    assert about["result"]["log_loss"] == read_run(calm)["result"]["log_loss"]
    assert find_model(str(run)).is_dir()
    for group in (0, 1):
        assert_equal_weights(weights(calm, group), weights(run, group))
        assert about["result"]["members"][group]["snapshots_missed"] == 0


@pytest.mark.processes
def test_order_of_starting_a_short_cut_and_a_lost_group_change_nothing_through_an_object_store(
    cluster: Callable[..., Cluster], calm: Path, store: dict[str, str]
) -> None:
    """Chiefs last, seconds apart; a host is cut off for three seconds; a group's hosts die and it is started again."""
    run = cluster("scattered", SETTINGS, CTR_EXCHANGE="s3://exchange/scattered", **store)
    for place in ((1, 1), (0, 1), (1, 0), (0, 0)):
        run.start(place)
        time.sleep(3)
    run.until_trained(50)
    cut_off(run.host(0, 1))
    time.sleep(3)
    assert run.still_runs(*WORKERS)
    bring_back(run.host(0, 1))
    run.until_trained(100)
    for worker in (0, 1):
        run.kill(1, worker)
    run.until_it_waits(0, 1)
    run.start((1, 1), (1, 0))
    assert run.ended(*WORKERS, within=200) == [0, 0, 0, 0]
    assert_ended_as(calm, run.folder / "scattered")


@pytest.mark.processes
def test_killed_worker_and_a_host_cut_off_end_their_groups_which_resume_to_the_same_weights(
    cluster: Callable[..., Cluster], calm: Path
) -> None:
    """Through a shared folder. The second loss is told to a chief that waits for the first group."""
    run = cluster("hurt", SETTINGS)
    run.start(*WORKERS)
    run.until_trained(50)
    run.kill(0, 1)
    assert run.ended((0, 0)) == [1]
    lost = "error: group {} cannot go on without all its workers: worker {} ({}:2222) did not answer; it resumes from "
    lost += "its checkpoint: start all workers of group {} again as before"
    assert run.error(0, 0) == lost.format(0, 1, run.host(0, 1).address, 0)

    run.until_it_waits(1, 0)
    cut_off(run.host(1, 1))
    assert run.ended((1, 0), (1, 1)) == [1, 1]
    assert run.error(1, 0) == lost.format(1, 1, run.host(1, 1).address, 1)
    assert run.error(1, 1) == lost.format(1, 0, run.host(1, 0).address, 1)

    bring_back(run.host(1, 1))
    run.start(*WORKERS[::-1])
    assert run.ended(*WORKERS, within=200) == [0, 0, 0, 0]
    assert_ended_as(calm, run.folder / "hurt")


@pytest.mark.processes
def test_group_goes_on_without_one_that_is_lost_whole_and_the_lost_one_can_end_later(
    cluster: Callable[..., Cluster],
) -> None:
    """It goes on with the last snapshot for as long as `codistillation.drop_after` says, and says both."""
    settings = [*SETTINGS, "codistillation.peer_timeout=5", "codistillation.drop_after=75"]
    run = cluster("halved", settings)
    run.start(*WORKERS)
    run.until_trained(50)
    for worker in (0, 1):
        run.kill(1, worker)
    assert run.ended((0, 0), (0, 1)) == [0, 0]
    assert (
        "no snapshot of group 1 in time; no longer waiting for it, going on with its snapshot of phase 1" in run.said(0)
    )
    assert "group 1 is dropped, nothing newer came from it for" in run.said(0)
    result = json.loads((group_folder(run.folder / "halved", 0) / "result.json").read_text())
    assert (result["steps"], result["peers_dropped"], result["snapshots_missed"]) == (300, [1], 1)
    assert read_run(run.folder / "halved")["status"] == "running"
    # One group's model is whole without the other's.
    scored = run_ctr("evaluate", "halved/group-0/model", "data", "--json", cwd=run.folder).result
    assert 0 < scored["log_loss"] < 1

    run.start((1, 0), (1, 1))
    assert run.ended((1, 0), (1, 1), within=120) == [0, 0]
    done = read_run(run.folder / "halved")
    assert done["status"] == "finished"
    assert [member["steps"] for member in done["result"]["members"]] == [300, 300]
    assert "group 0 dropped its peers [1]: nothing came from them for too long" in done["result"]["warnings"]


@pytest.mark.processes
def test_worker_that_never_comes_ends_those_that_wait_for_it_by_its_name(cluster: Callable[..., Cluster]) -> None:
    """Chief or not. The ten minutes that they wait are cut to five seconds here."""
    run = cluster("incomplete", SETTINGS)
    run.program = ["-c", "from ctr import cli, worker; worker._SECONDS_TO_GATHER = 5.0; cli.main()"]
    run.start((0, 0), (1, 1))
    assert run.ended((0, 0), (1, 1)) == [1, 1]
    for group, worker, other in ((0, 0, 1), (1, 1, 0)):
        named = f"worker {other} ({run.host(group, other).address}:{PORT}) did not answer in 5 seconds"
        assert named in run.error(group, worker)


@pytest.mark.processes
def test_store_that_is_cut_off_is_told_within_a_minute_and_used_again_once_it_is_back(
    places: list[Host], store: dict[str, str]
) -> None:
    """By a group that publishes to it, again and again."""
    group = """
import sys, time
import numpy as np
from ctr.exchange import Exchange, ExchangeError, Moment
from ctr.snapshot import Changes
sizes = {"fingerprint": "f", "shapes": {"w": (3,)}, "dtype": "float32", "keep": 2, "full_every": 1}
exchange = Exchange("s3://exchange/cut", group=0, **sizes)
for step in range(1000):
    try:
        exchange.publish(Moment(1, step), Changes({"w": np.zeros(3, np.float32)}, {}))
        print("published", flush=True)
    except ExchangeError as error:
        print(error, flush=True)
    time.sleep(0.2)
"""
    words = in_host(places[0], sys.executable, "-c", group)
    with subprocess.Popen(words, env={**os.environ, **store}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "published\n"
            cut_off(places[4])
            began = time.monotonic()
            told = next(line for line in process.stdout if line != "published\n")
            seconds = time.monotonic() - began
            print(f"the store's host is cut off: told after {seconds:.1f} s")
            assert told.startswith("s3://exchange/cut/group-0/")
            assert seconds < SECONDS
            bring_back(places[4])
            assert next(line for line in process.stdout if line == "published\n")
        finally:
            bring_back(places[4])
            process.kill()


@pytest.mark.processes
def test_run_is_joined_only_with_the_settings_and_the_data_that_it_was_begun_with(project: Project) -> None:
    """Nor is one that is finished. Each is told in one line, before anything starts."""
    alone = {"CTR_GROUP": "0", "CTR_GROUPS": "2"}
    begun, other = project.folder / "begun", project.folder / "begun-elsewhere"
    begun.mkdir()
    other.mkdir()
    about = read_run(project.folder / "run")
    for folder, changes in ((begun, {}), (other, {"data_digest": "of other data"})):
        (folder / "config.yaml").write_text((project.folder / "run" / "config.yaml").read_text())
        (folder / "run.json").write_text(json.dumps({**about, "status": "running", **changes}))
    for out, settings, said in (
        ("run", [], "is finished already and left as it is"),
        ("begun", tiny(train__epochs="9"), "was begun with other settings"),
        ("begun-elsewhere", [], "was begun with data_digest of other data"),
    ):
        refused = project.ctr("worker", "data", "--out", out, *settings, env=alone)
        assert refused.code == 2
        assert said in refused.error
