"""Unknown ads with texts, at the encoder's limit; requests for known ads are unaffected."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lab.chaos.load import asking
from lab.chaos.scenario import Check, Figure, Unable, UnderLoad
from lab.chaos.timeline import count, percentile_ms
from lab.chaos.trained import trained
from loadtest.generator import Target
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from msd.contract.bundle import ENCODER, open_bundle

_RATIO = 1.3
# Above the encoder's rate, so that it is always at its limit.
_PER_S, _ASKED_PER_S, _ADS = 20.0, 30.0, 4
# Requests for known ads: fewer would show no effect.
_LEAST_PER_S = 30.0


class _ColdClient:
    """Requests new ads; `rungs` are the results."""

    def __init__(self, target: Target) -> None:
        self.rungs: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._document = json.loads(target.bodies[0])
        self._numbers = itertools.count()

    def turn(self, client: ServiceConnection) -> None:
        """One request."""
        self.rungs[self.ask(client, next(self._numbers))] += 1

    def fail(self, error: ClientError) -> None:
        """No reply."""
        self.wrong.append(str(error))

    def ask(self, client: ServiceConnection, number: int) -> str:
        """Return `encoded` if one of a few ads with unique texts is; `failed` without a 200 reply."""
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


class Cold(UnderLoad):
    """Encoding does not slow down other requests."""

    name = "cold"
    title = "Cold ads at the encoder's bound"
    told = ("cold_hot_p99_ratio",)
    encoded = 0.0

    def settings(self) -> Mapping[str, Any]:
        return {"bundle": self.bundle, "encoder": "on", "encoder_per_s": _PER_S}

    @cached_property
    def bundle(self) -> Path:
        """Return a bundle that can encode texts: the served one, or a trained one. Raises Unable if there is none."""
        if ENCODER in open_bundle(self.environment.bundle).manifest.files:
            return self.environment.bundle
        found = trained(self.environment).bundle.absolute()
        if ENCODER not in open_bundle(found).manifest.files:
            raise Unable(
                f"{found} has no encoder, nor has {self.environment.bundle}: name a bundle with one (--bundle)"
            )
        return found

    def asked(self) -> Target:
        return self.environment.target(self.service.url, bundle=self.bundle)

    def rate(self, able: float) -> float:
        return max(super().rate(able), _LEAST_PER_S)

    def before(self) -> None:
        self.cold = _ColdClient(self.target)
        with ServiceConnection(self.service.url) as client:
            # The same texts, which are encoded in time: new ones each time would wait behind all earlier ones.
            wait_until("a text is encoded", lambda: self.cold.ask(client, -1) == "encoded")

    def disturb(self) -> None:
        start = self.load.mark("cold ads at the bound")
        self.encoded = -self._texts()
        with asking(self.service.url, 1 / _ASKED_PER_S, self.cold.turn, self.cold.fail):
            self.load.until(start + self.plan.broken_s)
        self.load.mark("none any more")

    def after(self) -> None:
        self.encoded += self._texts()

    @property
    def during_ms(self) -> float | None:
        """p99 of known ads with cold ads."""
        return percentile_ms(self.timeline.between(self.broken_s, self.mended_s), 99)

    @property
    def rest_ms(self) -> float | None:
        """p99 of known ads before and after."""
        after = self.timeline.between(self.mended_s + 1.0, self.load.seconds)
        return percentile_ms(self.timeline.between(0.0, self.broken_s) + after, 99)

    @property
    def ratio(self) -> float | None:
        """The ratio of both."""
        return round(self.during_ms / self.rest_ms, 3) if self.rest_ms and self.during_ms else None

    def figures(self) -> Mapping[str, Figure]:
        return self.named(
            hot_p99_ratio=self.ratio,
            hot_p99_ms=self.during_ms,
            rest_p99_ms=self.rest_ms,
            asked=sum(self.cold.rungs.values()),
            encoded_at_once=self.cold.rungs["encoded"],
            encoded=self.encoded,
        )

    def checks(self) -> Iterable[Check]:
        samples, ratio = self.timeline.samples, self.ratio
        yield Check("known ads are scored in full", count(samples, "full") == len(samples), True)
        yield Check("every cold ad gets an answer", not self.cold.wrong and bool(self.cold.rungs))
        yield Check("texts are encoded", self.encoded > 0)
        what = f"p99 of known ads is at most {_RATIO:g} × what it is at rest"
        yield Check(what, bool(ratio and ratio <= _RATIO), True)

    def _texts(self) -> float:
        """Return the number of encoded texts."""
        with ServiceConnection(self.service.url) as client:
            return client.metric("msd_encoder_texts_total")
