"""Jobs side by side, forked processes, and the search that a comparison makes of them."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ctr.config import load_config
from ctr.jobs import Job, run_jobs
from ctr.search import AT_ONCE, search
from features.errors import WorkFailed


def test_jobs_begin_in_order_as_seats_become_free_and_results_keep_it() -> None:
    lock, busy, most, begun = threading.Lock(), [0], [0], list[int]()

    def work(number: int, seats: int) -> Callable[[Callable[[], None]], int]:
        def do(alive: Callable[[], None]) -> int:
            with lock:
                begun.append(number)
                busy[0] += seats
                most[0] = max(most[0], busy[0])
            time.sleep(0.05)
            with lock:
                busy[0] -= seats
            return number

        return do

    wanted = [1, 1, 2, 1, 1, 1]
    assert run_jobs([Job(seats, work(n, seats)) for n, seats in enumerate(wanted)], 2) == list(range(6))
    assert most[0] == 2
    assert begun[2:] == [2, 3, 4, 5] or begun[2:] == [2, 4, 3, 5]
    # One that wants more than there are runs, alone.
    assert run_jobs([Job(4, work(6, 4)), Job(1, work(7, 1))], 2) == [6, 7]
    assert most[0] == 4


def test_job_that_fails_ends_the_others_and_what_it_raised_is_raised() -> None:
    ended = threading.Event()

    def fail(alive: Callable[[], None]) -> None:
        raise WorkFailed("the loss exploded")

    def go_on(alive: Callable[[], None]) -> None:
        try:
            for _ in range(1000):
                alive()
                time.sleep(0.01)
        except KeyboardInterrupt:
            ended.set()
            raise

    with pytest.raises(WorkFailed, match="exploded"):
        run_jobs([Job(1, go_on), Job(1, fail), Job(1, go_on)], 2)
    assert ended.is_set()


def measure_by_distance(asked: list[Mapping[int, Any]]) -> Callable[[Mapping[int, Any]], list[float]]:
    """A log loss that is least at a learning rate of .1."""

    def measure(trials: Mapping[int, Any]) -> list[float]:
        asked.append(trials)
        return [abs(each["optimizer.learning_rate"] - 0.1) for each in trials.values()]

    return measure


def test_search_begins_with_the_given_settings_and_finds_the_best_of_what_it_tried(tmp_path: Path) -> None:
    asked: list[Mapping[int, Any]] = []
    config = load_config(None, [])
    found = search("arm", config, trials=5, seed=3, storage=tmp_path / "s.db", measure=measure_by_distance(asked))
    assert [list(each) for each in asked] == [[0, 1], [2, 3], [4]]
    tried = [settings for each in asked for settings in each.values()]
    assert tried[0]["optimizer.learning_rate"] == config.optimizer.learning_rate
    assert tried[0]["train.epochs"] == config.train.epochs
    assert found.settings == min(tried, key=lambda each: abs(each["optimizer.learning_rate"] - 0.1))
    assert len({each["optimizer.learning_rate"] for each in tried}) == 5


@pytest.mark.parametrize("stopped_in", range(3))
def test_search_that_is_stopped_goes_on_with_what_an_unbroken_one_would_have_tried(
    tmp_path: Path, stopped_in: int
) -> None:
    unbroken: list[Mapping[int, Any]] = []
    config = load_config(None, [])
    expected = search("arm", config, trials=6, seed=3, storage=tmp_path / "a.db", measure=measure_by_distance(unbroken))
    asked: list[Mapping[int, Any]] = []
    whole = measure_by_distance(asked)

    def stop(trials: Mapping[int, Any]) -> list[float]:
        if len(asked) == stopped_in:
            raise KeyboardInterrupt
        return whole(trials)

    storage = tmp_path / "b.db"
    with pytest.raises(KeyboardInterrupt):
        search("arm", config, trials=6, seed=3, storage=storage, measure=stop)
    assert search("arm", config, trials=6, seed=3, storage=storage, measure=whole) == expected
    assert asked == unbroken
    assert all(len(each) == AT_ONCE for each in asked)


def test_search_of_which_every_trial_failed_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="all 2 trials of arm failed"):
        search(
            "arm",
            load_config(None, []),
            trials=2,
            seed=0,
            storage=tmp_path / "s.db",
            measure=lambda trials: [None for _ in trials],
        )


@pytest.mark.processes
def test_forked_process_has_an_output_log_and_exit_code_of_its_own(tmp_path: Path) -> None:
    """Killed, it says by which signal."""
    script = tmp_path / "launcher.py"
    script.write_text(
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        "def main():\n"
        "    from ctr.forks import Fork\n"
        "    env = {**os.environ, 'POLARS_MAX_THREADS': '1', 'OMP_NUM_THREADS': '1', 'GLIBC_TUNABLES': ''}\n"
        "    good = Fork(['validate', sys.argv[1], '--json'], env, Path('good.log'))\n"
        "    print(good.stdout.read().strip(), good.wait(100))\n"
        "    bad = Fork(['validate', 'nothing.yaml'], env, Path('bad.log'))\n"
        "    print(bad.wait(100), Path('bad.log').read_text().strip())\n"
        "    ui = Fork(['ui', '--port', sys.argv[2]], env, Path('ui.log'))\n"
        "    ui.send_signal(signal.SIGKILL)\n"
        "    print(ui.wait(100))\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    config = Path(__file__).parent.parent / "configs" / "small.yaml"
    done = subprocess.run(
        [sys.executable, str(script), str(config), "1"], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    good, bad, killed = done.stdout.splitlines()
    assert good.startswith('{"valid": true')
    assert good.endswith(" 0")
    assert bad.startswith("2 error: cannot read nothing.yaml")
    assert int(killed) == -signal.SIGKILL
    # What TensorFlow says when it is imported is nobody's business.
    assert done.stderr == ""
