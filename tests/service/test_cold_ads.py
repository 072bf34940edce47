"""Cold ads over HTTP: their text counts as soon as it is encoded, and never costs a request its answer."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import orjson
import pytest
from tokenizers import Tokenizer

from msd.contract.bundle import ENCODER, RANKER, ROWS, TOKENIZER, Bundle
from msd.contract.errors import MsdError
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec
from service.cold.cold_ads import open_cold_ads
from service.cold.text_encoder import Encoders
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.assembled import assembled, wanted_items
from tests.bundles.encoder_graph import encode_alone
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import PAYS, Recipe
from tests.service.live import LiveService, live_service, wait_until

FEATURES = {"category": "games", "price": 9.5}
UNSURE = PAYS.model_copy(update={"ci95": (-0.01, 0.11)})
ONE_ITEM = PAYS.model_copy(update={"items": 1, "ci95": None})


@pytest.fixture(scope="module")
def cold(cold_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """An encoder that is as fast as it can be, and waited for."""
    settings: dict[str, Any] = {"encoder": "on", "ENCODER_WAIT_S": 60, "encoder_per_s": 10_000}
    with live_service(cold_bundle.folder, tmp_path_factory.mktemp("cold"), **settings) as running:
        wait_until(lambda: any(line["event"] == "encoder_ready" for line in running.log()))
        yield running


def asking(*texts: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A request for cold ads of these texts, and for one that has a row."""
    ids = [f"cold {place}" for place in range(len(texts))]
    return {
        "user_id": "u1",
        "at": AT,
        "candidates": {"id": [*ids, "i1"]},
        "items": {item: {"text": text, "features": FEATURES} for item, text in zip(ids, texts, strict=True)},
        **more,
    }


def score(service: LiveService, document: dict[str, Any]) -> dict[str, Any]:
    answer = service.score(document)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def rungs(service: LiveService, *texts: str) -> list[str | None]:
    """From what each text's ad is scored."""
    degraded = score(service, asking(*texts)).get("degraded", {}).get("candidates", {})
    assert degraded.get("i1") in (None, "cached")
    return [degraded.get(f"cold {place}") for place in range(len(texts))]


def expected(bundle: Bundle, document: dict[str, Any]) -> list[float]:
    """The scores by the bundle alone, every text encoded by itself."""
    schema = bundle.schema
    body = orjson.dumps(document)
    texts = {item: told["text"] for item, told in document["items"].items()}
    codecs = {side: RowCodec(schema, side, bundle.bundle_id) for side in ROWS}  # type: ignore[arg-type]
    files = {side: RowFile(bundle.path(name), codecs[side], bundle.bundle_id) for side, name in ROWS.items()}
    user = codecs["user"].unpack(files["user"].raw([document["user_id"]]))
    wanted = wanted_items(schema, body, user)
    graph, tokenizer = bundle.path(ENCODER).read_bytes(), Tokenizer.from_file(str(bundle.path(TOKENIZER)))
    buffers = files["item"].raw(wanted)
    for place, item_id in enumerate(document["candidates"]["id"]):
        if buffers[place] is None and item_id in texts:
            vector = encode_alone(graph, tokenizer, texts[item_id]).astype(np.float16)
            buffers[place] = codecs["item"].encoded(vector[None])[0].tobytes()
    tensors = assembled(schema, body, AT, user, codecs["item"].unpack(buffers))
    session = onnxruntime.InferenceSession(bundle.path(RANKER), providers=["CPUExecutionProvider"])
    scores: list[float] = session.run(["pctr"], tensors)[0].tolist()
    return scores


def test_cold_ad_is_scored_by_its_text_as_offline(cold: LiveService, cold_bundle: Bundle) -> None:
    """In whatever company; an ad with a row keeps it, whatever text comes with it."""
    texts = ["A tent for two, light and dry", "x", "Café ☕ 東京", "long " * 100, "a\0b \x1b[31m <script>"]
    document = asking(*texts)
    document["items"]["i1"] = {"text": "not what the row says"}
    for _ in range(4):
        reply = score(cold, document)
        np.testing.assert_allclose(reply["candidates"]["pctr"], expected(cold_bundle, document), atol=1e-4)
        assert reply["degraded"] == {"candidates": {f"cold {place}": "encoded" for place in range(5)}}
    without = asking("")
    assert score(cold, without)["degraded"] == {"candidates": {"cold 0": "category_prior"}}
    assert abs(score(cold, without)["candidates"]["pctr"][0] - reply["candidates"]["pctr"][0]) > 1e-3
    wait_until(lambda: cold.metric('msd_degraded_total{rung="encoded",side="item"}') >= 20)


def test_more_texts_than_a_request_may_have_encoded_are_dropped_and_counted(cold: LiveService) -> None:
    texts = [f"flood {number} " + "x" * 300 for number in range(1_999)]
    reply = score(cold, asking(*texts))
    found = list(reply["degraded"]["candidates"].values())
    assert set(found) == {"encoded", "category_prior"}
    assert found.count("encoded") <= 256
    assert cold.metric('msd_encoded_total{result="dropped"}') >= 1_999 - 256
    assert len(reply["candidates"]["pctr"]) == 2_000


@pytest.mark.parametrize(
    ("text", "status"),
    [("x" * 10_000, 200), ("x" * 10_001, 422), ("\ud800", 422), (["a"], 422), ("\ufffe\U0010ffff" * 2_000, 200)],
)
def test_hostile_texts_are_refused_or_scored(cold: LiveService, text: object, status: int) -> None:
    body = json.dumps(asking() | {"candidates": {"id": ["a"]}, "items": {"a": {"text": text}}})
    with cold.client() as client:
        answer = client.post("/v1/score", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    if status == 422:
        assert answer.json()["error"]["field"] == "items.a.text"


WAITING: dict[str, Any] = {"ENCODER_WAIT_S": 60, "deadline_ms": 60_000}


def swap(service: LiveService, folder: Path, bundle: Bundle) -> None:
    """Point `current` to the bundle, and wait until it is served."""
    (folder / "next").symlink_to(bundle.folder)
    (folder / "next").replace(folder / "current")
    wait_until(lambda: score(service, asking("a tent"))["model_version"] == bundle.manifest.model_version)


def test_swap_to_a_bundle_without_a_sure_gain_leaves_texts_alone(cold_bundle: Bundle, tmp_path: Path) -> None:
    unsure = build_bundle(tmp_path / "unsure", Recipe(seed=1, encoder=True, cold_ads=UNSURE))
    (tmp_path / "current").symlink_to(cold_bundle.folder)
    with live_service(tmp_path, tmp_path, **WAITING) as service:
        assert rungs(service, "a tent") == ["encoded"]
        swap(service, tmp_path, unsure)
        assert rungs(service, "a tent") == ["category_prior"]
    with live_service(unsure.folder, tmp_path, **WAITING) as service:
        assert rungs(service, "a tent") == ["category_prior"]
        (left_off,) = (line for line in service.log() if line["event"] == "encoder_left_off")
        assert "gains +0.0500 AUC over a new ad's features (95 %: -0.0100 to +0.1100; 900 rows" in left_off["because"]


def test_swap_takes_the_new_bundle_s_encoder(cold_bundle: Bundle, tmp_path: Path) -> None:
    """Vectors of one encoder never meet another's rows, though their texts are the same."""
    after = build_bundle(tmp_path / "after", Recipe(seed=1, encoder=True))
    (tmp_path / "current").symlink_to(cold_bundle.folder)
    document = asking("a tent", "Café ☕")
    with live_service(tmp_path, tmp_path, **WAITING) as service:
        for bundle in (cold_bundle, after, cold_bundle):
            swap(service, tmp_path, bundle)
            wait_until(lambda: rungs(service, "a tent", "Café ☕") == ["encoded"] * 2)
            np.testing.assert_allclose(
                score(service, document)["candidates"]["pctr"], expected(bundle, document), atol=1e-4
            )


def test_encoder_is_opened_if_set_and_available(
    cold_bundle: Bundle, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_there(served: Bundle, encoder: str, place: Path | None = None) -> bool:
        settings = Settings.from_environ({"MSD_BUNDLE": str(place or served.folder), "MSD_ENCODER": encoder})
        return open_cold_ads(settings, [served], Metrics()) is not None

    assert [is_there(cold_bundle, setting) for setting in ("auto", "on", "off")] == [True, True, False]
    for number, found in enumerate((None, UNSURE, ONE_ITEM)):
        unproved = build_bundle(tmp_path / f"unproved {number}", Recipe(encoder=True, cold_ads=found))
        assert [is_there(unproved, setting) for setting in ("auto", "on", "off")] == [False, True, False]
    with pytest.raises(MsdError, match="MSD_ENCODER=on, but .* has no encoder"):
        is_there(bundle, "on")
    # Where bundles follow one another, a later one may have what the first has not.
    (tmp_path / "current").symlink_to(bundle.folder)
    for place in (tmp_path, tmp_path / "current"):
        assert [is_there(bundle, setting, place) for setting in ("auto", "on")] == [True, True]
    monkeypatch.setattr("service.cold.cold_ads.can_tokenise", lambda: False)
    assert not is_there(cold_bundle, "auto")
    with pytest.raises(MsdError, match=r"MSD_ENCODER=on needs tokenizers, .* pip install 'msd-ctr\[encode\]'"):
        is_there(cold_bundle, "on")


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="nice is a thread's own on Linux alone")
async def test_encoder_s_thread_alone_stands_back(cold_bundle: Bundle) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    encoders, before = Encoders(), niceness()
    await encoders.get(cold_bundle)
    theirs = await encoders.in_thread(niceness)
    await encoders.close()
    assert theirs >= max(10, before)
    assert niceness() == before
