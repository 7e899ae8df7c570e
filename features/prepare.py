"""`ctr prepare`: both passes over a log, the split, and an output folder that appears whole or not at all."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.aside import Aside, Columns
from features.errors import BadInput
from features.fit import Counts
from features.hashing import bucket_counts
from features.html import write_html
from features.memory import keep_freed_memory, peak_rss_mb
from features.ordered import in_parallel
from features.output import appears_whole
from features.parse import ROW, TIME
from features.places import Places
from features.profile import Profile, most_frequent
from features.progress import Progress
from features.report import report
from features.scan import Divide, Rejects, Scanned, scan
from features.schema import Schema, dense_fields
from features.series import FOLLOWED, Followed
from features.shards import Shard, write_shard
from features.sources import Source, map_batches, open_sources
from features.spec import FeatureSpec
from features.split import MINUTE, PARTS, Split
from features.tallies import TALLIES_FILE, load_tallies, save_tallies

MANIFEST_FILE = "manifest.json"
REJECTED_FILE = "rejected.ndjson"
REPORT_FILE = "report.json"
REPORT_PAGE = "report.html"


def prepare(
    inputs: list[str],
    out: Path,
    *,
    schema: Schema,
    fitted: FeatureSpec | None,
    split: Split,
    shard_rows: int,
    max_reject_rate: float,
    seed: int,
    progress: Progress,
    fitted_on: Path | None = None,
) -> dict[str, Any]:
    """Encodes raw logs into `out`: shards by part, feature spec, manifest, report, rejected rows. Returns the manifest.

    With `fitted` the rows are encoded by that spec, otherwise by one fitted on the training part; `fitted_on` is the
    folder that it is from, with whose rows the report compares if it was prepared. Rows that cannot be read are kept in
    `rejected.ndjson` with file, line and reason. Raises BadInput when more than `max_reject_rate` of them are, when
    `out` exists, or when no row is left; nothing is left behind then.
    """
    started = time.monotonic()
    keep_freed_memory()
    schema = schema if fitted is None else fitted.schema
    with appears_whole(out) as folder:
        sources = open_sources(inputs, schema)
        total = sum(source.rows for source in sources)
        if total == 0:
            raise BadInput(f"{', '.join(inputs)} hold no row; a click log has one row a line")
        if fitted is None and not all(source.labelled for source in sources):
            raise BadInput(
                f"{_unlabelled(sources)} has no labels to train on; encode it with --spec of a prepared folder, "
                f"or name its label, which is '{schema.label}' now, in the schema"
            )
        places = Places(split, total, shard_rows, seed)
        profile = Profile(schema, {part: Counts(schema) for part in PARTS})
        divide = _divider(sources, schema, split, total, progress)
        with Rejects(folder / REJECTED_FILE, total, max_reject_rate) as rejects:
            aside = _first_pass(sources, folder / "aside", profile, places, divide, rejects, progress)
            rejects.check()
        spec = profile.parts["train"].spec() if fitted is None else fitted
        with ThreadPoolExecutor(1) as beside:
            saved = [beside.submit(spec.save, folder), beside.submit(save_tallies, profile, folder)]
            written = _write_shards(aside, places, folder, spec, profile, progress)
            for each in saved:
                each.result()
        aside.clear()
        labelled = profile.labelled
        parts = {part: _summary(written[part], labelled) for part in PARTS}
        reference = profile if fitted is None else _tallies_of(fitted_on, schema)
        described = report(spec, profile, reference, rejected=rejects.count)
        (folder / REPORT_FILE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        write_html(described, folder / REPORT_PAGE, title=", ".join(Path(source.path).name for source in sources))
        digest = hashlib.sha256(spec.digest.encode())
        for part in parts.values():
            for name, shard in part["shards"].items():
                digest.update(f"{name} {shard['sha256']}".encode())
        manifest = {
            "version": 2,
            "digest": digest.hexdigest(),
            "spec_digest": spec.digest,
            "rows": total - rejects.count,
            "rows_rejected": rejects.count,
            "features": {"ids": len(spec.id_fields), "dense": len(spec.dense_fields), "table_rows": sum(spec.sizes)},
            "sources": [_lasting(source.path) for source in sources],
            "labelled": labelled,
            "split": {"kind": split.kind, "validation": split.validation, "test": split.test},
            "seed": seed,
            "parts": parts,
        }
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    seconds = time.monotonic() - started
    return {**manifest, "moved": described["moved"], "rows_per_second": total / seconds, "peak_rss_mb": peak_rss_mb()}


def _first_pass(
    sources: list[Source],
    folder: Path,
    profile: Profile,
    places: Places,
    divide: Divide,
    rejects: Rejects,
    progress: Progress,
) -> Aside:
    """Counts all rows into the profile, and lays the good ones aside and the others among the rejects."""
    aside = Aside(
        folder,
        id_fields=len(bucket_counts(profile.schema)),
        dense_fields=len(dense_fields(profile.schema)),
        shuffled=places.shuffled,
        places=places.count,
    )
    done = 0

    def seen(scanned: Scanned) -> None:
        nonlocal done
        rejects.keep(scanned.rejected)
        done += scanned.read
        progress("reading", done, places.total)

    def lay_aside(
        rows: NDArray[np.uint64], parts: NDArray[np.int64], ordered: Callable[[NDArray[np.int64]], Columns]
    ) -> None:
        found = places.of(rows, parts)
        # NumPy sorts 16 bits ten times as fast as 64.
        order = np.argsort(found.astype(np.uint16) if places.count < 2**16 else found, kind="stable")
        aside.add(ordered(order), found[order])

    scan(sources, profile.schema, profile, divide, total=places.total, lay_aside=lay_aside, seen=seen)
    aside.flush()
    return aside


def _divider(sources: list[Source], schema: Schema, split: Split, total: int, progress: Progress) -> Divide:
    """What gives the part of each row of a batch. A log with times is read once more, for where the cuts are."""
    if schema.time is None or split.kind != "time":
        return lambda frame: split.part(frame[ROW], total)
    minutes: Counter[int] = Counter()
    done = 0
    counted = map_batches(
        sources, schema, lambda batch: (batch.read, (batch.frame[TIME] // MINUTE).value_counts(name="rows"))
    )
    for read, counts in counted:
        minutes.update(dict(counts.iter_rows()))
        done += read
        progress("reading times", done, total)
    cuts = split.time_cuts(minutes.items())
    return lambda frame: split.part_by_time(frame[TIME], cuts)


def _write_shards(
    aside: Aside, places: Places, folder: Path, spec: FeatureSpec, profile: Profile, progress: Progress
) -> dict[str, list[Shard]]:
    """Encodes every shard, and notes on the way how the most frequent values move along the log."""
    top = {name: most_frequent(profile.total(name)[:-1], FOLLOWED) for name in spec.id_fields}
    followed = profile.followed = Followed(top, bucket_counts(spec.schema), places.total)
    for part in PARTS:
        (folder / part).mkdir()

    def write(job: tuple[str, int, Callable[[], Columns]]) -> tuple[str, Shard]:
        part, index, take = job
        return part, write_shard(take(), folder / part, index, spec=spec, followed=followed)

    written: dict[str, list[Shard]] = {part: [] for part in PARTS}
    done = 0
    for part, shard in in_parallel(write, places.shards(aside)):
        written[part].append(shard)
        done += shard.rows
        progress("encoding", done, aside.rows)
    return written


def _summary(shards: list[Shard], labelled: bool) -> dict[str, Any]:
    rows = sum(shard.rows for shard in shards)
    return {
        "rows": rows,
        "click_rate": sum(shard.clicks for shard in shards) / rows if rows and labelled else None,
        "weight": sum(shard.weight for shard in shards),
        "shards": {shard.name: {"rows": shard.rows, "sha256": shard.sha256} for shard in shards},
    }


def _tallies_of(folder: Path | None, schema: Schema) -> Profile | None:
    """The counts of the rows that a spec was fitted on, where the folder that it is from has them."""
    return load_tallies(folder, schema) if folder is not None and (folder / TALLIES_FILE).exists() else None


def _unlabelled(sources: list[Source]) -> str:
    return next(source.path for source in sources if not source.labelled)


def _lasting(path: str) -> str:
    """A path that means the same from another working folder."""
    return path if "://" in path else str(Path(path).resolve())
