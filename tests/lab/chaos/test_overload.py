"""What can be scored is told by requests that have the time for it."""

from lab.chaos.overload import patient
from loadtest.generator import Target
from loadtest.requests import headers_of, http_request


def test_patient_requests_ask_for_the_same_with_a_long_deadline() -> None:
    bodies = [b'{"user_id": "u1"}', b'{"line": "\\r\\n"}']
    asked = Target("http://127.0.0.1:1", [http_request("/v1/score", body) for body in bodies])
    given = patient(asked)

    assert given.url == asked.url
    for body, before, after in zip(bodies, asked.requests, given.requests, strict=True):
        headers = headers_of(after)
        assert int(headers.pop("X-Deadline-Ms")) >= 1_000
        assert headers == headers_of(before)
        assert after.partition(b"\r\n\r\n")[2] == body
