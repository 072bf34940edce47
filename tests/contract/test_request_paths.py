"""Requests are read in one pass where that suffices; a thorough look at the same bytes has to say the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract import request as module
from msd.contract.request import CheckedRequest, RequestError, ScoreRequest, parse_request
from tests.bundles.factory import golden_requests
from tests.contract.examples import SCHEMA

SCRAPS = [
    b'"',
    b":",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b" ",
    b"\\",
    b"0",
    b"-",
    b"e9",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
]
SCRAPS += [b'"a":1,', b'"id":["i1"],', b'"hour":1,', b'"at" : 1,', b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"9" * 5_000]


def outcome(body: bytes, thoroughly: bool) -> CheckedRequest | tuple[str, str | None, str]:
    """The request, or what is said of it."""
    try:
        if thoroughly:
            return module._parse_thoroughly(body, lambda _: SCHEMA, 50)
        return parse_request(body, SCHEMA, 50)
    except RequestError as refused:
        return refused.code, refused.field, refused.message


@settings(max_examples=600)
@given(st.data())
def test_both_ways_say_the_same_of_a_request_with_scraps_in_it(data: st.DataObject) -> None:
    body = json.dumps(data.draw(st.sampled_from(golden_requests()[:4]))).encode()
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(body)))
        stop = start + data.draw(st.integers(0, 12))
        body = body[:start] + data.draw(st.sampled_from(SCRAPS) | st.binary(max_size=3)) + body[stop:]

    assert outcome(body, False) == outcome(body, True)


WORDS = st.sampled_from(["a:b", '":', '" :', "\\", "c", "☂", "\n"]) | st.text(max_size=4)


@settings(max_examples=300)
@given(ids=st.lists(WORDS.filter(bool), min_size=1, max_size=5), device=WORDS, indent=st.sampled_from([None, 1]))
def test_colons_and_quotes_in_values_are_no_keys(ids: list[str], device: str, indent: int | None) -> None:
    document = {"user_id": "u:1", "context": {"device": device}, "candidates": {"id": ids}, "items": {ids[0]: None}}
    body = json.dumps(document, indent=indent, separators=(",", " : ") if indent else None).encode()

    assert outcome(body, False) == outcome(body, True)


DOUBLED: list[str] = [
    '{"user_id": "u", "user_id": "u", "candidates": {"id": ["i1"]}}',
    '{"user_id": "u", "user_id" : "u", "candidates": {"id": ["i1"]}}',
    '{"user_id": "u", "candidates": {"id": ["i1"], "id"\n:["i1"]}}',
    '{"user_id": "u", "candidates": {"id": ["i1"]}, "context": {"hour": 1, "hour": 1}}',
    '{"user_id": "u", "candidates": {"id": ["i1"]}, "context": {"device": "a:b", "device": "a"}}',
    '{"user_id": "u", "candidates": {"id": ["i1"]}, "items": {"i1": {"text": "x"}, "i1": {"text": "x"}}}',
    '{"user_id": "u", "candidates": {"id": ["i1"]}, "items": {"i1": {"features": {"price": 1, "price": 1}}}}',
    '{"user_id": "u", "candidates": {"id": ["i1"]}, "user": {"history": [], "history": []}}',
    '{"user_id": "u", "us\\u0065r_id": "u", "candidates": {"id": ["i1"]}}',
]


@pytest.mark.parametrize("body", DOUBLED)
def test_a_key_that_occurs_twice_is_never_overlooked(body: str) -> None:
    assert outcome(body.encode(), False)[0] == "malformed"  # type: ignore[index]


def test_an_ordinary_request_is_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def thorough(*_: Any) -> None:  # noqa: ANN401
        raise AssertionError("looked at twice")

    monkeypatch.setattr(module, "_parse_thoroughly", thorough)
    for document in golden_requests()[:4]:
        assert parse_request(json.dumps(document).encode(), SCHEMA).user_id == document["user_id"]
    body = json.dumps({"user_id": "shop:7", "candidates": {"id": ["ad:1", "ad:2"]}}, separators=(",", ":")).encode()
    assert parse_request(body, SCHEMA).ids == ["ad:1", "ad:2"]
    assert ScoreRequest.model_validate_json(body).candidates.bid is None
