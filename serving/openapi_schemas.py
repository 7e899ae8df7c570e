"""What bodies of requests and answers look like, as JSON Schema (2020-12, which OpenAPI 3.1 has)."""

from typing import Any

from serving.limits import MAX_ROWS, MAX_TEXT
from serving.loading import Loaded

Schema = dict[str, Any]

_INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


def requests(loaded: Loaded) -> Schema:
    """What requests may be, by the fields of this model."""
    spec = loaded.model.spec
    number = {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": 1}]}
    text = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 1}]}
    fields = {
        **dict.fromkeys(spec.schema.number_fields, number),
        **dict.fromkeys(spec.schema.text_fields, text),
    }
    if spec.schema.time and spec.schema.time.name in fields:
        fields[spec.schema.time.name] = {"anyOf": [_TEXT, {"type": "integer"}]}
    ids = _array({"type": "integer", "minimum": -(2**31) + 1, "maximum": 2**31 - 1}, len(spec.id_fields))
    dense = _array({"type": ["number", "null"], "minimum": -3.4e38, "maximum": 3.4e38}, len(spec.dense_fields))
    packed = _object({"ids": ids, "dense": dense}, ["ids", "dense"])
    columns = {field: _many(value) for field, value in fields.items()}
    return {
        "Row": {**_object(fields, []), "additionalProperties": False},
        "PredictRequest": {
            "oneOf": [
                _object({"signature_name": _DEFAULT, "instances": _many(_ref("Row"))}, ["instances"], "inputs"),
                _object(
                    {
                        "signature_name": _DEFAULT,
                        "inputs": {**_object(columns, []), "additionalProperties": False, "minProperties": 1},
                    },
                    ["inputs"],
                    "instances",
                ),
                _object(
                    {"signature_name": {"const": "packed"}, "instances": _many(packed)},
                    ["signature_name", "instances"],
                    "inputs",
                ),
                _object(
                    {
                        "signature_name": {"const": "packed"},
                        "inputs": _object({"ids": _many(ids), "dense": _many(dense)}, ["ids", "dense"]),
                    },
                    ["signature_name", "inputs"],
                    "instances",
                ),
                _object(
                    {"signature_name": {"const": "serialize"}, "instances": _many(_EXAMPLE)},
                    ["signature_name", "instances"],
                    "inputs",
                ),
                _object(
                    {"signature_name": {"const": "serialize"}, "inputs": _many(_EXAMPLE)},
                    ["signature_name", "inputs"],
                    "instances",
                ),
            ],
            "description": "The lists of `inputs` are of one length. `b64` is a serialised tf.Example.",
        },
        "ExamplesRequest": _object(
            {
                "signature_name": {"enum": ["serving_default", "serialize", ""]},
                "examples": _many(_ref("Row")),
                "context": {"$ref": "#/components/schemas/Row", "description": "Features that no example has itself."},
            },
            ["examples"],
        ),
        "InferRequest": _object(
            {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "minItems": 1, "items": {"oneOf": _tensors(spec)}},
                "outputs": _array_of(_object({"name": {"const": "probability"}}, ["name"])),
            },
            ["inputs"],
        ),
    }


def _tensors(spec: Any) -> list[Schema]:
    """Inputs of the Open Inference Protocol: raw fields, or `ids` and `dense`."""
    size = {"type": "integer", "minimum": 0}
    shape = {"type": "array", "items": size, "minItems": 1, "maxItems": 2}
    numbers, texts = spec.schema.number_fields, spec.schema.text_fields
    kinds = (
        (numbers, [*_INTEGERS, "FP16", "FP32", "FP64"], _NUMBER),
        (texts, ["BYTES"], _TEXT),
        (["ids"], _INTEGERS, {"type": "integer"}),
        (["dense"], [*_INTEGERS, "FP16", "FP32", "FP64"], {"type": ["number", "null"]}),
    )
    return [
        _object(
            {"name": {"enum": names}, "datatype": {"enum": types}, "shape": shape, "data": _array_of(value)},
            ["name", "shape", "datatype", "data"],
        )
        for names, types, value in kinds
        if names
    ]


def _object(properties: Schema, required: list[str], without: str | None = None) -> Schema:
    made: Schema = {"type": "object", "properties": properties, "required": required}
    return {**made, "not": {"required": [without]}} if without else made


def _array(items: Schema, length: int) -> Schema:
    return {"type": "array", "items": items, "minItems": length, "maxItems": length}


def _array_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_ROWS}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_NUMBER = {"type": ["number", "null"], "minimum": -1.7e308, "maximum": 1.7e308}
_TEXT = {"anyOf": [{"type": ["string", "null"], "maxLength": MAX_TEXT}, {"$ref": "#/components/schemas/Base64"}]}
_EXAMPLE = {"$ref": "#/components/schemas/Base64"}
_DEFAULT = {"enum": ["serving_default", ""]}
_PROBABILITIES = _array_of({"type": ["number", "null"], "minimum": 0, "maximum": 1})
_STRING = {"type": "string"}
_BOOL = {"type": "boolean"}

ANSWERS: Schema = {
    "Anything": {"type": "object"},
    "Metrics": {"type": "string"},
    "Base64": {
        **_object({"b64": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}}, ["b64"]),
        "maxProperties": 1,
    },
    "Error": _object({"error": _STRING}, ["error"]),
    "PredictResponse": {
        "oneOf": [
            _object({"predictions": _PROBABILITIES}, ["predictions"]),
            _object({"outputs": _PROBABILITIES}, ["outputs"]),
        ]
    },
    "ClassifyResponse": _object(
        {
            "results": _array_of(
                {
                    "type": "array",
                    "description": "Classes and their probabilities.",
                    "items": {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 2, "maxItems": 2},
                    "minItems": 2,
                    "maxItems": 2,
                }
            )
        },
        ["results"],
    ),
    "RegressResponse": _object({"results": _PROBABILITIES}, ["results"]),
    "ModelStatus": _object(
        {
            "model_version_status": _array_of(
                _object(
                    {
                        "version": _STRING,
                        "state": {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                        "status": _object({"error_code": _STRING, "error_message": _STRING}, ["error_code"]),
                    },
                    ["version", "state", "status"],
                )
            )
        },
        ["model_version_status"],
    ),
    "ModelMetadata": _object({"model_spec": {"type": "object"}, "metadata": {"type": "object"}}, ["model_spec"]),
    "InferResponse": _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "id": _STRING,
            "outputs": _array_of(
                _object(
                    {
                        "name": _STRING,
                        "datatype": {"const": "FP32"},
                        "shape": _array_of({"type": "integer"}),
                        "data": _PROBABILITIES,
                    },
                    ["name", "datatype", "shape", "data"],
                )
            ),
        },
        ["model_name", "outputs"],
    ),
    "V2Server": _object({"name": _STRING, "version": _STRING, "extensions": _array_of(_STRING)}, ["name", "version"]),
    "V2Model": _object(
        {
            "name": _STRING,
            "versions": _array_of(_STRING),
            "platform": _STRING,
            "inputs": _array_of({"type": "object"}),
            "outputs": _array_of({"type": "object"}),
            "card": {"type": "object", "description": "What the model was made from, and how it did."},
        },
        ["name", "platform", "inputs", "outputs"],
    ),
    "V2Live": _object({"live": _BOOL}, ["live"]),
    "V2Ready": _object({"ready": _BOOL}, ["ready"]),
    "V2ModelReady": _object({"name": _STRING, "ready": _BOOL}, ["name", "ready"]),
}
