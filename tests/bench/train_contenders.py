"""One way of training on the same rows, in a process of its own: `python train_contenders.py NAME DATA --threads 1`.

Prints one JSON object: rows a second, the median over steps, and the peak memory of the process.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ctr.data import open_data, training_batches
from features.memory import peak_rss_mb

BATCH, DIM, HIDDEN = 4096, 16, (400, 400, 400)
WARM_UP_STEPS = 3


def timed(step: Callable[[int], object], steps: int) -> float:
    """Median seconds of a step, after some that are not counted."""
    for number in range(WARM_UP_STEPS):
        step(number)
    gc.collect()
    gc.freeze()  # as training does
    seconds: list[float] = []
    for number in range(steps):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def batches(data: Path, count: int = 10) -> tuple[list[int], list[Any]]:
    """The sizes of the fields and some batches, in memory."""
    opened = open_data(data)
    endless = training_batches(opened.parts["train"], batch_size=BATCH, seed=0, first_step=0, worker=0, workers=1)
    return opened.spec.sizes, [next(endless) for _ in range(count)]


def floor(data: Path, dtype: str, threads: int, steps: int) -> float:
    """The matrix products of the dense layers alone: forward, and both of backward, in TensorFlow."""
    tf = tensorflow(threads)
    kind = tf.dtypes.as_dtype(dtype)
    widths = [26 * DIM, *HIDDEN, 1]
    values = [tf.Variable(tf.cast(tf.random.normal([BATCH, width]), kind)) for width in widths]
    kernels = [tf.Variable(tf.cast(tf.random.normal(shape), kind)) for shape in pairwise(widths)]

    @tf.function
    def products() -> Any:
        found = []
        for before, after, kernel in zip(values[:-1], values[1:], kernels, strict=True):
            found += [tf.matmul(before, kernel), tf.matmul(after, kernel, transpose_b=True)]
            found.append(tf.matmul(before, after, transpose_a=True))
        # Looked at in one place each, so that none is left out.
        return [product[0, 0] for product in found]

    return BATCH / timed(lambda number: products(), steps)


def one(data: Path, dtype: str, threads: int, steps: int) -> float:
    """A step of one model here, with its input at hand."""
    return _learner(data, dtype, threads, steps, taught=False)


def taught(data: Path, dtype: str, threads: int, steps: int) -> float:
    """The same with a teacher asked about every row."""
    return _learner(data, dtype, threads, steps, taught=True)


def pipeline(data: Path, dtype: str, threads: int, steps: int) -> float:
    """From shards to TensorFlow's batches, and nothing else."""
    tensorflow(threads)
    from ctr.feed import training_dataset

    opened = open_data(data)
    rows = iter(
        training_dataset(
            opened.parts["train"],
            fields=len(opened.spec.sizes),
            numbers=0,
            batch_size=BATCH,
            seed=0,
            first_step=0,
            worker=0,
            workers=1,
            steps=steps + WARM_UP_STEPS,
        )
    )
    return BATCH / timed(lambda number: next(rows), steps)


def torch_adagrad(data: Path, dtype: str, threads: int, steps: int) -> float:
    """PyTorch: sparse embeddings and torch.optim.Adagrad, which updates the rows of a batch alone."""
    return _torch(data, dtype, threads, steps, sparse=True)


def torch_adam(data: Path, dtype: str, threads: int, steps: int) -> float:
    """FuxiCTR's way: dense gradients and Adam, which passes over the whole table at every step."""
    return _torch(data, dtype, threads, steps, sparse=False)


def tensorflow(threads: int) -> Any:
    """TensorFlow with so many threads, as `ctr worker` sets it up."""
    import ctr  # noqa: F401 - sets TensorFlow to Keras 2

    import tensorflow as tf  # isort: skip

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def _learner(data: Path, dtype: str, threads: int, steps: int, *, taught: bool) -> float:
    tf = tensorflow(threads)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from ctr.build import build_model, build_optimizer
    from ctr.config import load_config
    from ctr.learner import Learner

    spec = open_data(data).spec
    config = load_config(None, [f"model.hidden={list(HIDDEN)}", f"model.embedding_dim={DIM}", f"model.compute={dtype}"])
    rate = tf.Variable(tf.zeros([]), trainable=False)
    with strategy.scope():
        model = build_model(spec, config, click_rate=0.25)
        optimizer = build_optimizer(model, config, rate)
    teachers = [build_model(spec, config)] if taught else []
    learner = Learner(strategy, model, optimizer, rate, teachers, batch_size=BATCH)
    if taught:
        learner.set_present(0, True)
    rows = [tuple(tf.constant(column) for column in each) for each in batches(data)[1]]
    weight = 3.0 if taught else 0.0
    return BATCH / timed(lambda number: learner.step(rows[number % len(rows)], number, rate=0.05, weight=weight), steps)


def _torch(data: Path, dtype: str, threads: int, steps: int, *, sparse: bool) -> float:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(threads)
    sizes, given = batches(data)
    starts = torch.tensor(np.cumsum([0, *sizes[:-1]]))
    table = torch.nn.Embedding(sum(sizes), DIM, sparse=sparse)
    wide = torch.nn.Embedding(sum(sizes), 1, sparse=sparse)
    widths = [26 * DIM, *HIDDEN]
    layers = [layer for a, b in pairwise(widths) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    deep = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], 1))
    weights = [*table.parameters(), *wide.parameters(), *deep.parameters()]
    optimizer = torch.optim.Adagrad(weights, lr=0.05) if sparse else torch.optim.Adam(weights, lr=1e-3)
    loss_of = torch.nn.BCEWithLogitsLoss()
    rows = [(torch.tensor(each.ids).long() + starts, torch.tensor(each.label)) for each in given]

    def step(number: int) -> None:
        ids, label = rows[number % len(rows)]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = deep(table(ids).flatten(1)) + wide(ids).sum(1)
        loss_of(logits.float(), label).backward()
        optimizer.step()

    return BATCH / timed(step, steps)


CONTENDERS = {each.__name__: each for each in (floor, one, taught, pipeline, torch_adagrad, torch_adam)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    speed = CONTENDERS[given.name](given.data, given.dtype, given.threads, given.steps)
    print(json.dumps({"rows_per_second": speed, "peak_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
