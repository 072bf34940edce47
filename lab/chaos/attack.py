"""Attacks by network clients: other clients are scored meanwhile, and afterwards all is as before."""

import json
import subprocess
import sys
import time

from lab.chaos.attackers import ATTACKS
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.scenario import Check, Figure, Scenario, ScenarioResult
from lab.chaos.timeline import SCORED, UNANSWERED, ScenarioTimeline, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import ProcessError, Running
from msd.process import held

_SHARE = 0.2
_SCORED = 0.95
_CONNECTIONS = 600
_KILLS = 10
_PATIENCE_S = 10.0
_MB = 2**20
_HELD_MB = 128.0


class Attack(Scenario):
    """One attack after another; then an unread log, and a Redis that closes connections."""

    name = "attack"
    title = "Attacks by whoever reaches the port"

    def run(self) -> ScenarioResult:
        self.figures: dict[str, Figure] = {}
        self.checks: list[Check] = []
        timeline = ScenarioTimeline()
        with self.environment.service(self.name, max_connections=_CONNECTIONS) as service:
            target = self.environment.target(service.url)
            expected = _scores(target)
            rate = _SHARE * capacity(target, self.plan.capacity_s)
            for place, name in enumerate(ATTACKS):
                self.hear(name, place, len(ATTACKS))
                load, memory, came = self._attacked(name, service, target, rate)
                timeline = timeline.then(load.timeline, max((one.over_s for one in timeline.samples), default=0.0))
                self._tell(name, load)
                self.figures |= self.named(**{f"{name}_requests": sum(came.values())})
                if name == "bodies":
                    self.figures |= self.named(bodies_mb=memory)
                    self._check(f"bodies in flight take at most {_HELD_MB:g} MB {memory}", memory <= _HELD_MB)
                self._check(f"{name}: afterwards the scores are as before", _scores(target) == expected)
        # Its log goes into a full pipe.
        with self.environment.service("attack-log", is_read=False) as service:
            load, _, _ = self._attacked("unknown", service, self.environment.target(service.url), rate)
            self._tell("stalled_log", load)
            self._check("nobody reads its log: SIGTERM ends it", _ends(service))
        self._kill_connections(rate / 2)
        return ScenarioResult(self.figures, tuple(self.checks), timeline)

    def _attacked(
        self, name: str, service: Running, target: Target, rate: float
    ) -> tuple[BackgroundLoad, float, dict[str, int]]:
        """Return the load during one attack, the peak of additional memory (MB), and the attack's result."""
        seconds, start = self.plan.attack_s, held(service.pid).memory
        most, (host, port) = start, target.place
        number = max(2, round(ATTACKS[name][0] * self.plan.attackers))
        command = [sys.executable, "-m", "lab.chaos.attackers", name, str(number), host, str(port), str(seconds)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
            assert attacker.stdin is not None
            assert attacker.stdout is not None
            attacker.stdin.write(target.bodies[0])
            attacker.stdin.close()
            attacker.stdout.readline()  # the attack begins
            with BackgroundLoad(target, rate, seconds) as load:
                load.mark(name)
                while load.now_s < seconds:
                    most = max(most, held(service.pid).memory)
                    time.sleep(0.1)
            said = attacker.stdout.read()
        # An attack that did not happen would pass trivially.
        if attacker.returncode:
            raise ProcessError(f"the attack {name!r} ended with {attacker.returncode}; it was not carried out")
        came: dict[str, int] = json.loads(said)
        return load, round((most - start) / _MB, 1), came

    def _kill_connections(self, rate: float) -> None:
        """Make Redis close all connections repeatedly, without cached rows."""
        with (
            self.environment.redis(self.name) as redis,
            self.environment.service("attack-redis", redis.url, cache_mb=0) as service,
        ):
            target, seconds = self.environment.target(service.url), self.plan.attack_s
            with BackgroundLoad(target, rate, seconds) as load, redis.client() as client:
                for _ in range(_KILLS):
                    load.mark("CLIENT KILL")
                    client.client_kill_filter(_type="normal", skipme=True)
                    load.until(load.now_s + seconds / _KILLS)
        self._tell("connections", load)

    def _tell(self, name: str, load: BackgroundLoad) -> None:
        """Report the other clients' results."""
        samples = load.timeline.samples
        scored = count(samples, *SCORED) / max(1, len(samples))
        others = {"scored": round(scored, 4), "p99_ms": percentile_ms(samples, 99)}
        self.figures |= self.named(**{f"{name}_others_{one}": value for one, value in others.items()})
        self._check(f"{name}: no other request ends in an error", count(samples, "error", "not_ready") == 0)
        self._check(f"{name}: every other request is answered", not count(samples, *UNANSWERED))
        self._check(f"{name}: at least {_SCORED:.0%} of the others are scored", scored >= _SCORED, True)

    def _check(self, what: str, holds: bool, is_timed: bool = False) -> None:
        self.checks.append(Check(what, holds, is_timed))


def _scores(target: Target) -> object:
    """Return the scores of a good request, retrying for a while. Raises ClientError if it gets none."""

    def candidates() -> object:
        with ServiceConnection(target.url) as client:
            return json.loads(client.scored(target.bodies[0]).body)["candidates"]

    return wait_until(f"{target.url}: a good request is scored", candidates, _PATIENCE_S)


def _ends(service: Running) -> bool:
    service.terminate()
    try:
        return service.wait_for_end() == 0
    except ProcessError:
        service.kill()
        return False
