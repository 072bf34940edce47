"""A market whose law of clicks is known and can drift, and its visitors, who ask real services over HTTP.

Two services follow the nightly bundle; a third keeps the first bundle for ever, and hears the same.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from loadtest.http_client import ServiceConnection
from msd.contract.files import write_text_atomic
from msd.demo.service import serve
from msd.feedback.dataset import with_parts
from msd.metrics import measure_pooled

_PAST_S = 7_200.0
USERS, ITEMS, CATEGORIES, DEVICES = 2_000, 40, 4, 2
_BASE, _APPEAL, _TASTE = -2.7, 0.3, 0.9
_CANDIDATES, _BATCH = 5, 100
_ANONYMOUS = 10  # one visitor in this number
_BOTS_CLICK = 0.9
_RANDOM = 0.5  # share of requests whose first candidate is shown, otherwise the best
PODS = ("a", "b")
_DATASET = """format = 1
name = "market"

[events]
file = "events.parquet"

[items]
file = "items.parquet"

[split]
column = "part"

[[features]]
name = "category"
side = "item"
kind = "categorical"

[[features]]
name = "device"
side = "context"
kind = "categorical"
"""


@dataclass
class Shown:
    """Candidates drawn at random, one of each request: click probabilities by the law and by two bundles, and whether
    visitors would click them. What was shown is chosen by scores, which hides how good these are."""

    law: list[float] = field(default_factory=list)
    nightly: list[float] = field(default_factory=list)
    never: list[float] = field(default_factory=list)
    clicks: list[bool] = field(default_factory=list)
    unscored: int = 0
    """Visitors who came in vain: a starved machine answers 504."""

    def measured(self) -> dict[str, dict[str, float]]:
        """Return AUC, calibration and more by predictor."""
        labels = np.array(self.clicks, np.float64)
        return {name: measure_pooled(labels, np.array(getattr(self, name))) for name in ("never", "nightly", "law")}


class World:
    """Log-odds of a click: those of the ad, and the taste for its category on this device. `drift` moves each device's
    taste to the next one, so that the click rate stays; `drift(-1)` takes it back. A day ends with its visits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bundles = folder, folder / "bundles"
        self._rng = np.random.default_rng(0)
        self._appeal = self._rng.normal(0.0, _APPEAL, ITEMS)
        self._taste = self._rng.normal(0.0, _TASTE, (DEVICES, CATEGORIES))
        self._connections: list[ServiceConnection] = []

    def drift(self, places: int = 1) -> None:
        """Change the law."""
        self._taste = np.roll(self._taste, places, 0)

    def write_past(self, count: int, until: float) -> Path:
        """Write the dataset of the two hours before `until` (Unix s), of random ads, and return its folder."""
        data, rng = self.folder / "data", self._rng
        data.mkdir(parents=True)
        write_text_atomic(data / "dataset.toml", _DATASET)
        categories = [f"c{item % CATEGORIES}" for item in range(ITEMS)]
        pl.DataFrame({"item_id": [f"i{item}" for item in range(ITEMS)], "category": categories}).write_parquet(
            data / "items.parquet"
        )
        items, devices = rng.integers(ITEMS, size=count), rng.integers(DEVICES, size=count)
        events = pl.DataFrame(
            {
                "user_id": [f"u{user}" for user in rng.integers(USERS, size=count)],
                "item_id": [f"i{item}" for item in items],
                "at": np.sort(rng.uniform(until - _PAST_S, until - 1, count)).astype(np.int64),
                "label": (rng.random(count) < self.chances(items, devices)).astype(np.int8),
                "device": [f"d{device}" for device in devices],
            }
        )
        with_parts(events.lazy(), count).collect().write_parquet(data / "events.parquet")
        return data

    @contextmanager
    def services(self) -> Iterator[None]:
        """Serve the nightly bundle by two services with logs, and the first bundle by another without."""
        served = [(pod, self.bundles) for pod in PODS] + [("never", self.bundles / "first")]
        with ExitStack() as stack:
            for name, bundle in served:
                own: dict[str, Any] = {"MSD_STATE_DIR": str(self.folder / name / "state"), "MSD_LIVE": "on"}
                if name in PODS:
                    own |= {"MSD_LOG_DIR": str(self.folder / "logs" / name), "MSD_LOG_SAMPLE": "1"}
                url, _ = stack.enter_context(serve(bundle, self.folder / f"{name}.log", **own))
                self._connections.append(stack.enter_context(ServiceConnection(url)))
            yield
            self._connections.clear()

    def visits(self, count: int, bots: float = 0.0) -> Shown:
        """Have visitors come, one after the other; a share of them, `bots`, clicks nearly all that it sees."""
        shown, events = Shown(), list[dict[str, Any]]()
        for number in range(count):
            self._visit(number, self._rng.random() < bots, shown, events)
            if len(events) > _BATCH or (events and number == count - 1):
                self._tell(events)
                events.clear()
        return shown

    def _visit(self, number: int, is_bot: bool, shown: Shown, events: list[dict[str, Any]]) -> None:
        rng = self._rng
        items = rng.choice(ITEMS, _CANDIDATES, replace=False)
        device = int(rng.integers(DEVICES))
        user = f"u{rng.integers(USERS)}" if number % _ANONYMOUS else None
        request = {
            "user_id": user,
            "context": {"device": f"d{device}"},
            "candidates": {"id": [f"i{item}" for item in items]},
        }
        *pods, never = self._connections
        body = json.dumps(request).encode()
        replies = [service.score(body) for service in (pods[number % len(pods)], never)]
        if 504 in (reply.status for reply in replies):
            shown.unscored += 1
            return
        for reply in replies:
            reply.check(200)
        reply, old = (json.loads(reply.body) for reply in replies)
        scores = reply["candidates"]["pctr"]
        chances = self.chances(items, np.full(len(items), device))
        first = 0 if rng.random() < _RANDOM else int(np.argmax(scores))
        clicked = bool(rng.random() < (_BOTS_CLICK if is_bot else chances[first]))
        shown.law.append(float(chances[-1]))
        shown.nightly.append(scores[-1])
        shown.never.append(old["candidates"]["pctr"][-1])
        shown.clicks.append(bool(rng.random() < chances[-1]))
        event = {"user_id": user, "item_id": f"i{items[first]}", "request_id": reply["request_id"]}
        for kind in ("impression", "click")[: 1 + clicked]:
            events.append({**event, "event_id": f"{reply['request_id']}-{kind}", "type": kind, "at": time.time()})

    def _tell(self, events: Sequence[dict[str, Any]]) -> None:
        """Report events to one of the pods, which may be another than that of their request, and to the third."""
        *pods, never = self._connections
        body = json.dumps({"events": events}).encode()
        for service in (pods[self._rng.integers(len(pods))], never):
            service.post("/v1/events", body).check(202)

    def chances(self, items: NDArray[np.int64], devices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the click probabilities [n] of ads on devices, by number."""
        odds = _BASE + self._appeal[items] + self._taste[devices, items % CATEGORIES]
        chances: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
        return chances
