"""The examples of the pages on API and client, run against a real service: what they show is what it says."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msd.dataset.config import OpenrtbConfig
from tests.bundles.factory import build_bundle, reseal
from tests.docs.pages import ROOT, Block, blocks
from tests.service.live import LiveService, live_service

_ADDRESS = "127.0.0.1:8080"
_VARIES = ("request_id",)
OPENRTB = ROOT / "docs" / "openrtb.md"


def examples() -> list[tuple[Block, Block]]:
    """Commands of the pages on the API and OpenRTB, each with the reply that is shown for it."""
    pages = (ROOT / "docs" / "api.md", OPENRTB)
    found = [block for block in blocks("sh", "json") if block.page in pages]
    found.sort(key=lambda block: (block.page, block.line))
    assert [block.language for block in found] == ["sh", "json"] * (len(found) // 2)
    return list(zip(found[::2], found[1::2], strict=True))


def scripts() -> list[Block]:
    """Python of both pages."""
    pages = (ROOT / "docs" / "api.md", ROOT / "docs" / "client.md")
    return [block for block in blocks("python") if block.page in pages]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that takes events and BidRequests too, these by the mapping that is shown."""
    folder = tmp_path_factory.mktemp("api")
    bundle = build_bundle(folder / "bundle").folder
    (shown,) = [block for block in blocks("toml") if block.page == OPENRTB]
    reseal(bundle, openrtb=OpenrtbConfig.model_validate(tomllib.loads(shown.text)["openrtb"]).mapping)
    with live_service(bundle, folder, live="on", state_dir=folder / "states") as service:
        yield service


def form(value: Any) -> Any:  # noqa: ANN401 - of JSON
    """A reply without what differs from one time to the next: its figures, and ids that the service makes."""
    if isinstance(value, dict):
        return {name: "…" if name in _VARIES else form(part) for name, part in value.items()}
    if isinstance(value, list):
        return [form(part) for part in value]
    return 0.5 if isinstance(value, float) else value


@pytest.mark.parametrize(("command", "shown"), examples(), ids=str)
def test_command_gets_the_reply_on_the_page(running: LiveService, command: Block, shown: Block) -> None:
    text = command.text.replace(_ADDRESS, f"127.0.0.1:{running.port}").replace("curl -s", "curl -s --noproxy '*'")

    ended = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True, timeout=300)

    assert form(json.loads(ended.stdout)) == form(json.loads(shown.text))


@pytest.mark.parametrize("script", scripts(), ids=str)
def test_script_runs(running: LiveService, script: Block, tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(script.text.replace(_ADDRESS, f"127.0.0.1:{running.port}"))

    ended = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
