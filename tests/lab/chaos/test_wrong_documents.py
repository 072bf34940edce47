"""Wrong documents: every kind is made, each is refused by the contract's own parsers, and the good ones are not."""

import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from lab.chaos.hostile import hostile_requests
from lab.chaos.wrong_documents import _FAULTS, wrong_document
from loadtest.requests import OPENRTB, SCORE, as_bid_request
from msd.contract.bundle import Bundle
from msd.contract.openrtb import OpenrtbMapping, context_of, identity_of, impressions_of, parse_openrtb
from msd.contract.request import InvalidRequest, RequestError, parse_request
from tests.bundles.factory import AT

MAPPING = OpenrtbMapping.model_validate({"user_id": ["user.buyeruid"], "features": {"hour": "ext.hour"}})
BODY = json.dumps({"user_id": "u1", "at": AT, "context": {"hour": "3"}, "candidates": {"id": ["i1", "i2"]}}).encode()
GOOD = {SCORE: BODY, OPENRTB: as_bid_request(BODY, MAPPING)}


@pytest.fixture(scope="module")
def parsers(bundle: Bundle) -> dict[str, Callable[[bytes], object]]:
    """What reads a body of each route; raises RequestError."""
    schema = bundle.schema

    def bid_request(body: bytes) -> None:
        asked = parse_openrtb(body, 2_000)
        identity, imps = identity_of(MAPPING, asked.request), impressions_of(asked.request)
        for imp, candidates in asked.candidates.items():
            if imp not in imps:
                raise InvalidRequest("unknown impression", imp)
            context = context_of(MAPPING, schema.settable["context"], asked.request, imps[imp], identity)
            columns = candidates.model_dump(exclude_none=True)
            document = {"user_id": identity.user_id, "context": context, "candidates": columns}
            more = {"at": asked.at, "top_k": asked.top_k}
            parse_request(json.dumps(document | {k: v for k, v in more.items() if v is not None}).encode(), schema)

    return {
        SCORE: lambda body: parse_request(body, schema),
        OPENRTB: bid_request,
    }


@pytest.mark.parametrize("path", GOOD)
def test_every_kind_is_refused_and_the_good_one_is_not(
    path: str, parsers: dict[str, Callable[[bytes], object]]
) -> None:
    parsers[path](GOOD[path])
    rng, good, kinds = random.Random(5), json.loads(GOOD[path]), Counter[str]()
    accepted = []
    for _ in range(700):
        kind, body = wrong_document(good, path, rng)
        kinds[kind] += 1
        try:
            parsers[path](body)
        except RequestError:
            continue
        accepted.append(f"{kind}: {body[:300]!r}")

    assert not accepted
    assert set(kinds) == {*_FAULTS[path].values, *_FAULTS[path].spoilers}
    assert json.loads(GOOD[path]) == good


@pytest.mark.parametrize("path", GOOD)
def test_hostile_requests_are_sent_to_the_route(path: str) -> None:
    stream = hostile_requests(json.loads(GOOD[path]), 3, path)
    heads = Counter(next(stream).request.split(b"\r\n")[0] for _ in range(300))

    assert heads[f"POST {path} HTTP/1.1".encode()] > 200
