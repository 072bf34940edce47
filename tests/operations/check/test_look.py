"""What `msd check` finds without a running service: in settings, machine, files, bundles."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

import native
from msd.contract.bundle import MANIFEST, Bundle
from operations.check.findings import Level
from operations.check.local import look_at_bundles, look_at_entry, look_at_machine
from service.http.keys import new_key
from service.machine import usable_cores
from tests.bundles.factory import reseal
from tests.operations.check.looking import check, levels, said, settings_of
from tests.service.live import run_msd


def test_threads_have_to_fit_the_cores(bundle: Bundle) -> None:
    cores = int(usable_cores()) or 1
    said(
        look_at_machine(settings_of(bundle.folder, workers=cores)),
        "ok",
        f"{cores} scoring threads with 1 threads a run",
    )
    said(
        look_at_machine(settings_of(bundle.folder, workers=cores + 1)),
        "warning",
        f"{cores + 1} scoring threads with 1 threads a run",
    )
    said(
        look_at_machine(settings_of(bundle.folder, threads=cores + 1)),
        "warning",
        f"1 scoring threads with {cores + 1} threads a run",
    )
    if cores > 1:
        said(look_at_machine(settings_of(bundle.folder, workers=1)), "note", "1 scoring threads with 1 threads a run")


def test_open_files_have_to_do_for_the_connections(bundle: Bundle) -> None:
    said(look_at_machine(settings_of(bundle.folder, max_connections=10)), "ok", "10 connections")
    found = look_at_machine(settings_of(bundle.folder, max_connections=1_000_000))
    assert "ulimit -n 1000064" in said(found, "warning", "MSD_MAX_CONNECTIONS is 1000000").mend


def test_the_native_core_is_looked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.core:
        said(look_at_machine(settings_of(bundle.folder)), "ok", f"native core, with {native.core.INSTRUCTIONS}")
    said(look_at_machine(settings_of(bundle.folder, native="off")), "note", "the native core is disabled")
    monkeypatch.setattr(native, "core", None)
    monkeypatch.setattr(native, "REASON", "not built")
    found = said(look_at_machine(settings_of(bundle.folder)), "note", "native core: not built")
    assert "python -m native.build" in found.mend


def test_a_door_that_stands_open_is_said(bundle: Bundle) -> None:
    said(look_at_entry(settings_of(bundle.folder)), "note", "scoring needs no API key on 127.0.0.1")
    found = look_at_entry(settings_of(bundle.folder, host="0.0.0.0"))
    said(found, "warning", "scoring needs no API key on 0.0.0.0")
    said(found, "note", "plain HTTP")
    found = look_at_entry(settings_of(bundle.folder, host="0.0.0.0", playground=True))
    said(found, "warning", "the playground needs no API key on 0.0.0.0")


def _write_keys(path: Path, **ends: timedelta | None) -> None:
    now = datetime.now(UTC)
    entries = [
        new_key(name, ("score",), None if end is None else now + end)[1].model_dump(mode="json")
        for name, end in ends.items()
    ]
    path.write_text(json.dumps({"keys": entries}))


def test_keys_are_looked_at(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    settings = settings_of(bundle.folder, keys_file=path)
    said(look_at_entry(settings), "error", "No such file")
    _write_keys(path, good=None)
    assert levels(look_at_entry(settings)) == {"ok"}
    _write_keys(path, good=None, gone=timedelta(days=-1), going=timedelta(days=2))
    said(look_at_entry(settings), "note", "expired: gone")
    said(look_at_entry(settings), "warning", "expire soon: going")
    _write_keys(path, gone=timedelta(days=-1))
    said(look_at_entry(settings), "error", "all keys have expired")
    path.chmod(0o666)
    said(look_at_entry(settings), "error", "all users of the machine can write it")


@pytest.mark.parametrize(("days", "level"), [(300, "ok"), (3, "warning"), (-1, "error")])
def test_certificates_are_looked_at(bundle: Bundle, tmp_path: Path, days: int, level: Level) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=days))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    key.chmod(0o600)
    settings = settings_of(bundle.folder, tls_cert=cert, tls_key=key)

    said(look_at_entry(settings), level, "cert.pem: expire" if level != "ok" else "with a certificate until")
    key.chmod(0o644)
    said(look_at_entry(settings), "warning", "all users of the machine can read the private key")
    key.write_text("")
    said(look_at_entry(settings), "error", "expected a PEM chain and its private key")


def test_redis_without_password_and_tls_is_said(bundle: Bundle) -> None:
    found = look_at_entry(settings_of(bundle.folder, store="redis", redis_url="redis://redis.example:6379/0"))
    said(found, "warning", "without a password")
    said(found, "note", "without TLS")
    url = "rediss://user:hunter2@redis.example:6379/0"
    found = look_at_entry(settings_of(bundle.folder, store="redis", redis_url=url))
    assert not [finding for finding in found if "Redis" in finding.what]


def test_bundles_are_verified_loaded_and_dated(copied_bundle: Path) -> None:
    found, bundles = look_at_bundles(settings_of(copied_bundle))
    said(found, "ok", "test-0, run by onnxruntime in fp32 on cpu")
    assert [one.folder for one in bundles] == [copied_bundle]

    reseal(copied_bundle, created_at=datetime.now(UTC).timestamp() - 30 * 86_400)
    said(look_at_bundles(settings_of(copied_bundle))[0], "warning", "made 30 days ago")
    reseal(copied_bundle, created_at=datetime.now(UTC).timestamp() + 86_400)
    said(look_at_bundles(settings_of(copied_bundle))[0], "warning", "made in the future")
    reseal(copied_bundle, tolerances={"torch-cpu-fp32": 1.0})
    said(look_at_bundles(settings_of(copied_bundle))[0], "error", "for which it has no tolerance")
    said(look_at_bundles(settings_of(copied_bundle, provider="cuda"))[0], "error", "CPUExecutionProvider")
    (copied_bundle / "items.rows").write_bytes(b"")
    said(look_at_bundles(settings_of(copied_bundle))[0], "error", "items.rows: has 0 bytes")
    assert not look_at_bundles(settings_of(copied_bundle))[1]


def test_the_command_ends_with_1_where_there_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    code, document = check(str(bundle.folder))
    assert (code, document["counts"]["error"]) == (0, 0)
    assert {finding["about"] for finding in document["findings"]} == {"settings", "machine", "entry", "bundle"}

    code, document = check(str(tmp_path))
    assert (code, document["counts"]["error"]) == (1, 1)
    assert MANIFEST in document["findings"][-1]["what"]
    code, document = check(MSD_BUNDEL="b")
    assert code == 1
    assert "did you mean MSD_BUNDLE?" in document["findings"][0]["what"]


def test_people_get_a_table(bundle: Bundle) -> None:
    ended = run_msd("check", str(bundle.folder), COLUMNS="160", **dict.fromkeys(("MSD_MAX_CONNECTIONS",), "1000000"))

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
def test_flags_that_cannot_be_are_one_message(arguments: list[str], message: str) -> None:
    ended = run_msd("check", *arguments)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert os.linesep not in ended.stderr.strip()
