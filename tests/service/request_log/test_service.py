"""A real service that logs into real files: what is in them, what is lost when parts fail, and that nothing waits."""

import json
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from msd.contract.bundle import Bundle
from msd.contract.log import RequestRecord
from service.request_log.files import log_files, read_events
from service.request_log.request_log import is_sampled
from tests.bundles.factory import golden_requests
from tests.service.faults import LogWrites
from tests.service.live import live_service, wait_until
from tests.service.request_log.log import ASKS, Logging, awaited, logged, records


def asked(logging: Logging, documents: list[dict[str, Any]]) -> list[tuple[dict[str, Any], RequestRecord]]:
    """Each reply, with what was logged of it."""
    with logging.service.client() as client:
        replies = [client.post("/v1/score", json=document).json() for document in documents]
    found = awaited(logging.folder, [reply["request_id"] for reply in replies])
    return [(reply, found[reply["request_id"]]) for reply in replies]


def test_record_holds_request_and_reply(logging: Logging, bundle: Bundle) -> None:
    documents = golden_requests()
    for document, (reply, record) in zip(documents, asked(logging, documents), strict=True):
        assert json.loads(record.request) == document
        assert (record.arm, record.bundle_id) == ("champion", bundle.bundle_id)
        assert record.manifest_sha256 == bundle.manifest.sha256
        assert (record.engine, record.model_version) == ("onnxruntime-cpu-fp32", reply["model_version"])
        assert (record.user_id, record.item_ids) == (document["user_id"], document["candidates"]["id"])
        assert (record.ran, record.is_partial) == (len(record.item_ids), False)
        assert record.heads == ["pctr", "pcvr"]
        order = record.served if "top_k" in document else range(len(record.item_ids))
        assert order is not None
        for head, column in zip(record.heads, record.scores, strict=True):
            assert [np.float32(score) for score in reply["candidates"][head]] == [column[place] for place in order]
        degraded = reply.get("degraded", {})
        assert record.degraded_user == degraded.get("user")
        rungs = {item: rung for item, rung in zip(record.item_ids, record.rungs or [], strict=False) if rung}
        assert rungs == degraded.get("candidates", {})
        assert 0 < record.run_ms < record.total_ms


def test_all_requests_of_many_clients_are_logged_once(logging: Logging) -> None:
    def ask(client: int) -> list[str]:
        with logging.service.client() as connection:
            return [
                connection.post("/v1/score", json=ASKS, headers={"X-Request-Id": f"{client}-{number}"}).json()[
                    "request_id"
                ]
                for number in range(50)
            ]

    with ThreadPoolExecutor(8) as pool:
        ids = {request_id for given in pool.map(ask, range(8)) for request_id in given}
    awaited(logging.folder, ids)
    found = [record.request_id for record in records(logging.folder) if record.request_id in ids]
    assert len(found) == len(ids) == 400


def test_refused_request_is_not_logged(logging: Logging) -> None:
    with logging.service.client() as client:
        assert client.post("/v1/score", json={}, headers={"X-Request-Id": "refused"}).status_code == 422
    asked(logging, [ASKS])

    assert "refused" not in {record.request_id for record in records(logging.folder)}


def test_conversions_are_logged_and_count_nowhere_else(bundle: Bundle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"live": "on", "state_dir": tmp_path / "states"}
    event = {"user_id": "u1", "item_id": "i1", "at": 1_764_066_000}
    body = {"events": [{**event, "event_id": "e1", "type": kind} for kind in ("click", "conversion")]}
    with live_service(bundle.folder, tmp_path, **settings) as service, service.client() as client:
        refused = client.post("/v1/events", json=body)

    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "events.1.type"
    assert "set MSD_LOG_DIR" in refused.json()["error"]["message"]
    settings |= {"log_dir": tmp_path / "log", "log_sample": 1, "LOG_FLUSH_S": 0.05}
    with live_service(bundle.folder, tmp_path, **settings) as service, service.client() as client:
        assert client.post("/v1/events", json=body).json() == {"accepted": 2, "duplicates": 0}
        alone = {"events": body["events"][1:]}
        assert client.post("/v1/events", json=alone).json() == {"accepted": 1, "duplicates": 0}
        assert service.metric('msd_events_total{outcome="accepted"}') == 1
        assert service.metric('msd_events_noted_total{what="conversion"}') == 2
    kinds = [event.type for file in log_files(tmp_path / "log", "events") for event in read_events(file)]

    assert sorted(kinds) == ["click", "conversion", "conversion"]


def test_full_disk_loses_records_until_there_is_room_and_no_request(bundle: Bundle, tmp_path: Path) -> None:
    """As on a full disk, writes of the service end half way, those of its log on stdout included."""
    folder = tmp_path / "log"
    settings: dict[str, Any] = {"log_dir": folder, "log_sample": 1, "LOG_FLUSH_S": 0.05}
    with live_service(bundle.folder, tmp_path, **settings) as service:
        pid = service.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))

        def is_lost() -> bool:
            assert service.score(ASKS).status_code == 200
            return logged(service, "lost") > 0

        wait_until(is_lost)
        assert not list(folder.glob("*.parquet"))
        wait_until(lambda: not list(folder.glob(".requests-*")))
        assert service.metric('msd_log_lines_total{result="lost"}') > 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        request_id = service.score(ASKS).json()["request_id"]
        wait_until(lambda: list(folder.glob("*.parquet")))
        assert set(awaited(folder, [request_id])) == {request_id}
        assert service.terminate() == 0


def test_share_is_logged_and_what_waits_is_written_at_the_end(bundle: Bundle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 0.25, "LOG_FLUSH_S": 3600}
    with live_service(bundle.folder, tmp_path, **settings) as service:
        ids: list[str] = []

        def is_handed() -> bool:
            ids.append(service.score(ASKS).json()["request_id"])
            return logged(service, "handed") > 0

        wait_until(is_handed)
        with service.client() as client:
            ids += [client.post("/v1/score", json=ASKS).json()["request_id"] for _ in range(200)]
        sampled = [request_id for request_id in ids if is_sampled(request_id, 0.25)]
        wait_until(lambda: logged(service, "handed") + logged(service, "dropped") == len(sampled))
        handed = logged(service, "handed")
        assert not list((tmp_path / "log").glob("*.parquet"))
        assert service.terminate() == 0

    assert 0.1 < len(sampled) / len(ids) < 0.5
    kept = [record.request_id for record in records(tmp_path / "log")]
    assert len(kept) == handed > 0
    assert set(kept) <= set(sampled)


def test_end_waits_for_the_request_log(bundle: Bundle, tmp_path: Path) -> None:
    """Longer than for what hangs, and the admin port tells of it."""
    writes = LogWrites(tmp_path)
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "admin_port": 0, "grace_seconds": 600}
    with live_service(bundle.folder, tmp_path, prepare=writes.obey, END_S=4, **settings) as service:
        with writes.held(), service.client() as client:
            for _ in range(40):
                assert client.post("/v1/score", json=ASKS).status_code == 200
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "request_log_draining" in [line["event"] for line in service.log()])
            ends_at = time.monotonic() + 6
            wait_until(lambda: time.monotonic() > ends_at)
            with service.admin() as admin:
                assert admin.get("/health/live").status_code == 200
                assert 'msd_log_waiting{kind="requests"} 40.0' in admin.get("/metrics").text
        assert service.process.wait(120) == 0
    assert len(records(tmp_path / "log")) == 40
    assert "request_log_drained" in [line["event"] for line in service.log()]


def test_records_that_the_grace_period_leaves_are_counted(bundle: Bundle, tmp_path: Path) -> None:
    writes = LogWrites(tmp_path)
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "grace_seconds": 0}
    with live_service(bundle.folder, tmp_path, prepare=writes.obey, END_S=10, **settings) as service:
        with writes.held():
            for _ in range(3):
                assert service.score(ASKS).status_code == 200
            assert service.terminate() == 0
    found = {line["event"]: line for line in service.log()}
    assert found["request_log_draining"]["requests"] == found["request_log_unfinished"]["requests"] == 3


def test_second_sigterm_ends_a_process_that_writes_its_log(bundle: Bundle, tmp_path: Path) -> None:
    writes = LogWrites(tmp_path)
    settings: dict[str, Any] = {"log_dir": tmp_path / "log", "log_sample": 1, "grace_seconds": 600}
    with live_service(bundle.folder, tmp_path, prepare=writes.obey, **settings) as service:
        with writes.held():
            assert service.score(ASKS).status_code == 200

            def has_ended() -> bool:
                service.process.send_signal(signal.SIGTERM)
                return service.process.poll() is not None

            wait_until(has_ended)
    assert service.process.returncode == 0
    assert "request_log_unfinished" not in [line["event"] for line in service.log()]
