"""Which connections a worker sends away: those that it has too many, and never when others could not take them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.balance import Balance
from service.metrics import Metrics
from service.shared import SharedNumbers


def workers(count: int) -> list[Metrics]:
    """Metrics of workers that are all ready."""
    numbers = SharedNumbers.create(count)
    made = [Metrics(numbers, row) for row in range(1, count + 1)]
    for one in made:
        one.is_ready(True)
    return made


def sent_away(balance: Balance, replies: int = 1_000) -> int:
    """Of so many replies, how many close their connection."""
    return sum(balance.sends_away() for _ in range(replies))


@pytest.mark.parametrize(
    ("own", "other", "surplus"), [(4, 0, 2), (4, 4, 0), (5, 4, 0), (6, 4, 1), (0, 9, 0), (1, 0, 0), (2, 0, 1)]
)
def test_what_is_beyond_the_fair_share_goes(own: int, other: int, surplus: int) -> None:
    first, second = workers(2)
    second.connections.set(other)
    balance = Balance(first)
    balance.weigh(own)

    assert sent_away(balance) == surplus
    assert sent_away(balance) == 0


def test_nothing_goes_where_nobody_else_is_ready() -> None:
    first, second = workers(2)
    balance = Balance(first)
    second.is_ready(False)
    balance.weigh(10)
    assert sent_away(balance) == 0

    first.is_ready(False)
    second.is_ready(True)
    balance.weigh(10)
    assert sent_away(balance) == 0


def test_a_worker_alone_keeps_everything() -> None:
    (only,) = workers(1)
    balance = Balance(only)
    balance.weigh(100)

    assert sent_away(balance) == 0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_it_ends_when_nobody_has_more_than_a_share(start: list[int]) -> None:
    """Each round, every worker weighs, sends its surplus away, and the supervisor gives it to those with fewest."""
    made, counts = workers(len(start)), list(start)
    balances = [Balance(one) for one in made]
    for _ in range(10):
        for one, count in zip(made, counts, strict=True):
            one.connections.set(count)
        for place, balance in enumerate(balances):
            balance.weigh(counts[place])
            gone = sent_away(balance)
            counts[place] -= gone
            for _ in range(gone):
                counts[counts.index(min(counts))] += 1

    assert sum(counts) == sum(start)
    assert max(counts) <= -(-sum(counts) // len(counts))
