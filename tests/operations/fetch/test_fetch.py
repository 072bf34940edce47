"""Fetching from real servers: resumed, bounded, and never anything but what the digest says."""

import base64
import hashlib
import json
import re
import resource
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from msd.contract.bundle import MANIFEST, RANKER, open_bundle
from msd.contract.errors import BundleError, MsdError
from operations.fetch.archive import pack
from operations.fetch.fetch import ORIGIN, Fetched, download, fetch
from operations.fetch.stores import place_of
from operations.fetch.web import FetchError, FetchUnavailable, Web
from operations.signing import sign
from service.trust import Trust
from tests.operations.fetch.conftest import Archive
from tests.operations.fetch.keeper import TOKEN, Keeper, keeper
from tests.operations.signing_keys import Keys
from tests.service.live import ROOT, run_msd

ROOM = 2**24
KILLED = """
import os, signal, sys
from pathlib import Path
from operations.fetch import fetch
from service.trust import Trust

fetch.unpack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
fetch.fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), 2**24, Trust(None), {})
"""
NOBODY = Trust(None)


def _fetch(url: str, digest: str, folder: Path, environ: Mapping[str, str] | None = None) -> Fetched:
    return fetch(url, digest, folder, ROOM, NOBODY, environ or {})


def _download(kept: Keeper, archive: Archive, part: Path, *, room: int = ROOM) -> list[float]:
    """Brings the archive, waiting for nothing, and gives for how long it would have waited."""
    waited: list[float] = []
    web, digest = Web(), archive.digest.removeprefix("sha256:")
    place = place_of(f"{kept.url}/bundle.tar.gz", digest, {}, web)
    download(web, place, digest, part, room, waited.append)
    return waited


def test_a_bundle_is_fetched_once(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "served"
    first = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, folder)
    asked = len(kept.asked)
    second = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, folder)

    assert (first.was_there, second.was_there) == (False, True)
    assert first.bundle.bundle_id == archive.bundle_id
    assert len(kept.asked) == asked == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["served"]


def test_another_bundle_takes_its_place(kept: Keeper, archive: Archive, copied_bundle: Path, tmp_path: Path) -> None:
    _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, copied_bundle)

    assert (copied_bundle / ORIGIN).read_text().strip() == archive.digest.removeprefix("sha256:")


def test_a_digest_that_does_not_match_leaves_nothing(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(FetchError) as raised:
        _fetch(f"{kept.url}/bundle.tar.gz", wrong, tmp_path / "volume" / "served")

    assert archive.digest in str(raised.value)
    assert wrong in str(raised.value)
    assert "nothing was unpacked" in str(raised.value)
    assert not list((tmp_path / "volume").iterdir())


def test_an_archive_of_something_else_leaves_nothing(kept: Keeper, copied_bundle: Path, tmp_path: Path) -> None:
    pack(copied_bundle, tmp_path / "a.tar")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[content.index((copied_bundle / RANKER).read_bytes()) + 100] ^= 1
    kept.files["/damaged.tar"] = bytes(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    with pytest.raises(BundleError, match=r"the digest matches, but the bundle is invalid: .*ranker\.onnx: its SHA"):
        _fetch(f"{kept.url}/damaged.tar", digest, tmp_path / "volume" / "served")
    assert not list((tmp_path / "volume").iterdir())


def test_only_signed_bundles_where_keys_are_trusted(
    kept: Keeper, archive: Archive, copied_bundle: Path, tmp_path: Path
) -> None:
    keys = Keys(tmp_path)
    sign(copied_bundle, MANIFEST, keys.private)
    signed = f"sha256:{pack(copied_bundle, tmp_path / 'signed.tar')}"
    kept.files["/signed.tar"] = (tmp_path / "signed.tar").read_bytes()
    trust = Trust(keys.public)

    with pytest.raises(BundleError, match="is not signed"):
        fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "volume" / "served", ROOM, trust, {})
    assert not list((tmp_path / "volume").iterdir())
    assert fetch(f"{kept.url}/signed.tar", signed, tmp_path / "volume" / "served", ROOM, trust, {}).bundle.bundle_id


def test_it_goes_on_where_it_broke_off(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.breaks = 3
    waited = _download(kept, archive, tmp_path / "part")
    ranges = [headers.get("range") for _, headers in kept.asked]

    assert (tmp_path / "part").read_bytes() == archive.content
    assert ranges[0] is None
    assert all(re.fullmatch(r"bytes=[1-9]\d*-", asked or "") for asked in ranges[1:])
    assert len(ranges) == 4
    assert len(waited) == 3


@pytest.mark.parametrize("says_length", [True, False])
def test_a_server_without_ranges_is_asked_from_the_start(
    kept: Keeper, archive: Archive, tmp_path: Path, says_length: bool
) -> None:
    kept.has_ranges, kept.says_length = False, says_length
    (tmp_path / "part").write_bytes(archive.content[:999])
    _download(kept, archive, tmp_path / "part")

    assert (tmp_path / "part").read_bytes() == archive.content


@pytest.mark.parametrize("left", [b"of another archive", b"x" * 10_000_000])
def test_what_was_left_by_another_try_is_not_believed(
    kept: Keeper, archive: Archive, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "part").write_bytes(left)
    _download(kept, archive, tmp_path / "part")

    assert (tmp_path / "part").read_bytes() == archive.content


def test_what_a_killed_process_left_is_gone_on_with(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(archive.content[:999])
    _download(kept, archive, tmp_path / "part")

    assert (tmp_path / "part").read_bytes() == archive.content
    assert [headers.get("range") for _, headers in kept.asked] == ["bytes=999-"]


def test_a_server_that_recovers_is_waited_for(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.fails = 5

    assert _download(kept, archive, tmp_path / "part") == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_one_that_does_not_is_given_up(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.fails = 99

    with pytest.raises(FetchUnavailable, match=r"answers 503 \(tried 6 times\)"):
        _download(kept, archive, tmp_path / "part")


@pytest.mark.parametrize("says_length", [True, False])
def test_an_archive_over_the_limit_is_not_taken(
    kept: Keeper, archive: Archive, tmp_path: Path, says_length: bool
) -> None:
    kept.says_length = says_length

    with pytest.raises(FetchError, match=r"limit (is \d+ )?\(--max-mb\)"):
        _download(kept, archive, tmp_path / "part", room=1_000)
    assert not list(tmp_path.iterdir())


def test_a_token_goes_to_its_host_alone(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    kept.token = TOKEN
    with keeper() as other:
        other.files["/elsewhere"] = archive.content
        kept.redirects["/bundle.tar.gz"] = f"{other.url}/elsewhere"
        _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b", {"BUNDLE_TOKEN": TOKEN})

        assert kept.asked[0][1]["authorization"] == f"Bearer {TOKEN}"
        assert "authorization" not in other.asked[0][1]


def test_tls_is_checked_and_not_left(
    kept: Keeper, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with keeper(tls) as safe:
        safe.files["/b.tar.gz"] = archive.content
        safe.redirects["/away"] = f"{kept.url}/bundle.tar.gz"
        with pytest.raises(FetchError, match="its certificate is not trusted .*SSL_CERT_FILE"):
            _fetch(f"{safe.url}/b.tar.gz", archive.digest, tmp_path / "b")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with pytest.raises(FetchError, match="/away: redirects to http://.*, which is not encrypted"):
            _fetch(f"{safe.url}/away", archive.digest, tmp_path / "b")

        assert _fetch(f"{safe.url}/b.tar.gz", archive.digest, tmp_path / "b").bundle.bundle_id == archive.bundle_id
    assert not kept.asked


@pytest.mark.parametrize("tag", ["", ":v3"])
@pytest.mark.parametrize("entry", ["auth", "username"])
def test_a_registry_gives_the_blob(kept: Keeper, archive: Archive, tmp_path: Path, tag: str, entry: str) -> None:
    kept.token = TOKEN
    assert kept.push("models/ctr", "v3", archive.content) == archive.digest
    login = base64.b64encode(b"reader:pass").decode()
    auth = {"auth": login} if entry == "auth" else {"username": "reader", "password": "pass"}
    host = kept.url.removeprefix("http://")
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: auth}}))
    _fetch(f"oci+http://{host}/models/ctr{tag}", archive.digest, tmp_path / "b", {"DOCKER_CONFIG": str(tmp_path)})
    token = next((path, headers) for path, headers in kept.asked if path.startswith("/token"))

    assert "scope=repository%3Amodels%2Fctr%3Apull" in token[0]
    assert token[1]["authorization"] == f"Basic {login}"
    assert open_bundle(tmp_path / "b").bundle_id == archive.bundle_id


def test_a_tag_of_something_else_is_named(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    other = kept.push("ctr", "v4", b"other")
    with pytest.raises(FetchError, match=f"holds {other}, expected {archive.digest}"):
        _fetch(f"oci+http://{kept.url.removeprefix('http://')}/ctr:v4", archive.digest, tmp_path / "b")


@pytest.mark.parametrize(
    ("url", "environ", "said"),
    [
        ("bundle.tar.gz", {}, "'bundle.tar.gz': is not a URL; expected https://"),
        ("ftp://h/b.tar", {}, "unsupported scheme 'ftp'"),
        ("file:///etc/passwd", {}, "is not a URL"),
        ("https://user:hunter2@h/b.tar", {}, "credentials do not belong into a URL"),
        ("https://host:port/b.tar", {}, "https://host:port/b.tar: nonnumeric port: 'port'"),
        ("s3://bucket/", {}, "names no object"),
        ("KEPT/none.tar?X-Amz-Signature=hunter2", {}, "/none.tar: answers 404: there is nothing at this address"),
        ("OCI/Ctr", {}, "names no repository"),
        ("OCI/ctr:v9", {}, "/manifests/v9: answers 404"),
        ("OCI/ctr", {"DOCKER_CONFIG": "/nowhere"}, "answers 404"),
    ],
)
def test_a_mistake_is_named_and_no_secret(
    kept: Keeper, archive: Archive, tmp_path: Path, url: str, environ: dict[str, str], said: str
) -> None:
    url = url.replace("KEPT", kept.url).replace("OCI", kept.url.replace("http", "oci+http"))
    with pytest.raises(FetchError) as raised:
        _fetch(url, archive.digest, tmp_path / "b", environ)

    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "[]", '{"auths": {"HOST": {"auth": "?"}}}', '{"auths": {"HOST": {"user": "me"}}}']
)
def test_a_docker_configuration_that_is_none_is_named(
    kept: Keeper, archive: Archive, tmp_path: Path, content: str
) -> None:
    kept.token, host = TOKEN, kept.url.removeprefix("http://")
    (tmp_path / "config.json").write_text(content.replace("HOST", host))
    with pytest.raises(FetchError, match=r"config\.json: not a Docker configuration"):
        _fetch(f"oci+http://{host}/ctr", archive.digest, tmp_path / "b", {"DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("digest", ["", "0" * 64, "sha256:xyz", "sha512:" + "0" * 64, "sha256:" + "A" * 64])
def test_a_digest_that_is_none_is_named(tmp_path: Path, digest: str) -> None:
    with pytest.raises(FetchError, match=r"invalid digest .*; expected sha256:<64 hex digits>"):
        _fetch("https://h/b.tar", digest, tmp_path / "b")


def test_a_folder_of_something_else_is_kept(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")

    with pytest.raises(MsdError, match="is not a bundle"):
        _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"
    assert not kept.asked


def test_two_that_fetch_the_same_do_not_disturb_each_other(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_fetch, f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b") for _ in range(4)]
        found = [one.result() for one in asked]

    assert sorted(one.was_there for one in found) == [False, True, True, True]
    assert len(kept.asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_bundle_that_was_damaged_since_is_fetched_again(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    (tmp_path / "b" / RANKER).write_bytes(b"")
    again = _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")

    assert not again.was_there
    assert open_bundle(tmp_path / "b").bundle_id == archive.bundle_id


@pytest.mark.parametrize("room", ["for half of the archive", "for the archive alone"])
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    kept: Keeper, archive: Archive, tmp_path: Path, room: str
) -> None:
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


def test_what_the_disk_has_no_room_for_is_not_begun(
    kept: Keeper, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(FetchError, match=rf"{len(archive.content)} bytes are missing, but .* has room for 1000"):
        _fetch(f"{kept.url}/bundle.tar.gz", archive.digest, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_fetch_left_is_removed_by_the_next(kept: Keeper, archive: Archive, tmp_path: Path) -> None:
    """Killed while it unpacks: what it had unpacked lies in a folder of its own."""
    given = [f"{kept.url}/bundle.tar.gz", archive.digest, str(tmp_path / "b")]
    ended = subprocess.run([sys.executable, "-c", KILLED, *given], cwd=ROOT, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".b.of-somebody-else").mkdir()
    _fetch(given[0], archive.digest, tmp_path / "b")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.of-somebody-else", "b"]


def test_the_commands(kept: Keeper, copied_bundle: Path, tmp_path: Path) -> None:
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
