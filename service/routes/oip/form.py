"""JSON schema of the Open Inference Protocol, version 2: requests, and metadata of server and model. Does not know
which tensors exist.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from msd.contract.request import InvalidRequest, Wire, check_keys, parse_thoroughly

_MAX_TENSORS = 1_000
_MAX_AXES = 8
# More than any real request has, features as JSON included; reading a body full of them takes a second.
_MAX_OBJECTS = 10_000
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Size = Annotated[int, Field(ge=0, le=2**31)]
RequestId = Annotated[str, StringConstraints(max_length=128, pattern=r"^[ -~]*$")]


class InputParameters(Wire):
    """Parameters of an input."""

    binary_data_size: Size | None = Field(
        default=None, description="Number of value bytes after the JSON, instead of `data`."
    )


class InferInput(Wire):
    """One tensor of a request."""

    name: Text
    shape: Annotated[list[Size], Field(min_length=1, max_length=_MAX_AXES, fail_fast=True)]
    datatype: Text
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class OutputParameters(Wire):
    """Parameters of an output."""

    binary_data: bool | None = Field(
        default=None, description="Return values after the reply's JSON, instead of `data`."
    )


class WantedOutput(Wire):
    """A requested output."""

    name: Text
    parameters: OutputParameters | None = None


class InferParameters(Wire):
    """Parameters of the request."""

    binary_data_output: bool | None = Field(default=None, description="Default of `binary_data` for all outputs.")
    timeout: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Deadline in microseconds, if X-Deadline-Ms is absent."
    )


class InferRequest(Wire):
    """Input tensors, and the requested outputs; all if none are named."""

    id: RequestId | None = Field(default=None, description="Request ID, returned in the reply and used in the log.")
    parameters: InferParameters | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=_MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[list[WantedOutput], Field(max_length=_MAX_TENSORS, fail_fast=True)] | None = None


class InferOutput(BaseModel):
    """One tensor of a reply."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(default=None, description="`binary_data_size`, instead of `data`.")
    data: list[Any] | None = None


class InferReply(BaseModel):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str] | None = Field(
        default=None,
        description="`degraded_model`, `degraded_user`, `degraded_candidates` and `degraded_values` (JSON) and `arm`,"
        " as in /v1/score; absent if not degraded.",
    )
    outputs: list[InferOutput]


class TensorParameters(BaseModel):
    """Parameters of a tensor in the metadata."""

    optional: bool


class TensorMetadata(BaseModel):
    """Metadata of a tensor; −1 is any size."""

    name: str
    datatype: str
    shape: list[int]
    parameters: TensorParameters | None = None


class ModelMetadata(BaseModel):
    """The model's metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """The server's metadata."""

    name: str
    version: str
    extensions: list[str]


class OipError(BaseModel):
    """The body of every reply under /v2 that is not a success."""

    error: str = Field(description="The input at fault, and what is wrong.")


def parse_infer_request(body: bytes) -> InferRequest:
    """Parse a request in JSON. Raises MalformedRequest, InvalidRequest."""
    if body.count(b"{") > _MAX_OBJECTS:
        raise InvalidRequest(f"the request has more than {_MAX_OBJECTS} objects")
    return parse_thoroughly(body, InferRequest, _check_width)


def _check_width(document: object) -> None:
    if not isinstance(document, dict):
        return
    within = {
        f"{part}.{place}": one
        for part in ("inputs", "outputs")
        if isinstance(listed := document.get(part), list)
        for place, one in enumerate(listed[:_MAX_TENSORS])
    }
    inner = {f"{place}.parameters": one.get("parameters") for place, one in within.items() if isinstance(one, dict)}
    check_keys({"": document, "parameters": document.get("parameters"), **within, **inner})
