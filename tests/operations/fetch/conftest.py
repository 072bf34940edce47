"""An archive of the plain bundle, and an HTTP server of archives."""

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from msd.contract.bundle import Bundle
from operations.fetch.archive import pack

TOKEN = "s3cret-token"


@dataclass
class Keeper:
    """What the server keeps and how it behaves; tests change it while it runs."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    breaks: int = 0
    """How many more replies break off in the middle."""
    fails: int = 0
    """How many more replies are a 503."""
    token: str | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)


@contextmanager
def keeper(tls: ssl.SSLContext | None = None) -> Iterator[Keeper]:
    """A server on a free port of this machine; it ends with the block."""
    kept = Keeper()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kept": kept}))
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    kept.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: Keeper

    def do_GET(self) -> None:
        kept, path = self.kept, self.path.split("?")[0]
        kept.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if kept.fails:
            kept.fails -= 1
            self._send(503)
        elif kept.token and self.headers.get("Authorization") != f"Bearer {kept.token}":
            self._send(401)
        elif path in kept.redirects:
            self._send(307, headers={"Location": kept.redirects[path]})
        elif path not in kept.files:
            self._send(kept.statuses.get(path, 404))
        else:
            self._give(kept.files[path])

    def _give(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if asked:
            extent = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], {"Content-Range": extent, "ETag": '"1"'})
        else:
            self._send(200, content, {"ETag": '"1"'})

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status in (200, 206) and body and self.kept.breaks:
            self.kept.breaks -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ANN401 - the base's
        pass


class Archive(NamedTuple):
    path: Path
    content: bytes
    digest: str
    bundle_id: str


@pytest.fixture(scope="session")
def archive(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Of the plain bundle; nobody changes it."""
    path = tmp_path_factory.mktemp("archive") / "bundle.tar.gz"
    digest = pack(bundle.folder, path)
    return Archive(path, path.read_bytes(), f"sha256:{digest}", bundle.bundle_id)


@pytest.fixture
def kept(archive: Archive) -> Iterator[Keeper]:
    """A server that has it as /bundle.tar.gz."""
    with keeper() as running:
        running.files["/bundle.tar.gz"] = archive.content
        yield running
