"""What can be scored is told by requests that have the time for it."""

from lab.chaos.overload import patient
from loadtest.generator import Target
from loadtest.requests import http_request


def test_patient_requests_ask_for_the_same_with_a_long_deadline() -> None:
    bodies = [b'{"user_id": "u1"}', b'{"line": "\\r\\n"}']
    asked = Target("http://127.0.0.1:1", [http_request("/v1/score", body) for body in bodies])
    given = patient(asked)

    assert given.url == asked.url
    for body, before, after in zip(bodies, asked.requests, given.requests, strict=True):
        headers = _headers(after)
        assert int(headers.pop("X-Deadline-Ms")) >= 1_000
        assert headers == _headers(before)
        assert after.partition(b"\r\n\r\n")[2] == body


def _headers(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)
