"""A real service corrects scores by a file that changes under it: alike in the native core and in Python."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logit  # type: ignore[import-untyped]

from msd.contract.bundle import Bundle
from msd.contract.correction import CorrectionError, LearnedCorrection, read_corrections, write_corrections
from msd.contract.log import EventRecord
from operations.replay.log import LogReplay
from service.request_log.files import encode
from service.request_log.request_log import is_sampled
from service.scoring.model import open_corrections
from service.telemetry.metrics import Metrics
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, run_msd, wait_until
from tests.service.request_log.log import awaited

SOLD = LearnedCorrection(shift=-0.3, at=1e9, impressions=400, clicks=90)
LEARNED = LearnedCorrection(
    centre=-1,
    shift=0.3,
    slope=0.7,
    segments={"known": 0.1, "anonymous": -0.2},
    at=1e9,
    impressions=9_000,
    clicks=400,
    conversions=SOLD,
)
UNLOGGED = "r2"
PLAIN = golden_requests()[-1]
STRANGER = {**PLAIN, "user_id": None}
SKIPS_NATIVE = {**PLAIN, "user": {"features": {}}}
"""The same request in a form that the native core leaves to Python."""


class Corrected:
    """A service, the file of its corrections, and its log."""

    def __init__(self, service: LiveService, file: Path, log: Path, bundle_id: str) -> None:
        self.service, self.file, self.log, self.bundle_id = service, file, log, bundle_id

    def write(self, learned: LearnedCorrection) -> None:
        """Replace the file, and wait until the service has read it."""
        write_corrections(self.file, {self.bundle_id: learned})
        shift = f'msd_correction_shift{{bundle_id="{self.bundle_id}",head="pctr"}} {learned.shift}'
        wait_until(lambda: shift in self.metrics())

    def metrics(self) -> str:
        with self.service.client() as client:
            return client.get("/metrics").text

    def ask(self, document: dict[str, Any], request_id: str) -> dict[str, Any]:
        with self.service.client() as client:
            reply = client.post("/v1/score", json=document, headers={"X-Request-Id": request_id})
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def pctr(self, document: dict[str, Any], request_id: str = UNLOGGED) -> np.ndarray:
        return np.array(self.ask(document, request_id)["candidates"]["pctr"], np.float32)

    def pcvr(self, document: dict[str, Any]) -> np.ndarray:
        return np.array(self.ask(document, UNLOGGED)["candidates"]["pcvr"], np.float32)


@pytest.fixture(scope="module")
def corrected(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corrected]:
    """A service whose file of corrections is not there yet; it logs every other request."""
    folder = tmp_path_factory.mktemp("corrected")
    file, log = folder / "corrections.json", folder / "log"
    settings: dict[str, Any] = {"log_dir": log, "log_sample": 0.5, "LOG_FLUSH_S": 0.1}
    with live_service(bundle.folder, folder, corrections=file, **settings) as service:
        yield Corrected(service, file, log, bundle.bundle_id)


def test_scores_follow_the_file_alike_on_both_ways(corrected: Corrected) -> None:
    own, pcvr, strangers = corrected.pctr(PLAIN), corrected.pcvr(PLAIN), corrected.pctr(STRANGER)
    assert (corrected.pctr(SKIPS_NATIVE) == own).all()
    corrected.write(LEARNED)
    expected = LEARNED.within(["known"])(own)
    assert np.abs(expected - own).max() > 0.05

    for document in (PLAIN, SKIPS_NATIVE):
        assert corrected.pctr(document).tobytes() == expected.tobytes()
        assert corrected.pcvr(document).tobytes() == SOLD(pcvr).tobytes()
    assert corrected.pctr(STRANGER).tobytes() == LEARNED.within(["anonymous"])(strangers).tobytes()
    priced = corrected.ask({**PLAIN, "candidates": {"id": ["i1", "i2"], "bid": [1, 2]}}, UNLOGGED)["candidates"]
    assert priced["ecpm"] == pytest.approx(np.multiply([1_000, 2_000], priced["pctr"]).tolist())
    assert priced["pctr"] == pytest.approx(expected[1:3].tolist(), rel=1e-5)

    corrected.file.write_text(json.dumps({"bundles": {corrected.bundle_id: {"shift": 9}}}))
    wait_until(lambda: "msd_corrections_stale 1.0" in corrected.metrics())
    assert corrected.pctr(PLAIN).tobytes() == expected.tobytes()
    corrected.file.unlink()
    wait_until(lambda: "msd_corrections_stale 0.0" in corrected.metrics())
    assert corrected.pctr(PLAIN).tobytes() == own.tobytes()


def test_explanation_sums_to_the_corrected_score(corrected: Corrected) -> None:
    corrected.write(LEARNED)
    reply = corrected.ask({**golden_requests()[0], "explain": True}, UNLOGGED)
    odds = logit(reply["candidates"]["pctr"])
    base, shares = reply["explanation"]["base"], reply["explanation"]["shares"]

    np.testing.assert_allclose(np.sum(list(shares.values()), axis=0) + logit(base), odds, atol=1e-4)
    corrected.file.unlink()


def test_logged_requests_give_the_same_bits_again(corrected: Corrected, bundle: Bundle) -> None:
    corrected.write(LEARNED)
    ids = [f"r{number}" for number in range(60)]
    sampled = [request_id for request_id in ids if is_sampled(request_id, 0.5)]
    documents = golden_requests()
    for place, request_id in enumerate(sampled):
        corrected.ask(documents[place % len(documents)], request_id)
    records = list(awaited(corrected.log, sampled).values())
    for record in records:
        assert record.correction == LEARNED.within(["known" if record.user_id else "anonymous"]).values

    found = LogReplay([bundle]).replay(records, lambda: None)
    assert (found.exact, found.mismatches) == (len(sampled), 0)
    ended = run_msd("replay", str(corrected.log), "--bundle", str(bundle.folder))
    assert ended.returncode == 0, ended.stdout + ended.stderr

    events = [
        EventRecord(
            f"e{record.request_id}",
            "impression",
            record.user_id,
            record.item_ids[0],
            record.at,
            record.request_id,
            record.at,
        )
        for record in records
    ]
    (corrected.log / "events-1.parquet").write_bytes(encode(events))
    ended = run_msd("recalibrate", str(corrected.log), "--out", str(corrected.file), "--settle-hours", "0")
    assert ended.returncode == 0, ended.stderr
    assert f"0 clicks on {len(sampled)} impressions are too few" in ended.stdout
    assert read_corrections(corrected.file) == {bundle.bundle_id: LEARNED}
    corrected.file.unlink()


def test_invalid_corrections_refuse_the_start(tmp_path: Path) -> None:
    file = tmp_path / "corrections.json"
    file.write_text("{}")

    with pytest.raises(CorrectionError, match="bundles: is missing"):
        open_corrections(file, Metrics())
