"""What workers pass to each other: whole, to exactly one of them, and answered by one alone."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.exchange import Exchange, Outcome, Ticket, hear, tell


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Of two workers."""
    made = Exchange.create(2)
    assert made is not None
    yield made
    made.close()


def ticket(number: int, body: bytes = b"{}", request_id: str = "r", client: int = 0, owner: int = 0) -> Ticket:
    """One of worker 1, in the place of its number."""
    return Ticket(1, number % 256, number, 7, 2.5, 1.5, 1.25, True, False, request_id, body, client, owner)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=100), st.integers(30_000, 2**20).map(lambda size: b"x" * size)),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128),
)
def test_a_ticket_comes_as_it_was_offered(exchange: Exchange, body: bytes, request_id: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        offered = ticket(3, body, request_id, theirs.fileno(), theirs.fileno())
        assert exchange.offer(offered)
        received = exchange.receive()
        assert received is not None
        assert received[:11] == offered[:11]
        assert exchange.is_wanted(received)
        # The descriptors are others, of the same connection.
        os.write(received.client, b"hello")
        assert ours.recv(5) == b"hello"
        received.close()
        assert exchange.receive() is None


@given(
    st.one_of(st.binary(max_size=100), st.integers(30_000, 2**20).map(lambda size: b"y" * size)), st.binary(max_size=99)
)
def test_an_outcome_comes_as_it_was_told(rest: bytes, notes: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        outcome = Outcome(2**40, 200, 1.5, 2_000, notes, rest)
        tell(theirs.fileno(), outcome)
        assert hear(ours) == outcome
        assert hear(ours) is None


def test_each_ticket_goes_to_one_of_many_that_ask(exchange: Exchange) -> None:
    found: list[int] = []

    def ask() -> None:
        while (got := exchange.receive()) is not None:
            found.append(got.number)
            got.close()

    for number in range(200):
        assert exchange.offer(ticket(number, b"x" * 100))
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(200))


def test_where_there_is_no_room_nothing_is_offered(exchange: Exchange) -> None:
    taken = 0
    while exchange.offer(ticket(taken, b"x" * 30_000)):
        taken += 1
        assert taken < 100_000
    one = exchange.receive()
    assert one is not None
    assert one.number == 0
    one.close()
    assert not exchange.is_wanted(ticket(taken))


def test_either_the_owner_or_the_holder_answers(exchange: Exchange) -> None:
    one, other = ticket(1), ticket(2)
    for offered in (one, other):
        assert exchange.offer(offered)
        assert exchange.holder(1, offered.place, offered.number) == 0
        exchange.hold(offered, 99)
        assert exchange.holder(1, offered.place, offered.number) == 99
    # The owner is faster.
    assert exchange.withdraw(1, one.place, one.number)
    assert not exchange.is_wanted(one)
    assert not exchange.may_write(one)
    # The holder is.
    assert exchange.may_write(other)
    assert not exchange.withdraw(1, other.place, other.number)
    assert exchange.holder(1, other.place, other.number) == 99


def test_a_new_worker_wants_nothing_of_its_predecessors_and_counts_on(exchange: Exchange) -> None:
    number = exchange.next_number(1)
    assert exchange.offer(ticket(number))
    exchange.begin(1)
    received = exchange.receive()
    assert received is not None
    assert not exchange.is_wanted(received)
    received.close()
    assert exchange.next_number(1) == number + 1


def test_an_owner_that_is_gone_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(theirs):
        ours.close()
        tell(theirs.fileno(), Outcome(1, 200, 0.0, 1, b"", b"rest"))
