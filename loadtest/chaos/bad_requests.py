"""Tens of thousands of requests that are wrong: each is refused, none is scored, none brings anything down."""

import json
import time
from collections import Counter
from typing import Any

from loadtest.chaos.environment import Environment, metric
from loadtest.chaos.hostile import hostile_requests
from loadtest.chaos.http_fuzz import fuzz
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import Timeline
from loadtest.http_client import Client

_NAME = "bad-requests"
_STARTED = "process_start_time_seconds"
_TIMEOUT_MS = 1_000
_TURNS = 10
# Many wait for a while: until the service gives up what does not end.
_CONNECTIONS = 32
_DEADLINE = "X-Deadline-Ms"
_LONG_MS = 10_000


def _run(environment: Environment) -> Found:
    plan = environment.plan
    timeline, came, wrong = Timeline(), Counter[str](), list[str]()
    refused: list[tuple[float, float]] = []
    timeline.levels = {"refused, in all": refused}
    start = time.monotonic()
    with environment.service(_NAME, head_timeout_ms=_TIMEOUT_MS, body_timeout_ms=_TIMEOUT_MS) as service:
        target = environment.target(service.url, 3)
        body = target.requests[0].partition(b"\r\n\r\n")[2]
        with Client(service.url) as client:
            expected = json.loads(client.score(body).body)["candidates"]
            started = metric(client, _STARTED)
        generated, errors, accepted, generating = _generated(service.url, plan.generated)
        came.update(generated)
        requests = hostile_requests(json.loads(body), seed=1)
        for turn in range(_TURNS):
            environment.heard(f"{_NAME}: requests", turn, _TURNS)
            number = (plan.bad_requests - sum(generated.values())) // _TURNS + 1
            result = fuzz(target.place, requests, number, _CONNECTIONS)
            came.update({str(one): count for one, count in result.came.items()})
            wrong += result.wrong
            told = sum(count for one, count in came.items() if one.startswith("4"))
            refused.append((round(time.monotonic() - start, 2), told))
        with Client(service.url) as client:
            again = json.loads(client.score(body).body)["candidates"]
            restarted = metric(client, _STARTED) != started
    fives = sum(count for one, count in came.items() if one.startswith("5"))
    scored = accepted + sum(": 200" in one for one in wrong)
    return Found(
        {
            "bad_requests": sum(came.values()),
            "bad_requests_5xx": fives,
            "bad_requests_accepted": scored,
            "bad_requests_hung": came["hung"],
            "bad_requests_generated": sum(generated.values()),
            **{f"bad_requests_{one}": count for one, count in sorted(came.items())},
        },
        (
            Check("no reply is a 5xx", fives == 0),
            Check("no wrong request is scored", scored == 0),
            Check("none is without an end", came["hung"] == 0),
            Check(f"each is refused as it should be {_some([*wrong, *errors])}", not wrong and not errors),
            Check("the service has not restarted", started > 0 and not restarted),
            Check("a good request gets the scores that it got before", again == expected),
            Check(f"requests were generated from the description {generating}", not generating),
        ),
        timeline,
    )


def _generated(url: str, number: int) -> tuple[Counter[str], list[str], int, str]:
    """Requests that the service's own description says are wrong: statuses, what was not as described, how many were
    taken for good, and why there are none, if there are none."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from schemathesis.specs.openapi import checks
    except ModuleNotFoundError as error:
        return Counter(), [], 0, f"({error.name} is not installed)"
    came, errors = Counter[str](), list[str]()
    taken = 0
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex="^/v1/score$")
    operation = schema["/v1/score"]["POST"]

    @seed(1)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def send(case: Any) -> None:  # noqa: ANN401 - schemathesis's own
        nonlocal taken
        # A time that is over is a reason of its own to refuse: what is wrong is then rightly not looked for.
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


BAD_REQUESTS = Scenario(_NAME, "Tens of thousands of bad requests", ("bad_requests", "bad_requests_5xx"), _run)
