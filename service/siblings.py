"""One queue for all workers: a request that comes while its worker is busy is there for any of them, in the order of
arrival. Whoever is free next scores it, and writes the reply to its connection.

Each request is answered once: nobody writes a reply but he who has the ticket, and an owner takes a ticket back first.
Does not know what a request says.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import structlog

from msd.contract.request import RequestError
from service.client import Client, http_reply, write_at_once
from service.errors import ClientGone, ErrorResponse, ServiceError
from service.exchange import PLACES, Exchange, Outcome, Ticket, hear, tell
from service.lineup.lineup import Serving
from service.metrics import Metrics
from service.run_queue import RunQueue
from service.scorer import Terms
from service.scoring import Asked, Scoring

_SWEEP_S = 0.01
# A sibling that has a request has this part of its time for it, and then, to tell of a reply, so long.
_SHARE = 0.7
_GRACE_S = 1.0


class Reply(NamedTuple):
    """A reply that a sibling made: what of it is still to be written, and what log and metrics tell of it."""

    status: int
    ended: float
    candidates: int
    degraded: dict[str, int]
    error: str | None
    stages: tuple[float, ...]
    rest: bytes


@dataclass(slots=True, eq=False)
class _Offered:
    place: int
    number: int
    asked: Asked
    client: Client
    offered_at: float
    workers: list[int]
    future: "asyncio.Future[Reply | None]"
    is_withdrawn: bool = False


class _Withdrawn(ClientGone):
    """The owner has taken its ticket back."""


class Siblings:
    """One worker among those of its service. `ahead`: how many requests it has in hand while a run is under way."""

    def __init__(
        self, exchange: Exchange, metrics: Metrics, serving: Serving, queue: RunQueue, scoring: Scoring, ahead: int
    ) -> None:
        self._exchange = exchange
        self._metrics = metrics
        self._serving = serving
        self._queue = queue
        self._scoring = scoring
        self._most = 1 + ahead
        self._at_work = 0
        self._row = metrics.row
        self._pid = os.getpid()
        self._places = deque(range(PLACES))
        self._offered: dict[int, _Offered] = {}
        self._lost: dict[int, int] = {}
        """Places by number, of tickets that were taken back from a process that may still write into them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_watching = self._is_sweeping = self._is_open = False
        self._log = structlog.get_logger("msd.siblings")

    def open(self) -> None:
        """From now on requests of others are taken; in the worker's loop."""
        self._loop = asyncio.get_running_loop()
        self._exchange.begin(self._row)
        self._inbox, self._address = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inbox.setblocking(False)
        self._address.setblocking(False)
        self._loop.add_reader(self._inbox, self._hear)
        self._queue.on_idle = self._pull
        self._is_open = True
        self._watch()

    async def close(self) -> None:
        """Takes no more, and ends what is in hand."""
        self._is_open = False
        self._unwatch()
        await asyncio.gather(*self._tasks)
        self._loop.remove_reader(self._inbox)
        self._inbox.close()
        self._address.close()

    # A worker's own requests

    @property
    def is_free(self) -> bool:
        """Whether a request that has just come is to be scored here: at once, or because there is nobody else."""
        if self._at_work or self._queue.is_busy or self._has_waiting():
            return not self._has_others()
        return True

    def begin(self) -> None:
        """A request is scored here, until `end`."""
        self._at_work += 1
        self._metrics.at_work.set(self._at_work)

    def end(self) -> None:
        """It was."""
        self._at_work -= 1
        self._metrics.at_work.set(self._at_work)
        if not self._is_watching and self._may_take():
            self._loop.call_soon(self._pull)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is scored here waits for another process meanwhile, so that this worker has its hands free."""
        self.end()
        try:
            yield
        finally:
            self.begin()

    async def offer(self, asked: Asked, client: Client) -> Reply | None:
        """Lets any worker score a request; None when it is to be scored here, as which it then counts already."""
        offered = self._post(asked, client)
        if offered is None:
            self.begin()
            return None
        try:
            reply = await offered.future
        finally:
            self._settle(offered)
        self._metrics.shared["sibling" if reply else "taken_back" if offered.is_withdrawn else "own"].inc()
        return reply

    def _post(self, asked: Asked, client: Client) -> _Offered | None:
        if not self._places:
            return None
        number, place, now = self._exchange.next_number(self._row), self._places.popleft(), time.perf_counter()
        ticket = Ticket(
            row=self._row,
            place=place,
            number=number,
            generation=self._serving.current.generation,
            deadline=asked.terms.deadline,
            offered_at=now,
            began=asked.began,
            is_direct=client.is_plain,
            is_kept=client.is_kept,
            request_id=asked.request_id,
            body=asked.body,
            client=client.descriptor,
            owner=self._address.fileno(),
        )
        if not self._exchange.offer(ticket):
            self._places.append(place)
            return None
        workers, future = self._metrics.processes.alive(), self._loop.create_future()
        offered = _Offered(place, number, asked, client, now, workers, future)
        self._offered[number] = offered
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(_SWEEP_S, self._sweep)
        return offered

    def _settle(self, offered: _Offered) -> None:
        del self._offered[offered.number]
        self._exchange.withdraw(self._row, offered.place, offered.number)
        holder = self._exchange.holder(self._row, offered.place, offered.number)
        if offered.is_withdrawn and holder not in (0, self._pid):
            self._lost[offered.number] = offered.place
        else:
            self._places.append(offered.place)

    def _hear(self) -> None:
        while (outcome := hear(self._inbox)) is not None:
            place = self._lost.pop(outcome.number, None)
            if place is not None:
                self._places.append(place)
            offered = self._offered.get(outcome.number)
            if offered is None or offered.future.done():
                continue
            if outcome.status:
                offered.future.set_result(_reply(outcome))
            else:
                self._score_here(offered)

    def _score_here(self, offered: _Offered) -> None:
        self.begin()
        offered.future.set_result(None)

    def _sweep(self) -> None:
        """Now and then, while there are tickets: sees to those that nobody will answer, or need answer."""
        self._is_sweeping = bool(self._offered)
        if not self._offered:
            return
        self._loop.call_later(_SWEEP_S, self._sweep)
        now, workers = time.perf_counter(), self._metrics.processes.alive()
        for number, place in list(self._lost.items()):
            if self._exchange.holder(self._row, place, number) not in workers:
                self._places.append(self._lost.pop(number))
        for offered in list(self._offered.values()):
            if not offered.future.done():
                self._look_after(offered, now, workers)

    def _look_after(self, offered: _Offered, now: float, workers: list[int]) -> None:
        holder = self._exchange.holder(self._row, offered.place, offered.number)
        deadline, is_dead = offered.asked.terms.deadline, bool(holder) and holder not in workers
        if offered.is_withdrawn:
            # It was being written when it should have been taken back; of what came of it, its holder has not told.
            if is_dead or now > deadline + _GRACE_S:
                offered.client.abort()
                offered.future.set_exception(ClientGone())
            return
        late = offered.offered_at + _SHARE * (deadline - offered.offered_at)
        is_slow = bool(holder) and now > late and self._may_take()
        # One that died before it could say what it had.
        is_lost = not holder and workers != offered.workers
        if is_dead or is_slow or is_lost or now > deadline or offered.asked.terms.is_gone():
            offered.is_withdrawn = True
            if self._exchange.withdraw(self._row, offered.place, offered.number):
                self._score_here(offered)

    def _has_waiting(self) -> bool:
        return any(
            not self._exchange.holder(self._row, one.place, one.number) for one in reversed(self._offered.values())
        )

    def _has_others(self) -> bool:
        metrics = self._metrics
        if not self._is_open or self._serving.current.champion.runner.together is not None:
            return False
        return sum(metrics.families.over_rows(metrics.ready_place)) > 1.0

    # The others'

    def _may_take(self) -> bool:
        if not self._at_work:
            return self._is_open and not self._queue.is_busy
        return self._is_open and self._at_work < self._most and not self._is_anybody_idle()

    def _is_anybody_idle(self) -> bool:
        over_rows, metrics = self._metrics.families.over_rows, self._metrics
        is_ready, at_work = over_rows(metrics.ready_place), over_rows(metrics.at_work.place)
        return any(ready and not work for ready, work in zip(is_ready, at_work, strict=True))

    def _watch(self) -> None:
        if not self._is_watching and self._is_open:
            self._is_watching = True
            self._loop.add_reader(self._exchange.reads, self._on_tickets)

    def _unwatch(self) -> None:
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_reader(self._exchange.reads)

    def _on_tickets(self) -> None:
        if self._may_take():
            self._pull()
        else:
            self._unwatch()

    def _pull(self) -> None:
        """Takes what waits longest, as much as there is room for."""
        while self._may_take():
            ticket = self._exchange.receive()
            if ticket is None:
                self._watch()
                return
            self._take(ticket)

    def _take(self, ticket: Ticket) -> None:
        if not self._exchange.is_wanted(ticket):
            ticket.close()
        elif ticket.row == self._row:
            ticket.close()
            offered = self._offered.get(ticket.number)
            if offered is not None and not offered.future.done():
                self._exchange.hold(ticket, self._pid)
                self._score_here(offered)
        else:
            self._exchange.hold(ticket, self._pid)
            self.begin()
            task = self._loop.create_task(self._serve(ticket))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, ticket: Ticket) -> None:
        """Scores a sibling's request, writes the reply, and tells."""
        outcome = Outcome(ticket.number, 0, 0.0, 0, b"", b"")
        try:
            outcome = await self._answered(ticket)
        except ClientGone:
            pass
        except Exception:
            self._log.exception("internal_error", request_id=ticket.request_id)
        finally:
            self.end()
            tell(ticket.owner, outcome)
            ticket.close()

    async def _answered(self, ticket: Ticket) -> Outcome:
        undone = Outcome(ticket.number, 0, 0.0, 0, b"", b"")
        if self._serving.current.generation != ticket.generation:
            return undone
        waited_s = time.perf_counter() - ticket.offered_at

        def is_gone() -> bool:
            # To count who left, and what is too late, is its owner's part.
            if not self._exchange.is_wanted(ticket):
                raise _Withdrawn
            return False

        terms = Terms(ticket.deadline, is_gone, waited_s, is_taken_on=True, aside=self.aside)
        answer = None
        try:
            answer = await self._scoring.answer(Asked(ticket.request_id, ticket.body, ticket.began, terms))
            status, error, headers, body = 200, None, answer.headers, answer.body
        except (ServiceError, RequestError) as refusal:
            response = ErrorResponse(refusal)
            status, error, headers, body = response.status, response.code, response.headers, response.body
        reply = http_reply(status, [*headers, (b"x-request-id", ticket.request_id.encode())], body, ticket.is_kept)
        ended = time.perf_counter()
        if not self._exchange.may_write(ticket):
            return undone
        rest = write_at_once(ticket.client, reply) if ticket.is_direct else reply
        if answer is not None:
            self._scoring.follow(answer)
        notes = orjson.dumps([error, *((answer.degraded, answer.stages) if answer else ({}, ()))])
        return Outcome(ticket.number, status, ended, answer.candidates if answer else 0, notes, rest)


def _reply(outcome: Outcome) -> Reply:
    error, degraded, stages = orjson.loads(outcome.notes)
    return Reply(outcome.status, outcome.ended, outcome.candidates, degraded, error, tuple(stages), outcome.rest)
