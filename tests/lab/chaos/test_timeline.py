"""Outcomes of requests, timelines and their pictures; capacity's patient requests."""

import json
from typing import Any

import pytest

from lab.chaos.overload import patient
from lab.chaos.page import KINDS
from lab.chaos.timeline import Kind, kind_of
from loadtest.generator import LOST, REFUSED, UNANSWERED, Seen, Target
from loadtest.requests import http_request


def seen(status: int, **reply: Any) -> Seen:  # noqa: ANN401 - any JSON
    return Seen(b"", 0.0, 0.0, 0.1, status, json.dumps({"candidates": {}, **reply}).encode())


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (seen(200), "full"),
        (seen(200, degraded={"candidates": {"i1": "cached"}}), "cached"),
        (seen(200, degraded={"candidates": {"i1": "cached", "i2": "prior", "i3": "encoded"}}), "prior"),
        (seen(200, degraded={"candidates": {"i1": "encoded"}}), "encoded"),
        (seen(200, degraded={"candidates": {"i1": "category_prior"}, "user": "cached"}), "category_prior"),
        (seen(200, degraded={"user": "unknown"}), "prior"),
        (seen(200, degraded={"user": "cached"}), "cached"),
        (seen(429), "busy"),
        (seen(503), "not_ready"),
        (seen(504), "late"),
        (seen(500), "error"),
        (seen(502), "error"),
        (seen(422), "invalid"),
        (seen(LOST), "lost"),
        (seen(UNANSWERED), "unanswered"),
        (seen(REFUSED), "refused"),
    ],
)
def test_outcome_is_the_worst_rung_or_the_status(reply: Seen, kind: Kind) -> None:
    assert kind_of(reply) == kind
    assert kind in KINDS


def test_patient_requests_have_a_long_deadline_and_the_same_body() -> None:
    bodies = [b'{"user_id": "u1"}', b'{"line": "\\r\\n"}']
    target = Target("http://127.0.0.1:1", [http_request("/v1/score", body) for body in bodies])

    for before, after in zip(target.requests, patient(target).requests, strict=True):
        first, deadline, rest = after.split(b"\r\n", 2)
        assert int(deadline.removeprefix(b"X-Deadline-Ms: ")) >= 1_000
        assert before == first + b"\r\n" + rest
