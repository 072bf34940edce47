"""Scoring requests as bytes, and what a raw connection says to them."""

import json
import socket
import time
from typing import Any

import httpx

from tests.service.live import LiveService

GOOD: dict[str, Any] = {"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}


def but(**changes: Any) -> bytes:  # noqa: ANN401
    return json.dumps({**GOOD, **changes}).encode()


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error, whose form is always the same."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"code", "message", "field"}
    assert "Traceback" not in error["message"]
    assert len(error["message"]) < 700
    return error


def talk(service: LiveService, *pieces: bytes) -> bytes:
    """Sends pieces on a raw connection and gives all that comes until the service closes it."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
