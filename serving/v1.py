"""TensorFlow Serving's REST interface, version 1: what requests mean and what answers look like, without HTTP."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from features.errors import BadInput
from serving.loading import Loaded
from serving.refusal import Refused
from serving.rows import EXAMPLES, PACKED, RAW, Inputs, examples_of, packed_of, raw_of_columns, raw_of_rows
from serving.versions import Version


def predict_inputs(request: Mapping[str, Any], loaded: Loaded) -> Inputs:
    """The rows of a `:predict` request, in row form (`instances`) or column form (`inputs`), of any signature.

    Raises Refused or BadInput for what cannot be scored.
    """
    if ("instances" in request) == ("inputs" in request):
        raise Refused(400, "the request needs either 'instances' (rows) or 'inputs' (columns)")
    signature = _signature(request)
    spec = loaded.model.spec
    if signature not in (RAW, PACKED, EXAMPLES):
        raise Refused(400, f'Serving signature name: "{signature}" not found in signature def')
    if "instances" in request:
        rows = request["instances"]
        if not isinstance(rows, list) or not rows:
            raise Refused(400, "'instances' must be a list of at least one row")
        if signature == RAW:
            return raw_of_rows(rows, spec.schema)
        if signature == PACKED:
            return packed_of(*([_part(row, name) for row in rows] for name in ("ids", "dense")), spec=spec)
        return examples_of([_unwrapped(row) for row in rows])
    columns = request["inputs"]
    if signature == EXAMPLES:
        return examples_of(_as_list(_unwrapped(columns)))
    if not isinstance(columns, dict) or not columns or not all(isinstance(values, list) for values in columns.values()):
        raise Refused(400, "'inputs' must be an object of lists, one a field")
    if signature == RAW:
        return raw_of_columns(columns, spec.schema)
    return packed_of(columns.get("ids", []), columns.get("dense", []), spec)


def row_count(request: Mapping[str, Any]) -> int:
    """How many rows a request has, whether they can be scored or not; 0 where that cannot be told."""
    for key in ("instances", "examples", "inputs"):
        rows = request.get(key)
        if isinstance(rows, dict):
            rows = next(iter(rows.values()), None)
        if isinstance(rows, list):
            return len(rows)
    return 0


def predict_answer(request: Mapping[str, Any], scores: list[float]) -> dict[str, Any]:
    """The model has one output, so its name is left out."""
    return {"predictions" if "instances" in request else "outputs": scores}


def example_inputs(request: Mapping[str, Any], loaded: Loaded, verb: str) -> Inputs:
    """The examples of a `:classify` or `:regress` request, those of its context in each. Raises Refused or BadInput."""
    signature = _signature(request)
    if signature not in (RAW, EXAMPLES):
        known = signature in loaded.signature_defs
        raise Refused(
            400,
            f"signature '{signature}' takes no examples; leave it out"
            if known
            else f'Serving signature name: "{signature}" not found in signature def',
        )
    examples, context = request.get("examples"), request.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise Refused(400, f"When method is {verb}, key 'examples' is expected, a list of at least one")
    if not isinstance(context, dict):
        raise Refused(400, "'context' must be an object of features by name")
    if context:
        for index, example in enumerate(examples):
            if isinstance(example, dict) and (both := example.keys() & context.keys()):
                raise BadInput(f"example {index} has feature '{min(both)}', which 'context' has too; give it once")
        examples = [{**context, **example} if isinstance(example, dict) else example for example in examples]
    return raw_of_rows(examples, loaded.model.spec.schema, "example")


def classify_answer(scores: list[float]) -> dict[str, Any]:
    """Of each example its classes and their probabilities, in the order of tf.estimator's classifiers."""
    return {"results": [[["0", 1 - score], ["1", score]] for score in scores]}


def regress_answer(scores: list[float]) -> dict[str, Any]:
    """Of each example its probability."""
    return {"results": scores}


def status_answer(versions: list[Version[Any]]) -> dict[str, Any]:
    """What GetModelStatusResponse is in JSON."""
    return {
        "model_version_status": [
            {
                "version": str(version.number),
                "state": version.state,
                "status": {"error_code": version.error_code, "error_message": version.error_message},
            }
            for version in versions
        ]
    }


def metadata_answer(name: str, version: Version[Loaded]) -> dict[str, Any]:
    """What GetModelMetadataResponse is in JSON: the model's signatures."""
    described = {
        key: MessageToDict(signature, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for key, signature in version.loaded.signature_defs.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _signature(request: Mapping[str, Any]) -> str:
    signature = request.get("signature_name", RAW)
    if not isinstance(signature, str):
        raise Refused(400, "'signature_name' key must be a string value.")
    return signature or RAW


def _part(row: object, name: str) -> object:
    return row.get(name) if isinstance(row, dict) else None


def _unwrapped(value: object) -> object:
    """What stands under the one input's name, where the name is given."""
    return value["examples"] if isinstance(value, dict) and value.keys() == {"examples"} else value


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
