"""OpenAPI description of inference, which is a raw route."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from service.http.exchange import OIP
from service.routes.oip.form import InferReply, InferRequest, OipError
from service.routes.oip.model_routes import MODEL, versions_of
from service.routes.oip.tensors import HEADER
from service.scoring.deployment import Deployment

INFER_PATHS = (f"{OIP}/models/{{name}}/infer", f"{OIP}/models/{{name}}/versions/{{version}}/infer")
OPEN_PATHS = (f"{OIP}/health/live", f"{OIP}/health/ready")
_REF = "#/components/schemas/{model}"
_EXAMPLE = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u7"]},
        {"name": "candidates.id", "shape": [2], "datatype": "BYTES", "data": ["a1", "a2"]},
        {"name": "candidates.bid", "shape": [2], "datatype": "FP32", "data": [0.4, 1.2]},
    ]
}


def add_inference(
    document: dict[str, Any], deployment: Deployment, deadline: dict[str, Any], errors: Mapping[int, str]
) -> None:
    """Add the paths and their schemas. `deadline`: the parameter of the scoring route; `errors`: their descriptions by
    status."""
    values = {"name": [MODEL], "version": list(versions_of(deployment))}
    _, definitions = models_json_schema(
        [(InferRequest, "validation"), (InferReply, "serialization"), (OipError, "serialization")], ref_template=_REF
    )
    document["components"]["schemas"].update(definitions["$defs"])
    for path in INFER_PATHS:
        document["paths"][path] = {"post": _operation(path, values, deadline, errors)}


def oip_error(description: str) -> dict[str, Any]:
    """Return an error reply in the protocol's form."""
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="OipError")}}},
    }


def _operation(
    path: str, values: Mapping[str, list[str]], deadline: dict[str, Any], errors: Mapping[int, str]
) -> dict[str, Any]:
    names = [name for name in values if f"{{{name}}}" in path]
    schema = {"$ref": _REF.format(model="InferRequest")}
    return {
        "summary": "Score candidates, as tensors",
        "description": "An input has the name of its place in the JSON of /v1/score; GET /v2/models/msd lists all"
        f" inputs. The header `{HEADER}` gives the length of the JSON if binary values follow it.",
        "operationId": "infer_version" if "version" in names else "infer",
        "tags": ["open inference protocol"],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values[name]}}
                for name in names
            ),
            deadline,
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": {"two": {"value": _EXAMPLE}}}},
        },
        "responses": {
            "200": {
                "description": "Scores.",
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="InferReply")}}},
            },
            "404": oip_error("Unknown model or version."),
            **{str(status): oip_error(text) for status, text in errors.items() if status != 422},
        },
    }
