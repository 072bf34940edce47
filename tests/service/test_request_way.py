"""A plain request crosses no file of Python, and any other those that docs/design.md draws."""

import json
import re
import signal
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msd.contract.bundle import Bundle
from tests.bundles.factory import build_bundle, golden_requests, reseal
from tests.contract.bid_requests import CANDIDATES, MAPPING, bid_request
from tests.service.faults import watch
from tests.service.live import ROOT, live_service, wait_until
from tests.service.wire import HEAD

REQUEST = {key: golden_requests()[0][key] for key in ("user_id", "at", "context", "candidates")}


def test_plain_request_crosses_no_file_of_python(bundle: Bundle, tmp_path: Path) -> None:
    assert crossed(bundle, tmp_path, REQUEST, 200) == set()


def test_bid_request_of_two_impressions_never_reaches_the_event_loop(tmp_path: Path) -> None:
    made = build_bundle(tmp_path / "bundle")
    reseal(made.folder, openrtb=MAPPING)
    document = {"request": bid_request(), "candidates": CANDIDATES}
    assert crossed(made, tmp_path, document, 200, b"/v1/openrtb") == set()


def test_design_draws_the_files_that_any_other_request_crosses(bundle: Bundle, tmp_path: Path) -> None:
    """Here one with a mistake."""
    found = crossed(bundle, tmp_path, {**REQUEST, "top_k": 0}, 422)
    drawing = (ROOT / "docs/design.md").read_text("utf-8").partition("## One request\n")[2].split("```")[1]

    assert set(re.findall(r"(?:^|\s)\d+ ([a-z_/]+\.py)", drawing, re.MULTILINE)) == found


def crossed(
    bundle: Bundle, tmp_path: Path, document: Mapping[str, object], status: int, path: bytes = b"/v1/score"
) -> set[str]:
    """Return the files of the service that run while it answers such a request."""
    way = tmp_path / "way"
    way.touch()
    body = json.dumps(document).encode()
    request = HEAD.replace(b"/v1/score", path) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with (
        live_service(bundle.folder, tmp_path, prepare=partial(watch, way)) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection,
    ):
        for number in range(4):
            connection.sendall(request)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 %d " % status)
            if number == 0:
                running.process.send_signal(signal.SIGUSR1)
                wait_until(lambda: "begins" in way.read_text("utf-8"))
        # What is to be done after a reply was done after the first ones.
        return set(way.read_text("utf-8").split()[1:])
