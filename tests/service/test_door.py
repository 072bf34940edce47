"""Refusals before anything is made of a request: what they say and count, and whom they leave to the usual way."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import httptools
import orjson
import pytest

from service.admission import Admission, Load
from service.deadline import Deadlines
from service.door import Door
from service.errors import Overloaded
from service.metrics import Metrics
from service.readiness import Readiness
from service.settings import Settings

_TURN_S = 0.1


class Bench:
    """A door whose service has work for 9 s, and has just refused a request for that."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.readiness = Readiness(self.metrics)
        self.readiness.missing.clear()
        self.admission = Admission(self.metrics, max_rows=100_000)
        deadlines = Deadlines(Settings(bundle=Path("b"), deadline_ms=10_000))
        self.door = Door(
            self.admission, lambda size: Load(200, _TURN_S), deadlines, self.readiness, self.metrics, "/v1/score"
        )
        self.work = [Load(200, _TURN_S)] * 90
        for load in self.work:
            self.admission.enter(load, time.perf_counter() + 60)
        with pytest.raises(Overloaded):
            self.admission.enter(Load(200, _TURN_S), time.perf_counter() + 1)

    def ask(self, *headers: bytes, body: bytes = b"{}") -> bytes | None:
        """What the door says to a request."""
        head = b"".join(b"%b\r\n" % header for header in (b"Content-Length: %d" % len(body), *headers))
        return self.door.refusal(b"POST /v1/score HTTP/1.1\r\n" + head + b"\r\n" + body)

    def counted(self, family: str, sample: str, **labels: str) -> float:
        """A sample's value."""
        families = {one.name: one for one in self.metrics.families.collect()}
        return sum(
            one.value
            for one in families[family].samples
            if one.name == sample and all(one.labels.get(name) == value for name, value in labels.items())
        )


class Reply:
    """A reply as a client's parser sees it."""

    def __init__(self, rest: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_whole = False
        httptools.HttpResponseParser(self).feed_data(b"HTTP/1.1 429 Too Many Requests\r\n" + rest)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_whole = True

    @property
    def error(self) -> dict[str, Any]:
        """The body's only part."""
        document: dict[str, dict[str, Any]] = orjson.loads(self.body)
        assert document.keys() == {"error"}
        return document["error"]


def test_a_refusal_is_a_whole_reply_of_the_usual_form_and_is_counted() -> None:
    bench = Bench()
    assert bench.door.is_watched
    said = bench.ask(b"X-Request-Id: mine")
    assert said is not None
    reply = Reply(said)

    assert reply.is_whole
    assert reply.headers["content-type"] == "application/json"
    assert (reply.headers["retry-after"], reply.headers["x-request-id"]) == ("1", "mine")
    assert (reply.error["code"], reply.error["field"]) == ("overloaded", None)
    assert reply.error["message"].startswith("18000 candidates are waiting")
    assert bench.counted("msd_requests", "msd_requests_total", code="429") == 1
    # With the one that was refused before.
    assert bench.counted("msd_shed", "msd_shed_total", reason="wait") == 2


def test_each_has_an_id_of_its_own() -> None:
    bench = Bench()
    ids = {Reply(said).headers["x-request-id"] for _ in range(3) if (said := bench.ask())}
    assert len(ids) == 3


@pytest.mark.parametrize("header", [b"X-Deadline-Ms: 60000", b"X-Deadline-Ms: soon", b"Connection: close"])
def test_who_has_the_time_or_is_unusual_goes_the_usual_way(header: bytes) -> None:
    bench = Bench()
    assert bench.ask(header) is None
    assert bench.counted("msd_requests", "msd_requests_total", code="429") == 0


def test_what_comes_at_once_is_refused_by_one_look_at_the_queue_and_counted_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    looks = Counter[Load]()
    check = bench.admission.check

    def counting(load: Load, deadline: float) -> None:
        looks[load] += 1
        check(load, deadline)

    monkeypatch.setattr(bench.admission, "check", counting)
    monkeypatch.setattr("service.door._HOLDS_S", 60.0)
    replies = [Reply(said) for _ in range(3) if (said := bench.ask(b"X-Deadline-Ms: 9000"))]

    assert looks == {Load(200, _TURN_S): 1}
    assert len({reply.headers["x-request-id"] for reply in replies}) == len(replies) == 3
    assert len({reply.error["message"] for reply in replies}) == 1
    assert bench.counted("msd_requests", "msd_requests_total", code="429") == 3
    assert bench.counted("msd_shed", "msd_shed_total", reason="wait") == 1 + 3
    # Who has more time, or asks for less, is looked at by himself.
    assert bench.ask(b"X-Deadline-Ms: 60000") is None
    assert bench.ask(b"X-Deadline-Ms: 9000", body=b"") is not None
    assert looks.total() == 3


def test_a_look_at_the_queue_holds_for_a_moment_only() -> None:
    bench = Bench()
    assert bench.ask() is not None
    for load in bench.work:
        bench.admission.leave(load)
    until = time.monotonic() + 10
    while bench.ask() is not None:
        assert time.monotonic() < until


def test_it_is_no_longer_watched_when_nobody_waits() -> None:
    bench = Bench()
    for load in bench.work:
        bench.admission.leave(load)
    # The first that comes finds out.
    assert bench.ask() is None
    assert not bench.door.is_watched


def test_while_the_service_drains_or_is_not_ready_all_go_the_usual_way() -> None:
    bench = Bench()
    bench.readiness.drain()
    assert not bench.door.is_watched
