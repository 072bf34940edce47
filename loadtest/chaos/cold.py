"""Ads that nobody knows come with their texts, as many as the encoder takes; requests for known ads do not notice."""

import itertools
import json
import threading
import time
from collections import Counter
from pathlib import Path

from loadtest.chaos.environment import Environment, metric
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, Unable, usual_checks
from loadtest.chaos.timeline import count, percentile_ms
from loadtest.chaos.trained import trained
from loadtest.generator import Target
from loadtest.http_client import Client, ClientError
from msd.contract.bundle import ENCODER, open_bundle

_NAME = "cold"
_RATIO = 1.3
_PATIENCE_S = 60.0
_PAUSE_S = 0.1
# Beyond what the encoder takes a second, so that it is at its bound all the time.
_PER_S, _ASKED_PER_S, _ADS = 20.0, 30.0, 4
# Of known ads: fewer would not tell what they notice.
_LEAST_PER_S = 30.0


class _ColdClient:
    """Sends one request after another, each with ads of its own, until the block's end; `rungs` are what they got."""

    def __init__(self, target: Target) -> None:
        self.rungs: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._url = target.url
        self._document = json.loads(target.requests[0].partition(b"\r\n\r\n")[2])
        self._numbers = itertools.count()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_ColdClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def ask(self, client: Client, number: int) -> str:
        """`encoded` if one of a few ads is, whose texts no others have; `failed` where there is no reply of 200."""
        names = [f"cold-{number}-{place}" for place in range(_ADS)]
        document = self._document | {
            "candidates": {"id": names},
            "items": {one: {"text": f"{one}: an offer of the day, a tent of {number} kinds"} for one in names},
        }
        reply = client.score(json.dumps(document).encode())
        if reply.status != 200:
            self.wrong.append(f"{reply.status}: {reply.body[:200]!r}")
            return "failed"
        rungs = json.loads(reply.body).get("degraded", {}).get("candidates", {})
        return "encoded" if "encoded" in rungs.values() else "not encoded"

    def encoded(self) -> float:
        """Texts that the service has encoded so far."""
        with Client(self._url) as client:
            return metric(client, "msd_encoder_texts_total")

    def wait(self) -> None:
        """Until one is encoded at once. Raises Unable where none is."""
        until = time.monotonic() + _PATIENCE_S
        with Client(self._url) as client:
            # The same texts, which are encoded by and by: others each time would wait behind all before them.
            while time.monotonic() < until:
                if self.ask(client, -1) == "encoded":
                    return
                time.sleep(_PAUSE_S)
        raise Unable(f"no text was encoded within {_PATIENCE_S:g} s")

    def _run(self) -> None:
        with Client(self._url) as client:
            while not self._stopped.wait(1 / _ASKED_PER_S):
                try:
                    self.rungs[self.ask(client, next(self._numbers))] += 1
                except ClientError as error:
                    self.wrong.append(str(error))


def _run(environment: Environment) -> Found:
    plan = environment.plan
    bundle = _with_encoder(environment)
    with environment.service(_NAME, bundle=bundle, encoder="on", encoder_per_s=_PER_S) as service:
        target = environment.target(service.url, bundle=bundle)
        cold = _ColdClient(target)
        cold.wait()
        rate = max(plan.share * capacity(target, plan.capacity_s), _LEAST_PER_S)
        seconds = plan.steady_s + plan.broken_s + plan.mended_s
        with Load(target, rate, seconds) as load:
            load.until(plan.steady_s)
            start = load.mark("cold ads at the bound")
            before = cold.encoded()
            with cold:
                load.until(start + plan.broken_s)
            end = load.mark("none any more")
        encoded = cold.encoded() - before
    timeline = load.timeline
    # Hot requests after it are as much at rest as those before.
    rest = timeline.between(0.0, start) + timeline.between(end + 1.0, load.seconds)
    steady, during = percentile_ms(rest, 99), percentile_ms(timeline.between(start, end), 99)
    ratio = round(during / steady, 3) if steady and during else None
    asked = sum(cold.rungs.values())
    return Found(
        {
            "cold_hot_p99_ratio": ratio,
            "cold_hot_p99_ms": during,
            "cold_rest_p99_ms": steady,
            "cold_asked": asked,
            "cold_encoded_at_once": cold.rungs["encoded"],
            "cold_encoded": encoded,
        },
        (
            *usual_checks(timeline.samples),
            Check("known ads are scored in full", count(timeline.samples, "full") == len(timeline.samples), True),
            Check("every cold ad gets an answer", not cold.wrong and asked > 0),
            Check("texts are encoded", encoded > 0),
            Check(
                f"p99 of known ads is at most {_RATIO:g} × what it is at rest", bool(ratio and ratio <= _RATIO), True
            ),
        ),
        timeline,
    )


def _with_encoder(environment: Environment) -> Path:
    """A bundle that can encode texts: the one that is served, or a trained one. Raises Unable where there is none."""
    if ENCODER in open_bundle(environment.bundle).manifest.files:
        return environment.bundle
    found = trained(environment).bundle.absolute()
    if ENCODER not in open_bundle(found).manifest.files:
        raise Unable(f"{found} has no encoder, nor has {environment.bundle}: name a bundle with one (--bundle)")
    return found


COLD = Scenario(_NAME, "Cold ads at the encoder's bound", ("cold_hot_p99_ratio",), _run)
