"""Logs in a store are read as local ones: objects and prefixes, from a server that speaks as the stores do."""

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from msd.dataset.command import app
from msd.dataset.load import load_dataset
from tests.dataset.logs import log

PARTS = {f"parts/day={day}/part.csv": log().slice(day * 80, 80).write_csv() for day in range(3)}
FILES = {f"/logs/{key}": text for key, text in (PARTS | {"log.csv": log().write_csv()}).items()}
FOUND = "".join(
    f"<Contents><Key>{key}</Key><LastModified>2024-05-01T00:00:00.000Z</LastModified><ETag>1</ETag>"
    f"<Size>{len(text)}</Size></Contents>"
    for key, text in PARTS.items()
)
FILES["/logs"] = f"<ListBucketResult><IsTruncated>false</IsTruncated>{FOUND}</ListBucketResult>"


class Bucket(BaseHTTPRequestHandler):
    """The bucket `logs`, which holds a log, and its parts below a prefix."""

    def do_GET(self) -> None:
        content = FILES.get(unquote(self.path.split("?")[0]))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len((content or "").encode())))
        self.send_header("Last-Modified", "Wed, 01 May 2024 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write((content or "").encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.upper().startswith(("AWS_", "GOOGLE_")) or "_PROXY" in name.upper():
            monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        for name in ("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield
        server.shutdown()


def init(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_reads_objects_and_prefixes(tmp_path: Path, scheme: str) -> None:
    for place, name in ((f"{scheme}://logs/log.csv", "whole"), (f"{scheme}://logs/parts/", "parts")):
        code, output = init(place, tmp_path / name)
        assert code == 0, output
    whole, parts = (load_dataset(tmp_path / name).events for name in ("whole", "parts"))
    assert whole.height == 240
    assert whole.equals(parts.drop("day"))  # a folder's key


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://logs/gone.csv", "s3://logs/gone.csv: cannot be read: nothing is at this address"),
        ("s3://logs/", "names no object; expected s3://BUCKET/KEY, or s3://BUCKET/PREFIX/"),
    ],
)
def test_refuses_place_with_reason(tmp_path: Path, place: str, message: str) -> None:
    code, output = init(place, tmp_path / "out")
    assert code != 0
    assert message in output
    assert not (tmp_path / "out").exists()
