"""Tens of thousands of invalid requests: each is refused, none is scored, none causes a failure."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lab.chaos.bundles import mapped_bundle
from lab.chaos.hostile import hostile_requests
from lab.chaos.http_fuzz import fuzz
from lab.chaos.scenario import Check, Scenario, ScenarioResult
from lab.chaos.timeline import ScenarioTimeline
from loadtest.http_client import ServiceConnection
from loadtest.routes import IMPRESSION, OPENRTB, SCORE, as_bid_request
from msd.contract.bundle import open_bundle

_STARTED = "process_start_time_seconds"
_TIMEOUT_S = 1.0
_TURNS = 10
# Many of them wait until the service gives up on an unfinished body.
_CONNECTIONS = 32
_DEADLINE = "X-Deadline-Ms"
_LONG_MS = 10_000
_ROUTES = (SCORE, OPENRTB)


class BadRequests(Scenario):
    """Generated from the service's OpenAPI document, and by hand."""

    name = "bad-requests"
    title = "Tens of thousands of bad requests"
    told = ("bad_requests", "bad_requests_5xx")

    def run(self) -> ScenarioResult:
        came, wrong, refused = Counter[str](), list[str](), list[tuple[float, float]]()
        start = time.monotonic()
        timeouts: dict[str, Any] = {"HEAD_TIMEOUT_S": _TIMEOUT_S, "BODY_TIMEOUT_S": _TIMEOUT_S}
        bundle = mapped_bundle(self.environment.bundle, self.folder / "mapped")
        with self.environment.service(self.name, bundle=bundle, **timeouts) as service:
            target = self.environment.target(service.url, 3)
            good = _by_route(target.bodies[0], bundle)
            before = _state(service.url, good)
            generated, errors, accepted, generating = _generated(service.url, self.plan.generated)
            came.update(generated)
            streams = [hostile_requests(json.loads(body), 1, path) for path, body in good.items()]
            requests = chain.from_iterable(zip(*streams, strict=True))
            for turn in range(_TURNS):
                self.hear("requests", turn, _TURNS)
                number = (self.plan.bad_requests - generated.total()) // _TURNS + 1
                result = fuzz(target.place, requests, number, _CONNECTIONS)
                came.update({str(one): count for one, count in result.came.items()})
                wrong += result.wrong
                told = sum(count for one, count in came.items() if one.startswith("4"))
                refused.append((round(time.monotonic() - start, 2), told))
            after = _state(service.url, good)
        fives = sum(count for one, count in came.items() if one.startswith("5"))
        scored = accepted + sum(": 200" in one for one in wrong)
        counts = {**came, "5xx": fives, "accepted": scored, "hung": came["hung"], "generated": generated.total()}
        checks = (
            Check("no reply is a 5xx", fives == 0),
            Check("no invalid request is scored", scored == 0),
            Check("none hangs", came["hung"] == 0),
            Check(f"each is refused as it should be {_some([*wrong, *errors])}", not wrong and not errors),
            Check("the service has not restarted", before[0] == after[0] > 0),
            Check("a good request has the same scores by every route", len(set(before[1])) == 1),
            Check("a good request still gets the same scores", before[1] == after[1]),
            Check(f"requests were generated from the description {generating}", not generating),
        )
        figures = {"bad_requests": came.total(), **self.named(**dict(sorted(counts.items())))}
        return ScenarioResult(figures, checks, ScenarioTimeline(levels={"refused, in all": refused}))


def _by_route(body: bytes, bundle: Path) -> dict[str, bytes]:
    """Return a good request as each route takes it."""
    mapping = open_bundle(bundle).manifest.openrtb
    assert mapping is not None, "the bundle maps BidRequests"
    return {SCORE: body, OPENRTB: as_bid_request(body, mapping)}


def _state(url: str, good: Mapping[str, bytes]) -> tuple[float, list[str]]:
    """Return the service's start time, and the scores of a good request by each route. Raises ClientError if it gets
    none."""
    with ServiceConnection(url) as client:
        replies = {path: client.post(path, body) for path, body in good.items()}
        for path, reply in replies.items():
            reply.check(200, path)
        whole, bid = (json.loads(replies[path].body) for path in (SCORE, OPENRTB))
        found = whole, bid["imp"][IMPRESSION]
        return client.metric(_STARTED), [json.dumps(one["candidates"]) for one in found]


def _generated(url: str, number: int) -> tuple[Counter[str], list[str], int, str]:
    """Send requests that violate the OpenAPI document, to both routes. Return statuses, undocumented replies, the
    number that was accepted, and the reason if none could be made."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from hypothesis.strategies import one_of
        from schemathesis.specs.openapi import checks
    except ModuleNotFoundError as error:
        return Counter(), [], 0, f"({error.name} is not installed)"
    came, errors = Counter[str](), list[str]()
    taken = 0
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [
        schema[path]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE) for path in _ROUTES
    ]

    @seed(1)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=one_of(operations))
    def send(case: Any) -> None:  # noqa: ANN401 - schemathesis's own
        nonlocal taken
        # An expired deadline is another valid reason to refuse, which would hide the intended one.
        if (granted := (case.headers or {}).get(_DEADLINE, "").strip()).isdigit() and 0 < int(granted) < _LONG_MS:
            case.headers[_DEADLINE] = str(_LONG_MS)
        reply = case.call()
        came[str(reply.status_code)] += 1
        try:
            case.validate_response(reply, checks=[checks.negative_data_rejection, checks.status_code_conformance])
        except (AssertionError, ExceptionGroup) as error:
            taken += reply.status_code == 200
            errors.append(f"{type(error).__name__}: {str(error)[:200]}")

    send()
    return came, errors, taken, ""


def _some(wrong: list[str]) -> str:
    return f"({', '.join(f'{what} × {count}' for what, count in Counter(wrong).most_common(5))})" if wrong else ""
