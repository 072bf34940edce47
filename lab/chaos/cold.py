"""Unknown ads with texts, at the encoder's limit; requests for known ads are unaffected."""

import itertools
import json
from collections import Counter
from pathlib import Path

from lab.chaos.load import asking, capacity
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import count, percentile_ms
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from msd.contract.bundle import ENCODER, MANIFEST, open_bundle

_RATIO = 1.3
# Above the encoder's rate, so that it is always at its limit.
_PER_S, _ASKED_PER_S, _ADS = 20.0, 30.0, 4
# Requests for known ads: fewer would show no effect.
_LEAST_PER_S = 30.0


def cold(run: Run) -> None:
    """Encoding does not slow down other requests."""
    bundle, plan = _encoding_bundle(run), run.plan
    replies, numbers = Counter[str](), itertools.count()
    with run.service(bundle=bundle, encoder="on", encoder_per_s=_PER_S) as service:
        target = run.target(service, bundle=bundle)
        document = json.loads(target.bodies[0])

        def ask(client: ServiceConnection, number: int) -> str:
            """Request a few ads with unique texts."""
            names = [f"cold-{number}-{place}" for place in range(_ADS)]
            items = {name: {"text": f"{name}: an offer of the day, a tent of {number} kinds"} for name in names}
            reply = client.score(json.dumps(document | {"candidates": {"id": names}, "items": items}).encode())
            if reply.status != 200:
                return "failed"
            rungs = json.loads(reply.body).get("degraded", {}).get("candidates", {})
            return "encoded" if "encoded" in rungs.values() else "not encoded"

        def turn(client: ServiceConnection) -> None:
            replies[ask(client, next(numbers))] += 1

        def fail(_: ClientError) -> None:
            replies["failed"] += 1

        with ServiceConnection(service.url) as client:
            # The same texts, which are encoded in time: new ones each time would wait behind all earlier ones.
            wait_until("a text is encoded", lambda: ask(client, -1) == "encoded")
        rate = max(plan.share * capacity(target, plan.capacity_s), _LEAST_PER_S)
        with run.load(target, rate) as load:
            start = load.mark("cold ads at the limit")
            encoded = _texts(service.url)
            with asking(service.url, 1 / _ASKED_PER_S, turn, fail):
                load.until(start + plan.broken_s)
                # On a busy machine a brief load may end before the first answer.
                wait_until("a cold ad is answered", lambda: replies.total() > 0 and _texts(service.url) > encoded)
            load.mark("none any more")
        encoded = _texts(service.url) - encoded
    timeline = run.timeline
    rest = timeline.between(0.0, timeline.broken_s) + timeline.between(timeline.mended_s + 1.0, load.seconds)
    during = timeline.between(timeline.broken_s, timeline.mended_s)
    during_ms, rest_ms = (percentile_ms(part, 99) for part in (during, rest))
    ratio = round(during_ms / rest_ms, 3) if rest_ms and during_ms else None
    run.figures |= {"p99_ratio": ratio, "rest_p99_ms": rest_ms, "asked": replies.total(), "encoded": encoded}
    run.check("known ads are scored in full", count(timeline.samples, "full") == len(timeline.samples), True)
    run.check("every cold ad gets an answer", replies.total() > 0 and not replies["failed"])
    run.check("texts are encoded", encoded > 0)
    run.check(f"p99 of known ads is at most {_RATIO:g} × what it is at rest", bool(ratio and ratio <= _RATIO), True)


def _encoding_bundle(run: Run) -> Path:
    """Return a bundle that can encode texts: the served one, or another. Raises Unable if neither can."""
    for folder in (run.bundle, run.encoding.absolute()):
        if (folder / MANIFEST).is_file() and ENCODER in open_bundle(folder).manifest.files:
            return folder
    raise Unable(f"neither {run.bundle} nor {run.encoding} has an encoder: run `make demo`, or name one (--encoding)")


def _texts(url: str) -> float:
    """Return the number of encoded texts."""
    with ServiceConnection(url) as client:
        return client.metric("msd_encoder_texts_total")
