"""Two-phase scoring by the clients: with a prepared user the reply is the same to the bit; if the service does not know
the user, the whole request is sent, and the reply says so."""

import json
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from msd_client import (
    BadReply,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    Item,
    Overloaded,
    PrepareRequest,
    Retry,
    ScoreReply,
    ScoreRequest,
    Unavailable,
)
from msd_client.replies import Prepared
from msd_client.requests import user_part
from tests.bundles.factory import AT, build_bundle
from tests.msd_client.either import EITHER, Ask
from tests.msd_client.hostile_server import Act, Hostile, Reset, Say, hostile
from tests.service.live import LiveService, live_service

USER = PrepareRequest(
    user_id="u1",
    at=AT,
    context={"hour": 13, "device": "ios"},
    user_features={"interests": ("cars",)},
    history=["i8", "i9"],
)
REQUEST = ScoreRequest(
    **{one.name: getattr(USER, one.name) for one in fields(USER)},
    ids=[*(f"i{number}" for number in range(30)), "new ad"],
    bids=[1.0] * 31,
    items={"new ad": Item(text="A game", features={"category": "games"})},
    top_k=20,
)
OPTIONS = {"deadline_s": 30}
SCORES = {"request_id": "r", "model_version": "v", "candidates": {"id": ["a"], "pctr": [0.5], "ecpm": [None]}}
SCORED = Say(body=json.dumps(SCORES).encode())
PREPARED: dict[str, Any] = {"request_id": "r", "model_version": "v", "prepared": "t-1", "expires_in_s": 10.0}
GONE = Say(409, json.dumps({"error": {"code": "not_prepared", "message": "expired", "field": "prepared"}}).encode())
BUSY = json.dumps({"error": {"code": "overloaded", "message": "too much to do", "field": None}}).encode()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that prepares users."""
    folder = tmp_path_factory.mktemp("prepare")
    with live_service(build_bundle(folder / "bundle").folder, folder, prepare_mb=16) as running:
        yield running


@pytest.fixture(params=EITHER, ids=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Either client."""
    asked: Ask = request.param
    return asked


def held(user: PrepareRequest = USER, token: str = "t-1") -> Prepared:
    """A prepared user of which no service needs to know."""
    return Prepared(token, 10.0, "r", "v", user_part(user))


def without_preparing(reply: ScoreReply) -> ScoreReply:
    """The reply as that of a whole request."""
    return replace(reply, was_prepared=None)


@pytest.mark.parametrize("more", [{}, {"top_k": None}, {"explain": True}])
def test_a_prepared_user_gets_the_scores_of_the_whole_request(
    ask: Ask, service: LiveService, more: dict[str, Any]
) -> None:
    request = replace(REQUEST, **more)
    prepared = ask(service.url, "prepare", USER, options=OPTIONS, request_id="r-1")
    reply = ask(service.url, "score", request, prepared=prepared, options=OPTIONS, request_id="r-2", times=2)
    whole = ask(service.url, "score", request, options=OPTIONS, request_id="r-2")

    assert (prepared.request_id, prepared.model_version, prepared.arm) == ("r-1", "test-0", None)
    assert 0 < prepared.expires_in_s <= 60
    assert prepared.token not in repr(prepared)
    assert (reply.was_prepared, whole.was_prepared) == (True, None)
    assert without_preparing(reply) == whole


def test_an_anonymous_user_is_prepared_and_scored(ask: Ask, service: LiveService) -> None:
    user = replace(USER, user_id=None)
    prepared = ask(service.url, "prepare", user, options=OPTIONS, request_id="r-1")
    request = replace(REQUEST, user_id=None)
    reply = ask(service.url, "score", request, prepared=prepared, options=OPTIONS, request_id="r-1")

    assert prepared.degraded_user == reply.degraded_user == "unknown"
    assert reply.was_prepared
    assert without_preparing(reply) == ask(service.url, "score", request, options=OPTIONS, request_id="r-1")


def test_preparing_says_what_is_degraded(ask: Ask, service: LiveService) -> None:
    user = PrepareRequest(user_id="stranger", context={"hour": "99"})
    prepared = ask(service.url, "prepare", user, options=OPTIONS)
    assert (prepared.degraded_user, prepared.degraded_values) == ("unknown", {"context.hour": "unknown"})


@pytest.mark.parametrize("token", ["5dc3d74d-1b5c13b0b865c42e1159158357e094be", "x"])
def test_for_a_user_that_is_not_known_the_whole_request_is_sent(ask: Ask, service: LiveService, token: str) -> None:
    reply = ask(service.url, "score", REQUEST, prepared=held(token=token), options=OPTIONS, request_id="r-1")

    assert reply.was_prepared is False
    assert without_preparing(reply) == ask(service.url, "score", REQUEST, options=OPTIONS, request_id="r-1")


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_service_that_does_not_prepare_scores_the_whole_request(ask: Ask, tmp_path: Path, native: str) -> None:
    with live_service(build_bundle(tmp_path / "bundle").folder, tmp_path, native=native) as plain:
        with pytest.raises(InvalidRequest, match="Not Found") as refused:
            ask(plain.url, "prepare", USER, options=OPTIONS)
        reply = ask(plain.url, "score", REQUEST, prepared=held(), options=OPTIONS)

    assert (refused.value.status, refused.value.code) == (404, "not_found")
    assert reply.was_prepared is False
    assert len(reply) == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "u2"},
        {"at": None},
        {"at": AT + 1},
        {"context": {"hour": 14}},
        {"history": ["i8"]},
        {"history": None},
    ],
)
def test_the_prepared_user_of_another_request_is_refused_before_sending(ask: Ask, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="has another user, at, context, features or history") as refused:
        ask("http://127.0.0.1:9", "score", replace(REQUEST, **changes), prepared=held())
    assert refused.value.field == "prepared"


def test_other_candidates_may_follow_a_prepared_user(service: LiveService) -> None:
    with Client(service.url, deadline_s=30) as client:
        prepared = client.prepare(USER)
        for ids in (["i1"], ["i2", "i3"]):
            request = replace(REQUEST, ids=ids, bids=None, items=None, top_k=None)
            assert client.score(request, prepared=prepared).ids == ids


def _sent(server: Hostile) -> list[dict[str, Any]]:
    return [json.loads(request.partition("\r\n\r\n")[2]) for request in server.requests]


def test_what_was_prepared_is_not_sent_again_unless_it_is_gone(ask: Ask) -> None:
    with hostile(GONE, SCORED) as server:
        reply = ask(server.url, "score", REQUEST, prepared=held(), options=OPTIONS)
        first, second = _sent(server)

    assert reply.was_prepared is False
    assert first == {"prepared": "t-1", **{name: second[name] for name in ("candidates", "items", "top_k")}}
    assert second == json.loads(REQUEST.body())


def test_the_whole_request_has_what_is_left_of_the_deadline_and_attempts_of_its_own(ask: Ask) -> None:
    options = {"retry": Retry(attempts=2, first_s=0.001)}
    with hostile(Reset(), GONE, Reset(), SCORED) as server:
        reply = ask(server.url, "score", REQUEST, prepared=held(), options=options, deadline_s=20)
        granted = [int(one.lower().split("x-deadline-ms: ")[1].split()[0]) for one in server.requests]

    assert reply.was_prepared is False
    assert len(granted) == 4
    assert granted == sorted(granted, reverse=True)
    assert granted[0] <= 20_000


def test_a_service_that_forgets_and_then_is_silent_does_not_outlast_the_deadline(ask: Ask) -> None:
    began = time.monotonic()
    with hostile(GONE, Say(wait_s=60)) as server, pytest.raises(DeadlineExceeded):
        ask(server.url, "score", REQUEST, prepared=held(), deadline_s=0.3)
    assert time.monotonic() - began < 30
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("act", "kind", "attempts"),
    [
        (Say(409, b'{"error": {"code": "conflict", "message": "no", "field": null}}'), InvalidRequest, 1),
        (Say(422, b'{"error": {"code": "invalid", "message": "no", "field": "candidates.id"}}'), InvalidRequest, 1),
        (Say(503, BUSY), Unavailable, 1),
        (Say(429, BUSY, ("Retry-After: 0",)), Overloaded, 3),
        (Reset(), ConnectionFailed, 3),
        (Say(body=b"{}"), BadReply, 1),
    ],
)
def test_other_errors_do_not_send_the_whole_request(ask: Ask, act: Act, kind: type[Exception], attempts: int) -> None:
    with hostile(act) as server, pytest.raises(kind):
        ask(server.url, "score", REQUEST, prepared=held(), deadline_s=60)
    assert [one["prepared"] for one in _sent(server)] == ["t-1"] * attempts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prepared": None}, "'prepared' is not of type str"),
        ({"expires_in_s": "soon"}, "'expires_in_s' is not of type float"),
        ({"request_id": 5}, "'request_id' is not of type str"),
        ({"degraded": []}, "'degraded' is not of type dict"),
        ({"degraded": {"values": 1}}, "'values' is not of type dict"),
    ],
)
def test_a_reply_of_no_prepared_user_is_a_bad_one(ask: Ask, changes: dict[str, Any], message: str) -> None:
    with hostile(Say(body=json.dumps(PREPARED | changes).encode())) as server, pytest.raises(BadReply, match=message):
        ask(server.url, "prepare", USER, options=OPTIONS)


def test_preparing_is_repeated_as_scoring_is(ask: Ask) -> None:
    with hostile(Reset(), Say(503, BUSY, ("Retry-After: 0",)), Say(body=json.dumps(PREPARED).encode())) as server:
        prepared = ask(server.url, "prepare", USER, options=OPTIONS)

    assert prepared.token == "t-1"
    assert _sent(server) == [json.loads(USER.body())] * 3
