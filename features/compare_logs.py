"""`ctr drift`: how far each field has moved from one log, or prepared folder, to another."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.drift import drift
from features.errors import BadInput
from features.fit import Counts
from features.html import write_drift_html
from features.output import file_appears_whole
from features.prepare import MANIFEST_FILE
from features.profile import Profile
from features.progress import Progress
from features.scan import Scanned, first_of, scan
from features.schema import Schema
from features.sources import open_sources
from features.spec import load_spec
from features.tallies import load_tallies


def compare_logs(
    first: str, second: str, *, schema: Schema, max_reject_rate: float, page: Path | None, progress: Progress
) -> dict[str, Any]:
    """Population stability index of each field between two logs, each given by a name, a glob or a prepared folder.

    Logs are read with the schema of the prepared folder, if there is one among the two, otherwise with `schema`. With
    `page` the result is written as HTML too. Raises BadInput when two prepared folders have different schemas.
    """
    prepared = [Path(name) for name in (first, second) if (Path(name) / MANIFEST_FILE).is_file()]
    schemas = [load_spec(folder).schema for folder in prepared]
    if len(schemas) == 2 and schemas[0] != schemas[1]:
        raise BadInput(f"{first} and {second} have different schemas, so their buckets do not mean the same values")
    schema = schemas[0] if schemas else schema
    found = drift(*(_profile(name, schema, max_reject_rate, progress) for name in (first, second)))
    result = {"logs": [first, second], **found}
    if page:
        with file_appears_whole(page) as path:
            write_drift_html(result, path, title=f"{first} and {second}")
    return result


def _profile(name: str, schema: Schema, max_reject_rate: float, progress: Progress) -> Profile:
    folder = Path(name)
    if (folder / MANIFEST_FILE).is_file():
        return load_tallies(folder, schema)
    sources = open_sources([name], schema)
    total = sum(source.rows for source in sources)
    profile = Profile(schema, {"all": Counts(schema)})
    done = rejected = 0
    first = ""

    def seen(scanned: Scanned) -> None:
        nonlocal done, rejected, first
        done, rejected = done + scanned.read, rejected + scanned.rejected.height
        first = first or first_of(scanned.rejected)
        progress(f"reading {name}", done, total)

    def together(frame: pl.DataFrame) -> NDArray[np.int64]:
        return np.zeros(frame.height, np.int64)

    scan(sources, schema, profile, together, total=total, lay_aside=None, seen=seen)
    if rejected == total:
        raise BadInput(f"none of the {total} rows of {name} could be read; {first}")
    if rejected > max_reject_rate * total:
        raise BadInput(
            f"{rejected} of {total} rows of {name} cannot be read, more than max_reject_rate {max_reject_rate:g}; "
            f"{first}"
        )
    profile.rejected = rejected
    return profile
