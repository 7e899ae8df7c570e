"""What a log costs before anybody pays for it: disk, memory and hours, from rates that the benches measured.

    python -m ctr.estimate configs/criteo_x4.yaml --rows 45840617 --table-rows 910000 --passes 12

The rates are those of README's "Data" and "How fast it trains". More than two cores were not measured: preparing is
taken to grow with the cores, and one process's threads by Amdahl's law from what two of them gained. Of what was
measured and is not used here, it gives 48,200 rows/s for a pair on two cores (measured: 48,800), and 97,200 for one
model in bfloat16 on two threads (91,400).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ctr.config import Config, load_config, schema_of

CORES = (2, 16, 64)

# Bytes of a row: in the log as text, and in the shards.
_LOG_BYTES, _SHARD_BYTES = 243, 64
# `ctr prepare`, rows/s of a core: 443,000 on two.
_PREPARE_RATE = 221_500
# MB of `ctr prepare` before any bucket is counted, and bytes of each bucket: at 5 million rows 920 MB with 6.8 million
# buckets, 3,650 MB with 88.6 million (which also take some 7 seconds, whatever the rows).
_PREPARE_MB, _BUCKET_BYTES = 690, 33.4
# Rows that are laid aside at once, with an index of 4 bytes a place.
_ASIDE_ROWS = 2**18

# Multiply-adds of the benched net, 26 fields x 16 and ReLU layers of 400, 400, 400.
_BENCHED = 26 * 16 * 400 + 400 * 400 + 400 * 400 + 400
# Rows/s of a process with one thread, by what products are worked out in: matrix products alone, one model, one model
# with a teacher asked about every row.
_RATES = {"float32": (35_600, 31_700, 24_100), "bfloat16": (68_100, 52_300, 40_100)}
# What two threads made of the 31,700.
_TWO_THREADS = 58_900
# Seconds that the average of past weights takes for a weight, each 32nd step: .017 for tables of a million rows.
_AVERAGE_SECONDS, _AVERAGE_EVERY = 0.017 / (17e6 + _BENCHED), 32
# MB of a training process without tables; bytes of a weight in the tables, its optimizer slots and passing copies
# included: 977 MB with a million rows of 16 + 1 weights, 3,011 MB with ten million.
_TRAIN_MB, _WEIGHT_BYTES = 751, 13.3
# A peer's weights are kept as they are.
_PEER_BYTES = 4


def multiplications(width: int, hidden: Sequence[int], *, cross_layers: int = 0, cross_rank: int | None = None) -> int:
    """Multiply-adds of a row through the deep part: cross layers of this width first, then ReLU layers, then the logit.

    `cross_rank` None: whole matrices.
    """
    crossed = cross_layers * (width * width if cross_rank is None else 2 * width * cross_rank)
    return crossed + sum(rows * columns for rows, columns in pairwise([width, *hidden, 1]))


def row_seconds(embedded: int, products: int, *, compute: str, teachers: int, weights: float, batch: int) -> float:
    """Seconds in which one thread trains one model on a row.

    Args:
        embedded: numbers that a row looks up: fields x width of an embedding.
        products: `multiplications`.
        teachers: peers asked about the row.
        weights: averaged over past steps; 0 for no average.
    """
    floor, alone, taught = (1 / rate for rate in _RATES[compute])
    per_product = floor / _BENCHED  # forward, and twice as much backward
    per_number = (alone - floor) / (26 * 16)
    asked = per_product / 3 * products
    looked_up = (taught - alone - floor / 3) / (26 * 16) * embedded
    averaging = weights * _AVERAGE_SECONDS / _AVERAGE_EVERY / batch
    return per_product * products + per_number * embedded + teachers * (asked + looked_up) + averaging


def gain(threads: float) -> float:
    """How many times as fast a process with so many threads is as one with one: Amdahl's law.

    A share of .076 does not divide, by what two threads gained.
    """
    serial = 2 * _RATES["float32"][1] / _TWO_THREADS - 1
    return threads if threads <= 1 else 1 / (serial + (1 - serial) / threads)


def estimate(config: Config, *, rows: int, table_rows: int, passes: float) -> dict[str, Any]:
    """Disk and memory in GB and hours by cores, for `rows` of log of which the tables keep `table_rows` ids.

    Args:
        passes: over the training rows, until early stopping or `train.epochs` ends them.
    """
    schema = schema_of(config.features)
    buckets = sum(field.buckets for field in [*schema.categorical, *schema.crosses])
    ids = len(schema.categorical) + sum(field.token != "none" for field in schema.numeric) + len(schema.crosses)
    numbers = sum(field.dense != "none" for field in schema.numeric)
    fields, dim = ids - len(schema.crosses), config.model.embedding_dim
    products = multiplications(
        fields * dim + 2 * numbers,
        config.model.hidden,
        cross_layers=config.model.cross_layers if config.model.deep == "dcn" else 0,
        cross_rank=config.model.cross_rank,
    )
    weights = table_rows * (dim + 1) + products
    log = rows * _LOG_BYTES
    aside_bytes = 16 + 4 * ids + 8 * numbers
    places = rows / config.prepare.shard_rows * 4  # one for each training shard, a range for each part
    index = rows / _ASIDE_ROWS * places * 4
    split = config.prepare
    training = rows if split.split == "none" else rows * (1 - split.validation - split.test)
    groups = config.codistillation.groups

    def core_seconds(teachers: int) -> float:
        """Of one model, on one thread, its evaluations on the validation rows included."""
        averaged = weights if config.train.ema else 0
        each = row_seconds(
            fields * dim, products, compute=config.model.compute, teachers=teachers, weights=averaged,
            batch=config.train.batch_size,
        )  # fmt: skip
        evaluated = rows * split.validation * passes * _evaluations(config, training)
        return passes * training * each + evaluated * each / 3

    single, pair = core_seconds(0), groups * core_seconds(groups - 1)
    compared = [name for name in config.compare.arms if name in ("single", "codistilled")]
    comparison = config.compare.retrainings * sum({"single": single, "codistilled": pair}[name] for name in compared)
    processes = config.compare.retrainings * sum({"single": 1, "codistilled": groups}[name] for name in compared)
    peers = (groups - 1) * _PEER_BYTES * weights
    return {
        "rows": rows,
        "disk_gb": {
            "log": log / 1e9,
            "prepared": rows * _SHARD_BYTES / 1e9,
            "while_prepared": (log + rows * (aside_bytes + _SHARD_BYTES)) / 1e9,
        },
        "memory_gb": {
            "prepare": _PREPARE_MB / 1e3 + (buckets * _BUCKET_BYTES + index) / 1e9,
            "prepare_each_core": 2 * config.prepare.shard_rows * aside_bytes / 1e9,
            "each_group": _TRAIN_MB / 1e3 + (weights * _WEIGHT_BYTES + peers) / 1e9,
        },
        "hours": {
            cores: {
                "prepare": rows / (_PREPARE_RATE * cores) / 3600,
                f"{groups} groups": _hours(pair, groups, cores),
                "comparison": _hours(comparison, processes, cores),
            }
            for cores in CORES
        },
    }


def _evaluations(config: Config, training: float) -> float:
    """Evaluations on the validation rows in a pass over the training rows."""
    steps = training / config.train.batch_size
    return steps / config.train.evaluate_every if config.train.evaluate_every else 4


def _hours(seconds: float, processes: int, cores: int) -> float:
    """Hours of work that so many processes share evenly: as many at a time as there are cores, or threads in each."""
    if not processes:
        return 0.0
    threads = max(1.0, cores / processes)
    return seconds / (min(processes, cores) * gain(threads)) / 3600


def sentences(found: Mapping[str, Any], passes: float) -> list[str]:
    """The estimate in four lines, as they stand at the top of a configuration."""
    disk, memory, hours = found["disk_gb"], found["memory_gb"], found["hours"]
    groups = next(step for step in hours[CORES[0]] if step.endswith("groups"))
    on = ", ".join(map(str, CORES))
    said = {step: ", ".join(_short(hours[cores][step]) for cores in CORES) for step in hours[CORES[0]]}
    return [
        f"{found['rows']:,} rows: log {_short(disk['log'])} GB, with it while it is prepared "
        f"{_short(disk['while_prepared'])} GB, prepared {_short(disk['prepared'])} GB",
        f"memory: prepare {_short(memory['prepare'])} GB and {_short(memory['prepare_each_core'])} GB a core, each of "
        f"{groups} {_short(memory['each_group'])} GB",
        f"hours on {on} cores: prepare {said['prepare']}; {groups}, passes {passes:g}: {said[groups]}",
        f"hours of the comparison: {said['comparison']}; rates were measured on 2 cores, what is more is extrapolated",
    ]


def _short(value: float) -> str:
    """Two digits of a figure, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def main() -> None:
    """Prints the estimate in four lines, or as JSON with --json."""
    parser = argparse.ArgumentParser(description="Disk, memory and hours of a configuration.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="of the log")
    parser.add_argument("--table-rows", type=int, required=True, help="ids that min_count keeps, over all fields")
    parser.add_argument("--passes", type=float, help="over the training rows; default: train.epochs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = load_config(given.config, [])
    passes = given.passes or config.train.epochs
    found = estimate(config, rows=given.rows, table_rows=given.table_rows, passes=passes)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else "\n".join(sentences(found, passes)) + "\n")


if __name__ == "__main__":
    main()
