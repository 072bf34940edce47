"""The scoring request: its wire format, and the words of what is wrong with one. The native core reads what it accepts
(`native/core/request.hpp`); what that refuses is refused here, which tests hold.

Does not know HTTP, rows or models.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
)

from msd.contract.encode import canonical
from msd.contract.errors import ContractError, SchemaError, plain_words
from msd.contract.pricing import Formula, Pricing
from msd.contract.schema import MAX_HISTORY, MAX_ID_CHARS, FeatureSchema, Side

MAX_CANDIDATES = 2_000
MAX_EXPLAINED = 200
MAX_LIST_VALUES = 1_000
MAX_TEXT_CHARS = 10_000
_SHOWN_CHARS = 60
# Maximum keys of objects whose keys are neither features nor IDs.
_MAX_FIXED_KEYS = 32
# JSON's name of a type.
_OBJECT_ERRORS, _NOT_AN_OBJECT = ("model_type", "dict_type"), "should be an object"
# Forms of an entry of a list, which pydantic names behind the entry's number in the place of a fault.
_FORMS = _ID, _SHOWN_ITEM = "[id]", "[shown]"

Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARS, pattern=r"^[^\x00]*$")]
At = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Bid = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Worth = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
MAX_POSITION = 255
"""Places on a page. The wire's own bound: an ad farther down is on another page."""
ANONYMOUS = ""
"""ID of an anonymous user; no row can have it."""
ANONYMOUS_PREFIX = "\0"
"""Followed by a request's ID, it stands in logs and datasets for the user of an anonymous request: one of its own."""
Policy = Literal["thompson", "ucb", "uniform"]
SchemaOf = Callable[[str], FeatureSchema]
"""Returns the schema for a user ID, or for an anonymous user."""
_CATEGORY = {"type": ["string", "integer"], "maxLength": 256}


def _whole_position(value: object) -> object:
    if type(value) is not int or not 1 <= value <= MAX_POSITION:
        raise ValueError(f"should be a whole number from 1, the first place of the page, to {MAX_POSITION}")
    return value


Position = Annotated[int, BeforeValidator(_whole_position), Field(ge=1, le=MAX_POSITION)]
MAX_PAGE = 32
"""Places of a page that one request may ask for: each is a run of the model."""


def _whole_page(value: object) -> object:
    if type(value) is not int or not 1 <= value <= MAX_PAGE:
        raise ValueError(f"should be a whole number of places, from 1 to {MAX_PAGE}")
    return value


Page = Annotated[int, BeforeValidator(_whole_page), Field(ge=1, le=MAX_PAGE)]
Features = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "description": "Values by the names of the bundle's fields (GET /v1/model lists them); null means missing.",
            "additionalProperties": {
                "anyOf": [_CATEGORY, {"type": "number"}, {"type": "array", "items": _CATEGORY}, {"type": "null"}]
            },
        }
    ),
]


class RequestError(ContractError):
    """An invalid request. `field` is the dotted path of the part at fault."""

    code: ClassVar[str]

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class MalformedRequest(RequestError):
    """Malformed or ambiguous JSON."""

    code = "malformed"


class InvalidRequest(RequestError):
    """Valid JSON that is not a valid request."""

    code = "invalid"


class TooManyCandidates(RequestError):
    code = "too_many_candidates"


class Wire(BaseModel):
    """Part of a body: strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, cache_strings="keys")


W = TypeVar("W", bound=Wire)


class ShownItem(Wire):
    """An item that the user was shown."""

    item_id: Id
    clicked: bool
    at: At | None = Field(default=None, description="When, in Unix seconds; the time of the request if absent.")


def _form_of(entry: object) -> str:
    return _SHOWN_ITEM if isinstance(entry, dict | ShownItem) else _ID


HistoryEntry = Annotated[
    Annotated[Id, Tag(_ID)] | Annotated[ShownItem, Tag(_SHOWN_ITEM)],
    # Faults are those of the form that an entry has.
    Discriminator(_form_of),
]


class UserOverride(Wire):
    """User data in the request; it overrides what is stored."""

    features: Features | None = None
    history: Annotated[list[HistoryEntry], Field(fail_fast=True)] | None = Field(
        default=None,
        description="Items that the user was shown, oldest first; replaces the stored history. An ID alone stands for"
        f" a click. Only the last {MAX_HISTORY:,} entries count, and at most as many may be objects.",
    )

    @property
    def shown(self) -> list[str]:
        """Return the IDs of the history."""
        return [entry if isinstance(entry, str) else entry.item_id for entry in self.history or ()]


class ItemOverride(Wire):
    """Candidate data in the request; it overrides what is stored."""

    text: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] | None = Field(
        default=None,
        description="Text of an ad without a row, built from title and copy by the bundle's template (`item_text` of"
        " GET /v1/model). If the ad has a row, the text is ignored.",
    )
    features: Features | None = None


class Candidates(Wire):
    """The ads to score, as columns."""

    # Listing every one of half a million wrong IDs would take seconds.
    id: Annotated[list[Id], Field(min_length=1, fail_fast=True)]
    bid: Annotated[list[Bid | None], Field(fail_fast=True)] | None = Field(
        default=None, description="Price per click, or per what `pricing` says, one per candidate; gives the eCPM."
    )
    pricing: Annotated[list[Pricing], Field(fail_fast=True)] | None = Field(
        default=None,
        description="What each bid is paid for: cpm, a thousand impressions; cpc, a click, as all are if absent; cpa, a"
        " conversion, which needs a bundle with the head pcvr.",
    )


class ExploreOptions(Wire):
    """How the first position is explored."""

    policy: Policy = Field(
        description="How an explored first candidate is chosen: thompson, by a draw of every candidate's log-odds; ucb,"
        " by the upper end of their 95 % intervals; uniform, with equal probabilities, which needs no uncertainty."
    )
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Probability to explore, at most the service's MSD_EXPLORE_SHARE, its default."
    )
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        default=None, description="Decides alone about the draw, so that it can be repeated; by default the request ID."
    )


class ScoreRequest(Wire):
    """One user, one context, N candidates."""

    user_id: Id | None = Field(description="null: an anonymous user, who is scored as unknown without any lookup.")
    at: At | None = Field(
        default=None, description="Time of the impression in Unix seconds; the service's clock if absent."
    )
    context: Features | None = None
    candidates: Candidates
    user: UserOverride | None = None
    items: dict[Id, ItemOverride | None] | None = Field(
        default=None, description="Features and texts of candidates, by id; at most one entry per candidate."
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Rank by eCPM; return the best K.")
    slot: Position | None = Field(
        default=None,
        description="Place of the page to score for, from 1; by default the serving value of the bundle's position. No"
        " effect on a bundle without one.",
    )
    page: Page | None = Field(
        default=None,
        description="Number of places of the page, from `slot` on, by default from the first: `page` of the reply has"
        " the best candidates, each scored for its place.",
    )
    explain: bool | None = Field(
        default=None,
        description=f"Whether the reply explains each score; then at most {MAX_EXPLAINED} candidates.",
    )
    explore: ExploreOptions | None = Field(
        default=None, description="Give the first position, sometimes, to a candidate whose score is uncertain."
    )

    @property
    def first_slot(self) -> int | None:
        """The place of the page to score for, from 1: a page begins at its first; None: the bundle's."""
        return self.slot or (1 if self.page else None)


def parse_request(body: bytes, schema: FeatureSchema, max_candidates: int = MAX_CANDIDATES) -> ScoreRequest:
    """Parse the request in a JSON body, and check that its values fit the schema. Raises the RequestError that says
    what is wrong, and where."""
    return parse_request_by(body, lambda _: schema, max_candidates)


def parse_request_by(body: bytes, schema_of: SchemaOf, max_candidates: int = MAX_CANDIDATES) -> ScoreRequest:
    """As `parse_request`, with a schema that depends on the user."""
    wire = validate(load_json(body), ScoreRequest, lambda it: _check_width(it, schema_of, max_candidates))
    _check_request(wire, schema_of(wire.user_id or ANONYMOUS), max_candidates)
    return wire


def validate(document: object, form: type[W], look: Callable[[object], None] = lambda _: None) -> W:
    """Return a document in its form. Raises InvalidRequest. `look` may refuse it before all faults are found."""
    look(document)
    try:
        return form.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        path = ".".join(_shorten(str(part)) for part in _place(first["loc"])).removesuffix(".[key]")
        message = _NOT_AN_OBJECT if first["type"] in _OBJECT_ERRORS else plain_words(first["msg"])
        raise InvalidRequest(_shorten(message, 300), path or None) from None


def _place(location: Sequence[int | str]) -> list[int | str]:
    """Return the document's own keys and numbers in pydantic's location of a fault."""
    before = [None, *location]
    return [part for last, part in zip(before, location, strict=False) if type(last) is str or part not in _FORMS]


def _check_width(document: object, schema_of: SchemaOf, max_candidates: int) -> None:
    """Refuse objects with too many keys: reporting every one would take seconds."""
    if not isinstance(document, dict):
        return
    items, candidates = document.get("items"), document.get("candidates")
    ids = candidates.get("id") if isinstance(candidates, dict) else None
    if isinstance(ids, list):
        _check_count(ids, max_candidates)
    described: dict[str, object] = {}
    if isinstance(items, dict):
        _check_described(items, ids if isinstance(ids, list) else [])
        described = {f"items.{name}": item for name, item in items.items() if item is not None}
    user = document.get("user")
    if isinstance(user, dict) and isinstance(history := user.get("history"), list):
        _check_history(history)
    parts = {"": document, "candidates": candidates, "user": user, "explore": document.get("explore")}
    check_keys({**parts, **described})
    if isinstance(user_id := document.get("user_id", False), str | None):
        _check_names(schema_of(user_id or ANONYMOUS), document.get("context"), user, described)


def _check_names(schema: FeatureSchema, context: object, user: object, items: Mapping[str, object]) -> None:
    """Refuse features with more names than the schema has."""
    described: list[tuple[Side, str, object]] = [("user", "user", user)]
    described += [("item", path, item) for path, item in items.items()]
    parts: list[tuple[Side, str, object]] = [("context", "context", context)]
    for side, path, part in described:
        if isinstance(part, dict):
            parts.append((side, f"{_shorten(path)}.features", part.get("features")))
    for side, path, values in parts:
        if isinstance(values, dict) and len(values) > len(schema.settable[side]):
            name = next(name for name in values if name not in schema.settable[side])
            raise _unknown(schema, side, name, path)


def check_keys(parts: Mapping[str, object]) -> None:
    """Refuse objects, by their paths, with more keys than possible for keys that are neither features nor IDs."""
    for place, value in parts.items():
        if isinstance(value, dict) and len(value) > _MAX_FIXED_KEYS:
            raise InvalidRequest(f"has {len(value)} keys, most of them unknown", _shorten(place) or None)


def _check_request(wire: ScoreRequest, schema: FeatureSchema, max_candidates: int) -> None:
    """Raise InvalidRequest or TooManyCandidates for a request whose parts do not fit each other or the schema."""
    ids, bids = wire.candidates.id, wire.candidates.bid
    _check_count(ids, max_candidates)
    if bids is not None and len(bids) != len(ids):
        raise InvalidRequest(f"has {len(bids)} entries, and candidates.id has {len(ids)}", "candidates.bid")
    pricing = wire.candidates.pricing
    if pricing is not None and len(pricing) != len(ids):
        raise InvalidRequest(f"has {len(pricing)} entries, and candidates.id has {len(ids)}", "candidates.pricing")
    if wire.explain:
        if len(ids) > MAX_EXPLAINED:
            raise TooManyCandidates(
                f"{len(ids)} candidates; with `explain` one request may have {MAX_EXPLAINED}: split it", "candidates.id"
            )
    items = wire.items or {}
    if wire.page and (wire.slot or 1) + wire.page - 1 > MAX_POSITION:
        raise InvalidRequest(f"ends behind place {MAX_POSITION}, the last: it begins at slot {wire.slot}", "page")
    overrides = _overrides(items, ids)
    user = wire.user
    if user is not None and user.history is not None:
        _check_history(user.history)
    check_features(schema, "context", wire.context, "context")
    check_features(schema, "user", user.features if user else None, "user.features")
    for item_id, override in overrides.items():
        check_features(schema, "item", override.features, f"items.{_shorten(item_id)}.features")


def _overrides(items: Mapping[str, ItemOverride | None], ids: Sequence[str]) -> dict[str, ItemOverride]:
    """Return what is said of candidates. Raises InvalidRequest for other items."""
    _check_described(items, ids)
    overrides = {item_id: override for item_id, override in items.items() if override is not None}
    candidates = set(ids) if overrides else set()
    for item_id in overrides:
        if item_id not in candidates:
            raise InvalidRequest("describes an item that is not a candidate", f"items.{_shorten(item_id)}")
    return overrides


def check_pricing(request: ScoreRequest, formula: Formula) -> None:
    """Raise InvalidRequest for a pricing that the bundle has no heads for."""
    for place, one in enumerate(request.candidates.pricing or ()):
        if one not in formula:
            raise InvalidRequest(f"is {one}, and this model prices {', '.join(formula)}", f"candidates.pricing.{place}")


def check_exploration(request: ScoreRequest, most_share: float) -> None:
    """Raise InvalidRequest if this service, which explores at most `most_share` of the requests, does not explore as
    asked."""
    if request.explore is None:
        return
    if not most_share:
        raise InvalidRequest("this service does not explore (MSD_EXPLORE_SHARE=0)", "explore")
    share = request.explore.share
    if share is not None and share > most_share:
        raise InvalidRequest(f"is {share:g}; this service explores at most {most_share:g}", "explore.share")


def _check_count(ids: Sequence[object], max_candidates: int) -> None:
    if len(ids) > max_candidates:
        raise TooManyCandidates(
            f"{len(ids)} candidates; one request may have {max_candidates}: split it", "candidates.id"
        )


def _check_history(history: Sequence[object]) -> None:
    """Refuse more objects than can count: validating them takes long."""
    objects = sum(isinstance(entry, dict | ShownItem) for entry in history) if len(history) > MAX_HISTORY else 0
    if objects > MAX_HISTORY:
        raise InvalidRequest(f"has {objects} objects; {MAX_HISTORY} are allowed", "user.history")


def _check_described(items: Mapping[str, object], ids: Sequence[object]) -> None:
    """Refuse more entries than candidates: even empty ones take time."""
    if len(items) > len(ids):
        raise InvalidRequest(f"has {len(items)} entries, more than there are candidates ({len(ids)})", "items")


def check_features(schema: FeatureSchema, side: Side, values: Mapping[str, object] | None, path: str) -> None:
    """Raise InvalidRequest for values that do not fit their fields."""
    for name, value in (values or {}).items():
        known = schema.settable[side].get(name)
        if known is None:
            raise _unknown(schema, side, name, path)
        if isinstance(value, list) and len(value) > MAX_LIST_VALUES:
            raise InvalidRequest(f"has {len(value)} values; a list may have {MAX_LIST_VALUES}", f"{path}.{name}")
        try:
            canonical(known, value)
        except SchemaError as error:
            raise InvalidRequest(str(error), f"{path}.{name}") from None


def _unknown(schema: FeatureSchema, side: Side, name: str, path: str) -> InvalidRequest:
    allowed = ", ".join(schema.settable[side]) or "none"
    return InvalidRequest(f"no feature of the {side} has this name; there are: {allowed}", f"{path}.{_shorten(name)}")


def load_json(body: bytes) -> object:
    """Return the document. Raises MalformedRequest, also for a repeated key or a number that is not finite."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique_pairs, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise MalformedRequest("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    except ValueError:
        # The remaining ValueError is an integer with more digits than Python converts.
        raise MalformedRequest("the body contains a number with too many digits") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise MalformedRequest("a JSON key occurs twice", _shorten(twice))
    return unique


def _refuse_constant(name: str) -> float:
    raise MalformedRequest(f"{name} is not JSON")


def _shorten(text: str, limit: int = _SHOWN_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
