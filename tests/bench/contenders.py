"""The same log prepared by other tools, each in a process of its own: `python contenders.py NAME LOG OUT`.

Prints one JSON object: rows, seconds of work (imports left out) and the peak memory of the process.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.memory import peak_rss_mb

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
BUCKETS = 2**18


def ctr_prepare(log: Path, out: Path) -> Callable[[], int]:
    """This pipeline with its defaults: both passes, split by time, shuffled shards, report."""
    from features.prepare import prepare
    from features.schema import criteo
    from features.split import Split

    def work() -> int:
        manifest = prepare(
            [str(log)],
            out,
            schema=criteo(),
            fitted=None,
            split=Split("time", 0.1, 0.1, 0),
            shard_rows=131_072,
            max_reject_rate=0.01,
            seed=0,
            progress=lambda stage, done, total: None,
        )
        return int(manifest["rows"])

    return work


def bare_polars(log: Path, out: Path) -> Callable[[], int]:
    """The log rewritten as Parquet, with no feature work at all: what reading and writing alone take."""
    import polars as pl

    def work() -> int:
        pl.scan_csv(log, separator="\t", has_header=False).sink_parquet(out)
        return pl.scan_parquet(out).select(pl.len()).collect().item()

    return work


def pandas_sklearn(log: Path, out: Path) -> Callable[[], int]:
    """Chunks of pandas through scikit-learn's FeatureHasher, one pass: it keeps no counts and no rare values apart."""
    import numpy as np
    import pandas as pd
    import scipy.sparse
    from sklearn.feature_extraction import FeatureHasher

    def work() -> int:
        out.mkdir()
        hasher = FeatureHasher(n_features=2**22, input_type="string", alternate_sign=False)
        types: Any = {**dict.fromkeys(["label", *INTEGERS], "Float64"), **dict.fromkeys(CATEGORIES, "string")}
        rows = 0
        chunks = pd.read_csv(log, sep="\t", names=list(types), dtype=types, chunksize=100_000)
        for number, chunk in enumerate(chunks):
            named = [(name + "=" + chunk[name].fillna("")).to_numpy() for name in CATEGORIES]
            hashed = hasher.transform(zip(*named, strict=True))
            numbers = np.log1p(chunk[INTEGERS].to_numpy(np.float64, na_value=np.nan).clip(0))
            scipy.sparse.save_npz(out / f"{number}.npz", hashed, compressed=False)
            np.savez(out / f"{number}-dense.npz", numbers.astype(np.float32), chunk["label"].to_numpy(np.float32))
            rows += len(chunk)
        return rows

    return work


def duckdb_sql(log: Path, out: Path) -> Callable[[], int]:
    """Both passes in SQL: hash once into a table, count the training rows' buckets, join, shuffle, write Parquet."""
    import duckdb

    def work() -> int:
        out.mkdir()
        with duckdb.connect(str(out / "work.duckdb")) as db:
            columns = {"label": "TINYINT", **dict.fromkeys(INTEGERS, "BIGINT"), **dict.fromkeys(CATEGORIES, "VARCHAR")}
            hashes = ", ".join(f"(hash({name}) % {BUCKETS})::INTEGER AS {name}" for name in CATEGORIES)
            logs = ", ".join(f"sign({name}) * ln(1 + abs({name})) AS {name}" for name in INTEGERS)
            db.execute(
                f"CREATE TABLE hashed AS SELECT row_number() OVER () AS row, label, {hashes}, {logs} "
                f"FROM read_csv(?, delim='\t', header=false, quote='', columns={columns})",
                [str(log)],
            )
            rows = int(db.execute("SELECT count(*) FROM hashed").fetchall()[0][0])
            training = int(rows * 0.8)
            for name in CATEGORIES:
                db.execute(
                    f"CREATE TABLE ids_{name} AS "
                    f"SELECT {name} AS bucket, row_number() OVER (ORDER BY {name}) + 1 AS id "
                    f"FROM hashed WHERE row <= {training} GROUP BY {name} HAVING count(*) >= 2"
                )
            moments = ", ".join(f"avg({name}), stddev_pop({name})" for name in INTEGERS)
            scales = db.execute(f"SELECT {moments} FROM hashed WHERE row <= {training}").fetchall()[0]
            ids = ", ".join(f"coalesce(ids_{name}.id, 1)::INTEGER AS {name}" for name in CATEGORIES)
            dense = ", ".join(
                f"(({name} - {scales[2 * i]}) / {scales[2 * i + 1] or 1})::FLOAT AS {name}"
                for i, name in enumerate(INTEGERS)
            )
            joins = " ".join(f"LEFT JOIN ids_{name} ON hashed.{name} = ids_{name}.bucket" for name in CATEGORIES)
            for part, chosen, order in (
                ("train", f"row <= {training}", "hash(row)"),
                ("rest", f"row > {training}", "row"),
            ):
                db.execute(
                    f"COPY (SELECT row, label, {ids}, {dense} FROM hashed {joins} WHERE {chosen} ORDER BY {order}) "
                    f"TO '{out / part}.parquet' (FORMAT parquet, COMPRESSION zstd)"
                )
        return rows

    return work


CONTENDERS = {
    "ctr prepare": ctr_prepare,
    "bare Polars": bare_polars,
    "pandas + FeatureHasher": pandas_sklearn,
    "DuckDB": duckdb_sql,
}

if __name__ == "__main__":
    contender, log_file, out_path = sys.argv[1:]
    run = CONTENDERS[contender](Path(log_file), Path(out_path))
    began = time.perf_counter()
    done = run()
    seconds = time.perf_counter() - began
    sys.stdout.write(json.dumps({"rows": done, "seconds": seconds, "peak_mb": peak_rss_mb()}) + "\n")
