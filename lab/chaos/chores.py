"""What changes or breaks in a day of life: chores that take turns. Does not know what else happens meanwhile."""

import asyncio
import hashlib
import json
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from lab.bench.redis import RedisProcess
from lab.chaos.attack import ATTACKS
from lab.chaos.bad_requests import sent
from lab.chaos.bare_bundle import bare_bundle
from lab.chaos.clock import ShiftedClock
from lab.chaos.hostile import hostile_requests
from lab.chaos.run import Run
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import Running, msd_output
from loadtest.requests import SCORE
from loadtest.traffic import Traffic
from msd.contract.bundle import open_bundle
from msd.contract.correction import LearnedCorrection, write_corrections
from msd.contract.files import write_text_atomic

_DOWN_S, _ATTACK_S = 3.0, 3.0
_HOSTILE = 40
_SHIFTS_S = (3_600.0, -3_600.0, 86_400.0, 0.0)
_CLOCK_S = 60.0
_ATTACKERS = {"silent": 50, "bodies": 8, "chunks": 1, "long": 1, "unknown": 1}


class Keys:
    """A file of two keys: one lasts, the other is replaced."""

    def __init__(self, path: Path) -> None:
        self.path, self.lasting = path, secrets.token_urlsafe()
        self.current = ""
        self.replace()

    def replace(self) -> str:
        """Replace a key, and return the old one."""
        old, self.current = self.current, secrets.token_urlsafe()
        entries = [
            {"name": name, "scopes": ["score", "events"], "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for name, key in (("lasting", self.lasting), ("current", self.current))
        ]
        write_text_atomic(self.path, json.dumps({"keys": entries}))
        return old


@dataclass
class Chores:
    """The service, what it depends on, and what is done to them."""

    run: Run
    service: Running
    redis: RedisProcess
    keys: Keys
    clock: ShiftedClock
    first: Path
    second: Path
    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    """What must not happen: invalid requests that are not refused, chores that fail, new events that are duplicates."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.run.seed)

    def swap(self) -> None:
        """Serve the other bundle."""
        bundle_id = msd_output("rollback", "--redis", self.redis.url).split()[-1]
        name = next(one.name for one in (self.first, self.second) if open_bundle(one).bundle_id == bundle_id)
        self._until_scored(f"bundle {name} is served", lambda reply: reply.get("model_version") == name)

    def delta(self) -> None:
        """Replace all rows of a bundle by bare ones, or back."""
        bare, turn = self.run.folder / "bare", self.done["delta"] % 2
        if not bare.exists():
            bare_bundle(self.first, bare, open_bundle(self.first).manifest.created_at)
            for name, (old, new) in enumerate(((self.first, bare), (bare, self.first))):
                msd_output("delta", str(old), str(new), str(self.run.folder / f"delta-{name}"))
        msd_output("publish", str(self.run.folder / f"delta-{turn}"), "--delta", "--redis", self.redis.url)

    def restart_redis(self) -> None:
        """Kill Redis, and start it again."""
        self.redis.kill()
        time.sleep(min(_DOWN_S, self.run.plan.chore_s))
        self.redis.start()

    def correct(self) -> None:
        """Publish other corrections."""
        made = {
            open_bundle(bundle).bundle_id: LearnedCorrection(
                centre=-2.0,
                shift=self.random.uniform(-1, 1),
                slope=self.random.uniform(0.6, 1.8),
                at=1.0,
                impressions=1_000,
                clicks=100,
            )
            for bundle in (self.first, self.second)
        }
        write_corrections(self.run.folder / "corrections.json", made)

    def rotate_keys(self) -> None:
        """Replace a key: the new one is accepted, then the old one is not."""
        old = self.keys.replace()
        self._until_scored("the new key is accepted", lambda reply: "candidates" in reply, self.keys.current)
        self._until_scored("the old key is refused", lambda reply: reply.get("code") == "unauthorized", old)

    def step_clock(self) -> None:
        """Move the service's clock: it follows, and a request with `at` has the same scores."""
        shift_s = _SHIFTS_S[self.done["clock step"] % len(_SHIFTS_S)]
        body = next(Traffic(self.first, 5).bodies())

        def shifted_s() -> float:
            with urlopen(f"{self.service.url}/health/live") as reply:
                return parsedate_to_datetime(reply.headers["date"]).timestamp() - time.time()

        with self._client() as ask:

            def scores(seconds: float) -> object:
                self.clock.jump(seconds)
                reply = ask(body)
                return reply.get("candidates"), reply.get("degraded")

            # Events change counts meanwhile.
            wait_until("scores do not change with the clock", lambda: scores(0.0) == scores(shift_s))
        wait_until("the clock follows", lambda: abs(shifted_s() - shift_s) < _CLOCK_S)

    def attack(self) -> None:
        """Slow clients, and ones that use up connections and memory."""
        name = list(_ATTACKERS)[self.done["attack"] % len(_ATTACKERS)]
        assert name in ATTACKS
        host, port = Target(self.service.url, ()).place
        seconds = str(min(_ATTACK_S, self.run.plan.chore_s))
        command = [sys.executable, "-m", "lab.chaos.attack", name, str(_ATTACKERS[name]), host, str(port), seconds]
        subprocess.run(
            [*command, self.keys.lasting], input=next(Traffic(self.first, 5).bodies()), capture_output=True, check=True
        )

    def misuse(self) -> None:
        """Requests that no service may accept."""
        good = json.loads(next(Traffic(self.first, 5).bodies()))
        header = f"\r\nAuthorization: Bearer {self.keys.lasting}\r\n".encode()
        some = islice(hostile_requests(good, self.done["misuse"]), _HOSTILE)
        signed = (one._replace(request=one.request.replace(b"\r\n", header, 1)) for one in some)
        outcomes = asyncio.run(sent(Target(self.service.url, ()).place, signed))
        self.wrong.update(f"{hostile.what}: {outcome}" for hostile, outcome in outcomes if outcome[0] in "25h")

    def _until_scored(self, what: str, holds: Callable[[dict[str, Any]], bool], key: str | None = None) -> None:
        body = next(Traffic(self.first, 1).bodies())
        with self._client(key) as ask:
            wait_until(what, lambda: holds(ask(body)))

    @contextmanager
    def _client(self, key: str | None = None) -> Iterator[Callable[[bytes], dict[str, Any]]]:
        """Yield what scores a request by a key, and returns the reply or the error."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.keys.lasting}"}
        with ServiceConnection(self.service.url) as client:
            yield lambda body: _opened(client.post(SCORE, body, headers).body)


def _opened(body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body)
    return document.get("error", document) if isinstance(document.get("error"), dict) else document


CHORES: Mapping[str, Callable[[Chores], None]] = {
    "swap": Chores.swap,
    "delta": Chores.delta,
    "misuse": Chores.misuse,
    "Redis restart": Chores.restart_redis,
    "correction": Chores.correct,
    "key rotation": Chores.rotate_keys,
    "clock step": Chores.step_clock,
    "attack": Chores.attack,
}
"""What takes turns, by name."""
