"""A body that Python parses is bounded in keys and values, and a large one does not hold the event loop."""

import asyncio
import threading
from collections.abc import Iterator

import httpx
import pytest

from msd.contract.bundle import Bundle
from service.errors import BodyTooLarge
from service.http.json_parser import JsonParser
from tests.service.live import live_service

pytestmark = pytest.mark.anyio
LARGE = b'{"a": "' + b"x" * 2**15 + b'"}'


@pytest.mark.parametrize(("body", "is_large"), [(b"{}", False), (LARGE, True)])
async def test_large_body_is_parsed_in_a_thread(body: bytes, is_large: bool) -> None:
    thread = await JsonParser(10).parse(body, lambda _: threading.current_thread())
    assert (thread is not threading.current_thread()) == is_large


async def test_large_bodies_are_parsed_one_at_a_time() -> None:
    parser, running = JsonParser(10), threading.Lock()

    def parse(body: bytes) -> int:
        assert running.acquire(blocking=False)
        size = len(bytearray(body) * 99) // 99
        running.release()
        return size

    assert await asyncio.gather(*(parser.parse(LARGE, parse) for _ in range(20))) == [len(LARGE)] * 20


@pytest.mark.parametrize("part", [b"{}", b"[]", b"1", b'"a"'])
async def test_body_of_too_many_parts_is_not_parsed(part: bytes) -> None:
    parsed: list[bytes] = []
    parser = JsonParser(10)
    for count in (9_000, 21_000):
        body = b"[" + b",".join([part] * count) + b"]"
        if count == 9_000:
            await parser.parse(body, parsed.append)
        else:
            with pytest.raises(BodyTooLarge, match="more than 20,000 keys and values"):
                await parser.parse(body, parsed.append)
    assert len(parsed) == 1


@pytest.fixture(scope="module")
def client(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("parser")
    with live_service(bundle.folder, folder, live="on", state_dir=folder / "state") as running, running.client() as one:
        yield one


@pytest.mark.parametrize("path", ["/v1/score", "/v1/events", "/v1/openrtb", "/v2/models/msd/infer"])
def test_every_route_bounds_what_it_parses(client: httpx.Client, path: str) -> None:
    body = b'{"user_id": "u", "x": [' + b",".join([b"{}"] * 300_000) + b"]}"
    assert client.post(path, content=body, headers={"Content-Type": "application/json"}).status_code == 413
