"""Rows files that change under a running service: it goes on without a wrong score, and says what it cannot read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msd.contract.bundle import ROWS
from tests.bundles.factory import AT, ITEMS
from tests.service.live import LiveService, live_service, wait_until

_MANY = [f"i{number}" for number in range(0, ITEMS, 2)]


def request(user: str, ids: list[str]) -> dict[str, Any]:
    """Without a history, so that candidates are all that is read of the items."""
    return {"user_id": user, "at": AT, "candidates": {"id": ids}, "user": {"history": []}}


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "truncated":
        os.truncate(path, 0)
    elif how == "cut":
        os.truncate(path, size // 2)
    elif how == "overwritten":
        with path.open("r+b") as file:
            file.write(os.urandom(size))
    elif how == "replaced":
        path.rename(path.with_suffix(".old"))
        path.write_bytes(b"MSDROWS4" + bytes(size))
    else:
        path.unlink()


@pytest.fixture
def running(copied_bundle: Path, tmp_path: Path) -> Iterator[LiveService]:
    """A service over the copy, which has not read a row yet."""
    with live_service(copied_bundle, tmp_path) as service:
        yield service


@pytest.mark.parametrize("how", ["truncated", "cut", "overwritten"])
def test_damaged_rows_are_declared_and_read_ones_served(
    running: LiveService, service: LiveService, copied_bundle: Path, how: str
) -> None:
    expected = service.score(request("u1", _MANY)).json()["candidates"]["pctr"]
    assert running.score(request("u1", _MANY[:1])).json()["candidates"]["pctr"] == pytest.approx(expected[:1], abs=1e-6)
    for name in ROWS.values():
        damage(copied_bundle / name, how)

    for _ in range(3):
        answer = running.score(request("u1", _MANY))
        assert answer.status_code == 200
        body = answer.json()
        degraded = body.get("degraded", {}).get("candidates", {})
        assert set(degraded.values()) <= {"prior"}
        for item, score, right in zip(_MANY, body["candidates"]["pctr"], expected, strict=True):
            assert item in degraded or score == pytest.approx(right, abs=1e-6)
    assert running.score(request("u19", ["i299"])).status_code == 200
    assert running.metric("msd_store_errors_total") > 0
    assert running.process.poll() is None
    wait_until(lambda: any("is damaged; copy the bundle again" in line.get("error", "") for line in running.log()))


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_file_that_is_replaced_or_removed_goes_on_being_read(
    running: LiveService, service: LiveService, copied_bundle: Path, how: str
) -> None:
    for name in ROWS.values():
        damage(copied_bundle / name, how)
    answer = running.score(request("u1", _MANY)).json()

    assert "degraded" not in answer
    assert answer["candidates"] == service.score(request("u1", _MANY)).json()["candidates"]


def test_history_that_cannot_be_read_is_declared(running: LiveService, copied_bundle: Path) -> None:
    os.truncate(copied_bundle / ROWS["item"], 0)
    asked = {"user_id": "u1", "at": AT, "candidates": {"id": ["i1"]}}

    assert running.score(asked).json()["degraded"] == {"user": "cached", "candidates": {"i1": "prior"}}
