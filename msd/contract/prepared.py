"""A scoring request in two parts: user and context, to be prepared; and the candidates, with a token in place of the
first part. Both together are checked as one request.

Does not know tokens, nor what is prepared.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from msd.contract.request import (
    MAX_CANDIDATES,
    MAX_EXPLAINED,
    At,
    Candidates,
    CheckedRequest,
    ExploreOptions,
    Features,
    Id,
    InvalidRequest,
    ItemOverride,
    SchemaOf,
    ScoreRequest,
    UserOverride,
    Wire,
    check_request,
    check_width,
    parse_thoroughly,
)
from msd.contract.schema import FeatureSchema

TOKEN_KEY = "prepared"


class PrepareRequest(Wire):
    """A scoring request without candidates."""

    user_id: Id | None = Field(description="null: a user who may not, or cannot, be told apart.")
    at: At | None = Field(
        default=None, description="Time of the impression in Unix seconds; the service's clock if absent."
    )
    context: Features | None = None
    user: UserOverride | None = None


class PreparedScoreRequest(Wire):
    """Candidates for a prepared user."""

    prepared: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(
        description="A token of POST /v1/prepare, in place of `user_id`, `user`, `context` and `at`."
    )
    candidates: Candidates
    items: dict[Id, ItemOverride | None] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    explain: bool | None = Field(default=None, description=f"Then at most {MAX_EXPLAINED} candidates.")
    explore: ExploreOptions | None = None


def parse_prepare(body: bytes, schema_of: SchemaOf) -> PrepareRequest:
    """Parse the first part. Raises the RequestError that says what is wrong, and where."""
    return parse_thoroughly(body, PrepareRequest, lambda document: check_width(document, schema_of, MAX_CANDIDATES))


def names_prepared(body: bytes) -> bool:
    """Return whether a body may have the key of a token."""
    return b'"prepared"' in body


def parse_prepared(
    body: bytes, schema_of: SchemaOf, max_candidates: int = MAX_CANDIDATES
) -> PreparedScoreRequest | None:
    """Parse the second part; None if the body has no token. Raises RequestError, also if it has what was prepared."""
    has_token = False

    def look(document: object) -> None:
        nonlocal has_token
        has_token = isinstance(document, dict) and TOKEN_KEY in document
        if not has_token:
            raise _NoToken
        check_width(document, schema_of, max_candidates)
        assert isinstance(document, dict)
        if both := [name for name in PrepareRequest.model_fields if name in document]:
            raise InvalidRequest("belongs to the prepared user; a request with `prepared` must not have it", both[0])

    try:
        return parse_thoroughly(body, PreparedScoreRequest, look)
    except _NoToken:
        return None


class _NoToken(Exception):
    """The document has no token."""


def whole_request(user: PrepareRequest, rest: PreparedScoreRequest, at: float) -> ScoreRequest:
    """Return the request that both parts are, as of `at` (Unix s)."""
    of_user = {name: getattr(user, name) for name in user.model_fields_set}
    of_rest = {name: getattr(rest, name) for name in rest.model_fields_set - {TOKEN_KEY}}
    return ScoreRequest.model_construct(**{**of_user, "at": at, **of_rest})


def check_user(user: PrepareRequest, schema: FeatureSchema) -> CheckedRequest:
    """Return the first part as a checked request without candidates. Raises InvalidRequest."""
    nobody = Candidates.model_construct(id=[], bid=None)
    fields = {name: getattr(user, name) for name in PrepareRequest.model_fields}
    return check_request(ScoreRequest.model_construct(**fields, candidates=nobody), schema)
