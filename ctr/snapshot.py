"""A snapshot as bytes: weights, whole or the embedding rows that changed, with a manifest that says what they are."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from ctr.coding import Undecodable, decode, decode_rows, encode, encode_rows

VERSION = 2
_ROWS = ".rows"

Shapes = Mapping[str, tuple[int, ...]]


class Moment(NamedTuple):
    """When a snapshot was published: steps since the start of a phase. Moments are ordered."""

    phase: int
    step: int

    def __str__(self) -> str:
        return f"phase {self.phase} step {self.step}"


@dataclass(frozen=True)
class Changes:
    """Weights by name: whole arrays, but for the names in `rows` only the rows of these numbers, ascending."""

    weights: dict[str, NDArray[np.float32]]
    rows: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Link:
    """A snapshot and where it stands in its chain. `base`: digest of the snapshot that it continues, if it is one."""

    group: int
    moment: Moment
    digest: str
    bytes: int
    base: tuple[Moment, str] | None


class Unfit(Exception):
    """A snapshot is not what it should be; the message says in what."""


def pack(changes: Changes, dtype: str, embeddings: Collection[str] = ()) -> bytes:
    """Weights as safetensors, encoded as `ctr.coding` says."""
    rows = {name + _ROWS: encode_rows(numbers) for name, numbers in changes.rows.items()}
    return save_arrays(encode(changes.weights, dtype, embeddings) | rows)


def as_sent(changes: Changes, dtype: str, embeddings: Collection[str] = ()) -> Changes:
    """Weights as the others will have them."""
    return Changes(decode(encode(changes.weights, dtype, embeddings)), changes.rows)


def describe(link: Link, fingerprint: str) -> bytes:
    """The manifest of a snapshot."""
    base = None if link.base is None else [*link.base[0], link.base[1]]
    manifest = {"version": VERSION, "group": link.group, "phase": link.moment.phase, "step": link.moment.step}
    manifest |= {"sha256": link.digest, "bytes": link.bytes, "fingerprint": fingerprint, "base": base}
    return json.dumps(manifest).encode()


def read_manifest(content: bytes, group: int, moment: Moment, fingerprint: str) -> Link:
    """What a manifest says. Raises Unfit if it is none, or of another model, group or moment."""
    try:
        said = json.loads(content)
        base = None if said["base"] is None else (Moment(*map(int, said["base"][:2])), str(said["base"][2]))
        at = Moment(int(said["phase"]), int(said["step"]))
        link = Link(int(said["group"]), at, str(said["sha256"]), int(said["bytes"]), base)
        version, model = said["version"], str(said["fingerprint"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Unfit(f"its manifest cannot be read: {type(error).__name__} {error}") from None
    if version != VERSION:
        raise Unfit(f"its manifest is version {version}, this is for {VERSION}")
    if model != fingerprint:
        raise Unfit(f"it is of another model, {model[:12]} instead of {fingerprint[:12]}")
    if (link.group, link.moment) != (group, moment):
        raise Unfit(f"its manifest says group {link.group} {link.moment}")
    if link.base and link.base[0] >= moment:
        raise Unfit(f"it continues a snapshot of {link.base[0]}, which is not before it")
    return link


def unpack(body: bytes, link: Link, shapes: Shapes) -> Changes:
    """The weights in a snapshot's body, as float32. Raises Unfit if they are not what `link` and `shapes` say."""
    if hashlib.sha256(body).hexdigest() != link.digest:
        raise Unfit(f"its {len(body)} bytes do not have the digest in its manifest")
    try:
        arrays = load_arrays(body)
        numbers = {name.removesuffix(_ROWS): arrays.pop(name) for name in list(arrays) if name.endswith(_ROWS)}
        weights = decode(arrays)
        if set(weights) != set(shapes) or not set(numbers) <= set(weights):
            raise Unfit(f"it has weights {sorted(weights)} instead of {sorted(shapes)}")
        if scalars := [name for name in numbers if not shapes[name]]:
            raise Unfit(f"it has row numbers of {scalars}, which have no rows")
        rows = {name: decode_rows(content, shapes[name][0]) for name, content in numbers.items()}
    except Undecodable as error:
        raise Unfit(str(error)) from None
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type that NumPy has not
        raise Unfit(f"{type(error).__name__}: {error}") from None
    if rows and link.base is None:
        raise Unfit("it has only some rows but continues no other snapshot")
    for name, values in weights.items():
        _check(name, values, rows.get(name), shapes[name])
    return Changes(weights, rows)


def _check(name: str, values: NDArray[Any], rows: NDArray[np.int64] | None, shape: tuple[int, ...]) -> None:
    wanted = shape if rows is None else (len(rows), *shape[1:])
    if values.shape != wanted:
        raise Unfit(f"its {name} has shape {values.shape} instead of {wanted}")
    if rows is not None and len(rows) and (rows[-1] >= shape[0] or (np.diff(rows) <= 0).any()):
        raise Unfit(f"the row numbers of its {name} are not ascending below {shape[0]}")
    if not np.isfinite(values).all():
        raise Unfit(f"its {name} holds values that are not finite")
