"""The cost model of many hosts: what it says of figures that were not fitted, and what README quotes of it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"
sys.path.insert(0, str(BENCH))

from scaling_model import Model  # noqa: E402 # pyright: ignore - a bench is no package

# As README names rates, and the command.
QUOTED = {"1 Gbit": "1,000", "100 Mbit": "100"}
MODEL = Model(
    cores=2, batch=100, interval=10, compute=0.1, teacher=0.5, collective=0.02, dense=1e6, sparse=2e5, overlap=0.5,
    snapshot=1e6, exchange=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def said() -> str:
    """What the command says of the figures that were measured."""
    done = subprocess.run(
        [sys.executable, str(BENCH / "scaling_model.py"), str(BENCH / "scaling.jsonl"), "--cores", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_steps_are_those_worked_out_by_hand() -> None:
    free = float("inf")
    assert MODEL.step_seconds(1, 1, free, own_core=True) == pytest.approx(0.1)
    assert MODEL.step_seconds(1, 4, free, own_core=False) == pytest.approx(0.1 * 2 + 0.02 * 3)
    # Four hosts: 1.5 MB in the ring and 0.6 MB of the others' sparse gradients.
    assert MODEL.step_bytes(4) == pytest.approx(2.1e6)
    # At 100 Mbit/s that is 0.168 s, of which half of the 0.16 s without limits is hidden.
    assert MODEL.step_seconds(1, 4, 1e8, own_core=True) == pytest.approx(0.16 + 0.168 - 0.08)
    # At 1 Gbit/s all of it is.
    assert MODEL.step_seconds(1, 4, 1e9, own_core=True) == pytest.approx(0.16)
    # Three groups: two teachers; 1 MB published and 2 MB read every ten steps.
    assert MODEL.step_seconds(3, 1, 1e8, own_core=True) == pytest.approx(0.1 * 2 + (0.3 + 0.24) / 10)
    assert replace(MODEL, interval=20).step_seconds(3, 1, 1e8, own_core=True) == pytest.approx(0.2 + 0.54 / 20)
    assert MODEL.rows_per_second(3, 1, 1e8, own_core=True) == pytest.approx(300 / 0.254)


def test_what_was_not_fitted_is_met_within_a_fifth(said: str) -> None:
    errors = [int(found) for found in re.findall(r"([+-]\d+)%   held out", said)]
    assert len(errors) == 5
    assert max(map(abs, errors)) <= 20


def test_readme_quotes_what_the_command_says(said: str) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    cell = r"([\d,]+)(?: rows/s)?, (\d+) h"
    rows = re.findall(rf"\| (1 Gbit|100 Mbit)/s, (\d+) workers \| {cell} \| {cell} \|", readme)
    assert len(rows) == 6
    parts = {title: said.split(f"\n{mbits} Mbit/s ")[1] for title, mbits in QUOTED.items()}
    tables = {title: part.split("\n\n", maxsplit=1)[0] for title, part in parts.items()}
    for title, workers, one, one_hours, two, two_hours in rows:
        (line,) = re.findall(rf"^ *{workers} workers.*", tables[title], re.M)
        found = [(int(rows.replace(",", "")), hours) for rows, hours in re.findall(r"([\d,]+) \((\d+) h\)", line)]
        assert [hours for _, hours in found[:2]] == [one_hours, two_hours]
        for (exact, _), quoted in zip(found, (one, two), strict=False):
            assert int(quoted.replace(",", "")) == pytest.approx(exact, abs=60)
