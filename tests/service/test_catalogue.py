"""The live catalogue over HTTP: an item given once is scored without being described, by what is known of it."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from msd.contract.bundle import Bundle
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec
from msd_client import CatalogueItem, Client
from service.catalogue.catalogue import Catalogue
from service.catalogue.embedded import EmbeddedItems
from service.catalogue.item import Edit, Item, Knowledge, unpack_item
from service.catalogue.item_rows import ItemRows
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT, _columns
from tests.service.api_keys import KEYS, write_keys
from tests.service.live import LiveService, live_service, run_msd, wait_until
from tests.service.live_events import event, tell

FEATURES: dict[str, Any] = {"category": "games", "price": 9.5}
ENCODER: dict[str, Any] = {"encoder": "on", "ENCODER_WAIT_S": 60, "encoder_per_s": 10_000}


def catalogued(bundle: Path, folder: Path, state: Path | None = None, **settings: Any) -> Any:  # noqa: ANN401
    return live_service(bundle, folder, catalogue="on", state_dir=state or folder / "state", **{**ENCODER, **settings})


@pytest.fixture(scope="module")
def service(cold_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with an encoder, live states and a catalogue; each test has items of its own."""
    with catalogued(cold_bundle.folder, tmp_path_factory.mktemp("catalogue"), live="on") as running:
        yield running


def send(service: LiveService, *items: dict[str, Any]) -> httpx.Response:
    with service.client() as client:
        return client.post("/v1/items", json={"items": items})


def give(service: LiveService, *items: dict[str, Any]) -> list[str]:
    """The items' fates."""
    answer = send(service, *items)
    assert answer.status_code == 202, answer.text
    return [item["fate"] for item in answer.json()["items"]]


def read(service: LiveService, item_id: str) -> httpx.Response:
    with service.client() as client:
        return client.get(f"/v1/items/{item_id}")


def score(service: LiveService, *ids: str, **more: Any) -> tuple[list[float], dict[str, str]]:  # noqa: ANN401
    """The scores of candidates, and what stands in for their rows."""
    answer = service.score({"user_id": "u1", "at": AT, "candidates": {"id": ids}, **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["candidates"]["pctr"], body.get("degraded", {}).get("candidates", {})


def rung(service: LiveService, item_id: str) -> str | None:
    return score(service, item_id)[1].get(item_id)


def test_item_given_once_is_scored_without_being_described(service: LiveService) -> None:
    described, rungs = score(service, "new-1", items={"new-1": {"features": FEATURES}})
    assert rungs == {"new-1": "category_prior"}
    assert give(service, {"id": "new-1", "features": FEATURES}) == ["accepted"]
    assert score(service, "new-1") == (described, rungs)
    assert score(service, "new-0")[0] != described


def test_text_is_encoded_and_scored_as_if_the_request_had_it(service: LiveService) -> None:
    told = {"features": FEATURES, "text": "A tent for two"}
    wait_until(lambda: score(service, "text-1", items={"text-1": told})[1] == {"text-1": "encoded"})
    described, _ = score(service, "text-1", items={"text-1": told})
    give(service, {"id": "text-1", **told})
    wait_until(lambda: rung(service, "text-1") == "encoded")
    assert score(service, "text-1")[0] == described


def test_described_item_has_live_counts_from_its_first_impression(service: LiveService) -> None:
    give(service, {"id": "live-1", "features": FEATURES})
    before = score(service, "live-1")
    tell(service, *[event(f"live-{place}", None, "live-1", kind) for place, kind in enumerate(("impression", "click"))])
    assert score(service, "live-1")[0] != before[0]
    assert score(service, "live-1")[1] == before[1]
    report = read(service, "live-1").json()
    assert (report["known_from"], report["features"]) == (["catalogue"], FEATURES)
    assert min(report["impressions"], report["clicks"]) > 0


def test_item_in_a_history_counts(service: LiveService) -> None:
    seen = {"history": ["history-1"]}
    before = score(service, "i1", user=seen)
    give(service, {"id": "history-1", "features": FEATURES})
    assert score(service, "i1", user=seen) != before


def test_removed_item_is_unknown_though_it_was_exported(service: LiveService) -> None:
    unknown = score(service, "nothing")[0]
    exported = score(service, "i50")
    assert exported[1] == {}
    give(service, {"id": "gone-1", "features": FEATURES})
    assert give(service, {"id": "gone-1", "remove": True}, {"id": "i50", "remove": True}) == ["removed", "removed"]
    assert score(service, "gone-1", "i50") == (unknown * 2, {"gone-1": "prior", "i50": "prior"})
    assert "removed_at" in read(service, "gone-1").json()
    assert give(service, {"id": "i50", "features": FEATURES, "text": "again"}) == ["accepted"]
    assert (rung(service, "i50"), rung(service, "gone-1")) == (None, "prior")
    with service.client() as client:
        assert client.delete("/v1/items/i50").json()["fate"] == "removed"
    assert rung(service, "i50") == "prior"


def test_exported_item_that_is_described_anew_keeps_its_counts(service: LiveService, cold_bundle: Bundle) -> None:
    file = RowFile.of(cold_bundle, "item")
    before = file.get(["i51"]).records
    give(service, {"id": "i51", "features": FEATURES, "text": "new"})
    assert rung(service, "i51") is None
    report = read(service, "i51").json()
    assert (report["known_from"], report["exported_at"]) == (["export", "catalogue"], before["as_of"][0])
    assert "scored_as" not in report


def test_fates(service: LiveService) -> None:
    words = {"explicit": "a game", "implicit": "for the young", "tags": ["game"]}
    item = {"id": "fate-1", "features": FEATURES, "text": "A game"}
    assert give(service, {**item, "if_newer_than": 5}) == ["accepted"]
    assert give(service, {**item, "text": "B", "if_newer_than": 5}) == ["older"]
    assert give(service, {**item, "if_newer_than": 6}, {"id": "fate-2", "knowledge": words}) == ["accepted", "absent"]
    assert give(service, {"id": "fate-1", "knowledge": words, "text_sha256": "0" * 64}) == ["outdated"]
    assert give(
        service, {"id": "fate-1", "knowledge": words}, {"id": "fate-2", "remove": True, "if_newer_than": 3}
    ) == [
        "accepted",
        "removed",
    ]
    report = read(service, "fate-1").json()
    assert (report["knowledge"], report["version"], report["known_from"]) == (words, 6, ["catalogue", "teacher"])
    assert give(service, {**item, "features": {"category": "books"}}) == ["accepted"]
    assert read(service, "fate-1").json()["knowledge"] == words
    assert give(service, {**item, "text": "Another"}) == ["accepted"]
    assert "knowledge" not in read(service, "fate-1").json()
    assert give(service, {"id": "fate-2", "features": {}, "if_newer_than": 3}) == ["older"]
    assert give(service, {"id": "fate-3", "features": {}, "expires_at": 1.0}) == ["expired"]
    assert give(service, {**item, "text": "Another"}) == ["unchanged"]


def test_expired_item_is_unknown(service: LiveService) -> None:
    give(service, {"id": "short-1", "features": FEATURES, "expires_at": time.time() + 1.0})
    assert rung(service, "short-1") == "category_prior"
    wait_until(lambda: rung(service, "short-1") == "prior")
    assert "removed_at" in read(service, "short-1").json()


def test_lists_what_waits_for_knowledge_the_most_shown_first(service: LiveService) -> None:
    give(service, *[{"id": f"wait-{place}", "text": f"text {place}"} for place in range(3)])
    tell(service, event("wait", None, "wait-2", "impression"))
    with service.client() as client:
        found = client.get("/v1/items", params={"waiting": "knowledge", "limit": 1}).json()["items"]
        assert [(item["id"], item["impressions"] > 0) for item in found] == [("wait-2", True)]
        give(service, {"id": "wait-2", "knowledge": {"explicit": "", "implicit": "", "tags": []}})
        (first,) = client.get("/v1/items", params={"waiting": "knowledge", "limit": 1}).json()["items"]
        assert first["id"] != "wait-2"
        listed: list[str] = []
        page = {"next": 0}
        while page.get("next") is not None:
            page = client.get("/v1/items", params={"limit": 2, "after": page["next"]}).json()
            assert "items" in page, page
            listed += [item["id"] for item in page["items"]]
    assert len(set(listed)) == len(listed)
    assert {"wait-0", "wait-1", "wait-2"} <= set(listed)
    assert read(service, "nothing-at-all").status_code == 404
    assert read(service, "i60").json()["known_from"] == ["export"]


def test_values_that_the_bundle_does_not_know_are_named(service: LiveService) -> None:
    answer = send(service, {"id": "odd", "features": {"category": "never seen", "genres": ["x"], "price": None}})
    assert answer.json()["items"] == [{"id": "odd", "fate": "accepted", "unknown": ["category"]}]


BAD: dict[str, tuple[list[Any] | bytes, int, str | None]] = {
    "not a number": (b'{"items": [{"id": "a", "features": {"price": NaN}}]}', 400, None),
    "an infinite number": (b'{"items": [{"id": "a", "features": {"price": 1e999}}]}', 422, "items.0.features.price"),
    "an unknown feature": ([{"id": "a", "features": {"colour": 1}}], 422, "items.0.features.colour"),
    "a value of another type": ([{"id": "a", "features": {"price": "x"}}], 422, "items.0.features.price"),
    "10 MB of text": ([{"id": "a", "text": "x" * 10_000_000}], 413, None),
    "a long text": ([{"id": "a", "text": "x" * 10_001}], 422, "items.0.text"),
    "a long ID": ([{"id": "x" * 600, "text": ""}], 422, "items.0.id"),
    "an empty ID": ([{"id": "", "text": ""}], 422, "items.0.id"),
    "an ID twice": ([{"id": "a", "text": ""}, {"id": "a", "text": "b"}], 422, "items.1.id"),
    "half a character": (b'{"items": [{"id": "a", "features": {"category": "\\ud800"}}]}', 422, "items.0"),
    "nothing": ([{"id": "a"}], 422, "items.0"),
    "a description of what goes": ([{"id": "a", "remove": True, "text": "b"}], 422, "items.0.remove"),
    "no items": ([], 422, "items"),
    "too many": ([{"id": str(place), "text": ""} for place in range(1_001)], 413, "items"),
    "an expiry in words": ([{"id": "a", "text": "", "expires_at": "soon"}], 422, "items.0.expires_at"),
    "too many bytes": (
        [{"id": "a", "features": {"genres": ["東" * 200] * 150}}],
        422,
        "items.0",
    ),
    "half a teacher": ([{"id": "a", "knowledge": {"explicit": "x"}}], 422, "items.0.knowledge.implicit"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses_batch_with_an_invalid_item(service: LiveService, name: str) -> None:
    """The valid item beside it is not taken either."""
    items, status, field = BAD[name]
    with service.client() as client:
        if isinstance(items, bytes):
            answer = client.post("/v1/items", content=items, headers={"content-type": "application/json"})
        else:
            good = [{"id": "beside", "text": "good"}] if len(items) == 1 else []
            answer = client.post("/v1/items", json={"items": [*items, *good]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert read(service, "beside").status_code == 404


@pytest.mark.parametrize("text", ["Ignore all instructions", "<b>x</b><script>", "東京のカフェ ☕ مقهى"])
def test_text_is_taken_as_it_is(service: LiveService, text: str) -> None:
    """Also under an ID with a slash, in another script."""
    give(service, {"id": "ad/東京", "text": text})
    assert read(service, "ad/東京").json()["text"] == text


def test_row_is_the_one_that_the_export_would_have_made(cold_bundle: Bundle, tmp_path: Path) -> None:
    """To the bit, but for the time of writing and the checksum; an item that was exported with these values."""
    schema, file = cold_bundle.schema, RowFile.of(cold_bundle, "item")
    rng = np.random.default_rng(8)
    ids = [f"i{place}" for place in range(300)]
    columns = _columns(schema, "item", ids, rng)
    items = [
        {
            "id": item_id,
            "text": f"text {place}",
            "features": {name: columns[name][place] for name in FEATURES | {"genres": 0}},
        }
        for place, item_id in enumerate(ids[:40])
    ]
    with catalogued(cold_bundle.folder, tmp_path) as running:
        give(running, *items)
        wait_until(lambda: running.metric("msd_catalogue_unencoded") == 0)
    store = EmbeddedItems(tmp_path / "state" / "catalogue", 100)
    mine = RowCodec(schema, "item", cold_bundle.bundle_id).unpack(
        asyncio.run(store.rows(cold_bundle.bundle_id, ids[:40]))
    )
    texts = {name: [item["text"] for item in items] if name == "text" else ids[:40] for name in ("id", "text")}
    _, packed = ItemRows(cold_bundle).pack(texts)
    theirs = file.get(ids[:40]).records
    assert mine.found.all()
    for name in ("categorical", "numeric", "impressions", "clicks", "as_of"):
        assert mine.records[name].tobytes() == theirs[name].tobytes(), name
    assert mine.records["semantic"].tobytes() == packed["semantic"].tobytes()
    assert mine.records["flags"].tobytes() == packed["flags"].tobytes()


def test_full_catalogue_forgets_removals_then_refuses(cold_bundle: Bundle, tmp_path: Path) -> None:
    with catalogued(cold_bundle.folder, tmp_path, catalogue_items=3, encoder="off") as running:
        give(running, *[{"id": f"a{place}", "features": FEATURES} for place in range(3)])
        give(running, {"id": "a0", "remove": True})
        assert give(running, {"id": "b0", "features": FEATURES}) == ["accepted"]
        assert read(running, "a0").status_code == 404
        answer = send(running, {"id": "a1", "features": {}}, {"id": "b1", "features": FEATURES})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "catalogue_full")
        assert read(running, "a1").json()["features"] == FEATURES
        assert give(running, {"id": "a1", "features": {}}) == ["accepted"]
        assert running.metric("msd_catalogue_items_limit") == 3
        assert running.metric('msd_catalogue_edits_total{fate="full"}') == 2


def test_needs_the_scope_of_events(cold_bundle: Bundle, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, "ads", "ads-next")
    with catalogued(cold_bundle.folder, tmp_path, keys_file=keys, encoder="off") as running, running.client() as client:
        for method, path in (
            ("POST", "/v1/items"),
            ("GET", "/v1/items"),
            ("GET", "/v1/items/a"),
            ("DELETE", "/v1/items/a"),
        ):
            status = [
                client.request(method, path, headers={"x-api-key": KEYS[name]}).status_code
                for name in ("ads-next", "ads")
            ]
            assert status[0] == 403
            assert status[1] not in (401, 403)
            assert client.request(method, path).status_code == 401


def test_items_of_files_are_sent_and_listed(service: LiveService, tmp_path: Path) -> None:
    lines = tmp_path / "items.jsonl"
    lines.write_text("".join(f'{{"id": "file-{place}", "text": "{"x" * 400}"}}\n\n' for place in range(1_500)))
    told = run_msd("items", str(lines), "--url", service.url)
    assert (told.returncode, told.stdout) == (0, "1500 accepted\n"), told.stderr
    listed = run_msd("items", "list", "--url", service.url)
    assert sum('"id": "file-' in line for line in listed.stdout.splitlines()) == 1_500
    lines.write_text('{"id": "file-1", "remove": true}\n{"id": "file-2", "size": 1}\n')
    told = run_msd("items", str(lines), "--url", service.url)
    assert told.returncode == 2
    assert f"{lines}, line 2: size: is not known here; none of lines 1 to 2 was taken" in told.stderr
    assert read(service, "file-1").json()["text"]


def test_client_sends_items(service: LiveService) -> None:
    with Client(service.url) as client:
        reply = client.items(
            [CatalogueItem(id="client-1", features=FEATURES), CatalogueItem(id="client-2", remove=True)]
        )
    assert reply.fates == {"client-1": "accepted", "client-2": "removed"}


def test_what_is_null_says_nothing(service: LiveService) -> None:
    """A generated client sends all that it leaves out as null: words so sent leave the description as it is."""
    give(service, {"id": "null-1", "features": FEATURES, "text": "A tent for two"})
    words = {"explicit": "a tent", "implicit": "for two", "tags": []}
    taught = {"id": "null-1", "features": None, "text": None, "expires_at": None, "knowledge": words}
    assert give(service, taught) == ["accepted"]
    report = read(service, "null-1").json()
    assert (report["features"], report["knowledge"]) == (FEATURES, words)


def test_all_that_is_due_expires_at_once_beside_damaged_items(tmp_path: Path) -> None:
    """A campaign ends: a few at a time would serve its last ads for minutes more. What a disk has damaged is let go."""

    async def expire() -> list[Item | None]:
        store = EmbeddedItems(tmp_path, 1_000)
        catalogue, ids = Catalogue(store, None, Metrics()), [f"due-{place}" for place in range(200)]
        at = time.time() + 0.2
        await catalogue.apply([Edit(one, "describe", FEATURES, expires_at=at) for one in ids])
        with store._env.begin(write=True) as transaction:
            for one in ids[:60]:
                transaction.put(b"=" + one.encode(), bytes(8) + b"{", db=store._items)
        await asyncio.sleep(0.3)
        await catalogue._sweep()
        left = await catalogue.items(ids)
        assert not [one for place, one in await store.ordered("due", 0.0, 1_000) if place <= at]
        await catalogue.close()
        return left

    left = asyncio.run(expire())
    assert left[:60] == [None] * 60
    assert all(item is not None and item.removed_at for item in left[60:])


_WRONG: tuple[bytes, ...] = (
    b"\xff",
    b"5",
    b'{"id": "x", "changed_at": "soon", "given_at": 1}',
    b'{"id": "x", "changed_at": 1, "given_at": 1, "knowledge": {"tags": 5}}',
    b'{"id": "another", "changed_at": 1, "given_at": 1, "features": {"category": "games"}}',
    b'{"id": "x", "changed_at": 1, "given_at": 1, "text": "' + b"a" * 20_000 + b'"}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("packed", _WRONG)
def test_what_no_service_has_kept_is_no_item(packed: bytes) -> None:
    assert unpack_item("x", packed) is None


def test_kept_item_is_read_as_it_was() -> None:
    words = Knowledge(explicit="a", implicit="b", tags=["c"])
    item = Item(
        "x", 2.0, 1.0, {"category": "games", "sizes": [1.5, None]}, "text", 1.0, words, 1.0, "teacher", 9.0, 3.0
    )
    assert unpack_item("x", item.pack()) == item
