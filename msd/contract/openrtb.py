"""OpenRTB BidRequests: a declared mapping of their values to the user's ID and to features.

The same functions read logged BidRequests for training and live ones. Does not know HTTP, models or rows; `consent`
reads privacy signals.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from msd.contract.consent import has_consent
from msd.contract.encode import Value, canonical
from msd.contract.errors import SchemaError, first_fault
from msd.contract.request import (
    MAX_LIST_VALUES,
    At,
    Candidates,
    Id,
    InvalidRequest,
    TooManyCandidates,
    Wire,
    check_keys,
    validate,
)
from msd.contract.schema import MAX_ID_CHARS, Name, ValueField

MAX_IMPRESSIONS = 32
_IMP = "imp"
# Paths that identify a user, or an exact location; all others may be used without consent.
_PERSONAL = (
    "user",
    *(f"device.{name}" for name in ("ifa", "ip", "ipv6", "didsha1", "didmd5", "dpidsha1", "dpidmd5", "macsha1")),
    *(f"device.{name}" for name in ("macmd5", "ext", "geo.lat", "geo.lon", "geo.accuracy", "geo.zip", "geo.ext")),
)
# An advertising ID withheld by its device.
_NO_IDS = ("", "00000000-0000-0000-0000-000000000000")
_ID: TypeAdapter[str] = TypeAdapter(Id)

Path = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", max_length=200)]
BidRequest = Mapping[str, Any]


class OpenrtbMapping(BaseModel):
    """Dotted paths into a BidRequest; a path that begins with `imp` refers to the current impression's object."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    user_id: list[Path] = Field(min_length=1, description="Paths of the user's ID; the first with a value counts.")
    features: dict[Name, Path] = Field(default={}, description="Paths by context feature.")
    vendor_id: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None,
        description="The bidder's ID in TCF's Global Vendor List; if set, TCF must permit it too.",
    )

    def check(self, fields: Mapping[str, ValueField]) -> None:
        """Raise ValueError for a feature that is not a settable context feature, or an invalid path."""
        if unknown := sorted(self.features.keys() - fields.keys()):
            there = ", ".join(fields) or "none"
            raise ValueError(f"openrtb.features names {unknown[0]!r}; features of the context are: {there}")
        if _IMP in self.features.values() or any(path.split(".")[0] == _IMP for path in self.user_id):
            raise ValueError("openrtb: a path should lead to one value, and the user's id is not the impression's")


class OpenrtbRequest(Wire):
    """A received BidRequest, and the ads to score for each impression, by ID."""

    request: dict[str, Any] = Field(
        description="OpenRTB's BidRequest; keys that the bundle does not map are ignored.",
        json_schema_extra={"required": ["id", "imp"]},
    )
    candidates: Annotated[dict[Id, Candidates], Field(min_length=1, max_length=MAX_IMPRESSIONS)] = Field(
        description="By imp.id; impressions that are not named are not scored."
    )
    at: At | None = Field(
        default=None, description="Time of the impressions in Unix seconds; the service's clock if absent."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Of each impression; see /v1/score.")


class Identity(NamedTuple):
    """The user's ID: None if it may not be used, or is absent."""

    user_id: str | None
    has_consent: bool


def read_openrtb(document: object, max_candidates: int) -> OpenrtbRequest:
    """Read the document of POST /v1/openrtb. Raises RequestError. `max_candidates`: of all impressions together."""
    return validate(document, OpenrtbRequest, lambda it: _check_width(it, max_candidates))


def id_of(bid_request: BidRequest) -> str:
    """Return its ID. Raises InvalidRequest."""
    return _id(bid_request.get("id"), "id")


def _check_width(document: object, max_candidates: int) -> None:
    """Refuse too many entries: reporting every one would take long."""
    candidates = document.get("candidates") if isinstance(document, dict) else None
    imps = candidates if isinstance(candidates, dict) else {}
    if len(imps) > MAX_IMPRESSIONS:
        raise InvalidRequest(f"{len(imps)} impressions; one request may have {MAX_IMPRESSIONS}", "candidates")
    check_keys({"": document, **{f"candidates.{imp}": one for imp, one in imps.items()}})
    ids = [imp.get("id") for imp in imps.values() if isinstance(imp, dict)]
    count = sum(len(id_) for id_ in ids if isinstance(id_, list))
    if count > max_candidates:
        raise TooManyCandidates(f"{count} candidates; one request may have {max_candidates}: split it", "candidates")


def impressions_of(bid_request: BidRequest) -> dict[str, Mapping[str, Any]]:
    """Return the impressions by ID, in order. Raises InvalidRequest."""
    imps = bid_request.get(_IMP)
    if not isinstance(imps, list):
        raise InvalidRequest("should be a list of impressions", _IMP)
    found: dict[str, Mapping[str, Any]] = {}
    for place, imp in enumerate(imps):
        if not isinstance(imp, dict):
            raise InvalidRequest("should be an object", f"{_IMP}.{place}")
        one = _id(imp.get("id"), f"{_IMP}.{place}.id")
        if one in found:
            raise InvalidRequest("is the id of an earlier impression too", f"{_IMP}.{place}.id")
        found[one] = imp
    return found


def identity_of(mapping: OpenrtbMapping, bid_request: BidRequest) -> Identity:
    """Return the user's identity. Raises InvalidRequest for an invalid ID; without consent it is not read."""
    if not has_consent(bid_request, mapping.vendor_id):
        return Identity(None, False)
    for path in mapping.user_id:
        found = _value_at(path, bid_request, {})
        if found is not None and found not in _NO_IDS:
            return Identity(_id(found, path), True)
    return Identity(None, True)


def context_of(
    mapping: OpenrtbMapping,
    fields: Mapping[str, ValueField],
    bid_request: BidRequest,
    imp: Mapping[str, Any],
    identity: Identity,
) -> tuple[dict[str, Value], list[str]]:
    """Return the canonical context features of an impression, without absent ones, and without personal ones if there
    is no consent; and the paths of values that do not fit their feature, which count as absent."""
    context: dict[str, Value] = {}
    unfit: list[str] = []
    for name, path in mapping.features.items():
        if not identity.has_consent and is_personal(path):
            continue
        try:
            found = _value_at(path, bid_request, imp)
            if isinstance(found, list) and len(found) > MAX_LIST_VALUES:
                unfit.append(path)
            elif found is not None:
                context[name] = canonical(fields[name], found)
        except (SchemaError, InvalidRequest):
            unfit.append(path)
    return context, unfit


def is_personal(path: str) -> bool:
    """Return whether a path leads to personal data."""
    return any(path == one or path.startswith(f"{one}.") for one in _PERSONAL)


def _value_at(path: str, bid_request: BidRequest, imp: Mapping[str, Any]) -> object:
    """Return the value at a path, None if absent or null. Raises InvalidRequest if the path crosses a non-object."""
    keys = path.split(".")
    found: object = bid_request if keys[0] != _IMP else {_IMP: imp}
    for place, key in enumerate(keys):
        if found is None:
            return None
        if not isinstance(found, dict):
            raise InvalidRequest(f"should be an object, is {_shown(found)}", ".".join(keys[:place]))
        found = found.get(key)
    return found


def _id(value: object, path: str) -> str:
    # Most IDs, without the time that pydantic takes.
    if isinstance(value, str) and value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_CHARS:
        return value
    try:
        return _ID.validate_python(value, strict=True)
    except ValidationError as error:
        words = "is missing" if value is None else first_fault(error).words
        raise InvalidRequest(words, path) from None


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
