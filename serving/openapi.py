"""The OpenAPI 3.1 description of the HTTP interfaces, for the model that is served: its name, its fields."""

from serving.loading import Loaded
from serving.openapi_schemas import ANSWERS, Schema, requests

_LABEL = {"name": "label", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/:]+$"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
_DEADLINE = {
    "name": "x-deadline-ms",
    "in": "header",
    "description": "How long the request may take; it can only shorten the server's own limit.",
    "schema": {"type": "number", "minimum": 1},
}


def describe(name: str, loaded: Loaded, about: str, token: bool) -> Schema:
    """The description. `name`: of the model; `about`: the server's version; `token`: whether callers need one."""
    paths: Schema = {}
    for place, parameters in (("", []), ("/versions/{version}", [_VERSION]), ("/labels/{label}", [_LABEL])):
        v1 = f"/v1/models/{name}{place}"
        paths[f"{v1}:predict"] = _post("Predict", "PredictRequest", "PredictResponse", parameters)
        paths[f"{v1}:classify"] = _post("Classify", "ExamplesRequest", "ClassifyResponse", parameters)
        paths[f"{v1}:regress"] = _post("Regress", "ExamplesRequest", "RegressResponse", parameters)
        paths[v1] = _get("Which versions there are", "ModelStatus", parameters)
        paths[f"{v1}/metadata"] = _get("The signatures of a version", "ModelMetadata", parameters)
    for place, parameters in (("", []), ("/versions/{version}", [_VERSION])):
        v2 = f"/v2/models/{name}{place}"
        paths[f"{v2}/infer"] = _post("Infer", "InferRequest", "InferResponse", parameters)
        paths[v2] = _get("What the model takes and gives", "V2Model", parameters)
        paths[f"{v2}/ready"] = _get("Whether the model can answer", "V2ModelReady", parameters, free=True, unready=True)
    paths["/v2"] = _get("What the server is", "V2Server", [])
    paths["/v2/health/live"] = _get("Whether the server runs", "V2Live", [], free=True)
    paths["/v2/health/ready"] = _get("Whether requests are welcome", "V2Ready", [], free=True, unready=True)
    paths["/monitoring/drift"] = _get("How far inputs and scores are from those that were recorded", "Anything", [])
    paths["/monitoring/prometheus/metrics"] = _get("Figures for Prometheus", "Metrics", [], "text/plain")
    paths["/openapi.json"] = _get("This description", "Anything", [])
    components: Schema = {"schemas": {**requests(loaded), **ANSWERS}, "responses": _ERRORS}
    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Click probabilities of {name}",
            "version": about,
            "description": "TensorFlow Serving's REST interface (v1) and the Open Inference Protocol (v2).",
        },
        "paths": paths,
        "components": components,
    }
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _get(
    summary: str,
    schema: str,
    parameters: list[Schema],
    kind: str = "application/json",
    *,
    free: bool = False,
    unready: bool = False,
) -> Schema:
    """An address to look at. `kind`: of content; `free`: without a token; `unready`: 503 has the same body as 200."""
    answers = {
        "200": {"description": summary, "content": {kind: {"schema": _ref(schema)}}},
        **_refusals(404, *([400] if parameters else []), *([] if free else [401])),
    }
    if unready:
        answers["503"] = _json("No, not now", schema)
    return {
        "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": answers,
            **({"security": []} if free else {}),
        }
    }


def _post(summary: str, request: str, answer: str, parameters: list[Schema]) -> Schema:
    """An address that scores rows."""
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    answers = {"200": _json(summary, answer), **_refusals(400, 401, 404, 408, 413, 415, 503, 504)}
    return {
        "post": {"summary": summary, "parameters": [*parameters, _DEADLINE], "requestBody": body, "responses": answers}
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(text: str, schema: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": _ref(schema)}}}


def _refusals(*codes: int) -> Schema:
    return {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted(codes)}


def _error(text: str, **headers: Schema) -> Schema:
    described = {name.replace("_", "-"): {"schema": schema} for name, schema in headers.items()}
    return {**_json(text, "Error"), **({"headers": described} if described else {})}


_ERRORS: Schema = {
    "400": _error("The request is wrong; the error says where."),
    "401": _error("The token is missing or wrong.", WWW_Authenticate={"type": "string"}),
    "404": _error("There is no such model, version or label."),
    "408": _error("The body did not come in time."),
    "413": _error("The request is too large."),
    "415": _error("The body is packed in another way than gzip."),
    "503": _error("Too much waits already.", Retry_After={"type": "string"}),
    "504": _error("The deadline passed before the request was scored."),
}
