"""A cost model of training on many hosts, fitted to what `bench_scaling.py` measured, and what it says of more.

    python tests/bench/bench_scaling.py --out tests/bench/scaling.jsonl           # half an hour on 2 cores, as root
    python tests/bench/scaling_model.py tests/bench/scaling.jsonl --plot tests/bench/scaling.svg

Of a step of a group of m workers among k groups, in seconds:

    step        = free + max(0, 8 bytes(m) / rate - o free) + exchange(k) / interval
    free        = c share(workers) (1 + t (k - 1)) + a (m - 1)
    bytes(m)    = D 2 (m - 1) / m + S (m - 1)     dense gradients in a ring; sparse ones go to all the others
    exchange(k) = e + 8 X k / rate                a snapshot is published and k - 1 are read

`c` is the computing of one worker's batch, `share` how many workers a core of the measuring machine had, `t` what a
teacher adds, `a` what a further worker costs without limits of links, D, S and X bytes, `o` the part of a step in which
links carry already while workers compute, e what an exchange takes beside, waiting for the others included. Figures of
links of `--held-out` Mbit/s are not fitted: they check it. Beyond the machine each worker is taken to have such a core
of its own, and links to be all that is shared.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CRITEO_1TB = 4_300_000_000
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Model:
    """The parameters above; seconds and bytes. `batch`: rows of one worker; `interval`: steps between exchanges."""

    cores: int
    batch: int
    interval: int
    compute: float
    teacher: float
    collective: float
    dense: float
    sparse: float
    overlap: float
    snapshot: float
    exchange: float

    def step_seconds(
        self, groups: int, workers: int, rate: float, *, own_core: bool, interval: float | None = None
    ) -> float:
        """Seconds of a step; `workers` of each group, `rate` in bits/s (infinite: unlimited)."""
        share = 1.0 if own_core else max(1.0, groups * workers / self.cores)
        free = self.compute * share * (1 + self.teacher * (groups - 1)) + self.collective * (workers - 1)
        link = max(0.0, 8 * self.step_bytes(workers) / rate - self.overlap * free)
        return free + link + self.exchange_seconds(groups, rate) / (interval or self.interval)

    def step_bytes(self, workers: int) -> float:
        """Bytes that each host of a synchronous group sends in a step."""
        return self.dense * 2 * (workers - 1) / workers + self.sparse * (workers - 1)

    def exchange_seconds(self, groups: int, rate: float) -> float:
        """Seconds of an exchange, in which training stands still."""
        return self.exchange + 8 * self.snapshot * groups / rate if groups > 1 else 0.0

    def rows_per_second(self, groups: int, workers: int, rate: float, **options: Any) -> float:
        """Rows of all workers together."""
        return groups * workers * self.batch / self.step_seconds(groups, workers, rate, **options)


def fit(points: Sequence[dict[str, Any]], cores: int) -> Model:
    """The parameters, each from the points that show it alone."""
    batch, interval = points[0]["batch"], points[0]["exchange_every"]

    def seconds(point: dict[str, Any]) -> float:
        return point["groups"] * point["workers"] * batch / point["rows_per_second"]

    def of(groups: int, workers: int) -> list[dict[str, Any]]:
        return [each for each in points if (each["groups"], each["workers"]) == (groups, workers)]

    compute = statistics.median(seconds(each) for each in of(1, 1))
    pair, four = of(1, 2), of(1, 4)
    sent = [statistics.median(each["bytes_per_step_and_host"] for each in several) for several in (pair, four)]
    # D 2 (m - 1) / m + S (m - 1): D + S of two, 1.5 D + 3 S of four.
    sparse = (sent[1] - 1.5 * sent[0]) / 1.5
    dense = sent[0] - sparse

    def over(several: Sequence[dict[str, Any]], workers: int) -> float:
        free = [seconds(each) for each in several if not each["mbits"]]
        return (statistics.median(free) - compute * max(1.0, workers / cores)) / (workers - 1)

    collective = max(0.0, statistics.mean([over(pair, 2), over(four, 4)]))
    base = Model(cores, batch, interval, compute, 0, collective, dense, sparse, 0, 0, 0)
    hidden: list[float] = []
    for each in [*pair, *four]:
        free = base.step_seconds(1, each["workers"], math.inf, own_core=False)
        carrying = 8 * each["bytes_per_step_and_host"] / rate_of(each)
        if carrying > free:  # the link decides
            hidden.append((carrying - (seconds(each) - free)) / free)
    overlap = statistics.median(hidden) if hidden else 0.0
    taught = [each for each in points if each["groups"] > 1]
    snapshot = statistics.median(each["bytes_per_exchange_and_group"] / each["groups"] for each in taught)
    carried = [8 * snapshot * each["groups"] / rate_of(each) for each in taught]
    waits = [exchange_of(each) - there for each, there in zip(taught, carried, strict=True)]
    exchange = max(0.0, statistics.median(waits))
    alone = [compute * max(1.0, each["groups"] / cores) for each in taught]
    steps = [seconds(each) - exchange_of(each) / interval_of(each) for each in taught]
    added_by = [(step / one - 1) / (each["groups"] - 1) for step, one, each in zip(steps, alone, taught, strict=True)]
    teacher = statistics.median(added_by)
    return Model(cores, batch, interval, compute, teacher, collective, dense, sparse, overlap, snapshot, exchange)


def rate_of(point: dict[str, Any]) -> float:
    """Bits per second of a measured point's links."""
    return point["mbits"] * 1e6 or math.inf


def interval_of(point: dict[str, Any]) -> float:
    """Steps of a measured point from one exchange to the next, those before the first among them."""
    return point["steps"] / statistics.mean(point["exchanges"])


def exchange_of(point: dict[str, Any]) -> float:
    """Seconds that training stood still for an exchange, waiting for the others included."""
    still = sum(point["seconds_exchanging"]) + sum(point["seconds_waited"])
    return still / sum(point["exchanges"])


def main() -> None:
    """Prints parameters, the check, and what is extrapolated."""
    parser = argparse.ArgumentParser(description="A cost model of training on many hosts.")
    parser.add_argument("measured", type=Path, help="what bench_scaling.py --out wrote")
    parser.add_argument("--held-out", type=int, nargs="+", default=[300], help="Mbit/s that are not fitted")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="of the machine that measured")
    parser.add_argument("--plot", type=Path, help="an SVG file to draw")
    given = parser.parse_args()
    points = [json.loads(line) for line in given.measured.read_text().splitlines()]
    model = fit([each for each in points if each["mbits"] not in given.held_out], given.cores)
    show(model)
    worst = check(model, points, given.held_out)
    extrapolate(model)
    if given.plot:
        draw(model, points, given.plot)
    sys.exit(0 if worst <= 0.2 else 1)


def show(model: Model) -> None:
    """The parameters."""
    print(f"one worker: {1000 * model.compute:.1f} ms a step of {model.batch} rows; a teacher adds {model.teacher:.0%}")
    print(
        f"synchronous: {model.dense / 1e6:.2f} MB of dense gradients, {model.sparse / 1e6:.2f} MB of sparse ones of "
        f"each worker, {1000 * model.collective:.1f} ms for each further worker; links carry already in "
        f"{model.overlap:.0%} of a step"
    )
    print(
        f"codistilled: every {model.interval} steps {model.snapshot / 1e6:.2f} MB are published and as many read of "
        f"each other group; {1000 * model.exchange:.0f} ms beside"
    )


def check(model: Model, points: Sequence[dict[str, Any]], held_out: Sequence[int]) -> float:
    """Measured and predicted rows/s of every point; the largest error of those held out."""
    worst = 0.0
    print(f"\n{'':<24}{'Mbit/s':>10}{'measured':>10}{'model':>10}{'error':>8}   rows/s")
    for each in points:
        rate = rate_of(each)
        found = model.rows_per_second(
            each["groups"],
            each["workers"],
            rate,
            own_core=False,
            interval=interval_of(each) if each["groups"] > 1 else None,
        )
        error = found / each["rows_per_second"] - 1
        kept = each["mbits"] in held_out
        worst = max(worst, abs(error)) if kept else worst
        measured = f"{each['mbits'] or 'unlimited':>10}{each['rows_per_second']:>10,.0f}"
        print(f"{each['arrangement']:<24}{measured}{found:>10,.0f}{error:>+8.0%}{'   held out' if kept else ''}")
    print(f"largest error of what was held out: {worst:.0%} (at most 20 %)")
    return worst


def arrangements(workers: int) -> dict[str, tuple[int, int]]:
    """Ways to use so many workers: groups and workers of each."""
    found = {"one synchronous group": (1, workers)}
    if workers > 1:
        found["two codistilled groups"] = (2, workers // 2)
    return found


def best_groups(model: Model, workers: int, rate: float) -> tuple[int, int]:
    """Of all numbers of groups that divide the workers the one with the most rows/s."""
    ways = [(groups, workers // groups) for groups in range(1, workers + 1) if workers % groups == 0]
    return max(ways, key=lambda way: model.rows_per_second(*way, rate, own_core=True))


def extrapolate(model: Model) -> None:
    """Rows/s of up to 256 workers, each on a host of its own, and hours for a pass of all groups over Criteo 1TB."""
    print("\nextrapolated: rows/s of all workers, and hours until 4.3 billion rows have been worked through")
    for mbits in (100, 1000, 10_000):
        head = f"{'one synchronous group':>24}{'two codistilled groups':>26}{'the best number of groups':>36}"
        print(f"\n{f'{mbits:,} Mbit/s':<21}{head}")
        for workers in WORKERS:
            line = f"{workers:>4} workers{'':<10}"
            ways = [*arrangements(workers).values(), best_groups(model, workers, mbits * 1e6)]
            for width, way in zip((24, 26, 36) if workers > 1 else (24, 62), ways, strict=True):
                rows = model.rows_per_second(*way, mbits * 1e6, own_core=True)
                text = f"{rows:,.0f} ({CRITEO_1TB / rows / 3600:,.0f} h)"
                line += f"{f'{way[0]} x {way[1]}: {text}' if width in (36, 62) else text:>{width}}"
            print(line)
    steps = model.exchange_seconds(2, 1e8) / model.step_seconds(2, 1, 1e8, own_core=True)
    print(
        f"\nstaleness: between two exchanges a teacher gets from 0 to {model.interval} steps old; an exchange of two "
        f"groups at 100 Mbit/s takes as long as {steps:.1f} steps"
    )


def draw(model: Model, points: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows/s by workers at two rates: what was measured as dots, what the model says of own cores as lines."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scaling"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    names = "one synchronous group", "two codistilled groups", "the best number of groups"
    colours = dict(zip(names, ("#0072b2", "#c04f00", "#007a5a"), strict=True))
    for panel, mbits in zip(panels, (100, 1000), strict=True):
        for name, colour in colours.items():
            ways = [
                best_groups(model, n, mbits * 1e6) if name.startswith("the best") else arrangements(n).get(name)
                for n in WORKERS
            ]
            line = [(n, way) for n, way in zip(WORKERS, ways, strict=True) if way]
            rows = [model.rows_per_second(*way, mbits * 1e6, own_core=True) for _, way in line]
            panel.plot([n for n, _ in line], rows, "--", color=colour, label=f"{name} (model)")
        for each in points:
            if each["mbits"] == mbits:
                colour = colours[names[min(each["groups"], 3) - 1]]
                marker = "o" if each["groups"] * each["workers"] <= model.cores else "x"
                panel.plot(each["groups"] * each["workers"], each["rows_per_second"], marker, color=colour)
        panel.set(xscale="log", yscale="log", xlabel="workers", title=f"{mbits:,} Mbit/s")
        panel.set_xticks(WORKERS, [str(n) for n in WORKERS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("rows/s of all workers")
    panels[1].legend(fontsize=7)
    text = f"o measured, a core a worker; x measured, more than the {model.cores} cores (green: 4 x 1); - - model"
    figure.text(0.01, 0.01, text, fontsize=7)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
