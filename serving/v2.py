"""The Open Inference Protocol, version 2: what requests mean and what answers look like, without HTTP."""

from collections.abc import Mapping
from typing import Any

from features.errors import BadInput, did_you_mean
from serving.limits import MAX_BODY
from serving.loading import Loaded
from serving.refusal import Refused
from serving.rows import Inputs, known_in, packed_of, raw_of_columns
from serving.versions import Version

_OUTPUT = "probability"
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_NUMBERS = (*_INTEGERS, "FP16", "FP32", "FP64")


def server_answer(version: str) -> dict[str, Any]:
    """What the server is."""
    return {"name": "ctr", "version": version, "extensions": []}


def model_answer(name: str, version: Version[Loaded], numbers: list[int]) -> dict[str, Any]:
    """What the model takes: raw fields, any of which may be left out, or instead of all of them `ids` and `dense`.

    `numbers`: the versions that can be asked for. Beside the protocol's members: the model's card.
    """
    spec = version.loaded.model.spec
    raw = [
        *({"name": field, "datatype": "FP64", "shape": [-1]} for field in spec.schema.number_fields),
        *({"name": field, "datatype": "BYTES", "shape": [-1]} for field in spec.schema.text_fields),
    ]
    packed = [
        {"name": "ids", "datatype": "INT32", "shape": [-1, len(spec.id_fields)]},
        {"name": "dense", "datatype": "FP32", "shape": [-1, len(spec.dense_fields)]},
    ]
    return {
        "name": name,
        "versions": [str(number) for number in numbers],
        "platform": "tensorflow_savedmodel",
        "inputs": [*raw, *packed],
        "outputs": [{"name": _OUTPUT, "datatype": "FP32", "shape": [-1]}],
        "card": version.loaded.model.card,
    }


def infer_inputs(request: Mapping[str, Any], loaded: Loaded) -> Inputs:
    """The rows of an `/infer` request. Raises Refused or BadInput for what cannot be scored."""
    _check_members(request)
    spec = loaded.model.spec
    tensors: dict[str, tuple[list[int], list[Any]]] = {}
    for place, tensor in enumerate(request["inputs"]):
        name, shape, data = _tensor(tensor, place, spec.schema.text_fields)
        if name in tensors:
            raise BadInput(f"input '{name}' is there twice")
        tensors[name] = shape, data
    if _is_packed(tensors, loaded):
        widths = {"ids": len(spec.id_fields), "dense": len(spec.dense_fields)}
        return packed_of(*(_cut(name, *tensors[name], width=width) for name, width in widths.items()), spec=spec)
    known = [*known_in(spec.schema), "ids", "dense"]
    for name, (shape, data) in tensors.items():
        if name not in known:
            raise BadInput(f"unknown input '{name}': {did_you_mean(name, known)}")
        if shape not in ([len(data)], [len(data), 1]):
            raise BadInput(f"input '{name}' has shape {shape}; a field has [rows] or [rows, 1]")
    return raw_of_columns({name: data for name, (_, data) in tensors.items()}, spec.schema, "row")


def row_count(request: Mapping[str, Any]) -> int:
    """How many rows a request says that it has, and has values for, whether they can be scored or not."""
    match request.get("inputs"):
        case [{"shape": [int(rows), *_], "data": [*data]}, *_] if rows > 0:
            return min(rows, len(data))
    return 0


def infer_answer(name: str, version: Version[Any], request: Mapping[str, Any], scores: list[float]) -> dict[str, Any]:
    """The probabilities, with the request's id if it has one."""
    output = {"name": _OUTPUT, "datatype": "FP32", "shape": [len(scores)], "data": scores}
    answer = {"model_name": name, "model_version": str(version.number), "outputs": [output]}
    return {**answer, "id": request["id"]} if "id" in request else answer


def _check_members(request: Mapping[str, Any]) -> None:
    inputs, outputs = request.get("inputs"), request.get("outputs", [])
    if not isinstance(inputs, list) or not inputs:
        raise Refused(400, "the request needs 'inputs', a list of tensors: name, shape, datatype, data")
    if not isinstance(request.get("id", ""), str):
        raise Refused(400, f"'id' is {type(request['id']).__name__}, not a string")
    if not isinstance(request.get("parameters", {}), dict):
        raise Refused(400, "'parameters' must be an object")
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise Refused(400, "'outputs' must be a list of objects")
    for output in outputs:
        if output.get("name") != _OUTPUT:
            raise Refused(400, f"unknown output '{output.get('name')}'; the model has '{_OUTPUT}'")


def _tensor(tensor: object, place: int, texts: list[str]) -> tuple[str, list[int], list[Any]]:
    """Name, shape and flat data of an input. Raises BadInput if they do not fit one another."""
    if not isinstance(tensor, dict):
        raise BadInput(f"input {place} is {type(tensor).__name__}, not an object")
    name, shape, datatype, data = (tensor.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(name, str):
        raise BadInput(f"input {place} has no name")
    # No tensor of the model has more than two dimensions; the product of many large sizes would take seconds.
    if not isinstance(shape, list) or len(shape) not in (1, 2):
        raise BadInput(f"input '{name}' needs a shape, [rows] or [rows, columns]")
    if not all(type(size) is int and 0 <= size <= MAX_BODY for size in shape):
        raise BadInput(f"input '{name}' needs a shape, a list of sizes")
    if not isinstance(data, list):
        raise BadInput(f"input '{name}' needs data, a list")
    fitting = ("BYTES",) if name in texts else _INTEGERS if name == "ids" else _NUMBERS
    if datatype not in fitting:
        raise BadInput(f"input '{name}' has datatype {datatype!r}; it takes {', '.join(fitting)}")
    # Data may be nested as its shape is; the protocol's own form is flat.
    flat: list[Any] = data
    for _ in shape[1:]:
        if flat and all(isinstance(each, list) for each in flat):
            flat = [value for each in flat for value in each]
    expected = 1
    for size in shape:
        expected *= size
    if len(flat) != expected:
        raise BadInput(f"input '{name}' has {len(flat)} values, its shape {shape} has {expected}")
    if datatype in _INTEGERS and not set(map(type, flat)) <= {int, type(None)}:
        raise BadInput(f"input '{name}' has values that are no integers, its datatype is {datatype}")
    return name, shape, flat


def _is_packed(tensors: Mapping[str, object], loaded: Loaded) -> bool:
    """Whether the request has encoded rows; a model may have raw fields of these names, which then come first."""
    return tensors.keys() == {"ids", "dense"} and not {"ids", "dense"} & set(known_in(loaded.model.spec.schema))


def _cut(name: str, shape: list[int], data: list[Any], width: int) -> list[list[Any]]:
    if len(shape) != 2 or shape[1] != width:
        raise BadInput(f"input '{name}' has shape {shape}; the model takes [rows, {width}]")
    return [data[first : first + width] for first in range(0, len(data), width)] if width else [[]] * shape[0]
