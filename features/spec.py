"""The fitted FeatureSpec: what turns a raw row into ids and dense values, for shards, runs and SavedModels."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from features.errors import BadInput
from features.hashing import bucket_counts
from features.schema import Schema, dense_fields
from features.strict import parse

VERSION = 2
SPEC_FILE = "spec.json"
ARRAYS_FILE = "spec.safetensors"

MISSING, RARE, FIRST_KEPT = 0, 1, 2


@dataclass(frozen=True)
class FeatureSpec:
    """What fitting found out.

    Attributes:
        schema: the fields.
        scales: for each dense numeric field, what is subtracted and what is then divided by: mean and standard
            deviation of sign(x) ln(1 + |x|) for log_standard, least value and spread for min_max.
        ids: for each field that gets an id, int32 `[buckets + 1]`: the id of every bucket, the missing one's last.
    """

    schema: Schema
    scales: dict[str, tuple[float, float]]
    ids: dict[str, NDArray[np.int32]]

    @property
    def id_fields(self) -> list[str]:
        """Fields that get an id, in the order of the `ids` matrix: numbers, those of the time, categories, crosses."""
        return list(bucket_counts(self.schema))

    @property
    def dense_fields(self) -> list[str]:
        """Fields with a dense value, in the order of the `dense` matrix."""
        return dense_fields(self.schema)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of ids of each id field: missing, rare, and the buckets kept."""
        return [max(int(self.ids[name].max()), RARE) + 1 for name in self.id_fields]

    @property
    def cross_count(self) -> int:
        """How many of the id fields, the last ones, are crosses."""
        return len(self.schema.crosses)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole spec: equal digests encode every row alike."""
        content = hashlib.sha256(json.dumps(self._readable(), sort_keys=True).encode())
        for name in self.id_fields:
            content.update(self.ids[name].astype("<i4").tobytes())
        return content.hexdigest()

    def _readable(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "schema": self.schema.model_dump(mode="json"),
            "scales": {
                name: dict(zip(_scale_names(self.schema, name), scale, strict=True))
                for name, scale in self.scales.items()
            },
        }

    def save(self, folder: Path) -> None:
        """Writes `spec.json`, to read, and `spec.safetensors`, the ids of every bucket."""
        sizes = dict(zip(self.id_fields, self.sizes, strict=True))
        readable = {**self._readable(), "sizes": sizes, "digest": self.digest}
        (folder / SPEC_FILE).write_text(json.dumps(readable, indent=2) + "\n", encoding="utf-8")
        (folder / ARRAYS_FILE).write_bytes(save_arrays({name: self.ids[name] for name in self.id_fields}))


def load_spec(folder: Path) -> FeatureSpec:
    """The spec saved in `folder`. Raises BadInput if there is none, or if it is not what its digest says."""
    try:
        readable = cast(dict[str, Any], json.loads((folder / SPEC_FILE).read_text(encoding="utf-8")))
        arrays = load_arrays((folder / ARRAYS_FILE).read_bytes())
    except OSError as error:
        raise BadInput(
            f"no feature spec in {folder}: {error.strerror}; give a folder that `ctr prepare` made"
        ) from None
    except (ValueError, SafetensorError) as error:
        raise BadInput(f"the feature spec in {folder} cannot be read: {error}; prepare the data again") from None
    try:
        if readable["version"] != VERSION:
            raise BadInput(f"the feature spec in {folder} is version {readable['version']}, this is for {VERSION}")
        schema = parse(Schema, readable["schema"], str(folder / SPEC_FILE))
        scales = {
            name: tuple(float(entry[key]) for key in _scale_names(schema, name))
            for name, entry in readable["scales"].items()
        }
        spec = FeatureSpec(schema, cast(dict[str, tuple[float, float]], scales), arrays)
        found, said = spec.digest, readable["digest"]
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        problem = f"{type(error).__name__} {error}"
        raise BadInput(f"the feature spec in {folder} is damaged ({problem}); prepare the data again") from None
    if found != said:
        raise BadInput(f"the feature spec in {folder} has digest {found} but says {said}; prepare the data again")
    return spec


def _scale_names(schema: Schema, name: str) -> tuple[str, str]:
    kind = next(field.dense for field in schema.numeric if field.name == name)
    return ("least", "spread") if kind == "min_max" else ("mean", "std")
