"""Limits shared by all requests of a run: one cool-down, and a spending cap. Sends nothing."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from msd.teachers.knowledge import TeacherError
from msd.teachers.teacher import Prices, Usage


class BudgetSpent(TeacherError):
    """The next request could cost more than is left of the spending cap."""


class CoolDown:
    """Pause of all requests, which a server asks for. `sleep`, `clock`: in seconds; for tests."""

    def __init__(
        self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sleep, self._clock = sleep, clock
        self._until = -math.inf

    async def wait(self) -> None:
        """Wait until a request may start."""
        while (seconds := self._until - self._clock()) > 0:
            await self.sleep(seconds)

    def begin(self, seconds: float) -> None:
        """Start nothing for that time; a shorter cool-down does not end a longer one."""
        self._until = max(self._until, self._clock() + seconds)


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
    """A cool-down and a budget, with the teacher's prices."""

    def __init__(
        self, cool_down: CoolDown | None = None, budget: Budget | None = None, prices: Prices | None = None
    ) -> None:
        self.cool_down, self.budget, self.prices = cool_down or CoolDown(), budget or Budget(), prices or Prices()

    async def reserve(self, most: Usage) -> None:
        """Wait until a request of at most this usage may start."""
        cost = self.prices.cost(most)
        await self.budget.hold(cost)
        try:
            await self.cool_down.wait()
        except BaseException:
            self.budget.settle(cost, 0.0)
            raise

    def settle(self, most: Usage, taken: Usage) -> None:
        """Replace a reservation by the actual usage; due once for each, whatever the outcome."""
        self.budget.settle(self.prices.cost(most), self.prices.cost(taken))
