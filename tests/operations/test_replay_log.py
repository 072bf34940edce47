"""Logs of real services are scored again to the same bits in any precision, and differences are found."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import native
from msd.contract.bundle import Bundle, open_bundle, tolerance_key
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.log import RequestRecord
from msd.contract.precision import Precision
from msd.contract.rows import RowCodec
from operations.replay.log import LogError, LogReplay
from service.request_log.files import encode
from service.runtimes.choice import open_runtime
from service.runtimes.runtime import RuntimeRefused
from service.settings import Settings
from tests.bundles.factory import build_bundle, golden_requests, has_bf16, reseal
from tests.bundles.ranker_graph import Recipe
from tests.operations.signing_keys import Keys
from tests.service.faults import ModelRuns
from tests.service.live import live_service, run_msd, wait_until
from tests.service.request_log.log import Logging, awaited, logging_service, records


def many_requests() -> list[dict[str, Any]]:
    """Return requests of many sizes, whose products round otherwise; with and without a time of their own."""
    sized = [
        {"user_id": f"u{size % 20}", "candidates": {"id": [f"i{place}" for place in range(size)]}}
        for size in (1, 2, 3, 17, 64, 100, 255)
    ]
    return [*golden_requests(), *sized]


@pytest.fixture(scope="module")
def logging(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logging]:
    with logging_service(bundle, tmp_path_factory.mktemp("logging")) as running:
        yield running


def answered(logging: Logging) -> list[RequestRecord]:
    with logging.service.client() as client:
        replies = [client.post("/v1/score", json=document).json() for document in many_requests()]
    return list(awaited(logging.folder, [reply["request_id"] for reply in replies]).values())


@pytest.fixture(scope="module")
def logs(logging: Logging) -> list[RequestRecord]:
    """Records of the shared service, of all kinds of requests."""
    return answered(logging)


def test_log_scores_reproduce_exactly(logs: list[RequestRecord], bundle: Bundle) -> None:
    found = LogReplay([bundle]).replay(logs, lambda: None)

    assert found.requests == found.exact == len(logs) >= 12
    assert (found.mismatches, found.near, found.max_abs_diff) == (0, 0, 0.0)
    assert max(len(record.item_ids) for record in logs) == 255


def test_scores_come_from_the_core(logs: list[RequestRecord], bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(native.core, "Frame")
    with pytest.raises(AttributeError, match="Frame"):
        LogReplay([bundle]).replay(logs, lambda: None)


def test_equal_candidates_reproduce_exactly(tmp_path: Path) -> None:
    """A model that rounds by place, as kernels do: the service gives each of them the score of the first."""
    bundle = build_bundle(tmp_path / "bundle", Recipe(places=True))
    document = {"user_id": "u1", "candidates": {"id": ["i1", "new", "i2", "newer", "i1", "i3"]}}
    with logging_service(bundle, tmp_path) as running, running.service.client() as client:
        reply = client.post("/v1/score", json=document).json()
        found = LogReplay([bundle]).replay(awaited(running.folder, [reply["request_id"]]).values(), lambda: None)

    assert (found.exact, found.mismatches) == (1, 0)


def test_finds_changed_score_time_or_row(logs: list[RequestRecord], bundle: Bundle) -> None:
    scores = [column.copy() for column in logs[0].scores]
    scores[1][0] = np.nextafter(scores[1][0], np.float32(1))
    found = LogReplay([bundle]).replay([replace(logs[0], scores=scores), *logs[1:]], lambda: None)
    assert [request_id for request_id, _ in found.differences] == [logs[0].request_id]
    assert 0 < found.max_abs_diff < 1e-6

    record = next(record for record in logs if record.user_found and len(record.item_ids) > 2)
    codec = RowCodec(bundle.schema, "user", bundle.bundle_id)
    user = np.frombuffer(bytearray(record.user_row), codec.dtype)
    user["clicks"] += 1
    changed = [
        replace(record, at=record.at - 40 * 86_400),
        replace(record, user_row=user.tobytes()),
        replace(record, items_found=b"\0" + record.items_found[1:]),
        replace(record, items_stale=b"\1" * len(record.items_found)),
    ]
    found = LogReplay([bundle]).replay([record, *changed], lambda: None)

    assert found.mismatches == 4
    assert [difference[:6] for _, difference in found.differences] == ["its re", "scores", "other ", "other "]


def test_stale_rows_and_failed_store_reproduce(logs: list[RequestRecord], bundle: Bundle) -> None:
    record = next(record for record in logs if not record.rungs and len(record.item_ids) > 2)
    count = len(record.item_ids)
    stale = replace(record, items_stale=b"\1" * len(record.items_found), rungs=["cached"] * count)
    found = LogReplay([bundle]).replay([stale], lambda: None)

    assert (found.exact, found.mismatches) == (1, 0)


def test_cold_ad_vector_reproduces(logs: list[RequestRecord], bundle: Bundle) -> None:
    record = next(record for record in logs if "nothing" in record.item_ids)
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    items = np.frombuffer(bytearray(record.item_rows), codec.dtype)
    place = record.item_ids.index("nothing")
    (width,) = items["semantic"].shape[1:]
    items[place] = codec.encoded(np.full((1, width), 0.5, np.float16))[0]
    rungs: list[str | None] = ["encoded" if item_id == "nothing" else None for item_id in record.item_ids]
    cold = replace(record, item_rows=items.tobytes(), rungs=rungs)
    found = LogReplay([bundle]).replay([cold], lambda: None)

    # The degradation is right, the scores are those without the vector.
    assert [difference[:6] for _, difference in found.differences] == ["scores"]
    assert found.max_abs_diff > 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runtime_version": "0.1"}, "another runtime's version: 0.1 then"),
        ({"instructions": "of old"}, "another processor: of old then"),
    ],
)
def test_other_runtime_is_compared_by_tolerance(
    logs: list[RequestRecord], bundle: Bundle, change: dict[str, Any], reason: str
) -> None:
    record = replace(logs[0], **change)
    near = replace(record, scores=[column + np.float32(1.5e-5) for column in record.scores])
    far = replace(record, scores=[column + np.float32(3e-5) for column in record.scores])
    found = LogReplay([bundle]).replay([record, near, far], lambda: None)

    assert (found.exact, found.near, found.mismatches) == (0, 3, 1)
    assert next(iter(found.unlike)).startswith(reason)


def test_skips_requests_of_other_bundles(logs: list[RequestRecord], bundle: Bundle, other_bundle: Bundle) -> None:
    foreign = replace(logs[0], bundle_id="f" * 32)
    found = LogReplay([bundle, other_bundle]).replay([foreign, logs[1]], lambda: None)
    assert (found.requests, found.skipped) == (1, {"f" * 32: 1})

    mixed = replace(logs[0], bundle_id=other_bundle.bundle_id)
    with pytest.raises(LogError, match="not this bundle's"):
        LogReplay([other_bundle]).replay([mixed], lambda: None)


def test_rejects_inconsistent_record(logs: list[RequestRecord], bundle: Bundle) -> None:
    changes: list[dict[str, Any]] = [
        {"item_rows": logs[0].item_rows[:-1]},
        {"items_found": logs[0].items_found[:-1]},
        {"request": b"{}"},
        {"request": b"\xff"},
        {"impressions": [1.0]},
    ]
    for change in changes:
        with pytest.raises(LogError, match=f"request {logs[0].request_id}"):
            LogReplay([bundle]).replay([replace(logs[0], **change)], lambda: None)


LOW_PRECISIONS: dict[Precision, tuple[str, str, bool]] = {
    "int8": ("onnxruntime", "quantised for CPUs with VNNI", adds_int8_exactly(cpu_instructions())),
    "bf16": ("openvino", "needs bf16, which OpenVINO does not support on this CPU", has_bf16()),
}


@pytest.mark.parametrize("precision", LOW_PRECISIONS)
def test_lower_precision_reproduces_exactly(precision: Precision, tmp_path: Path) -> None:
    """Where the CPU can run it; elsewhere such a bundle is not served."""
    runtime, refusal, is_offered = LOW_PRECISIONS[precision]
    folder = build_bundle(tmp_path / precision, Recipe(dense=True, int8=precision == "int8")).folder
    reseal(
        folder,
        tolerances={tolerance_key(runtime, "cpu", precision): 0.1},
        precision={"asked": precision, "chosen": precision},
    )
    made = open_bundle(folder)
    if not is_offered:
        with pytest.raises(RuntimeRefused, match=refusal):
            open_runtime(made, Settings(bundle=folder))
        return
    with logging_service(made, tmp_path) as running:
        found = LogReplay([made]).replay(answered(running), lambda: None)
    assert found.exact == found.requests >= 12
    assert (found.mismatches, found.max_abs_diff) == (0, 0.0)


def test_partial_answer_reproduces_exactly(bundle: Bundle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "LOG_FLUSH_S": 3600}
    request = {"user_id": "u1", "candidates": {"id": [f"i{place % 30}" for place in range(40)]}}
    runs = ModelRuns(tmp_path)
    with live_service(bundle.folder, tmp_path, prepare=runs.obey, **settings) as service:
        with service.client() as client:
            runs.slow_down(0.01)
            assert client.post("/v1/score", json=request).status_code == 200

            def is_partial() -> bool:
                # Too little for all, enough for some; on a busy machine perhaps for none.
                reply = client.post("/v1/score", json=request, headers={"X-Deadline-Ms": "320"})
                return "degraded" in reply.json()

            wait_until(is_partial)
        assert service.terminate() == 0
    found = records(tmp_path / "log")
    partial = next(record for record in found if record.is_partial)
    assert 0 < partial.ran < 40
    assert partial.rungs is not None
    assert "prior" in partial.rungs

    replayed = LogReplay([bundle]).replay([partial, found[0]], lambda: None)
    assert (replayed.exact, replayed.mismatches) == (2, 0)
    whole_of_it = replace(partial, is_partial=False, ran=40)
    assert LogReplay([bundle]).replay([whole_of_it], lambda: None).mismatches == 1


def test_replay_log_command(logs: list[RequestRecord], bundle: Bundle, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    wrong = replace(logs[0], scores=[column * np.float32(0.9) for column in logs[0].scores])
    for folder, kept in ((good, logs[:3]), (bad, [wrong, *logs[1:3]])):
        folder.mkdir()
        (folder / "requests-1.parquet").write_bytes(encode(kept))
    ended = run_msd("replay", str(good), "--bundle", str(bundle.folder))
    assert ended.returncode == 0, ended.stderr
    assert "3 compared to the bit" in ended.stdout

    ended = run_msd("replay", str(bad / "requests-1.parquet"), "--bundle", str(bundle.folder), "--json")
    assert ended.returncode == 1
    summary = json.loads(ended.stdout)
    assert (summary["requests"], summary["mismatches"]) == (3, 1)
    assert summary["differences"][0][0] == logs[0].request_id

    trusted = Keys(tmp_path).public
    ended = run_msd("replay", str(good), "--bundle", str(bundle.folder), MSD_TRUSTED_KEYS=str(trusted))
    assert ended.returncode == 2
    assert "is not signed" in ended.stderr

    ended = run_msd("replay", str(tmp_path), "--bundle", str(bundle.folder))
    assert ended.returncode == 2
    assert "holds no file of requests" in ended.stderr
