"""The clients against a real service that asks for certificates and keys, and counts events."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from msd_client import (
    AccessDenied,
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Event,
    InvalidRequest,
    Item,
    ScoreRequest,
)
from tests.bundles.factory import AT, build_bundle
from tests.msd_client.conftest import Ask
from tests.service.api_keys import KEYS, write_keys
from tests.service.live import LiveService, live_service, wait_until
from tests.service.tls_files import Files, known

IDS = [f"i{number}" for number in range(50)]
REQUEST = ScoreRequest(
    user_id="u1",
    ids=(*IDS, "new ad"),
    bids=[*(0.1 * number for number in range(50)), None],
    at=AT,
    context={"hour": 13, "device": "ios"},
    user_features={"interests": ("cars",)},
    history=["i8", {"item_id": "i9", "clicked": False}],
    items={"new ad": Item(text="A game", features={"category": "games", "price": None})},
)
DOCUMENT = {
    "user_id": "u1",
    "candidates": {"id": [*IDS, "new ad"], "bid": [*(0.1 * number for number in range(50)), None]},
    "at": AT,
    "context": {"hour": 13, "device": "ios"},
    "user": {"features": {"interests": ["cars"]}, "history": ["i8", {"item_id": "i9", "clicked": False}]},
    "items": {"new ad": {"text": "A game", "features": {"category": "games", "price": None}}},
}


class Guarded(NamedTuple):
    """A running service, and what a client needs for it."""

    service: LiveService
    files: Files
    url: str
    options: dict[str, Any]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A service with every door shut."""
    folder = tmp_path_factory.mktemp("client")
    files = Files(folder)
    files.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = files.clients.issue_cert("ads@example.org")
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    write_keys(folder / "keys.json", "ads", "ops")
    with live_service(
        build_bundle(folder / "bundle").folder,
        folder,
        wait_ready=False,
        tls_cert=files.cert,
        tls_key=files.key,
        tls_client_ca=files.client_ca,
        keys_file=folder / "keys.json",
        live="on",
        state_dir=folder / "states",
    ) as running:
        with known(running, files) as client:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
        options = {
            "deadline_s": 30,
            "api_key": KEYS["ads"],
            "ca_file": folder / "ca.pem",
            "cert_file": folder / "client.pem",
        }
        yield Guarded(running, files, f"https://127.0.0.1:{running.port}", options)


def plain(guarded: Guarded, document: object) -> httpx.Response:
    """What another client gets."""
    with known(guarded.service, guarded.files) as client:
        return client.post("/v1/score", json=document, headers={"X-Api-Key": KEYS["ads"]})


@pytest.mark.parametrize("more", [{}, {"top_k": 4}, {"page": 2}, {"top_k": 4, "explain": True}])
def test_scores_equal_the_service(ask: Ask, guarded: Guarded, more: dict[str, Any]) -> None:
    request = ScoreRequest(**{name: getattr(REQUEST, name) for name in ScoreRequest.__slots__} | more)

    reply = ask(guarded.url, "score", request, options=guarded.options, request_id="r-1")

    document = plain(guarded, {**DOCUMENT, **more}).json()
    columns = document["candidates"]
    assert (reply.ids, reply.ecpm) == (columns["id"], columns["ecpm"])
    assert reply.heads == {name: columns[name] for name in ("pctr", "pcvr")}
    assert (reply.request_id, reply.model_version, reply.arm) == ("r-1", "test-0", None)
    assert reply.degraded == document["degraded"]["candidates"] == {"new ad": "category_prior"}
    assert reply.is_degraded
    assert [one.rung for one in reply] == [reply.degraded.get(one.id) for one in reply]
    assert reply.explanation == document.get("explanation")
    if reply.page is not None:
        own = {"id": reply.page.ids, "slot": reply.page.slots, **reply.page.heads, "ecpm": reply.page.ecpm}
        assert {**own, "total_ecpm": reply.page.total_ecpm} == document["page"]
    assert (reply.page is None) == ("page" not in more)
    assert (reply.explanation is not None) == ("explain" in more)


def test_unknown_user_degrades_reply(ask: Ask, guarded: Guarded) -> None:
    reply = ask(guarded.url, "score", ScoreRequest(user_id="nobody", ids=["i1"]), options=guarded.options)

    assert (reply.degraded_user, reply.degraded, reply.is_degraded) == ("unknown", {}, True)


def test_unknown_history_item_degrades_reply(ask: Ask, guarded: Guarded) -> None:
    request = ScoreRequest(user_id="u1", ids=["i1"], history=["i2", "gone"])

    reply = ask(guarded.url, "score", request, options=guarded.options)

    assert (reply.degraded_history, reply.is_degraded) == (1, True)


def test_events_count_once(ask: Ask, guarded: Guarded) -> None:
    events = [Event(event_id=f"{ask.__name__}-{n}", type="click", user_id="u1", item_id="i1") for n in range(3)]

    first = ask(guarded.url, "events", events, options=guarded.options)
    again = ask(guarded.url, "events", events, options=guarded.options)

    assert (first.accepted, first.duplicates) == (3, 0)
    assert (again.accepted, again.duplicates) == (0, 3)


def test_model_and_ready(ask: Ask, guarded: Guarded) -> None:
    model = ask(guarded.url, "model", options=guarded.options)
    ready = ask(guarded.url, "ready", options=guarded.options)

    assert (model.model_version, model.heads, model.max_candidates) == ("test-0", ["pctr", "pcvr"], 2000)
    assert model.document["store"] == "file"
    assert (ready.ready, ready.draining, ready.missing) == (True, False, {})


@pytest.mark.parametrize(
    ("changes", "more", "kind", "code", "place", "status"),
    [
        ({"ids": "i1"}, {}, InvalidRequest, "invalid", "candidates.id", 422),
        ({"context": {"weather": "hail"}}, {}, InvalidRequest, "invalid", "context.weather", 422),
        ({"ids": ["i1"] * 2001, "bids": None}, {}, InvalidRequest, "too_many_candidates", "candidates.id", 413),
        ({}, {"deadline_s": 0.0001}, DeadlineExceeded, "deadline_exceeded", None, None),
    ],
)
def test_error_names_field(
    ask: Ask,
    guarded: Guarded,
    changes: dict[str, Any],
    more: dict[str, Any],
    kind: type[Exception],
    code: str,
    place: str | None,
    status: int | None,
) -> None:
    request = ScoreRequest(**{"user_id": "u1", "ids": ["i1"], **changes})

    with pytest.raises(kind) as refused:
        ask(guarded.url, "score", request, options=guarded.options, **more)

    error: Any = refused.value
    assert (error.code, error.field, error.status) == (code, place, status)
    assert (error.request_id is None) == (status is None)


def test_missing_key_or_certificate_is_an_error(ask: Ask, guarded: Guarded) -> None:
    options = guarded.options
    with pytest.raises(AccessDenied, match="send an API key"):
        ask(guarded.url, "score", REQUEST, options={**options, "api_key": None})
    with pytest.raises(AccessDenied, match="lacks the scope 'score'"):
        ask(guarded.url, "score", REQUEST, options={**options, "api_key": KEYS["ops"]})
    with pytest.raises(ConnectionFailed):
        ask(guarded.url, "score", REQUEST, options={**options, "cert_file": None})
    with pytest.raises(ConnectionFailed, match="certificate verify failed"):
        ask(guarded.url, "score", REQUEST, options={**options, "ca_file": None})


def test_threads_and_tasks_share_a_client(guarded: Guarded) -> None:
    with Client(guarded.url, **guarded.options) as client, ThreadPoolExecutor(8) as pool:
        by_threads = list(pool.map(lambda _: client.score(REQUEST).pctr, range(40)))

    async def by_tasks() -> list[list[float]]:
        async with AsyncClient(guarded.url, **guarded.options) as shared:
            return [reply.pctr for reply in await asyncio.gather(*(shared.score(REQUEST) for _ in range(40)))]

    assert all(one == pytest.approx(by_threads[0], abs=1e-6) for one in (*by_threads, *asyncio.run(by_tasks())))
