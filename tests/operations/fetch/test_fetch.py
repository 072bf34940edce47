"""Fetching from real servers: retried, bounded, and never anything but what the digest says."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from msd.contract.bundle import MANIFEST, RANKER, open_bundle
from msd.contract.errors import BundleError, MsdError
from operations.bundles import sign
from operations.fetch.archive import pack
from operations.fetch.fetch import ORIGIN, Fetched, download, fetch
from operations.fetch.stores import FetchError, StoredArchive, stored_archive
from service.trust import Trust
from tests.operations.fetch.conftest import TOKEN, Archive, Keeper, keeper
from tests.operations.signing_keys import Keys
from tests.service.live import ROOT, run_msd

ROOM = 2**24
KILLED = """
import os, signal, sys
from pathlib import Path
from operations.fetch import fetch
from service.trust import Trust

fetch.unpack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
fetch.fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), 2**24, Trust(None))
"""


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no store, proxy or credentials."""
    for name in os.environ:
        if (
            name.upper().startswith(("AWS_", "AZURE_", "GOOGLE_", "BUNDLE_TOKEN", "SSL_CERT"))
            or "_PROXY" in name.upper()
        ):
            monkeypatch.delenv(name)


def _fetch(url: str, digest: str, folder: Path) -> Fetched:
    return fetch(url, digest, folder, ROOM, Trust(None))


def _stored(url: str) -> StoredArchive:
    """Return an archive that is tried again soon."""
    soon = timedelta(milliseconds=1)
    return stored_archive(url, {"max_retries": 5, "backoff": {"init_backoff": soon, "max_backoff": soon, "base": 2}})


def _download(kept: Keeper, archive: Archive, part: Path, *, room: int = ROOM) -> None:
    download(_stored(f"{kept.url}/bundle.tar.gz"), archive.digest.removeprefix("sha256:"), part, room)


@pytest.fixture
def other(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """Another server that has the archive; the token is not for it."""
    monkeypatch.setenv("BUNDLE_TOKEN", TOKEN)
    with keeper() as running:
        running.files["/bundle.tar.gz"] = archive.content
        yield running


@pytest.fixture
def safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    """A server with TLS, whose authority SSL_CERT_FILE names."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with keeper(tls) as running:
        yield running


def test_fetches_bundle_once(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "served"
    first = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, folder)
    asked = len(kept.asked)
    second = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, folder)

    assert (first.was_there, second.was_there) == (False, True)
    assert first.bundle.bundle_id == archive.bundle_id
    assert len(kept.asked) == asked == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["served"]


def test_wrong_digest_leaves_nothing(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(FetchError) as raised:
        _fetch(f"{kept.url}/bundle.tar.gz", wrong, tmp_path / "volume" / "served")

    assert archive.digest in str(raised.value)
    assert wrong in str(raised.value)
    assert "nothing was unpacked" in str(raised.value)
    assert not list((tmp_path / "volume").iterdir())


def test_damaged_bundle_leaves_nothing(kept: Keeper, copied_bundle: Path, tmp_path: Path) -> None:
    pack(copied_bundle, tmp_path / "a.tar")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[content.index((copied_bundle / RANKER).read_bytes()) + 100] ^= 1
    kept.files["/damaged.tar"] = bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    with pytest.raises(BundleError, match=r"the digest matches, but the bundle is invalid: .*ranker\.onnx: its SHA"):
        _fetch(f"{kept.url}/damaged.tar", digest, tmp_path / "volume" / "served")
    assert not list((tmp_path / "volume").iterdir())


def test_requires_signature_with_trusted_keys(
    kept: Keeper, archive: Archive, copied_bundle: Path, tmp_path: Path
) -> None:
    keys = Keys(tmp_path)
    sign(copied_bundle, MANIFEST, keys.private)
    signed = f"sha256:{pack(copied_bundle, tmp_path / 'signed.tar')}"
    kept.files["/signed.tar"] = (tmp_path / "signed.tar").read_bytes()
    trust = Trust(keys.public)

    with pytest.raises(BundleError, match="is not signed"):
        fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "volume" / "served", ROOM, trust)
    assert not list((tmp_path / "volume").iterdir())
    assert fetch(f"{kept.url}/signed.tar", signed, tmp_path / "volume" / "served", ROOM, trust).bundle.bundle_id


def test_resumes_interrupted_download(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.breaks = 3
    _download(kept, archive, tmp_path / "part")
    ranges = [headers.get("range") for _, headers in kept.asked]

    assert (tmp_path / "part").read_bytes() == archive.content
    assert ranges[0] is None
    assert all(re.fullmatch(r"bytes=[1-9]\d*-\d+", requested or "") for requested in ranges[1:])
    assert len(ranges) == 4


def test_waits_for_server_or_gives_up(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.fails = 5
    _download(kept, archive, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == archive.content

    kept.fails = 99
    with pytest.raises(FetchError, match="after 5 retries.* 503"):
        _download(kept, archive, tmp_path / "another")


def test_rejects_archive_over_limit_or_free_space(
    kept: Keeper, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FetchError, match=r"limit is 1000 \(--max-mb\)"):
        _download(kept, archive, tmp_path / "part", room=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(FetchError, match=rf"has {len(archive.content)} bytes, but .* has room for 1000"):
        _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_rejects_archive_that_is_longer_than_announced(tmp_path: Path) -> None:
    """With chunks, HTTP clients ignore the length."""
    head = b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n"

    def serve() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)  # a reply before the request is an error of another kind
            connection.sendall(head)
            while True:
                connection.sendall(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(FetchError, match="sends more than the 10 bytes that it announces"):
            download(_stored(f"http://127.0.0.1:{server.getsockname()[1]}/a.tar"), "0" * 64, tmp_path / "part", ROOM)
        thread.join()


def test_sends_token_to_its_host_only(kept: Keeper, other: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.token = TOKEN
    kept.redirects = {"/first": "/second", "/second": f"{other.url}/elsewhere"}
    other.redirects = {"/elsewhere": "/bundle.tar.gz"}
    _fetch(f"{kept.url}/first", archive.digest, tmp_path / "b")

    assert {headers["authorization"] for _, headers in kept.asked} == {f"Bearer {TOKEN}"}
    assert {path for path, _ in other.asked} == {"/elsewhere", "/bundle.tar.gz"}
    assert not any("authorization" in headers for _, headers in other.asked)


_PATHS = st.sampled_from(["/0", "/1", "/2", "/3"])
_HOSTS = st.sampled_from(["KEPT", "OTHER", "", "//127.0.0.1:1", "ftp://h", "file://", "http://[", "data:,"])
_PLACES = st.builds(str.__add__, _HOSTS, _PATHS | st.sampled_from(["/bundle.tar.gz", "/?a=b#c", "/%00", ""]))
_REDIRECTS = st.dictionaries(_PATHS, _PLACES | st.text(st.characters(min_codepoint=32, codec="latin-1"), max_size=9))


@settings(max_examples=60)
@given(redirects=st.tuples(_REDIRECTS, _REDIRECTS))
def test_any_redirects_give_the_archive_or_a_clear_error(
    kept: Keeper, other: Keeper, archive: Archive, tmp_path: Path, redirects: tuple[dict[str, str], dict[str, str]]
) -> None:
    kept.redirects, other.redirects = (
        {path: place.replace("KEPT", kept.url).replace("OTHER", other.url) for path, place in some.items()}
        for some in redirects
    )
    kept.asked, other.asked = [], []
    part = tmp_path / "part"
    part.unlink(missing_ok=True)
    with suppress(FetchError):
        download(
            stored_archive(f"{kept.url}/0", {"max_retries": 0}), archive.digest.removeprefix("sha256:"), part, ROOM
        )
        assert part.read_bytes() == archive.content
    assert len(kept.asked) + len(other.asked) <= 30
    assert not any("authorization" in headers for _, headers in other.asked)


def test_checks_certificate_and_refuses_plain_redirect(
    kept: Keeper, safe: Keeper, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe.files["/b.tar.gz"] = archive.content
    safe.redirects["/away"] = f"{kept.url}/bundle.tar.gz"
    with pytest.raises(FetchError, match="/away: .*error following redirect"):
        _stored(f"{safe.url}/away").read()
    assert not kept.asked
    assert _fetch(f"{safe.url}/b.tar.gz", archive.digest, tmp_path / "b").bundle.bundle_id == archive.bundle_id
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(FetchError, match="its certificate is not trusted.* SSL_CERT_FILE"):
        _stored(f"{safe.url}/b.tar.gz").read()


@pytest.mark.parametrize("key", [None, "AKIA"])
def test_signs_requests_to_s3_by_credentials(
    safe: Keeper, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    safe.files["/models/a%20b%2B1/b.tar.gz"] = archive.content
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if key else ():
        monkeypatch.setenv(name, "AKIA")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", safe.url)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    _fetch("s3://models/a b+1/b.tar.gz", archive.digest, tmp_path / "b")
    header = safe.asked[0][1].get("authorization", "")
    scope = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=(\w+)/\d+/eu-west-1/s3/.*", header)

    assert (scope and scope[1]) == key


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/agent"},
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/agent",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "T",
        },
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "TOKEN", "AWS_ROLE_ARN": "arn:aws:iam::1:role/ctr"},
    ],
    ids=["ECS task", "EKS Pod Identity", "role of the service account"],
)
def test_identity_of_pod_is_used_for_s3(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    store = _stored("s3://models/b.tar.gz").store
    assert isinstance(store, S3Store)
    assert str(store.config["skip_signature"]) == "false"


def test_reads_local_file(archive: Archive, tmp_path: Path) -> None:
    local = tmp_path / "a b.tar.gz"
    local.write_bytes(archive.content)

    assert _fetch(local.as_uri(), archive.digest, tmp_path / "b").bundle.bundle_id == archive.bundle_id


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bundle.tar.gz", "bundle.tar.gz: unsupported; expected https://"),
        ("ftp://h/b.tar", "ftp://h/b.tar: unsupported; expected https://"),
        ("https://user:hunter2@h/b.tar", "credentials do not belong into a URL"),
        ("https://host:port/b.tar", "https://host:port/b.tar: invalid port"),
        ("s3://bucket/", "names no object"),
        ("az://container/b.tar", "Account must be specified"),
        ("file:///nowhere/b.tar", "file:///nowhere/b.tar: nothing is at this address"),
        ("KEPT/none.tar?X-Amz-Signature=hunter2", "/none.tar: nothing is at this address"),
        ("KEPT/secret.tar?X-Amz-Signature=hunter2", "/secret.tar: it wants credentials"),
        ("KEPT/bad.tar?X-Amz-Signature=hunter2", "/bad.tar: Generic HTTP error: Error performing GET http://"),
    ],
)
def test_names_mistake_without_secrets(kept: Keeper, archive: Archive, tmp_path: Path, url: str, message: str) -> None:
    kept.statuses |= {"/secret.tar": 401, "/bad.tar": 400}
    with pytest.raises(FetchError) as raised:
        _fetch(url.replace("KEPT", kept.url), archive.digest, tmp_path / "b")

    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("digest", ["", "0" * 64, "sha256:xyz", "sha512:" + "0" * 64, "sha256:" + "A" * 64])
def test_rejects_invalid_digest(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FetchError, match=r"invalid digest .*; expected sha256:<64 hex digits>"):
        _fetch("https://h/b.tar", digest, tmp_path / "b")


def test_keeps_folder_of_something_else(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")

    with pytest.raises(MsdError, match="is not a bundle"):
        _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"
    assert not kept.asked


def test_other_or_damaged_bundle_is_replaced(kept: Keeper, archive: Archive, copied_bundle: Path) -> None:
    _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, copied_bundle)
    assert (copied_bundle / ORIGIN).read_text().strip() == archive.digest.removeprefix("sha256:")

    (copied_bundle / RANKER).write_bytes(b"")
    again = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, copied_bundle)
    assert not again.was_there
    assert open_bundle(copied_bundle).bundle_id == archive.bundle_id


@pytest.mark.parametrize("room", ["for half of the archive", "for the archive alone"])
def test_full_disk_leaves_nothing(kept: Keeper, archive: Archive, tmp_path: Path, room: str) -> None:
    """No file may grow beyond this: as on a full disk, writes end half way."""
    most = len(archive.content) // 2 if "half" in room else len(archive.content) + 1_000
    _, usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual))
    try:
        with pytest.raises(MsdError, match="File too large"):
            _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, usual))
    assert not list(tmp_path.iterdir())


def test_removes_leftovers_of_killed_fetch(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    """Killed while it unpacks: what it had unpacked lies in a folder of its own."""
    given = [f"{kept.url}/bundle.tar.gz", archive.digest, str(tmp_path / "b")]
    ended = subprocess.run([sys.executable, "-c", KILLED, *given], cwd=ROOT, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".b.of-somebody-else").mkdir()
    _fetch(given[0], archive.digest, tmp_path / "b")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.of-somebody-else", "b"]


def test_pack_and_fetch_commands(kept: Keeper, copied_bundle: Path, tmp_path: Path) -> None:
    packed = run_msd("pack", str(copied_bundle), str(tmp_path / "b.tar"), "--json")
    digest = json.loads(packed.stdout)["digest"]
    kept.files["/b.tar"] = (tmp_path / "b.tar").read_bytes()
    good = run_msd("fetch", f"{kept.url}/b.tar", str(tmp_path / "b"), "--digest", digest)
    bad = run_msd("fetch", f"{kept.url}/bundle.tar.gz", str(tmp_path / "c"), "--digest", digest)

    assert (packed.returncode, good.returncode, bad.returncode) == (0, 0, 2)
    assert "fetched and verified" in good.stdout
    assert bad.stderr.startswith("error: http://127.0.0.1:")
    assert f"expected {digest}" in bad.stderr
    assert not (tmp_path / "c").exists()
