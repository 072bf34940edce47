"""Texts wait bounded in number, are encoded at a bounded rate, once each, and fail alone; stored vectors are proved."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from msd.contract.bundle import TOKENIZER, Bundle
from service.cold.encoding import EncodedText, Encoding, Rate, text_key
from service.cold.text_encoder import Encoders, TextEncoder
from service.lru_cache import LruCache
from service.telemetry.metrics import Metrics
from tests.bundles.encoder_graph import POISON

PATIENCE_S = 60.0
FAST = 100_000.0
Start = Callable[..., Encoding]

pytestmark = pytest.mark.anyio


def keys_of(bundle: Bundle, texts: Iterable[str]) -> dict[bytes, str]:
    assert bundle.encoder_identity is not None
    return {text_key(bundle.encoder_identity, text): text for text in texts}


async def ask(
    encoding: Encoding, bundle: Bundle, *texts: str, wait_s: float = PATIENCE_S, most: int = 1_000
) -> list[EncodedText]:
    """What came of some texts, in their order."""
    encoded = await encoding.ask(bundle, keys_of(bundle, texts), wait_s, most)
    return [encoded[key] for text in texts for key in keys_of(bundle, [text])]


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Encoding]]:
    """Starts an encoding, which has not ended by the end of the test."""
    encoders, running = Encoders(), []

    def begin(per_s: float = FAST, most: int = 100) -> Encoding:
        encoding = Encoding(encoders, Metrics(), per_s, most)
        running.append(asyncio.create_task(encoding.run()))
        return encoding

    yield begin
    for task in running:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await encoders.close()


def outcomes(texts: Sequence[EncodedText]) -> list[str]:
    return [text.outcome for text in texts]


async def test_text_is_encoded_once_whoever_asks(start: Start, cold_bundle: Bundle) -> None:
    texts = ["a tent", "longer " * 30, "a tent", "Café ☕"]
    alone = TextEncoder(cold_bundle)

    encoding = start()
    first, second = await asyncio.gather(ask(encoding, cold_bundle, *texts), ask(encoding, cold_bundle, *texts))
    assert outcomes(first) == outcomes(second) == ["encoded"] * 4
    for text, encoded, other in zip(texts, first, second, strict=True):
        due = alone.encode(alone.tokenise([text]))[0]
        assert encoded.vector is not None
        assert (np.abs(encoded.vector - due) <= np.spacing(np.abs(due))).all()
        assert encoded.vector is other.vector
    assert outcomes(await ask(encoding, cold_bundle, *texts)) == ["held"] * 4
    assert "msd_encoder_waiting 0.0" in encoding._metrics.exposition().decode()


async def test_late_text_is_encoded_for_the_next_request(start: Start, cold_bundle: Bundle) -> None:
    encoding = start()
    assert outcomes(await ask(encoding, cold_bundle, "a tent", wait_s=0.0)) == ["late"]
    found = await ask(encoding, cold_bundle, "a tent")
    assert found[0].outcome in ("encoded", "held")
    assert found[0].vector is not None


async def test_more_than_may_wait_is_dropped_and_the_rate_is_kept(start: Start, cold_bundle: Bundle) -> None:
    """One goes at once and the next in a thousand seconds; two may wait."""
    texts = [f"text {number}" for number in range(6)]

    encoding = start(per_s=0.001, most=2)
    assert outcomes(await ask(encoding, cold_bundle, *texts, wait_s=0.0)) == ["late"] * 2 + ["dropped"] * 4
    async with asyncio.timeout(PATIENCE_S):
        while outcomes(await ask(encoding, cold_bundle, texts[0])) != ["held"]:
            await asyncio.sleep(0.001)
    encoded = await ask(encoding, cold_bundle, *texts[1:], wait_s=0.05)
    assert outcomes(encoded) == ["late", "late", "dropped", "dropped", "dropped"]
    # Behind more than a second's worth nobody waits, however long he would.
    assert outcomes(await ask(encoding, cold_bundle, texts[2])) == ["late"]
    assert "msd_encoder_waiting 2.0" in encoding._metrics.exposition().decode()


async def test_text_that_fails_fails_alone(start: Start, cold_bundle: Bundle) -> None:
    encoding = start()
    encoded = await ask(encoding, cold_bundle, "a tent", f"b {POISON}", "c")
    assert outcomes(encoded) == ["encoded", "failed", "encoded"]


async def test_bundle_without_its_encoder_fails_alone(start: Start, cold_bundle: Bundle, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(cold_bundle.folder, changed)
    (changed / TOKENIZER).write_bytes(cold_bundle.path(TOKENIZER).read_bytes() + b"\n")

    encoding = start()
    for folder in (tmp_path, changed):
        bundle = Bundle(folder, cold_bundle.manifest)
        assert outcomes(await ask(encoding, bundle, "a")) == ["failed"]
    assert outcomes(await ask(encoding, cold_bundle, "a")) == ["encoded"]


async def test_texts_per_request_are_bounded(start: Start, cold_bundle: Bundle) -> None:
    encoding = start()
    assert outcomes(await ask(encoding, cold_bundle, "a", "b", "c", most=2)) == ["encoded", "encoded", "dropped"]
    # Those that are held do not count.
    assert outcomes(await ask(encoding, cold_bundle, "a", "b", "c", most=1)) == ["held", "held", "encoded"]


async def test_loading_and_encoding_leave_the_loop_alone(
    start: Start, cold_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on while an encoder loads, and while texts are made tokens and vectors."""
    may_go, stages = threading.Event(), []

    def held_up(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def hold_up(*arguments: Any) -> Any:  # noqa: ANN401
            stages.append(stage)
            assert may_go.wait(PATIENCE_S)
            may_go.clear()
            return work(*arguments)

        return hold_up

    monkeypatch.setattr("service.cold.text_encoder.TextEncoder", held_up("load", TextEncoder))
    monkeypatch.setattr(TextEncoder, "tokenise", held_up("tokenise", TextEncoder.tokenise))
    monkeypatch.setattr(TextEncoder, "encode", held_up("encode", TextEncoder.encode))

    encoding = start()
    asking = asyncio.create_task(ask(encoding, cold_bundle, "a tent"))
    while not asking.done():
        await asyncio.sleep(0.001)
        may_go.set()
    assert outcomes(await asking) == ["encoded"]
    assert stages[0] == "load"
    assert stages[-2:] == ["tokenise", "encode"]


@pytest.mark.parametrize("most", [1, 3])
def test_least_recently_used_vectors_are_evicted(most: int) -> None:
    cache: LruCache[int, str] = LruCache(most)
    for number in range(most):
        cache.put({number: "old"})
    assert cache.get([0]) == ["old"]
    cache.put({-1: "new"})

    assert len(cache) == most
    assert cache.get([0, -1]) == ["old" if most > 1 else None, "new"]


async def test_rate_grants_a_burst_then_a_fifth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("service.cold.encoding.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("service.cold.encoding.asyncio", SimpleNamespace(sleep=sleep))
    rate = Rate(8_192.0)
    assert [await rate.take(count) for count in (1, 20_000, 20_000)] == [1, 8_191, 1_638]
    assert now == pytest.approx(100.2)
