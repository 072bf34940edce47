"""Limits shared by all requests of a run: requests and tokens per minute, one cool-down, and a spending cap. Sends
nothing.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from msd.teachers.knowledge import TeacherError
from msd.teachers.teacher import Prices, Usage

_MINUTE = 60.0


class BudgetSpent(TeacherError):
    """The next request could cost more than is left of the spending cap."""


class RateLimit:
    """Limits of requests and tokens per minute. Requests start one after the other, as soon as the limits allow; None:
    no limit.

    Until its reply has the number of tokens, a request counts with the expected number. During a cool-down, which a
    server asks for, nothing starts. `sleep`, `clock`: in seconds; for tests.
    """

    def __init__(
        self,
        requests: float | None = None,
        tokens: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds_a_request = _MINUTE / requests if requests else 0.0
        self._seconds_a_token = _MINUTE / tokens if tokens else 0.0
        self.sleep, self._clock = sleep, clock
        self._next_request = self._next_token = self._rested = -math.inf

    async def turn(self, tokens: int) -> None:
        """Wait until a request that counts with `tokens` may start."""
        while (wait := max(self._next_request, self._next_token, self._rested) - self._clock()) > 0:
            await self.sleep(wait)
        now = self._clock()
        self._next_request = now + self._seconds_a_request
        self._next_token = now + tokens * self._seconds_a_token

    def correct(self, unused: int) -> None:
        """Correct the count after a reply with fewer tokens."""
        self._next_token -= unused * self._seconds_a_token

    def cool_down(self, seconds: float) -> None:
        """Start nothing for that time; a shorter cool-down does not end a longer one."""
        self._rested = max(self._rested, self._clock() + seconds)


class Budget:
    """Spending cap of a run's requests. A request's maximum cost is held until its reply arrives."""

    def __init__(self, cap: float | None = None) -> None:
        self.cap = math.inf if cap is None else cap
        self.spent = 0.0
        self._held: list[float] = []
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def is_set(self) -> bool:
        """Whether there is a cap."""
        return self.cap < math.inf

    def affords(self, cost: float) -> bool:
        """Return whether a request of at most this cost may start, whatever requests in progress will cost."""
        return self.spent + math.fsum(self._held) + cost <= self.cap

    async def hold(self, cost: float) -> None:
        """Reserve `cost`; wait for other replies if that may help. Raises BudgetSpent if it cannot."""
        while not self.affords(cost):
            if not self._held:
                raise BudgetSpent(
                    f"the budget of {self.cap:g} does not allow another request: {self.spent:.4f} is spent, and the "
                    f"next may cost {cost:.4f}"
                )
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]
        self._held.append(cost)

    def settle(self, held: float, spent: float) -> None:
        """Settle a request whose reply has arrived, or never will."""
        self._held.remove(held)
        self.spent += spent
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()


class Allowance:
    """A rate limit and a budget, with the teacher's prices."""

    def __init__(
        self, pace: RateLimit | None = None, budget: Budget | None = None, prices: Prices | None = None
    ) -> None:
        self.pace, self.budget, self.prices = pace or RateLimit(), budget or Budget(), prices or Prices()

    async def reserve(self, expected: Usage, most: Usage) -> None:
        """Wait until a request may start. The rate limit counts its expected usage, the budget its maximum."""
        cost = self.prices.cost(most)
        await self.budget.hold(cost)
        try:
            await self.pace.turn(expected.read + expected.written)
        except BaseException:
            self.budget.settle(cost, 0.0)
            raise

    def settle(self, expected: Usage, most: Usage, taken: Usage) -> None:
        """Replace a reservation by the actual usage; due once for each, whatever the outcome."""
        self.budget.settle(self.prices.cost(most), self.prices.cost(taken))
        self.pace.correct(expected.read + expected.written - taken.read - taken.written)
