"""What `msd check` finds in a running service."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

import native
from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.check.findings import Group
from operations.check.running import _growth, look_at_running, read_samples
from operations.service_client import ServiceClient, tls_of
from service.http.keys import new_key
from tests.bundles.factory import golden_requests
from tests.operations.check.looking import check, levels, said, settings_of
from tests.service.live import LiveService, live_service, wait_until

_KEY, _ENTRY = new_key("check", ("score", "metrics"), None)


@pytest.fixture(scope="module")
def guarded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that requires keys, for its metrics too."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [_ENTRY.model_dump(mode="json")]}))
    (folder / "key").write_text(f"{_KEY}\n")
    with live_service(bundle.folder, folder, keys_file=keys, guard_metrics=True) as running:
        yield running


@pytest.fixture(scope="module")
def open_to_all(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that has refused nobody, as the one that other tests share may have."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("open")) as running:
        yield running


def client_of(service: LiveService, key_file: Path | None = None) -> ServiceClient:
    """As the command makes it."""
    return ServiceClient(service.url, key_file, tls_of(None, None, None))


def test_an_open_service_on_this_machine_is_in_order(open_to_all: LiveService, bundle: Bundle) -> None:
    found = look_at_running(client_of(open_to_all), settings_of(bundle.folder), 0)

    assert levels(found) == ({"ok"} if native.core else {"ok", "note"})
    said(found, "ok", "ready")
    if native.core:
        said(found, "ok", f"scored by the native core, with {native.core.INSTRUCTIONS}")
    else:
        said(found, "note", "the native core is not served: not built")
    said(found, "ok", "on cpu in fp32")


def test_a_guarded_one_is_looked_at_with_a_key(guarded: LiveService) -> None:
    found = look_at_running(client_of(guarded), None, 0)
    said(found, "ok", "requires keys")
    said(found, "note", "/metrics answers 401")
    said(found, "note", "/v1/model answers 401")
    found = look_at_running(client_of(guarded, guarded.log_path.with_name("key")), None, 0)
    assert levels(found) == ({"ok"} if native.core else {"ok", "note"})


def test_another_provider_than_was_thought_is_an_error(service: LiveService, bundle: Bundle) -> None:
    settings = settings_of(bundle.folder, provider="cuda")
    said(look_at_running(client_of(service), settings, 0), "error", "the settings say cuda")


def test_alarms_are_passed_on(guarded: LiveService, tmp_path: Path) -> None:
    keys = guarded.log_path.with_name("keys.json")
    content = keys.read_text()
    keys.write_text("{")
    client = client_of(guarded, guarded.log_path.with_name("key"))
    try:
        wait_until(lambda: read_samples(client.ask("/metrics").body.decode()).total("msd_keys_stale"))
        said(look_at_running(client, None, 0), "warning", "the file of keys cannot be used")
    finally:
        keys.write_text(content)
    wait_until(lambda: not read_samples(client.ask("/metrics").body.decode()).total("msd_keys_stale"))


def test_memory_is_watched(service: LiveService) -> None:
    said(look_at_running(client_of(service), None, 0.01), "note", "MB in 0.01 s and 0 requests")


@pytest.mark.parametrize(("megabytes", "level"), [(101, "ok"), (200, "warning")])
def test_growth_is_judged_by_what_was_asked_meanwhile(megabytes: int, level: str) -> None:
    """The figures are made up; growth on demand is not to be had."""

    def exposition(size: int, requests: int) -> str:
        return (
            f"# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {size * 2**20}\n"
            f'# TYPE msd_requests counter\nmsd_requests_total{{code="200"}} {requests}\n'
            "# TYPE msd_request_candidates histogram\n"
            f'msd_request_candidates_bucket{{le="50.0"}} {requests}\nmsd_request_candidates_bucket{{le="+Inf"}} '
            f"{2 * requests}\n"
        )

    group = Group("service")
    _growth(group, read_samples(exposition(100, 0)), read_samples(exposition(megabytes, 500)), 60)
    (found,) = group.findings
    assert found.level == level
    assert level == "ok" or "requests had over 0 to 50, over 50 to +Inf candidates" in found.what


def test_the_command_asks_a_service_without_settings_of_its_own(guarded: LiveService) -> None:
    code, document = check("--url", guarded.url, "--key-file", str(guarded.log_path.with_name("key")))

    assert code == 0
    assert {finding["about"] for finding in document["findings"]} == {"service"}


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    code, document = check("--url", f"http://127.0.0.1:{free_port()}")

    assert code == 1
    assert "no answer: Connection refused" in document["findings"][0]["what"]


def test_one_that_is_not_ready_says_why(copied_bundle: Path, tmp_path: Path) -> None:
    from tests.service.test_start import break_goldens

    break_goldens(copied_bundle)
    with live_service(copied_bundle, tmp_path, wait_ready=False) as running:
        wait_until(lambda: "golden 2" in running.ready()["missing"].get("model", ""))
        said(look_at_running(client_of(running), None, 0), "error", "not ready: model: golden 2 differs")


def test_the_samples_of_a_real_service_are_read(service: LiveService) -> None:
    with service.client() as client:
        client.post("/v1/score", json=golden_requests()[0])
        answer = client.get("/metrics")
    samples = read_samples(answer.text)

    assert samples.total("msd_ready") == 1
    assert samples.total("msd_requests_total") >= 1
    assert httpx.codes(answer.status_code) is httpx.codes.OK
    assert answer.headers["content-type"].split(";")[0] == CONTENT_TYPE_LATEST.split(";")[0]
