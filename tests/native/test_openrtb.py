"""What the core maps of a BidRequest, and what it uses only with consent, is what Python does."""

import json
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from msd.contract.consent import SIGNALS
from msd.contract.openrtb import OpenrtbMapping, context_of, id_of, identity_of, impressions_of, read_openrtb
from msd.contract.request import RequestError, parse_request
from native import core
from native.layout import core_openrtb, core_schema
from service.http.json_parser import JsonParser
from tests.contract.bid_requests import ALLOWED, REFUSED, bid_request
from tests.native.worlds import AT, WORDS, World, draw_world, mutated
from tests.reference.request import read_request
from tests.reference.schema import Schema

CAPACITY = 40
PARSER = JsonParser(CAPACITY)
USERS = [["user.buyeruid", "user.id"], ["device.ifa"], ["user.ext.consent", "site.id"]]
PATHS = "device.devicetype imp.banner.pos imp.id id user.yob device.geo.lat site.cat user regs.ext.x".split()
SIGNED = [*ALLOWED.values(), *REFUSED.values()]
KEYS = ['{"id": "1", ', '{"\\u0069d": "1", ', '{"yob": 7, ', '{"user": {}, ', '{"user.yob": 7, ', "{,"]
VALUES: list[Any] = [*WORDS, "u7", "00000000-0000-0000-0000-000000000000", "\ud800", 10**17, 10**30, [0] * 1_001]
VALUES += json.loads('[null, 0, 1, -7, 1.5, 1e300, true, false, {}, {"a": {"a": 1}}, [], ["a", "13", 4], ["a", null]]')


def test_core_maps_bid_requests_as_python_does(tmp_path: Path) -> None:
    random = Random(5)
    seen: list[tuple[bool, bool]] = []
    for number in range(8):
        (tmp_path / f"{number}").mkdir()
        world = draw_world(random, tmp_path / f"{number}")
        mapping = draw_mapping(random, world)
        reader, schema = core_openrtb(mapping), core_schema(world.schema, world.codecs)
        for _ in range(300):
            body = draw_bid_request(random, mapping)
            found = reader.read(body, schema)
            # What is known of signals says the same again.
            again = reader.read(body, schema)
            assert (again and facts_of(again)) == (found and facts_of(found))
            if found is not None and are_requests(world, facts_of(found)):
                assert mapped(world, mapping, body) == parsed(world, facts_of(found)), body
                seen.append((found.has_consent, found.unfit > 0))
    assert min(map(seen.count, [(True, False), (True, True), (False, False), (False, True)])) > 50


Facts = tuple[str, bool, list[tuple[str, int, bytes]], int]
"""The request's ID, whether the user may be known, (imp.id, place, body) of each part, the number of unfit values."""


def facts_of(found: "core.MappedRequest") -> Facts:
    return found.id, found.has_consent, found.parts, found.unfit


def are_requests(world: World, found: Facts) -> bool:
    """Whether `msd.contract` accepts all scoring requests."""
    try:
        return bool(parsed(world, found))
    except RequestError:
        return False


def parsed(world: World, found: Facts) -> tuple[Any, ...]:
    own_id, has_consent, parts, unfit = found
    for _, _, body in parts:
        parse_request(body, world.schema, CAPACITY)
    schema = Schema(world.schema.model_dump())
    requests = [(imp, place, read_request(body, schema)) for imp, place, body in parts]
    return own_id, has_consent, requests, unfit


def mapped(world: World, mapping: OpenrtbMapping, body: bytes) -> tuple[Any, ...]:
    """The same, by `msd.contract`."""
    asked = read_openrtb(PARSER.load(body), CAPACITY)
    identity, imps = identity_of(mapping, asked.request), impressions_of(asked.request)
    more = {name: value for name, value in (("at", asked.at), ("top_k", asked.top_k)) if value is not None}
    parts, unfit = [], 0
    for imp, candidates in asked.candidates.items():
        fields = world.schema.settable["context"]
        context, odd = context_of(mapping, fields, asked.request, imps[imp], identity)
        unfit += len(odd)
        columns = candidates.model_dump(exclude_none=True)
        document = {"user_id": identity.user_id, "context": context, "candidates": columns, **more}
        parts.append((imp, [*imps].index(imp), json.dumps(document).encode()))
    return parsed(world, (id_of(asked.request), identity.has_consent, parts, unfit))


def draw_mapping(random: Random, world: World) -> OpenrtbMapping:
    features = {name: random.choice(PATHS) for name in world.schema.settable["context"]}
    return OpenrtbMapping(user_id=random.choice(USERS), features=features, vendor_id=random.choice([None, 5, 9]))


def draw_bid_request(random: Random, mapping: OpenrtbMapping) -> bytes:
    """A request, most often a good one; now and then anything is anywhere."""
    request = deepcopy(bid_request())
    for part, signals in deepcopy(random.choice(SIGNED)).items():
        request[part] = request[part] | signals if isinstance(signals, dict) and part in request else signals
    for path in random.sample([*mapping.features.values(), *mapping.user_id, *PATHS], random.choice([0, 1, 2, 5])):
        put(random, request, path, deepcopy(random.choice(VALUES)))
    if random.random() < 0.1:
        put(random, request, random.choice([*SIGNALS, "regs.gdpr", "user.ext"]), deepcopy(random.choice(VALUES)))
    ads = {"id": random.choices(["i1", "i2", "é"], k=random.randint(1, 9))}
    candidates: dict[str, Any] = {imp: ads for imp in random.sample(["1", "2"], random.randint(1, 2))}
    if random.random() < 0.3:
        candidates[random.choice(["2", "3"])] = {"id": ["i1"], "bid": [random.choice([0.5, 3, None, -1])]}
    document = {"request": request, "candidates": candidates, "at": random.choice([AT, 0, None])}
    if random.random() < 0.2:
        document["top_k"] = random.choice([1, 9, 0, None])
    separators = random.choice([(",", ":"), (" ,\n", "\t: ")])
    text = json.dumps(dict(random.sample([*document.items()], len(document))), separators=separators)
    if random.random() < 0.1:
        # Another key, which may be there already.
        parts = text.split("{")
        place = random.randrange(1, len(parts))
        text = "{".join(parts[:place]) + random.choice(KEYS) + "{".join(parts[place:])
    return mutated(random, text.encode()) if random.random() < 0.1 else text.encode()


def put(random: Random, request: dict[str, Any], path: str, value: object) -> None:
    """Put a value at a path, wherever that leads through objects."""
    *way, last = path.split(".")
    place: Any = request
    for key in way:
        place = random.choice(place["imp"]) if key == "imp" else place.setdefault(key, {})
        if not isinstance(place, dict):
            return
    place[last] = value
