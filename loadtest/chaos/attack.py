"""Attacks by whoever reaches the port: meanwhile the others are scored, and afterwards all is as it was before."""

import json
import socket
import subprocess
import sys
import time
from typing import NamedTuple

from loadtest.bench.processes import Running, ServiceError
from loadtest.chaos.attackers import ATTACKS
from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Figure, Found, Scenario
from loadtest.chaos.timeline import SCORED, Timeline, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import Client, ClientError
from msd.process import held

_NAME = "attack"
_SHARE = 0.2
_SCORED = 0.95
_CONNECTIONS = 600
_CUTS = 10
_KILLS = 10
_PATIENCE_S = 10.0
_MB = 2**20
_HELD_MB = 128.0


class _Odd(NamedTuple):
    """Bytes that are no request as it should be, and the statuses that they may get."""

    what: str
    request: bytes
    statuses: tuple[int, ...]


def _get(*lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join((b"GET /health/live " + version, *lines, b"", b""))


_ODD = (
    _Odd("no Host", _get(), (400,)),
    _Odd("two Hosts", _get(b"Host: a", b"Host: b"), (400,)),
    _Odd("HTTP/2.0", _get(b"Host: a", version=b"HTTP/2.0"), (400, 505)),
    _Odd(
        "gzip, chunked",
        b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        (400, 415, 501),
    ),
    _Odd(
        "100-continue for a body that is too large",
        b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 900000000\r\n\r\n",
        (413,),
    ),
    _Odd("HEAD", b"HEAD /health/live HTTP/1.1\r\nHost: a\r\n\r\n", (200,)),
)


def _run(environment: Environment) -> Found:
    figures: dict[str, Figure] = {}
    checks: list[Check] = []
    timeline = Timeline()
    with environment.service(_NAME, max_connections=_CONNECTIONS) as service:
        target = environment.target(service.url)
        body = target.requests[0].partition(b"\r\n\r\n")[2]
        expected = _scores(target, body)
        rate = _SHARE * capacity(target, environment.plan.capacity_s)
        for place, name in enumerate(ATTACKS):
            environment.heard(f"{_NAME}: {name}", place, len(ATTACKS))
            load, memory, came = _one(environment, name, service, target, rate)
            timeline = timeline.then(load.timeline, max((one.over_s for one in timeline.samples), default=0.0))
            _tell(name, load, figures, checks)
            figures[f"attack_{name}_requests"] = sum(came.values())
            if name == "bodies":
                figures["attack_bodies_mb"] = memory
                checks.append(Check(f"bodies in flight take at most {_HELD_MB:g} MB {memory}", memory <= _HELD_MB))
            checks.append(Check(f"{name}: afterwards the scores are as before", _scores(target, body) == expected))
        checks += [_odd(target, odd) for odd in _ODD]
        checks.append(Check("a body is the same in whatever pieces it comes", _in_pieces(target, body)))
        checks.append(Check("who has said all that he will is answered", _half_closed(target)))
    # Its log goes into a pipe that is full.
    with environment.service("attack-log", is_read=False) as service:
        target = environment.target(service.url)
        load, _, _ = _one(environment, "unknown", service, target, rate)
        _tell("stalled_log", load, figures, checks)
        checks.append(Check("nobody reads its log: SIGTERM ends it", _ends(service)))
    _kill_connections(environment, rate, figures, checks)
    return Found(figures, tuple(checks), timeline)


def _one(
    environment: Environment, name: str, service: Running, target: Target, rate: float
) -> tuple[Load, float, dict[str, int]]:
    """The load beside one attack, how much more memory (MB) was held at most, and what came of the attack."""
    seconds, start = environment.plan.broken_s, held(service.pid).memory
    most = start
    body = target.requests[0].partition(b"\r\n\r\n")[2]
    host, port = target.place
    number = max(2, round(ATTACKS[name][0] * environment.plan.attackers))
    command = [sys.executable, "-m", "loadtest.chaos.attackers", name, str(number), host, str(port), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        attacker.stdin.write(body)
        attacker.stdin.close()
        with Load(target, rate, seconds) as load:
            load.mark(name)
            while load.now_s < seconds:
                most = max(most, held(service.pid).memory)
                time.sleep(0.1)
        said = attacker.stdout.read()
    # An attack that did not take place would be withstood by anybody.
    if attacker.returncode:
        raise ServiceError(f"the attack {name!r} ended with {attacker.returncode}; it was not carried out")
    came: dict[str, int] = json.loads(said)
    return load, round((most - start) / _MB, 1), came


def _tell(name: str, load: Load, figures: dict[str, Figure], checks: list[Check]) -> None:
    samples = load.timeline.samples
    scored = count(samples, *SCORED) / max(1, len(samples))
    figures[f"attack_{name}_others_scored"] = round(scored, 4)
    figures[f"attack_{name}_others_p99_ms"] = percentile_ms(samples, 99)
    checks.append(Check(f"{name}: no other request ends in an error", count(samples, "error", "not_ready") == 0))
    checks.append(
        Check(f"{name}: every other request is answered", not count(samples, "lost", "unanswered", "refused"))
    )
    checks.append(Check(f"{name}: at least {_SCORED:.0%} of the others are scored", scored >= _SCORED, is_timed=True))


def _scores(target: Target, body: bytes) -> object:
    """What a good request gets; the reason where it gets none."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with Client(target.url, timeout=_PATIENCE_S) as client:
                reply = client.score(body)
            if reply.status == 200 or time.monotonic() > until:
                return json.loads(reply.body).get("candidates") or reply.status
        except ClientError as error:
            if time.monotonic() > until:
                return str(error)
        time.sleep(0.1)


def _say(target: Target, pieces: "list[bytes]", *, ends: bool = False) -> bytes:
    """All that comes back to these writes until the connection ends, or for a while."""
    with socket.create_connection(target.place, timeout=_PATIENCE_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = b""
        try:
            for piece in pieces:
                link.sendall(piece)
                if len(pieces) > 1:
                    time.sleep(0.02)
            if ends:
                link.shutdown(socket.SHUT_WR)
            while part := link.recv(65_536):
                said += part
        except OSError:  # the service has ended the connection, or says no more; what it said before counts
            pass
        return said


def _odd(target: Target, odd: _Odd) -> Check:
    said = _say(target, [odd.request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)])
    status = int(said.split()[1]) if said.startswith(b"HTTP/") else 0
    return Check(f"{odd.what} gets {' or '.join(map(str, odd.statuses))} {status}", status in odd.statuses)


def _in_pieces(target: Target, body: bytes) -> bool:
    """One id looks like a header; whole, chunked before it, and cut anywhere about it, the body says the same."""
    document = json.loads(body)
    document["candidates"] = {"id": [*document["candidates"]["id"], "Upgrade: websocket"]}
    whole = json.dumps(document).encode()
    cut = whole.index(b"Upgrade:")
    head = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    plain = head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole
    parts = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (cut, whole[:cut], len(whole) - cut, whole[cut:])
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + parts
    place = chunked.index(b"Upgrade:")
    tried = [[plain], [chunked], *([chunked[:at], chunked[at:]] for at in range(place - _CUTS, place + _CUTS))]
    replies = [_say(target, pieces).partition(b"\r\n\r\n") for pieces in tried]
    if not all(head.startswith(b"HTTP/1.1 200") for head, _, _ in replies):
        return False
    found = [json.loads(content)["candidates"] for _, _, content in replies]
    return all(one == found[0] and one["id"] == document["candidates"]["id"] for one in found)


def _ends(service: Running) -> bool:
    service.terminate()
    try:
        return service.wait_for_end() == 0
    except ServiceError:
        service.kill()
        return False


def _half_closed(target: Target) -> bool:
    return _say(target, [target.requests[0]], ends=True).startswith(b"HTTP/1.1 200")


def _kill_connections(environment: Environment, rate: float, figures: dict[str, Figure], checks: list[Check]) -> None:
    """Redis ends all its connections again and again, while nothing is held in memory."""
    with environment.redis(_NAME) as redis, environment.service("attack-redis", redis.url, cache_mb=0) as service:
        target = environment.target(service.url)
        with Load(target, rate / 2, environment.plan.broken_s) as load, redis.client() as client:
            for _ in range(_KILLS):
                load.mark("CLIENT KILL")
                client.client_kill_filter(_type="normal", skipme=True)
                load.until(load.now_s + environment.plan.broken_s / _KILLS)
    _tell("connections", load, figures, checks)


ATTACK = Scenario(_NAME, "Attacks by whoever reaches the port", (), _run)
