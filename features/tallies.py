"""Counts by bucket of a prepared folder's rows, kept so that a later log can be compared with it."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from features.errors import BadInput
from features.fit import Counts
from features.hashing import bucket_counts
from features.output import write_parquet
from features.profile import Profile
from features.schema import Schema
from features.split import PARTS

TALLIES_FILE = "tallies.parquet"


def save_tallies(profile: Profile, folder: Path) -> None:
    """Writes `tallies.parquet`: a row for every field and bucket that occurs, with its rows and clicks by part."""
    tables: list[pl.DataFrame] = []
    for name in bucket_counts(profile.schema):
        used = np.flatnonzero(profile.total(name))
        names = profile.names.get(name, {})
        columns = {part: counts.buckets[name][used] for part, counts in profile.parts.items()}
        clicks = {f"{part}_clicks": counts.clicked[name][used] for part, counts in profile.parts.items()}
        values = pl.Series("value", [names.get(bucket) for bucket in used.tolist()], dtype=pl.String)
        tables.append(pl.DataFrame({"field": [name] * len(used), "bucket": used, "value": values, **columns, **clicks}))
    write_parquet(pl.concat(tables), folder / TALLIES_FILE)


def load_tallies(folder: Path, schema: Schema) -> Profile:
    """What `save_tallies` wrote. Raises BadInput if there is none, or if its fields have other buckets."""
    path = folder / TALLIES_FILE
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{path} cannot be read: {reason}; prepare the data again") from None
    profile = Profile(schema, {part: Counts(schema) for part in PARTS})
    for (name,), rows in table.partition_by("field", as_dict=True).items():
        assert isinstance(name, str)
        used = rows["bucket"].to_numpy()
        for part, counts in profile.parts.items():
            if name not in counts.buckets or used.max() >= len(counts.buckets[name]):
                raise BadInput(f"{path} has field '{name}' in buckets that the schema does not have; prepare it again")
            counts.buckets[name][used] = rows[part].to_numpy()
            counts.clicked[name][used] = rows[f"{part}_clicks"].to_numpy()
        named = rows.drop_nulls("value")
        profile.names[name] = dict(zip(named["bucket"].to_list(), named["value"].to_list(), strict=True))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    profile.labelled, profile.rejected = bool(manifest["labelled"]), int(manifest["rows_rejected"])
    some = next(iter(bucket_counts(schema)))
    for counts in profile.parts.values():
        counts.rows, counts.clicks = int(counts.buckets[some].sum()), int(counts.clicked[some].sum())
    return profile
