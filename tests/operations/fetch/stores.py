"""Fetching from stores of other makers: `python -m tests.operations.fetch.stores --registry BIN --moto BIN BUNDLE`.

Beside the tests, which need nothing installed: docker-registry with a password, and moto's S3, which checks signatures.
"""

import argparse
import base64
import hashlib
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msd.contract.errors import MsdError
from msd.free_port import free_port
from operations.fetch.archive import pack
from operations.fetch.fetch import fetch
from service.trust import Trust

_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: here, path: {folder}/htpasswd}}}}
"""
# bcrypt of "reader"; the registry takes no other kind.
_HTPASSWD = "reader:$2y$05$clcnETZv56QcDCT1EIEQ1uzZRuweF8io5V6JgZKSCmU39jstuVTMC\n"
_PATIENCE_S = 30.0


def main() -> None:
    """Prints what was fetched from where, and what refused what should be refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", help="The program docker-registry.")
    parser.add_argument("--moto", help="The program moto_server.")
    parser.add_argument("bundle", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = folder / "bundle.tar.gz"
        digest = pack(given.bundle, archive)
        if given.registry:
            _try_registry(given.registry, folder, archive, digest)
        if given.moto:
            _try_s3(given.moto, folder, archive, digest)


def _try_registry(program: str, folder: Path, archive: Path, digest: str) -> None:
    port = free_port()
    (folder / "htpasswd").write_text(_HTPASSWD)
    (folder / "registry.yml").write_text(_REGISTRY.format(folder=folder, port=port))
    login = {"Authorization": "Basic " + base64.b64encode(b"reader:reader").decode()}
    auths = {f"127.0.0.1:{port}": {"auth": login["Authorization"].removeprefix("Basic ")}}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    with _running([program, "serve", str(folder / "registry.yml")], port):
        base = f"http://127.0.0.1:{port}/v2/models/ctr"
        _push(base, archive, digest, login)
        environ = {"DOCKER_CONFIG": str(folder)}
        _say("oci", f"oci+http://127.0.0.1:{port}/models/ctr", digest, folder, environ)
        _say("oci, by tag", f"oci+http://127.0.0.1:{port}/models/ctr:v1", digest, folder, environ)
        _say("oci, another digest", f"oci+http://127.0.0.1:{port}/models/ctr:v1", "0" * 64, folder, environ)
        _say("oci, no password", f"oci+http://127.0.0.1:{port}/models/ctr:v1", digest, folder, {})


def _push(base: str, archive: Path, digest: str, login: Mapping[str, str]) -> None:
    """As `oras push` does: the archive and an empty configuration as blobs, and a manifest of both."""
    layers = []
    for content in (b"{}", archive.read_bytes()):
        with _send("POST", f"{base}/blobs/uploads/", b"", login) as reply:
            where = reply.headers["Location"]
        name = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = f"{where}{'&' if '?' in where else '?'}digest={name}"
        _send("PUT", place, content, {**login, "Content-Type": "application/octet-stream"}).close()
        layers.append({"mediaType": "application/octet-stream", "digest": name, "size": len(content)})
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": layers[0], "layers": [layers[1]]}
    _send("PUT", f"{base}/manifests/v1", json.dumps(manifest).encode(), {**login, "Content-Type": kind}).close()


def _try_s3(program: str, folder: Path, archive: Path, digest: str) -> None:
    port = free_port()
    # From the seventh request on it wants credentials, and compares signatures with its own.
    environ = {"INITIAL_NO_AUTH_ACTION_COUNT": "6"}
    with _running([program, "-p", str(port), "-H", "127.0.0.1"], port, environ):
        base = f"http://127.0.0.1:{port}"
        user = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": _as_service("iam")}
        policy = json.dumps(
            {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}], "Version": "2012-10-17"}
        )
        _send("POST", f"{base}/", b"Action=CreateUser&UserName=reader&Version=2010-05-08", user).close()
        allow = {"Action": "PutUserPolicy", "UserName": "reader", "PolicyName": "p", "PolicyDocument": policy}
        allowed = urllib.parse.urlencode({**allow, "Version": "2010-05-08"}).encode()
        _send("POST", f"{base}/", allowed, user).close()
        with _send("POST", f"{base}/", b"Action=CreateAccessKey&UserName=reader&Version=2010-05-08", user) as reply:
            text = reply.read().decode()
        keys = [text.split(f"<{tag}>")[1].split("<")[0] for tag in ("AccessKeyId", "SecretAccessKey")]
        _send("PUT", f"{base}/models", b"", {}).close()
        _send("PUT", f"{base}/models/a%20b%2B1/bundle.tar.gz", archive.read_bytes(), {}).close()
        login = {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1], "AWS_ENDPOINT_URL_S3": base}
        url = "s3://models/a b+1/bundle.tar.gz"
        _say("s3", url, digest, folder, login)
        _say("s3, another digest", url, "0" * 64, folder, login)
        _say("s3, a wrong key", url, digest, folder, {**login, "AWS_SECRET_ACCESS_KEY": "wrong"})
        _say("s3, no key", url, digest, folder, {"AWS_ENDPOINT_URL_S3": base})


def _as_service(name: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/{name}/aws4_request, SignedHeaders=host, Signature=0"


def _say(what: str, url: str, digest: str, folder: Path, environ: Mapping[str, str]) -> None:
    target = folder / "volume" / what.replace(" ", "-")
    try:
        fetched = fetch(url, f"sha256:{digest}", target, 2**34, Trust(None), environ)
        print(f"{what}: fetched bundle {fetched.bundle.bundle_id}")  # noqa: T201 - it is what this is for
    except MsdError as error:
        print(f"{what}: {error}")  # noqa: T201


def _send(method: str, url: str, body: bytes, headers: Mapping[str, str]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    return urllib.request.urlopen(
        urllib.request.Request(url, body or None, {"Content-Type": "binary/octet-stream", **headers}, method=method),
        timeout=20,
    )


@contextmanager
def _running(command: list[str], port: int, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **(environ or {})}
    )
    end = time.monotonic() + _PATIENCE_S
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < end, f"{command[0]} does not answer"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
