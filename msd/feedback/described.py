"""Contexts, users and items described by logged requests, in the form of a dataset's features.

Knows the wire format of features. Does not know the requests' outcomes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from msd.dataset.config import DatasetConfig, FeatureConfig
from msd.feedback.errors import FeedbackError

Features = Mapping[str, FeatureConfig]
_TYPES = {"categorical": pl.String, "bag": pl.List(pl.String), "numeric": pl.Float64}


@dataclass
class Described:
    """Values by feature: of each request's context, and the latest of each user and item; items' texts besides.

    A value that is None was said to be missing. `ignored` are names that the dataset has no feature of.
    """

    contexts: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)


def described(requests: Iterable[pl.DataFrame], wanted: pl.Series, config: DatasetConfig) -> Described:
    """Return what the `wanted` requests said, the first of those with one ID. Raises FeedbackError for invalid ones."""
    found, sides = Described(), {side: {one.name: one for one in config.side(side)} for side in ("user", "item")}
    context = {one.name: one for one in config.side("context")}
    ids = set(wanted.to_list())
    for frame in requests:
        for request_id, body in frame.select("request_id", "request").iter_rows():
            if request_id not in ids or request_id in found.contexts:
                continue
            try:
                request = json.loads(body)
                found.contexts[request_id] = _values(request.get("context"), context, found.ignored)
                _describe(request, sides, found)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise FeedbackError(f"the log's request {request_id} is not a request: {error}") from None
    return found


def feature_type(feature: FeatureConfig) -> Any:  # noqa: ANN401 - polars's types are instances and classes
    """Return the type of a feature's column."""
    return _TYPES[feature.kind]


def _describe(request: Mapping[str, Any], sides: Mapping[str, Features], found: Described) -> None:
    user = (request.get("user") or {}).get("features")
    if user:
        own = found.users.setdefault(request["user_id"], {})
        own |= _values(user, sides["user"], found.ignored)
    for item_id, override in (request.get("items") or {}).items():
        if not override:
            continue
        values = _values(override.get("features"), sides["item"], found.ignored)
        text = override.get("text")
        if values or text:
            found.items.setdefault(item_id, {}).update(values)
        if text:
            found.texts[item_id] = text


def _values(given: Mapping[str, Any] | None, known: Features, ignored: set[str]) -> dict[str, Any]:
    given = given or {}
    ignored |= given.keys() - known.keys()
    return {name: _value(known[name], value) for name, value in given.items() if name in known}


def _value(feature: FeatureConfig, value: Any) -> Any:  # noqa: ANN401
    if value is None:
        return None
    if feature.kind == "numeric":
        return float(value)
    return [str(one) for one in value] if feature.kind == "bag" else str(value)
