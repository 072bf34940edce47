"""Who gets in: a running service that requires keys, whose file changes under it."""

import asyncio
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Gauge

from msd.contract.bundle import Bundle
from service import watched_files
from service.errors import KeysUnavailable
from service.http.keys import KeyEntry, KeyFile, KeyRing, KeyScope, KeysError, new_key, open_guard, read_keys
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles
from tests.bundles.factory import golden_requests
from tests.service.api_keys import _MADE, KEYS, write_keys
from tests.service.live import LiveService, live_service, wait_until
from tests.service.redis_rows import until
from tests.service.wire import HEAD, error_of, talk

GOOD = golden_requests()[0]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All keys but `ads-next`."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(path, "ads", "ads-old", "prometheus", "ops")
    return path


@pytest.fixture(scope="module")
def guarded(bundle: Bundle, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that requires keys, for its metrics too."""
    folder = tmp_path_factory.mktemp("guarded")
    with live_service(bundle.folder, folder, keys_file=keys_file, guard_metrics=True) as running:
        yield running


def ask(service: LiveService, key: str | None, path: str = "/v1/score") -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with service.client(headers=headers) as client:
        return client.post(path, json=GOOD) if path == "/v1/score" else client.get(path)


def metric(service: LiveService, sample: str) -> float:
    return service.metric(sample, service.client(headers={"Authorization": f"Bearer {KEYS['prometheus']}"}))


@pytest.mark.parametrize(
    ("name", "status", "code", "message"),
    [
        (None, 401, "unauthorized", "send an API key"),
        ("no such key", 401, "unauthorized", "unknown API key"),
        ("ads-next", 401, "unauthorized", "unknown API key"),
        ("ads-old", 401, "unauthorized", "the API key 'ads-old' has expired"),
        ("ops", 403, "forbidden", "the API key 'ops' lacks the scope 'score'"),
        ("prometheus", 403, "forbidden", "the API key 'prometheus' lacks the scope 'score'"),
    ],
)
def test_any_other_key_does_not_score(
    guarded: LiveService, name: str | None, status: int, code: str, message: str
) -> None:
    sample = f'msd_requests_total{{code="{status}"}}'
    before = metric(guarded, sample)
    answer = ask(guarded, name and KEYS.get(name, "msd_hunter2"))

    error = error_of(answer, status)
    assert error["code"] == code
    assert message in error["message"]
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert answer.headers.get("connection") is None
    assert metric(guarded, sample) == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Api-Key": KEYS["ads"]},
        {"Authorization": f"bearer  {KEYS['ads']}"},
        {"X-Api-Key": "", "Authorization": f"Bearer {KEYS['ads']}"},
    ],
)
def test_key_may_be_in_either_header(guarded: LiveService, headers: dict[str, str]) -> None:
    with guarded.client(headers=headers) as client:
        assert client.post("/v1/score", json=GOOD).status_code == 200


NEEDS: dict[str, KeyScope | None] = {
    "/health/live": None,
    "/health/ready": None,
    "/metrics": "metrics",
    "/v1/admin/anything": "admin",
    "/v1/%61dmin/anything": "admin",
    "/v1/events": "events",
    "/v2/health/live": None,
    "/v2/health/ready": None,
    "/v2/models/msd/infer": "score",
    "/v2/models/msd/versions/1/infer": "score",
}


@pytest.mark.parametrize("path", NEEDS)
def test_each_path_needs_its_own_scope(guarded: LiveService, path: str) -> None:
    """Whether a route is there is only told to those who may use it."""
    need = NEEDS[path]
    for name in ("ads", "prometheus", "ops"):
        status = ask(guarded, KEYS[name], path).status_code
        assert (status == 403) == (need not in (None, *_MADE[name][1].scopes)), name
    assert (ask(guarded, None, path).status_code == 401) == (need is not None)


@pytest.mark.parametrize("path", ["/v1/model", "/docs", "/openapi.json", "/docs/assets/favicon.png", "/nothing"])
def test_descriptive_routes_need_any_key(guarded: LiveService, path: str) -> None:
    assert error_of(ask(guarded, None, path), 401)["code"] == "unauthorized"
    assert {ask(guarded, KEYS[name], path).status_code for name in ("ads", "ops")} <= {200, 404}
    if path == "/openapi.json":
        document = ask(guarded, KEYS["ads"], path).json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
        assert document["security"] == [{"bearer": []}, {"header": []}]


@pytest.mark.parametrize(
    "path", [b"/v1/score", b"/v1/openrtb", b"/v1/events", b"/v2/models/msd/infer", b"/v1/admin/bundle"]
)
def test_without_a_key_the_answer_comes_before_the_body(guarded: LiveService, path: bytes) -> None:
    """Nor is the client asked for it; one that sends it all the same goes on with its connection."""
    head = HEAD.replace(b"/v1/score", path)
    expecting = talk(guarded, head + b"Expect: 100-continue\r\nContent-Length: 900000\r\n\r\n")
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: 900000\r\n\r\n{")
        refused = b""
        while not refused.endswith(b"}"):
            assert (came := connection.recv(65_536))
            refused += came
        connection.sendall(b" " * 899_999 + b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        alive = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert expecting.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close" in expecting
    assert refused.startswith(b"HTTP/1.1 401 ")
    assert alive.startswith(b"HTTP/1.1 200 ")


def test_keys_come_and_go_without_a_restart(guarded: LiveService, keys_file: Path) -> None:
    try:
        write_keys(keys_file, "ads-next", "prometheus", "ops")
        wait_until(lambda: ask(guarded, KEYS["ads-next"]).status_code == 200)
        assert ask(guarded, KEYS["ads"]).status_code == 401

        keys_file.write_text('{"keys": [{"na')
        wait_until(lambda: metric(guarded, "msd_keys_stale") == 1)
        assert ask(guarded, KEYS["ads-next"]).status_code == 200
        assert ask(guarded, KEYS["ads"]).status_code == 401
    finally:
        write_keys(keys_file, "ads", "ads-old", "prometheus", "ops")
    wait_until(lambda: metric(guarded, "msd_keys_stale") == 0)
    assert ask(guarded, KEYS["ads"]).status_code == 200
    line = next(line for line in guarded.log() if line["event"] == "not_reloaded")
    assert "stays in use" in line["reason"]


def test_no_key_is_logged(guarded: LiveService) -> None:
    """After all that was asked above, a half-written header among it."""
    talk(guarded, b"GET / HTTP/1.1\r\nAuthorization: Bearer " + KEYS["ads"].encode() + b"\r\nbad header\r\n\r\n")
    for name, key in KEYS.items():
        ask(guarded, key, f"/nothing/{name}")
    written = guarded.log_path.read_text() + guarded.log_path.with_name("service.err").read_text()
    exposed = ask(guarded, KEYS["prometheus"], "/metrics").text
    listed = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # a process of another user, or one that has ended
            listed += path.read_bytes()

    assert '"key":"ads"' in written
    for key in (*KEYS.values(), "hunter2"):
        assert key not in written
        assert key not in exposed
        assert key.encode() not in listed
    assert not [line for line in guarded.log() if line["event"] == "internal_error"]


def test_refused_keys_are_logged_together(guarded: LiveService) -> None:
    for _ in range(20):
        ask(guarded, None)
    lines = [line for line in guarded.log() if line["event"] == "keys_refused"]

    refused = metric(guarded, 'msd_keys_refused_total{reason="missing"}')
    assert refused >= 20
    assert 1 <= len(lines) < refused / 2
    assert lines[0]["last_client"] == "127.0.0.1"


def test_scoring_without_a_key_file_is_open_and_logged(service: LiveService) -> None:
    with service.client() as client:
        assert client.post("/v1/score", json=GOOD, headers={"Authorization": "Bearer x"}).status_code == 200
        assert client.get("/v1/admin/anything").status_code == 404
    assert "no admin routes" in next(line for line in service.log() if line["event"] == "open_to_all")["reason"]


HASH = "0" * 64


def entry(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"name": "a", "scopes": ["score"], "sha256": HASH, **changes}


def test_key_is_found_and_nothing_else() -> None:
    key, kept = new_key("ads", ("score", "events"), None)
    other, of_other = new_key("ops", ("admin",), None)
    ring = KeyRing(KeyFile(keys=(kept, of_other)))

    found = ring.find(key.encode())
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("ads", ["events", "score"])
    assert ring.find(other.encode()) is not None
    for wrong in (key[:-1], key + "x", key.upper(), "", kept.sha256, f" {key}"):
        assert ring.find(wrong.encode()) is None
    # The look-up is by the beginning of the hash; the whole hash decides.
    half = hashlib.sha256(b"guess").hexdigest()[:32] + HASH[32:]
    assert KeyRing(KeyFile(keys=(KeyEntry(name="a", scopes=("score",), sha256=half),))).find(b"guess") is None


SECRET = "msd_hunter2"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "keys.json: Invalid JSON"),
    "half-written": (json.dumps({"keys": [entry()]}).encode()[:-9], "keys.json: Invalid JSON"),
    "no keys": (b'{"keys": []}', "keys: "),
    "another format": (json.dumps({"format_version": 2, "keys": [entry()]}).encode(), "format_version: "),
    "unknown scope": (json.dumps({"keys": [entry(scopes=["root"])]}).encode(), "keys.0.scopes.0: "),
    "the key itself": (json.dumps({"keys": [entry(sha256=SECRET)]}).encode(), "keys.0.sha256: "),
    "an end that is none": (json.dumps({"keys": [entry(not_after=SECRET)]}).encode(), "keys.0.not_after: "),
    "one name twice": (json.dumps({"keys": [entry(), entry(sha256="1" * 64)]}).encode(), "two keys have the same name"),
    "deep": (b"[" * 100_000, "keys.json: "),
    "huge": (b" " * (2**22 + 1), "larger than"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_key_file_is_refused_by_the_faulty_place(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "keys.json").write_bytes(content)

    with pytest.raises(KeysError) as raised:
        read_keys(tmp_path / "keys.json")
    assert message in str(raised.value)
    assert "keys.json" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert len(str(raised.value)) < 400
    with pytest.raises(KeysError, match="No such file or directory; `msd key new`"):
        read_keys(tmp_path / "none.json")
    with pytest.raises(KeysError, match="Is a directory"):
        read_keys(tmp_path)


def gauges(metrics: Metrics) -> tuple[Gauge, Gauge]:
    return metrics.keys_stale, metrics.watched_ages["keys"]


def test_file_that_stays_bad_is_logged_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, "ads")
    watched = WatchedFiles("keys", [path], lambda: read_keys(path), *gauges(Metrics()))
    path.unlink()
    watched.look()
    watched.look()
    assert capsys.readouterr().out.count("what was read before stays in use") == 1


@pytest.mark.anyio
async def test_file_system_that_hangs_is_told_and_later_looks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look that hung undoes no later one, and its thread keeps nothing from ending."""
    monkeypatch.setattr(watched_files, "LONGEST_LOOK_S", 0.05)
    monkeypatch.setattr(watched_files, "PERIOD_S", 0.01)
    path, metrics, ends, made = tmp_path / "file", Metrics(), threading.Event(), [0]

    def make() -> int:
        made[0] += 1
        number = made[0]
        if number == 2:
            ends.wait()
        return number

    path.touch()
    watched = WatchedFiles("keys", [path], make, *gauges(metrics))
    path.write_text("changed")
    watching = asyncio.create_task(watched.watch())
    await until(lambda: b"msd_keys_stale 1.0" in metrics.exposition())
    assert watched.value == 1
    await until(lambda: b"msd_keys_stale 0.0" in metrics.exposition())
    assert watched.value > 2
    ends.set()
    await until(lambda: not any(thread.name == "look-keys" for thread in threading.enumerate()))
    assert watched.value > 2
    watching.cancel()


def test_keys_that_cannot_be_read_for_long_are_refused_if_so_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "keys.json", time.monotonic
    write_keys(path, "ads")
    scope = {"type": "http", "headers": [(b"x-api-key", KEYS["ads"].encode())]}
    settings = Settings(bundle=tmp_path, keys_file=path, keys_max_age_seconds=30)
    lenient, strict = (
        open_guard(one, Metrics()) for one in (settings.model_copy(update={"keys_max_age_seconds": None}), settings)
    )
    assert lenient is not None
    assert strict is not None
    strict.check(scope, "score")
    path.unlink()
    monkeypatch.setattr("time.monotonic", lambda: real() + 31)
    strict.keys.look()
    with pytest.raises(KeysUnavailable):
        strict.check(scope, "score")
    lenient.check(scope, "score")
    write_keys(path, "ads")
    strict.keys.look()
    strict.check(scope, "score")


def test_pipe_in_place_of_the_key_file_blocks_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """A key that was revoked meanwhile ends when the file is back."""
    keys = tmp_path / "keys.json"
    write_keys(keys, "ads")
    with live_service(bundle.folder, tmp_path, keys_file=keys) as service:
        keys.unlink()
        os.mkfifo(keys)
        wait_until(lambda: any(line["event"] == "not_reloaded" for line in service.log()))
        assert ask(service, KEYS["ads"]).status_code == 200
        write_keys(keys, "ads-next")
        wait_until(lambda: ask(service, KEYS["ads-next"]).status_code == 200)
        assert ask(service, KEYS["ads"]).status_code == 401
