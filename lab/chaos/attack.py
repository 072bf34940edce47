"""Attacks by network clients: other clients are scored meanwhile, and afterwards all is as before."""

import json
import subprocess
import sys
import time

from lab.chaos.attackers import ATTACKS
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.run import Run
from lab.chaos.timeline import SCORED, UNANSWERED, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import ProcessError, Running
from msd.process import held

_SHARE = 0.2
_SCORED = 0.95
_CONNECTIONS = 600
_PATIENCE_S = 10.0
_MB = 2**20
_HELD_MB = 128.0


def attack(run: Run) -> None:
    """One attack after another."""
    with run.service(max_connections=_CONNECTIONS) as service:
        target = run.target(service)
        expected = _scores(target)
        rate = _SHARE * capacity(target, run.plan.capacity_s)
        for place, name in enumerate(ATTACKS):
            run.hear(name, place, len(ATTACKS))
            load, held_mb, requests = _attacked(run, name, service, target, rate)
            run.timeline = run.timeline.then(load.timeline, run.timeline.end_s)
            samples = load.timeline.samples
            scored = count(samples, *SCORED) / max(1, len(samples))
            run.figures |= {f"{name}_requests": requests, f"{name}_others_scored": round(scored, 4)}
            run.figures |= {f"{name}_others_p99_ms": percentile_ms(samples, 99), f"{name}_mb": held_mb}
            run.check(f"{name}: no other request ends in an error", count(samples, "error", "not_ready") == 0)
            run.check(f"{name}: every other request is answered", not count(samples, *UNANSWERED))
            run.check(f"{name}: at least {_SCORED:.0%} of the others are scored", scored >= _SCORED, True)
            run.check(f"{name}: afterwards the scores are as before", _scores(target) == expected)
            if name == "bodies":
                run.check(f"bodies in flight take at most {_HELD_MB:g} MB: {held_mb}", held_mb <= _HELD_MB)


def _attacked(run: Run, name: str, service: Running, target: Target, rate: float) -> tuple[BackgroundLoad, float, int]:
    """Return the load during one attack, the peak of additional memory (MB), and the attack's number of requests."""
    seconds, start = run.plan.attack_s, held(service.pid).memory
    most, (host, port) = start, target.place
    number = max(2, round(ATTACKS[name][0] * run.plan.attackers))
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
        outcomes = attacker.stdout.read()
    # An attack that did not happen would pass trivially.
    if attacker.returncode:
        raise ProcessError(f"the attack {name!r} ended with {attacker.returncode}; it was not carried out")
    return load, round((most - start) / _MB, 1), sum(json.loads(outcomes).values())


def _scores(target: Target) -> object:
    """Return the scores of a good request, retrying for a while. Raises ClientError if it gets none."""

    def candidates() -> object:
        with ServiceConnection(target.url) as client:
            return json.loads(client.scored(target.bodies[0]).body)["candidates"]

    return wait_until(f"{target.url}: a good request is scored", candidates, _PATIENCE_S)
