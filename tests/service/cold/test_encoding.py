"""Texts wait bounded in number, are encoded at a bounded rate, each once, and fail alone."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from msd.contract.bundle import TOKENIZER, Bundle
from msd.contract.encoded import Vector
from service.cold.encoders import Encoders
from service.cold.encoding import Encoding, Shelf
from service.cold.messages import OUTCOMES, Question, Told, pack_answer, unpack_answer
from service.cold.text_encoder import TextEncoder
from service.cold.vector_cache import VectorCache
from service.metrics import Metrics
from tests.service.encoder_graph import POISON

PATIENCE_S = 60.0
FAST = 100_000.0


def question(bundle: Bundle, *texts: str, wait_s: float = PATIENCE_S) -> Question:
    """A question about some texts."""
    assert bundle.encoder_identity is not None
    return Question(
        str(bundle.folder), bundle.manifest.sha256, bundle.bundle_id, bundle.encoder_identity, 8, wait_s, texts
    )


def encode(
    talk: Callable[[Encoding], Awaitable[None]], per_s: float = FAST, most: int = 100, shelf: Shelf | None = None
) -> Metrics:
    """Talks to an encoding while it runs."""
    metrics = Metrics()

    async def both() -> None:
        encoders = Encoders()
        encoding = Encoding(encoders, metrics, per_s, most, shelf)
        running = asyncio.create_task(encoding.run())
        await talk(encoding)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        encoders.close()

    asyncio.run(both())
    return metrics


def outcomes(told: Sequence[Told]) -> list[str]:
    return [one.outcome for one in told]


def test_a_text_is_encoded_once_whoever_asks(cold_bundle: Bundle) -> None:
    texts = ["a tent", "longer " * 30, "a tent", "Café ☕"]
    alone = TextEncoder(cold_bundle)

    async def talk(encoding: Encoding) -> None:
        first, second = await asyncio.gather(
            encoding.ask(question(cold_bundle, *texts)), encoding.ask(question(cold_bundle, *texts))
        )
        assert outcomes(first) == outcomes(second) == ["encoded"] * 4
        for text, one, other in zip(texts, first, second, strict=True):
            due = alone.encode(alone.tokenise([text]))[0]
            assert one.vector is not None
            assert (np.abs(one.vector - due) <= np.spacing(np.abs(due))).all()
            assert one.vector is other.vector
        assert outcomes(await encoding.ask(question(cold_bundle, *texts))) == ["shared"] * 4

    metrics = encode(talk)
    assert "msd_encoder_waiting 0.0" in metrics.exposition().decode()


def test_what_is_not_there_in_time_is_late_and_there_the_next_time(cold_bundle: Bundle) -> None:
    async def talk(encoding: Encoding) -> None:
        assert outcomes(await encoding.ask(question(cold_bundle, "a tent", wait_s=0.0))) == ["late"]
        found = await encoding.ask(question(cold_bundle, "a tent"))
        assert found[0].outcome in ("encoded", "shared")
        assert found[0].vector is not None

    encode(talk)


def test_more_than_may_wait_is_dropped_and_the_rate_is_kept(cold_bundle: Bundle) -> None:
    """One goes at once and the next in a thousand seconds; two may wait."""
    texts = [f"text {number}" for number in range(6)]

    async def talk(encoding: Encoding) -> None:
        assert outcomes(await encoding.ask(question(cold_bundle, *texts, wait_s=0.0))) == ["late"] * 2 + ["dropped"] * 4
        async with asyncio.timeout(PATIENCE_S):
            while outcomes(await encoding.ask(question(cold_bundle, texts[0]))) != ["shared"]:
                await asyncio.sleep(0.001)
        told = await encoding.ask(question(cold_bundle, *texts[1:], wait_s=0.05))
        assert outcomes(told) == ["late", "late", "dropped", "dropped", "dropped"]
        # Behind more than a second's worth nobody waits, however long he would.
        assert outcomes(await encoding.ask(question(cold_bundle, texts[2]))) == ["late"]

    metrics = encode(talk, per_s=0.001, most=2)
    assert "msd_encoder_waiting 2.0" in metrics.exposition().decode()


def test_a_text_that_fails_fails_alone(cold_bundle: Bundle) -> None:
    async def talk(encoding: Encoding) -> None:
        told = await encoding.ask(question(cold_bundle, "a tent", f"b {POISON}", "c"))
        assert outcomes(told) == ["encoded", "failed", "encoded"]

    encode(talk)


def test_a_bundle_whose_encoder_cannot_be_had_fails_alone(cold_bundle: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(cold_bundle.folder, changed)
    (changed / TOKENIZER).write_bytes(cold_bundle.path(TOKENIZER).read_bytes() + b"\n")
    strangers = [
        question(cold_bundle, "a")._replace(folder=str(tmp_path)),
        question(cold_bundle, "a")._replace(folder=str(bundle.folder)),
        question(cold_bundle, "a")._replace(manifest_sha256="0" * 64),
        question(cold_bundle, "a")._replace(folder=str(changed)),
    ]

    async def talk(encoding: Encoding) -> None:
        for one in strangers:
            assert outcomes(await encoding.ask(one)) == ["failed"]
        assert outcomes(await encoding.ask(question(cold_bundle, "a"))) == ["encoded"]

    encode(talk)


class _Shelf:
    """What other services made: one text."""

    def __init__(self, text: str, vector: Vector) -> None:
        self.text, self.vector = text, vector
        self.written: list[tuple[str, int]] = []

    async def read(self, question: Question, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        return {key: self.vector for key, text in zip(keys, question.texts, strict=True) if text == self.text}

    async def write(self, bundle_id: str, vectors: dict[bytes, Vector]) -> None:
        self.written.append((bundle_id, len(vectors)))


def test_what_another_service_made_is_not_made_again(cold_bundle: Bundle) -> None:
    shelf = _Shelf("made elsewhere", np.ones(8, np.float16))

    async def talk(encoding: Encoding) -> None:
        told = await encoding.ask(question(cold_bundle, "made elsewhere", "made here"))
        assert outcomes(told) == ["redis", "encoded"]
        assert told[0].vector is not None
        assert told[0].vector.tolist() == [1.0] * 8
        assert outcomes(await encoding.ask(question(cold_bundle, "made elsewhere", "made here"))) == ["shared"] * 2

    encode(talk, shelf=shelf)
    assert shelf.written == [(cold_bundle.bundle_id, 1)]


def test_answers_come_back_as_they_were_packed() -> None:
    told = [Told(one, np.full(3, place, np.float16) if place < 3 else None) for place, one in enumerate(OUTCOMES)]
    found = unpack_answer(pack_answer(told[::-1]), len(told), 3)[::-1]

    assert outcomes(found) == list(OUTCOMES)
    assert [None if one.vector is None else one.vector.tolist() for one in found] == [
        [0.0] * 3, [1.0] * 3, [2.0] * 3, None, None, None
    ]  # fmt: skip


@pytest.mark.parametrize("most", [1, 3])
def test_those_asked_for_least_make_room(most: int) -> None:
    cache = VectorCache(most)
    for place in range(most):
        cache.put(b"%d" % place, np.full(2, place, np.float16))
    assert cache.get(b"0") is not None
    cache.put(b"new", np.zeros(2, np.float16))

    assert len(cache) == most
    assert (cache.get(b"0") is None) == (most == 1)
    assert cache.get(b"new") is not None
