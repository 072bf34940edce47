"""What `msd check` finds in a running service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import native
from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.check.running import look_at_running, read_totals
from operations.service_client import ServiceClient, tls_of
from service.http.keys import new_key
from tests.operations.check.looking import check, finding, levels, settings_of
from tests.service.bundle_folders import break_goldens
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
    """A service that rejected no request, unlike the shared one."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("open")) as running:
        yield running


def client_of(service: LiveService, key_file: Path | None = None) -> ServiceClient:
    return ServiceClient(service.url, key_file, tls_of(None, None, None))


def test_open_local_service_is_in_order(open_to_all: LiveService, bundle: Bundle) -> None:
    found = look_at_running(client_of(open_to_all), settings_of(bundle.folder))

    assert levels(found) == {"ok"}
    finding(found, "ok", "ready")
    finding(found, "ok", f"native core, with {native.INSTRUCTIONS}")
    finding(found, "ok", "on cpu in fp32")
    found = look_at_running(client_of(open_to_all), settings_of(bundle.folder, provider="cuda"))
    finding(found, "error", "the settings say cuda")


def test_guarded_service_needs_key(guarded: LiveService) -> None:
    found = look_at_running(client_of(guarded), None)
    finding(found, "ok", "requires keys")
    finding(found, "note", "/metrics answers 401")
    finding(found, "note", "/v1/model answers 401")
    found = look_at_running(client_of(guarded, guarded.log_path.with_name("key")), None)
    assert levels(found) == {"ok"}


def test_reports_stale_keys(guarded: LiveService, tmp_path: Path) -> None:
    keys = guarded.log_path.with_name("keys.json")
    content = keys.read_text()
    keys.write_text("{")
    client = client_of(guarded, guarded.log_path.with_name("key"))
    try:
        wait_until(lambda: read_totals(client.ask("/metrics").body.decode())["msd_keys_stale"])
        finding(look_at_running(client, None), "warning", "the file of keys cannot be used")
    finally:
        keys.write_text(content)
    wait_until(lambda: not read_totals(client.ask("/metrics").body.decode())["msd_keys_stale"])


def test_command_checks_service_without_settings(guarded: LiveService) -> None:
    code, document = check("--url", guarded.url, "--key-file", str(guarded.log_path.with_name("key")))

    assert code == 0
    assert {finding["about"] for finding in document["findings"]} == {"service"}


def test_unreachable_service_is_an_error(tmp_path: Path) -> None:
    code, document = check("--url", f"http://127.0.0.1:{free_port()}")

    assert code == 1
    assert "no answer: Connection refused" in document["findings"][0]["what"]


def test_reports_why_service_is_not_ready(copied_bundle: Path, tmp_path: Path) -> None:
    break_goldens(copied_bundle)
    with live_service(copied_bundle, tmp_path, wait_ready=False) as running:
        wait_until(lambda: "golden 2" in running.ready()["missing"].get("model", ""))
        finding(look_at_running(client_of(running), None), "error", "not ready: model: golden 2 differs")
