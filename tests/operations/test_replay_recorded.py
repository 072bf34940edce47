"""A replay passes when the scores are those on record, fails when one is not, and refuses what it cannot compare."""

import json
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from msd.__main__ import main
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.errors import MsdError
from msd.contract.golden import read_goldens
from operations.replay.recorded import ReplayFigures, count_requests
from operations.replay.recorded import replay as replay_with
from operations.service_client import CannotAsk, ServiceClient, tls_of
from service.http.keys import new_key
from tests.service.live import LiveService, live_service

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def other_service(other_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with live_service(other_bundle.folder, tmp_path_factory.mktemp("other")) as running:
        yield running


@pytest.fixture
def recorded(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle's goldens as `msd export --replay` writes requests; those that rank are not among them."""
    goldens = [one for one in read_goldens(bundle.path(GOLDENS)) if "top_k" not in one.request and not one.events]
    lines = [json.dumps({"request": golden.request, "expected": golden.expected}) for golden in goldens]
    path = tmp_path / "replay.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def replay(path: Path, *urls: str, progress: Callable[[int], None] = lambda _: None) -> ReplayFigures:
    return replay_with(path, [ServiceClient(url, None, tls_of(None, None, None)) for url in urls], progress)


def _edit(path: Path, line: int, edit: Edit) -> None:
    lines = path.read_text().splitlines()
    document = json.loads(lines[line - 1])
    edit(document)
    lines[line - 1] = json.dumps(document)
    path.write_text("\n".join(lines) + "\n")


def test_recorded_scores_are_reproduced(recorded: Path, service: LiveService) -> None:
    steps: list[int] = []
    found = replay(recorded, service.url, progress=steps.append)
    assert found.requests == steps[-1] == count_requests(recorded) == 4
    assert found.candidates == 4 + 1 + 3 + 200
    assert found.max_abs_diff <= 1e-6
    # One request is of an unknown user with an unknown item.
    assert found.degraded == 1
    assert found.twin_differences is None


def test_replays_with_key(recorded: Path, bundle: Bundle, tmp_path: Path) -> None:
    key, entry = new_key("replay", ("score",), None)
    keys, key_file = tmp_path / "keys.json", tmp_path / "key"
    keys.write_text(json.dumps({"keys": [entry.model_dump(mode="json")]}))
    key_file.write_text(f"{key}\n")
    with live_service(bundle.folder, tmp_path, keys_file=keys) as guarded:
        with pytest.raises(CannotAsk, match=r":1: answered 401"):
            replay(recorded, guarded.url)
        with pytest.raises(SystemExit, match="0"):
            main(["replay", str(recorded), "--url", guarded.url, "--key-file", str(key_file)])


def test_finds_differing_score(recorded: Path, service: LiveService, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(recorded), "--url", service.url, "--json"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    capsys.readouterr()
    _edit(recorded, 4, lambda document: document["expected"]["pctr"].append(document["expected"]["pctr"].pop() + 2e-5))
    assert replay(recorded, service.url).max_abs_diff == pytest.approx(2e-5, abs=1e-6)
    with pytest.raises(SystemExit, match="1"):
        main(command)
    figures = json.loads(capsys.readouterr().out)
    assert figures.keys() == {"requests", "candidates", "max_abs_diff", "degraded", "twin_differences"}
    assert figures["max_abs_diff"] > 1e-5
    with pytest.raises(SystemExit, match="0"):
        main([*command[:-1], "--tolerance", "1e-4"])
    assert capsys.readouterr().out.startswith("4 requests, 208 candidates: scores differ by 2.0e-05 at most; 1 replies")


def test_twin_must_be_identical(
    recorded: Path, service: LiveService, other_service: LiveService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(recorded, service.url, service.url).twin_differences == 0
    found = replay(recorded, service.url, other_service.url)
    assert (found.twin_differences, found.requests) == (4, 4)
    assert found.max_abs_diff <= 1e-6
    with pytest.raises(SystemExit, match="1"):
        main(["replay", str(recorded), "--url", service.url, "--twin", other_service.url])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Invalid JSON"),
        ("", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"request": {}}', "expected: is missing"),
        ('{"request": {}, "expected": {}}', "expected.pctr: is missing"),
        ('{"request": {}, "expected": {"pctr": [0.5, null]}}', "expected.pctr.1: should be a valid number"),
        ('{"request": {}, "expected": {"pctr": [NaN]}}', "expected.pctr.0: should be a finite number"),
        ('{"request": 1, "expected": {"pctr": [0.5]}}', "request: should be"),
    ],
)
def test_rejects_invalid_line(line: str, message: str, recorded: Path) -> None:
    recorded.write_text(recorded.read_text() + line + "\n")
    with pytest.raises(MsdError) as refused:
        count_requests(recorded)
    assert str(refused.value).startswith(f"{recorded}:5: not a recorded request ({message}")


def test_rejects_file_without_requests(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(MsdError, match="holds no requests"):
        count_requests(tmp_path / "empty")
    with pytest.raises(MsdError, match="No such file"):
        count_requests(tmp_path / "nothing")
    with pytest.raises(MsdError, match="Is a directory"):
        count_requests(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda document: document["request"].update(user_id=[]), "answered 422: .*user_id"),
        (lambda document: document["expected"]["pctr"].pop(), "1 scores where 0 are recorded"),
    ],
)
def test_request_without_its_scores_is_an_error(recorded: Path, service: LiveService, edit: Edit, message: str) -> None:
    _edit(recorded, 2, edit)
    with pytest.raises(CannotAsk, match=rf"{recorded.name}:2: {message}"):
        replay(recorded, service.url)


def test_unreachable_service_is_an_error(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(SystemExit, match="2"):
            main(["replay", str(recorded), "--url", url])
    assert f"error: {url}: no answer: Connection refused" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--url", "http://[::1"), "not a service's URL"),
        (("--twin", "nonsense"), "not a service's URL"),
        (("--cert-key", "KEY"), "--cert-key: needs --cert"),
        (("--key-file", "TWO"), "expected only one key, on one line"),
        (("--key-file", "NONE"), "No such file"),
        (("--ca", "TWO"), "--ca, --cert, --cert-key: "),
    ],
)
def test_rejects_invalid_options(
    options: tuple[str, str], message: str, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "TWO").write_text("one\ntwo\n")
    name, value = options
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(recorded), name, str(tmp_path / value) if value.isupper() else value])
    assert message in " ".join(capsys.readouterr().err.split())


class _Page(BaseHTTPRequestHandler):
    """Web server that is not a scoring service."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_other_server_is_an_error(recorded: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(CannotAsk, match=r"replay\.jsonl:1: not the answer of a scoring service \(Invalid JSON"):
            replay(recorded, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
