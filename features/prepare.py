"""`ctr prepare`: both passes over a log, the split, and an output folder that appears whole or not at all."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from features.aside import AsideFile, Index
from features.engine import LOCAL, Engine, Seen, Work, check_shared
from features.errors import BadInput
from features.first_pass import Divider, Found, count_minutes, first_pass
from features.hashing import bucket_counts
from features.html import write_html
from features.memory import peak_rss_mb
from features.output import appears_whole
from features.places import Places, ShardRows
from features.profile import Profile, most_frequent
from features.progress import Progress
from features.report import report
from features.scan import check_rejects
from features.schema import Schema
from features.series import FOLLOWED, Followed
from features.shards import Shard, write_shards
from features.sources import Source, open_sources
from features.spec import FeatureSpec
from features.split import PARTS, Split
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
    engine: Engine = LOCAL,
) -> dict[str, Any]:
    """Encodes raw logs into `out`: shards by part, feature spec, manifest, report, rejected rows. Returns the manifest.

    With `fitted` the rows are encoded by that spec, otherwise by one fitted on the training part; `fitted_on` is the
    folder that it is from, with whose rows the report compares if it was prepared. Rows that cannot be read are kept in
    `rejected.ndjson` with file, line and reason. What is written is the same whatever the `engine`. Raises BadInput
    when more than `max_reject_rate` of the rows cannot be read, when `out` exists, or when no row is left; nothing is
    left behind then.
    """
    started = time.monotonic()
    schema = schema if fitted is None else fitted.schema
    with appears_whole(out) as folder:
        check_shared(engine, folder)
        sources = open_sources(inputs, schema, engine)
        total = sum(source.rows for source in sources)
        if total == 0:
            raise BadInput(f"{', '.join(inputs)} hold no row; a click log has one row a line")
        if fitted is None and not all(source.labelled for source in sources):
            raise BadInput(
                f"{_unlabelled(sources)} has no labels to train on; encode it with --spec of a prepared folder, "
                f"or name its label, which is '{schema.label}' now, in the schema"
            )
        places = Places(split, total, shard_rows, seed)
        divider = _divider(sources, schema, split, total, engine, _counter(progress, "reading times", total))
        aside = folder.absolute() / "aside"
        aside.mkdir()
        work = partial(first_pass, schema=schema, places=places, divider=divider, folder=aside)
        profile, files, first = _read(
            sources, work, engine, folder / REJECTED_FILE, _counter(progress, "reading", total)
        )
        rejected = profile.rejected
        check_rejects(rejected, total, max_reject_rate, first)
        spec = profile.parts["train"].spec() if fitted is None else fitted
        index = Index(files, places.count)
        with ThreadPoolExecutor(1) as beside:
            saved = [beside.submit(spec.save, folder), beside.submit(save_tallies, profile, folder)]
            seen = _counter(progress, "encoding", index.rows)
            shards = _write(places.shards(index), spec, profile, engine, total, aside, folder.absolute(), seen)
            for each in saved:
                each.result()
        shutil.rmtree(aside)
        labelled = profile.labelled
        parts = {part: _summary([shard for shard in shards if shard.part == part], labelled) for part in PARTS}
        reference = profile if fitted is None else _tallies_of(fitted_on, schema)
        described = report(spec, profile, reference, rejected=rejected)
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
            "rows": total - rejected,
            "rows_rejected": rejected,
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


def _divider(sources: list[Source], schema: Schema, split: Split, total: int, engine: Engine, seen: Seen) -> Divider:
    """What gives the part of each row of a batch. A log with times is read once more, for where the cuts are."""
    if schema.time is None or split.kind != "time":
        return Divider(split, total, None)
    minutes: Counter[int] = Counter()
    for counted in engine.run(partial(count_minutes, schema=schema), sources, seen):
        minutes.update(counted)
    return Divider(split, total, split.time_cuts(minutes.items()))


def _read(
    sources: list[Source], work: Work[Source, Found], engine: Engine, rejected: Path, seen: Seen
) -> tuple[Profile, list[AsideFile], str]:
    """The first pass over all files: what is known of their rows, where those were laid aside, and where the first of
    those is that could not be read, and why. All these are written to `rejected`, in order."""
    profile: Profile | None = None
    aside: list[AsideFile] = []
    first = ""
    with rejected.open("wb") as file:
        for found in engine.run(work, sources, seen):
            with found.rejected.open("rb") as some:
                shutil.copyfileobj(some, file)
            found.profile.rejected = found.rejected_rows
            first = first or found.first_rejected
            aside += found.aside
            if profile is None:
                profile = found.profile
            else:
                profile.merge(found.profile)
    assert profile
    return profile, aside, first


def _write(
    shards: Iterator[ShardRows],
    spec: FeatureSpec,
    profile: Profile,
    engine: Engine,
    total: int,
    aside: Path,
    folder: Path,
    seen: Seen,
) -> list[Shard]:
    """The second pass; notes on the way how the most frequent values move along the log."""
    follow = {name: most_frequent(profile.total(name)[:-1], FOLLOWED) for name in spec.id_fields}
    profile.followed = Followed(follow, bucket_counts(spec.schema), total)
    for part in PARTS:
        (folder / part).mkdir()
    work = partial(write_shards, spec=spec, follow=follow, total=total, aside=aside, folder=folder)
    written: list[Shard] = []
    for some in engine.run(work, shards, seen):
        written += some.shards
        profile.followed.merge(some.rows, some.clicks)
    return written


def _counter(progress: Progress, stage: str, total: int) -> Seen:
    """Tells of a stage's progress what is told to it."""
    done = 0

    def seen(rows: int) -> None:
        nonlocal done
        done += rows
        progress(stage, done, total)

    return seen


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
