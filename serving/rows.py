"""What one request gives to score, whatever its protocol, checked and by column; nulls are missing values.

Three kinds, as the SavedModel has signatures: raw fields by name, `packed` ids and dense values, `serialize`d examples.
"""

import base64
import binascii
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import BadInput, did_you_mean
from features.schema import Schema
from features.spec import FeatureSpec
from serving.limits import MAX_TEXT, check_row_count

RAW, PACKED, EXAMPLES = "serving_default", "packed", "serialize"

_INT32 = 2**31 - 1
_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a request, or several of one signature, gives to score.

    Attributes:
        columns: of RAW, lists `[rows]` by field: float with NaN, str or bytes with "" for missing; a field that no row
            has may be absent. Of PACKED, `ids` int32 `[rows, fields]` and `dense` float32 `[rows, numbers]`. Of
            EXAMPLES, `examples`, a list of bytes.
    """

    signature: str
    rows: int
    columns: Mapping[str, Any]


def raw_of_rows(rows: Sequence[object], schema: Schema, noun: str = "instance") -> Inputs:
    """Rows, each an object of fields by name, as columns.

    Raises BadInput for an unknown field, naming the nearest, and for a value of the wrong type; Refused for no rows or
    too many. `noun` is what a row is called.
    """
    check_row_count(len(rows))
    known = {*schema.number_fields, *schema.text_fields}
    there: set[str] = set()
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadInput(f"{noun} {index} is {type(row).__name__}, not an object of fields by name")
        if not row.keys() <= known:
            unknown = next(name for name in row if name not in known)
            raise BadInput(
                f"{noun} {index} has unknown field '{unknown}': {did_you_mean(str(unknown), known_in(schema))}"
            )
        there |= row.keys()
    values: Sequence[dict[str, Any]] = rows  # pyright: ignore[reportAssignmentType] - all of them are, by now
    return _raw({name: [row.get(name) for row in values] for name in there}, len(rows), schema, noun)


def raw_of_columns(columns: Mapping[str, Sequence[object]], schema: Schema, noun: str = "instance") -> Inputs:
    """The same of equally long columns; raises BadInput if they are not."""
    known = known_in(schema)
    for name in columns:
        if name not in known:
            raise BadInput(f"unknown input '{name}': {did_you_mean(name, known)}")
    return _raw(columns, _length(columns), schema, noun)


def known_in(schema: Schema) -> list[str]:
    """All fields that a raw row may have."""
    return [*schema.number_fields, *schema.text_fields]


def packed_of(ids: Sequence[Any], dense: Sequence[Any], spec: FeatureSpec, noun: str = "instance") -> Inputs:
    """Rows that the caller encoded: of each its ids and its dense values, null for missing.

    Raises BadInput if they are not as many as the model has, or outside of 32 bits; Refused for no rows or too many.
    """
    check_row_count(_length({"ids": ids, "dense": dense}))
    fields, numbers = len(spec.id_fields), len(spec.dense_fields)
    for index, (one_ids, one_dense) in enumerate(zip(ids, dense, strict=True)):
        if not _is_list(one_ids, {int}, fields) or not _is_list(one_dense, {int, float, type(None)}, numbers):
            raise BadInput(f"{noun} {index} needs 'ids', {fields} integers, and 'dense', {numbers} numbers or nulls")
        if any(abs(value) > _INT32 for value in one_ids):
            raise BadInput(f"{noun} {index}: an id is outside of 32 bits")
        if any(value is not None and abs(value) > _FLOAT32 for value in one_dense):
            raise BadInput(f"{noun} {index}: a dense value is outside of 32-bit floating point")
    shaped = np.array([[math.nan if value is None else value for value in row] for row in dense], np.float32)  # pyright: ignore
    columns = {"ids": np.array(ids, np.int32), "dense": shaped.reshape(len(dense), numbers)}
    return Inputs(PACKED, len(ids), columns)


def packed_of_arrays(ids: NDArray[Any], dense: NDArray[Any], spec: FeatureSpec) -> Inputs:
    """The same of arrays. Raises BadInput if their shapes or types are not the model's."""
    shapes = (len(ids) if ids.ndim else 0, len(spec.id_fields)), (len(ids) if ids.ndim else 0, len(spec.dense_fields))
    if (ids.shape, dense.shape) != shapes or ids.dtype.kind not in "iu" or dense.dtype.kind not in "iuf":
        raise BadInput(
            f"packed rows need 'ids', integers [rows, {len(spec.id_fields)}], and 'dense', numbers [rows, "
            f"{len(spec.dense_fields)}]; got {ids.dtype} {list(ids.shape)} and {dense.dtype} {list(dense.shape)}"
        )
    check_row_count(len(ids))
    if np.abs(ids.astype(np.float64)).max() > _INT32:
        raise BadInput("an id is outside of 32 bits")
    return Inputs(PACKED, len(ids), {"ids": ids.astype(np.int32), "dense": dense.astype(np.float32)})


def examples_of(values: Sequence[object], noun: str = "instance") -> Inputs:
    """Serialised tf.Examples: bytes, or `{"b64": ...}` as JSON has them. Raises BadInput for anything else."""
    check_row_count(len(values))
    found: list[bytes] = []
    for index, value in enumerate(values):
        plain = _scalar(value)
        if not isinstance(plain, bytes):
            raise BadInput(f'{noun} {index} is no serialised tf.Example: send {{"b64": "..."}}')
        if len(plain) > MAX_TEXT:
            raise BadInput(f"{noun} {index} has {len(plain)} bytes; a tf.Example may have {MAX_TEXT}")
        found.append(plain)
    return Inputs(EXAMPLES, len(found), {"examples": found})


def joined(several: Sequence[Inputs]) -> Inputs:
    """Requests of one signature as one."""
    if len(several) == 1:
        return several[0]
    rows = sum(each.rows for each in several)
    signature = several[0].signature
    if signature == PACKED:
        whole = {name: np.concatenate([each.columns[name] for each in several]) for name in ("ids", "dense")}
        return Inputs(signature, rows, whole)
    names = {name: None for each in several for name in each.columns}
    columns: dict[str, list[Any]] = {}
    for name in names:
        column = columns[name] = []
        filler = next(_filler(each.columns[name]) for each in several if name in each.columns)
        for each in several:
            column.extend(each.columns.get(name) or [filler] * each.rows)
    return Inputs(signature, rows, columns)


def _filler(column: Sequence[Any]) -> Any:
    return math.nan if isinstance(column[0], float) else ""


def _raw(columns: Mapping[str, Sequence[object]], rows: int, schema: Schema, noun: str) -> Inputs:
    check_row_count(rows)
    numbers, time = set(schema.number_fields), schema.time.name if schema.time else None
    checked: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if name in numbers:
            checked[name] = _numbers(values, name, noun)
        else:
            checked[name] = _texts(values, name, noun, is_time=name == time)
    return Inputs(RAW, rows, checked)


def _numbers(values: Sequence[Any], name: str, noun: str) -> list[float]:
    # All of the usual kind: three passes in C. Otherwise one by one, to name the one that is at fault.
    if set(map(type, values)) <= {int, float}:
        try:
            floats = [*map(float, values)]
        except OverflowError:
            floats = [math.inf]
        if not any(map(math.isinf, floats)):
            return floats
    return [_number(value, name, f"{noun} {index}") for index, value in enumerate(values)]


def _texts(values: Sequence[Any], name: str, noun: str, *, is_time: bool) -> list[str | bytes]:
    if set(map(type, values)) == {str} and max(map(len, values)) <= MAX_TEXT:
        return [*values]
    return [_text(value, name, f"{noun} {index}", is_time=is_time) for index, value in enumerate(values)]


def _number(value: object, name: str, place: str) -> float:
    value = _scalar(value)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{place}: field '{name}' is {_shown(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise BadInput(f"{place}: field '{name}' is larger than any floating-point number")
    return number


def _text(value: object, name: str, place: str, *, is_time: bool) -> str | bytes:
    value = _scalar(value)
    if value is None:
        return ""
    if is_time and type(value) is int:
        value = str(value)  # a time such as 14102100 is a whole number to JSON
    if not isinstance(value, (str, bytes)):
        raise BadInput(f"{place}: field '{name}' is {_shown(value)}, not a string")
    if len(value) > MAX_TEXT:
        raise BadInput(f"{place}: field '{name}' has {len(value)} characters; it may have {MAX_TEXT}")
    return value


def _scalar(value: object) -> object:
    """What TensorFlow Serving's clients wrap: a scalar in a list of one, bytes in `{"b64": ...}`."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise BadInput(f"{_shown(value['b64'])} is not base64") from None
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _length(columns: Mapping[str, Sequence[object]]) -> int:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise BadInput(f"the inputs have different lengths: {sorted(lengths)}")
    return lengths.pop() if lengths else 0


def _is_list(value: Any, kinds: Iterable[type], length: int) -> bool:
    return isinstance(value, list) and len(value) == length and set(map(type, value)) <= set(kinds)
