"""Well-formed JSON that no service may accept, by route: a good document with one invalid part. Sends nothing."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from loadtest.requests import IMPRESSION, OPENRTB, SCORE

Document = dict[str, Any]
Spoiler = Callable[[Document, random.Random], object]
_NOT_IDS: tuple[Any, ...] = (None, 5, 1.5, True, [], {}, "", "x" * 10_000, "a\u0000b", ["u1"], {"id": "u1"})
_NOT_USER_IDS = _NOT_IDS[1:]
_NOT_LISTS: tuple[Any, ...] = (None, 5, "i1", {}, True, {"id": []})
_NOT_BIDS: tuple[Any, ...] = ("1", -0.01, True, 1e10, [1.0], {}, float("nan"), float("inf"), -float("inf"))
_NOT_TIMES: tuple[Any, ...] = ("2026-01-01", True, -1, 1e300, [], {}, float("nan"), 1_764_066_000_000)
_NOT_COUNTS: tuple[Any, ...] = (0, -1, 1.5, "3", True, [], float("nan"))
_NOT_OBJECTS: tuple[Any, ...] = ([], "x", 5, True)
_NOT_HISTORIES: tuple[Any, ...] = ("i1", [None], [5], [""], {}, True)
_NOT_TEXTS: tuple[Any, ...] = (5, True, [], {}, "x" * 10_001)
_ODD_NAMES = ("", "__proto__", "user_ids", "Context", "\u202e", "\ud800", "a" * 3_000, "candidates ", "$where")


class _Faults(NamedTuple):
    """Kind of error → the possible parts and their values; kind of error → what makes it."""

    values: Mapping[str, tuple[tuple[str, ...], tuple[Any, ...]]]
    spoilers: Mapping[str, Spoiler]


def wrong_document(good: Document, path: str, rng: random.Random) -> tuple[str, bytes]:
    """Return a kind of error, and a body that differs from `good`, which the route at `path` accepts, by it."""
    faults = _FAULTS[path]
    name = rng.choice([*faults.values, *faults.spoilers])
    document = json.loads(json.dumps(good))
    if name in faults.spoilers:
        faults.spoilers[name](document, rng)
    else:
        *way, last = rng.choice(faults.values[name][0]).split(".")
        place = document
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = rng.choice(faults.values[name][1])
    return name, json.dumps(document).encode("utf-8", "surrogatepass")


def _an_id(document: Document, rng: random.Random) -> None:
    ids = document["candidates"]["id"]
    ids[rng.randrange(len(ids))] = rng.choice(_NOT_IDS)


def _too_many(document: Document, rng: random.Random) -> None:
    document["candidates"] = {"id": ["i1"] * rng.randint(2_001, 4_000)}


def _a_bid(document: Document, rng: random.Random) -> None:
    bids: list[Any] = [1.0] * len(document["candidates"]["id"])
    bids[rng.randrange(len(bids))] = rng.choice(_NOT_BIDS)
    document["candidates"]["bid"] = bids


def _bids_of_another_length(document: Document, rng: random.Random) -> None:
    document["candidates"]["bid"] = [1.0] * (len(document["candidates"]["id"]) + rng.choice((-1, 1, 7)))


def _unknown_key(document: Document, rng: random.Random) -> None:
    place = rng.choice([document, document["candidates"]])
    place[rng.choice(_ODD_NAMES)] = rng.choice((1, None, "x", [], {}))


def _unknown_feature_or_item(document: Document, rng: random.Random) -> None:
    wrong, first = {rng.choice(_ODD_NAMES): 1}, document["candidates"]["id"][0]
    users = ({"context": wrong}, {"user": {"features": wrong}}, {"user": wrong})
    items = ({"items": {first: {"features": wrong}}}, {"items": {first: wrong}})
    document.update(rng.choice((*users, *items)))


def _of_an_impression(spoil: Spoiler) -> Spoiler:
    """Apply what spoils the candidates of /v1/score to those of an impression."""

    def go(document: Document, rng: random.Random) -> None:
        part = {"candidates": document["candidates"][IMPRESSION]}
        spoil(part, rng)
        document["candidates"][IMPRESSION] = part["candidates"]

    return go


def _many_impressions(document: Document, rng: random.Random) -> None:
    document["candidates"] = {str(number): {"id": ["i1"]} for number in range(rng.randint(33, 3_000))}


def _too_many_together(document: Document, rng: random.Random) -> None:
    document["request"]["imp"].append({"id": "2"})
    document["candidates"] = {imp: {"id": ["i1"] * rng.randint(1_001, 2_000)} for imp in (IMPRESSION, "2")}


def _an_impression_twice(document: Document, rng: random.Random) -> None:
    document["request"]["imp"] += [{"id": IMPRESSION}] * rng.randint(1, 9)


def _unknown_impression(document: Document, rng: random.Random) -> None:
    document["candidates"] |= {rng.choice(("9", "imp.1", "../1", "x" * 100)): {"id": ["i1"]}}


def _too_many_values(document: Document, rng: random.Random) -> None:
    document["request"]["ext"] = [{}] * rng.randint(20_001, 60_000)


_USER: Mapping[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "a user id that is none": (("user_id",), _NOT_USER_IDS),
    "a time that is none": (("at",), _NOT_TIMES),
    "a history that is none": (("user",), tuple({"history": one} for one in _NOT_HISTORIES)),
}
_CANDIDATES: Mapping[str, Spoiler] = {
    "an id that is none": _an_id,
    "too many candidates": _too_many,
    "a bid that is none": _a_bid,
    "bids of another length": _bids_of_another_length,
}
_FAULTS: Mapping[str, _Faults] = {
    SCORE: _Faults(
        {
            **_USER,
            "candidates that are none": (("candidates",), (*_NOT_OBJECTS, None, {})),
            "ids that are no list": (("candidates.id",), (*_NOT_LISTS, [])),
            "a top_k that is none": (("top_k",), _NOT_COUNTS),
            "a part that is no object": (("context", "user", "items"), _NOT_OBJECTS),
            "an item that is no candidate": (("items",), ({"not among them": {}},)),
        },
        {
            **_CANDIDATES,
            "no user id": lambda document, rng: document.pop("user_id"),
            "an unknown key": _unknown_key,
            "an unknown feature": _unknown_feature_or_item,
            "a text that is none": lambda document, rng: document.update(
                items={document["candidates"]["id"][0]: {"text": rng.choice(_NOT_TEXTS)}}
            ),
        },
    ),
    OPENRTB: _Faults(
        {
            "a request that is none": (("request",), (*_NOT_OBJECTS, None, {})),
            "an id that is none": (("request.id", "request.imp.0.id"), (None, True, [], {}, "", "x" * 10_000)),
            "impressions that are none": (("request.imp",), (*_NOT_LISTS, [], [[]], [None], [{}])),
            "a user that is none": (("request.user.buyeruid",), (True, [], {}, "x" * 10_000, "a\u0000b")),
            "candidates that are none": (("candidates", f"candidates.{IMPRESSION}"), (*_NOT_OBJECTS, None, {})),
            "ids that are no list": ((f"candidates.{IMPRESSION}.id",), (*_NOT_LISTS, [])),
            "a time that is none": (("at",), _NOT_TIMES),
            "a top_k that is none": (("top_k",), _NOT_COUNTS),
        },
        {
            **{f"{name}, of an impression": _of_an_impression(spoil) for name, spoil in _CANDIDATES.items()},
            "an unknown key": _unknown_key,
            "an unknown key of an impression": _of_an_impression(
                lambda part, rng: part["candidates"].update({rng.choice(_ODD_NAMES): 1})
            ),
            "many impressions": _many_impressions,
            "too many candidates together": _too_many_together,
            "an impression twice": _an_impression_twice,
            "an unknown impression": _unknown_impression,
            "too many values": _too_many_values,
        },
    ),
}
