"""Clients that send their requests drop by drop, stop in the middle, or vanish; the others do not notice."""

import socket
import struct
import time
from contextlib import suppress

from loadtest.bench.processes import Running
from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import FIVES, count, percentile_ms
from loadtest.generator import Target
from msd.process import held

_NAME = "clients"
_TIMEOUT_MS = 1_000
_DROP_S = 0.2
_RESET = struct.pack("ii", 1, 0)
_PATIENCE_S = 30.0


def _run(environment: Environment) -> Found:
    plan = environment.plan
    with environment.service(_NAME, head_timeout_ms=_TIMEOUT_MS, body_timeout_ms=_TIMEOUT_MS) as service:
        target = environment.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        before = held(service.pid)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            start = load.mark(f"{plan.slow_clients} slow clients, {plan.slow_clients} that stop, others that vanish")
            slow, stuck = _slow(target, plan.slow_clients), _stuck(target, plan.slow_clients)
            vanished = 0
            while load.now_s < start + plan.broken_s:
                _drop(slow)
                vanished += _vanish(target, plan.slow_clients // 10 + 1)
                time.sleep(_DROP_S)
            end = load.mark("they are gone")
            left = sum(not _is_closed(one) for one in (*slow, *stuck))
        after = _files(service, before.files)
    timeline = load.timeline
    fives = count(timeline.samples, *FIVES)
    return Found(
        {
            "clients_5xx": fives,
            "clients_p99_ms": percentile_ms(timeline.between(start, end), 99),
            "clients_steady_p99_ms": percentile_ms(timeline.between(0.0, start), 99),
            "clients_refused": count(timeline.samples, "busy"),
            "clients_slow": len(slow) + len(stuck),
            "clients_vanished": vanished,
            "clients_left_open": left,
            "clients_files_growth": after - before.files,
        },
        (
            *usual_checks(timeline.samples),
            Check("every slow client is sent away in the end", left == 0),
            Check("none of their connections is left open", after <= before.files),
        ),
        timeline,
    )


def _files(service: Running, expected: int) -> int:
    """How many are open, once no more are than were, or after a while."""
    until = time.monotonic() + _PATIENCE_S
    while (files := held(service.pid).files) > expected and time.monotonic() < until:
        time.sleep(_DROP_S)
    return files


def _connection(target: Target) -> socket.socket:
    return socket.create_connection(target.place, timeout=_PATIENCE_S)


def _slow(target: Target, number: int) -> list[socket.socket]:
    """They have begun a head, of which they send a byte now and then."""
    found = [_connection(target) for _ in range(number)]
    for one in found:
        one.sendall(b"POST /v1/score HTTP/1.1\r\nHost: service\r\nX: ")
    return found


def _stuck(target: Target, number: int) -> list[socket.socket]:
    """They have sent all but the last byte of a request, which never comes."""
    found = [_connection(target) for _ in range(number)]
    for place, one in enumerate(found):
        one.sendall(target.requests[place % len(target.requests)][:-1])
    return found


def _drop(slow: list[socket.socket]) -> None:
    for one in slow:
        with suppress(OSError):
            one.send(b"x")


def _vanish(target: Target, number: int) -> int:
    """Whole requests whose senders are gone, with a reset, before there can be a reply."""
    for place in range(number):
        with _connection(target) as one:
            one.sendall(target.requests[place % len(target.requests)])
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return number


def _is_closed(one: socket.socket) -> bool:
    """Whether the service has ended it, with an answer or without."""
    with one:
        try:
            while one.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


CLIENTS = Scenario(_NAME, "Slow clients, and clients that vanish", (), _run)
